"""Of the genes predicted to move most, how many did."""

from __future__ import annotations

import numpy as np
import pandas as pd

from state_engine.analysis.effects import EffectComparison
from state_engine.analysis.recall import Found, found_genes, moved_genes


def comparison(**columns: list[float]) -> EffectComparison:
    genes = pd.DataFrame(
        {
            "gene": list("ABCDEF"),
            "observed": [2.0, -1.0, 0.5, 0.1, 0.0, -3.0],
            "observed_fdr": [0.001, 0.01, 0.2, 0.04, 1.0, 0.001],
            # the largest: A right, B the wrong way, C right but not significant
            "corrected": [3.0, 2.0, 1.0, 0.1, 0.0, -0.2],
            **columns,
        }
    )
    return EffectComparison("p", "c", 1, 1, 1, 4, 3, (), genes)


def test_a_gene_moved_when_it_is_significant_and_went_that_way() -> None:
    assert found_genes(comparison(), top=3) == Found(3, 1)
    assert found_genes(comparison(), top=50) == Found(6, 3)


def test_the_first_baseline_there_is_counted_alike() -> None:
    others = [1.0, -1.0, 0.0, 0.0, 0.0, -1.0]
    nothing = [np.nan] * 6
    assert found_genes(comparison(mean_of_other_contexts=others), top=3) == Found(3, 1, "mean of other contexts", 3)
    found = found_genes(comparison(mean_of_other_contexts=nothing, mean_of_other_perturbations=others), top=3)
    assert (found.baseline, found.baseline_moved) == ("mean of other perturbations", 3)


def test_a_method_without_effects_has_no_count() -> None:
    assert moved_genes(comparison(raw=[np.nan] * 6), "raw", 3) is None and moved_genes(comparison(), "raw", 3) is None
    assert moved_genes(comparison(no_change=[0.0] * 6), "no change", 3) is None and moved_genes(comparison(), "corrected", 3) == 1
