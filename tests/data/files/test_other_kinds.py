"""What people have instead of an .h5ad: each is named, with the one command that converts it."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from state_engine.data.dataset import open_dataset
from state_engine.errors import UnreadableFileError
from tests.data.good_files import cells, write


def of_cell_ranger(path: Path, group: str, genes: str) -> Path:
    with h5py.File(path, "w") as file:
        made = file.create_group(group)
        for name in ("data", "indices", "indptr", "shape", "barcodes", genes):
            made[name] = np.arange(3)
    return path


def mudata(path: Path) -> Path:
    """As MuData writes it: obs, var and masks at the root, the modalities under mod/."""
    whole = cells()
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        anndata.io.write_elem(file, "mod/rna", whole)
        anndata.io.write_elem(file, "mod/prot", whole)
        anndata.io.write_elem(file, "obs", whole.obs)
        anndata.io.write_elem(file, "var", whole.var)
        file["obsm/rna"] = np.ones(whole.n_obs, bool)
    return path


def zarr_folder(path: Path) -> Path:
    (path / "X").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    return path


def zarr_zip(path: Path) -> Path:
    shutil.make_archive(str(path.with_suffix("")), "zip", zarr_folder(path.with_name("store.zarr")))
    return path


def matrix_folder(path: Path) -> Path:
    path.mkdir()
    for name in ("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"):
        (path / name).touch()
    return path


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def loom(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["matrix"] = np.ones((3, 4))
        file.create_group("row_attrs")
        file.create_group("col_attrs")
    return path


MAKERS = {
    "MuData": (lambda p: mudata(p / "x.h5mu"), r"a MuData file.*mudata\.read_h5mu\(\.\.\.\)\['rna'\]\.write_h5ad"),
    "Cell Ranger 2": (lambda p: of_cell_ranger(p / "x.h5", "GRCh38", "genes"), r"a 10x Genomics matrix.*read_10x_h5"),
    "Cell Ranger 3": (lambda p: of_cell_ranger(p / "x.h5", "matrix", "features"), r"a 10x Genomics matrix.*read_10x_h5"),
    "Loom": (lambda p: loom(p / "x.loom"), r"a Loom file.*read_loom"),
    "zarr": (lambda p: zarr_folder(p / "x.zarr"), r"a zarr store, a folder.*anndata\.io\.read_zarr\('x\.zarr'\)\.write_h5ad"),
    "zarr zip": (lambda p: zarr_zip(p / "x.zarr.zip"), r"a zipped zarr store.*Unpack it.*read_zarr\('x\.zarr'\)"),
    "mtx": (lambda p: matrix_folder(p / "filtered"), r"a 10x matrix folder.*scanpy\.read_10x_mtx\('filtered'\)\.write_h5ad"),
    "h5ad.gz": (
        lambda p: packed(p / "x.h5ad.gz", write(cells(), p / "y.h5ad").read_bytes()),
        r"gzip-compressed.*gunzip x\.h5ad\.gz",
    ),
    "rds": (lambda p: packed(p / "x.rds", b"X\n\x00\x00\x00\x03"), r"an R object.*readRDS\('x\.rds'\)"),
    "rda": (lambda p: packed(p / "x.rda", b"RDX3\nX\n"), r"an R object"),
    "folder": (lambda p: p, r"is a folder, not a file"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_each_kind_is_named_with_a_way_out(tmp_path: Path, kind: str) -> None:
    make, words = MAKERS[kind]
    path = make(tmp_path)
    with pytest.raises(UnreadableFileError) as caught:
        open_dataset(path)
    assert path.name in str(caught.value)
    caught.match(words)


def test_a_file_that_another_program_writes_is_not_called_damaged(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "in_use.h5ad")
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        with pytest.raises(UnreadableFileError, match=r"in_use\.h5ad is open in another program.*Close it there"):
            open_dataset(path)
        holder.communicate("")
    assert open_dataset(path).n_cells
