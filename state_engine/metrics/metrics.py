"""The metrics of each profile: names at the engine, titles, direction and meaning. Plain values only.

Engine: cell-eval2, its second set of definitions (v2) for "minimal" and "full", its first (cell-eval's) for vcc2025. One metric is made
here, the cosine of effects. Metrics on means need one number a gene and perturbation; metrics on cells need the cells.
"""

from __future__ import annotations

from typing import Final

from state_engine.challenge.scores import VCC2025, VCC2026, Metric
from state_engine.evaluation.request import Profile

COSINE: Final = "delta_cosine"

_MEANS: Final = (
    Metric("expr_mae", "MAE", False, "Mean absolute error of mean expression (log1p) over all genes. 0 is best."),
    Metric("expr_mse", "MSE", False, "Mean squared error of mean expression (log1p) over all genes. 0 is best."),
    Metric(
        "delta_pearson",
        "Pearson",
        True,
        "Correlation of predicted and measured effects (mean expression minus the control's) over all genes. 1 is best; it does not see "
        "effects of the wrong size. It does not exist for an effect that is the same for every gene.",
    ),
    Metric(COSINE, "Cosine", True, "Cosine of predicted and measured effects over all genes. 1 is best, 0 is unrelated."),
    Metric(
        "pds_l1",
        "PDS",
        True,
        "Perturbation discrimination: the measured effects of a context are ranked by their distance (L1) to the predicted effect; "
        "1: the right one is nearest, 0.5: chance. It needs two perturbations in a context.",
    ),
)
_CELLS: Final = (
    Metric(
        "de_wilcoxon_overlap",
        "DE overlap",
        True,
        "Of the k genes that change significantly in the measurement (FDR < 0.05), the share among the k significant genes with the "
        "largest predicted fold changes. 1 is best.",
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
PROFILE_METRICS: Final[dict[Profile, tuple[Metric, ...]]] = {
    "minimal": _MEANS,
    "full": (*_MEANS, *_CELLS),
    "vcc2025": VCC2025,
    "vcc2026": VCC2026,
}
_ON_MEANS_2025: Final = ("mae", "discrimination_score_l1")


def on_means(profile: Profile) -> tuple[str, ...]:
    """Names of the profile's metrics that need mean expression only."""
    if profile == "vcc2025":
        return _ON_MEANS_2025
    return () if profile == "vcc2026" else tuple(m.name for m in _MEANS)


def on_cells(profile: Profile) -> tuple[str, ...]:
    """Names of the profile's metrics that need cells."""
    known = on_means(profile)
    return tuple(m.name for m in PROFILE_METRICS[profile] if m.name not in known)


def metric(profile: Profile, name: str) -> Metric:
    """A metric of a profile by name."""
    return next(m for m in PROFILE_METRICS[profile] if m.name == name)
