"""The files of a comparison, each opened as what it is: a result of ours, cells of any program, or a table of effects.

Whatever it is, a side tells its conditions and genes, and for a condition its cells with the control cells that its effect starts from.
Notation: n cells of a condition, m of its control, g compared genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis import stored
from state_engine.challenge.spec import PRESETS, ChallengeSpec, load_rules
from state_engine.challenge.verify import unpack_prediction
from state_engine.comparison.report import SideKind
from state_engine.comparison.request import ComparedSide
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import read_features
from state_engine.effects.exposure import Exposure
from state_engine.errors import LabelError, RequestError, RunError, door, listed
from state_engine.evaluation.compared import Side
from state_engine.evaluation.files import conditions_of, side_of
from state_engine.evaluation.foreign_effects import ForeignEffects, is_effects_file, read_effects
from state_engine.plain import first_places
from state_engine.prediction.result import Layer, Result, open_result
from state_engine.screening.report import EFFECTS as SCREENED
from state_engine.screening.report import REPORT as SCREEN

Pair = tuple[str, str]
Matrix = NDArray[np.float32]
LEAST: Final = 3  # cells of a condition, and of its control
RESULT: Final = "result.h5ad"


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a condition (n, g) and of its control (m, g), log1p expression."""

    own: Matrix
    control: Matrix

    @property
    def effect(self) -> NDArray[np.float64]:
        """Return the difference of the means, (g,)."""
        return np.asarray(self.own.mean(axis=0, dtype=np.float64) - self.control.mean(axis=0, dtype=np.float64))


class Opened(Protocol):
    """One file of a side."""

    kind: SideKind
    genes: tuple[str, ...]

    def conditions(self) -> list[Pair]:
        """Return the (perturbation, context) pairs that it has; of a table context "" is every one."""
        ...

    def cells(self, pair: Pair, genes: tuple[str, ...], most: int, rng: np.random.Generator) -> Cells | None:
        """Return at most so many cells of a condition and of its control; None for a table."""
        ...

    def effect(self, pair: Pair, genes: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None] | None:
        """Return the effect of a table, and which genes it calls where it says so; None for cells."""
        ...

    def exposure(self, pair: Pair) -> Exposure:
        """Return whether a model was trained on the condition, where that is known."""
        ...


def open_side(path: Path, side: ComparedSide, scratch: Path) -> Opened:
    """Return a file as what it is.

    Args:
        scratch: folder for what is unpacked.

    Raises:
        StateError: it cannot be read, or is not what the side says.
    """
    if path.is_dir() and (path / SCREEN).is_file():
        return TableFile(_screened(path / SCREENED))
    place = path / RESULT if path.is_dir() else path
    if is_effects_file(place.name):
        return TableFile(read_effects(place))
    if place.suffix.lower() == ".vcc":
        unpacked = scratch / f"{place.stem}-{len(list(scratch.iterdir()))}.h5ad"
        # the lists of a year are not looked at: whatever cells are in it are compared
        unpack_prediction(place, unpacked, ChallengeSpec(load_rules(PRESETS[0])))
        return CellsFile(open_dataset(unpacked, side.choices), place.name, "predicted")
    dataset = open_dataset(place, side.choices)
    if is_result(dataset):
        return ResultFile(open_result(place), side.cells)
    if side.cells:
        raise RequestError(
            f"{place.name} is no result of a prediction.",
            f"It has no {side.cells} cells.",
            "Leave the kind of cells out; name its columns.",
        )
    return CellsFile(dataset, place.name)


def _screened(path: Path) -> ForeignEffects:
    """Return the mean effects of a screen as a table.

    Raises:
        RunError: the file is missing or damaged.
    """
    import anndata as ad

    with door(path.name, RunError, "Run the screen again."):
        cells = ad.read_h5ad(path)
        labels = cells.obs[["perturbation", "context"]].astype(str)
        conditions = tuple((p, c) for p, c in labels.itertuples(index=False))
        return ForeignEffects(conditions, tuple(map(str, cells.var_names)), np.asarray(cells.X, np.float32))


def is_result(dataset: Dataset) -> bool:
    """Return whether a file is a result of a prediction of ours: its cells say which kind they are."""
    column = dataset.columns.get(keys.KIND)
    return column is not None and set(column.categories.astype(str)) <= set(keys.KINDS)


