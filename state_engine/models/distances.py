"""Distances between two sets of cells, with their gradients: energy, Sinkhorn, both together, and the mean squared error.

Sources: the energy distance of Székely and Rizzo; the debiased Sinkhorn divergence of Feydy et al. 2019 (arXiv:1810.08278), solved
as geomloss does.

Notation: b pairs of sets, s and t cells in the two sets, g features.
A set has no order, so the distances have none either (the mean squared error excepted). All distances are
(b, s, g), (b, t, g) -> (b,), and need memory for (b, s, t), never for (b, s, t, g).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from state_engine.errors import ConfigError
from state_engine.models.config import LossName

SetLoss = Callable[[Tensor, Tensor], Tensor]

# Squared distances below this count as this: the root has a gradient everywhere, and the value is the one geomloss gives.
SMALLEST_SQUARE = 1e-8
BLUR = 0.05  # scale, in the units of the features, below which Sinkhorn takes cells for the same
SCALING = 0.5  # ratio of one scale to the next while Sinkhorn goes from the diameter of the data down to the blur
SINKHORN_WEIGHT, ENERGY_WEIGHT = 0.01, 1.0  # of the combined loss, as arc-state's `se`


def build_loss(
    name: LossName,
    *,
    blur: float = BLUR,
    sinkhorn_weight: float = SINKHORN_WEIGHT,
    energy_weight: float = ENERGY_WEIGHT,
    chunks: int = 1,
    shuffle: torch.Generator | None = None,
) -> SetLoss:
    """Return the loss of a name, as training calls it: half precision is made float32 first, and autocast is off inside.

    Args:
        name: energy, sinkhorn, combined or mse.
        blur: of sinkhorn and combined.
        sinkhorn_weight, energy_weight: of combined.
        chunks: take the loss over this many parts of the features and average (`in_chunks`).
        shuffle: draws which features make a part, again in every call; a generator of the CPU. None: neighbours.

    Raises:
        ConfigError: no loss of that name, or fewer than one chunk.
    """
    known: dict[str, SetLoss] = {
        "energy": energy_distance,
        "sinkhorn": lambda x, y: sinkhorn_divergence(x, y, blur),
        "combined": lambda x, y: combined(x, y, blur, sinkhorn_weight, energy_weight),
        "mse": mse,
    }
    if name not in known:
        raise ConfigError(f"There is no loss called '{name}'.", f"Known: {', '.join(known)}.")
    chosen = known[name] if chunks == 1 else in_chunks(known[name], chunks, shuffle)

    def loss(predicted: Tensor, observed: Tensor) -> Tensor:
        with torch.autocast(predicted.device.type, enabled=False):
            return chosen(at_least_single(predicted), at_least_single(observed))

    return loss


def energy_distance(predicted: Tensor, observed: Tensor) -> Tensor:
    """Return the energy distance between sets of cells: E|x - y| - E|x - x'| / 2 - E|y - y'| / 2.

    Half of the usual definition, as geomloss' `SamplesLoss("energy")`; zero when both sets are the same, never negative beyond
    rounding. Needs memory for (b, s, t) distances, not for (b, s, t, g) differences.

    Args:
        predicted: (b, s, g).
        observed: (b, t, g).

    Returns:
        (b,) in the units of the features.
    """
    return _Between.apply(predicted, observed, _energy)


def sinkhorn_divergence(predicted: Tensor, observed: Tensor, blur: float = BLUR) -> Tensor:
    """Return the debiased Sinkhorn divergence with the cost |x - y|^2 / 2, as geomloss' `SamplesLoss("sinkhorn", p=2)`.

    The blur falls from the diameter of all cells given to `blur` by halves, so that a set's value depends a little on the other
    sets of the call, as in geomloss. A call takes about log2(diameter / blur) + 3 rounds of four soft minima over (b, s, t);
    gradients go through the last round only, which is exact where the potentials have converged. Reading the diameter waits for
    the device once a call. In float32 the costs carry an error of 1e-7 of the squared spread of the cells.

    Args:
        predicted: (b, s, g).
        observed: (b, t, g).
        blur: square root of the temperature.

    Returns:
        (b,) in the units of the features, squared.
    """
    # the diagonal of the box around all cells of all sets, read from the device because the number of rounds depends on it
    x, y = predicted.detach(), observed.detach()
    low = torch.minimum(x.amin((0, 1)), y.amin((0, 1)))
    diameter = float((torch.maximum(x.amax((0, 1)), y.amax((0, 1))) - low).norm())
    schedule = temperatures(diameter, blur)
    return _Between.apply(predicted, observed, partial(_sinkhorn, schedule=schedule))


def combined(
    predicted: Tensor,
    observed: Tensor,
    blur: float = BLUR,
    sinkhorn_weight: float = SINKHORN_WEIGHT,
    energy_weight: float = ENERGY_WEIGHT,
) -> Tensor:
    """Return the weighted sum of the Sinkhorn divergence and the energy distance: (b, s, g), (b, t, g) -> (b,)."""
    return sinkhorn_weight * sinkhorn_divergence(predicted, observed, blur) + energy_weight * energy_distance(predicted, observed)


def mse(predicted: Tensor, observed: Tensor) -> Tensor:
    """Return the mean squared error cell by cell: the order of the cells counts. (b, s, g), (b, s, g) -> (b,).

    Raises:
        ConfigError: the sets differ in size.
    """
    if predicted.shape != observed.shape:
        raise ConfigError(
            f"The mean squared error compares cell by cell, but the sets are {tuple(predicted.shape)} and {tuple(observed.shape)}."
        )
    return (predicted - observed).square().mean((1, 2))


def in_chunks(loss: SetLoss, chunks: int, shuffle: torch.Generator | None = None) -> SetLoss:
    """Return a loss that is the mean of `loss` over parts of the features, as equal as they can be cut.

    Args:
        loss: of whole sets.
        chunks: how many parts; never more than there are features.
        shuffle: draws the order of the features, again in every call; None leaves it.

    Raises:
        ConfigError: fewer than one chunk.
    """
    if chunks < 1:
        raise ConfigError(f"{chunks} chunks of features make no loss.", "There must be one or more.")

    def of_chunks(predicted: Tensor, observed: Tensor) -> Tensor:
        if shuffle is not None:
            order = torch.randperm(predicted.shape[-1], generator=shuffle).to(predicted.device)
            predicted, observed = predicted[..., order], observed[..., order]
        pairs = zip(predicted.chunk(chunks, dim=-1), observed.chunk(chunks, dim=-1), strict=True)
        return torch.stack([loss(one, other) for one, other in pairs]).mean(0)

    return of_chunks


def temperatures(diameter: float, blur: float) -> list[float]:
    """Return squared blurs from the diameter of the data down to `blur`, falling by `SCALING`; the first one twice, as in geomloss."""
    if diameter <= 0:
        return [blur**2]
    falling = max(0, math.ceil((math.log(blur) - math.log(diameter)) / math.log(SCALING)))
    return [diameter**2, *((diameter * SCALING**i) ** 2 for i in range(falling)), blur**2]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Something about every pair of cells: across the sets (b, s, t), within the first (b, s, s), within the second (b, t, t)."""

    across: Tensor
    within_x: Tensor
    within_y: Tensor


