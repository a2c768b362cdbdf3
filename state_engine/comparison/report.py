"""What a comparison found, as plain values and files. Read by pages, reports and the command line; no torch.

The folder of a comparison holds

    comparison.json   `Comparison`
    pairs.csv         a row for each pair of conditions, for people
    effects.npz       genes (g,); first, second (k, g) float32: effects of the k pairs, log1p units
    map.npz           `CellsMap`, where both sides have cells
    cells.npy         (n, g) float32 log1p expression of the cells of the map
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine.effects.exposure import Exposure
from state_engine.errors import RunError, door
from state_engine.files import replacing
from state_engine.plain import agreed, minus, plural, read_json_as

COMPARISON: Final = "comparison.json"
PAIRS: Final = "pairs.csv"
EFFECTS: Final = "effects.npz"
MAP: Final = "map.npz"
CELLS: Final = "cells.npy"
FORMAT: Final = 1
AGAIN: Final = "Compare again."
SideKind = Literal["predicted", "measured", "effects"]
Interval = Literal["seeds", "cells", ""]
INTERVALS: Final[dict[Interval, str]] = {
    "seeds": "smallest and largest value over the seeds",
    "cells": "estimate ± 1.96 standard deviations of bootstrap draws of cells (r on Fisher's z)",
    "": "no interval: a side is a table of effects, without cells and seeds",
}


NEAR_0: Final = (
    "An energy distance is estimated without bias (over pairs of different cells): of two sets of cells that are alike it lies around 0, a little "
    "below as often as above. A small negative number says that no difference is seen."
)
"""Why a distance can be negative."""


@dataclass(frozen=True)
class FoundSide:
    """One side.

    Args:
        name: for people. kind: what its effects are of.
        files: names of its files, a seed each.
        cells: which cells of a result; "" for other files.
        conditions: that it has.
    """

    name: str
    kind: SideKind
    files: tuple[str, ...]
    cells: str
    conditions: int


@dataclass(frozen=True)
class Span:
    """A number with its interval; None where it does not exist."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """Return it for people."""
        if self.value is None:
            return "–"
        ends = f" ({self.low:.2f} to {self.high:.2f})" if self.low is not None and self.high is not None else ""
        return f"{self.value:.2f}{ends}".replace("-", "−")


@dataclass(frozen=True)
class FoundPair:
    """Two conditions beside each other.

    Args:
        first, second: (perturbation, context) of each side.
        n_first, n_second: cells that were looked at, of one seed; 0 for a table of effects.
        exposure: where one side is measured and the other predicted: whether the model was trained on it.
        pearson: correlation of the effects over all genes.
        slope: of the second side's effect on the first's.
        overlap: share of the leading genes that both have.
        energy: energy distance between the cells of the two, in principal components of both.
        energy_control: the same between their control cells: what is no effect.
        called_first, called_second: genes with FDR < 0.05, each against its control.
        de_overlap: of the genes called on the second side, as many leading ones, the share that leads on the first too.
        same_direction: share of the genes called on the second side that go the same way on the first.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    n_first: int
    n_second: int
    exposure: Exposure
    pearson: Span
    slope: float | None
    overlap: float
    energy: Span
    energy_control: float | None
    called_first: int | None
    called_second: int | None
    de_overlap: float | None
    same_direction: float | None

    @property
    def name(self) -> str:
        """For people: one name where both are the same condition."""
        one, other = (" in ".join(pair) for pair in (self.first, self.second))
        if one == other:
            return one
        if self.first[1] == self.second[1]:
            return f"{self.first[0]} and {self.second[0]} in {self.first[1]}"
        if self.first[0] == self.second[0]:
            return f"{self.first[0]} in {self.first[1]} and in {self.second[1]}"
        return f"{one} and {other}"


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Args:
        format: of this file.
        first, second: the sides.
        genes: compared, those that all files have. top: leading genes of `overlap`.
        pairs: as they were matched.
        interval: what the intervals are over; seeds: combinations of files that were compared.
        draws: of the bootstrap, where the interval is over cells.
        components: of the energy distance; 0 without.
        test: how genes were tested, a sentence; "" where they were not.
        seed, seconds, versions: as in every report.
        remarks: what was left out, sentences.
    """

    format: int
    first: FoundSide
    second: FoundSide
    genes: int
    top: int
    pairs: tuple[FoundPair, ...]
    interval: Interval
    seeds: int
    draws: int
    components: int
    test: str
    seed: int
    seconds: float
    versions: dict[str, str]
    remarks: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """Return what was found, in sentences with numbers."""
        r = [p.pearson.value for p in self.pairs if p.pearson.value is not None]
        n = len(self.pairs)
        many, one = n != 1, f"{self.first.name[:1].upper()}{self.first.name[1:]}"
        pairs = plural(n, "pair")
        lines = []
        if r:
            middle = "median r " if many else "r "
            spread = f", {min(r):.2f} to {max(r):.2f}" if many else ""
            shared = float(np.median([p.overlap for p in self.pairs]))
            lines.append(
                f"{one} and {self.second.name}, {pairs} of conditions: effects correlate with "
                f"{minus(f'{middle}{float(np.median(r)):.2f}{spread}')}, and share {shared:.0%} of the {self.top} largest."
            )
        else:
            lines.append(
                f"{one} and {self.second.name}: no correlation of effects exists, since one of them is the same everywhere."
            )
        energy = [p.energy.value for p in self.pairs if p.energy.value is not None]
        if energy:
            lines.append(
                minus(f"Energy distance between their cells: {'median ' if many else ''}{float(np.median(energy)):.2f}.")
            )
        recall = sum(p.exposure == "in training" for p in self.pairs)
        tests = sum(p.exposure == "test" for p in self.pairs)
        if recall:
            trained = f"{recall:,} of these conditions {agreed(recall, 'was', 'were')} in the training of the model"
            lines.append(f"{trained}: agreement with the measurement is recall, not a test.")
        if tests:
            held = f"{tests:,} of these conditions {agreed(tests, 'was', 'were')} held out from the training"
            lines.append(f"{held}: agreement with the measurement is a test.")
        return tuple(lines)


@dataclass(frozen=True, eq=False)
class CellsMap:
    """Where cells of both sides lie on one map.

    Args:
        xy: (n, 2) float32, UMAP units.
        side: (n,) 0 for the first, 1 for the second.
        pair: (n,) place of the pair among `Comparison.pairs`.
        control: (n,) True for control cells.
    """

    xy: NDArray[np.float32]
    side: NDArray[np.int8]
    pair: NDArray[np.int32]
    control: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write the file; it appears only when complete."""
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, xy=self.xy, side=self.side, pair=self.pair, control=self.control)


