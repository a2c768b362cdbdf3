"""Sequencing depths: compared within a context, from counts and from log1p values; counts thinned alike however they are read."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.depth import (
    MOST_CELLS,
    NO_COUNTS,
    THINNED,
    compare_file,
    depth_notes,
    depth_notes_of,
    notes_of_file,
    sample,
    thinned,
    totals,
)
from state_engine.data.depth_record import ContextDepth, EqualDepth
from state_engine.data.describe import describe, summary_lines
from state_engine.data.thinning import Thinning
from state_engine.plain import from_plain, to_plain

GENES = 50
DEEP, SHALLOW = 600, 130


def write(path: Path, log1p: bool = False, layout: str = "csr", cells: int = 40) -> Path:
    """Patient P2's treated cells were read deeper than its controls, P1's were not. All cells alike otherwise."""
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(GENES, 0.8))
    depths = {("P1", "control"): DEEP, ("P1", "drug"): 620, ("P2", "control"): SHALLOW, ("P2", "drug"): DEEP}
    values = np.concatenate([rng.poisson(depth * rates, (cells, GENES)) for depth in depths.values()]).astype(np.float32)
    if log1p:
        values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    obs = pd.DataFrame([pair for pair in depths for _ in range(cells)], columns=["patient", "condition"]).astype("category")
    obs.index = [f"cell {i}" for i in range(len(obs))]
    as_stored = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[layout](values)
    ad.AnnData(as_stored, obs, pd.DataFrame(index=[f"G{i}" for i in range(GENES)])).write_h5ad(path)
    return path


def opened(path: Path) -> Dataset:
    return open_dataset(path, Choices(perturbation_key="condition", control="control", context_key="patient"))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return opened(write(tmp_path / "counts.h5ad"))


def test_medians_of_each_context_are_told(dataset: Dataset) -> None:
    one, two = compare_file(dataset)
    assert (one.context, two.context) == ("P1", "P2") and not one.differs and two.differs
    sums = np.asarray(dataset.read("X", np.arange(dataset.n_cells))).sum(axis=1)
    assert two.control == np.median(sums[dataset.control_rows("P2")]) and two.perturbed == np.median(
        sums[dataset.rows("drug", "P2")]
    )
    (note,) = depth_notes_of(dataset)
    assert f"P2: control cells {two.control:,.0f} UMIs, perturbed {two.perturbed:,.0f}: {two.fold:.1f}-fold" in note
    assert THINNED in note and "P1" not in note
    assert note in describe(dataset)["notes"] and any(note in line for line in summary_lines(dataset))
    assert notes_of_file(dataset.path, dataset.choices) == [note]


def test_depths_of_log1p_values_are_those_of_their_counts(dataset: Dataset, tmp_path: Path) -> None:
    logged = opened(write(tmp_path / "log1p.h5ad", log1p=True))
    assert logged.scale.scale == "log1p" and logged.scale.depth == pytest.approx(1e4, rel=1e-3)
    rows = np.arange(dataset.n_cells)
    # a cell without a gene read once looks shallower than it is
    alike = totals(logged, rows) / totals(dataset, rows)
    assert (np.abs(alike - 1) < 0.001).mean() > 0.98
    assert [d.fold for d in compare_file(logged)] == pytest.approx([d.fold for d in compare_file(dataset)], rel=0.01)
    assert NO_COUNTS in depth_notes_of(logged)[0]


def test_values_that_do_not_tell_give_no_depth(tmp_path: Path) -> None:
    path = write(tmp_path / "some.h5ad", log1p=True)
    data = ad.read_h5ad(path)
    data.X = sp.csr_matrix(np.random.default_rng(0).random(data.shape).astype(np.float32) * 3)  # no steps, no shared sum
    data.write_h5ad(path)
    found = opened(path)
    assert totals(found, np.arange(5)) is None and compare_file(found) == () and depth_notes_of(found) == []


def test_nothing_is_compared_where_nothing_is_perturbed_or_cells_are_few(tmp_path: Path) -> None:
    path = write(tmp_path / "few.h5ad", cells=5)
    assert compare_file(opened(path)) == ()
    assert compare_file(open_dataset(path, Choices(perturbation_key=""))) == ()
    assert depth_notes([ContextDepth("A", 100, 150)], THINNED) == []  # 1.5-fold is not above 1.5-fold


def test_a_sample_is_runs_of_neighbours_over_all_rows() -> None:
    rows = np.arange(0, 20_000, 2)
    found = sample(rows, MOST_CELLS)
    assert len(found) == MOST_CELLS and found[0] == 0 and found[-1] == rows[-1] and set(found) <= set(rows)
    assert (sample(rows[:7], MOST_CELLS) == rows[:7]).all()


def equal(dataset: Dataset, seed: int = 3) -> EqualDepth:
    return EqualDepth(tuple(d for d in compare_file(dataset) if d.differs), seed)


def test_thinned_cells_are_of_one_depth_and_the_others_as_they_were(dataset: Dataset) -> None:
    made = thinned(dataset, equal(dataset))
    _, two = compare_file(made)
    assert two.fold == pytest.approx(1, abs=0.05) and made.hash() == dataset.hash()
    rows = np.arange(dataset.n_cells)
    before, after = dataset.read("X", rows), made.read("X", rows)
    drug = dataset.rows("drug", "P2")
    rest = np.setdiff1d(rows, drug)
    assert (before[rest] == after[rest]).all() and (after <= before).all() and (after == np.rint(after)).all()
    share = equal(dataset).contexts[0].share(False)
    assert after[drug].sum() == pytest.approx(share * before[drug].sum(), rel=0.03)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_a_cell_becomes_the_same_however_it_is_read(layout: str, dataset: Dataset, tmp_path: Path) -> None:
    made, other = thinned(dataset, equal(dataset)), opened(write(tmp_path / "other.h5ad", layout=layout))
    rows = np.arange(dataset.n_cells)
    whole = made.read("X", rows)
    again = thinned(other, equal(other))
    assert (again.read("X", rows) == whole).all()
    shuffled = np.random.default_rng(0).permutation(rows)
    assert (again.read("X", shuffled) == whole[shuffled]).all()
    blocks = np.concatenate([np.asarray(sp.csr_matrix(v).todense()) for _, v in again.iter_blocks("X", rows, 7)])
    assert (blocks == whole).all()
    assert (thinned(other, equal(other, seed=4)).read("X", rows) != whole).any()


def test_what_is_no_count_stays_for_whoever_looks_for_it() -> None:
    values = np.array([[3.0, np.nan, -1.0, np.inf, 0.0]], np.float32)
    made = Thinning(np.array([0.5]), 0).thinned(values, np.array([0]))
    assert np.isnan(made[0, 1]) and made[0, 2] == -1 and np.isinf(made[0, 3]) and made[0, 4] == 0 and made[0, 0] <= 3


def test_without_a_difference_the_data_set_is_the_same_object(dataset: Dataset) -> None:
    assert thinned(dataset, EqualDepth()) is dataset


def test_the_record_is_plain(dataset: Dataset) -> None:
    record = equal(dataset)
    assert from_plain(EqualDepth, to_plain(record)) == record and "P2" in record.words and EqualDepth().words == ""


def test_numbers_beyond_whole_ones_are_left_to_whoever_looks_for_them() -> None:
    found = Thinning(np.array([0.5]), 1).thinned(np.array([[1e30, np.inf, 8.0]]), np.arange(1))
    assert found[0, :2].tolist() == [1e30, np.inf] and found[0, 2] <= 8
