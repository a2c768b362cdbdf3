"""One decision on the expression scale, from evidence, with the evidence told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import open_dataset
from state_engine.data.describe import summary_lines
from state_engine.data.files.safety import check_file
from state_engine.data.scale import ScaleDecision, decide_scale, scale_of_file
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan
from state_engine.errors import IncompatibleError, ScaleError
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.train.cells import choose_inputs
from state_engine.train.request import TrainRequest
from tests.data.good_files import cells, counts, write
from tests.small import write_cells, write_model


def decide(x: np.ndarray, **options: object) -> ScaleDecision:
    stored = sp.coo_matrix(x)
    return decide_scale(stored.data, stored.row, x.shape[0], **options)


def normalised(depth: float = 1e4) -> np.ndarray:
    x = counts(80, 200, 3)
    return x / x.sum(1, keepdims=True) * depth


def test_counts() -> None:
    found = decide(counts())
    assert (found.scale, found.by, found.depth) == ("counts", "evidence", None)
    assert "whole numbers" in found.evidence[0]


@pytest.mark.parametrize("depth", [1e4, 2_345.0, 1e6])
def test_log1p_of_a_shared_depth(depth: float) -> None:
    found = decide(np.log1p(normalised(depth)))
    assert found.scale == "log1p"
    assert found.depth == pytest.approx(depth, rel=1e-3)


def test_log1p_of_some_genes_has_no_shared_depth() -> None:
    found = decide(np.log1p(normalised())[:, :20])
    assert (found.scale, found.depth) == ("log1p", None)


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (normalised(), "no logarithm was taken"),
        (np.log2(normalised() + 1), "log2"),
        (np.log10(normalised() + 1), "log10"),
        (normalised()[:, :20] + 0.5, "not whole as counts are"),
        (np.log1p(normalised()) - 1, "centred or scaled"),
        (np.where(counts() > 2, np.nan, counts()), "are not numbers"),
        (np.where(counts() > 2, np.inf, counts()), "are not numbers"),
        (np.zeros((5, 5)), "are zero"),
    ],
)
def test_neither_says_what_it_is(x: np.ndarray, word: str) -> None:
    found = decide(x)
    assert found.scale is None
    assert word in " ".join(found.evidence)
    assert found.fix
    with pytest.raises(ScaleError, match=word):
        found.require()


def test_the_users_word_is_recorded_and_disagreement_told() -> None:
    x = normalised()[:, :20] + 0.5
    found = decide(x, wanted="counts")
    assert (found.scale, found.by) == ("counts", "user")
    assert found.evidence[0] == "You set the scale to counts; the values look like neither."
    assert decide(counts(), wanted="counts").evidence[0] == "You set the scale to counts."
    assert decide(np.log1p(normalised()), wanted="counts").depth is None


def test_the_users_word_cannot_make_negative_values_counts() -> None:
    with pytest.raises(ScaleError, match=r"cannot be counts\..*go down to -1"):
        decide(counts() - 1, wanted="counts")


def test_require_a_certain_scale() -> None:
    assert decide(counts()).require("counts", "log1p") == "counts"
    with pytest.raises(ScaleError, match="are counts, log1p is needed"):
        decide(counts()).require("log1p")


def test_scanpys_mark_is_evidence(tmp_path: Path) -> None:
    made = cells()
    made.X = sp.csr_matrix(np.log1p(normalised())[:60, :12].astype(np.float32))
    made.uns["log1p"] = {"base": None}
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert "The file carries scanpy's log1p mark." in data.scale.evidence


def test_a_late_fraction_is_not_overlooked(tmp_path: Path) -> None:
    made = cells(n=40_000)
    x = made.X.toarray()
    x[-1, 0] = 0.5
    made.X = sp.csr_matrix(x)
    assert open_dataset(write(made, tmp_path / "x.h5ad")).scale.scale != "counts"


def test_large_files_by_gene_are_decided_from_values_alone(tmp_path: Path) -> None:
    facts = check_file(write(cells(n=400, layout="csc"), tmp_path / "x.h5ad"))
    assert scale_of_file(facts, "X", False, None, whole=200).scale == "counts"
    found = scale_of_file(facts, "layers/log1p", False, None, whole=200)
    assert (found.scale, found.depth) == ("log1p", None)


def test_another_depth_is_noted(tmp_path: Path) -> None:
    made = cells()
    made.X = sp.csr_matrix(np.log1p(normalised(2_000)).astype(np.float32)[:60])[:, :12]
    made.X = sp.csr_matrix(np.log1p(counts() / np.maximum(counts().sum(1, keepdims=True), 1) * 2_000).astype(np.float32))
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert any("normalised to 2,000 per cell" in n for n in data.notes)


# ---- transformations that look like log1p ----

COUNTS = np.random.default_rng(3).negative_binomial(0.4, 0.12, size=(80, 300)).astype(float)
LIBRARY = COUNTS / COUNTS.sum(axis=1, keepdims=True)
TRANSFORMED = {
    "twice": (np.log1p(np.log1p(LIBRARY * 1e4)), "log1p was taken twice"),
    "twice, few genes": (np.log1p(np.log1p(LIBRARY * 1e4))[:, ::4], "log1p was taken twice"),
    "square roots": (np.sqrt(COUNTS), "square roots of counts"),
    "normalised, few genes": ((LIBRARY * 50)[:, ::4], "no logarithm was taken"),
    "log2, few genes": (np.log2(LIBRARY * 1e4 + 1)[:, ::4], "log2"),
    "fractions": (LIBRARY, "normalised, but no logarithm"),
    "0 to 1": (np.log1p(LIBRARY * 1e4) / np.log1p(LIBRARY * 1e4).max(), "between 0 and 1"),
    "corrected counts": (np.where(COUNTS > 0, np.minimum(COUNTS, 14) + 1e-4, 0), "nearly whole"),
}


def decided(values: np.ndarray) -> ScaleDecision:
    stored = sp.coo_matrix(values.astype(np.float32))
    return decide_scale(stored.data, stored.row, len(values))


@pytest.mark.parametrize("name", TRANSFORMED)
def test_other_transformations_are_named(name: str) -> None:
    values, words = TRANSFORMED[name]
    decision = decided(values)
    assert decision.scale is None and words in " ".join(decision.evidence) and decision.fix


@pytest.mark.parametrize(
    "values", [np.log1p(LIBRARY * 1e4), np.log1p(LIBRARY * 1e4)[:, ::4], np.log1p(COUNTS), np.log1p(LIBRARY * 500)]
)
def test_log1p_stays_log1p(values: np.ndarray) -> None:
    assert decided(values).scale == "log1p"


def test_a_file_with_nothing_but_raw_says_so(tmp_path: Path) -> None:
    whole = cells()
    bare = anndata.AnnData(obs=whole.obs, var=whole.var)
    write(bare, tmp_path / "bare.h5ad")
    bare.raw = whole
    write(bare, tmp_path / "raw.h5ad")
    data = open_dataset(tmp_path / "raw.h5ad")
    assert data.expression is None and "Its 'raw' part has a matrix: choose it as the expression" in data.scale.fix
    assert "raw" not in open_dataset(tmp_path / "bare.h5ad").scale.fix


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.log1p(LIBRARY * 1e4)[:, ::4], "whole multiples of the smallest once the log1p is undone"),
        (np.log1p(COUNTS), "counts that were not normalised before"),
    ],
)
def test_log1p_without_a_shared_depth_has_its_evidence(values: np.ndarray, words: str) -> None:
    decision = decided(values)
    assert decision.scale == "log1p" and decision.depth is None and words in decision.evidence[-1]


# ---- each transformation in a file: told on inspection, refused by predict and train ----


def transformed(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    made = anndata.read_h5ad(write_cells(path))
    made.X = change(made.X.toarray().astype(float)).astype(np.float32)
    made.write_h5ad(path)
    return path


def per_cell(x: np.ndarray, depth: float) -> np.ndarray:
    return x / x.sum(axis=1, keepdims=True) * depth


REFUSED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "log2": (lambda x: np.log2(per_cell(x, 1e4) + 1), "not the natural logarithm"),
    "log10": (lambda x: np.log10(per_cell(x, 1e4) + 1), "not the natural logarithm"),
    "twice": (lambda x: np.log1p(np.log1p(per_cell(x, 1e4))), "log1p was taken twice"),
    "square roots": (np.sqrt, "square roots of counts"),
    "fractions": (lambda x: per_cell(x, 1), "no logarithm was taken"),
    "0 to 1": (lambda x: np.log1p(per_cell(x, 1e4)) / 20, "between 0 and 1"),
    "z-scores": (lambda x: (x - x.mean(0)) / x.std(0), "z-scores"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_other_transformations_are_told_and_refused(tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    path = transformed(tmp_path / "cells.h5ad", change)
    data = open_dataset(path)
    assert any(words in note for note in data.notes) and any(words in line for line in summary_lines(data))
    write_model(tmp_path / "model")
    asked = PredictionRequest(str(path), str(tmp_path / "model"), ("IFNB1",), cells=8, device="cpu")
    with pytest.raises(IncompatibleError, match=words):
        predict(asked, tmp_path / "r.h5ad")
    plan = SplitPlan((("d", str(path)),), ("d",), (), (FewShot("d", "B", test=("TNF",)),))
    with pytest.raises(ScaleError, match=words):
        choose_inputs(apply_plan(plan, [("d", data)]), TrainRequest())


@pytest.mark.parametrize(("base", "scale"), [(None, "log1p"), (float(np.e), "log1p"), (2, None), (10.0, None)])
def test_the_base_of_the_mark_counts_where_the_values_show_none(tmp_path: Path, base: float | None, scale: str | None) -> None:
    made = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    made.X = np.random.default_rng(0).uniform(0.5, 4, made.shape).astype(np.float32)
    made.uns["log1p"] = {} if base is None else {"base": base}
    made.write_h5ad(tmp_path / "cells.h5ad")
    found = open_dataset(tmp_path / "cells.h5ad").scale
    assert found.scale == scale
    assert scale or f"records base {base:g}" in found.evidence[-1]
    made.X = np.log1p(per_cell(np.arange(1.0, made.X.size + 1).reshape(made.shape), 1e4)).astype(np.float32)
    made.write_h5ad(tmp_path / "cells.h5ad")
    assert open_dataset(tmp_path / "cells.h5ad").scale.depth == pytest.approx(
        1e4, rel=1e-3
    )  # the values show the natural logarithm
