"""Distances between sets of cells, for training. Source: the energy distance of Székely and Rizzo; bioRxiv 2025.06.26.661135.

Notation: b pairs of sets, s and t cells in the two sets, g features. A set has no order, so these losses have none either.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Squared distances below this count as this: the root has a gradient everywhere, and the value is the one geomloss gives.
SMALLEST_SQUARE = 1e-8


def energy_distance(predicted: Tensor, observed: Tensor) -> Tensor:
    """Energy distance between sets of cells: E|x - y| - E|x - x'| / 2 - E|y - y'| / 2.

    Half of the usual definition, as geomloss' `SamplesLoss("energy")`; zero when both sets are the same, never negative beyond
    rounding. Needs memory for (b, s, t) distances, not for (b, s, t, g) differences.

    Args:
        predicted: (b, s, g).
        observed: (b, t, g).

    Returns:
        (b,) in the units of the features.
    """
    # Distances do not change with the origin; near it, the products below lose the fewest digits.
    origin = observed.detach().mean(dim=1, keepdim=True)
    x, y = predicted - origin, observed - origin
    return _distances(x, y).mean((1, 2)) - _within(x).mean((1, 2)) / 2 - _within(y).mean((1, 2)) / 2


def _within(x: Tensor) -> Tensor:
    """Distances between the cells of one set: (b, s, g) -> (b, s, s)."""
    # A cell's distance to itself is known: computed, its rounding error would be the largest error of all.
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return _distances(x, x).masked_fill(itself, SMALLEST_SQUARE**0.5)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances between the cells of two sets: (b, s, g), (b, t, g) -> (b, s, t)."""
    squares = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2).clamp_min(SMALLEST_SQUARE).sqrt()
