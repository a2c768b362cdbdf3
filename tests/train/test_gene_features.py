"""A screen of one context whose perturbations are genes: what is held out is trained nowhere, and can be tested all the same."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.choices import everything, suggest_plan
from state_engine.data.splits.plan import FewShot, SplitPlan
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.request import HeldOutRequest
from state_engine.train.fit import train_transition
from state_engine.train.folds import calibrating_perturbations
from state_engine.train.gene_features import gene_features
from tests.train.small import SMALL

GENES = [f"G{i}" for i in range(40)]


@pytest.fixture
def screen(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.repeat(["ctrl", *GENES[:11], "G2+G3"], 24)
    # the first half of the genes varies together, the second by itself
    common = rng.normal(size=(len(labels), 1)) * np.r_[np.ones(20), np.zeros(20)]
    values = rng.poisson(np.exp(2 + 0.7 * common))
    obs = pd.DataFrame({"condition": labels, "cell_type": "K562"}, index=[f"c{i}" for i in range(len(labels))])
    made = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)), obs.astype("category"), pd.DataFrame(index=GENES))
    made.write_h5ad(tmp_path / "screen.h5ad")
    choices = Choices(perturbation_key="condition", control="ctrl", context_key="cell_type")
    return open_dataset(tmp_path / "screen.h5ad", choices)


def split_of(screen: Dataset) -> Split:
    return apply_plan(suggest_plan(screen, "s"), [("s", screen)])


def test_genes_that_vary_together_lie_together(screen: Dataset) -> None:
    found = gene_features(split_of(screen), 0)
    assert found is not None and set(found.labels) == {"ctrl", *GENES[:11], "G2+G3"}
    assert not found.of(["ctrl"]).any()
    np.testing.assert_allclose(found.of(["G2+G3"])[0], found.of(["G2", "G3"]).sum(axis=0), rtol=1e-5)
    together = found.of(["G1", "G4"])
    assert together[0, 0] * together[1, 0] > 0  # the first component is what they share
    assert gene_features(apply_plan(everything(screen, "s"), [("s", screen)]), 0) is None  # nothing is held out


def test_the_suggested_split_of_one_context_can_be_tested(screen: Dataset, tmp_path: Path) -> None:
    split = split_of(screen)
    card = train_transition(split, SMALL.with_settings(hvgs=0), tmp_path / "run")
    assert card.perturbation_encoding == "features" and card.unseen
    made = evaluate_held_out(HeldOutRequest(str(tmp_path / "run"), device="cpu"), tmp_path / "test")
    assert {c.perturbation for c in made.conditions} <= set(card.unseen)
    assert made.value("corrected", "expr_mae") is not None and made.value("mean of the context", "expr_mae") is not None
    assert made.value("ridge", "expr_mae") is not None  # on the vectors that the training made


COMBINED = ["A", "B", "C", "D", "E", "F", "A+B", "C+D", "E+F", "A+C", "X"]


@pytest.fixture
def combinations(tmp_path: Path) -> Dataset:
    """A screen of one context whose perturbations are no genes of the data: each single one moves genes of its own, pairs move both."""
    rng = np.random.default_rng(0)
    singles = {label: rng.normal(size=40) * (rng.random(40) < 0.4) for label in "ABCDEFX"}
    labels = np.repeat(["ctrl", *COMBINED], 40)
    effects = {label: sum(singles[part] for part in label.split("+")) for label in COMBINED} | {"ctrl": np.zeros(40)}
    values = rng.poisson(np.exp(2 + np.array([effects[label] for label in labels])))
    obs = pd.DataFrame({"condition": labels, "cell_type": "K562"}, index=[f"c{i}" for i in range(len(labels))])
    made = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)), obs.astype("category"), pd.DataFrame(index=GENES))
    made.write_h5ad(tmp_path / "combinations.h5ad")
    return open_dataset(
        tmp_path / "combinations.h5ad", Choices(perturbation_key="condition", control="ctrl", context_key="cell_type")
    )


def held_out(dataset: Dataset, *labels: str) -> Split:
    plan = SplitPlan((("s", str(dataset.path)),), ("s",), fewshot=(FewShot("s", "K562", test=labels),))
    return apply_plan(plan, [("s", dataset)])


def test_combinations_are_told_by_their_parts(combinations: Dataset) -> None:
    found = gene_features(held_out(combinations, "A+B", "X"), 0)
    assert found is not None and found.vectors.shape[1] == 6  # of X, which nothing else has, nothing is known
    np.testing.assert_array_equal(found.of(["A+B"])[0], found.of(["A", "B"]).sum(axis=0))
    assert not found.of(["X"]).any() and not found.of(["ctrl"]).any()
    assert gene_features(held_out(combinations, "X"), 0) is None


def test_perturbations_trained_nowhere_are_weighed_by_leaving_others_out(combinations: Dataset, tmp_path: Path) -> None:
    split = held_out(combinations, "A+B")
    left = calibrating_perturbations(split)
    assert len({p for *_, p in left}) == 2 and "A+B" not in {p for *_, p in left}
    card = train_transition(split, SMALL.with_settings(hvgs=0, calibrate=True, cross_fit=True, steps=20), tmp_path / "run")
    found = card.calibration
    assert found is not None and (found.kind, found.origin) == ("perturbations", "left-out perturbations")
    assert (
        found.conditions == 2 and found.features > 0 and found.mean == 0 and {"mae_features", "mae_common"} <= set(found.scores)
    )
    made = evaluate_held_out(HeldOutRequest(str(tmp_path / "run"), device="cpu"), tmp_path / "test")
    ours, nothing = made.value("calibrated", "expr_mae"), made.value("no change", "expr_mae")
    assert ours < 0.8 * nothing and made.value("ridge", "expr_mae") < nothing
