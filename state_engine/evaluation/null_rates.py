"""How many genes are called where nothing changes: what a test of predicted cells calls by itself, without any effect.

Tested as conditions are (`metrics.rank_tests`, FDR < 0.05, the detection floor): predicted control cells against the control cells that
effects start from; for baselines control cells drawn as theirs, with an effect of zero; for the measured cells one half of the control
cells against the other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.sparse as sp

from state_engine.evaluation.baselines import baseline_cells
from state_engine.evaluation.compared import Side, sparse_cells
from state_engine.evaluation.scoring import MEASURED, Row, Scored
from state_engine.metrics.rank_tests import against_reference
from state_engine.metrics.rules import significant
from state_engine.progress import OnProgress, Progress

METRIC: Final = "de_null"
MOST_CELLS: Final = 2000  # of each side
FEWEST: Final = 3


def score_null(scored: Scored, on_progress: OnProgress) -> list[Row]:
    """Return the metric for each method and context that has control cells enough."""
    if scored.profile.metric(METRIC) is None or scored.request.cell_eval:
        return []
    files, rows = scored.files, []
    for number, context in enumerate(files.contexts):
        on_progress(Progress("Testing control cells", number, len(files.contexts)))
        places = files.real.rows(files.control, context)
        control = sparse_cells(files.real, places)
        one, other = _halves(control)
        found = [(MEASURED, 0, _called(one, other))]
        n = int(np.median([scored.real.n(p, context) for p in files.of(context)]))
        zero, _ = baseline_cells(files, np.zeros(len(files.genes)), context, min(n, MOST_CELLS), scored.request.seed)
        without = _called(sp.csr_matrix(zero), control)
        said = [b for b in scored.baselines if any((p, context) in b.effects for p in files.of(context))]
        found += [(baseline.name, 0, without) for baseline in said]
        for method, sides in files.predicted.items():
            for seed, side in enumerate(sides, 1):
                own = _own_control(side, files.control, context)
                if own is not None and scored.request.control_source == "predicted":
                    found.append((method, seed, _called(*_halves(own))))
                elif own is not None:
                    found.append((method, seed, _called(own, control)))
        rows += [Row(method, seed, "", context, METRIC, share) for method, seed, share in found if share is not None]
    return rows


def _called(cells: sp.csr_matrix, control: sp.csr_matrix) -> float | None:
    """Return the share of the genes that are called; None for too few cells."""
    if min(cells.shape[0], control.shape[0]) < FEWEST:
        return None
    return float(significant(against_reference({"none": cells}, control).fdr[0]).mean())


def _halves(cells: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    mixed = np.random.default_rng(0).permutation(cells.shape[0])[: 2 * MOST_CELLS]
    return cells[mixed[: len(mixed) // 2]], cells[mixed[len(mixed) // 2 :]]


def _own_control(side: Side, control: str, context: str) -> sp.csr_matrix | None:
    """Return predicted control cells; None where the file has none, or its layer says nothing of them (NaN)."""
    rows = side.rows(control, context)[:MOST_CELLS]
    if not len(rows) or np.isnan(side.dataset.read(side.source.representation, rows)).any():
        return None
    return sparse_cells(side, rows)
