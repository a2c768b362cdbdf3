"""Zarr, 10x, MuData and packed files are opened through an .h5ad of the library's own; hostile ones are refused in a sentence."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.files.other_formats import format_of
from state_engine.errors import DataError, UnreadableFileError, UnsafeFileError
from state_engine.library.datasets import get_dataset, receive_upload, register_file, server_files
from state_engine.library.other_formats import as_h5ad
from state_engine.library.trash import forget_dataset
from tests.small import write_cells

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path))
    return Settings(tmp_path / "home", (tmp_path,))


def cells(folder: Path) -> anndata.AnnData:
    made = anndata.read_h5ad(write_cells(folder / "source.h5ad"))
    made.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(made.n_vars)]
    return made


def zarr(folder: Path, version: int) -> Path:
    with anndata.settings.override(zarr_write_format=version):
        cells(folder).write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def zarr_zip(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "cells.zarr"), "zip", zarr(folder, 2)))


def tenx_h5(folder: Path, new: bool = True) -> Path:
    made = cells(folder)
    wide = sp.csc_matrix(made.X.T)
    with h5py.File(folder / "matrix.h5", "w") as file:
        group = file.create_group("matrix" if new else "GRCh38")
        for name, values in (
            ("data", wide.data.astype("i4")), ("indices", wide.indices), ("indptr", wide.indptr), ("shape", np.array(wide.shape)),
        ):  # fmt: skip
            group[name] = values
        group["barcodes"] = np.array(made.obs_names, "S")
        place = group.create_group("features") if new else group
        place["name" if new else "gene_names"] = np.array(made.var_names, "S")
        place["id" if new else "genes"] = np.array(made.var["gene_ids"], "S")
        if new:
            place["feature_type"] = np.array(["Gene Expression"] * 23 + ["Antibody Capture"], "S")
    return folder / "matrix.h5"


def tenx_folder(folder: Path, packed: bool = True) -> Path:
    made, place = cells(folder), folder / "filtered_feature_bc_matrix"
    place.mkdir()
    scipy.io.mmwrite(place / "matrix.mtx", sp.coo_matrix(made.X.T.astype(int)))
    pd.Series(made.obs_names).to_csv(place / "barcodes.tsv", index=False, header=False)
    features = pd.DataFrame({"id": made.var["gene_ids"], "name": made.var_names, "type": "Gene Expression"})
    features.to_csv(place / "features.tsv", sep="\t", index=False, header=False)
    for path in list(place.iterdir()) if packed else ():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return place


def mudata(folder: Path) -> Path:
    made = cells(folder)
    with h5py.File(folder / "cells.h5mu", "w") as file:
        file.attrs["encoding-type"] = "MuData"
        anndata.io.write_elem(file, "mod/rna", made)
        anndata.io.write_elem(file, "mod/adt", made[:, :2].copy())
        anndata.io.write_elem(file, "obs", pd.DataFrame(index=made.obs_names))
        anndata.io.write_elem(file, "var", pd.DataFrame(index=made.var_names))
    return folder / "cells.h5mu"


def packed(folder: Path) -> Path:
    cells(folder).write_h5ad(folder / "plain.h5ad")
    (folder / "cells.h5ad.gz").write_bytes(gzip.compress((folder / "plain.h5ad").read_bytes()))
    return folder / "cells.h5ad.gz"


LABELLED = {
    "zarr 2": lambda f: zarr(f, 2),
    "zarr 3": lambda f: zarr(f, 3),
    "zarr.zip": zarr_zip,
    "h5mu": mudata,
    "h5ad.gz": packed,
}
TENX = {
    "Cell Ranger 3": tenx_h5,
    "Cell Ranger 2": lambda f: tenx_h5(f, new=False),
    "folder": tenx_folder,
    "plain folder": lambda f: tenx_folder(f, packed=False),
    "zip of a folder": lambda f: Path(shutil.make_archive(str(f / "tenx"), "zip", f, tenx_folder(f).name)),
}


@pytest.mark.parametrize("kind", [*LABELLED, *TENX])
def test_each_format_opens_as_its_cells(tmp_path: Path, settings: Settings, kind: str) -> None:
    path = {**LABELLED, **TENX}[kind](tmp_path)
    before = path.stat().st_mtime_ns
    made = as_h5ad(path, settings)
    assert (
        made.parent == settings.uploads
        and made.name.startswith(path.name)
        and as_h5ad(path, settings) == made
        and path.stat().st_mtime_ns == before
    )
    assert [p.name for p in settings.uploads.iterdir()] == [made.name]
    data, source = open_dataset(made), anndata.read_h5ad(tmp_path / "source.h5ad")
    rows = np.arange(data.n_cells)
    genes = [source.var_names.get_loc(g) for g in data.genes.names]
    np.testing.assert_array_equal(data.read("X", rows), source.X.toarray()[:, genes])
    assert list(data.obs_names) == list(source.obs_names) and data.scale.scale == "counts"
    assert data.n_genes == (23 if kind == "Cell Ranger 3" else 24)  # one is an antibody there
    if kind in LABELLED:
        assert data.perturbations == ("control", "IFNB1", "JUN,FOS", "TNF")


@pytest.mark.parametrize("kind", ["zarr 3", "h5mu", "h5ad.gz"])
def test_the_command_line_reads_them(tmp_path: Path, settings: Settings, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = LABELLED[kind](tmp_path)
    assert main(["inspect", str(path)]) == 0
    assert "160 cells x 24 genes" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["zarr 2", "h5mu", "Cell Ranger 3", "folder"])
def test_a_relative_path_is_read_from_any_working_folder(
    tmp_path: Path, settings: Settings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = {**LABELLED, **TENX}[kind](tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = as_h5ad(Path("..") / path.relative_to(tmp_path), settings)
    assert made == as_h5ad(path, settings) and open_dataset(made).n_cells == 160


@pytest.mark.parametrize("kind", ["zarr.zip", "h5mu", "Cell Ranger 3"])
def test_an_upload_becomes_a_data_set(tmp_path: Path, settings: Settings, kind: str) -> None:
    path = {**LABELLED, **TENX}[kind](tmp_path)
    with path.open("rb") as stream:
        entry = receive_upload(settings, path.name, stream, path.stat().st_size)
    assert entry.name == path.name and open_dataset(entry.path).n_cells == 160
    assert [p.name for p in settings.uploads.iterdir()] == [f"{entry.id}.h5ad"]


def test_a_folder_on_the_server_becomes_a_data_set(tmp_path: Path, settings: Settings) -> None:
    path, other = zarr(tmp_path, 2), tenx_folder(tmp_path)
    found = server_files(settings)
    assert path in found and other in found and not any(path in p.parents for p in found)
    entry = register_file(settings, path)
    assert register_file(settings, path) == entry and entry.name == "cells.zarr" and open_dataset(entry.path).n_cells == 160
    forget_dataset(settings, entry.id)
    assert path.exists() and not Path(entry.path).exists()
    with pytest.raises(DataError):
        get_dataset(settings, entry.id)


# ---- hostile ----


def gzip_bomb(folder: Path) -> Path:
    packed(folder)
    content = (folder / "plain.h5ad").read_bytes()
    (folder / "x.h5ad.gz").write_bytes(gzip.compress(content + bytes(400 << 20), 1))
    return folder / "x.h5ad.gz"


def cut_gzip(folder: Path) -> Path:
    path = packed(folder)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def declares_much(folder: Path) -> Path:
    path = tenx_folder(folder, packed=False)
    (path / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n30000 1000 1000000000000\n1 1 1\n")
    return path


def declares_cells(folder: Path) -> Path:
    path = tenx_folder(folder, packed=False)
    (path / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n3 1000000000000 1\n1 1 1\n")
    return path


def linked_matrix(folder: Path) -> Path:
    path = tenx_folder(folder, packed=False)
    (folder / "secret.tsv").write_text("secret\n" * 160)
    (path / "barcodes.tsv").unlink()
    (path / "barcodes.tsv").symlink_to(folder / "secret.tsv")
    return path


def linked_zarr(folder: Path) -> Path:
    path = zarr(folder, 2)
    shutil.move(path / "X", folder / "elsewhere")
    (path / "X").symlink_to(folder / "elsewhere")
    return path


def pickle_in_zarr(folder: Path) -> Path:
    path = zarr(folder, 2)
    place = path / "obs" / "_index" / ".zarray"
    place.write_text(json.dumps({**json.loads(place.read_text()), "filters": [{"id": "pickle", "protocol": 5}]}))
    return path


def large_zarr(folder: Path) -> Path:
    path = zarr(folder, 2)
    place = path / "X" / "data" / ".zarray"
    place.write_text(json.dumps({**json.loads(place.read_text()), "shape": [10**13]}))
    return path


def large_chunks(folder: Path) -> Path:
    path = zarr(folder, 3)
    place = path / "X" / "data" / "zarr.json"
    found = json.loads(place.read_text())
    found["chunk_grid"]["configuration"]["chunk_shape"] = [10**10]
    place.write_text(json.dumps(found))
    return path


def zip_out(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr(".zgroup", "{}")
        archive.writestr("../escaped", "x")
    return folder / "x.zip"


def zip_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".zgroup", "{}")
        archive.writestr("X/0", bytes(300 << 20))
    return folder / "x.zip"


def linked_tenx(folder: Path) -> Path:
    path = tenx_h5(folder)
    with h5py.File(folder / "other.h5", "w") as other:
        other["data"] = np.arange(9)
    with h5py.File(path, "r+") as file:
        del file["matrix/data"]
        file["matrix/data"] = h5py.ExternalLink(str(folder / "other.h5"), "/data")
    return path


def virtual_mudata(folder: Path) -> Path:
    path = mudata(folder)
    with h5py.File(path, "r+") as file:
        del file["mod/rna/X"]
        layout = h5py.VirtualLayout((160, 24), "f4")
        layout[:] = h5py.VirtualSource(str(folder / "source.h5ad"), "X", (160, 24))
        file["mod/rna"].create_virtual_dataset("X", layout)
    return path


def linked_mudata(folder: Path) -> Path:
    path = mudata(folder)
    with h5py.File(path, "r+") as file:
        del file["mod/rna"]
        file["mod/rna"] = h5py.ExternalLink(str(folder / "source.h5ad"), "/")
    return path


def other_lengths(folder: Path) -> Path:
    path = tenx_h5(folder)
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(["a", "b"], "S")
    return path


HOSTILE = {
    gzip_bomb: "not unpacked",
    cut_gzip: "cannot be unpacked",
    declares_much: "1,000,000,000,000 values",
    declares_cells: "1,000,000,000,000 cells",
    linked_matrix: "barcodes.tsv is a link",
    linked_zarr: "'X' in it is a link",
    pickle_in_zarr: "need 'pickle'",
    large_zarr: "declares",
    large_chunks: "pieces that are too large",
    zip_out: "leads out of the zip",
    zip_bomb: "not unpacked",
    linked_tenx: "points to another file",
    virtual_mudata: "points to other files",
    linked_mudata: "points to another file",
    other_lengths: "contradicts itself",
}


@pytest.mark.parametrize("maker", HOSTILE, ids=lambda m: m.__name__)
def test_hostile_files_are_refused_and_leave_nothing(tmp_path: Path, settings: Settings, maker) -> None:  # type: ignore[no-untyped-def]
    path = maker(tmp_path)
    with pytest.raises((UnreadableFileError, UnsafeFileError)) as caught:
        as_h5ad(path, settings, "mine")
    words = str(caught.value)
    assert HOSTILE[maker] in words and "mine" in words and str(settings.home) not in words
    assert not list(settings.uploads.iterdir()) and not (tmp_path / "escaped").exists()
    assert not (settings.home / "escaped").exists()


def test_what_is_not_converted_is_left_to_its_sentence(tmp_path: Path, settings: Settings) -> None:
    with h5py.File(tmp_path / "x.loom", "w") as file:
        file["matrix"] = np.ones((3, 4))
        file.create_group("row_attrs"), file.create_group("col_attrs")
    (tmp_path / "x.rds").write_bytes(gzip.compress(b"X\n\x00"))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("x.loom", "read_loom"),
        ("x.rds", "readRDS"),
        ("folder", "a folder, not a file"),
        ("none.h5", "not there"),
    ):
        path = tmp_path / name
        assert as_h5ad(path, settings) == path
        with pytest.raises(UnreadableFileError, match=words):
            open_dataset(path)
    assert format_of(write_cells(tmp_path / "c.h5ad")) is None


def test_a_split_of_another_format_trains_and_is_tested(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr(tmp_path, 3)
    (tmp_path / "split.toml").write_text('[datasets]\nd = "cells.zarr"\n[training]\nd = "train"\n[zeroshot]\n"d.NK" = "test"\n')
    words = ["train", "--split", str(tmp_path / "split.toml"), "--max-steps", "1", "--device", "cpu"]
    tiny = [
        f"--set={s}" for s in ("hvgs=0", "hidden=8", "layers=1", "heads=2", "set_size=8", "calibrate=false", "cross_fit=false")
    ]
    assert main([*words, *tiny, "--output", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert "uploads/cells.zarr." in (tmp_path / "run" / "split.toml").read_text()
    assert main(["predict", "--model", str(tmp_path / "run"), "--data", str(tmp_path / "cells.zarr"), "--perturbation", "TNF",
                 "--cells", "8", "--device", "cpu", "--output", str(tmp_path / "p.npy")]) == 0  # fmt: skip
    assert np.load(tmp_path / "p.npy").shape == (16, 24)
