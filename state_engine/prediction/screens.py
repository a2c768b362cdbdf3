"""The transfer of measured effects: what screens that measured a perturbation say of it, for a model that does not know it. No network.

An effect of a screen is the mean cell of a perturbation minus the mean control cell of the same context of the same screen. Over the contexts
of all screens it is averaged, each counting by how alike its control cells are to those of the predicted context, and shrunk by its
standard errors (`effects.transfer`). Only genes that a screen and the prediction share are moved; all others stay as they are.

Notation: g genes of the prediction, m contexts of screens that measured a perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import iter_features
from state_engine.effects.means import Sums, condition_codes
from state_engine.effects.table import Condition, EffectTable
from state_engine.effects.transfer import Likeness, shrink
from state_engine.errors import GeneError, UnknownLabelError, listed
from state_engine.prediction.outputs import log1p_of
from state_engine.prediction.request import MeasuredScreen
from state_engine.progress import OnProgress, Progress, silent


@dataclass(frozen=True, eq=False)
class Screen:
    """The effects of one screen.

    Args:
        screen: which one.
        table: its effects on the genes of the prediction; 0 where it lacks the gene.
        has: (g,) genes that it measured.
        names: context of the table -> its name in the file.
    """

    screen: MeasuredScreen
    table: EffectTable
    has: np.ndarray
    names: Mapping[str, str]

    def measured(self, perturbation: str, context: str) -> bool:
        """Return whether cells of the very condition are among those whose effect counts; of the prediction's own data set they never are."""
        return any(self.names[k] == context and k != context for k in self.table.contexts_of(perturbation))


@dataclass(frozen=True, eq=False)
class Transfer:
    """Effects of labels that a model does not know.

    Args:
        labels: that it does not know.
        effects: condition -> (g,) float32; conditions that no screen measured are left out.
        behind: label -> contexts of screens that measured it.
        same: conditions whose own context, by its name, is among these: agreement with their measured cells is no test.
        screens: titles.
        genes, of: genes that at least one screen shares, of g.
        sharpness: how much likeness counts, h of `effects.transfer`.
    """

    labels: tuple[str, ...]
    effects: dict[Condition, np.ndarray]
    behind: dict[str, int]
    same: tuple[Condition, ...]
    screens: tuple[str, ...]
    genes: int
    of: int
    sharpness: float

    @property
    def lacking(self) -> tuple[str, ...]:
        """Labels that no screen measured: they have no change."""
        return tuple(label for label in self.labels if label not in self.behind)

    def facts(self) -> dict[str, object]:
        """Return JSON values for the manifest."""
        return {
            "screens": list(self.screens), "lacking": list(self.lacking), "behind": self.behind, "genes": self.genes, "of": self.of,
            "sharpness": self.sharpness,
        }  # fmt: skip

    def remark(self) -> str:
        """Return it in a sentence or two."""
        there = [label for label in self.labels if label in self.behind]
        words = f"{listed(there)}: not known to the model; they have the transfer of their effects measured in {listed(self.screens)} "
        words += f"({self.genes:,} of {self.of:,} genes are shared, the others do not change)."
        return f"{words} {listed(self.lacking)}: measured in none of these; no change." if self.lacking else words