@dataclass(frozen=True, eq=False)
class PairEffects:
    """Effects of one pair, (g,) each, log1p units."""

    genes: tuple[str, ...]
    first: NDArray[np.float32]
    second: NDArray[np.float32]


def read_comparison(folder: Path) -> Comparison | None:
    """Return the report of a comparison's folder; None while there is none.

    Raises:
        RunError: it is damaged.
    """
    return read_json_as(Comparison, folder / COMPARISON, "comparison", AGAIN)


def read_pair(path: Path, place: int) -> PairEffects:
    """Return the effects of one pair.

    Args:
        path: effects.npz. place: of the pair.

    Raises:
        RunError: the file is missing or damaged, or has no such pair.
    """
    with door(path.name, RunError, AGAIN), np.load(path, allow_pickle=False) as stored:
        first, second = stored["first"], stored["second"]  # each look into the file reads a whole array
        if not 0 <= place < len(first):
            raise RunError(f"{path.name} has no pair {place + 1}.", "", AGAIN)
        return PairEffects(tuple(stored["genes"].tolist()), first[place], second[place])


def read_map(path: Path) -> CellsMap:
    """Return the map of a comparison.

    Raises:
        RunError: the file is missing or damaged.
    """
    with door(path.name, RunError, AGAIN), np.load(path, allow_pickle=False) as stored:
        return CellsMap(stored["xy"], stored["side"], stored["pair"], stored["control"])


def pairs_table(found: Comparison) -> pd.DataFrame:
    """Return a row for each pair, for people and files."""
    rows = []
    for p in found.pairs:
        rows.append(
            {
                "first_perturbation": p.first[0], "first_context": p.first[1], "second_perturbation": p.second[0],
                "second_context": p.second[1], "exposure": p.exposure, "cells_first": p.n_first, "cells_second": p.n_second,
                "pearson": p.pearson.value, "pearson_low": p.pearson.low, "pearson_high": p.pearson.high, "slope": p.slope,
                "overlap": p.overlap, "energy": p.energy.value, "energy_low": p.energy.low, "energy_high": p.energy.high,
                "energy_control": p.energy_control, "called_first": p.called_first, "called_second": p.called_second,
                "de_overlap": p.de_overlap, "same_direction": p.same_direction,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    numbers = [
        name for name in table.columns if name not in ("exposure", "overlap") and "perturb" not in name and "context" not in name
    ]
    return table.astype(dict.fromkeys(numbers, float)).astype({"cells_first": int, "cells_second": int})


def comparison_lines(found: Comparison) -> list[str]:
    """Return a comparison for a terminal."""
    width = max(12, *(len(p.name) for p in found.pairs)) + 2
    lines = [*found.words(), "", f"{'':{width}}{'r':>22}{'slope':>8}{'top':>6}{'energy':>24}{'controls':>10}{'DE both':>9}"]
    for p in found.pairs:
        rest = [_short(p.slope), f"{p.overlap:.0%}", p.energy.words, _short(p.energy_control), _short(p.de_overlap)]
        slope, top, energy, control, de = rest
        lines.append(f"{p.name:{width}}{p.pearson.words:>22}{slope:>8}{top:>6}{energy:>24}{control:>10}{de:>9}")
    lines += ["", f"Intervals: {INTERVALS[found.interval]}."]
    if found.components:
        lines.append(
            f"Energy distance in up to {found.components} principal components of the cells of both; controls: the same between control cells."
        )
    lines += [f"Genes: {found.genes:,}. {found.test}." if found.test else f"Genes: {found.genes:,}."]
    return [*lines, *found.remarks]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
