"""Zarr to .h5ad and back, block by block: the same cells as AnnData reads, whatever the version, chunks and shards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.files import zarr_copy
from state_engine.data.files.zarr_copy import h5ad_to_zarr, write_store, write_zip, zarr_to_h5ad
from state_engine.data.files.zarr_store import check_store
from state_engine.errors import RequestError, UnreadableFileError, UnsafeFileError
from state_engine.library.other_formats import as_h5ad

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
GENES = 60


def written(path: Path, n: int = 500) -> Path:
    """An .h5ad with every kind of part: sparse and dense matrices, a raw part, tables, text, numbers without a mean."""
    rng = np.random.default_rng(0)
    counts = sp.random(n, GENES, 0.2, "csr", dtype=np.float32, random_state=0)
    obs = pd.DataFrame({
        "perturbation": pd.Categorical(rng.choice(["control", "a", "b"], n)), "words": [f"w{i}" for i in range(n)], "depth": rng.random(n),
        "maybe": pd.array([None if i % 3 else i for i in range(n)], "Int64"), "flag": rng.random(n) > 0.5,
    }, index=[f"cell{i}" for i in range(n)])  # fmt: skip
    made = anndata.AnnData(counts, obs, pd.DataFrame(index=[f"G{i}" for i in range(GENES)]))
    made.raw = made.copy()
    made.layers["dense"] = rng.normal(size=(n, GENES)).astype(np.float32)
    made.layers["by_gene"] = sp.csc_matrix(counts)
    made.obsm["X_pca"] = rng.normal(size=(n, 7))
    made.obsm["frame"] = pd.DataFrame({"x": rng.random(n), "y": rng.random(n)}, index=made.obs_names)
    made.obsp["near"] = sp.random(n, n, 0.01, "csr", random_state=1)
    made.uns |= {"log1p": {"base": None}, "notes": "words", "list": np.array(["a", "b"], object), "numbers": np.arange(5)}
    made.write_h5ad(path)
    return path


def same(one: anndata.AnnData, other: anndata.AnnData) -> None:
    """Compare everything that is written."""
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    for a, b in ((one.X, other.X), (one.raw.X, other.raw.X), *((one.layers[k], other.layers[k]) for k in one.layers),
                 (one.obsp["near"], other.obsp["near"])):  # fmt: skip
        assert type(a) is type(b) and a.dtype == b.dtype
        np.testing.assert_array_equal(a.toarray() if sp.issparse(a) else a, b.toarray() if sp.issparse(b) else b)
    np.testing.assert_array_equal(one.obsm["X_pca"], other.obsm["X_pca"])
    pd.testing.assert_frame_equal(one.obsm["frame"], other.obsm["frame"])
    assert one.uns["notes"] == other.uns["notes"] and list(one.uns["list"]) == list(other.uns["list"])
    assert "log1p" in other.uns and list(other.uns["numbers"]) == list(range(5))


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, chunks and shards so small that the cells of a test have many."""
    for name, size in (("BLOCK_BYTES", 6000), ("CHUNK_BYTES", 1000), ("FILE_BYTES", 1500), ("WORTH_CHUNKS", 500)):
        monkeypatch.setattr(zarr_copy, name, size)


FORMATS = [(2, False), (3, False), (3, True)]


@pytest.mark.parametrize(("version", "shards"), FORMATS)
def test_a_store_holds_the_same_and_so_does_the_way_back(tmp_path: Path, tiny_blocks: None, version: int, shards: bool) -> None:
    path, source = written(tmp_path / "a.h5ad"), anndata.read_h5ad(tmp_path / "a.h5ad")
    h5ad_to_zarr(path, tmp_path / "a.zarr", version, shards)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.metadata.zarr_format == version and bool(group["layers/dense"].shards) == shards
    assert np.prod(group["layers/dense"].chunks) * 4 <= 1500 and group["X/data"].nchunks > 3
    same(source, anndata.read_zarr(tmp_path / "a.zarr"))
    check_store(tmp_path / "a.zarr", Settings(tmp_path))
    zarr_to_h5ad(tmp_path / "a.zarr", tmp_path / "b.h5ad")
    same(source, anndata.read_h5ad(tmp_path / "b.h5ad"))
    with h5py.File(tmp_path / "b.h5ad") as file:
        assert file["X/data"].chunks is not None and file["layers/dense"].compression == "lzf"
    again = open_dataset(tmp_path / "b.h5ad")
    rows = np.array([3, 499, 7])
    for name in ("X", "layers/dense", "layers/by_gene", "obsm/X_pca"):
        np.testing.assert_array_equal(again.read(name, rows), open_dataset(path).read(name, rows))


def test_a_store_of_a_single_chunk_and_one_with_shards_of_all_cells_open(tmp_path: Path) -> None:
    path, source = written(tmp_path / "a.h5ad"), anndata.read_h5ad(tmp_path / "a.h5ad")
    source.write_zarr(tmp_path / "own.zarr", chunks=(500, GENES))
    made = as_h5ad(tmp_path / "own.zarr", Settings(tmp_path / "home"))
    np.testing.assert_array_equal(open_dataset(made).read("X", np.arange(500)), source.X.toarray())
    group = zarr.open_group(tmp_path / "wide.zarr", mode="w", zarr_format=3)
    for part in ("obs", "var"):
        anndata.io.write_elem(group, part, getattr(source, part))
    place = group.create_array("X", shape=(500, GENES), dtype="f4", chunks=(1, GENES), shards=(500, GENES))
    place[:] = source.X.toarray()
    made = as_h5ad(tmp_path / "wide.zarr", Settings(tmp_path / "home"))
    np.testing.assert_array_equal(open_dataset(made).read("X", np.arange(500)), open_dataset(path).read("X", np.arange(500)))


