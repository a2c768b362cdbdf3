"""A head: from a cell's vector to what is called of it, by one linear layer or a network with one hidden layer.

Notation: n cells, w features of a vector, c features that the layers read (w, or the components), o outputs (a label each; one for a number).
"""

from __future__ import annotations

import torch
from scipy import linalg
from torch import Tensor, nn

from state_engine.models.head_config import HeadConfig


class Head(nn.Module):
    """The network of a `HeadConfig`: features are projected where that is wanted, standardised by the training cells, then read."""

    centre: Tensor
    spread: Tensor
    projection: Tensor | None

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        read = config.components or config.inputs
        self.register_buffer("centre", torch.zeros(config.inputs))
        self.register_buffer("projection", torch.zeros(config.inputs, read) if config.components else None)
        self.register_buffer("spread", torch.ones(read))
        if config.kind == "linear":
            self.layers = nn.Sequential(nn.Linear(read, config.outputs))
        else:
            self.layers = nn.Sequential(
                nn.Linear(read, config.hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.outputs),
            )

    @torch.no_grad()
    def standardise(self, vectors: Tensor) -> None:
        """Take mean, principal components (where it projects) and standard deviations from the training cells (n, w)."""
        self.centre.copy_(vectors.double().mean(0))
        centred = vectors - self.centre
        if self.projection is not None:
            # exact, so that one file gives one head; of the two square matrices the smaller one is taken apart
            wide = len(centred) < centred.shape[1]
            x = centred.double().cpu().numpy()
            size, n = min(x.shape), self.config.components
            _, found = linalg.eigh(x @ x.T if wide else x.T @ x, subset_by_index=[size - n, size - 1])
            axes = torch.from_numpy(x.T @ found[:, ::-1] if wide else found[:, ::-1].copy()).to(self.projection.device)
            axes = axes / axes.norm(dim=0).clamp_min(1e-12)
            # of the two directions of an axis the one whose largest entry is positive
            signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
            self.projection.copy_(axes * torch.where(signs == 0, torch.ones_like(signs), signs))
            centred = centred @ self.projection
        spread = centred.double().std(0, unbiased=False)
        # what hardly varies is noise of rounding; divided by its spread it would be as loud as the rest
        self.spread.copy_(torch.where(spread > 1e-6 * spread.max().clamp_min(1e-12), spread, torch.ones_like(spread)))

    def features(self, vectors: Tensor) -> Tensor:
        """(n, w) -> (n, c), what the layers read."""
        centred = vectors - self.centre
        return (centred if self.projection is None else centred @ self.projection) / self.spread

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, w) -> (n, o) outputs: logits of labels, or a standardised number."""
        return self.layers(self.features(vectors))
