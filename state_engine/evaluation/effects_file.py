"""Effects of an evaluation, kept for figures: measured and predicted, every gene of every condition.

`effects.npz` (no pickles), k conditions, g genes: perturbations (k,), contexts (k,), genes (g,), methods (m,) str; "measured" (k, g)
and "method 0" … (k, g) float32, NaN where a method says nothing; predictions are means over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from state_engine.errors import RunError
from state_engine.files import replacing

if TYPE_CHECKING:
    from state_engine.evaluation.scoring import Scored

MOST_BYTES: Final = 512 << 20


@dataclass(frozen=True, eq=False)
class ConditionEffects:
    """One condition: effects (g,) by method, and the measured one, log1p units."""

    genes: tuple[str, ...]
    measured: np.ndarray
    methods: dict[str, np.ndarray]


def keep_effects(path: Path, scored: Scored) -> list[str]:
    """Write the effects; returns remarks. Baselines are left out of very large files."""
    files = scored.files
    named = list(_effects(scored))
    # bytes of one float32 matrix (k, g); below, one for each method and one for the measured effects
    size = 4 * len(files.conditions) * len(files.genes)
    remarks = []
    if size * (len(named) + 1) > MOST_BYTES:
        named = [(m, e) for m, e in named if m in files.predicted]
        remarks.append("Effects of the baselines were not kept for figures: the file would be too large.")
    if size * (len(named) + 1) > MOST_BYTES:
        return ["Effects were not kept for figures: the file would be too large."]
    measured = np.array([scored.real.mean(p, c) - scored.real.mean(files.control, c) for p, c in files.conditions], np.float32)
    labels = {
        "perturbations": np.array([p for p, _ in files.conditions], str),
        "contexts": np.array([c for _, c in files.conditions], str),
        "genes": np.array(files.genes, str),
        "methods": np.array([m for m, _ in named], str),
    }
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, measured=measured, **labels, **{f"method {i}": e for i, (_, e) in enumerate(named)})  # type: ignore[arg-type]
    return remarks


def _effects(scored: Scored) -> Iterator[tuple[str, np.ndarray]]:
    for method in (*scored.files.predicted, *(b.name for b in scored.baselines)):
        rows = [scored.effect(method, p, c) for p, c in scored.files.conditions]
        width = len(scored.files.genes)
        # rows of NaN keep the conditions in one order for every method
        yield method, np.array([np.full(width, np.nan) if r is None else r for r in rows], np.float32)


def read_condition(path: Path, perturbation: str, context: str) -> ConditionEffects | None:
    """The effects of one condition; None when none were kept.

    Raises:
        RunError: the file is damaged, or does not have the condition.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            pairs = list(zip(stored["perturbations"].tolist(), stored["contexts"].tolist(), strict=True))
            place = pairs.index((perturbation, context))
            methods = {name: stored[f"method {i}"][place] for i, name in enumerate(stored["methods"].tolist())}
            return ConditionEffects(tuple(stored["genes"].tolist()), stored["measured"][place], methods)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path.name} cannot be read.", str(error), "Evaluate again.") from error
