"""The report of a comparison: each pair of conditions with its intervals, effects gene by gene, and the common map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from state_engine.comparison.report import (
    EFFECTS,
    INTERVALS,
    MAP,
    NEAR_0,
    Comparison,
    pairs_table,
    read_comparison,
    read_map,
    read_pair,
)
from state_engine.effects.scores import largest
from state_engine.errors import RunError
from state_engine.progress import OnProgress
from state_engine.reports.colours import BLUE, GREEN, GREY, NOT_SIGNIFICANT, VERMILION
from state_engine.reports.document import Figure, Points, Section, Table
from state_engine.reports.drawings import Axis, Series, points
from state_engine.reports.provenance import Found

MOST_FIGURES = 6
NAMED = 10


def found_in_comparison(folder: Path, on_progress: OnProgress) -> Found:
    """Return what the folder of a comparison tells.

    Raises:
        RunError: there is none, or it is damaged.
    """
    found = read_comparison(folder)
    if found is None:
        raise RunError(f"{folder.name} holds no comparison.", "It has no comparison.json.", "Compare again.")
    table = pairs_table(found)
    table.insert(0, "Conditions", [p.name for p in found.pairs])
    note = f"Intervals: {INTERVALS[found.interval]}.{f' {NEAR_0}' if found.components else ''}"
    heads = {
        "exposure": "Trained on", "pearson": "r", "pearson_low": "r, low", "pearson_high": "r, high", "slope": "Slope",
        "overlap": f"Top {found.top} shared", "energy": "Energy distance", "energy_low": "low", "energy_high": "high",
        "energy_control": "of controls", "called_first": "Called, first", "called_second": "Called, second", "de_overlap": "DE shared",
        "same_direction": "Same direction",
    }  # fmt: skip
    shown = table[["Conditions", *heads]].rename(columns=heads)
    sections = [
        Section("Each pair of conditions", (Table("", shown, note, digits=2),)),
        *_effects(found, folder),
        *_map(found, folder),
    ]
    if found.remarks:
        sections.append(Section("What to know", (Points(found.remarks),)))
    statistics = ["mann-whitney", "benjamini-hochberg"] if found.test else []
    statistics += ["energy distance"] if found.components else []
    statistics += ["bootstrap"] if found.interval == "cells" else []
    state = "predicted" in (found.first.kind, found.second.kind)
    return Found(found.words(), tuple(sections), _methods(found), tuple(statistics), found.versions, state)


def _effects(found: Comparison, folder: Path) -> list[Section]:
    figures = []
    names = found.first.name, found.second.name
    for place, pair in enumerate(found.pairs[:MOST_FIGURES]):
        effects = read_pair(folder / EFFECTS, place)
        x, y = effects.first.astype(float), effects.second.astype(float)
        leads = [np.isin(np.arange(len(x)), largest(side, found.top)) for side in (x, y)]
        genes, order = np.array(effects.genes), np.argsort(-(np.abs(x) + np.abs(y)), kind="stable")
        named = set([i for i in order if leads[0][i] and leads[1][i]][:NAMED])
        groups = [
            ("neither", ~leads[0] & ~leads[1], NOT_SIGNIFICANT), ("second alone", leads[1] & ~leads[0], BLUE),
            ("first alone", leads[0] & ~leads[1], VERMILION), ("both", leads[0] & leads[1], GREEN),
        ]  # fmt: skip
        series = []
        for word, part, colour in groups:
            rows = np.flatnonzero(part)
            labels = tuple(genes[i] if i in named else "" for i in rows)
            series.append(Series(f"{word} ({len(rows):,})", colour, x[rows], y[rows], 4, 0.7, labels))
        svg = points(
            series, Axis(f"effect, {names[0]} (log1p)"), Axis(f"effect, {names[1]} (log1p)"), size=(560, 480), diagonal=True
        )
        caption = (
            f"{found.genes:,} genes, differences of mean log1p expression to the control of each side. r {pair.pearson.words}. Coloured: the "
            f"{found.top} largest effects of each side. Dashed: equal."
        )
        figures.append(Figure(pair.name, svg, caption))
    return [Section("Effects gene by gene", tuple(figures))]


def _map(found: Comparison, folder: Path) -> list[Section]:
    if not (folder / MAP).exists():
        return []
    cells = read_map(folder / MAP)
    figures = []
    for side, about in enumerate((found.first, found.second)):
        own = cells.side == side
        groups = [
            ("other side", ~own, "#c9cdd0", 0.35), ("control", own & cells.control, GREY, 0.6),
            ("perturbed", own & ~cells.control, BLUE if about.kind == "measured" else VERMILION, 0.7),
        ]  # fmt: skip
        series = [Series(f"{n} ({int(p.sum()):,})", c, cells.xy[p, 0], cells.xy[p, 1], 3, o) for n, p, c, o in groups]
        svg = points(series, Axis("UMAP 1", ticks=False), Axis("UMAP 2", ticks=False), size=(520, 460), square=True)
        figures.append(Figure(about.name, svg, f"{int(own.sum()):,} cells; one UMAP of the cells of both sides, all pairs."))
    return [Section("The same map, side by side", tuple(figures))]


def _methods(found: Comparison) -> tuple[str, ...]:
    sides = [f"{s.name} ({s.kind}; {', '.join(s.files)})" for s in (found.first, found.second)]
    lines = [
        f"{sides[0]} was compared with {sides[1]} on {len(found.pairs):,} pairs of conditions and {found.genes:,} common genes.",
        "An effect is the difference of mean log1p expression between perturbed cells and their control; r is the Pearson correlation of two "
        f"effects over all genes, overlap the share of the {found.top} largest absolute effects that both have.",
    ]
    if found.components:
        lines.append(
            f"The energy distance between cells was computed in up to {found.components} principal components of perturbed and control cells "
            "of both sides."
        )
    if found.test:
        lines.append(f"Differential expression: {found.test}.")
    draws = (
        f" ({found.draws:,} draws)" if found.draws else f" ({found.seeds:,} combinations)" if found.interval == "seeds" else ""
    )
    return (*lines, f"Intervals: {INTERVALS[found.interval]}{draws}.", f"Seed of cells and draws: {found.seed}.")
