"""Columns of obs and var as other programs and older AnnData leave them: names with '/', and damage in a column that nobody chose."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.files import safety
from state_engine.data.files.columns import read_coded, read_column
from state_engine.data.labels import as_labels
from state_engine.errors import DataError, LabelError
from tests.data.good_files import cells, write


def slashed(path: Path, moves: dict[str, str], part: str = "obs") -> Path:
    """Write a data set whose columns got a name with '/', as nested groups."""
    write(cells(), path)
    with h5py.File(path, "r+") as file:
        frame = file[part]
        order = [str(name) for name in frame.attrs["column-order"]]
        for old, new in moves.items():
            frame.require_group("/".join(new.split("/")[:-1]))
            frame.move(old, new)
        del frame.attrs["column-order"]
        frame.attrs["column-order"] = [moves.get(name, name) for name in order]
    return path


def test_names_with_a_slash_are_columns(tmp_path: Path) -> None:
    path = slashed(tmp_path / "x.h5ad", {"gene": "drug/treatment", "cell_type": "cell/type", "treated": "a/b/c"})
    plain, opened = open_dataset(write(cells(), tmp_path / "plain.h5ad")), open_dataset(path)
    assert opened.labels.perturbation_key == "drug/treatment" and opened.labels.context_key == "cell/type"
    assert opened.perturbations == plain.perturbations and opened.contexts == plain.contexts
    assert opened.columns["a/b/c"].tolist() == plain.columns["treated"].tolist()
    assert not any("left out" in note for note in opened.notes)  # the groups of their parts are no columns


@pytest.mark.parametrize("name", ["/var/_index", "cell_type/../../X", "//X", "drug/nothing"])
def test_a_name_with_a_slash_stays_in_its_frame(tmp_path: Path, name: str) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["column-order"] = [name, "gene", "cell_type"]
    opened = open_dataset(path)
    assert name not in opened.columns and opened.labels.perturbation_key == "gene"
    with pytest.raises(LabelError):
        open_dataset(path, Choices(context_key=name))


@pytest.mark.parametrize("name", ["Cell Type", "cell.type", "CELL-TYPE", "cell_type"])
def test_a_usual_name_is_known_however_its_words_are_joined(tmp_path: Path, name: str) -> None:
    data = cells()
    data.obs = data.obs.rename(columns={"cell_type": name})
    assert open_dataset(write(data, tmp_path / "x.h5ad")).labels.context_key == name


def codes_of_r(column: h5py.Group) -> None:
    codes, attributes = column["codes"][...].astype("i4"), dict(column["codes"].attrs)
    codes[3] = -(2**31)
    del column["codes"]
    column.create_dataset("codes", data=codes).attrs.update(attributes)


BROKEN: dict[str, tuple[Callable[[h5py.Group], None], str]] = {
    "an encoding that no AnnData has": (lambda c: c.attrs.__setitem__("encoding-type", "factor"), "unknown kind"),
    "no encoding": (lambda c: c.attrs.__delitem__("encoding-type"), "unknown kind"),
    "no categories": (lambda c: c.__delitem__("categories"), "categories"),
    "R's missing value as a code": (codes_of_r, "codes"),
    "repeated categories": (lambda c: c["categories"].__setitem__(1, c["categories"][0]), "unique"),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize(("part", "column"), [("obs", "annotation"), ("var", "gene_name"), ("var", "feature_types")])
def test_a_broken_column_that_nobody_chose_is_named(tmp_path: Path, part: str, column: str, damage: str) -> None:
    data = cells()
    data.obs["annotation"] = pd.Categorical(["a", "b", "c"] * 20)
    data.var["gene_name"] = pd.Categorical(["A", "B", "C"] * 4)
    data.var["feature_types"] = pd.Categorical(["Gene Expression"] * 9 + ["Antibody Capture"] * 3)
    path = write(data, tmp_path / "x.h5ad")
    edit, words = BROKEN[damage]
    with h5py.File(path, "r+") as file:
        edit(file[part][column])
    opened = open_dataset(path)
    (note,) = [n for n in opened.notes if "is left out" in n and n.startswith("The column")]
    assert note.startswith(f"The column '{column}' is left out: ") and words in note
    assert opened.labels.perturbation_key == "gene" and opened.genes.names[0] == "STAT1"
    if column != "feature_types":
        chosen = Choices(gene_column=column) if part == "var" else Choices(batch_key=column)
        with pytest.raises(DataError, match=column):
            open_dataset(path, chosen)


def test_a_good_column_of_kinds_is_followed_beside_a_broken_one(tmp_path: Path) -> None:
    data = cells()
    data.var["feature_types"] = np.arange(12)
    data.var["feature_type"] = pd.Categorical(["Gene Expression"] * 10 + ["Antibody Capture"] * 2)
    path = write(data, tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        del file["var/feature_types"]
        file["var"].create_group("feature_types")
    opened = open_dataset(path)
    assert opened.n_genes == 10 and any("'feature_types' is left out" in n for n in opened.notes)


def shared_text(file: h5py.File, where: str, n: int) -> None:
    """Put n strings there that all point to one of 1 MB."""
    made = file.create_dataset(where, shape=(n,), dtype=h5py.string_dtype(), chunks=(n,), compression="gzip")
    made[0] = "G" * (1 << 20)
    file.flush()
    pointer = zlib.decompress(made.id.read_direct_chunk((0,))[1])[:16]
    made.id.write_direct_chunk((0,), zlib.compress(pointer * n, 9))


def test_nullable_strings_are_read_within_a_budget(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        column = file["obs"].create_group("note")
        column.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        column["mask"] = np.zeros(60, bool)
        shared_text(file, "obs/note/values", 60)
    assert any("'note' is left out" in note and "characters" in note for note in open_dataset(path).notes)


def test_nullable_strings_are_labels_and_missing_ones_are_missing(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        column = file["obs"].create_group("line")
        column.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        column["mask"] = np.arange(60) >= 50
        column.create_dataset("values", data=["a", "b"] * 30, dtype=h5py.string_dtype())
    labels = open_dataset(path).columns["line"]
    assert labels.categories.tolist() == ["a", "b"] and np.bincount(labels.codes + 1).tolist() == [10, 25, 25]


def test_a_matrix_of_many_names_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    with h5py.File(path, "r+", libver="latest") as file:
        for i in range(300):
            file["layers"][f"copy{i}"] = file["X"]
    names: list[str] = []
    monkeypatch.setattr(safety, "check_sparse", lambda item, facts: names.append(facts.name))
    assert len(open_dataset(path).representations) > 300
    assert len(names) == 3  # X, layers/log1p and obsm/X_sparse


@pytest.mark.parametrize(
    ("values", "names", "codes"),
    [
        (pd.Categorical(["b", "a", "NA", None, "b"], categories=["b", "NA", "unused", "a"]), ("b", "NA", "unused", "a"), [0, 3, -1, -1, 0]),
        (["g10", "g2", "None", "", "g1"], ("g1", "g2", "g10"), [2, 1, -1, -1, 0]),
        ([3, 20, 3, 1, 1], ("1", "3", "20"), [1, 2, 1, 0, 0]),
        (pd.array([True, None, False, True, True], dtype="boolean"), ("False", "True"), [1, -1, 0, 1, 1]),
    ],
)  # fmt: skip
def test_coded_labels_miss_what_labels_of_a_data_set_miss(
    tmp_path: Path, values: object, names: tuple[str, ...], codes: list[int]
) -> None:
    made = anndata.AnnData(np.ones((5, 2), np.float32), obs=pd.DataFrame({"label": values}, index=list("vwxyz")))
    with h5py.File(write(made, tmp_path / "x.h5ad")) as file:
        coded = read_coded(file["obs"], "label", 5)
        labels = as_labels(read_column(file["obs"], "label", 5))
        with pytest.raises(DataError, match="contradicts"):
            read_coded(file["obs"], "label", 6)
    assert (coded.names, coded.codes.tolist()) == (names, codes)
    assert [coded.names[c] if c >= 0 else None for c in coded.codes] == [None if pd.isna(v) else v for v in labels]
