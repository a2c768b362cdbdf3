"""Files that must be refused, each with its own plain message. Used by the tests of the engine and of the pages."""

from __future__ import annotations

import ctypes
import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from tests.data.good_files import cells, write


def _good(folder: Path, name: str) -> Path:
    return write(cells(), folder / f"{name}.h5ad")


def truncated(folder: Path) -> Path:
    path = _good(folder, "truncated")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def truncated_in_header(folder: Path) -> Path:
    path = _good(folder, "truncated_in_header")
    path.write_bytes(path.read_bytes()[:20])
    return path


def no_bytes(folder: Path) -> Path:
    path = folder / "no_bytes.h5ad"
    path.write_bytes(b"")
    return path


def gzipped(folder: Path) -> Path:
    path = folder / "gzipped.h5ad"
    path.write_bytes(gzip.compress(_good(folder, "inner").read_bytes()))
    return path


def zipped(folder: Path) -> Path:
    path = folder / "zipped.h5ad"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cells.csv", "a,b\n1,2\n")
    return path


def csv(folder: Path) -> Path:
    path = folder / "csv.h5ad"
    path.write_text("cell,STAT1,TNF\nc1,0,2\n")
    return path


def web_page(folder: Path) -> Path:
    path = folder / "web_page.h5ad"
    path.write_text("<!DOCTYPE html><html><body>Please log in</body></html>")
    return path


def binary(folder: Path) -> Path:
    path = folder / "binary.h5ad"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    return path


def tenx(folder: Path) -> Path:
    path = folder / "tenx.h5ad"
    with h5py.File(path, "w") as file:
        file.create_group("matrix")["data"] = np.arange(3)
    return path


def mudata(folder: Path) -> Path:
    path = folder / "mudata.h5ad"
    with h5py.File(path, "w") as file:
        file.create_group("mod/rna")
    return path


def hdf5_of_something(folder: Path) -> Path:
    path = folder / "hdf5_of_something.h5ad"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    return path


def old_anndata(folder: Path) -> Path:
    path = folder / "old_anndata.h5ad"
    with h5py.File(path, "w") as file:
        for part in ("obs", "var"):
            file[part] = np.array([(b"a", 1.0)], dtype=[("index", "S1"), ("x", "f4")])
        file["X"] = np.ones((1, 1), "f4")
    return path


def no_cells(folder: Path) -> Path:
    return write(cells()[:0].copy(), folder / "no_cells.h5ad")


def no_genes(folder: Path) -> Path:
    return write(anndata.AnnData(obs=pd.DataFrame(index=["a", "b"])), folder / "no_genes.h5ad")


def _edited(folder: Path, name: str, edit: Callable[[h5py.File], None]) -> Path:
    path = _good(folder, name)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def external_link(folder: Path) -> Path:
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros(60)

    def edit(file: h5py.File) -> None:
        file["obs/stolen"] = h5py.ExternalLink(str(secret), "/x")

    return _edited(folder, "external_link", edit)


