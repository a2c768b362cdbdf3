"""The null check: effect zero, sent through the steps of a submission, must look like control cells.

Predicted control cells of a result (for other files: control cells) become counts by the same change as the submission, genes that are filled
among it, and are tested against real control cells that none of them starts from, as vcc2026 tests: counts per million, rank test corrected for
ties, Benjamini-Hochberg at 5 %, genes above 5 counts per million. What it calls is false.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import scipy.sparse as sp

from state_engine import keys
from state_engine.challenge.contents import Plan, make_plan
from state_engine.challenge.counts import FillGenes, Normalise, ToCounts
from state_engine.challenge.donors import control_cells, donors_at, gene_column
from state_engine.challenge.findings import Finding, NullCheck, found
from state_engine.challenge.source import open_controls
from state_engine.errors import StateError
from state_engine.metrics.rank_tests import against_reference
from state_engine.plain import part_of, plural

CELLS: Final = 400
"""Most cells of each side."""
FEWEST: Final = 20
"""Fewer cells of a side tell nothing."""
CPM: Final = 5.0
FDR: Final = 0.05
MOST_CALLED: Final = 0.01
"""Share of the tested genes that may be called."""


@dataclass(frozen=True, eq=False)
class _Controls:
    """Real control cells of a context as counts in the genes of the archive, and the rows of their file."""

    counts: sp.csr_matrix
    path: Path
    rows: np.ndarray


def null_checked(plan: Plan, repairs: tuple[str, ...] = ()) -> Plan:
    """Return a plan with the null check of each context, where values become counts and there are control cells to compare with.

    Args:
        plan: to check.
        repairs: that it was made with.
    """
    if plan.counts is None or plan.change is None or any(f.severity == "error" for f in plan.findings):
        return plan
    made: list[NullCheck] = []
    for context in plan.wanted or ("",):
        controls = _controls(plan, context)
        if controls is not None:
            made += _check(plan, context, controls, repairs)
    if not made:
        note = found("null-unchecked", "note", "Whether effect zero gives genes that respond was not checked: no control counts.")
        return replace(plan, findings=(*plan.findings, note))
    return replace(plan, null=tuple(made), findings=(*plan.findings, *_findings(made)))


def genes_called(cells: sp.csr_matrix, controls: sp.csr_matrix) -> tuple[int, int]:
    """Return how many genes are tested between two groups of counts (n, g), and how many of them are called."""
    sides = [_per_million(part) for part in (cells, controls)]
    mean = np.asarray(sides[1].mean(axis=0)).ravel()
    above = np.flatnonzero(mean > CPM)
    if not above.size:
        return 0, 0
    # ranks are those of the counts per million; their logarithm only keeps the natural means of the engine finite
    one, other = (sp.csr_matrix(side[:, above].log1p()) for side in sides)
    tests = against_reference({"null": one}, other, floor=0)
    return int(above.size), int(np.count_nonzero(tests.fdr < FDR))


def _per_million(counts: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.asarray(counts.sum(axis=1), np.float64).ravel()
    return sp.csr_matrix(sp.diags(1e6 / np.where(totals > 0, totals, 1)) @ counts)


def _check(plan: Plan, context: str, controls: _Controls, repairs: tuple[str, ...]) -> Iterator[NullCheck]:
    cells, used, of = _zero_effect(plan, context, controls, repairs)
    others = np.flatnonzero(~np.isin(controls.rows, used))
    # cells that an effect was put onto are not compared with themselves, where there are enough others
    chosen = others if len(others) >= FEWEST else np.arange(len(controls.rows))
    chosen = np.random.default_rng(0).permutation(chosen)[:CELLS]
    if cells.shape[0] >= FEWEST <= len(chosen):
        genes, called = genes_called(cells, controls.counts[np.sort(chosen)])
        yield NullCheck(context, cells.shape[0], len(chosen), genes, called, of)


def _zero_effect(
    plan: Plan, context: str, controls: _Controls, repairs: tuple[str, ...]
) -> tuple[sp.csr_matrix, np.ndarray, str]:
    """Return counts of cells without an effect, the rows of the control file that they start from, and what they are."""
    if keys.PREDICTED in plan.source.kinds:
        spec = replace(plan.spec, rules=replace(plan.spec.rules, controls="optional", cells_per_perturbation=0), targets=None)
        taken = (context,) if context else plan.source.contexts
        source = replace(plan.source, kinds=(keys.PREDICTED_CONTROL,), contexts=taken)
        own = make_plan(source, replace(spec, contexts=taken if context else ()), repairs, plan.counts)
        if own.change is not None and own.n_cells >= FEWEST:
            own = own.first(CELLS)
            parts, done = [], 0
            for part, _ in own.blocks():
                parts.append(own.change.apply(part, done))  # type: ignore[union-attr]
                done += part.shape[0]
            used = own.donors.rows if own.donors is not None else np.empty(0, np.int64)
            return sp.vstack(parts, format="csr"), used, "predicted control cells"
    # half of the control cells at most, so that others are left to compare with
    some = np.random.default_rng(1).permutation(len(controls.rows))[: min(CELLS, len(controls.rows) // 2)]
    cells = Normalise(1e4).apply(controls.counts[np.sort(some)].astype(np.float32), 0)
    change = plan.change
    if isinstance(change, FillGenes):
        change = change.inner
    # cells on their control cells are of a result, which has predicted control cells
    assert isinstance(change, ToCounts)
    place = min((plan.wanted or ("",)).index(context), len(change.libraries) - 1)
    change = replace(change, codes=np.full(cells.shape[0], place, np.int32))
    return change.apply(cells, 0), controls.rows[some], "control cells"


def _controls(plan: Plan, context: str) -> _Controls | None:
    """Return the control cells of a context from the first control file that has enough of them as counts."""
    rules = plan.spec.rules
    for path in plan.source.cell_files:
        try:
            opened = open_controls(path, replace(plan.source, matrix="X", gene_column=gene_column(path, plan.genes)), rules)
            keep = control_cells(opened, rules)
            if context:
                keep = keep & (opened.contexts.where(context) if opened.contexts else False)
            elif plan.source.contexts and opened.contexts:
                keep = keep & np.any([opened.contexts.where(c) for c in plan.source.contexts], axis=0)
            rows = np.random.default_rng(2).permutation(np.flatnonzero(keep))[: 3 * CELLS]
            donors = donors_at(path, plan.source, rules, np.sort(rows), plan.genes)
        except StateError:
            continue  # reported where library sizes are taken
        if donors is not None and donors.scale == "counts" and len(rows) >= FEWEST:
            return _Controls(donors.read(0, len(rows))[0], path, np.sort(rows))
    return None


def _findings(checks: list[NullCheck]) -> list[Finding]:
    bad = [c for c in checks if c.called > MOST_CALLED * c.genes]
    words = [
        f"{f'{c.context}: ' if c.context else ''}{part_of(c.called, c.genes, 'gene')} ({c.cells:,} {c.of}, {plural(c.controls, 'control')})"
        for c in (bad or checks)
    ]
    if not bad:
        return [
            found(
                "null-check", "note", "Effect zero, sent through the same steps, gives control cells: genes called.", names=words
            )
        ]
    title = f"Effect zero, sent through the same steps, calls more than {MOST_CALLED:.0%} of the genes: these are false."
    fix = "Choose the rounding that follows the kind of prediction (auto), or expect as many false genes in each perturbation."
    return [found("null-check", "warning", title, fix, names=words)]
