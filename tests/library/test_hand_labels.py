"""Labels by hand: rounds, the last one counts, undone and had back, kept over a restart, taken home as a column of a copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import JobCancelled, LabelError, RequestError, RunError, UnreadableFileError
from state_engine.files import read_json, write_json
from state_engine.library import hand_labels as by_hand
from state_engine.library.datasets import DataEntry, register_file
from state_engine.progress import Progress
from tests.small import write_cells

B_CELL, NK = "CL:0000236", "CL:0000623"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "data",))


@pytest.fixture
def entry(settings: Settings) -> DataEntry:
    return register_file(settings, write_cells(settings.data_folders[0] / "cells.h5ad"))


@pytest.fixture
def data(entry: DataEntry) -> Dataset:
    return open_dataset(entry.path)


def test_the_last_round_counts_and_can_be_undone_and_had_back(settings: Settings, entry: DataEntry, data: Dataset) -> None:
    assert by_hand.labels_of(settings, entry, data).counts().empty
    by_hand.add_round(settings, entry, data, range(10), "B cell", B_CELL, "lasso")
    by_hand.add_round(settings, entry, data, [8, 9, 12, 12], "odd  ones")
    kept = by_hand.add_round(settings, entry, data, [0], "")
    assert by_hand.labels_of(settings, entry, data) == kept
    assert kept.counts().values.tolist() == [["B cell", B_CELL, 7], ["odd ones", "", 3]]
    assert [one.cells for one in kept.rounds] == [10, 3, 1]
    column = kept.column()
    assert column[1] == "B cell" and column[9] == "odd ones" and column.codes[0] == column.codes[20] == -1
    by_hand.undo(settings, entry, data)
    assert by_hand.undo(settings, entry, data).counts().values.tolist() == [["B cell", B_CELL, 10]]
    assert by_hand.redo(settings, entry, data).rounds == kept.rounds[:2]
    assert by_hand.add_round(settings, entry, data, [1], "NK", NK).undone == ()


def test_what_cannot_be_labelled_is_refused_and_nothing_is_kept(settings: Settings, entry: DataEntry, data: Dataset) -> None:
    for rows, label, term, words in (
        ([], "x", "", "No cell"),
        ([160], "x", "", "no row 160"),
        ([-1], "x", "", "no row"),
        ([1], "x" * 121, "", "too long"),
        ([1], "x", "CL:9999999", "no term"),
    ):
        with pytest.raises(RequestError, match=words):
            by_hand.add_round(settings, entry, data, rows, label, term)
    assert not by_hand.labels_of(settings, entry, data).rounds


def test_labels_of_another_file_are_not_taken_for_this_one(settings: Settings, entry: DataEntry, data: Dataset) -> None:
    by_hand.add_round(settings, entry, data, [1, 2], "B cell", B_CELL)
    path = Path(entry.path)
    content = path.read_bytes()
    path.write_bytes(content)  # the same file, touched
    assert by_hand.labels_of(settings, entry, open_dataset(path)).counts()["cells"].tolist() == [2]
    write_cells(path, n=161)
    with pytest.raises(LabelError, match="another file"):
        by_hand.labels_of(settings, entry, open_dataset(path))
    by_hand.discard(settings, entry)
    assert not by_hand.labels_of(settings, entry, open_dataset(path)).rounds


def test_damage_is_told(settings: Settings, entry: DataEntry, data: Dataset) -> None:
    by_hand.add_round(settings, entry, data, [1, 2], "B cell", B_CELL)
    place = settings.home / "labels" / f"{entry.id}.json"
    plain = read_json(place)
    for rows in ("%%%", "aGVsbG8=", by_hand._packed(np.array([3]), 160), by_hand._packed(np.array([3, 4]), 60)):
        plain["rounds"][0]["rows"] = rows
        write_json(place, plain)
        with pytest.raises(RunError, match="cannot be read"):
            by_hand.labels_of(settings, entry, data).column()
    place.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        by_hand.labels_of(settings, entry, data)


def test_a_copy_has_the_labels_and_the_input_stays_as_it_is(
    settings: Settings, entry: DataEntry, data: Dataset, tmp_path: Path
) -> None:
    before = Path(entry.path).read_bytes()
    labels = by_hand.add_round(settings, entry, data, range(10), "B cell", B_CELL)
    labels = by_hand.add_round(settings, entry, data, range(10, 14), "odd ones")
    output = tmp_path / "labelled.h5ad"
    by_hand.labelled_copy(entry.name, data, labels, output)
    assert Path(entry.path).read_bytes() == before
    cells, source = anndata.read_h5ad(output), anndata.read_h5ad(entry.path)
    assert cells.obs["cell_label"][:10].tolist() == ["B cell"] * 10 and cells.obs["cell_label"].notna().sum() == 14
    assert cells.obs["cell_label_term"][:10].tolist() == [B_CELL] * 10 and cells.obs["cell_label_term"].notna().sum() == 10
    assert list(cells.obs) == [*source.obs, "cell_label", "cell_label_term"] and (cells.X != source.X).nnz == 0
    opened = open_dataset(output)
    assert opened.columns["cell_label"].categories.tolist() == ["B cell", "odd ones"]
    with pytest.raises(RequestError, match="already"):
        by_hand.labelled_copy(entry.name, opened, labels, tmp_path / "again.h5ad")
    with pytest.raises(RequestError, match="labelled by hand"):
        by_hand.labelled_copy(entry.name, data, replace(labels, rounds=()), tmp_path / "none.h5ad")


def test_a_copy_that_is_stopped_or_cannot_be_leaves_nothing(
    settings: Settings, entry: DataEntry, data: Dataset, tmp_path: Path
) -> None:
    labels = by_hand.add_round(settings, entry, data, [1], "B cell", B_CELL)

    def stop(progress: Progress) -> None:
        raise JobCancelled("Stopped.")

    there = sorted(tmp_path.iterdir())
    with pytest.raises(JobCancelled):
        by_hand.labelled_copy(entry.name, data, labels, tmp_path / "x.h5ad", on_progress=stop)
    with pytest.raises(RequestError, match="column"):
        by_hand.labelled_copy(entry.name, data, labels, tmp_path / "x.h5ad", "a/b")
    with pytest.raises(RequestError, match="input"):
        by_hand.labelled_copy(entry.name, data, labels, Path(entry.path), "mine")
    assert sorted(tmp_path.iterdir()) == there


def test_the_table_names_cells_rows_labels_and_terms(settings: Settings, entry: DataEntry, data: Dataset) -> None:
    labels = by_hand.add_round(settings, entry, data, [3, 1], "NK", NK)
    found = by_hand.table(data.obs_names, labels)
    assert found.values.tolist() == [["cell-1", 1, "NK", NK], ["cell-3", 3, "NK", NK]]


def test_a_table_taken_home_comes_back(settings: Settings, entry: DataEntry, data: Dataset, tmp_path: Path) -> None:
    labels = by_hand.add_round(settings, entry, data, [3, 1], "NK", NK)
    labels = by_hand.add_round(settings, entry, data, [7], "odd, ones")
    written = by_hand.table(data.obs_names, labels)
    for columns in (["cell", "label", "term"], ["row", "label"], ["cell", "row", "label", "term"]):
        written[columns].to_csv(tmp_path / "labels.csv", index=False)
        back = by_hand.labels_of_table(tmp_path / "labels.csv", data)
        assert back.column().tolist() == labels.column().tolist()
        assert back.term_of("NK") == (NK if "term" in columns else "")
    for content, words in (
        ("cell,name\n", "no table of labels"),
        ("", "no table of labels"),
        ("cell,label\ncell-1,B\nnobody,B\n", "called nobody"),
        ("row,label\nx,B\n", "'x' is no row"),
        ("row,label\n160,B\n", "no row 160"),
        ("row,label,term\n1,B,CL:1\n", "no term"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises((LabelError, RequestError, UnreadableFileError), match=words):
            by_hand.labels_of_table(tmp_path / "bad.csv", data)


@pytest.mark.parametrize(
    "text", ["row,label\n1\n", "label,cell\nA\n", f"row,label\n{'9' * 5000},A\n", "row,label\n1," + "x" * 121 + "\n"]
)
def test_a_damaged_table_is_told_in_words(data: Dataset, tmp_path: Path, text: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises((UnreadableFileError, LabelError, RequestError), match=r"too short|is no row|too long"):
        by_hand.labels_of_table(tmp_path / "l.csv", data)


def test_empty_lines_of_a_table_say_nothing(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("row,label\n\n1,A\n,\n")
    assert by_hand.labels_of_table(tmp_path / "l.csv", data).counts()["cells"].tolist() == [1]


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
def test_signs_that_no_file_takes_are_refused_before_they_are_kept(
    settings: Settings, entry: DataEntry, data: Dataset, tmp_path: Path, text: str
) -> None:
    with pytest.raises(RequestError, match="sign that no file takes"):
        by_hand.add_round(settings, entry, data, [1], text)
    kept = by_hand.add_round(settings, entry, data, [1], "<script>alert(1)</script>")
    with pytest.raises(RequestError, match="cannot be the name"):
        by_hand.labelled_copy("cells", data, kept, tmp_path / "copy.h5ad", text)
    assert not (tmp_path / "copy.h5ad").exists()