def measured_in(screens: Sequence[Dataset], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that some screen measured beside control cells of the same context, in their order; no values are read."""
    found: set[str] = set()
    for dataset in screens:
        table = dataset.table()
        there = [context for context in dataset.contexts if len(dataset.control_rows(context))]
        found |= {str(p) for p, cells in table[there].sum(axis=1).items() if cells and p != dataset.labels.control}
    return tuple(label for label in labels if label in found)


def transfer_effects(
    screens: Sequence[MeasuredScreen],
    labels: tuple[str, ...],
    controls: Mapping[str, np.ndarray],
    genes: tuple[str, ...],
    depth: float | None,
    data: Path,
    on_progress: OnProgress = silent,
) -> Transfer:
    """Return what screens say of labels in the contexts of a prediction.

    Args:
        screens: which measured them.
        labels: perturbations.
        controls: context of the prediction -> (g,) mean control cell.
        genes: (g,) names.
        depth: of the prediction's log1p values; None where it is not known.
        data: the data set of the prediction: where it is a screen too, what it measured of the predicted condition itself is not in the mean.
        on_progress: called for each block of cells; may raise `JobCancelled`.

    Raises:
        GeneError: a screen has none of the genes. UnknownLabelError: no screen measured any of the labels.
        ScaleError: values of a screen cannot be brought to the depth of the prediction.
    """
    read = [_read(screen, number, labels, genes, depth, data, on_progress) for number, screen in enumerate(screens)]
    pooled = _Pool(tuple(read), genes, controls)
    effects = {(p, c): effect for c in controls for p in labels if (effect := pooled.effect(p, c)) is not None}
    behind = {p: n for p in labels if (n := sum(len(s.table.contexts_of(p)) for s in read))}
    if not effects:
        raise UnknownLabelError(
            f"No measured screen has any of the perturbations: {listed(labels)}.",
            f"Looked for, beside control cells of the same context, in {listed([s.title for s in screens])}.",
            "Give a screen that measured them, or choose the mean effect or no change.",
        )
    same = tuple((p, c) for p, c in effects if any(s.measured(p, c) for s in read))
    any_has = np.any([s.has for s in read], axis=0)
    titles = tuple(s.title for s in screens)
    return Transfer(labels, effects, behind, same, titles, int(any_has.sum()), len(genes), pooled.likeness.h)


@dataclass(frozen=True, eq=False)
class _Pool:
    """The effects of all screens, each context by itself.

    Args:
        screens: their effects.
        genes: (g,) names.
        controls: context of the prediction -> (g,) mean control cell.
    """

    screens: tuple[Screen, ...]
    genes: tuple[str, ...]
    controls: Mapping[str, np.ndarray]

    @cached_property
    def likeness(self) -> Likeness:
        """Of contexts, on the genes that all screens share: no gene that is absent makes two look alike."""
        shared = np.flatnonzero(np.all([s.has for s in self.screens], axis=0))
        tables = [s.table for s in self.screens]
        pairs = [pair for t in tables for pair in zip(t.perturbations, t.contexts, strict=True)]
        controls = {c: mean[shared] for t in tables for c, mean in t.controls.items()}
        names = tuple(self.genes[i] for i in shared)
        cells = [n for t in tables for n in t.cells]
        effects = np.concatenate([t.effects[:, shared] for t in tables])
        table = EffectTable.of_pairs(pairs, cells, list(effects), controls, names, len(shared))
        return Likeness(table, {c: mean[shared] for c, mean in self.controls.items()})

    def effect(self, perturbation: str, context: str) -> np.ndarray | None:
        """Return the effect (g,) of a perturbation in a context of the prediction; None where no screen measured it."""
        weights = self.likeness.weights(perturbation, context)
        if not weights:
            return None
        total, errors, there = (np.zeros(len(self.genes)) for _ in range(3))
        for screen in self.screens:
            for c in (c for c in screen.table.contexts_of(perturbation) if c in weights):
                effect, error = screen.table.effect(perturbation, c), screen.table.squared_errors(perturbation, c)
                assert effect is not None and error is not None
                total += weights[c] * effect  # 0 for a gene that the screen lacks
                errors += weights[c] ** 2 * error
                there += weights[c] * screen.has
        # a gene counts by the screens that measured it, so that one that lacks it does not pull it towards 0
        share = np.divide(1, there, out=np.zeros_like(there), where=there > 0)
        return shrink(total * share, errors * share**2).astype(np.float32)


def _read(
    screen: MeasuredScreen, number: int, labels: tuple[str, ...], genes: tuple[str, ...], depth: float | None, data: Path,
    on_progress: OnProgress,
) -> Screen:  # fmt: skip
    """Read the cells of some perturbations of a screen, and its control cells, in one pass."""
    dataset = open_dataset(Path(screen.data), screen.choices())
    control = dataset.require_control()
    source = log1p_of(dataset, genes, depth)
    if source is None:
        raise GeneError(
            f"{screen.title} has no expression of the predicted genes.",
            f"Its genes are like {listed(dataset.genes.names, 3)}, the predicted ones like {listed(genes, 3)}.",
            "Choose another screen, or another column of gene names.",
        )
    conditions, codes = condition_codes(dataset)
    wanted = [i for i, (p, _) in enumerate(conditions) if p == control or p in {*labels}]
    rows = np.flatnonzero(np.isin(codes, wanted))
    sums, done = Sums(len(genes), squares={}), 0  # the squares tell the noise of a mean
    for part, values in iter_features(dataset, source, rows):
        on_progress(Progress(f"Averaging measured cells of {screen.title}", done, len(rows)))
        sums.add(conditions, codes[part], values)
        done += len(part)
    own = Path(screen.data).resolve() == data.resolve()
    # contexts of two screens may share a name; of the prediction's own data set they are those of the prediction
    names = {c if own else f"{c} of screen {number + 1}": c for c in dataset.contexts}
    called = {c: name for name, c in names.items()}
    means = sums.means([conditions[i] for i in wanted], control, genes)
    means = replace(means, conditions=tuple((p, called[c]) for p, c in means.conditions))
    return Screen(screen, means.effects(), np.asarray(source.columns) >= 0, names)
