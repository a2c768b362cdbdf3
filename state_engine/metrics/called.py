"""Metrics of differential expression that are computed here, from the same tests as everywhere (`metrics.rank_tests`).

Genes are called by FDR < 0.05 (`metrics.rules.significant`); among those called in predicted cells the effect decides the order, not p, which
falls with the number of predicted cells, and that is a choice.
Both sides are tested with the detection floor, each against its control.

The metrics `de_wilcoxon_…` are cell-eval2's (v2) but for the floor, the fold changes, and the order in the area under the curve.

Notation: g genes; S the genes called in the measurement, P those called in the prediction.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from state_engine.metrics.profile import TARGET
from state_engine.metrics.rank_tests import RankTests, against_reference
from state_engine.metrics.rules import significant
from state_engine.progress import OnProgress, silent


def rank_tests_of(cells: ad.AnnData, control: str, on_progress: OnProgress = silent) -> RankTests:
    """Test every perturbation of the cells (label in obs `TARGET`, log1p expression) against their control."""
    labels = cells.obs[TARGET].to_numpy(str)
    groups = {p: cells.X[labels == p] for p in dict.fromkeys(labels.tolist()) if p != control}
    return against_reference(groups, cells.X[labels == control], on_progress=on_progress)


def called_values(predicted: RankTests, measured: RankTests) -> dict[str, dict[str, float]]:
    """Return metric -> perturbation -> value, of the perturbations that both have; what does not exist is left out."""
    sides = [(tests.fdr, tests.log2_fold_change, {p: i for i, p in enumerate(tests.groups)}) for tests in (predicted, measured)]
    (own_fdr, own_fold, own_row), (real_fdr, real_fold, real_row) = sides
    values: dict[str, dict[str, float]] = {}
    for p in own_row.keys() & real_row.keys():
        i, j = own_row[p], real_row[p]
        found = condition_values(significant(own_fdr[i]), own_fold[i], significant(real_fdr[j]), real_fold[j])
        for metric, value in found.items():
            if np.isfinite(value):
                values.setdefault(metric, {})[p] = value
    return values


def condition_values(
    own: NDArray[np.bool_], own_fold: NDArray[np.float64], real: NDArray[np.bool_], real_fold: NDArray[np.float64]
) -> dict[str, float]:
    """Return the metrics of one condition, NaN where one does not exist.

    Args:
        own, real: (g,) genes called in predicted and in measured cells.
        own_fold, real_fold: (g,) their log2 fold changes.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    k, n_own = int(real.sum()), int(own.sum())
    varied = k > 1 and np.ptp(own_fold[real]) > 0 and np.ptp(real_fold[real]) > 0
    return {
        "de_called": n_own / k if k else np.nan,
        "de_genes": n_own,
        "de_wilcoxon_overlap": _shared(own, own_fold, real, real_fold, k),
        # a prediction in which nothing is called is right about nothing
        "de_wilcoxon_precision": _shared(own, own_fold, real, real_fold, n_own) if n_own else 0.0,
        "de_wilcoxon_direction_match": _mean(np.sign(own_fold[real]) == np.sign(real_fold[real])),
        "de_wilcoxon_lfc_spearman": float(spearmanr(own_fold[real], real_fold[real]).statistic) if varied else np.nan,
        "de_wilcoxon_sig_recall": _mean(own[real]),
        "de_wilcoxon_pr_auc": float(average_precision_score(real, np.abs(own_fold))) if 0 < k < len(real) else np.nan,
    }


def _shared(own: NDArray, own_fold: NDArray, real: NDArray, real_fold: NDArray, k: int) -> float:
    """Return the share of the k called genes with the largest fold changes that both sides have."""
    first, second = _largest(own, own_fold, k), _largest(real, real_fold, k)
    return len(np.intersect1d(first, second)) / k if k else np.nan


def _largest(called: NDArray[np.bool_], fold: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    genes = np.flatnonzero(called)
    return genes[np.argsort(-np.abs(fold[genes]), kind="stable")[:k]]


def _mean(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else np.nan