@dataclass(frozen=True, eq=False)
class _Evaluated:
    """A loss (b,), and the weights of its gradient, see `_Between`; `back` (b, t, s) is `across` as the second set sees it."""

    value: Tensor
    across: Tensor
    within_x: Tensor
    back: Tensor
    within_y: Tensor


class _Saved(Protocol):
    """What autograd keeps between `forward` and `backward`."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Between(torch.autograd.Function):
    """A loss that depends on squared distances only, with its gradient written out: matrix products, and no pass over the features.

    dL/dx_i = sum_j across_ij (x_i - y_j) - sum_j within_ij (x_i - x_j), for the second set alike. What autograd would do passes
    over (b, s, g) a dozen times; on a processor that costs several times the products.
    """

    @staticmethod
    def forward(ctx: _Saved, predicted: Tensor, observed: Tensor, evaluate: Callable[[_Pairs], _Evaluated]) -> Tensor:
        # Distances do not change with the origin; near it, the products below lose the fewest digits.
        origin = observed.mean(dim=1, keepdim=True)
        x, y = predicted - origin, observed - origin
        found = evaluate(_squares(x, y))
        ctx.save_for_backward(x, y, found.across, found.within_x, found.back, found.within_y)
        return found.value

    @staticmethod
    @once_differentiable
    def backward(ctx: _Saved, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, across, within_x, back, within_y = ctx.saved_tensors
        of_x = _pull(x, y, across, within_x, slope) if ctx.needs_input_grad[0] else None
        of_y = _pull(y, x, back, within_y, slope) if ctx.needs_input_grad[1] else None
        return of_x, of_y, None


def _pull(x: Tensor, y: Tensor, across: Tensor, within: Tensor, slope: Tensor) -> Tensor:
    """The gradient for one set: (b, s, g)."""
    # sum_j w_ij (x_i - y_j) = (sum_j w_ij) x_i - (w y)_i: the row sums go on the diagonal, and no difference of cells is formed
    across, within = across * slope[:, None, None], within * slope[:, None, None]
    own = within + torch.diag_embed(across.sum(2) - within.sum(2))
    return torch.baddbmm(torch.bmm(own, x), across, y, alpha=-1)


def _squares(x: Tensor, y: Tensor) -> _Pairs:
    """Squared distances of all pairs; that of a cell to itself is exactly 0."""
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x y: three products in place of (b, s, t, g) differences
    xx, yy = torch.bmm(x, x.transpose(1, 2)), torch.bmm(y, y.transpose(1, 2))
    # copies, since a diagonal is a view of the products, which are overwritten below
    of_x, of_y = xx.diagonal(dim1=1, dim2=2).clone(), yy.diagonal(dim1=1, dim2=2).clone()
    xy = torch.bmm(x, y.transpose(1, 2))
    for products, one, other in ((xy, of_x, of_y), (xx, of_x, of_x), (yy, of_y, of_y)):
        products.mul_(-2).add_(one[:, :, None]).add_(other[:, None, :])
    # rounding leaves a little on the diagonal, which the root would magnify
    for products in (xx, yy):
        products.diagonal(dim1=1, dim2=2).zero_()
    return _Pairs(xy, xx, yy)


def _energy(squares: _Pairs) -> _Evaluated:
    across, of_across = _roots(squares.across)
    within_x, of_x = _roots(squares.within_x)
    within_y, of_y = _roots(squares.within_y)
    value = across.mean((1, 2)) - within_x.mean((1, 2)) / 2 - within_y.mean((1, 2)) / 2
    return _Evaluated(value, of_across, of_x, of_across.transpose(1, 2), of_y)


def _roots(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Distances, and the slope of their mean for each pair, divided by the difference of its cells."""
    distances = squares.clamp_min(SMALLEST_SQUARE).sqrt()
    slopes = torch.where(squares > SMALLEST_SQUARE, distances.reciprocal(), 0.0) / (squares.shape[1] * squares.shape[2])
    return distances, slopes


