"""Reading columns of obs and var: only those that can be labels or gene names, and those that the user chose.

Source: AnnData's own element reader, so that whatever AnnData reads is read here (categorical, string, nullable, boolean).
Boundary: columns come out as strings; what they mean is decided in `labels` and `genes`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd
from natsort import natsorted
from numpy.typing import NDArray

from state_engine.data.files.hdf5 import EXPORT_AGAIN, column_names, encoding, follow, index_column, read_text
from state_engine.data.genes import INDEX, is_gene_column
from state_engine.data.labels import as_labels, is_missing, text_of
from state_engine.errors import DataError, UnreadableFileError, UnsafeFileError, door

_ENCODINGS = ("categorical", "nullable-integer", "nullable-boolean", "nullable-string-array")  # of columns that are groups
FEATURE_KINDS = ("feature_types", "feature_type")
MOST_WHOLE_NUMBERS = 200  # an integer column with more distinct values is a measurement, not a label
PEEK = 2_000
MOST_COLUMNS = 2_000  # columns that are looked at for labels; a user can still name any other
MOST_DISTINCT = 0.5  # a text column in which more of the cells than this have a name of their own is no label


@dataclass(frozen=True)
class Coded:
    """A column of labels as codes, without what pandas knows of it.

    Args:
        codes: (n,) index into `names`; -1 where the label is missing.
        names: the categories, as ordered in the file; in natural order when the file has plain strings.
    """

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def take(self, keep: NDArray[np.bool_]) -> Coded:
        """Return the labels of some cells, with the categories they use."""
        codes = self.codes[keep]
        used = np.zeros(len(self.names) + 1, bool)
        used[codes] = True
        new = np.cumsum(used[:-1], dtype=np.int32) - 1
        renumbered = np.where(codes < 0, -1, new[codes]) if len(new) else codes
        return Coded(renumbered.astype(np.int32), tuple(n for n, u in zip(self.names, used, strict=False) if u))

    def counts(self) -> NDArray[np.int64]:
        """Return how many cells each label has, (len(names),)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def where(self, name: str) -> NDArray[np.bool_]:
        """Return which cells have a label, (n,)."""
        return self.codes == (self.names.index(name) if name in self.names else -2)


def read_column(frame: h5py.Group, name: str, length: int) -> pd.Series:
    """One column of a data frame.

    Raises:
        UnsafeFileError: it has another length than the row names, or categories that are not there.
    """
    with door(f"The column '{name}'", UnreadableFileError, EXPORT_AGAIN):
        return _column(frame[name], name, length)


def read_coded(frame: h5py.Group, name: str, length: int) -> Coded:
    """Return one column as codes: categories as ordered in the file, plain values in natural order.

    Raises:
        UnsafeFileError, UnreadableFileError: see `read_column`.
    """
    values = read_column(frame, name, length)
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = [text_of(category) for category in values.cat.categories]
        to_code = np.array([*(-1 if is_missing(label) else code for code, label in enumerate(names)), -1], dtype=np.int32)
        return Coded(to_code[values.cat.codes.to_numpy()], tuple(names))
    places, unique = pd.factorize(values, use_na_sentinel=True)
    texts = [text_of(value) for value in unique]
    names = natsorted({text for text in texts if not is_missing(text)})
    code = {label: place for place, label in enumerate(names)}
    to_code = np.array([*(code.get(text, -1) for text in texts), -1], dtype=np.int32)  # the last is that of a missing value
    return Coded(to_code[places], tuple(names))


def _column(item: Any, name: str, length: int) -> pd.Series:
    entries = _entries(item)
    if entries is not None and entries != length:  # before anything of it is read
        raise UnsafeFileError(
            f"The column '{name}' contradicts the file.", f"It has {entries:,} entries; there are {length:,} rows.", EXPORT_AGAIN
        )
    if _is_legacy_categorical(item):
        return pd.Series(_categorical(item[...], follow(item, "categories"), name))
    if isinstance(item, h5py.Group) and encoding(item) == "categorical":
        codes, categories = item.get("codes"), item.get("categories")
        if isinstance(codes, h5py.Dataset) and isinstance(categories, h5py.Dataset) and codes.dtype.kind in "iu":
            return pd.Series(_categorical(codes[...], categories, name, bool(item.attrs.get("ordered", False))))
    if _is_text(item):
        return pd.Series(read_text(item, name))
    if isinstance(item, h5py.Group) and encoding(item) == "nullable-string-array" and _is_text(item.get("values")):
        texts = read_text(item["values"], name)
        mask = item.get("mask")
        if isinstance(mask, h5py.Dataset) and mask.shape == texts.shape:
            texts[np.asarray(mask[...], bool)] = None
        return pd.Series(texts)
    if isinstance(item, h5py.Dataset) and encoding(item) == "array" and item.dtype.kind in "biuf":
        return pd.Series(item[...])
    return pd.Series(_read_element(item, name))


def _entries(item: Any) -> int | None:
    """Return the length of a column as it is declared; None where its kind is not known."""
    if isinstance(item, h5py.Group):
        item = item.get("codes", item.get("values"))
    return int(item.shape[0]) if isinstance(item, h5py.Dataset) and len(item.shape) == 1 else None


