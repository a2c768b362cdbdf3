"""What a training step minimises: a distance between predicted and observed sets of cells (`distances`), and the terms added to it.

Source: bioRxiv 2025.06.26.661135. The terms and their usual weights are those of arc-state 0.11.1, found by running it:
distance + 1.0 x decoder + 0.01 x confidence + 0.1 x batch token + l1 x change; the effect term is an addition of this package.

Notation: b pairs of sets, s and t cells in the two sets, g features, n cells of all sets, set after set, d hidden width, k batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.models.distances import SetLoss, at_least_single
from state_engine.models.transition import TransitionModel, TransitionOutput


class MiniBatch(NamedTuple):
    """Cell sets of a training step.

    Args:
        sizes: (b,) cells of each set.
        perturbations: (b,) index of the perturbation of each set.
        basal, observed: (n, g).
        batches: (n,) index of the batch of each observed cell.
        targets: (n, genes) expression of the observed cells for a gene decoder; empty without one.
    """

    sizes: tuple[int, ...]
    perturbations: Tensor
    basal: Tensor
    observed: Tensor
    batches: Tensor
    targets: Tensor

    @property
    def even(self) -> bool:
        """All sets have one size."""
        return len(set(self.sizes)) == 1


@dataclass(frozen=True, eq=False)
class StepLoss:
    """The loss of a step: the weighted sum () that is minimised, and its terms () before weighting, by name."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """What a training step minimises. The trainer calls it, and the parity test compares it with the reference.

    Args:
        distance: between predicted and observed sets, as `build_loss` returns it.
        weights: of the terms added to the distance, by name: effect, change, decoder, confidence, batch_token. A term that is not
            named is not computed.
        confidence_scale: the confidence of a set is trained towards this times its distance.
        detach_decoder: the gradient of the decoder term does not reach the network below the decoder.
    """

    distance: SetLoss
    weights: Mapping[str, float]
    confidence_scale: float = 10.0
    detach_decoder: bool = False

    def __call__(
        self, batch: MiniBatch, output: TransitionOutput, network: TransitionModel, classifier: nn.Module | None = None
    ) -> StepLoss:
        """Return the loss of a step.

        Args:
            batch: the cell sets.
            output: of the network for them; predicted (n, o).
            network: decodes predicted embeddings, for the term `decoder`.
            classifier: (b, d) -> (b, k), reads the batch of a set from its batch token, for the term `batch_token`.
        """
        predicted = at_least_single(output.predicted)
        distances = self.distances(predicted, batch.observed, batch.sizes)
        terms = {"distance": distances.mean()}
        if "effect" in self.weights:
            error = set_means(predicted, batch.sizes) - set_means(batch.observed, batch.sizes)
            terms["effect"] = error.square().mean()
        if "change" in self.weights:
            terms["change"] = (predicted - batch.basal).abs().mean()
        if "decoder" in self.weights:
            decoded = network.decode(predicted.detach() if self.detach_decoder else predicted)
            terms["decoder"] = self.distances(decoded, batch.targets, batch.sizes).mean()
        if "confidence" in self.weights and output.confidence is not None:
            # the distance is a target here, so its gradient stops; that of the confidence reaches backbone and encoders
            goal = self.confidence_scale * distances.detach()
            terms["confidence"] = functional.mse_loss(at_least_single(output.confidence), goal)
        if "batch_token" in self.weights and classifier is not None and output.token is not None:
            # all cells of a set share one batch, so the first cell of each set tells it
            firsts = torch.tensor([0, *accumulate(batch.sizes[:-1])], device=batch.batches.device)
            logits = at_least_single(classifier(output.token))
            terms["batch_token"] = functional.cross_entropy(logits, batch.batches[firsts])
        weights = {"distance": 1.0, **self.weights}
        return StepLoss(torch.stack([weights[name] * value for name, value in terms.items()]).sum(), terms)

    def distances(self, predicted: Tensor, observed: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Return the distance between the predicted and observed cells of each set: (n, o), (n, o) -> (b,)."""
        predicted = at_least_single(predicted)
        if len(set(sizes)) == 1:
            shape = (len(sizes), sizes[0])
            return self.distance(predicted.unflatten(0, shape), observed.unflatten(0, shape))
        pairs = zip(predicted.split(sizes), observed.split(sizes), strict=True)
        # sets of different sizes go one by one: padding would add cells to the distance
        return torch.cat([self.distance(one[None], other[None]) for one, other in pairs])


class BatchClassifier(nn.Module):
    """Read the batch of a set from its batch token; used in training only. (b, d) -> logits (b, k)."""

    def __init__(self, hidden: int, batches: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden, batches)

    def forward(self, token: Tensor) -> Tensor:
        """(b, d) -> (b, k)."""
        return self.out(token)


def set_means(cells: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the mean cell of each set: (n, g) -> (b, g)."""
    return torch.stack([part.mean(0) for part in cells.split(sizes)])
