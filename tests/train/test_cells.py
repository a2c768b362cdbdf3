"""What a training reads: held-out cells are in no training group, groups are of one kind, what is left out is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import SplitPlan
from state_engine.errors import ConfigError, GeneError, LabelError, RepresentationError, ScaleError
from state_engine.train.cells import Inputs, TrainingCells, choose_inputs, expression_source, read_training_cells
from tests.train.small import NAME, SMALL, make_data, opened

FEW = SMALL.with_settings(genes=("ISG15", "ACTB"))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(path) -> Split:
    return opened(path)


def read(split: Split, folder: Path, request=FEW, **more) -> TrainingCells:
    return read_training_cells(split, choose_inputs(split, request), request, folder, **more)


def rows_of(split: Split) -> np.ndarray:
    """Row of the cache -> row of the only file."""
    return np.flatnonzero(split.sources[0].parts > 0)


def test_what_is_held_out_is_in_no_training_group(split, tmp_path):
    cells = read(split, tmp_path)
    file, parts = rows_of(split), split.sources[0].parts
    for part, code in (("train", 1), ("val", 2), ("test", 3)):
        used = file[np.concatenate([g.cells for g in cells.groups[part]])]
        assert set(parts[used]) == {code} and len(set(used)) == len(used)
    assert "B" not in cells.contexts
    named = {(cells.perturbations[g.perturbation], g.context) for g in cells.groups["val"]}
    assert named == {("TNF", "NK")}
    assert len({(g.perturbation, g.context) for g in cells.groups["test"]}) == 14 + 1
    trained = np.concatenate([np.concatenate([g.cells, g.controls]) for g in cells.groups["train"]])
    assert (parts[file[trained]] == 1).all()


def test_groups_have_one_perturbation_and_context_and_the_controls_of_it(split, tmp_path):
    cells = read(split, tmp_path, FEW.with_settings(control_mapping="batch"))
    dataset, file = split.sources[0].dataset, rows_of(split)
    p, c, b = dataset.perturbation_labels()[file], dataset.context_labels()[file], dataset.batch_labels()[file]
    for group in (g for part in cells.groups.values() for g in part):
        assert set(p[group.cells]) == {cells.perturbations[group.perturbation]}
        assert set(c[group.cells]) == set(c[group.controls]) == {group.context}
        assert set(p[group.controls]) == {"control"} and set(b[group.cells]) == set(b[group.controls])
    assert cells.batches == ("batch 1", "batch 2") and (np.array(cells.batches)[cells.batch] == b).all()
    every = cells.groups["train"]
    assert len({(g.perturbation, g.context) for g in every}) < len(every)


def test_controls_of_another_batch_stand_in_where_a_batch_has_none(split, tmp_path):
    dataset = split.sources[0].dataset
    data = anndata.read_h5ad(dataset.path)
    bare = (data.obs["perturbation"] == "control") & (data.obs["cell_type"] == "NK") & (data.obs["batch"] == "batch 1")
    data[~bare].write_h5ad(tmp_path / "bare.h5ad")
    cells = read(opened(tmp_path / "bare.h5ad"), tmp_path, FEW.with_settings(control_mapping="batch"))
    nk = [g for g in cells.groups["train"] if g.context == "NK"]
    assert len(nk) > 15 and {tuple(np.unique(cells.batch[g.controls])) for g in nk} == {(1,)}


def test_a_context_without_controls_is_left_out_and_said(split, tmp_path):
    data = anndata.read_h5ad(split.sources[0].dataset.path)
    bare = (data.obs["perturbation"] == "control") & (data.obs["cell_type"] == "CD4 T")
    data[~bare].write_h5ad(tmp_path / "bare.h5ad")
    cells = read(opened(tmp_path / "bare.h5ad"), tmp_path)
    assert cells.notes == ("Left out, since they have no controls: CD4 T.",) and "CD4 T" not in cells.contexts


def test_genes_are_chosen_from_training_cells_alone(path, split, tmp_path):
    inputs = choose_inputs(split, SMALL)
    assert len(inputs.genes) == 60 and "60 of 1,300 genes" in inputs.notes[0]
    held = split.sources[0].parts != 1
    data = anndata.read_h5ad(path)
    data.X = data.X.toarray()
    data.X[held] = np.random.default_rng(0).permutation(data.X[held], axis=1)
    data.write_h5ad(tmp_path / "other.h5ad")
    assert choose_inputs(opened(tmp_path / "other.h5ad"), SMALL).genes == inputs.genes


def test_all_genes_are_read_when_more_are_asked_for_than_there_are(split):
    inputs = choose_inputs(split, SMALL.with_settings(hvgs=5000))
    assert inputs.genes == split.genes and inputs.notes == ("All 1,300 genes are read.",)


def test_features_of_several_files_lie_one_after_the_other(path, split, tmp_path):
    data = anndata.read_h5ad(path)
    data = data[:, ::-1].copy()
    data.obs["cell_type"] = "other " + data.obs["cell_type"].astype(str)
    data.write_h5ad(tmp_path / "second.h5ad")
    plan = SplitPlan(((NAME, str(path)), ("second", str(tmp_path / "second.h5ad"))), (NAME, "second"))
    both = apply_plan(plan, [(NAME, open_dataset(path)), ("second", open_dataset(tmp_path / "second.h5ad"))])
    cells = read(both, tmp_path)
    one = read(apply_plan(SplitPlan(plan.datasets[:1], (NAME,)), [(NAME, open_dataset(path))]), tmp_path)
    assert len(cells.contexts) == 2 * len(one.contexts)
    n = len(one.batch)
    assert len(cells.batch) == 2 * n
    assert (cells.features.gather(np.arange(n, 2 * n)) == one.features.gather(np.arange(n))).all()
    for group in cells.groups["train"]:
        assert len({*(group.cells >= n), *(group.controls >= n)}) == 1


def test_perturbations_without_vectors_are_left_out_and_those_without_cells_come_in(split, tmp_path):
    cells = read(split, tmp_path, featured=("TNF", "IFN-beta", "unseen"))
    assert cells.perturbations == ("control", "IFN-beta", "TNF", "unseen") and cells.trained == cells.perturbations[:3]
    assert any(note.startswith("Left out, since they have no feature vector: ") for note in cells.notes)


def test_a_perturbation_trained_nowhere_is_not_scored_with_one_hot_vectors(path, tmp_path):
    from state_engine.data.splits.plan import FewShot

    contexts = open_dataset(path).contexts
    plan = SplitPlan(((NAME, "x"),), (NAME,), fewshot=tuple(FewShot(NAME, c, test=("TNF",)) for c in contexts))
    cells = read(opened(path, plan=plan), tmp_path)
    assert "TNF" not in cells.perturbations and cells.groups["test"] == ()


def test_the_control_need_not_be_trained(split, tmp_path):
    cells = read(split, tmp_path, FEW.with_settings(train_control=False))
    assert cells.perturbations[0] == "control" and 0 not in {g.perturbation for g in cells.groups["train"]}


def test_what_cannot_be_read_is_said(split, path, tmp_path):
    with pytest.raises(GeneError, match="no gene NOSUCHGENE"):
        choose_inputs(split, SMALL.with_settings(genes=("ISG15", "NOSUCHGENE")))
    with pytest.raises(RepresentationError, match="no 'obsm/X_se'"):
        choose_inputs(split, SMALL.with_settings(embedding="X_se"))
    dataset = split.sources[0].dataset
    wide = Inputs((expression_source(dataset, ("ISG15",)), expression_source(dataset, ("ISG15", "ACTB"))), None, None)
    with pytest.raises(ConfigError, match="features of different widths: 1, 2"):
        read_training_cells(replace(split, sources=split.sources * 2), wide, SMALL, tmp_path)
    from state_engine.data.dataset import Choices

    with pytest.raises(LabelError, match="There are no batches"):
        read(opened(path, Choices(batch_key="")), tmp_path, FEW.with_settings(batch_encoder=True))


def two_depths(path: Path, folder: Path, depth: float) -> Split:
    """The same cells twice: as counts, and under other labels as log1p of a depth."""
    data = anndata.read_h5ad(path)
    counts = data.X.toarray()
    data.X = np.log1p(counts / counts.sum(1, keepdims=True) * depth).astype(np.float32)
    data.write_h5ad(folder / "deep.h5ad")
    plan = SplitPlan((("a", str(path)), ("b", str(folder / "deep.h5ad"))), ("a", "b"))
    return apply_plan(plan, [("a", open_dataset(path)), ("b", open_dataset(folder / "deep.h5ad"))])


def test_files_of_two_depths_are_trained_on_at_one(path, tmp_path):
    split = two_depths(path, tmp_path, 1e6)
    assert any("(counts) at 10,000 per cell, deep.h5ad (log1p) at 1,000,000 per cell" in w for w in split.warnings)
    inputs = choose_inputs(split, FEW)
    assert inputs.depth == 1e4 and "which is exact" in inputs.notes[-1]
    cells = read_training_cells(split, inputs, FEW, tmp_path)
    half = len(rows_of(split))
    values = cells.features.gather(np.arange(2 * half))
    np.testing.assert_allclose(values[:half], values[half:], atol=1e-5)
    # of a model that was trained at another depth, that one; of a training that goes on, what it began with
    assert choose_inputs(split, FEW, 1e6).sources[0].depth == 1e6 and choose_inputs(split, FEW, 1e6).sources[1].factor == 1
    assert choose_inputs(split, FEW, None, as_recorded=True).sources[1].factor == 1


def test_files_of_one_depth_are_read_as_they_were(path, tmp_path):
    split = two_depths(path, tmp_path, 1e4)
    inputs = choose_inputs(split, FEW)
    plain = tuple(expression_source(s.dataset, FEW.network.genes) for s in split.sources)
    assert inputs.sources == plain and inputs.notes == () and not any("depth" in w for w in split.warnings)


def test_files_without_normalisation_are_of_one_scale(path, tmp_path):
    split = two_depths(path, tmp_path, 1e4)
    choices = Choices(normalise=False)
    sources = [(s.name, open_dataset(s.dataset.path, choices)) for s in split.sources]
    with pytest.raises(ScaleError, match=r"not of one scale.*pbmc.h5ad would be read as counts, and deep.h5ad as log1p"):
        choose_inputs(apply_plan(split.plan, sources), FEW)