def test_a_store_is_written_beside_and_never_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.h5ad")

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr_copy, "_copy_all", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_store(path, tmp_path / "a.zarr")
        with pytest.raises(KeyboardInterrupt):
            write_zip(path, tmp_path / "a.zarr.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]
    write_store(path, tmp_path / "a.zarr")
    with pytest.raises(RequestError, match="none is written over"):
        write_store(path, tmp_path / "a.zarr")
    write_zip(path, tmp_path / "b.zarr.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "a.zarr", "b.zarr.zip"]
    same(anndata.read_h5ad(path), anndata.read_zarr(zarr.open_group(zarr.storage.ZipStore(tmp_path / "b.zarr.zip"), mode="r")))
    opened = open_dataset(as_h5ad(tmp_path / "b.zarr.zip", Settings(tmp_path / "home")))
    assert opened.n_cells == 500 and "a" in opened.columns["perturbation"].categories


# ---- hostile shards ----


def sharded(folder: Path, change: dict[str, object]) -> Path:
    """A store with shards, whose metadata of the dense layer were changed."""
    h5ad_to_zarr(written(folder / "a.h5ad"), folder / "a.zarr", 3, shards=True)
    place = folder / "a.zarr" / "layers" / "dense" / "zarr.json"
    found = json.loads(place.read_text())
    found |= {key: change[key] for key in ("shape", "codecs") if key in change}
    if "shard" in change:
        found["chunk_grid"]["configuration"]["chunk_shape"] = change["shard"]
    if "chunk" in change:
        found["codecs"][0]["configuration"]["chunk_shape"] = change["chunk"]
    if "more" in change:
        found["codecs"].append(change["more"])
    place.write_text(json.dumps(found))
    return folder / "a.zarr"


HOSTILE = {
    "a chunk of 40 GB in a shard": ({"shard": [10**6, 10**4], "chunk": [10**6, 10**4]}, "too large"),
    "an index of a trillion chunks": ({"shard": [10**6, 10**6], "chunk": [1, 1]}, "too large"),
    "a shard that is packed as a whole": ({"shard": [10**6, 10**4], "more": {"name": "zstd", "configuration": {}}}, "too large"),
    "chunks of nothing": ({"chunk": [-1, 5]}, "too large"),
    "a shape of petabytes": ({"shape": [10**12, 10**6]}, "declares"),
    "a codec that unpickles": ({"more": {"name": "numcodecs.pickle"}}, "pickle"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_shards_are_refused_before_they_are_read(tmp_path: Path, tiny_blocks: None, kind: str) -> None:
    change, words = HOSTILE[kind]
    folder = sharded(tmp_path, change)
    with pytest.raises(UnsafeFileError) as caught:
        as_h5ad(folder, Settings(tmp_path / "home"), "mine.zarr")
    assert words in str(caught.value) and "mine.zarr" in str(caught.value)


@pytest.mark.parametrize("codecs", [3, [], [{"name": "sharding_indexed"}], [[["bytes"]]], None])
def test_damaged_codecs_end_in_a_sentence(tmp_path: Path, tiny_blocks: None, codecs: object) -> None:
    folder = sharded(tmp_path, {"codecs": codecs})
    with pytest.raises((UnsafeFileError, UnreadableFileError), match=r"mine\.zarr"):
        as_h5ad(folder, Settings(tmp_path / "home"), "mine.zarr")


def test_shards_of_gigabytes_with_small_chunks_are_let_through(tmp_path: Path, tiny_blocks: None) -> None:
    folder = sharded(tmp_path, {})
    place = folder / "layers" / "dense" / "zarr.json"
    found = json.loads(place.read_text())
    found["chunk_grid"]["configuration"]["chunk_shape"] = [10**6, GENES]
    found["codecs"][0]["configuration"]["chunk_shape"] = [1000, GENES]
    place.write_text(json.dumps(found))
    check_store(folder, Settings(tmp_path))  # looks at what is declared; there are no values of that shape to read


# ---- memory ----

COPY = """
import sys
from pathlib import Path
import anndata, zarr  # their own memory is no part of the question
from state_engine.data.files import zarr_copy
zarr_copy.BLOCK_BYTES = 4 << 20
place = Path(sys.argv[1])
getattr(zarr_copy, sys.argv[3])(place, Path(sys.argv[2]))
# not ru_maxrss, which a child has from its parent
print(next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1024)
"""


def large(path: Path, n: int) -> Path:
    """Cells with so many stored values that a copy which held them would show: 400 for each."""
    counts = sp.csr_matrix((np.ones(n * 400, np.float32), np.tile(np.arange(400), n), np.arange(n + 1) * 400), shape=(n, 500))
    made = anndata.AnnData(counts, var=pd.DataFrame(index=[f"G{i}" for i in range(500)]))
    made.obs_names = [f"c{i}" for i in range(n)]
    made.write_h5ad(path)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("version", [2, 3])
def test_copies_hold_one_block(tmp_path: Path, version: int) -> None:
    peaks: dict[str, list[float]] = {"h5ad_to_zarr": [], "zarr_to_h5ad": []}
    for n in (4_000, 20_000):
        path, store = large(tmp_path / f"{n}.h5ad", n), tmp_path / f"{n}.zarr"
        h5ad_to_zarr(path, store, version)
        for verb, source in (("h5ad_to_zarr", path), ("zarr_to_h5ad", store)):
            command = [sys.executable, "-W", "ignore", "-c", COPY, str(source), str(tmp_path / f"{verb}{n}"), verb]
            peaks[verb].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    # 16,000 cells more have 51 MB of values and positions
    for small, many in peaks.values():
        assert many - small < 30, peaks
