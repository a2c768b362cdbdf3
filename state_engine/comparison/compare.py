"""Compare two sides condition by condition: effects, genes called, and the cells themselves, each with its interval.

Every metric is one that is defined elsewhere: correlation and slope (`metrics.own`), overlap of leading genes (`effects.scores`), genes
called (`metrics.rank_tests`, `metrics.called`), energy distance (`metrics.population`). Here it is decided what is put into them.

Intervals: over the seeds where a side has several files; else over bootstrap draws of cells, as the estimate ± 1.96 standard deviations of
the draws, since drawing again adds noise, which lowers correlations and would leave the estimate outside of plain percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from state_engine.comparison.cells_map import MapSample
from state_engine.comparison.report import (
    COMPARISON,
    EFFECTS,
    FORMAT,
    PAIRS,
    Comparison,
    FoundPair,
    FoundSide,
    Interval,
    Span,
    pairs_table,
)
from state_engine.comparison.request import CELL_WORDS, ComparedSide, CompareRequest
from state_engine.comparison.sides import Cells, Opened, Pair, ResultFile, open_side
from state_engine.effects.exposure import Exposure
from state_engine.effects.scores import overlap
from state_engine.errors import GeneError, RequestError, StateError, listed
from state_engine.files import free_output, replacing, scratch_folder, write_bytes, write_json
from state_engine.metrics.called import condition_values
from state_engine.metrics.own import Pair as EffectPair
from state_engine.metrics.own import own_value
from state_engine.metrics.population import COMPONENTS, Components, energy_distance, energy_draws
from state_engine.metrics.rank_tests import ENGINE, against_reference
from state_engine.metrics.rules import BY_FDR, significant
from state_engine.plain import csv_for_people, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import SCORING, package_versions

MOST_PAIRS: Final = 2000
Array = NDArray[np.float64]
SideOfPair: TypeAlias = "tuple[Array, Cells | None, NDArray[np.bool_] | None, Array]"
"""Effect of a side, its cells, which genes are called, and the changes that order them."""


@dataclass(frozen=True, eq=False)
class Look:
    """One pair by one combination of files: effects of both sides, and all numbers."""

    effects: tuple[Array, Array]
    values: dict[str, float]
    interval: dict[str, tuple[float, float]]


def compare(request: CompareRequest, output: Path, on_progress: OnProgress = silent) -> Comparison:
    """Compare two sides, and write the folder of the comparison (`comparison.report`).

    Raises:
        StateError: a file cannot be read, or the sides share no gene or no condition.
    """
    start, remarks = time.monotonic(), list[str]()
    inputs = (*request.first.files, *request.second.files)
    free_output(output / COMPARISON, *inputs)
    output.mkdir(parents=True, exist_ok=True)
    with scratch_folder() as scratch:
        on_progress(Progress("Opening files"))
        first, second = ([open_side(Path(f), side, scratch) for f in side.files] for side in (request.first, request.second))
        genes = common_genes([*first, *second])
        pairs = matched(request, first, second)
        combinations = _combinations(len(first), len(second))
        found, effects = list[FoundPair](), np.empty((2, len(pairs), len(genes)), np.float32)
        sample = MapSample(len(pairs), len(genes), request.seed) if request.map else None
        for number, pair in enumerate(pairs):
            on_progress(Progress("Comparing conditions", number, len(pairs)))
            try:
                sides = [
                    [_side(file, of, genes, request, number) for file in files]
                    for files, of in zip((first, second), pair, strict=True)
                ]
                looks = [_look(request, (sides[0][i], sides[1][j]), len(combinations) == 1) for i, j in combinations]
            except StateError as error:
                remarks.append(f"{' in '.join(pair[0])} and {' in '.join(pair[1])} left out: {error}")
                continue
            effects[:, len(found)] = np.mean([look.effects for look in looks], axis=0)
            cells = sides[0][0][1], sides[1][0][1]
            if sample is not None and cells[0] is not None and cells[1] is not None:
                sample.add(len(found), (cells[0], cells[1]))
            else:  # a map of a part of the pairs would look like one of all
                sample = None
            found.append(_found(pair, looks, _exposure(first[0], second[0], pair)))
        if not found:
            raise RequestError(
                "No condition could be compared.", " ".join(remarks[:3]), "Choose conditions that both sides have."
            )
        _write_effects(output / EFFECTS, genes, effects[:, : len(found)])
        if sample is not None:
            sample.write(output, on_progress)
            remarks += sample.remarks
    report = _report(request, (first, second), found, len(genes), len(combinations), remarks, time.monotonic() - start)
    write_bytes(output / PAIRS, csv_for_people(pairs_table(report)).encode())
    write_json(output / COMPARISON, to_plain(report))
    return report


def common_genes(files: Sequence[Opened]) -> tuple[str, ...]:
    """Return the genes that all files have, in the order of the first.

    Raises:
        GeneError: there are fewer than two.
    """
    others = [set(file.genes) for file in files[1:]]
    genes = tuple(g for g in dict.fromkeys(files[0].genes) if all(g in other for other in others))
    if len(genes) < 2:
        raise GeneError(
            "The two sides share no genes.",
            f"First, such as {listed(files[0].genes[:3], 3)}; second, such as {listed(files[-1].genes[:3], 3)}.",
            "Give files with the same kind of gene names.",
        )
    return genes


def matched(request: CompareRequest, first: Sequence[Opened], second: Sequence[Opened]) -> list[tuple[Pair, Pair]]:
    """Return the pairs of conditions: the same names on both sides, but for what a side names itself.

    Raises:
        RequestError: there is none, or there are more than `MOST_PAIRS`.
    """
    sides = [_wanted(side, files) for side, files in ((request.first, first), (request.second, second))]
    free_p = bool(request.first.perturbation or request.second.perturbation)
    free_c = bool(request.first.context or request.second.context)
    found = []
    for one, other in product(*sides):
        # "" is a table's word for every context
        same_context = free_c or one[1] == other[1] or "" in (one[1], other[1])
        if (free_p or one[0] == other[0]) and same_context:
            found.append(_named(one, other))
    if not found:
        has = [f"{p} in {c}" if c else p for p, c in (*sides[0][:3], *sides[1][:3])]
        raise RequestError(
            "The two sides share no condition.",
            f"They have, such as: {listed(has, 6)}.",
            "Name a perturbation or a context on each side to compare different ones.",
        )
    if len(found) > MOST_PAIRS:
        raise RequestError(
            f"{len(found):,} pairs of conditions are too many.", f"Up to {MOST_PAIRS:,}.", "Name a perturbation or a context."
        )
    return list(dict.fromkeys(found))


def _wanted(side: ComparedSide, files: Sequence[Opened]) -> list[Pair]:
    """Return the conditions of a side that all its files have and it does not leave out."""
    per_file = [file.conditions() for file in files]
    everywhere = [pair for pair in per_file[0] if all(pair in other for other in per_file[1:])]
    found = [(p, c) for p, c in everywhere if side.perturbation in ("", p) and (side.context in ("", c) or c == "")]
    if not found:
        names = [name for name in (side.perturbation, side.context) if name]
        has = listed([f"{p} in {c}" if c else p for p, c in everywhere], 6)
        raise RequestError(
            f"A side has no {' in '.join(names) or 'condition'}.", f"It has: {has or 'none'}.", "Choose one of them."
        )
    return found


def _named(one: Pair, other: Pair) -> tuple[Pair, Pair]:
    """Return a pair in which a table's "every context" is that of the other side."""
    return (one[0], one[1] or other[1]), (other[0], other[1] or one[1])


