"""A model adapted to a screen of one's own, and whether that helped: on the cells that were held out, beside the same network trained from
scratch for as many steps, the model as it was, and every baseline.

    RUN/scratch/          the training from scratch, a training of its own
    RUN/test/             the `Evaluation` of all of them (`evaluation.held_out`)
    RUN/adaptation.json   `Adaptation`: what the model knew of the data, and the verdict

No torch: pages read it. Written by `evaluation.adapt`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from state_engine.evaluation.judgement import FEWEST
from state_engine.evaluation.report import Evaluation, evaluation_lines, read_evaluation
from state_engine.evaluation.request import FOLDER
from state_engine.plain import agreed, plural, read_json_as
from state_engine.train.adapt import Fit

ADAPTED: Final = "adapted"
SCRATCH: Final = "from scratch"
BEFORE: Final = "not adapted"
SCRATCH_FOLDER: Final = "scratch"
REPORT: Final = "adaptation.json"
FORMAT: Final = 1
METRIC: Final = "expr_mae"
DRAWS: Final = 1000


@dataclass(frozen=True)
class Against:
    """The error (MAE of the mean cell) of the adapted model beside that of something else, on the conditions that both have.

    Args:
        other: name of its row.
        baseline: it is the best of the simple baselines.
        value, theirs: mean errors.
        smaller: by how much the adapted model's error is smaller, mean over conditions, a share of the other one.
        low, high: 95 % interval of that, bootstrap over conditions.
        n: conditions.
    """

    other: str
    baseline: bool
    value: float
    theirs: float
    smaller: float
    low: float
    high: float
    n: int

    @property
    def sentence(self) -> str:
        """With numbers, for people."""
        how = "Closer than" if self.low > 0 else "Further off than" if self.high < 0 else "Cannot be told from"
        # the interval is told in the direction of the mean
        low, high = (self.low, self.high) if self.smaller >= 0 else (-self.high, -self.low)
        size = f"{abs(self.smaller):.1%} {'smaller' if self.smaller >= 0 else 'larger'} (95 % interval {low:.1%} to {high:.1%})"
        n = plural(self.n, "condition")
        return f"{how} {_named(self)}: MAE {self.value:.4f} against {self.theirs:.4f}, {size}, {n}."


@dataclass(frozen=True)
class Adaptation:
    """What came of adapting a model.

    Args:
        format: version of this file's layout.
        tune: what was trained.
        steps: of the adapted model, and of the one from scratch.
        fit: what the model knew of the data.
        against: the adapted model's error beside that of the others.
        helps: yes: closer than each of them; no: further off than one; undecided; too few: conditions.
        verdict: that in words.
    """

    format: int
    tune: str
    steps: int
    fit: Fit
    against: tuple[Against, ...]
    helps: Literal["yes", "no", "undecided", "too few"]
    verdict: str


def compare(evaluation: Evaluation, table: pd.DataFrame) -> tuple[Against, ...]:
    """Return the adapted model's error beside that of each other prediction, and of the best of the baselines.

    Args:
        evaluation: what was compared.
        table: its metrics, a row for each method, seed and condition.
    """
    errors = table[(table["metric"] == METRIC) & (table["perturbation"] != "")]
    values = errors.pivot_table(index=["perturbation", "context"], columns="method", values="value", aggfunc="mean")
    kinds = {m.name: m.kind for m in evaluation.methods if m.name in values}
    whole = [name for name, kind in kinds.items() if kind == "baseline" and values[name].notna().all()]
    best = min(whole, key=lambda name: float(values[name].mean()), default=None)
    others = [name for name, kind in kinds.items() if kind == "prediction" and name != ADAPTED]
    found = []
    for name in [*others, *([best] if best else [])]:
        both = values[[ADAPTED, name]].dropna()
        if len(both):
            found.append(_against(name, name == best, both[ADAPTED].to_numpy(), both[name].to_numpy()))
    return tuple(found)


def _against(name: str, baseline: bool, own: np.ndarray, other: np.ndarray) -> Against:
    """Compare errors of the same conditions, (n,) each."""
    smaller = 1 - own / np.maximum(other, 1e-12)
    draws = smaller[np.random.default_rng(0).integers(0, len(smaller), (DRAWS, len(smaller)))].mean(axis=1)
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    return Against(name, baseline, float(own.mean()), float(other.mean()), float(smaller.mean()), low, high, len(own))


def judge_adaptation(against: Sequence[Against]) -> tuple[Literal["yes", "no", "undecided", "too few"], str]:
    """Return whether adapting helped, and the sentences that say so: it must be closer than each of the others."""
    enough = [a for a in against if a.n >= FEWEST]
    numbers = " ".join(a.sentence for a in against)
    if len(enough) < len(against) or not against:
        n = min((a.n for a in against), default=0)
        conditions = f"{agreed(n, 'is', 'are')} {plural(n, 'condition')}"
        return (
            "too few",
            f"Whether adapting helps cannot be told: there {conditions} to compare, and a verdict needs {FEWEST}. {numbers}",
        )
    closer = [a for a in against if a.high < 0]
    same = [a for a in against if a.low <= 0 <= a.high]
    if closer:
        names = " and ".join(map(_named, closer))
        return "no", f"Adapting does not help here: {names} {agreed(len(closer), 'is', 'are')} closer. {numbers}"
    if same:
        return (
            "undecided",
            f"Adapting is not shown to help here: it cannot be told from {' or '.join(map(_named, same))}. {numbers}",
        )
    return "yes", f"Adapting helps here. {numbers}"


def _named(against: Against) -> str:
    words = {SCRATCH: "a training from scratch", BEFORE: "the model as it was"}
    return f"the best simple baseline ({against.other})" if against.baseline else words.get(against.other, against.other)


def read_adaptation(folder: Path) -> Adaptation | None:
    """Return what came of adapting a model; None where nothing was compared.

    Raises:
        RunError: it is damaged, or of another version.
    """
    return read_json_as(Adaptation, folder / REPORT, "comparison", "Adapt the model again.")


def adaptation_lines(folder: Path) -> list[str]:
    """Return the report of an adapted model for a terminal; nothing where none was made."""
    found, evaluation = read_adaptation(folder), read_evaluation(folder / FOLDER)
    if found is None or evaluation is None:
        return []
    titles = {m.name: m.title for m in evaluation.scored}
    lines = ["", *evaluation_lines(evaluation), "", "Skill (0: the best simple baseline, 1: a replicate of the measurement)"]
    for s in evaluation.skills:
        interval = f"{s.low:.2f} to {s.high:.2f}" if math.isfinite(s.low) else "no interval"
        lines.append(
            f"  {titles.get(s.metric, s.metric):26} {s.method:14} {s.value:6.2f}  ({interval}, n {s.n:,}; 0 is {s.baseline})"
        )
    return [*lines, "", found.verdict]
