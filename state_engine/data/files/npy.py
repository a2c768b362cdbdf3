"""A .npy file that takes rows at their place: nothing of it stays in memory. Knows nothing of what the rows are.

`np.lib.format.open_memmap` is not used: on a full disk a write to mapped memory ends the process, where this raises an error.
"""

from __future__ import annotations

from itertools import pairwise
from typing import BinaryIO

import numpy as np


class NpyRows:
    """Write a float32 matrix row by row; rows that never come are zero.

    Args:
        file: open for writing, at its start.
        rows, width: of the matrix.
    """

    def __init__(self, file: BinaryIO, rows: int, width: int) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        self.file, self.start, self.bytes_a_row = file, file.tell(), 4 * width
        file.truncate(self.start + rows * self.bytes_a_row)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Rows of the matrix: (n,) row numbers and (n, width) values."""
        values = np.ascontiguousarray(values, dtype="<f4")
        for first, behind in runs_of(rows):
            self.file.seek(self.start + int(rows[first]) * self.bytes_a_row)
            self.file.write(values[first:behind].data)


def runs_of(rows: np.ndarray) -> list[tuple[int, int]]:
    """Where rows stand one behind the other: pairs (first, behind last) of positions in `rows`."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return list(pairwise(edges)) if len(rows) else []
