"""Writing a prediction's result file: an .h5ad that grows row block by row block, so that memory does not grow with it.

Layout: rows are [predicted | predicted control | observed control | observed]; X is the corrected expression (log1p), dense float32;
layers["raw"] what the model said; layers["calibrated"] where the model has a calibration (`state_engine.prediction.calibrated`);
`uns["state_explorer"]` a JSON manifest. See `state_engine.prediction.result` for the reader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.data.files.frames import write_empty, write_text
from state_engine.files import room_for

# rows of a chunk: reading one gene of all cells touches every chunk, reading a cell's row only one
CHUNK_ROWS, CHUNK_GENES = 256, 128
LEAST_CACHE, SLOTS = 8 << 20, 10_007  # bytes: as ever; slots: a prime, many times the chunks


class ResultWriter:
    """Writes blocks of rows into an .h5ad that already has its obs and var.

    Args:
        path: where to write; the caller renames it when complete.
        obs: one row a cell (n).
        genes: names of the expression columns (g); empty when only an embedding is predicted.
        embedding: (key, width) when the model predicts an embedding; it goes to `obsm[key]` and `obsm[key + "_raw"]`.
        keep_raw: write the raw prediction too.
        later: further matrices, of the width of X or of the embedding, that are added to the file when it is closed.

    Raises:
        RequestError: the file would not fit on the disk.
    """

    def __init__(
        self,
        path: Path,
        obs: pd.DataFrame,
        genes: list[str],
        *,
        embedding: tuple[str, int] | None = None,
        keep_raw: bool = True,
        later: int = 0,
    ) -> None:
        matrices = (1 + keep_raw + later) * (size_of(len(obs), len(genes)) or size_of(len(obs), embedding[1] if embedding else 0))
        if genes and embedding is not None:
            matrices += (1 + keep_raw) * size_of(len(obs), embedding[1])
        room_for(path.parent, matrices + int(obs.memory_usage(deep=True).sum()) + 64 * len(genes))
        self._file = h5py.File(
            path, "w", rdcc_nbytes=cache_bytes(max(len(genes), embedding[1] if embedding else 0)), rdcc_nslots=SLOTS
        )
        no_confidence = np.full(len(obs), np.nan, np.float32)
        write_empty(self._file, obs.assign(**{keys.CONFIDENCE: no_confidence}), pd.DataFrame(index=pd.Index(genes, dtype=object)))
        n = len(obs)
        self._x = new_array(self._file, "X", (n, len(genes)))
        self._raw = new_array(self._file["layers"], keys.RAW_LAYER, (n, len(genes))) if keep_raw and genes else None
        self._embedding = self._embedding_raw = None
        if embedding is not None:
            key, width = embedding
            self._embedding = new_array(self._file["obsm"], key, (n, width))
            self._embedding_raw = new_array(self._file["obsm"], f"{key}_raw", (n, width)) if keep_raw else None

    def write(self, start: int, corrected: np.ndarray, raw: np.ndarray) -> None:
        """Expression of rows start.. (n, g), log1p."""
        self._x[start : start + len(corrected)] = corrected
        if self._raw is not None:
            self._raw[start : start + len(raw)] = raw

    def write_embedding(self, start: int, corrected: np.ndarray, raw: np.ndarray) -> None:
        """Embedding of rows start.. (n, e)."""
        assert self._embedding is not None
        self._embedding[start : start + len(corrected)] = corrected
        if self._embedding_raw is not None:
            self._embedding_raw[start : start + len(raw)] = raw

    def finish(self, confidence: np.ndarray, manifest: Mapping[str, object]) -> None:
        """Adds what is only known at the end and closes the file.

        Args:
            confidence: the model's predicted loss of each cell's set (n,), NaN where it has none.
            manifest: goes to `uns` as JSON.
        """
        column = self._file["obs"][keys.CONFIDENCE]
        column[...] = confidence.astype(np.float32)
        write_text(self._file["uns"], keys.MANIFEST, json.dumps(manifest))
        self.close()

    def close(self) -> None:
        """Closes the file as it is."""
        if self._file:
            self._file.close()


def cache_bytes(width: int) -> int:
    """Return the bytes of chunks that are held for each matrix: those of the rows of a chunk, which sets of cells fill bit by bit, and more."""
    return max(LEAST_CACHE, 3 * size_of(CHUNK_ROWS, width) // 2)


def size_of(rows: int, width: int) -> int:
    """Return the bytes that a matrix of `new_array` takes on the disk, in whole chunks."""
    if not rows or not width:
        return 0
    high, wide = min(CHUNK_ROWS, rows), min(CHUNK_GENES, width)
    return 4 * math.ceil(rows / high) * high * math.ceil(width / wide) * wide


def new_array(group: h5py.Group, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    """A dense float32 matrix as AnnData reads it, in the place of one that is there."""
    if name in group:
        del group[name]
    if min(shape) == 0:
        made = group.create_dataset(name, shape=shape, dtype=np.float32)
    else:
        chunks = (min(CHUNK_ROWS, shape[0]), min(CHUNK_GENES, shape[1]))
        made = group.create_dataset(name, shape=shape, dtype=np.float32, chunks=chunks)
    made.attrs["encoding-type"] = "array"
    made.attrs["encoding-version"] = "0.2.0"
    return made
