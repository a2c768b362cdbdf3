"""The TOML file of a challenge that does not exist: counts under other labels, controls asked for, other metrics."""

NEXT = """
name = "next"
title = "Challenge of the next year"
values = "counts"
controls = "required"
control = "ctrl"
perturbation_key = "knockdown"
context_key = "line"
n_genes = 150
gene_list_header = "symbol"
n_perturbations = 6
cells_per_perturbation = 40
cells_rule = "exact"
layout = "meta"
gene_list = "genes.csv"
target_list = "targets.csv"
upload = "next submit {archive}"

[[phases]]
name = "only"
contexts = ["A", "B"]

[scoring]
definitions = "v2"
controls = ["predicted"]
baseline = "mean response"
anchor = "replicate"
points = 10.0
lowest = -1.0

[[scoring.metrics]]
name = "de_wilcoxon_sig_recall"
title = "Recall"
more_is_better = true
in_verdict = true
weight = 3.0
meaning = "Share of the responding genes that are found."

[[scoring.metrics]]
name = "pds_l1"
title = "Discrimination"
more_is_better = true
baseline = 0.5
anchor = 0.9
meaning = "Is the right effect the nearest?"
"""
