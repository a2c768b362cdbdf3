"""Files that harm who opens them, written anew by each test."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from state_engine.data.files.heaps import MOST_BYTES


def write_hanging(path: Path) -> Path:
    """Write an .h5ad whose attributes lie in a heap with an object of size 0: libhdf5 walks that heap for ever.

    It is as large as files whose heaps are not looked at before; nothing but a hole stands behind what it says.
    """
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        file.create_group("obs")
        file.create_group("var")
    make_endless(path)
    os.truncate(path, MOST_BYTES + 1)
    return path


def make_endless(path: Path) -> None:
    """Write zeros over the first heap of texts of an HDF5 file, which libhdf5 then walks for ever."""
    content = bytearray(path.read_bytes())
    objects = content.find(b"GCOL") + 16  # after signature, version and size of the collection
    content[objects : objects + 560] = bytes(560)
    path.write_bytes(content)
