"""Names of AnnData fields that STATE Explorer writes or looks for, in one place."""

from __future__ import annotations

from typing import Final

# obs columns of a result
PERTURBATION: Final = "perturbation"
CONTEXT: Final = "context"
BATCH: Final = "batch"
KIND: Final = "kind"
BASAL_CELL: Final = "basal_cell"
BASAL_ROW: Final = "basal_row"  # of the data set: names of cells may repeat
CELL_SET: Final = "cell_set"
CONFIDENCE: Final = "predicted_loss"
FALLBACK: Final = "fallback"

# values of KIND
PREDICTED: Final = "predicted"
PREDICTED_CONTROL: Final = "predicted control"
OBSERVED_CONTROL: Final = "observed control"
OBSERVED: Final = "observed"
KINDS: Final = (PREDICTED, PREDICTED_CONTROL, OBSERVED_CONTROL, OBSERVED)
KIND_WORDS: Final = {
    PREDICTED: "predicted", PREDICTED_CONTROL: "predicted control", OBSERVED_CONTROL: "measured control", OBSERVED: "measured",
}  # fmt: skip
"""How a reader is told of a kind; files keep the values above, which other programs read."""

RAW_LAYER: Final = "raw"
CALIBRATED_LAYER: Final = "calibrated"
CORRECTED_LAYER: Final = "corrected"  # only where X is the calibrated prediction; else X is the corrected one
MANIFEST: Final = "state_explorer"
X_KIND: Final = "kind"  # field of the manifest: what kind of prediction X is
UNKNOWN: Final = "unknown"  # field of the manifest: labels that the model does not know, and what stands for them
X: Final = "X"

# what a data set without a context or batch column gets
ALL: Final = "all cells"

# suggestions only: the user's word decides
PERTURBATION_ALIASES: Final = (
    "perturbation", "gene", "target_gene", "condition", "perturbation_name", "pert", "guide_target", "drugname_drugconc",
    "drug", "treatment", "stimulation", "stim", "cytokine", "guide", "sgRNA",
)  # fmt: skip
CONTEXT_ALIASES: Final = (
    "context", "cell_type", "celltype", "cell_line", "cell_name", "cell_line_id", "cell_types", "louvain", "leiden", "donor",
)  # fmt: skip
BATCH_ALIASES: Final = (
    "batch", "gem_group", "batch_var", "plate", "lane", "replicate", "donor", "sample", "library", "gem", "dataset",
)  # fmt: skip
CONTROL_ALIASES: Final = (
    "non-targeting", "control", "ctrl", "NT", "DMSO", "DMSO_TF", "[('DMSO_TF', 0.0, 'uM')]", "PBS", "vehicle", "untreated",
    "unperturbed", "unstimulated", "mock", "NTC", "negative control", "safe-targeting", "none", "wt", "WT",
)  # fmt: skip
GENE_COLUMN_ALIASES: Final = (
    "gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "feature_name", "gene_short_name", "hgnc_symbol",
    "gene_id", "gene_ids", "ensembl_id", "feature_id",
)  # fmt: skip
