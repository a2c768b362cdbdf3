"""One verdict for each prediction, from every metric that can tell on this data set: better, worse, mixed, or cannot be told apart.

A metric that cannot tell a replicate from an average (`metrics.replicate.Discrimination.tells`) decides nothing, and with fewer than
`FEWEST` conditions nothing is decided. Boundary: no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from state_engine.effects.exposure import TrainedOn
from state_engine.errors import listed
from state_engine.metrics.profile import Metric
from state_engine.metrics.replicate import Discrimination, Skill
from state_engine.plain import agreed, part_of, plural

Outcome = Literal["better", "worse", "mixed", "undecided", "too few", "cannot tell", "recall"]
FEWEST: Final = 5


@dataclass(frozen=True)
class SeenCell:
    """The conditions of which the same was in the training.

    Args:
        trained: what that is.
        n: how many conditions; skill is measured on those with enough cells.
        skills: of each prediction by each metric, 0 being the best baseline on these conditions.
    """

    trained: TrainedOn
    n: int
    skills: tuple[Skill, ...] = ()


def telling(found: Sequence[Discrimination]) -> frozenset[str]:
    """Return the metrics that can tell: over all conditions, or in a context that has enough of them."""
    return frozenset(d.metric for d in found if d.tells and (d.context == "" or d.n >= FEWEST))


@dataclass(frozen=True)
class Judgement:
    """The verdict on one prediction.

    Args:
        method: whose.
        outcome: better or worse than the best simple baseline by the metrics that can tell; mixed: both; undecided: neither;
            too few: conditions; cannot tell: no metric can; recall: the model was trained on all conditions.
        text: sentences with all numbers, without the name of the prediction.
        worst: conditions in which it falls furthest behind that baseline, "perturbation in context".
        short: the verdict as one sentence; "" in files of before 30 November 2026.
    """

    method: str
    outcome: Outcome
    text: str
    worst: tuple[str, ...] = ()
    short: str = ""


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
    tells = telling(found)
    if not tells or not own:
        text = (
            "This data set cannot tell a good prediction from an average: by no metric is a replicate of its own cells clearly "
            "better than the mean of the other perturbations or contexts. Its numbers rank nothing."
        )
        return Judgement(method, "cannot tell", text, short="These cells cannot tell a good prediction from an average.")
    sure = [s for s in own if s.metric in tells]
    n = max((s.n for s in sure), default=0)
    if n < FEWEST:
        text = f"Cannot be told from the simple baselines: {_conditions(n)}, and a verdict needs {FEWEST}."
        short = f"Too few conditions for a verdict: {n:,} with enough cells, {FEWEST} are needed."
        return Judgement(method, "too few", text, worst, short)
    better, worse = [s for s in sure if s.better], [s for s in sure if s.worse]
    outcome: Outcome = "mixed" if better and worse else "better" if better else "worse" if worse else "undecided"
    parts = []
    for group, words in ((better, "Better than"), (worse, "Worse than")):
        parts += [f"{words} {_words(part, titles)}." for part in _alike(group)]
    if outcome == "undecided":
        parts += [f"Cannot be told apart from {_words(part, titles)}." for part in _alike(sure)]
    parts.append("Skill: 0 is that baseline, 1 a replicate of the measurement, with 95 % intervals.")
    if worst:
        parts.append(f"It falls furthest behind in {listed(worst, 3)}.")
    return Judgement(method, outcome, " ".join(parts), worst, _short(outcome, better, worse, sure, titles))


def _short(
    outcome: Outcome, better: Sequence[Skill], worse: Sequence[Skill], told: Sequence[Skill], titles: dict[str, str]
) -> str:
    """Return the verdict as one sentence with the metrics that it is by; `told` are the skills by metrics that can tell."""

    def by(part: Sequence[Skill]) -> str:
        return listed([titles.get(s.metric, s.metric) for s in part], 4)

    if outcome == "undecided":
        return f"Cannot be told apart from the best simple baseline by {by(told)}."
    if outcome == "mixed":
        up, down = by(better), by(worse)
        return f"Better than the best simple baseline by {up}, worse by {down}."
    sure = better if outcome == "better" else worse
    names = list(dict.fromkeys(the_baseline(s.baseline) for s in sure))
    which = names[0] if len(names) == 1 else "the best simple baseline"
    return f"{outcome.capitalize()} than {which} by {by(sure)} ({len(sure)} of {plural(len(told), 'metric')} that can tell)."


def _alike(skills: Sequence[Skill]) -> list[list[Skill]]:
    """Return skills in groups with the same baseline and contexts, in their order."""
    groups: dict[tuple[str, tuple[str, ...]], list[Skill]] = {}
    for one in skills:
        groups.setdefault((one.baseline, one.contexts), []).append(one)
    return list(groups.values())


def _words(skills: Sequence[Skill], titles: dict[str, str]) -> str:
    """The baseline, where, and the skill by each metric, of skills that share baseline and contexts."""
    first = skills[0]
    where = f" in {listed(first.contexts, 3)}" if first.contexts else ""
    numbers = ", ".join(f"{titles.get(s.metric, s.metric)} {s.value:.2f} ({s.low:.2f} to {s.high:.2f})" for s in skills)
    return f"{the_baseline(first.baseline)}{where} by {numbers}"


def the_baseline(baseline: str) -> str:
    """Return a baseline as it stands in a sentence."""
    return baseline if baseline == "no change" else f"the {baseline}"


def _conditions(n: int) -> str:
    return f"there {agreed(n, 'is', 'are')} {plural(n, 'condition')} with enough cells"


ABOVE_1: Final = "A skill above 1 is possible: a model can average out noise that a replicate of half the cells has."


def tally(found: Sequence[Discrimination]) -> str:
    """Return in one sentence how many metrics can tell a replicate from an average here; "" when none was tried."""
    tried = {d.metric for d in found}
    return (
        f"{part_of(len(telling(found)), len(tried), 'metric')} can tell a replicate from an average on these cells."
        if tried
        else ""
    )


def ability_words(found: Sequence[Discrimination], metrics: Sequence[Metric]) -> str:
    """Return which metrics can tell a replicate from an average here, and which cannot; "" when none was tried."""
    whole = [d for d in found if d.context == ""]
    if not whole:
        return ""
    titles = {m.name: m.title for m in metrics}
    can, cannot = [], []
    for d in whole:
        title = titles.get(d.metric, d.metric)
        contexts = [c.context for c in found if c.metric == d.metric and c.context and c.tells and c.n >= FEWEST]
        if d.tells:
            can.append(title)
        elif contexts:
            can.append(f"{title} (in {listed(contexts, 3)} only)")
        else:
            cannot.append(f"{title} (BDS {d.bds:.2f}, DRF {d.drf:.2f})")
    if not can:
        return f"By no metric these cells tell a replicate from an average: {listed(cannot, 9)}."
    first = f"These cells tell a replicate from an average by {listed(can, 9)}"
    return f"{first}; not by {listed(cannot, 9)}." if cannot else f"{first}."


def part_words(part: TrainedOn) -> str:
    """Return what of a condition was in the training, in words."""
    if part.pair:
        return "this pair trained"
    context, perturbation = (("not " if not yes else "") + "trained" for yes in (part.context, part.perturbation))
    return f"context {context}, perturbation {perturbation}"