def _sinkhorn(squares: _Pairs, schedule: list[float]) -> _Evaluated:
    across, within_x, within_y = squares.across / 2, squares.within_x / 2, squares.within_y / 2
    back = across.transpose(1, 2).contiguous()
    f, g = _soft_minimum(schedule[0], across, None), _soft_minimum(schedule[0], back, None)
    own_f, own_g = _soft_minimum(schedule[0], within_x, None), _soft_minimum(schedule[0], within_y, None)
    # both potentials come from those of the round before and are averaged with them, so that neither set goes first
    for temperature in schedule:
        next_f, next_g = _soft_minimum(temperature, across, g), _soft_minimum(temperature, back, f)
        f, g = (f + next_f) / 2, (g + next_g) / 2
        own_f = (own_f + _soft_minimum(temperature, within_x, own_f)) / 2
        own_g = (own_g + _soft_minimum(temperature, within_y, own_g)) / 2
    # the last round is not averaged: its soft minimum is what the plans are the gradient of
    last = schedule[-1]
    (f, of_f), (g, of_g) = _plan(last, across, g), _plan(last, back, f)
    (own_f, of_own_f), (own_g, of_own_g) = _plan(last, within_x, own_f), _plan(last, within_y, own_g)
    return _Evaluated((f - own_f).mean(1) + (g - own_g).mean(1), of_f, of_own_f, of_g, of_own_g)


def _soft_minimum(temperature: float, cost: Tensor, potential: Tensor | None) -> Tensor:
    """Soft minimum of cost - potential over the other set, all of whose cells weigh the same: (b, s, t), (b, t) -> (b, s)."""
    # the difference first: potentials are as large as costs, and only their difference is small enough for float32
    scaled = -cost if potential is None else potential[:, None] - cost
    return -temperature * (scaled.div_(temperature).logsumexp(-1) - math.log(cost.shape[-1]))


def _plan(temperature: float, cost: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """The soft minimum, and the plan that is its gradient for each pair: where each cell goes, over the cells of its set."""
    scaled = (potential[:, None] - cost).div_(temperature)
    return _soft_minimum(temperature, cost, potential), scaled.softmax(-1).div_(cost.shape[1])


def at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
