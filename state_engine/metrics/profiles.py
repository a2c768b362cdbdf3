"""The two profiles of the house: "minimal" on mean expression, "full" with differential expression. Plain values only.

Both use the second definitions of cell-eval2 (v2), and metrics of our own (`by="here"`, see `metrics.own`).
"""

from __future__ import annotations

from typing import Final

from state_engine.metrics.profile import Metric, Profile
from state_engine.metrics.rules import BY_CHANGE, BY_FDR

_MEANS: Final = (
    Metric(
        "expr_mae", "MAE", False, "Mean absolute error of mean expression (log1p) over all genes. 0 is best.",
        on="means", in_verdict=True, perfect=0.0,
    ),
    Metric(
        "expr_mse", "MSE", False, "Mean squared error of mean expression (log1p) over all genes. 0 is best.",
        on="means", perfect=0.0, detail=True,
    ),
    Metric(
        "weighted_mse", "Weighted MSE", False,
        "Mean squared error where genes count by how much this perturbation moves them apart from all others (squared Welch t). 0 is best.",
        on="means", by="here", perfect=0.0,
    ),
    Metric(
        "weighted_r2", "Weighted R²", True,
        "Share of the weighted squared distance from the mean of the other perturbations that is explained. 1 is best; that mean itself "
        "scores 0.",
        on="means", by="here", detail=True,
    ),
    Metric(
        "delta_pearson",
        "Pearson",
        True,
        "Correlation of predicted and measured effects (mean expression minus the control's) over all genes. 1 is best; it does not see "
        "effects of the wrong size, and what all perturbations share makes it high. It does not exist for an effect that is the same for "
        "every gene.",
        on="means",
        in_verdict=True,
        perfect=1.0,
    ),
    Metric(
        "pearson_mean", "Pearson against the mean", True,
        "Correlation of predicted and measured differences from the mean of the other perturbations: what is this perturbation's own "
        "(Systema). 1 is best, 0 is no better than that mean.",
        on="means", by="here", perfect=1.0,
    ),
    Metric(
        "weighted_pearson", "Weighted Pearson", True,
        "Correlation of effects with the weights of the weighted MSE. 1 is best.",
        on="means", by="here", perfect=1.0,
    ),
    Metric(
        "delta_cosine", "Cosine", True, "Cosine of predicted and measured effects over all genes. 1 is best, 0 is unrelated.",
        on="means", by="here", detail=True,
    ),
    Metric(
        "pds_l1",
        "PDS",
        True,
        "Perturbation discrimination: the measured effects of a context are ranked by their distance (L1) to the predicted effect; "
        "1: the right one is nearest, 0.5: chance. It needs two perturbations in a context, and depends on the size of all effects (L1).",
        on="means",
        needs_two=True,
        in_verdict=True,
    ),
    Metric(
        "pds_cosine_midrank", "PDS by cosine", True,
        "The same by the angle between effects, so that their size does not count; ties count half.",
        on="means", by="here", needs_two=True,
    ),
    Metric(
        "centroid_accuracy", "Centroid accuracy", True,
        "Share of the other perturbations whose mean cell is farther from the prediction than its own (Systema). 1 is best, 0.5 is chance.",
        on="means", by="here", needs_two=True, detail=True,
    ),
    Metric(
        "slope", "Slope", True,
        "Factor that would make the predicted effect fit the measured one best: above 1 the prediction is too small, below 1 too large.",
        on="means", by="here", describes=True,
    ),
    Metric(
        "best_amplitude", "Best amplitude", True,
        "Factor on all predicted effects of a context, of 0.1 to 4, with which PDS by L1 is best: L1 depends on the size of effects, so a low PDS "
        "may be one of size. Looked for on 100 perturbations at most.",
        on="means", by="here", needs_two=True, describes=True,
    ),
    Metric(
        "amplitude_gain", "PDS gained by it", True, "What PDS by L1 would gain by that factor alone: a matter of size, not of pattern.",
        on="means", by="here", needs_two=True, describes=True,
    ),
    Metric(
        "spread", "Cell spread", True,
        "Standard deviation among predicted cells over that among measured cells, of the median gene: 1 is as varied, below 1 too alike.",
        on="means", by="here", describes=True,
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
        by="here",
    ),
    Metric(
        "de_wilcoxon_precision",
        "DE precision",
        True,
        "Of the genes that change significantly as predicted, the share that is also among as many with the largest measured fold "
        "changes. 1 is best.",
        by="here",
    ),
    Metric(
        "de_wilcoxon_direction_match",
        "DE direction",
        True,
        "Share of the genes significant in the measurement whose predicted fold change has the same sign. 1 is best, 0.5 is chance.",
        by="here",
    ),
    Metric(
        "de_wilcoxon_lfc_spearman",
        "DE fold changes",
        True,
        "Rank correlation of predicted and measured fold changes over the genes significant in the measurement. 1 is best.",
        by="here",
    ),
    Metric(
        "de_wilcoxon_sig_recall",
        "DE recall",
        True,
        "Share of the genes significant in the measurement that are significant as predicted. 1 is best.",
        by="here",
    ),
    Metric(
        "de_wilcoxon_pr_auc",
        "DE PR-AUC",
        True,
        "Area under the precision-recall curve of finding the significant genes by the size of the predicted fold changes. 1 is best; the "
        "share of significant genes is chance.",
        by="here",
    ),
    Metric(
        "energy_pca50",
        "Energy distance",
        False,
        "Energy distance between predicted and measured cells in 50 principal components of the measured cells of the context: means, spread and "
        "shape together. 0 is best; by chance it may be just below. Of at most 2,000 cells of each side.",
        by="here",
    ),
    Metric(
        "wasserstein",
        "Wasserstein distance of a gene",
        False,
        "How far the values of one gene in predicted cells are from those in measured cells (log1p): the median over genes that 5 % of the measured "
        "or control cells express. For Measured one half of the measured cells against the other: fewer cells, so chance weighs more there.",
        by="here",
        describes=True,
    ),
    Metric(
        "expressing_off",
        "Share of expressing cells, off by",
        False,
        "Mean absolute difference, over the same genes, between the shares of predicted and of measured cells that express a gene (above 0).",
        by="here",
        describes=True,
        shown="percent",
    ),
    Metric(
        "de_called",
        f"Genes called ({BY_FDR})",
        True,
        "Genes called in predicted cells over those called in measured cells: 1 is as many.",
        by="here",
        describes=True,
    ),
    Metric(
        "de_genes",
        f"Number of genes called ({BY_FDR})",
        True,
        "Genes called, with the detection floor of the Genes page, for each condition; the column Measured has the real number. It grows with the "
        f"number of cells. Explore, Screen and the Genes page count predicted changes by another rule, {BY_CHANGE}, which does not.",
        by="here",
        describes=True,
        shown="count",
    ),
    Metric(
        "de_null",
        f"Called without effect ({BY_FDR})",
        True,
        "Share of genes called where nothing changes: predicted control cells against measured ones; for baselines control cells drawn again; for "
        "Measured one half of the control cells against the other. What it says of a condition is false.",
        by="here",
        describes=True,
        shown="percent",
    ),
)
HOUSE: Final = {
    profile.name: profile
    for profile in (
        Profile(_MEANS, "minimal", "Mean expression (seconds)"),
        Profile((*_MEANS, *_CELLS), "full", "Mean expression and differential expression"),
    )
}
