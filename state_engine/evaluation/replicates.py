"""Can this data set tell a good prediction from an average? Measured cells by halves: the truth, and a replicate of it.

The cells of each measured condition are split at random: one half is the truth, the other a replicate. A metric by which the replicate is
no better than the mean of the other perturbations says nothing about predictions on this data set. Skill places a prediction between
the best simple baseline (0) and the replicate (1), all held against the first half.

Boundary: numpy; the formulas are those of `metrics.replicate`, `metrics.own` and `metrics.weighted`.

Notation: n cells, g genes, k conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from state_engine.effects.exposure import TrainedOn
from state_engine.effects.means import Means
from state_engine.evaluation.compared import ComparedFiles, Condition
from state_engine.evaluation.judgement import FEWEST, SeenCell
from state_engine.metrics.moments import Moments, welch
from state_engine.metrics.own import Pair, Reference, own_value
from state_engine.metrics.profile import Metric, Profile
from state_engine.metrics.replicate import Discrimination, Skill, discrimination, interpolated_duplicate, skill
from state_engine.metrics.weighted import effect_weights

LEAST_CELLS: Final = 30  # of a condition, so that its halves have fifteen; as scPertEval
SEED: Final = 42  # of the halves; as scPertEval, so that its numbers can be compared
MOST_CONDITIONS: Final = 300  # that are halved: four rows of float64 for each


@dataclass(eq=False)
class Halves:
    """Sums of measured cells, taken while their blocks stream by: two halves of each scored condition, all perturbed cells of each context.

    Args:
        files: what is compared.
        seed: of the halves.
    """

    files: ComparedFiles
    seed: int = SEED
    sums: dict[tuple[Condition, int], Moments] = field(default_factory=dict)
    perturbed: dict[str, Moments] = field(default_factory=dict)
    control: dict[str, Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        side, files = self.files.real, self.files
        self._half = np.full(side.dataset.n_cells, -1, dtype=np.int64)
        self._context = np.full(side.dataset.n_cells, -1, dtype=np.int64)
        self._is_control = np.zeros(side.dataset.n_cells, dtype=bool)
        chosen = set(files.conditions)
        if len(files.conditions) > MOST_CONDITIONS:
            drawn = np.random.default_rng(self.seed).choice(len(files.conditions), MOST_CONDITIONS, replace=False)
            chosen = {files.conditions[i] for i in drawn}
        self._pairs: list[Condition] = []
        self.enough: dict[str, tuple[str, ...]] = {}
        for number, context in enumerate(files.contexts):
            # a fresh generator for each context, perturbations in the order of their names, so that contexts do not depend on each other
            rng = np.random.default_rng(self.seed)
            kept = []
            for p in sorted(set(side.dataset.perturbations) | {files.control}):
                rows = side.rows(p, context)
                self._context[rows] = number
                if p == files.control:
                    self._is_control[rows] = True
                elif len(rows) >= LEAST_CELLS:
                    kept.append(p)
                    mixed = rng.permutation(rows)
                    if (p, context) in chosen:
                        at = 2 * len(self._pairs)
                        self._half[mixed[: len(rows) // 2]], self._half[mixed[len(rows) // 2 :]] = at, at + 1
                        self._pairs.append((p, context))
            self.enough[context] = tuple(kept)

    def watch(self, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the blocks (rows (b,), values (b, g)) as they come, and add them up."""
        for rows, values in blocks:
            contexts = self._context[rows]
            for number in np.unique(contexts[contexts >= 0]):
                context = self.files.contexts[number]
                for sums, is_control in ((self.control, True), (self.perturbed, False)):
                    here = (contexts == number) & (self._is_control[rows] == is_control)
                    if here.any():
                        sums[context] = _added(sums.get(context), values[here])
            halves = self._half[rows]
            for code in np.unique(halves[halves >= 0]):
                key = (self._pairs[code // 2], int(code % 2))
                self.sums[key] = _added(self.sums.get(key), values[halves == code])
            yield rows, values

    def half(self, condition: Condition, number: int) -> Moments | None:
        """Return the sums of a half (0: truth, 1: replicate); None for a condition with too few cells."""
        return self.sums.get((condition, number))

    def rows(self, condition: Condition, number: int) -> np.ndarray:
        """Return the cells (rows) of a half of a halved condition."""
        return np.flatnonzero(self._half == 2 * self._pairs.index(condition) + number)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The halved conditions."""
        return tuple(pair for pair in self._pairs if (pair, 1) in self.sums)


def _added(sums: Moments | None, values: np.ndarray) -> Moments:
    new = Moments.of(values)
    return new if sums is None else sums + new


@dataclass(frozen=True, eq=False)
class Replicates:
    """The measured conditions with truth, replicate and what they are held against.

    Args:
        halves: sums of cells.
        real: mean measured cells.
        elsewhere: condition -> (g,) mean effect of the perturbation in other contexts, where there is one.
    """

    halves: Halves
    real: Means
    elsewhere: Mapping[Condition, np.ndarray]
    _sums: dict[str, tuple[np.ndarray, frozenset[str]]] = field(default_factory=dict, repr=False)

    def average(self, condition: Condition) -> np.ndarray | None:
        """Return Systema's reference (g,): the mean of the other perturbations of the context, each counting once.

        With fewer than two others it is the control moved as the perturbation moves the other contexts; None without either.
        """
        p, context = condition
        total, names = self._of_context(context)
        others = len(names) - (p in names)
        if others < 2 and condition in self.elsewhere:
            return np.asarray(self.real.mean(self.halves.files.control, context) + self.elsewhere[condition])
        if not others:
            return None
        # one subtraction in place of a sum without the condition: this is asked for each condition of the context
        return np.asarray((total - self.real.mean(p, context) if p in names else total) / others)

    def _of_context(self, context: str) -> tuple[np.ndarray, frozenset[str]]:
        """Return the sum (g,) of the mean cells of a context's perturbations that have enough cells, and their names; computed once."""
        if context not in self._sums:
            names = [q for q in self.halves.enough.get(context, ()) if (q, context) in self.real]
            means = (self.real.mean(q, context) for q in names)
            self._sums[context] = sum(means, np.zeros(len(self.halves.files.genes))), frozenset(names)
        return self._sums[context]

    def _rest(self, condition: Condition) -> Moments:
        """Sums of all other perturbed cells of the context; of its control cells where there are none."""
        _, context = condition
        own = self.halves.half(condition, 0), self.halves.half(condition, 1)
        rest = self.halves.perturbed[context]
        for half in own:
            rest = rest - half if half is not None else rest
        return rest if rest.n >= LEAST_CELLS else self.halves.control[context]

    def reference(self, condition: Condition, number: int | None = None) -> Reference | None:
        """Return what a condition is held against; weights by all of its cells, or by one half."""
        average = self.average(condition)
        halves = self.halves.half(condition, 0), self.halves.half(condition, 1)
        if average is None or halves[0] is None or halves[1] is None:
            return None
        own = halves[0] + halves[1]
        if number is not None:
            own = halves[0] if number == 0 else halves[1]
        return Reference(average, effect_weights(welch(own, self._rest(condition))[0]))

    def pair(self, condition: Condition, mean: np.ndarray, effect: np.ndarray, reference: Reference) -> Pair:
        """Return a predicted mean cell (g,) and its effect (g,) beside the first half."""
        truth = self.halves.sums[condition, 0].mean
        return Pair(mean, truth, effect, truth - self.real.mean(self.halves.files.control, condition[1]), reference)

    def duplicate(self, condition: Condition, reference: Reference) -> np.ndarray:
        """Return the interpolated duplicate (g,): the second half where genes respond, the average elsewhere."""
        return interpolated_duplicate(self.halves.sums[condition, 1], self._rest(condition), reference.average)

    def noise_floor(self, condition: Condition) -> float | None:
        """Return the MAE that a perfect prediction would have, since the measured mean is of finitely many cells.

        The mean absolute deviation of a normal variable is sqrt(2 / pi) of its standard error. None for a condition that was not halved.
        """
        halves = self.halves.half(condition, 0), self.halves.half(condition, 1)
        if halves[0] is None or halves[1] is None:
            return None
        whole = halves[0] + halves[1]
        return float(np.sqrt(2 / np.pi) * np.sqrt(whole.variance / whole.n).mean())


def judged(profile: Profile) -> tuple[Metric, ...]:
    """Return the metrics by which skill is measured: those of mean cells that have a best value."""
    return tuple(metric for metric in profile.metrics if metric.perfect is not None)


Predicted = Mapping[str, Mapping[Condition, tuple[np.ndarray, np.ndarray]]]
"""method -> condition -> mean cell (g,) and effect (g,)."""


@dataclass(frozen=True)
class Judged:
    """What `judge` finds: how well each metric tells here, the skill of each prediction, and the same by what was in the training."""

    discriminations: tuple[Discrimination, ...]
    skills: tuple[Skill, ...]
    seen: tuple[SeenCell, ...] = ()


class _Bench:
    """The conditions that can be judged, with what each metric needs of them."""

    def __init__(self, replicates: Replicates) -> None:
        control = replicates.halves.files.control
        self.replicates = replicates
        self.references: dict[Condition, Reference] = {}
        for condition in replicates.halves.conditions:
            reference = replicates.reference(condition, 0)
            if reference is not None:
                self.references[condition] = reference
        self.controls = {c: replicates.real.mean(control, c[1]) for c in self.references}
        self.duplicates = {c: replicates.duplicate(c, r) for c, r in self.references.items()}

    def score(self, metric: Metric, condition: Condition, mean: np.ndarray, effect: np.ndarray | None = None) -> float:
        """Return a metric of a mean cell (g,) against the first half; its effect is taken from the measured control when not given."""
        moved = mean - self.controls[condition] if effect is None else effect
        return own_value(metric.name, self.replicates.pair(condition, mean, moved, self.references[condition]))

    def positive(self, metric: Metric) -> np.ndarray:
        """Return what the replicate scores, (k,)."""
        return np.array([self.score(metric, c, self.duplicates[c]) for c in self.references])

    def negative(self, metric: Metric) -> np.ndarray:
        """Return what the average scores, (k,); where a metric is relative to the average, what the control scores."""
        against = metric.name == "pearson_mean"
        means = [self.controls[c] if against else r.average for c, r in self.references.items()]
        return np.array([self.score(metric, c, mean) for c, mean in zip(self.references, means, strict=True)])

    def of_method(self, metric: Metric, said: Mapping[Condition, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return what a method scores, (k,); NaN where it says nothing. An effect without correlation is worth 0."""
        values = np.array([self.score(metric, c, *said[c]) if c in said else np.nan for c in self.references])
        there = np.array([c in said for c in self.references])
        values[there] = np.nan_to_num(values[there])
        return values


def groups_of(contexts: np.ndarray) -> dict[str, np.ndarray]:
    """Return which conditions (k,) a metric is tried on: all (""), and those of each context (k,) where there are several."""
    groups = {"": np.ones(len(contexts), dtype=bool)}
    if len(set(contexts)) > 1:
        groups |= {name: contexts == name for name in dict.fromkeys(contexts.tolist())}
    return groups


def tried_by(
    metric: Metric, positive: np.ndarray, negative: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, Discrimination]:
    """Return how well a metric tells positives (k,) from negatives (k,) in each group that has both."""
    best = 0.0 if metric.perfect is None else metric.perfect
    found = {
        name: discrimination(metric.name, name, positive[here], negative[here], best, metric.more_is_better)
        for name, here in groups.items()
    }
    return {name: one for name, one in found.items() if one is not None}


def judge(
    profile: Profile,
    replicates: Replicates,
    predictions: Predicted,
    baselines: Predicted,
    seed: int = 0,
    left_out: frozenset[Condition] = frozenset(),
    trained: Mapping[Condition, TrainedOn] | None = None,
) -> Judged:
    """Return how well each metric can tell on this data set, for all conditions and for each context, and the skill of each prediction,
    of all conditions and by what was in the training.

    Args:
        profile: whose metrics.
        replicates: measured cells by halves.
        predictions, baselines: what each method says; a baseline that does not say something about every condition is not the best one.
        seed: of the intervals.
        left_out: conditions that say nothing about predictions, as the model was trained on them; the metrics are judged on all.
        trained: what of each condition the model was trained on, where that is known.
    """
    bench = _Bench(replicates)
    trained = trained or {}
    parts = {one: frozenset(c for c, of in trained.items() if of == one) for one in sorted(set(trained.values()), reverse=True)}
    if not bench.references:
        return Judged((), (), tuple(SeenCell(one, len(conditions)) for one, conditions in parts.items()))
    contexts = np.array([c for _, c in bench.references])
    groups = groups_of(contexts)
    everything = groups[""]
    found: list[Discrimination] = []
    skills: list[Skill] = []
    of_parts: dict[TrainedOn, list[Skill]] = {one: [] for one in parts}
    for metric in judged(profile):
        positive, negative = bench.positive(metric), bench.negative(metric)
        tried = tried_by(metric, positive, negative, groups)
        found += tried.values()
        sides = [{m: bench.of_method(metric, said) for m, said in side.items()} for side in (predictions, baselines)]
        scores = _Scores(metric, positive, *sides)
        telling = _telling(tried, groups)
        where = telling & np.array([c not in left_out for c in bench.references])
        used = () if where.all() or left_out else tuple(dict.fromkeys(contexts[where].tolist()))
        skills += [replace(one, contexts=used) for one in scores.skills(where, everything, seed)]
        for part, conditions in parts.items():
            here = telling & np.array([c in conditions for c in bench.references])
            of_parts[part] += scores.skills(here, here, seed)
    cells = tuple(SeenCell(one, len(conditions), tuple(of_parts[one])) for one, conditions in parts.items())
    return Judged(tuple(found), tuple(skills), cells)


@dataclass(frozen=True, eq=False)
class _Scores:
    """What replicate (k,), predictions and baselines (k,) score by a metric; NaN where a method says nothing."""

    metric: Metric
    replicate: np.ndarray
    predictions: dict[str, np.ndarray]
    baselines: dict[str, np.ndarray]

    def skills(self, where: np.ndarray, complete_on: np.ndarray, seed: int) -> list[Skill]:
        """Return the skill of each prediction on some conditions (k,), above the best baseline that says something about all of others (k,)."""
        complete = {name: values[where] for name, values in self.baselines.items() if np.isfinite(values[complete_on]).all()}
        if not where.any() or not complete:
            return []
        # the baseline that is best in the mean scores 0: a prediction has to beat what one would have chosen afterwards
        best = (max if self.metric.more_is_better else min)(complete, key=lambda name: float(complete[name].mean()))
        found = (
            skill((method, self.metric.name, best), values[where], complete[best], self.replicate[where], seed)
            for method, values in self.predictions.items()
        )
        return [one for one in found if one is not None]


def _telling(tried: Mapping[str, Discrimination], groups: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which conditions (k,) skill is measured on: those of the contexts where the metric can tell, all where no context decides.

    A context with fewer than `FEWEST` conditions does not decide by itself.
    """
    large = {context: d for context, d in tried.items() if context and d.n >= FEWEST}
    telling = [groups[context] for context, d in large.items() if d.tells]
    whole = tried.get("")
    if not telling or (whole is not None and whole.tells):
        return groups[""]
    return np.asarray(np.any(telling, axis=0))
