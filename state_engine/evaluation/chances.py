"""How well a table's P(DE) finds the genes that change in the measurement: the area under the precision-recall curve.

Boundary: numpy; tests by `metrics.rank_tests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from state_engine.evaluation.foreign_effects import ForeignEffects
from state_engine.evaluation.scoring import Row, Scored
from state_engine.metrics.profile import Metric
from state_engine.metrics.rank_tests import against_reference
from state_engine.progress import OnProgress, Progress

CHANCES: Final = Metric(
    "p_de_auprc", "P(DE) PR-AUC", True,
    "Area under the precision-recall curve of finding the genes that change in the measurement (FDR < 0.05) by the table's P(DE). 1 is best.",
    by="here",
)  # fmt: skip
FDR: Final = 0.05


def score_chances(scored: Scored, tables: Mapping[str, ForeignEffects], on_progress: OnProgress) -> list[Row]:
    """Return the metric for each condition of each table with P(DE), where some gene changes and some does not.

    A gene without a probability counts as 0.
    """
    from sklearn.metrics import average_precision_score

    files, rows = scored.files, []
    for number, (p, c) in enumerate(files.conditions):
        on_progress(Progress("Testing genes for P(DE)", number, len(files.conditions)))
        said = {m: t for m, t in tables.items() if t.chances is not None and (p, c) in files.said[m]}
        if not said:
            continue
        cells, control = (np.vstack([v for _, v in files.real.blocks(files.real.rows(name, c))]) for name in (p, files.control))
        changes = against_reference({p: cells}, control).fdr[0] < FDR
        if not changes.any() or changes.all():
            continue
        for method, table in said.items():
            at, place = table.row(p, c), {gene: i for i, gene in enumerate(table.genes)}
            assert at is not None and table.chances is not None
            # one more column, of nothing, for compared genes that the table lacks
            known = np.append(np.nan_to_num(table.chances[at]), 0)
            chances = known[[place.get(gene, -1) for gene in files.genes]]
            rows.append(Row(method, 1, p, c, CHANCES.name, float(average_precision_score(changes, chances))))
    return rows
