"""The two profiles of the house: "minimal" on mean expression, "full" with differential expression. Plain values only.

Both use the second definitions of cell-eval2 (v2). One metric is computed here, the cosine of effects.
"""

from __future__ import annotations

from typing import Final

from state_engine.metrics.profile import Metric, Profile

COSINE: Final = "delta_cosine"

_MEANS: Final = (
    Metric(
        "expr_mae", "MAE", False, "Mean absolute error of mean expression (log1p) over all genes. 0 is best.",
        on="means", in_verdict=True,
    ),
    Metric("expr_mse", "MSE", False, "Mean squared error of mean expression (log1p) over all genes. 0 is best.", on="means"),
    Metric(
        "delta_pearson",
        "Pearson",
        True,
        "Correlation of predicted and measured effects (mean expression minus the control's) over all genes. 1 is best; it does not see "
        "effects of the wrong size. It does not exist for an effect that is the same for every gene.",
        on="means",
        in_verdict=True,
    ),
    Metric(
        COSINE, "Cosine", True, "Cosine of predicted and measured effects over all genes. 1 is best, 0 is unrelated.", on="means"
    ),
    Metric(
        "pds_l1",
        "PDS",
        True,
        "Perturbation discrimination: the measured effects of a context are ranked by their distance (L1) to the predicted effect; "
        "1: the right one is nearest, 0.5: chance. It needs two perturbations in a context.",
        on="means",
        needs_two=True,
        in_verdict=True,
    ),
)  # fmt: skip
_CELLS: Final = (
    Metric(
        "de_wilcoxon_overlap",
        "DE overlap",
        True,
        "Of the k genes that change significantly in the measurement (FDR < 0.05), the share among the k significant genes with the "
        "largest predicted fold changes. 1 is best.",
        in_verdict=True,
    ),
    Metric(
        "de_wilcoxon_precision",
        "DE precision",
        True,
        "Of the genes that change significantly as predicted, the share that is also among as many with the largest measured fold "
        "changes. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_direction_match",
        "DE direction",
        True,
        "Share of the genes significant in the measurement whose predicted fold change has the same sign. 1 is best, 0.5 is chance.",
    ),
    Metric(
        "de_wilcoxon_lfc_spearman",
        "DE fold changes",
        True,
        "Rank correlation of predicted and measured fold changes over the genes significant in the measurement. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_sig_recall",
        "DE recall",
        True,
        "Share of the genes significant in the measurement that are significant as predicted. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_pr_auc",
        "DE PR-AUC",
        True,
        "Area under the precision-recall curve of finding the significant genes by the predicted p-values. 1 is best.",
    ),
)
HOUSE: Final = {
    profile.name: profile
    for profile in (
        Profile(_MEANS, "minimal", "Mean expression (seconds)"),
        Profile((*_MEANS, *_CELLS), "full", "Mean expression and differential expression"),
    )
}
