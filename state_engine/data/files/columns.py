"""Reading columns of obs and var: only those that can be labels or gene names, and those that the user chose.

Source: AnnData's own element reader, so that whatever AnnData reads is read here (categorical, string, nullable, boolean).
Boundary: columns come out as strings; what they mean is decided in `labels` and `genes`.
"""

from __future__ import annotations

import warnings
from typing import Any

import h5py
import numpy as np
import pandas as pd

from state_engine.data.files.hdf5 import column_names, encoding, index_column
from state_engine.data.genes import INDEX, is_gene_column
from state_engine.data.labels import as_labels
from state_engine.errors import UnreadableFileError, UnsafeFileError

MOST_WHOLE_NUMBERS = 200  # an integer column with more distinct values is a measurement, not a label
PEEK = 2_000
MOST_DISTINCT = 0.5  # a text column in which more of the cells than this have a name of their own is no label


def read_column(frame: h5py.Group, name: str, length: int) -> pd.Series:
    """One column of a data frame.

    Raises:
        UnsafeFileError: it has another length than the row names, or categories that are not there.
    """
    item = frame[name]
    values = pd.Series(_legacy_categorical(frame, item) if _is_legacy_categorical(item) else _read_element(item, name))
    if len(values) != length:
        raise UnsafeFileError(
            f"The column '{name}' contradicts the file.",
            f"It has {len(values):,} entries; there are {length:,} rows.",
            "Export the file again with anndata; this copy must not be trusted.",
        )
    return values


def _read_element(item: Any, name: str) -> Any:
    if isinstance(item, h5py.Group) and not encoding(item):
        raise UnreadableFileError(f"The column '{name}' cannot be read.", "It is stored as a group of an unknown kind.")
    from anndata._io.specs.registry import IORegistryError
    from anndata.io import read_elem

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about old formats, for programmers
            return read_elem(item)
    except IORegistryError as error:
        raise UnreadableFileError(
            f"The column '{name}' cannot be read.",
            f"It is stored as '{encoding(item)}' in a way that the installed AnnData does not know.",
            "Write the file again with AnnData 0.12 or older.",
        ) from error


def _is_legacy_categorical(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and isinstance(item.attrs.get("categories"), h5py.Reference)


def _legacy_categorical(frame: h5py.Group, item: h5py.Dataset) -> pd.Categorical:
    """A categorical as AnnData 0.7 wrote it: codes that refer to a data set of categories."""
    categories = frame.file[item.attrs["categories"]]
    strings = h5py.check_string_dtype(categories.dtype) is not None
    return pd.Categorical.from_codes(item[...], categories=pd.Index(categories.asstr()[...] if strings else categories[...]))


def _may_be_label(item: Any) -> bool:
    """By its declaration alone; fractions and tables are not."""
    if isinstance(item, h5py.Group):
        return encoding(item) in ("categorical", "nullable-integer", "nullable-boolean", "nullable-string-array")
    return item.dtype.kind in "biuOSU" and len(item.shape) == 1


def _names_each_cell(item: Any) -> bool:
    """A long column of text whose first entries are all different: barcodes, not worth reading to the end."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "OS" or len(item) < 2 * PEEK:
        return False
    return len(set(item[:PEEK].tolist())) == PEEK


def read_labels(obs: h5py.Group, n_cells: int, chosen: tuple[str, ...]) -> tuple[dict[str, pd.Categorical], tuple[str, ...]]:
    """The columns of labels, and the names of the other columns.

    Args:
        obs: the group in the file.
        n_cells: n.
        chosen: columns that the user named; they are read whatever they hold.
    """
    found: dict[str, pd.Categorical] = {}
    others = []
    for name in column_names(obs):
        wanted = name in chosen
        if not (wanted or (_may_be_label(obs[name]) and not _names_each_cell(obs[name]))):
            others.append(name)
            continue
        try:
            values = read_column(obs, name, n_cells)
        except UnreadableFileError:
            if wanted:
                raise
            others.append(name)
            continue
        labels = as_labels(values)
        whole = values.dtype.kind in "iu"
        most = MOST_WHOLE_NUMBERS if whole else max(20, MOST_DISTINCT * n_cells)
        if wanted or len(labels.categories) <= most:
            found[name] = labels
        else:
            others.append(name)
    return found, tuple(others)


def read_index(frame: h5py.Group) -> np.ndarray:
    """The row names, (n,) of Python strings."""
    index = index_column(frame)
    assert index is not None  # check_file made sure
    return _strings(_read_element(frame[index], index))


def read_gene_columns(var: h5py.Group, n_genes: int, chosen: str | None) -> dict[str, tuple[str, ...]]:
    """The columns that may hold gene names; "" is the index. Unnamed genes of a column take their name from the index."""
    index = tuple(read_index(var).tolist())
    found = {INDEX: index}
    for name in column_names(var):
        if name != chosen and not (is_gene_column(name) and _may_be_label(var[name])):
            continue
        values = as_labels(read_column(var, name, n_genes))
        names = np.append(np.asarray(values.categories, dtype=object), "")[values.codes]
        found[name] = tuple(str(n) or i for n, i in zip(names, index, strict=True))
    return found


def _strings(values: Any) -> np.ndarray:
    decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.asarray(values, dtype=object)]
    return np.array(decoded, dtype=object)
