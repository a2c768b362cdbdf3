"""Foreign files are refused, each with its own message, before anything reads their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.files.safety import check_file
from state_engine.errors import DataError, EmptyDataError, UnreadableFileError, UnsafeFileError
from tests.data import bad_files
from tests.data.good_files import cells, write

FUZZED = 25

CASES = [
    *((m, UnreadableFileError, w) for m, w in bad_files.UNREADABLE.items()),
    *((m, EmptyDataError, w) for m, w in bad_files.EMPTY.items()),
    *((m, UnsafeFileError, w) for m, w in bad_files.UNSAFE.items()),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.mark.parametrize(("make", "kind", "word"), CASES, ids=[w for _, _, w in CASES])
def test_bad_files_are_refused(
    make: Callable[[Path], Path], kind: type[DataError], word: str, tmp_path: Path, settings: Settings
) -> None:
    path = make(tmp_path)
    with pytest.raises(kind) as caught:
        open_dataset(path, settings=settings)
    assert type(caught.value) is kind
    assert word in str(caught.value)
    assert caught.value.why
    assert caught.value.fix


def test_truncated_says_how_much_is_missing(tmp_path: Path, settings: Settings) -> None:
    path = bad_files.truncated(tmp_path)
    with pytest.raises(UnreadableFileError, match=rf"has {path.stat().st_size:,} bytes; its header says [\d,]+\."):
        check_file(path, settings)


def test_every_cut_is_called_cut_off(tmp_path: Path, settings: Settings) -> None:
    content = write(cells(), tmp_path / "whole.h5ad").read_bytes()
    for length in (9, 30, 48, 95, 2000, len(content) - 1):
        cut = tmp_path / f"cut{length}.h5ad"
        cut.write_bytes(content[:length])
        with pytest.raises(UnreadableFileError, match="is cut off"):
            check_file(cut, settings)


@pytest.mark.parametrize("version", ["earliest", "v108", "v110", "latest"])
def test_every_superblock_version_is_understood(version: str, tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "versions.h5ad"
    source = write(cells(), tmp_path / "source.h5ad")
    with h5py.File(source) as old, h5py.File(path, "w", libver=(version, version if version != "earliest" else "v108")) as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    assert check_file(path, settings).n_cells == 60
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UnreadableFileError, match="is cut off"):
        check_file(path, settings)


def test_facts_of_a_good_file(tmp_path: Path, settings: Settings) -> None:
    facts = check_file(write(cells(), tmp_path / "good.h5ad"), settings)
    assert (facts.n_cells, facts.n_genes) == (60, 12)
    assert {m.name: (m.layout, m.width) for m in facts.matrices} == {
        "X": ("csr", 12), "layers/log1p": ("csr", 12), "obsm/X_state": ("dense", 5), "obsm/X_sparse": ("csr", 3),
        "obsm/X_table": ("frame", 2),
    }  # fmt: skip
    assert facts.declared_bytes > 60 * 5 * 8


def test_limits_come_from_the_settings(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "good.h5ad")
    with pytest.raises(UnsafeFileError, match="limit of this installation is 59 cells"):
        check_file(path, Settings(home=tmp_path, max_cells=59))
    with pytest.raises(UnsafeFileError, match="too large"):
        check_file(path, Settings(home=tmp_path, max_file_bytes=1000))
    with pytest.raises(UnsafeFileError, match="MAX_DECLARED"):
        check_file(path, Settings(home=tmp_path, max_declared_bytes=1000))


def test_missing_file_and_folder(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UnreadableFileError, match="is not there"):
        check_file(tmp_path / "none.h5ad", settings)
    with pytest.raises(UnreadableFileError, match="is a folder"):
        check_file(tmp_path, settings)


def test_links_inside_the_file_are_fine(tmp_path: Path, settings: Settings) -> None:
    path = write(cells(), tmp_path / "good.h5ad")
    with h5py.File(path, "r+") as file:
        file["layers/again"] = h5py.SoftLink("/X")
        file["layers/hard"] = file["X"]
    names = [m.name for m in check_file(path, settings).matrices]
    assert {"layers/again", "layers/hard"} <= set(names)


def test_damage_inside_is_a_plain_message(tmp_path: Path, settings: Settings) -> None:
    path = write(cells(n=2000, g=200), tmp_path / "damaged.h5ad", compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/indices"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="is damaged"):
        open_dataset(path, settings=settings)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_damage_is_always_a_plain_message(seed: int, tmp_path: Path, settings: Settings) -> None:
    layout, compression = ("csr", "csc", "dense")[seed], (None, "gzip")[seed % 2]
    content = write(cells(layout=layout), tmp_path / "whole.h5ad", compression=compression).read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for i in range(FUZZED):
        broken = bytearray(content)
        for start in rng.integers(0, len(content) - 8, 4):
            broken[start : start + 6] = rng.bytes(6)
        path = tmp_path / f"broken{i}.h5ad"
        path.write_bytes(broken)
        try:
            data = open_dataset(path, settings=settings)
            for matrix in data.representations:
                data.read(matrix.name, np.arange(data.n_cells))
            assert len(data.obs) == data.n_cells
        except DataError as error:
            assert error.what
            refused += 1
    assert refused > FUZZED / 10


def test_many_links_to_one_column_are_not_all_read(tmp_path: Path, settings: Settings) -> None:
    path = write(cells(), tmp_path / "many.h5ad")
    with h5py.File(path, "r+", libver="latest") as file:
        first = file["obs"].create_dataset("a000000", data=np.zeros(60, "i1"))
        for i in range(1, 5_000):
            file["obs"][f"a{i:06d}"] = first
    dataset = open_dataset(path, settings=settings)
    assert len(dataset.columns) <= 2_000 and "gene" in dataset.columns


def test_uns_that_is_no_group_is_passed_over(tmp_path: Path, settings: Settings) -> None:
    path = write(cells(), tmp_path / "uns.h5ad")
    with h5py.File(path, "r+") as file:
        del file["uns"]
        file.create_dataset("uns", shape=(200_000_000,), dtype="i1", chunks=(1000,))
    assert open_dataset(path, settings=settings).n_cells == 60


def test_categories_of_anndata_0_7_are_followed(tmp_path: Path, settings: Settings) -> None:
    path = write(cells(), tmp_path / "old.h5ad")
    with h5py.File(path, "r+") as file:
        kept = (
            file["obs"].require_group("__categories").create_dataset("line", data=np.array(["a", "ü"], dtype=h5py.string_dtype()))
        )
        file["obs"].create_dataset("line", data=np.arange(60, dtype="i1") % 2).attrs["categories"] = kept.ref
    assert open_dataset(path, settings=settings).columns["line"].categories.tolist() == ["a", "ü"]


@pytest.mark.parametrize(("make", "column", "words"), [(m, *w) for m, w in bad_files.BROKEN_COLUMNS.items()])
def test_a_broken_column_is_left_out_and_named(
    make: Callable[[Path], Path], column: str, words: str, tmp_path: Path, settings: Settings
) -> None:
    path = make(tmp_path)
    dataset = open_dataset(path, settings=settings)
    assert column not in dataset.columns
    assert any(f"'{column}' is left out" in note and words in note for note in dataset.notes)
    with pytest.raises(DataError, match=words):
        open_dataset(path, Choices(context_key=column), settings)


DAMAGES = {
    "codes below -1": lambda g, codes: np.where(codes < 0, -(2**31), codes).astype("i4"),
    "codes of missing values as 255": lambda g, codes: np.where(codes < 0, 255, codes).astype("u1"),
    "fractions as codes": lambda g, codes: codes.astype("f8"),
    "too few codes": lambda g, codes: codes[:20],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_categorical_that_r_wrote_oddly_does_not_close_the_file(damage: str, tmp_path: Path, settings: Settings) -> None:
    data = cells()
    data.obs["annotation"] = pd.Categorical((["a", "b", None] * 20)[:60])
    path = write(data, tmp_path / "odd.h5ad")
    with h5py.File(path, "r+") as file:
        group = file["obs/annotation"]
        codes, attributes = group["codes"][...].astype(np.int64), dict(group["codes"].attrs)
        del group["codes"]
        group.create_dataset("codes", data=DAMAGES[damage](group, codes)).attrs.update(attributes)
    dataset = open_dataset(path, settings=settings)
    assert dataset.n_cells == 60
    assert "annotation" in dataset.columns or any("'annotation' is left out" in note for note in dataset.notes)


def test_repeated_categories_name_their_column(tmp_path: Path, settings: Settings) -> None:
    data = cells()
    data.obs["annotation"] = pd.Categorical((["a", "b", "c"] * 20)[:60])
    path = write(data, tmp_path / "repeat.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs/annotation/categories"][2] = "a"
    assert any("'annotation' is left out" in note for note in open_dataset(path, settings=settings).notes)
