"""Mean expression by condition, and the effects between: one accumulator for predictions, trainings and evaluations.

A condition is a perturbation in a context. An effect is the mean of its cells minus the mean of the control cells of the same context.
Cells stream by in blocks; memory is that of one block and of a float64 row for each condition.

The file of a prediction's measured means (`observed_means.npz`, no pickles), k conditions, g genes: perturbations (k,) str, contexts (k,) str,
n_cells (k,) int64, means (k, g) float32 (mean of log1p expression), genes (g,) str, control () str.

Notation: n cells of a data set, b cells of a block, k conditions, g features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from state_engine.data.expression import FeatureSource, iter_features
from state_engine.effects.table import Condition, EffectTable
from state_engine.errors import ConfigError, RunError, listed
from state_engine.files import replacing
from state_engine.plain import first_places
from state_engine.progress import OnProgress, Progress, silent

if TYPE_CHECKING:
    from state_engine.data.dataset import Dataset
    from state_engine.data.splits.apply import Part, Split

FILE_NAME: Final = "observed_means.npz"


@dataclass(frozen=True, eq=False)
class Means:
    """Mean cells of conditions, the control of each context among them.

    Args:
        conditions: (perturbation, context) of each row, k.
        cells: (k,) cells behind each mean.
        values: (k, g) mean expression (log1p), or mean embedding.
        control: label of the control.
        features: names of the g features; empty where they have none.
        errors: (k, g) squared standard errors of the means; None where they were not computed.
    """

    conditions: tuple[Condition, ...]
    cells: np.ndarray
    values: np.ndarray
    control: str
    features: tuple[str, ...] = ()
    errors: np.ndarray | None = None

    @cached_property
    def _rows(self) -> dict[Condition, int]:
        return {condition: row for row, condition in enumerate(self.conditions)}

    def __contains__(self, condition: Condition) -> bool:
        return condition in self._rows

    def mean(self, perturbation: str, context: str) -> np.ndarray:
        """Return the mean cell (g,) of a condition that is here."""
        return np.asarray(self.values[self._rows[perturbation, context]])

    def squared_errors(self, perturbation: str, context: str) -> np.ndarray:
        """Return the squared standard errors (g,) of the mean of a condition that is here; 0 where they were not computed."""
        return np.zeros(self.values.shape[1]) if self.errors is None else self.errors[self._rows[perturbation, context]]

    def n(self, perturbation: str, context: str) -> int:
        """Return how many cells are behind it; 0 when there are none."""
        row = self._rows.get((perturbation, context))
        return 0 if row is None else int(self.cells[row])

    def effects(self, least: int = 1) -> EffectTable:
        """Return the effect of each condition against the control of its context.

        Args:
            least: cells that a condition, and the control of its context, must have.
        """
        enough = [(p, c) for p, c in self.conditions if self.n(p, c) >= least]
        controls = {c: self.mean(p, c) for p, c in enough if p == self.control}
        pairs = [(p, c) for p, c in enough if p != self.control and c in controls]
        # the difference in float64: the effect between two means is far smaller than either
        effects = [self.mean(p, c).astype(np.float64) - controls[c] for p, c in pairs]
        cells = [self.n(p, c) for p, c in pairs]
        errors = None
        if self.errors is not None:
            errors = [self.squared_errors(p, c) + self.squared_errors(self.control, c) for p, c in pairs]
        return EffectTable.of_pairs(pairs, cells, effects, controls, self.features, self.values.shape[1], errors)

    def on(self, features: Sequence[str]) -> Means:
        """Return the means of some features, in their order.

        Raises:
            RunError: some are not here.
        """
        place = first_places(self.features)
        missing = [name for name in features if name not in place]
        if missing:
            why = f"{len(missing):,} of {len(features):,} genes are missing: {listed(missing)}."
            raise RunError("The measured means do not fit the result.", why, "Run the prediction again.")
        columns = [place[name] for name in features]
        return Means(self.conditions, self.cells, self.values[:, columns], self.control, tuple(features))

    def save(self, path: Path) -> None:
        """Write the .npz; it appears only when complete."""
        with replacing(path) as beside, beside.open("wb") as file:
            # labels as fixed-width text, not objects: those would need pickle to be read
            np.savez(
                file,
                perturbations=np.array([p for p, _ in self.conditions], str),
                contexts=np.array([c for _, c in self.conditions], str),
                n_cells=self.cells,
                means=self.values.astype(np.float32),
                genes=np.array(self.features, str),
                control=np.array(self.control),
            )


def load_means(path: Path) -> Means:
    """Return the means of a file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            perturbations, contexts, genes = (tuple(stored[n].tolist()) for n in ("perturbations", "contexts", "genes"))
            pairs = tuple(zip(perturbations, contexts, strict=True))
            return Means(pairs, stored["n_cells"], stored["means"], str(stored["control"]), genes)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path.name} cannot be read.", "It is missing or damaged.", "Run the prediction again.") from error