def _combinations(n: int, m: int) -> list[tuple[int, int]]:
    """Return which files are compared: seed by seed where both sides have as many, else each with each."""
    return [(i, i) for i in range(n)] if n == m else list(product(range(n), range(m)))


def _look(request: CompareRequest, sides: tuple[SideOfPair, SideOfPair], alone: bool) -> Look:
    """Return the numbers of one pair; intervals over cells where there is one combination of files `alone`."""
    (a, cells_a, called_a, fold_a), (b, cells_b, called_b, fold_b) = sides
    values = effect_values(a, b, request.top)
    if called_a is not None and called_b is not None:
        by = condition_values(called_a, fold_a, called_b, fold_b)
        values |= {"de_overlap": by["de_wilcoxon_overlap"], "same_direction": by["de_wilcoxon_direction_match"]}
    values |= {
        name: float(called.sum())
        for name, called in (("called_first", called_a), ("called_second", called_b))
        if called is not None
    }
    if cells_a is None or cells_b is None:
        return Look((a, b), values, {})
    more, interval = _cell_values(cells_a, cells_b, values["pearson"], request, alone)
    return Look((a, b), values | more, interval)


def effect_values(a: Array, b: Array, top: int) -> dict[str, float]:
    """Return correlation, slope of b on a, and overlap of the leading genes of two effects (g,)."""
    both = EffectPair(a, b, a, b)
    values = {"pearson": own_value("delta_pearson", both), "slope": own_value("slope", both)}
    return values | {"overlap": overlap(a, b, min(top, len(a)))}


