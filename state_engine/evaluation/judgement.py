"""One verdict for each prediction, from every metric that can tell on this data set: better, worse, mixed, or cannot be told apart.

A metric that cannot tell a replicate from an average (`metrics.replicate.Discrimination.tells`) decides nothing, and with fewer than
`FEWEST` conditions nothing is decided. Boundary: no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from state_engine.errors import listed
from state_engine.metrics.profile import Metric
from state_engine.metrics.replicate import Discrimination, Skill

Outcome = Literal["better", "worse", "mixed", "undecided", "too few", "cannot tell"]
FEWEST: Final = 5


@dataclass(frozen=True)
class Judgement:
    """The verdict on one prediction.

    Args:
        method: whose.
        outcome: better or worse than the best simple baseline by the metrics that can tell; mixed: both; undecided: neither;
            too few: conditions; cannot tell: no metric can.
        text: the sentence, without the name of the prediction.
        worst: conditions in which it falls furthest behind that baseline, "perturbation in context".
    """

    method: str
    outcome: Outcome
    text: str
    worst: tuple[str, ...] = ()


def judgement(
    method: str,
    skills: Sequence[Skill],
    found: Sequence[Discrimination],
    metrics: Sequence[Metric],
    worst: tuple[str, ...] = (),
) -> Judgement:
    """Return the verdict on a prediction.

    Args:
        skills: of all predictions.
        found: how well each metric tells, over all conditions (context "").
        metrics: their titles.
        worst: conditions to name, worst first.
    """
    own = [s for s in skills if s.method == method]
    titles = {m.name: m.title for m in metrics}
    tells = {d.metric for d in found if d.context == "" and d.tells}
    if not tells or not own:
        text = (
            "This data set cannot tell a good prediction from an average: by no metric is a replicate of its own cells clearly "
            "better than the mean of the other perturbations or contexts. Its numbers rank nothing."
        )
        return Judgement(method, "cannot tell", text)
    sure = [s for s in own if s.metric in tells]
    n = max((s.n for s in sure), default=0)
    if n < FEWEST:
        text = f"Cannot be told from the simple baselines: {_conditions(n)}, and a verdict needs {FEWEST}."
        return Judgement(method, "too few", text, worst)
    better, worse = [s for s in sure if s.better], [s for s in sure if s.worse]
    outcome: Outcome = "mixed" if better and worse else "better" if better else "worse" if worse else "undecided"
    parts = []
    for group, words in ((better, "Better than"), (worse, "Worse than")):
        if group:
            parts.append(f"{words} the best simple baseline by {'; '.join(_words(s, titles) for s in group)}.")
    if outcome == "undecided":
        parts.append(f"Cannot be told apart from the best simple baseline: {'; '.join(_words(s, titles) for s in sure)}.")
    if worst:
        parts.append(f"It falls furthest behind in {listed(worst, 3)}.")
    return Judgement(method, outcome, " ".join(parts), worst)


def _words(skill: Skill, titles: dict[str, str]) -> str:
    title = titles.get(skill.metric, skill.metric)
    return f"{title} (skill {skill.value:.2f}, {skill.low:.2f} to {skill.high:.2f}; 0 is the {skill.baseline}, 1 a replicate)"


def _conditions(n: int) -> str:
    return f"there {'is' if n == 1 else 'are'} {n:,} condition{'' if n == 1 else 's'} with enough cells"


def ability_words(found: Sequence[Discrimination], metrics: Sequence[Metric]) -> str:
    """Return, in a sentence, which metrics can tell a replicate from an average here and which cannot; "" when none was tried."""
    whole = [d for d in found if d.context == ""]
    if not whole:
        return ""
    titles = {m.name: m.title for m in metrics}
    can = [titles.get(d.metric, d.metric) for d in whole if d.tells]
    cannot = [f"{titles.get(d.metric, d.metric)} (BDS {d.bds:.2f}, DRF {d.drf:.2f})" for d in whole if not d.tells]
    first = f"By {listed(can, 9)} this data set tells a replicate from an average" if can else "By no metric this data set tells"
    if not can:
        first += " a replicate from an average"
    return f"{first}; by {listed(cannot, 9)} it does not." if cannot else f"{first}."