# ---- taking means ----


@dataclass(eq=False)
class Sums:
    """Sums of cells by condition, float64, and how many cells they are of; sums of squares too where standard errors are wanted."""

    width: int
    totals: dict[Condition, np.ndarray] = field(default_factory=dict)
    cells: dict[Condition, int] = field(default_factory=dict)
    squares: dict[Condition, np.ndarray] | None = None

    def add(self, conditions: Sequence[Condition], codes: np.ndarray, values: np.ndarray) -> None:
        """Add a block of cells.

        Args:
            conditions: that the codes count.
            codes: (b,) which of them each cell is of; -1 for a cell that does not count.
            values: (b, g).
        """
        # cells of a condition side by side, in the order of the file
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        for code, rows in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            if code >= 0:
                condition = conditions[code]
                self.totals[condition] = self.totals.get(condition, 0) + values[rows].sum(axis=0, dtype=np.float64)
                if self.squares is not None:
                    squares = np.square(values[rows], dtype=np.float64).sum(axis=0)
                    self.squares[condition] = self.squares.get(condition, 0) + squares
                self.cells[condition] = self.cells.get(condition, 0) + len(rows)

    def means(self, conditions: Iterable[Condition], control: str, features: tuple[str, ...] = ()) -> Means:
        """Return the means of those conditions that have cells, in their order."""
        there = tuple(condition for condition in conditions if condition in self.cells)
        values = np.empty((len(there), self.width))
        for row, condition in enumerate(there):
            values[row] = self.totals[condition] / self.cells[condition]
        cells = np.array([self.cells[c] for c in there], dtype=np.int64)
        return Means(there, cells, values, control, features, self._errors(there, values, cells))

    def _errors(self, there: Sequence[Condition], means: np.ndarray, cells: np.ndarray) -> np.ndarray | None:
        """Squared standard errors of the means (k, g), None without sums of squares."""
        if self.squares is None:
            return None
        squares = np.array([self.squares[c] for c in there]).reshape(means.shape) / cells[:, None]
        # rounding may leave a variance just below 0; one cell has none, and stands for itself
        return np.asarray(np.maximum(squares - means**2, 0) / np.maximum(cells - 1, 1)[:, None])


