"""Data frames written without AnnData are what AnnData writes, entry for entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from state_engine.data.files.frames import read_frame, write_empty, write_text

FRAME = pd.DataFrame(
    {
        "perturbation": pd.Categorical(["b", "a", "b"]),
        "kind": pd.Categorical(["x", "z", "x"], categories=["z", "y", "x"], ordered=True),
        "batch": pd.Categorical([None, "ü", "ü"]),
        "set": np.array([0, -1, 2]),
        "known": np.array([True, False, True]),
        "confidence": np.array([np.nan, 1, 2], np.float32),
    },
    index=pd.Index(["cell 0", "cell 1", "cell 2"], dtype=object),
)


def everything(path: Path) -> dict[str, tuple[Any, ...]]:
    """Name -> type, shape, values and attributes of all that is in a file."""
    found: dict[str, tuple[Any, ...]] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        attributes = {key: (np.asarray(value).tolist(), np.asarray(value).shape) for key, value in item.attrs.items()}
        held = (item.dtype, item.shape, repr(item[()])) if isinstance(item, h5py.Dataset) else ()
        found[name] = (type(item), *held, attributes)

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


def test_the_file_is_what_anndata_writes(tmp_path: Path) -> None:
    for var in (pd.DataFrame(index=pd.Index(["G1", "Gü"], dtype=object)), pd.DataFrame(index=pd.Index([], dtype=object))):
        ours, theirs = tmp_path / "ours.h5ad", tmp_path / "theirs.h5ad"
        with h5py.File(ours, "w") as file:
            write_empty(file, FRAME, var)
            write_text(file["uns"], "about", "first")
            write_text(file["uns"], "about", '{"ü": 1}')
        ad.AnnData(obs=FRAME, var=var, uns={"about": '{"ü": 1}'}).write_h5ad(theirs)
        assert everything(ours) == everything(theirs)
        pd.testing.assert_frame_equal(ad.read_h5ad(ours).obs, FRAME)


def test_a_frame_is_read_as_it_was_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "frame.h5ad", "w") as file:
        write_empty(file, FRAME, pd.DataFrame(index=pd.Index(["G1"], dtype=object)))
        pd.testing.assert_frame_equal(read_frame(file["obs"]), FRAME)
