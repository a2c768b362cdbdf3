"""What people give a training that it cannot use: each is said in words, and none is trained on in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import Choices
from state_engine.data.splits.apply import Split, open_split
from state_engine.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EmptyDataError,
    GeneError,
    JobCancelled,
    LabelError,
    RepresentationError,
    ScaleError,
    SplitError,
    StateError,
    UnreadableFileError,
    UnsafePickleError,
)
from state_engine.progress import Progress
from state_engine.train.curves import LOG, read_curve
from state_engine.train.fit import train_transition
from state_engine.train.request import TrainRequest
from state_engine.train.run_folder import open_training_split, read_record
from tests.small import write_cells

COLUMNS = Choices(perturbation_key="perturbation", control="control", context_key="cell_type", batch_key="batch")
PLAN = '[datasets]\na = "cells.h5ad"\n[training]\na = "train"\n[zeroshot]\n"a.NK" = "test"\n'
TINY = TrainRequest().with_settings(
    hvgs=0, steps=2, sets_a_step=2, set_size=4, hidden=16, layers=1, heads=2, intermediate=16, validation_sets=2, device="cpu",
    calibrate=False,
)  # fmt: skip
Change = Callable[[anndata.AnnData], anndata.AnnData]


def split_of(folder: Path, change: Change = lambda a: a, plan: str = PLAN, n: int = 160) -> Split:
    """Cells changed by `change`, and a plan of them, opened."""
    cells = change(anndata.read_h5ad(write_cells(folder / "cells.h5ad", n=n, counts=False)))
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "split.toml").write_text(plan, encoding="utf-8")
    return open_split(folder / "split.toml", COLUMNS)


def train(folder: Path, split: Split, **changes: object) -> list[str]:
    """A tiny training; returns the labels that its model knows."""
    train_transition(split, TINY.with_settings(**changes), folder / "run")  # type: ignore[arg-type]
    return list(read_card(folder / "run" / "model").perturbations)


def value(number: float, row: int = 3) -> Change:
    """One value of X replaced."""

    def change(cells: anndata.AnnData) -> anndata.AnnData:
        x = cells.X.toarray()
        x[row, 3] = number
        cells.X = sp.csr_matrix(x)
        return cells

    return change


def renamed(column: str, names: dict[str, object]) -> Change:
    """Labels replaced."""

    def change(cells: anndata.AnnData) -> anndata.AnnData:
        cells.obs[column] = cells.obs[column].astype(object).replace(names).astype("category")
        return cells

    return change


def only(wanted: Callable[[anndata.AnnData], object]) -> Change:
    """Some of the cells."""
    return lambda cells: cells[np.asarray(wanted(cells))].copy()


# ---- the file ----


@pytest.mark.parametrize("number", [np.nan, np.inf, -1.0])
def test_values_that_are_no_expression_are_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ScaleError, match="neither counts nor log1p"):
        train(tmp_path, split_of(tmp_path, value(number)))


def test_a_nan_that_no_sample_saw_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(tmp_path)
    cells = split.sources[0].dataset
    read = type(cells).read_stored

    def spoiled(self: object, representation: str, rows: np.ndarray) -> object:
        values = read(self, representation, rows)  # type: ignore[arg-type]
        values.data[values.indptr[np.searchsorted(rows, 7)]] = np.nan
        return values

    _ = cells.scale.scale  # decided on a sample, as of a file of millions of cells
    monkeypatch.setattr(type(cells), "read_stored", spoiled)
    with pytest.raises(RepresentationError, match=r"not all finite.*1 of 160 cells.*cell-7\."):
        train(tmp_path, split)
    assert not (tmp_path / "run" / "model").exists() and read_record(tmp_path / "run").state == "failed"


def test_the_embedding_of_an_empty_cell_is_named(tmp_path: Path) -> None:
    def embedded(cells: anndata.AnnData) -> anndata.AnnData:
        cells.obsm["X_state"] = np.random.default_rng(0).normal(size=(cells.n_obs, 6)).astype(np.float32)
        cells.obsm["X_state"][[0, 9]] = np.nan
        return cells

    with pytest.raises(RepresentationError, match=r"2 of 160 cells.*cell-0, cell-9") as caught:
        train(tmp_path, split_of(tmp_path, embedded), embedding="X_state")
    assert "empty cell has no embedding" in caught.value.fix


def test_a_file_without_cells_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="no cells"):
        split_of(tmp_path, only(lambda c: np.zeros(c.n_obs, bool)))
    for content, error in ((b"", EmptyDataError), (b"PK\x03\x04 zip", UnreadableFileError), (b"\x89HDF\r\n\x1a\n", DataError)):
        (tmp_path / "cells.h5ad").write_bytes(content)
        with pytest.raises(error):
            open_split(tmp_path / "split.toml", COLUMNS)


def test_files_without_a_gene_in_common(tmp_path: Path) -> None:
    cells = anndata.read_h5ad(write_cells(tmp_path / "other.h5ad"))
    cells.var_names = [f"OTHER{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(SplitError, match="shares no gene"):
        split_of(tmp_path, plan=PLAN.replace('"cells.h5ad"', '"{cells,other}.h5ad"'))


# ---- labels ----


def test_one_cell_of_each_perturbation_is_enough(tmp_path: Path) -> None:
    def few(cells: anndata.AnnData) -> object:
        perturbed = cells.obs["perturbation"] != "control"
        return ~perturbed | ~cells.obs.duplicated(["perturbation", "cell_type"])

    split = split_of(tmp_path, only(few))
    assert split.table().query("perturbation != 'control'")["train"].max() == 1
    assert train(tmp_path, split) == ["control", "IFNB1", "JUN,FOS", "TNF"]


def test_sets_larger_than_the_data_repeat_cells(tmp_path: Path) -> None:
    assert len(train(tmp_path, split_of(tmp_path), set_size=500)) == 4


def test_a_context_without_controls_is_left_out_and_said(tmp_path: Path) -> None:
    def bare(context: str) -> Change:
        return only(lambda c: (c.obs["perturbation"] != "control") | (c.obs["cell_type"] != context))

    split = split_of(tmp_path, bare("NK"))
    assert any("a.NK" in warning for warning in split.warnings)
    train(tmp_path, split)
    assert any("NK" in note for note in read_card(tmp_path / "run" / "model").notes)
    with pytest.raises(SplitError, match="in no context with controls"):
        split_of(tmp_path, bare("B"))


def test_controls_alone_are_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="Nothing is left to train on"):
        split_of(tmp_path, only(lambda c: c.obs["perturbation"] == "control"))


@pytest.mark.parametrize("label", ["TNF/α 100 µM", "../../etc/passwd", "[('x', 1.0, 'uM')]", 'say "x"', "a\nb", "CON", "日本"])
def test_labels_are_any_text(tmp_path: Path, label: str) -> None:
    split = split_of(tmp_path, renamed("perturbation", {"TNF": label}))
    assert label in train(tmp_path, split)
    assert not [p for p in tmp_path.rglob("*") if "passwd" in p.name]


def test_contexts_with_dots_and_slashes_can_be_held_out(tmp_path: Path) -> None:
    name = "B/../x é.1"
    split = split_of(tmp_path, renamed("cell_type", {"NK": name}), PLAN.replace("a.NK", f"a.{name}"))
    assert set(split.table().query("test > 0")["context"]) == {name}
    assert train(tmp_path, split)


def test_cells_without_a_label_are_not_trained_on(tmp_path: Path) -> None:
    split = split_of(tmp_path, renamed("perturbation", {"TNF": np.nan}))
    assert any("lack a perturbation" in warning for warning in split.warnings)
    assert "nan" not in train(tmp_path, split)


# ---- the plan ----


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("[datasets]\n", "names no data set"),
        ("x = [", "not TOML"),
        ('datasets = "x"', "not a section"),
        ('[[datasets]]\na = "x"', "not a section"),
        ('[datasets.a]\nb = "x"', "Give a folder"),
        ("[datasets]\na = 3", "Give a folder"),
        ('[datasets]\na = ["cells.h5ad"]', "Give a folder"),
        (PLAN.replace('"train"', '["train"]'), "says"),
        (PLAN.replace('= "test"', '= ["test"]'), "goes to"),
        (PLAN.replace('"a.NK"', "a.NK"), "names no context"),
        (PLAN.replace('[zeroshot]\n"a.NK" = "test"', '[fewshot]\n"a.NK" = "test"'), "lists of perturbations"),
        (PLAN.replace('[zeroshot]\n"a.NK" = "test"', '[fewshot."a.NK"]\ntest = "TNF"'), "not a list"),
        (PLAN.replace('[zeroshot]\n"a.NK" = "test"', '[fewshot."a.NK"]\ntest = [1]'), "not a list"),
        (PLAN.replace("cells.h5ad", "/"), "has no files"),
        (PLAN.replace("cells.h5ad", "cells.h5ad\\u0000"), "has no files"),
        (PLAN.replace("cells.h5ad", "~nobody/cells.h5ad"), "has no files"),
        (PLAN.replace("cells.h5ad", "[.h5ad"), "has no files"),
        (PLAN.replace("cells.h5ad", "split.toml"), "not an .h5ad file"),
    ],
)  # fmt: skip
def test_plans_of_wrong_types_and_places(tmp_path: Path, plan: str, words: str) -> None:
    with pytest.raises(StateError, match=words):
        split_of(tmp_path, plan=plan)


def test_a_plan_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    split_of(tmp_path)
    (tmp_path / "split.toml").write_text("\ufeff" + PLAN.replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert open_split(tmp_path / "split.toml", COLUMNS).cells()["test"] > 0


# ---- the request ----


@pytest.mark.parametrize("changes", [{"learning_rate": np.nan}, {"blur": np.inf}, {"l1": np.nan}, {"gradient_clip": np.inf}])
def test_numbers_are_finite(changes: dict) -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        TINY.with_settings(**changes)


def test_a_training_that_diverges_says_so_and_leaves_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="diverged: the loss of step") as caught:
        train(tmp_path, split_of(tmp_path), learning_rate=1e30, steps=20, schedule="constant")
    assert "smaller learning rate" in caught.value.fix and not (tmp_path / "run" / "model").exists()
    assert read_record(tmp_path / "run").state == "failed" and read_curve(tmp_path / "run" / LOG)["step"]


def test_genes_and_matrices_that_are_not_there(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    with pytest.raises(GeneError, match="no gene NOPE"):
        train(tmp_path, split, genes=("GENE1", "NOPE"))
    with pytest.raises(RepresentationError, match="X_state"):
        train_transition(split, TINY.with_settings(embedding="X_state"), tmp_path / "other")


# ---- features of perturbations ----


def features(folder: Path, lines: str) -> str:
    (folder / "features.csv").write_text(f"label,a,b\n{lines}", encoding="utf-8")
    return str(folder / "features.csv")


def test_a_perturbation_without_a_vector_is_left_out_and_named(tmp_path: Path) -> None:
    known = train(tmp_path, split_of(tmp_path), features=features(tmp_path, "IFNB1,1,0\nTNF,0,1\nNEW,1,1\n"))
    assert known == ["control", "IFNB1", "TNF", "NEW"]
    assert any("JUN,FOS" in note and "no feature vector" in note for note in read_card(tmp_path / "run" / "model").notes)


def test_vectors_of_other_perturbations_are_told_from_a_bad_split(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"IFNB1, JUN,FOS, TNF; the vectors are of tnf, x\.") as caught:
        train(tmp_path, split_of(tmp_path), features=features(tmp_path, "x,1,0\ntnf,0,1\n"))
    assert "has a feature vector" in caught.value.what


def test_a_file_of_features_runs_no_program(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run-by-a-pickle",)  # type: ignore[return-value]

    torch.save({"control": Program()}, tmp_path / "features.pt")
    with pytest.raises(UnsafePickleError):
        train(tmp_path, split_of(tmp_path), features=str(tmp_path / "features.pt"))
    assert not (tmp_path / "run-by-a-pickle").exists() and not (tmp_path / "run" / "model").exists()


# ---- the folder ----


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("run", "file"):
        with pytest.raises(CheckpointError, match="is there already"):
            train_transition(split, TINY, tmp_path / name)
    assert (tmp_path / "run" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_training_that_failed_before_its_first_step_begins_anew_in_its_folder(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    for changes in ({"embedding": "X_none"}, {"features": str(tmp_path / "none.pt")}, {"genes": ("NOPE",)}):
        with pytest.raises(StateError):
            train(tmp_path, split, **changes)
        assert read_record(tmp_path / "run").state == "failed"
    assert train(tmp_path, split) and read_record(tmp_path / "run").state == "done"
    with pytest.raises(CheckpointError, match="is there already"):
        train(tmp_path, split)


def test_going_on_needs_the_same_cells_in_the_same_parts(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "Training" and progress.done == 1:
            raise JobCancelled("enough")

    split, run = split_of(tmp_path), tmp_path / "run"
    with pytest.raises(JobCancelled):
        train_transition(split, TINY, run, stop)
    (tmp_path / "split.toml").write_text(PLAN.replace("a.NK", "a.B"))
    with pytest.raises(ConfigError, match="The split is not the one"):
        train_transition(open_split(tmp_path / "split.toml", COLUMNS), TINY, run, resume=True)
    changed = split_of(tmp_path, value(2.5))
    with pytest.raises(ConfigError, match=r"Not as they were: cells\.h5ad"):
        train_transition(changed, TINY, run, resume=True)
    last = run / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    last.unlink()  # the same file as step=1.ckpt
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged") as caught:
        train_transition(split_of(tmp_path), TINY, run, resume=True)
    assert caught.value.fix == "Copy step=1.ckpt over it."
    last.write_bytes((run / "checkpoints" / "step=1.ckpt").read_bytes())
    train_transition(split_of(tmp_path), TINY, run, resume=True)
    assert read_record(run).state == "done"


def test_the_held_out_cells_of_another_file_are_not_tested(tmp_path: Path) -> None:
    train(tmp_path, split_of(tmp_path))
    run = tmp_path / "run"
    assert open_training_split(run).cells()["test"] > 0
    split_of(tmp_path, value(2.5))  # the file is written again, with another value
    with pytest.raises(ConfigError, match=r"not the cells of the training\. Not as they were: cells\.h5ad"):
        open_training_split(run)