def mean_of(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (g,) float64 of cells that stream by in blocks (b, g), and its squared standard errors (g,)."""
    one, sums = ("", ""), Sums(0, squares={})
    for values in blocks:
        sums.width = values.shape[1]
        sums.add((one,), np.zeros(len(values), dtype=np.int64), values)
    means = sums.means((one,), "")
    return means.mean(*one), means.squared_errors(*one)


def condition_codes(dataset: Dataset, control: str | None = None) -> tuple[tuple[Condition, ...], np.ndarray]:
    """Return the conditions of a data set, by context and name, and which of them each cell is of, (n,); -1 where a label is missing.

    Args:
        dataset: the data set.
        control: another name for its control cells.
    """
    names_p, p = dataset.coded(dataset.labels.perturbation_key)
    names_c, c = dataset.coded(dataset.labels.context_key)
    if control is not None:
        names_p = [control if name == dataset.labels.control else name for name in names_p]
    # a pair of labels as one number, so that one pass finds those that occur; a missing label is the empty name
    present, codes = np.unique(p * len(names_c) + c, return_inverse=True)
    pairs = [(names_p[i // len(names_c)], names_c[i % len(names_c)]) for i in present.tolist()]
    conditions = sorted({pair for pair in pairs if all(pair)}, key=lambda pair: (pair[1], pair[0]))
    place = {pair: i for i, pair in enumerate(conditions)}
    return tuple(conditions), np.array([place.get(pair, -1) for pair in pairs], dtype=np.int64)[codes]


def means_by_condition(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    codes: np.ndarray,
    conditions: tuple[Condition, ...],
    control: str,
    features: tuple[str, ...],
) -> Means:
    """Return the means of conditions, in one pass over blocks of cells; those without cells are left out.

    Args:
        blocks: (rows (b,), values (b, g)) pairs, each row at most once.
        codes: (n,) which condition each cell of the data set is of, -1 for none.
        conditions: that the codes count.
        control: label of the control.
        features: names of the g columns.
    """
    sums = Sums(len(features))
    for rows, values in blocks:
        sums.add(conditions, codes[rows], values)
    return sums.means(conditions, control, features)


# ---- of a training ----


def effect_table(
    split: Split,
    source: FeatureSource | Sequence[FeatureSource],
    features: tuple[str, ...] = (),
    on_progress: OnProgress = silent,
) -> EffectTable:
    """Return the mean effects of the training cells: what the baselines know, and no more. One pass over them.

    Only cells of the part "train" enter, controls too: of a context held out whole nothing is in the table, of a context held out in part the
    perturbations that stayed. Effects are taken within a data set, then averaged over data sets by cells, so that differences between
    laboratories do not count as effects.

    Args:
        split: which cells are trained on.
        source: how features are read; one for all files, or one for each of `split.sources` (genes lie elsewhere in each).
        features: their names, saved with the table.
        on_progress: called for each block.

    Returns:
        A row for each perturbation and context that has perturbed cells and controls among the training cells, by name.

    Raises:
        ConfigError: another number of feature sources than of files.
    """
    effects: dict[Condition, list[tuple[np.ndarray, int]]] = {}
    errors: dict[Condition, list[tuple[np.ndarray, int]]] = {}
    controls: dict[str, list[tuple[np.ndarray, int]]] = {}
    of_controls: dict[str, list[tuple[np.ndarray, int]]] = {}
    found = part_means(split, source, "train", on_progress, errors=True)
    for means in found:
        for label, context in means.conditions:
            mean, n = means.mean(label, context), means.n(label, context)
            if label == split.control:
                controls.setdefault(context, []).append((mean, n))
                of_controls.setdefault(context, []).append((means.squared_errors(label, context), n))
            elif (split.control, context) in means:
                effects.setdefault((label, context), []).append((mean - means.mean(split.control, context), n))
                noise = means.squared_errors(label, context) + means.squared_errors(split.control, context)
                errors.setdefault((label, context), []).append((noise, n))
    pairs = sorted(effects)
    cells = [sum(n for _, n in effects[pair]) for pair in pairs]
    of_contexts = {context: _weighted(controls[context]) for context in sorted(controls)}
    width = found[0].values.shape[1]
    effect = [_weighted(effects[pair]) for pair in pairs]
    noise = [_weighted_errors(errors[pair]) for pair in pairs]
    control_noise = {context: _weighted_errors(parts) for context, parts in of_controls.items()}
    return EffectTable.of_pairs(pairs, cells, effect, of_contexts, features, width, noise, control_noise)


def part_means(
    split: Split,
    source: FeatureSource | Sequence[FeatureSource],
    part: Part,
    on_progress: OnProgress = silent,
    errors: bool = False,
) -> tuple[Means, ...]:
    """Return the means of the cells of a part for each data set of a split; its files count together.

    Args:
        split: which cells are of the part.
        source: how features are read; one for all files, or one for each.
        part: which part.
        on_progress: called for each block.
        errors: also compute standard errors.

    Raises:
        ConfigError: another number of feature sources than of files.
    """
    each = [source] * len(split.sources) if isinstance(source, FeatureSource) else list(source)
    if len(each) != len(split.sources):
        raise ConfigError(f"There are {len(each)} feature sources for {len(split.sources)} files.", "Each file needs one.")
    total, done = sum(len(s.rows(part)) for s in split.sources), 0
    found: dict[str, Sums] = {}
    for at, features in zip(split.sources, each, strict=True):
        width = len(features.columns) if features.columns else at.dataset.representation(features.representation).width
        sums = found.setdefault(at.name, Sums(width, squares={} if errors else None))
        conditions, codes = condition_codes(at.dataset)
        for rows, values in iter_features(at.dataset, features, at.rows(part)):
            sums.add(conditions, codes[rows], values)
            done += len(rows)
            on_progress(Progress("Averaging measured cells", done, total))
    return tuple(sums.means(sums.cells, split.control) for sums in found.values())


def _weighted(parts: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return the mean of vectors (g,), weighted by cells."""
    return np.average([values for values, _ in parts], axis=0, weights=[n for _, n in parts])


def _weighted_errors(parts: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return the squared standard errors (g,) of a mean that is weighted by cells."""
    weights = np.array([n for _, n in parts], dtype=np.float64)
    return np.asarray(np.square(weights / weights.sum()) @ np.array([values for values, _ in parts]))