def _side(file: Opened, pair: Pair, genes: tuple[str, ...], request: CompareRequest, number: int) -> SideOfPair:
    """Return the effect of a side's condition, its cells, which genes are called, and the changes that order them."""
    told = file.effect(pair, genes)
    if told is not None:
        effect, called = told
        return effect, None, called, effect
    cells = file.cells(pair, genes, request.cells, np.random.default_rng([request.seed, number]))
    assert cells is not None  # a file has cells or effects
    tests = against_reference({"own": cells.own}, cells.control)
    return cells.effect, cells, significant(tests.fdr[0]), tests.log2_fold_change[0]


def _cell_values(
    a: Cells, b: Cells, r: float, request: CompareRequest, alone: bool
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the energy distances of cells and of controls, and with one combination of files the intervals over draws of cells."""
    fitted = Components.of(np.vstack([a.own, b.own, a.control, b.control]), request.seed)
    clouds = [fitted.cloud(values) for values in (a.own, b.own, a.control, b.control)]
    energy = energy_distance(clouds[0], clouds[1])
    values = {
        "energy": energy, "energy_control": energy_distance(clouds[2], clouds[3]), "n_first": float(len(a.own)),
        "n_second": float(len(b.own)),
    }  # fmt: skip
    if not alone:
        return values, {}
    rng = np.random.default_rng(request.seed)
    spread = float(np.std(energy_draws(clouds[0], clouds[1], request.draws, rng), ddof=1))
    effects = [_drawn_effects(cells, request.draws, rng) for cells in (a, b)]
    drawn = [own_value("delta_pearson", EffectPair(x, y, x, y)) for x, y in zip(*effects, strict=True)]
    return values, {"energy": (energy - 1.96 * spread, energy + 1.96 * spread), "pearson": fisher_interval(r, np.array(drawn))}


def fisher_interval(r: float, drawn: Array) -> tuple[float, float]:
    """Return r ± 1.96 standard deviations of its bootstrap draws on Fisher's z, so that it stays between -1 and 1; NaN without a spread."""
    z = np.arctanh(np.clip(drawn[np.isfinite(drawn)], -1 + 1e-12, 1 - 1e-12))
    if len(z) < 2 or not np.isfinite(r):
        return float("nan"), float("nan")
    middle, half = float(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))), 1.96 * float(np.std(z, ddof=1))
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def _drawn_effects(cells: Cells, draws: int, rng: np.random.Generator) -> Array:
    """Return (draws, g) effects of cells that are drawn again with replacement, perturbed and control cells each by themselves."""
    means = []
    for values in (cells.own, cells.control):
        n = len(values)
        # how often each cell is drawn, (draws, n), times the cells, (n, g)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
        means.append((weights @ values).astype(np.float64) / n)
    return np.asarray(means[0] - means[1])