class ResultFile:
    """Predicted or measured cells of a result. Corrected and calibrated effects start from the paired control, others from the measured one."""

    def __init__(self, result: Result, cells: str = "") -> None:
        if not result.has_expression:
            raise RequestError(f"{result.path.name} predicts an embedding, not genes.", "", "Compare predictions of genes.")
        self.result, self.genes = result, result.genes
        self.which = cells or result.layers()[0]
        self.kind: SideKind = "measured" if self.which == "observed" else "predicted"
        if self.kind == "predicted" and self.which not in result.layers():
            raise RequestError(f"This result has no {self.which} cells.", f"It has: {listed(result.layers())}.")

    def conditions(self) -> list[Pair]:
        if self.kind == "measured":
            return sorted(stored.measured_conditions(self.result))
        found = self.result.conditions()
        return [pair for pair in found if self.which != "calibrated" or self.result.is_calibrated(*pair)]

    def cells(self, pair: Pair, genes: tuple[str, ...], most: int, rng: np.random.Generator) -> Cells | None:
        layer: Layer = "corrected" if self.kind == "measured" else self.which  # type: ignore[assignment]
        rows = _drawn(self.result.rows(keys.OBSERVED if self.kind == "measured" else keys.PREDICTED, pair[1], pair[0]), most, rng)
        if self.which in ("corrected", "calibrated"):
            control = self.result.paired_controls(rows)
        else:
            control = _drawn(self.result.rows(keys.OBSERVED_CONTROL, pair[1]), most, rng)
        _enough(len(rows), len(control), pair, self.result.path.name)
        columns = _columns(self.genes, genes)
        # the control is the same in every kind of expression but the raw one, whose effect starts from measured cells
        return Cells(self.result.read(rows, layer=layer)[:, columns], self.result.read(control)[:, columns])

    def effect(self, pair: Pair, genes: tuple[str, ...]) -> None:
        return None

    def exposure(self, pair: Pair) -> Exposure:
        return self.result.exposure(*pair)


class CellsFile:
    """Cells of any program, or measured ones; their control is in the file."""

    def __init__(self, dataset: Dataset, name: str, kind: SideKind = "measured") -> None:
        self.kind: SideKind = kind
        self.dataset, self.name, self.control = dataset, name, dataset.require_control()
        self.genes = tuple(dict.fromkeys(dataset.genes.names))
        self._sides: dict[tuple[str, ...], Side] = {}

    def conditions(self) -> list[Pair]:
        found = conditions_of(self._on(self.genes[:1]))
        with_control = {c for p, c in found if p == self.control}
        if not with_control:
            raise LabelError(
                f"{self.name} has no control cells.",
                f"No cell is labelled '{self.control}'.",
                "Name its control, or add control cells.",
            )
        return sorted((p, c) for p, c in found if p != self.control and c in with_control)

    def cells(self, pair: Pair, genes: tuple[str, ...], most: int, rng: np.random.Generator) -> Cells | None:
        side = self._on(genes)
        rows, control = (_drawn(side.rows(p, pair[1]), most, rng) for p in (pair[0], self.control))
        _enough(len(rows), len(control), pair, self.name)
        return Cells(read_features(self.dataset, side.source, rows), read_features(self.dataset, side.source, control))

    def effect(self, pair: Pair, genes: tuple[str, ...]) -> None:
        return None

    def exposure(self, pair: Pair) -> Exposure:
        return "not known"

    def _on(self, genes: tuple[str, ...]) -> Side:
        if genes not in self._sides:
            self._sides[genes] = side_of(self.dataset, genes, self.name, None)
        return self._sides[genes]


class TableFile:
    """A table of effects: no cells. Genes are called where it gives a chance of at least one half."""

    kind: SideKind = "effects"

    def __init__(self, table: ForeignEffects) -> None:
        self.table, self.genes = table, table.genes

    def conditions(self) -> list[Pair]:
        return list(self.table.conditions)

    def cells(self, pair: Pair, genes: tuple[str, ...], most: int, rng: np.random.Generator) -> None:
        return None

    def effect(self, pair: Pair, genes: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None] | None:
        row, columns = self.table.row(*pair), _columns(self.genes, genes)
        if row is None:
            return None
        chances = self.table.chances
        called = chances[row, columns] >= 0.5 if chances is not None else None
        return np.nan_to_num(self.table.effects[row, columns].astype(np.float64)), called

    def exposure(self, pair: Pair) -> Exposure:
        return "not known"


def _columns(has: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.int64]:
    places = first_places(has)
    return np.array([places[gene] for gene in wanted], np.int64)


def _drawn(rows: NDArray[np.integer], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    chosen = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
    return np.asarray(chosen, np.int64)


def _enough(n: int, m: int, pair: Pair, name: str) -> None:
    if min(n, m) < LEAST:
        raise RequestError(
            f"{name} has {n:,} cells of {pair[0]} in {pair[1]}, and {m:,} of its control.",
            f"A comparison needs {LEAST} of each.",
            "Leave it out.",
        )