def _is_text(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and len(item.shape) == 1 and h5py.check_string_dtype(item.dtype) is not None


def _categorical(codes: np.ndarray, categories: h5py.Dataset, name: str, ordered: bool = False) -> pd.Categorical:
    """Return a categorical of codes (n,), -1 for none, and its categories.

    Raises:
        UnsafeFileError: more categories than cells, or codes without a category.
    """
    if len(categories.shape) != 1 or (len(codes) and int(codes.max()) >= len(categories)):
        raise UnsafeFileError(f"The column '{name}' contradicts itself.", "It has codes without a category.", EXPORT_AGAIN)
    values = read_text(categories, name) if _is_text(categories) else categories[...]
    return pd.Categorical.from_codes(codes, categories=pd.Index(values), ordered=ordered)


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


def _may_be_label(item: Any) -> bool:
    """By its declaration alone; fractions and tables are not."""
    if isinstance(item, h5py.Group):
        return encoding(item) in _ENCODINGS
    return item.dtype.kind in "biuOSU" and len(item.shape) == 1


def _names_each_cell(item: Any) -> bool:
    """A long column of text whose first entries are all different: barcodes, not worth reading to the end."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "OS" or len(item) < 2 * PEEK:
        return False
    return len(set(item[:PEEK].tolist())) == PEEK


def _unknown_kind(item: Any) -> str:
    """Return what is wrong with a column that is stored as a group of a kind that no column has; "" for any other column."""
    if not isinstance(item, h5py.Group) or encoding(item) in _ENCODINGS:
        return ""
    return f"It is stored as a group of an unknown kind ('{encoding(item) or 'without a name'}')."


def _left_out(name: str, why: str) -> str:
    return f"The column '{name}' is left out: {why}"


@dataclass(frozen=True)
class ObsColumns:
    """What the columns of obs are.

    Args:
        labels: column -> labels of all cells.
        others: columns that are no labels.
        broken: sentences about columns that cannot be read; nobody chose them, so the file is used without them.
    """

    labels: dict[str, pd.Categorical]
    others: tuple[str, ...]
    broken: tuple[str, ...] = ()


def read_labels(obs: h5py.Group, n_cells: int, chosen: tuple[str, ...]) -> ObsColumns:
    """Return the columns of labels, the names of the other columns, and what is wrong with those that cannot be read.

    Args:
        obs: the group in the file.
        n_cells: n.
        chosen: columns that the user named; they are read whatever they hold.

    Raises:
        DataError: a chosen column is broken.
    """
    found: dict[str, pd.Categorical] = {}
    others, broken = [], []
    for place, name in enumerate(column_names(obs)):
        wanted = name in chosen
        unknown = "" if wanted or place >= MOST_COLUMNS else _unknown_kind(obs[name])
        if unknown:
            others.append(name)
            broken.append(_left_out(name, unknown))
            continue
        if not (wanted or (place < MOST_COLUMNS and (_may_be_label(obs[name]) and not _names_each_cell(obs[name])))):
            others.append(name)
            continue
        try:
            values = read_column(obs, name, n_cells)
        except DataError as error:
            if wanted:
                raise
            others.append(name)
            broken.append(_left_out(name, error.why or error.what))
            continue
        labels = as_labels(values)
        whole = values.dtype.kind in "iu"
        most = MOST_WHOLE_NUMBERS if whole else max(20, MOST_DISTINCT * n_cells)
        if wanted or len(labels.categories) <= most:
            found[name] = labels
        else:
            others.append(name)
    return ObsColumns(found, tuple(others), tuple(broken))


def read_index(frame: h5py.Group) -> np.ndarray:
    """The row names, (n,) of Python strings."""
    index = index_column(frame)
    assert index is not None  # check_file made sure
    names = frame[index]
    return read_text(names, index) if _is_text(names) else _strings(_read_element(names, index))


@dataclass(frozen=True)
class VarColumns:
    """What the columns of var are.

    Args:
        names: column -> names of the genes, (g,); "" is the index. Unnamed genes of a column take their name from the index.
        kinds: what each row is ("Gene Expression", "Antibody Capture", ...), by the column that 10x files have; None without one.
        broken: sentences about columns of these that cannot be read; nobody chose them, so the file is used without them.
    """

    names: dict[str, tuple[str, ...]]
    kinds: pd.Categorical | None
    broken: tuple[str, ...] = ()


def read_var(var: h5py.Group, n_genes: int, chosen: str | None) -> VarColumns:
    """Return the columns that may hold gene names, what the rows are, and what is wrong with those that cannot be read.

    Args:
        var: the group in the file.
        n_genes: g.
        chosen: a column that the user named; it is read whatever it holds.

    Raises:
        DataError: the chosen column is broken.
    """
    index = tuple(read_index(var).tolist())
    found, broken, kinds = {INDEX: index}, [], None
    for name in column_names(var):
        of_kinds = name in FEATURE_KINDS and kinds is None
        if not (of_kinds or name == chosen or is_gene_column(name)):
            continue
        try:
            unknown = _unknown_kind(var[name])
            if unknown and name != chosen:
                raise UnreadableFileError(unknown)
            if not (of_kinds or name == chosen or _may_be_label(var[name])):
                continue
            values = as_labels(read_column(var, name, n_genes))
        except DataError as error:
            if name == chosen:
                raise
            broken.append(_left_out(name, error.why or error.what))
            continue
        if of_kinds:
            kinds = values
        if name == chosen or is_gene_column(name):
            names = np.append(np.asarray(values.categories, dtype=object), "")[values.codes]
            found[name] = tuple(str(n) or i for n, i in zip(names, index, strict=True))
    return VarColumns(found, kinds, tuple(broken))


def _strings(values: Any) -> np.ndarray:
    decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.asarray(values, dtype=object)]
    return np.array(decoded, dtype=object)