def soft_link_through_external(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["a"] = h5py.SoftLink("/uns/b/x")  # walked before the external link
        file["uns/b"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")

    return _edited(folder, "soft_link_through_external", edit)


def external_storage(folder: Path) -> Path:
    secret = folder / "secret.bin"
    secret.write_bytes(b"password" * 100)

    def edit(file: h5py.File) -> None:
        file.create_dataset("obs/stolen", shape=(60,), dtype="u1", external=[(str(secret), 0, 60)])

    return _edited(folder, "external_storage", edit)


def virtual(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape=(60,), dtype="f4")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape=(60,))
        file.create_virtual_dataset("obs/elsewhere", layout)

    return _edited(folder, "virtual", edit)


def dangling_link(folder: Path) -> Path:
    return _edited(folder, "dangling_link", lambda file: file.__setitem__("uns/gone", h5py.SoftLink("/nowhere")))


def link_to_itself(folder: Path) -> Path:
    return _edited(folder, "link_to_itself", lambda file: file.__setitem__("uns/loop", h5py.SoftLink("/uns/loop")))


def links_in_a_circle(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file.create_group("uns/a")
        file.create_group("uns/b")
        file["uns/a/next"], file["uns/b/next"] = h5py.SoftLink("/uns/b"), h5py.SoftLink("/uns/a")

    return _edited(folder, "links_in_a_circle", edit)


def hard_links_in_a_circle(folder: Path) -> Path:
    return _edited(folder, "hard_links_in_a_circle", lambda file: file["uns"].__setitem__("self", file["uns"]))


def huge(folder: Path) -> Path:
    """A few kB that declare 240 GB in a layer."""

    def edit(file: h5py.File) -> None:
        file.create_dataset("uns/huge", shape=(60, 1_000_000_000), chunks=(1, 1_000_000), dtype="f4", compression="gzip")

    return _edited(folder, "huge", edit)


def hollow(folder: Path) -> Path:
    """Below the limit of declared sizes, but far more than the bytes of the file can hold."""

    def edit(file: h5py.File) -> None:
        file.create_dataset("uns/hollow", shape=(2_000_000_000,), chunks=(1_000_000,), dtype="f4", compression="gzip")

    return _edited(folder, "hollow", edit)


def thirty_million_cells(folder: Path) -> Path:
    path = folder / "thirty_million_cells.h5ad"
    n = 30_000_000
    with h5py.File(path, "w") as file:
        for part, length in (("obs", n), ("var", 1)):
            frame = file.create_group(part)
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            frame.create_dataset("_index", shape=(length,), dtype="S8", chunks=(min(length, 100_000),))
        file.create_dataset("X", shape=(n, 1), chunks=(100_000, 1), dtype="f4")
    return path


def _broken_sparse(name: str, edit: Callable[[h5py.Group], None], layout: str = "csr") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(cells(layout=layout), folder / f"{name}.h5ad")
        with h5py.File(path, "r+") as file:
            edit(file["X"])
        return path

    return make


def _put(group: h5py.Group, part: str, where: int, value: int) -> None:
    group[part][where] = value


def _replace(group: h5py.Group, part: str, values: np.ndarray) -> None:
    del group[part]
    group[part] = values


def wrong_shape(folder: Path) -> Path:
    return _edited(folder, "wrong_shape", lambda file: _replace(file["layers/log1p"], "indptr", np.zeros(5, "i4")))


def wrong_matrix(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["X"]
        file["X"] = np.zeros((7, 12), "f4")

    return _edited(folder, "wrong_matrix", edit)


def text_matrix(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["X"]
        file["X"] = np.full((60, 12), "a", dtype=h5py.string_dtype())

    return _edited(folder, "text_matrix", edit)


def short_column(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs/treated_by"] = np.array([b"a", b"b"])

    return _edited(folder, "short_column", edit)


def reference_to_an_unlinked_object(folder: Path) -> Path:
    """Categories in a data set without a name that keeps its bytes in another file: no walk over links sees it."""
    secret = folder / "secret.txt"
    secret.write_text("THE SERVER'S OWN SECRET")

    def edit(file: h5py.File) -> None:
        hidden = file["obs"].create_dataset("cats", shape=(1,), dtype="S23", external=[(str(secret), 0, 23)])
        column = file["obs"].create_dataset("hidden", data=np.zeros(60, "i1"))
        column.attrs["categories"] = hidden.ref
        library = ctypes.CDLL(next(Path(h5py.__file__).parents[1].glob("h5py.libs/libhdf5-*")))
        library.H5Oincr_refcount.argtypes = [ctypes.c_int64]
        library.H5Oincr_refcount(hidden.id.id)  # the object stays when its only link goes
        del file["obs/cats"]

    return _edited(folder, "unlinked", edit)


def reference_elsewhere(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs"].create_dataset("odd", data=np.zeros(60, "i1")).attrs["categories"] = file["var/_index"].ref

    return _edited(folder, "elsewhere", edit)


def references_as_values(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs"].create_dataset("refs", data=np.array([file["X"].ref] * 60, dtype=h5py.ref_dtype))

    return _edited(folder, "references", edit)


def reference_as_attribute(folder: Path) -> Path:
    return _edited(folder, "attribute", lambda file: file["obs"].attrs.__setitem__("column-order", file["X"].ref))


def shared_strings(folder: Path) -> Path:
    """A million names that all point to one string of 1 MB: 1 TB when read, 8 MB as declared."""
    n = 1_000_000

    def edit(file: h5py.File) -> None:
        del file["var/_index"]
        names = file["var"].create_dataset("_index", shape=(n,), dtype=h5py.string_dtype(), chunks=(n // 10,), compression="gzip")
        names[0] = "G" * (1 << 20)
        file.flush()
        pointer = zlib.decompress(names.id.read_direct_chunk((0,))[1])[:16]
        packed = zlib.compress(pointer * (n // 10), 9)
        for i in range(10):
            names.id.write_direct_chunk((i * (n // 10),), packed)
        del file["X"], file["layers"], file["obsm"]

    return _edited(folder, "shared", edit)


def long_column(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs"].create_dataset("line", shape=(20_000_000,), dtype=h5py.string_dtype(), chunks=(1000,))

    return _edited(folder, "long", edit)


def one_chunk(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs"].create_dataset("big", shape=(60, 40_000_000), dtype="i1", chunks=(60, 20_000_000))

    return _edited(folder, "chunk", edit)


def large_attribute(folder: Path) -> Path:
    path = write(cells(), folder / "large.h5ad")
    with h5py.File(path, "r+", libver="latest") as file:
        file.create_group("extra").attrs["note"] = np.zeros(200_000, "i1")
    return path


# maker -> a word of the message that no other cause would give
UNREADABLE: dict[Callable[[Path], Path], str] = {
    truncated: "is cut off",
    truncated_in_header: "is cut off",
    gzipped: "gzip-compressed",
    zipped: "zip archive",
    csv: "comma-separated",
    web_page: "web page",
    binary: "binary data of an unknown kind",
    tenx: "10x Genomics",
    mudata: "MuData",
    hdf5_of_something: "no 'obs'",
    old_anndata: "older than 0.7",
}
EMPTY: dict[Callable[[Path], Path], str] = {no_bytes: "0 bytes", no_cells: "no cells", no_genes: "no genes"}
UNSAFE: dict[Callable[[Path], Path], str] = {
    external_link: "secret.h5",
    soft_link_through_external: "points to another file",
    external_storage: "secret.bin",
    virtual: "virtual data set",
    dangling_link: "leads nowhere",
    link_to_itself: "leads nowhere",
    links_in_a_circle: "in a circle",
    hard_links_in_a_circle: "in a circle",
    reference_to_an_unlinked_object: "outside the usual place",
    reference_elsewhere: "outside the usual place",
    references_as_values: "holds references",
    reference_as_attribute: "is a reference",
    shared_strings: "are too long",
    one_chunk: "chunks of 1.1 GB",
    large_attribute: "200,000 bytes",
    huge: "declares 223.5 GiB",
    hollow: "the values are not there",
    thirty_million_cells: "30,000,000 cells",
    wrong_shape: "index has 5 entries",
    wrong_matrix: "contradicts the labels",
    text_matrix: "holds no numbers",
    _broken_sparse("start", lambda g: _put(g, "indptr", 0, 1)): "starts at 1",
    _broken_sparse("backwards", lambda g: _put(g, "indptr", 3, 0)): "goes backwards",
    _broken_sparse("end", lambda g: _put(g, "indptr", -1, 10_000)): "ends at 10,000",
    _broken_sparse("range", lambda g: _put(g, "indices", 0, 12)): "position 12 of 12",
    _broken_sparse("negative", lambda g: _put(g, "indices", 5, -1)): "position -1 of 12",
    _broken_sparse("by_gene", lambda g: _put(g, "indices", 5, 60), "csc"): "position 60 of 60",
    _broken_sparse("short_data", lambda g: _replace(g, "data", np.ones(3, "f4"))): "stores 3 values",
    _broken_sparse("text_data", lambda g: _replace(g, "data", np.array([b"x"] * 9))): "not numbers",
    _broken_sparse("no_indices", lambda g: g.__delitem__("indices")): "without a usable 'indices'",
}
# columns that nobody needs are left out with a note that names them; a chosen one is refused
BROKEN_COLUMNS: dict[Callable[[Path], Path], tuple[str, str]] = {
    short_column: ("treated_by", "has 2 entries"),
    long_column: ("line", "20,000,000 entries"),
}
