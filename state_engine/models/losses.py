"""Distances between sets of cells, for training. Source: the energy distance of Székely and Rizzo; the debiased Sinkhorn divergence
of Feydy et al. 2019 (arXiv:1810.08278), solved as geomloss does; bioRxiv 2025.06.26.661135.

Notation: b pairs of sets, s and t cells in the two sets, g features. A set has no order, so these losses have none either (the
mean squared error excepted). All are (b, s, g), (b, t, g) -> (b,), and need memory for (b, s, t), never for (b, s, t, g).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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
    """The loss of a name, as training calls it: half precision is made float32 first, and autocast is off inside.

    Args:
        name: energy, sinkhorn, combined or mse.
        blur: of sinkhorn and combined.
        sinkhorn_weight, energy_weight: of combined.
        chunks: take the loss over this many parts of the features and average (`in_chunks`).
        shuffle: draws which features make a part, anew in every call; a generator of the CPU. None: neighbours.

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
            return chosen(_at_least_single(predicted), _at_least_single(observed))

    return loss


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
    x, y = _near_origin(predicted, observed)
    return _distances(x, y).mean((1, 2)) - _within(x).mean((1, 2)) / 2 - _within(y).mean((1, 2)) / 2


def sinkhorn_divergence(predicted: Tensor, observed: Tensor, blur: float = BLUR) -> Tensor:
    """Debiased Sinkhorn divergence with the cost |x - y|^2 / 2, as geomloss' `SamplesLoss("sinkhorn", p=2)`.

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
    x, y = _near_origin(predicted, observed)
    schedule = temperatures(_diameter(predicted.detach(), observed.detach()), blur)
    # each set gets its gradient from its own potential, so the other counts as fixed there
    across = _cost(x, y.detach())
    back = _cost(y, x.detach()) if y.requires_grad else across.detach().transpose(1, 2)
    f, g = _cross_potentials(across, back, schedule)
    own = _own_potential(_cost_within(x), schedule), _own_potential(_cost_within(y), schedule)
    return (f - own[0]).mean(1) + (g - own[1]).mean(1)


def combined(
    predicted: Tensor,
    observed: Tensor,
    blur: float = BLUR,
    sinkhorn_weight: float = SINKHORN_WEIGHT,
    energy_weight: float = ENERGY_WEIGHT,
) -> Tensor:
    """Weighted sum of the Sinkhorn divergence and the energy distance: (b, s, g), (b, t, g) -> (b,)."""
    return sinkhorn_weight * sinkhorn_divergence(predicted, observed, blur) + energy_weight * energy_distance(predicted, observed)


def mse(predicted: Tensor, observed: Tensor) -> Tensor:
    """Mean squared error cell by cell: the order of the cells counts. (b, s, g), (b, s, g) -> (b,).

    Raises:
        ConfigError: the sets differ in size.
    """
    if predicted.shape != observed.shape:
        raise ConfigError(
            f"The mean squared error compares cell by cell, but the sets are {tuple(predicted.shape)} and {tuple(observed.shape)}."
        )
    return (predicted - observed).square().mean((1, 2))


def in_chunks(loss: SetLoss, chunks: int, shuffle: torch.Generator | None = None) -> SetLoss:
    """A loss that is the mean of `loss` over parts of the features, as equal as they can be cut.

    Args:
        loss: of whole sets.
        chunks: how many parts; never more than there are features.
        shuffle: draws the order of the features anew in every call; None leaves it.

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
    """Squared blurs from the diameter of the data down to `blur`, falling by `SCALING`; the first one twice, as in geomloss."""
    if diameter <= 0:
        return [blur**2]
    falling = max(0, math.ceil((math.log(blur) - math.log(diameter)) / math.log(SCALING)))
    return [diameter**2, *((diameter * SCALING**i) ** 2 for i in range(falling)), blur**2]


def _cross_potentials(across: Tensor, back: Tensor, schedule: list[float]) -> tuple[Tensor, Tensor]:
    """Potentials of the plan between two sets: costs (b, s, t) and (b, t, s) -> (b, s), (b, t)."""
    with torch.no_grad():
        there, here = across.detach(), back.detach()
        f = _soft_minimum(schedule[0], there, torch.zeros_like(there[:, 0]))
        g = _soft_minimum(schedule[0], here, torch.zeros_like(here[:, 0]))
        for temperature in schedule:
            next_f, next_g = _soft_minimum(temperature, there, g), _soft_minimum(temperature, here, f)
            f, g = (f + next_f) / 2, (g + next_g) / 2
    return _soft_minimum(schedule[-1], across, g), _soft_minimum(schedule[-1], back, f)


def _own_potential(among: Tensor, schedule: list[float]) -> Tensor:
    """Potential of the plan from a set to itself: costs (b, s, s) -> (b, s)."""
    with torch.no_grad():
        fixed = among.detach()
        f = _soft_minimum(schedule[0], fixed, torch.zeros_like(fixed[:, 0]))
        for temperature in schedule:
            f = (f + _soft_minimum(temperature, fixed, f)) / 2
    return _soft_minimum(schedule[-1], among, f)


def _soft_minimum(temperature: float, cost: Tensor, potential: Tensor) -> Tensor:
    """Soft minimum of cost - potential over the other set, all of whose cells weigh the same: (b, s, t), (b, t) -> (b, s)."""
    # the difference first: potentials are as large as costs, and only their difference is small enough for float32
    scaled = (potential[:, None] - cost) / temperature
    return -temperature * (scaled.logsumexp(-1) - math.log(cost.shape[-1]))


def _diameter(x: Tensor, y: Tensor) -> float:
    """Diagonal of the box around all cells of all sets."""
    low = torch.minimum(x.amin((0, 1)), y.amin((0, 1)))
    return float((torch.maximum(x.amax((0, 1)), y.amax((0, 1))) - low).norm())


def _near_origin(predicted: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    # Distances do not change with the origin; near it, the products below lose the fewest digits.
    origin = observed.detach().mean(dim=1, keepdim=True)
    return predicted - origin, observed - origin


def _at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _within(x: Tensor) -> Tensor:
    """Distances between the cells of one set: (b, s, g) -> (b, s, s)."""
    # A cell's distance to itself is known: computed, its rounding error would be the largest error of all.
    return _distances(x, x).masked_fill(_itself(x), SMALLEST_SQUARE**0.5)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances between the cells of two sets: (b, s, g), (b, t, g) -> (b, s, t)."""
    return _squares(x, y).clamp_min(SMALLEST_SQUARE).sqrt()


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """Half squared distances: (b, s, g), (b, t, g) -> (b, s, t)."""
    return _squares(x, y) / 2


def _cost_within(x: Tensor) -> Tensor:
    """Half squared distances between the cells of one set, the second of each pair counted as fixed: (b, s, g) -> (b, s, s)."""
    return _cost(x, x.detach()).masked_fill(_itself(x), 0.0)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2)


def _itself(x: Tensor) -> Tensor:
    return torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
