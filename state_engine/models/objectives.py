"""What training minimises beside the distance between sets: small functions of tensors, weighted and added by the trainer.

Weights are those of arc-state 0.11.1, found by running it: loss + 1.0 x decoder + 0.01 x confidence + 0.1 x batch token + l1 x change.
Notation: b sets, s cells in a set, g features, d hidden width, k batches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.models.losses import SetLoss
from state_engine.models.transition import TransitionModel

CONFIDENCE_SCALE = 10.0
CONFIDENCE_WEIGHT = 0.01
BATCH_TOKEN_WEIGHT = 0.1
DECODER_WEIGHT = 1.0


class BatchClassifier(nn.Module):
    """Reads the batch of a set off its batch token; used in training only. (b, d) -> logits (b, k)."""

    def __init__(self, hidden: int, batches: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden, batches)

    def forward(self, token: Tensor) -> Tensor:
        """(b, d) -> (b, k)."""
        return self.out(token)


def confidence_loss(confidence: Tensor, losses: Tensor, scale: float = CONFIDENCE_SCALE) -> Tensor:
    """Squared error between the confidence of a set and `scale` times its loss.

    The loss is a target here: its gradient does not come through. That of the confidence reaches the backbone and the encoders.

    Args:
        confidence: (b,) as the model gives it.
        losses: (b,) of the same sets.
        scale: of the target.

    Returns:
        (), mean over the sets.
    """
    return functional.mse_loss(confidence.float(), scale * losses.detach().float())


def batch_token_loss(logits: Tensor, batches: Tensor) -> Tensor:
    """Cross entropy of the batch of each set.

    Args:
        logits: (b, k) of a `BatchClassifier`.
        batches: (b,) long, index of the batch that all cells of a set share.

    Returns:
        (), mean over the sets.
    """
    return functional.cross_entropy(logits.float(), batches)


def l1_change(predicted: Tensor, basal: Tensor) -> Tensor:
    """Mean absolute difference between predicted and basal cells: (b, s, g), (b, s, g) -> ()."""
    return (predicted.float() - basal.float()).abs().mean()


def decoder_loss(model: TransitionModel, predicted: Tensor, genes: Tensor, loss: SetLoss, detach: bool = False) -> Tensor:
    """Loss of the expression decoded from predicted embeddings.

    Args:
        model: has a gene decoder.
        predicted: (b, s, o) embeddings.
        genes: (b, t, genes) expression measured in the observed cells, log1p.
        loss: between sets, the one of the network.
        detach: train the decoder alone; else the gradient goes on into the network.

    Returns:
        (b,).
    """
    return loss(model.decode(predicted.detach() if detach else predicted), genes)


def batch_of_sets(batch: Tensor) -> Tensor:
    """Index of the batch of each set from those of its cells: (b, s) -> (b,).

    Raises:
        ValueError: the cells of a set are of several batches.
    """
    first = batch[:, 0]
    if not torch.equal(batch, first[:, None].expand_as(batch)):
        raise ValueError("the cells of a set must share one batch when a batch token is trained")
    return first
