"""The check of a foreign .h5ad before anything else touches it: it stays inside itself, declares sane sizes and is consistent.

Source: measured attacks and accidents (links to other files' bytes, 6 kB that declare 240 GB, cut-off downloads).
Boundary: looks at structure and declared sizes; of the values it reads the indices of sparse matrices only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import h5py

from state_engine.config import GB, Settings, gib, load_settings
from state_engine.data.files.file_kind import check_signature
from state_engine.data.files.hdf5 import EXPORT_AGAIN, encoding, follow, index_column, open_h5
from state_engine.data.files.heaps import check_heaps
from state_engine.data.files.matrices import MatrixFacts, check_sparse, matrix_facts
from state_engine.errors import EmptyDataError, RepresentationError, UnreadableFileError, UnsafeFileError, listed

RAW = "raw"  # the part of an AnnData file that keeps expression with genes of its own
MAX_OBJECTS = 100_000
MAX_DEPTH = 32
MAX_GENES = 1_000_000
# deflate cannot expand more than 1,032-fold; a file beyond this holds no data for what it declares
MAX_EXPANSION = 2_000
WORTH_A_LOOK = 256 << 20  # declared bytes from which a single data set must have values behind them
MAX_CHUNK = 1 << 30  # bytes of one chunk: it is unpacked whole for every row of it
MAX_ATTRIBUTE = 64 << 10  # bytes of one attribute; HDF5's own limit for those in an object's header
MAX_ATTRIBUTES = 64  # of one object; AnnData writes five


@dataclass(frozen=True)
class FileFacts:
    """What a file is, as far as it declares it.

    Args:
        path: where it lies.
        nbytes: size on disk.
        modified: time of last change, ns; a reader that finds another one knows that the file changed.
        n_cells, n_genes: lengths of obs and var.
        declared_bytes: sum of all declared arrays, uncompressed.
        matrices: X, layers and obsm that can be read; X is absent when the file has none.
        has_raw: the file has a `raw` part, with genes of its own; it is read where it is chosen.
        raw: its matrix; None when it has none that can be read.
        expressions: names of what may be chosen as the expression: X, layers, `RAW`.
        notes: remarks for people about what is passed over.
    """

    path: Path
    nbytes: int
    modified: int
    n_cells: int
    n_genes: int
    declared_bytes: int
    matrices: tuple[MatrixFacts, ...]
    has_raw: bool = False
    notes: tuple[str, ...] = ()
    raw: MatrixFacts | None = None
    expressions: tuple[str, ...] = ()

    def of_raw(self) -> FileFacts:
        """Return the facts of the raw part in the place of X and the layers, which have other genes.

        Raises:
            RepresentationError: there is none that can be read.
        """
        if self.raw is None:
            raise RepresentationError(
                f"{self.path.name} has no '{RAW}' part that can be read.",
                f"It has: {listed(self.expressions, 20) or 'no expression'}.",
                "Choose one of them.",
            )
        matrices = (self.raw, *(m for m in self.matrices if m.name.startswith("obsm/")))
        return replace(self, n_genes=self.raw.width, matrices=matrices)


def check_file(path: Path, settings: Settings | None = None) -> FileFacts:
    """Check a file, before AnnData opens it. Repeated checks of an unchanged file are answered from memory.

    Raises:
        UnreadableFileError: missing, cut off, not HDF5, not AnnData, damaged.
        UnsafeFileError: too large, links, external or virtual storage, declared sizes beyond the limits, inconsistent indices.
        EmptyDataError: no cells or no genes.
    """
    settings = settings or load_settings()
    size = check_signature(path, settings.max_file_bytes)
    return _check(path, size, path.stat().st_mtime_ns, settings)


@lru_cache(maxsize=32)
def _check(path: Path, size: int, modified: int, settings: Settings) -> FileFacts:
    check_heaps(path, size)
    with open_h5(path) as file:
        declared = _check_objects(file, size, path, settings)
        _check_anndata(file, path)
        n_cells, n_genes = _frame_length(file["obs"], "obs", path), _frame_length(file["var"], "var", path)
        _check_counts(n_cells, n_genes, path, settings)
        matrices, notes = _matrices(file, n_cells, n_genes)
        raw, remarks = _raw(file, n_cells, path)
        names = [m.name for m in matrices if not m.name.startswith("obsm/")]
        expressions = (*names, *([RAW] if raw else []))
        return FileFacts(
            path, size, modified, n_cells, n_genes, declared, matrices, RAW in file, (*notes, *remarks), raw, expressions
        )


def _raw(file: h5py.File, n_cells: int, path: Path) -> tuple[MatrixFacts | None, tuple[str, ...]]:
    """Return the facts of raw/X, or why it cannot be read: nothing else of the file depends on it."""
    group = file.get(RAW)
    if not isinstance(group, h5py.Group) or "X" not in group or not isinstance(group.get("var"), h5py.Group):
        return None, ()
    try:
        facts = matrix_facts(group["X"], f"{RAW}/X")
        if (facts.rows, facts.width) != (n_cells, _frame_length(group["var"], f"{RAW}/var", path)):
            raise RepresentationError(f"{RAW}/X contradicts its labels.", f"It is {facts.rows:,} x {facts.width:,}.")
        if facts.sparse:
            check_sparse(group["X"], facts)
    except (RepresentationError, UnreadableFileError) as error:
        return None, (f"{error.what} {error.why} It is passed over.",)
    return facts, ()


def check_hdf5(path: Path, settings: Settings) -> None:
    """Check what any HDF5 file must be, AnnData or not: all there, nothing that leads out of it, sane sizes.

    Raises:
        UnreadableFileError, UnsafeFileError, EmptyDataError: see `check_file`.
    """
    size = check_signature(path, settings.max_file_bytes)
    check_heaps(path, size)
    with open_h5(path) as file:
        _check_objects(file, size, path, settings)


def _check_objects(file: h5py.File, size: int, path: Path, settings: Settings) -> int:
    """Walk all objects by hard links first (nothing outside is opened), then resolve soft links; returns the declared bytes."""
    declared, seen, soft = 0, 0, False
    _check_attributes(file, "/", path)
    stack: list[tuple[h5py.Group, int]] = [(file, 0)]
    known = {h5py.h5o.get_info(file.id).addr}
    while stack:
        group, depth = stack.pop()
        for name in group:
            seen += 1
            if seen > MAX_OBJECTS or depth > MAX_DEPTH:
                raise UnsafeFileError(
                    f"{path.name} is not a usual AnnData file.",
                    f"It has more than {MAX_OBJECTS:,} objects or more than {MAX_DEPTH} levels of groups.",
                    EXPORT_AGAIN,
                )
            where = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UnsafeFileError(
                    f"{path.name} points to another file.", f"'{where}' is a link to '{link.filename}'.", EXPORT_AGAIN
                )
            if isinstance(link, h5py.SoftLink):
                soft = True
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in known:
                continue
            known.add(address)
            _check_attributes(item, where, path)
            if isinstance(item, h5py.Group):
                stack.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                declared += _check_storage(item, where, path)
    _check_declared(declared, size, path, settings)
    _check_cycles(file, path, soft)
    return declared


def _check_storage(item: h5py.Dataset, where: str, path: Path) -> int:
    """Refuse a data set whose bytes lie elsewhere or cannot be unpacked here; returns its declared bytes."""
    if item.external:
        raise UnsafeFileError(
            f"{path.name} points to another file.", f"'{where}' keeps its values in '{item.external[0][0]}'.", EXPORT_AGAIN
        )
    if item.is_virtual:
        raise UnsafeFileError(f"{path.name} points to other files.", f"'{where}' is a virtual data set.", EXPORT_AGAIN)
    if _refers(item.id.get_type()):
        raise UnsafeFileError(f"{path.name} refers to other objects.", f"'{where}' holds references.", EXPORT_AGAIN)
    plan = item.id.get_create_plist()
    for i in range(plan.get_nfilters()):
        code, _, _, label = plan.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise UnreadableFileError(
                f"{path.name} is compressed in a way that cannot be read here.",
                f"'{where}' uses the HDF5 filter {code} ({label.decode('utf-8', 'replace') or 'unnamed'}).",
                "Write it again with compression='gzip'.",
            )
    declared = int(item.size or 0) * int(item.dtype.itemsize)
    chunk = math.prod(item.chunks or ()) * int(item.dtype.itemsize)
    if chunk > MAX_CHUNK:
        raise UnsafeFileError(
            f"{path.name} is stored in pieces that are too large.",
            f"'{where}' has chunks of {chunk / GB:,.1f} GB; each is unpacked whole for every row that is read.",
            "Write it again with anndata, which chooses smaller ones.",
        )
    stored = int(item.id.get_storage_size())
    if declared > WORTH_A_LOOK and declared > MAX_EXPANSION * stored:
        raise UnsafeFileError(
            f"{path.name} declares {gib(declared)} of data in '{where}' with {_size(stored)} behind it.",
            "No compression of real data reaches that: the values are not there.",
            EXPORT_AGAIN,
        )
    return declared


def _check_attributes(item: h5py.Group | h5py.Dataset, where: str, path: Path) -> None:
    """Refuse attributes that are large, many, or refer to objects; only categories of AnnData 0.7 are referred to, see `hdf5.follow`."""
    count = h5py.h5a.get_num_attrs(item.id)
    if count > MAX_ATTRIBUTES:
        raise UnsafeFileError(f"{path.name} is not a usual AnnData file.", f"'{where}' has {count:,} attributes.", EXPORT_AGAIN)
    for i in range(count):
        attribute = h5py.h5a.open(item.id, index=i)
        name = attribute.name.decode("utf-8", "replace")
        nbytes = attribute.get_space().get_simple_extent_npoints() * attribute.get_type().get_size()
        if nbytes > MAX_ATTRIBUTE:
            raise UnsafeFileError(
                f"{path.name} is not a usual AnnData file.",
                f"The attribute '{name}' of '{where}' has {nbytes:,} bytes.",
                EXPORT_AGAIN,
            )
        if not _refers(attribute.get_type()):
            continue
        if name != "categories" or not isinstance(item, h5py.Dataset):
            raise UnsafeFileError(
                f"{path.name} refers to other objects.", f"The attribute '{name}' of '{where}' is a reference.", EXPORT_AGAIN
            )
        follow(item, name)  # refused here when it leads anywhere but to categories in this file


def _refers(kind: h5py.h5t.TypeID) -> bool:
    """Return whether values of this type lead to other objects, also inside arrays and compounds."""
    return bool(kind.detect_class(h5py.h5t.REFERENCE))


def _check_declared(declared: int, size: int, path: Path, settings: Settings) -> None:
    if declared > settings.max_declared_bytes:
        raise UnsafeFileError(
            f"{path.name} declares {gib(declared)} of data in a file of {_size(size)}.",
            f"The limit of this installation is {gib(settings.max_declared_bytes)}.",
            "Take fewer cells or genes, or raise STATE_EXPLORER_MAX_DECLARED_GB.",
        )
    if declared > GB and declared > MAX_EXPANSION * size:
        raise UnsafeFileError(
            f"{path.name} declares {gib(declared)} of data in a file of {_size(size)}.",
            "No compression of real data reaches that: the values are not there.",
            EXPORT_AGAIN,
        )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:,.1f} kB"


def _check_cycles(file: h5py.File, path: Path, soft: bool) -> None:
    """Refuse dangling soft links, and links of any kind that lead round in a circle (a reader would never come back)."""
    open_now: set[int] = set()
    done: set[int] = set()
    names: list[tuple[h5py.Group, list[str]]] = [(file, list(file))]
    open_now.add(h5py.h5o.get_info(file.id).addr)
    while names:
        group, rest = names[-1]
        if not rest:
            address = h5py.h5o.get_info(group.id).addr
            open_now.discard(address)
            done.add(address)
            names.pop()
            continue
        name = rest.pop()
        where = f"{group.name.rstrip('/')}/{name}"
        if soft and not _leads_somewhere(group, name):
            raise UnsafeFileError(f"{path.name} has a link to nothing.", f"'{where}' leads nowhere.", EXPORT_AGAIN)
        if group.get(name, getclass=True) is not h5py.Group:
            continue
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in open_now:
            raise UnsafeFileError(f"{path.name} has links in a circle.", f"'{where}' leads back to itself.", EXPORT_AGAIN)
        if address not in done:
            open_now.add(address)
            names.append((item, list(item)))


def _leads_somewhere(group: h5py.Group, name: str) -> bool:
    try:
        return group[name] is not None
    except (KeyError, OSError, RuntimeError):
        return False


def _another_kind(file: h5py.File) -> tuple[str, str]:
    """Return which other kind of HDF5 file this is, and the command that converts it; nothing where it is none of them."""
    groups = {name: item for name in file if isinstance(item := file.get(name), h5py.Group)}
    modalities = groups.get("mod")
    if encoding(file) == "MuData" or (modalities is not None and "X" not in file):
        inside = list(modalities) if modalities is not None else []
        rna = "rna" if "rna" in inside or not inside else inside[0]
        return "a MuData file (.h5mu)", f"Save one modality: mudata.read_h5mu(...)['{rna}'].write_h5ad(...)."
    cell_ranger_2 = any({"barcodes", "genes", "indptr"} <= set(item) for item in groups.values())
    if "matrix" in groups or cell_ranger_2:
        return "a 10x Genomics matrix (.h5)", "Convert it: scanpy.read_10x_h5(...).write_h5ad(...)."
    if "row_attrs" in file and "col_attrs" in file:
        return "a Loom file", "Convert it: anndata.io.read_loom(...).write_h5ad(...)."
    if "assays" in file:
        return "a Seurat file (.h5Seurat)", "Convert it to .h5ad with SeuratDisk or sceasy."
    return "", ""


def _check_anndata(file: h5py.File, path: Path) -> None:
    names = sorted(file)
    fix = "Read it with the tool that wrote it and save an .h5ad, for example with anndata's write_h5ad."
    what, how = _another_kind(file)
    # a MuData file has obs and var at its root too, but its matrices lie in mod/
    if what and (what.startswith("a MuData") or not ("obs" in file and "var" in file)):
        raise UnreadableFileError(f"{path.name} is {what}, not an AnnData file.", f"It holds: {listed(names)}.", how)
    for part in ("obs", "var"):
        if part not in file:
            held = f"It holds: {listed(names)}." if names else "It holds nothing."
            raise UnreadableFileError(f"{path.name} is HDF5 but not an AnnData file: it has no '{part}'.", held, fix)
        if isinstance(file[part], h5py.Dataset):
            raise UnreadableFileError(
                f"{path.name} was written by an AnnData older than 0.7.",
                f"Its '{part}' is stored as one compound table.",
                "Convert it once: anndata.read_h5ad(old).write_h5ad(new).",
            )


def _frame_length(frame: h5py.Group, part: str, path: Path) -> int:
    index = index_column(frame)
    names = frame[index] if index is not None else None
    if isinstance(names, h5py.Group):  # nullable strings, or a categorical
        names = names.get("values", names.get("codes"))
    if not isinstance(names, h5py.Dataset) or len(names.shape) != 1:
        raise UnreadableFileError(
            f"{path.name} has no row names in '{part}'.", "AnnData needs an index there.", "Export the file again with anndata."
        )
    return int(names.shape[0])


def _check_counts(n_cells: int, n_genes: int, path: Path, settings: Settings) -> None:
    for count, what in ((n_cells, "cells"), (n_genes, "genes")):
        if count == 0:
            raise EmptyDataError(
                f"{path.name} has no {what}.",
                f"It declares {n_cells:,} cells x {n_genes:,} genes.",
                "Check the filter that made it.",
            )
    if n_cells > settings.max_cells:
        raise UnsafeFileError(
            f"{path.name} declares {n_cells:,} cells.",
            f"The limit of this installation is {settings.max_cells:,} cells.",
            "Split the file, or raise STATE_EXPLORER_MAX_CELLS.",
        )
    if n_genes > MAX_GENES:
        raise UnsafeFileError(
            f"{path.name} declares {n_genes:,} genes.", f"The limit is {MAX_GENES:,}.", "Check that cells are rows."
        )


def _matrices(file: h5py.File, n_cells: int, n_genes: int) -> tuple[tuple[MatrixFacts, ...], tuple[str, ...]]:
    names = ["X"] if "X" in file else []
    names += [f"{part}/{name}" for part in ("layers", "obsm") if isinstance(file.get(part), h5py.Group) for name in file[part]]
    found, notes = [], []
    checked: set[int] = set()  # a matrix may have many names
    for name in names:
        if name == "X" and encoding(file[name]) == "null":
            continue
        try:
            facts = matrix_facts(file[name], name)
        except RepresentationError as error:
            if name == "X":
                raise UnsafeFileError(error.what, error.why, EXPORT_AGAIN) from error
            notes.append(f"{error.what} {error.why} It is passed over.")
            continue
        expected = (n_cells, facts.width if name.startswith("obsm/") else n_genes)
        if (facts.rows, facts.width) != expected:
            raise UnsafeFileError(
                f"The matrix {name} contradicts the labels.",
                f"It is {facts.rows:,} x {facts.width:,}; obs and var declare {expected[0]:,} x {expected[1]:,}.",
                EXPORT_AGAIN,
            )
        address = h5py.h5o.get_info(file[name].id).addr
        if facts.sparse and address not in checked:
            check_sparse(file[name], facts)
            checked.add(address)
        found.append(facts)
    return tuple(found), tuple(notes)
