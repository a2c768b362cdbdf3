"""Two files of the same cells, stored in another way or with rows that are no genes: every verb gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import FeatureSource, hvg_choice, read_features
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import METRICS
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from tests.small import write_cells
from tests.small_embedding import write_embedding_model

COLUMNS = Choices("perturbation", "control", "cell_type", "")


def molecules(path: Path, of: Path) -> Path:
    """Write the counts of a file with one entry of 1 for each molecule, as some pipelines leave them."""
    cells = anndata.read_h5ad(of)
    counts = cells.X.toarray().astype(int)
    rows, columns = np.nonzero(counts)
    n = counts[rows, columns]
    starts = np.concatenate([[0], np.cumsum(counts.sum(1))])
    cells.X = sp.csr_matrix((np.ones(n.sum(), np.float32), np.repeat(columns, n), starts), shape=counts.shape)
    assert not cells.X.has_canonical_format
    cells.write_h5ad(path)
    return path


def with_other_rows(path: Path, of: Path) -> Path:
    """Write the cells of a file with antibodies and guides beside the genes; perturbed cells carry many of their own guide."""
    cells = anndata.read_h5ad(of)
    rng = np.random.default_rng(1)
    perturbed = (cells.obs["perturbation"] != "control").to_numpy()
    guide = np.where(perturbed, rng.poisson(600, cells.n_obs), rng.poisson(40, cells.n_obs))
    extra = np.column_stack([rng.poisson(90, (cells.n_obs, 3)), guide])
    kinds = ["Gene Expression"] * cells.n_vars + ["Antibody Capture"] * 3 + ["CRISPR Guide Capture"]
    names = [*cells.var_names, "CD3_TotalSeqB", "CD4_TotalSeqB", "CD8_TotalSeqB", "sgTNF"]
    var = pd.DataFrame({"feature_types": pd.Categorical(kinds)}, index=names)
    whole = sp.csr_matrix(np.hstack([cells.X.toarray(), extra]).astype(np.float32))
    anndata.AnnData(whole, obs=cells.obs, var=var).write_h5ad(path)
    return path


def largest_error(predicted: Path, real: Path, output: Path) -> float:
    """Return the largest absolute error of any condition when one file is scored against the other."""
    made = evaluate(EvaluationRequest((PredictedFile(str(predicted)),), str(real), COLUMNS, common_genes=True), output)
    table = pd.read_csv(output / METRICS)
    own = table[(table["method"] == made.methods[0].name) & (table["metric"] == "expr_mae")]
    assert len(own)
    return float(own["value"].abs().max())


def test_molecules_stored_one_by_one_are_the_same_cells(tmp_path: Path) -> None:
    plain = write_cells(tmp_path / "plain.h5ad")
    one_by_one = molecules(tmp_path / "molecules.h5ad", plain)
    a, b = open_dataset(plain), open_dataset(one_by_one)
    assert a.scale == b.scale and a.scale.scale == "counts"
    rows = np.arange(a.n_cells)
    for normalise in (False, True):
        first, second = (read_features(d, FeatureSource("X", None, normalise), rows) for d in (a, b))
        np.testing.assert_allclose(first, second, atol=1e-6)
    assert largest_error(one_by_one, plain, tmp_path / "scores") < 1e-6
    write_embedding_model(tmp_path / "se")
    found = []
    for path in (plain, one_by_one):
        output = path.with_suffix(".npy")
        embed(EmbedRequest(data=str(path), model=str(tmp_path / "se"), device="cpu"), output)
        found.append(np.load(output))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_guides_and_antibodies_beside_the_genes_change_nothing(tmp_path: Path) -> None:
    genes = write_cells(tmp_path / "genes.h5ad")
    everything = with_other_rows(tmp_path / "everything.h5ad", genes)
    opened = open_dataset(everything)
    told = "4 of the 28 rows of var are no genes and are left out: 3 Antibody Capture, 1 CRISPR Guide Capture."
    assert told in opened.notes
    assert hvg_choice(opened, 10).names == hvg_choice(open_dataset(genes), 10).names
    assert largest_error(genes, everything, tmp_path / "a") < 1e-6
    assert largest_error(everything, genes, tmp_path / "b") < 1e-6