def _found(pair: tuple[Pair, Pair], looks: Sequence[Look], exposure: Exposure) -> FoundPair:
    """Return the means over combinations of files, with their intervals."""
    mean = {name: float(np.mean([look.values[name] for look in looks])) for name in looks[0].values}

    def span(name: str) -> Span:
        each = [look.values.get(name, float("nan")) for look in looks]
        ends = looks[0].interval.get(name) if len(looks) == 1 else (min(each), max(each))
        low, high = ends or (float("nan"), float("nan"))
        return Span(_finite(mean.get(name)), _finite(low), _finite(high))

    def whole(name: str) -> int | None:
        return round(mean[name]) if name in mean else None

    return FoundPair(
        *pair, whole("n_first") or 0, whole("n_second") or 0, exposure, span("pearson"), _finite(mean["slope"]), mean["overlap"],
        span("energy"), _finite(mean.get("energy_control")), whole("called_first"), whole("called_second"),
        _finite(mean.get("de_overlap")), _finite(mean.get("same_direction")),
    )  # fmt: skip


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _exposure(first: Opened, second: Opened, pair: tuple[Pair, Pair]) -> Exposure:
    """Return what a measured condition is to the model that predicts the other side; "not known" without one of each."""
    if {first.kind, second.kind} != {"predicted", "measured"}:
        return "not known"
    return first.exposure(pair[0]) if first.kind == "predicted" else second.exposure(pair[1])


def _write_effects(path: Path, genes: tuple[str, ...], effects: NDArray[np.float32]) -> None:
    """Write the effects of both sides, (2, k, g)."""
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, genes=np.array(genes, str), first=effects[0], second=effects[1])


def _report(
    request: CompareRequest, files: tuple[list[Opened], list[Opened]], found: list[FoundPair], genes: int, seeds: int,
    remarks: list[str], seconds: float,
) -> Comparison:  # fmt: skip
    with_cells = all(p.energy.value is not None for p in found)
    interval: Interval = "seeds" if seeds > 1 else "cells" if with_cells else ""
    names = [_side_name(side, opened[0]) for side, opened in zip((request.first, request.second), files, strict=True)]
    if names[0] == names[1]:
        names = [f"{name} ({word})" for name, word in zip(names, _apart(request), strict=True)]
    sides = [
        FoundSide(
            name,
            opened[0].kind,
            tuple(Path(f).name for f in side.files),
            getattr(opened[0], "which", ""),
            len(opened[0].conditions()),
        )
        for name, side, opened in zip(names, (request.first, request.second), files, strict=True)
    ]
    tested = any(p.called_first is not None for p in found)
    test = (
        f"{ENGINE}, two-sided Mann-Whitney U test of cells against their control, genes called by {BY_FDR} (Benjamini-Hochberg)"
    )
    versions = package_versions(SCORING)
    return Comparison(
        FORMAT, sides[0], sides[1], genes, request.top, tuple(found), interval, seeds, request.draws if interval == "cells" else 0,
        COMPONENTS if with_cells else 0, test if tested else "", request.seed, round(seconds, 3), versions, tuple(remarks),
    )  # fmt: skip


def _apart(request: CompareRequest) -> tuple[str, str]:
    """Return what tells the files of the two sides apart: their names, or those of their folders."""
    one, other = (Path(side.files[0]) for side in (request.first, request.second))
    for a, b in ((one.name, other.name), (one.parent.name, other.parent.name)):
        if a != b:
            return a, b
    return "first", "second"


def _side_name(side: ComparedSide, file: Opened) -> str:
    if side.name:
        return side.name
    what = CELL_WORDS[file.which] if isinstance(file, ResultFile) else Path(side.files[0]).name
    where = " in ".join(filter(None, (side.perturbation, side.context)))
    return f"{where}, {what}" if where else what
