"""What is compared in an evaluation: each file on the same genes, in the same order, and the conditions that are in all of them.

Values stream by in blocks. Boundary: how files are opened and aligned is `evaluation.files`; no metrics.

Notation: n cells, g compared genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, iter_features
from state_engine.errors import ScaleError

BLOCK_VALUES = 8e6

Condition = tuple[str, str]
"""(perturbation, context)"""


@dataclass(frozen=True, eq=False)
class Side:
    """One file on the compared genes.

    Args:
        dataset: the file.
        source: how its expression is read (log1p when it holds counts), at the depth of the comparison.
        name: for messages.
        signed: values may be negative (a raw model output).
        mask: (n,) cells that count; None for all.
    """

    dataset: Dataset
    source: FeatureSource
    name: str
    signed: bool = False
    mask: np.ndarray | None = None

    @property
    def scale(self) -> str:
        return self.dataset.scale.scale or ""

    def rows(self, perturbation: str, context: str) -> np.ndarray:
        """Cells of a condition, (m,) in file order."""
        rows = self.dataset.rows(perturbation, context)
        return rows if self.mask is None else rows[self.mask[rows]]

    def blocks(self, rows: np.ndarray, counts: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows (b,), log1p expression (b, g)) of some cells; `counts`: as they are in the file.

        Raises:
            ScaleError: NaN, infinite or (unless signed) negative values.
        """
        source = replace(self.source, normalise=False, factor=1.0) if counts else self.source
        step = int(min(4096, max(64, BLOCK_VALUES // max(1, self.dataset.n_genes))))
        for part, values in iter_features(self.dataset, source, rows, step, checked=False):
            self._check(values)
            yield part, values

    def _check(self, values: np.ndarray) -> None:
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise ScaleError(
                f"{self.name} has values that are not numbers.",
                f"{bad:,} NaN or infinite values among {values.size:,} that were read.",
                "Repair or remove these cells.",
            )
        if not self.signed and values.size and values.min() < 0:
            raise ScaleError(
                f"{self.name} has negative expression.",
                f"{int((values < 0).sum()):,} of {values.size:,} values that were read are negative, down to {values.min():.3g}.",
                "Compare log1p expression or counts, not centred or scaled values.",
            )


@dataclass(frozen=True, eq=False)
class ComparedFiles:
    """What is compared.

    Args:
        real: the measured cells.
        predicted: a file a seed, for each method.
        genes: (g,) names.
        control: label of the control cells, in both.
        conditions: (perturbation, context) that are measured and predicted by a method, by context, then name.
        said: method -> conditions that all its seeds predict.
        remarks: what was left out, sentences.
        depth: what a cell's values summed to before the log1p, for all that is compared; None where it is not known.
    """

    real: Side
    predicted: dict[str, tuple[Side, ...]]
    genes: tuple[str, ...]
    control: str
    conditions: tuple[Condition, ...]
    said: dict[str, frozenset[Condition]]
    remarks: tuple[str, ...]
    depth: float | None = None

    @property
    def contexts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c for _, c in self.conditions))

    def of(self, context: str) -> tuple[str, ...]:
        """Compared perturbations of a context."""
        return tuple(p for p, c in self.conditions if c == context)


def sparse_cells(side: Side, rows: np.ndarray) -> sp.csr_matrix:
    """log1p expression of some cells, CSR; a raw output below 0 counts as 0 here."""
    parts = [sp.csr_matrix(np.maximum(v, 0) if side.signed else v) for _, v in side.blocks(rows)]
    return sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, len(side.source.columns or ())), dtype=np.float32)
