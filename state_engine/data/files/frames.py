"""Data frames of our own results in an .h5ad, in AnnData's layout and without AnnData, whose import takes longer than a small prediction.

Columns are numbers, truth values or categoricals of text. Columns of files from anywhere else are read by `columns`.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

SLOTS = ("layers", "obsm", "obsp", "uns", "varm", "varp")
INDEX = "_index"


def write_empty(file: h5py.File, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write an AnnData file that has row and column labels but no matrix yet."""
    _mark(file, "anndata", "0.1.0")
    write_frame(file, "obs", obs)
    write_frame(file, "var", var)
    for name in SLOTS:
        _mark(file.create_group(name), "dict", "0.1.0")


def write_frame(parent: h5py.Group, name: str, frame: pd.DataFrame) -> None:
    """Write a data frame with an index of text."""
    group = parent.create_group(name)
    group.attrs["column-order"] = np.array(list(frame.columns), dtype=h5py.string_dtype())
    group.attrs[INDEX] = INDEX
    _mark(group, "dataframe", "0.2.0")
    write_text(group, INDEX, frame.index.to_numpy())
    for column in frame.columns:
        write_column(group, str(column), frame[column].array)


def write_column(frame: h5py.Group, name: str, values: Any) -> None:
    """Write one column of a data frame: a categorical of text, or an array of numbers or truth values. Its name is not yet in the order."""
    if isinstance(values, pd.Categorical):
        part = frame.create_group(name)
        part.attrs["ordered"] = bool(values.ordered)
        _mark(part, "categorical", "0.2.0")
        write_text(part, "categories", values.categories.to_numpy())
        _mark(part.create_dataset("codes", data=values.codes), "array", "0.2.0")
    else:
        _mark(frame.create_dataset(name, data=np.asarray(values)), "array", "0.2.0")


def write_text(parent: h5py.Group, name: str, values: Any) -> None:
    """Write one text, or an array of texts, as UTF-8, in the place of what is there."""
    if name in parent:
        del parent[name]
    if isinstance(values, str):
        _mark(parent.create_dataset(name, data=values, dtype=h5py.string_dtype()), "string", "0.2.0")
    else:
        texts = np.asarray(values, dtype=object)
        _mark(parent.create_dataset(name, data=texts, shape=texts.shape, dtype=h5py.string_dtype()), "string-array", "0.2.0")


def read_frame(group: h5py.Group) -> pd.DataFrame:
    """Read a data frame; columns of text become categoricals."""
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs.get("column-order", [])]
    return pd.DataFrame({name: _read_column(group[name]) for name in names}, index=pd.Index(read_names(group)))


def read_names(group: h5py.Group) -> NDArray[Any]:
    """(n,) the row names of a data frame."""
    return _read_array(group[group.attrs.get("_index", INDEX)])


def _read_column(item: h5py.Dataset | h5py.Group) -> Any:
    if isinstance(item, h5py.Dataset):
        values = _read_array(item)
        return pd.Categorical(values) if values.dtype == object else values
    if "categories" in item:
        categories = pd.Index(_read_array(item["categories"]))
        return pd.Categorical.from_codes(item["codes"][:], categories, ordered=bool(item.attrs.get("ordered", False)))
    values = _read_array(item["values"]).astype(object)
    values[item["mask"][:]] = None
    return values


def _read_array(data: h5py.Dataset) -> NDArray[Any]:
    return np.asarray(data.asstr()[:]) if h5py.check_string_dtype(data.dtype) else np.asarray(data[:])


def _mark(item: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version
