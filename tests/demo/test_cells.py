"""The simulated demo data: real symbols, counts, and responses a biologist would recognise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from state_engine.demo.cells import CELL_TYPES, CONTROL, HELD_OUT, Design, read_programs, simulate, write_simulated
from state_engine.errors import ConfigError


@pytest.fixture(scope="module")
def data():
    return simulate(Design(n_cells=3000))


def log_mean(data, perturbation: str, cell_type: str, gene: str) -> float:
    rows = (data.obs["perturbation"] == perturbation).to_numpy() & (data.obs["cell_type"] == cell_type).to_numpy()
    counts = data.X[rows]
    depth = np.asarray(counts.sum(axis=1)).ravel()
    share = np.asarray(counts[:, data.var_names.get_loc(gene)].todense()).ravel() / depth
    return float(np.log1p(1e4 * share).mean())


def effect(data, perturbation: str, cell_type: str, gene: str) -> float:
    return log_mean(data, perturbation, cell_type, gene) - log_mean(data, CONTROL, cell_type, gene)


def test_it_is_counts_labelled_as_simulated(data):
    assert data.shape == (3000, 1300) and data.var_names.is_unique
    assert data.X.format == "csr" and data.X.dtype == np.float32
    assert (data.X.data == np.round(data.X.data)).all() and data.X.data.min() >= 1
    assert data.uns["simulated"] is True and "imulated" in data.uns["title"]
    assert set(data.uns["held_out"]) == {f"{c} x {p}" for c, p in HELD_OUT}


def test_every_label_is_in_every_cell_type_and_batch(data):
    table = data.obs.groupby(["perturbation", "cell_type", "batch"], observed=False).size()
    assert len(table) == 15 * 5 * 2 and table.min() >= 1
    assert (data.obs["perturbation"] == CONTROL).mean() == pytest.approx(0.25, abs=0.01)
    assert all(c in CELL_TYPES and p in set(data.obs["perturbation"]) for c, p in HELD_OUT)


@pytest.mark.parametrize("gene", ["ISG15", "IFI6", "MX1"])
def test_interferon_beta_raises_its_genes_everywhere_and_most_in_monocytes(data, gene):
    effects = {cell_type: effect(data, "IFN-beta", cell_type, gene) for cell_type in CELL_TYPES}
    assert min(effects.values()) > 0.3
    assert max(effects, key=lambda t: effects[t]) == "CD14 monocyte"


@pytest.mark.parametrize("perturbation", [p for p in read_programs().perturbations if p.startswith("CRISPRi")])
def test_crispri_lowers_its_target(data, perturbation):
    target = perturbation.removeprefix("CRISPRi ")
    before = np.mean([log_mean(data, CONTROL, t, target) for t in CELL_TYPES])
    after = np.mean([log_mean(data, perturbation, t, target) for t in CELL_TYPES])
    assert after < 0.6 * before


def test_responses_belong_to_the_right_cell_types(data):
    assert effect(data, "LPS", "CD14 monocyte", "IL1B") > 1.5 > 0.2 > effect(data, "LPS", "CD4 T", "IL1B")
    assert effect(data, "anti-CD3", "CD4 T", "IL2") > 1.5 > 0.3 > effect(data, "anti-CD3", "B", "IL2")
    assert effect(data, "Dexamethasone", "CD14 monocyte", "CD163") > 1 > 0.2 > effect(data, "Dexamethasone", "NK", "CD163")


@pytest.mark.parametrize(("gene", "home"), [("CD8A", "CD8 T"), ("MS4A1", "B"), ("KLRF1", "NK"), ("LYZ", "CD14 monocyte")])
def test_markers_mark_their_cell_type(data, gene, home):
    others = max(log_mean(data, CONTROL, t, gene) for t in CELL_TYPES if t != home)
    assert log_mean(data, CONTROL, home, gene) > 3 * others + 0.3


def test_counts_vary_more_than_poisson(data):
    rows = (data.obs["perturbation"] == CONTROL).to_numpy() & (data.obs["cell_type"] == "CD4 T").to_numpy()
    counts = data.X[rows].toarray()
    mean = counts.mean(axis=0)
    high = mean > 5
    assert np.median(counts[:, high].var(axis=0) / mean[high]) > 1.5


def test_the_seed_decides_everything(tmp_path: Path):
    design = Design(n_cells=400, seed=3)
    first = write_simulated(tmp_path / "a.h5ad", design).read_bytes()
    assert write_simulated(tmp_path / "b.h5ad", design).read_bytes() == first
    other = simulate(Design(n_cells=400, seed=4))
    assert (other.X != simulate(design).X).nnz > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad"]


def test_too_few_cells_are_refused():
    with pytest.raises(ConfigError, match="50 cells are too few"):
        simulate(Design(n_cells=50))


def test_a_response_of_an_unknown_program_is_refused(tmp_path: Path):
    (tmp_path / "programs.tsv").write_text("program\tlevel\thigher_in\tgenes\nA\t1\t\tISG15\n")
    (tmp_path / "genes.txt").write_text("ACTB\n")
    (tmp_path / "responses.tsv").write_text("perturbation\tprogram\t1\t2\t3\t4\t5\nTNF\tB\t0\t0\t0\t0\t0\n")
    with pytest.raises(ConfigError, match="'TNF' in 'B'"):
        read_programs(tmp_path)
