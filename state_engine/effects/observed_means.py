"""Mean expression of everything that a data set measured: one row per perturbation and context, the control included.

Why beside the result: a result holds observed cells only of what was predicted, but the mean baselines need the other contexts and the other
perturbations. The predict verb computes it in one pass and keeps it as `observed_means.npz` in the run folder.

The file (numpy .npz, no pickles), k conditions, g genes: perturbations (k,) str, contexts (k,) str, n_cells (k,) int64, means (k, g) float32
(mean of log1p expression), genes (g,) str, control () str. Conditions are sorted by context, then perturbation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.errors import RunError, listed

FILE_NAME: Final = "observed_means.npz"


@dataclass(frozen=True)
class ObservedMeans:
    """Pseudobulks of the measured cells.

    Args:
        perturbations, contexts: labels of the k conditions.
        n_cells: (k,) cells behind each mean.
        means: (k, g) mean log1p expression.
        genes: names of the g genes.
        control: the control's label.
    """

    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    n_cells: NDArray[np.int64]
    means: NDArray[np.float32]
    genes: tuple[str, ...]
    control: str

    def save(self, path: Path) -> None:
        """Writes the .npz; it appears only when complete."""
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez(
                file,
                perturbations=np.array(self.perturbations, str),
                contexts=np.array(self.contexts, str),
                n_cells=self.n_cells,
                means=self.means,
                genes=np.array(self.genes, str),
                control=np.array(self.control),
            )
        unfinished.replace(path)

    def effects(self, minimum: int = 3) -> dict[tuple[str, str], NDArray[np.float64]]:
        """(perturbation, context) -> (g,) effect: mean log1p minus the control's in the same context.

        Conditions with fewer than `minimum` cells, or in contexts with so few control cells, have none.
        """
        place = {
            key: i for i, key in enumerate(zip(self.perturbations, self.contexts, strict=True)) if self.n_cells[i] >= minimum
        }
        means = self.means.astype(np.float64)
        return {
            (p, c): means[i] - means[place[self.control, c]]
            for (p, c), i in place.items()
            if p != self.control and (self.control, c) in place
        }

    def on_genes(self, genes: Sequence[str]) -> ObservedMeans:
        """The same for these genes, in this order.

        Raises:
            RunError: some are not there.
        """
        place = {gene: i for i, gene in enumerate(self.genes)}
        missing = [gene for gene in genes if gene not in place]
        if missing:
            why = f"{len(missing):,} of {len(genes):,} genes are missing: {listed(missing)}."
            raise RunError("The measured means do not fit the result.", why, "Run the prediction again.")
        columns = [place[gene] for gene in genes]
        return ObservedMeans(self.perturbations, self.contexts, self.n_cells, self.means[:, columns], tuple(genes), self.control)


def load_observed_means(path: Path) -> ObservedMeans:
    """A stored file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            perturbations, contexts, genes = (tuple(stored[n].tolist()) for n in ("perturbations", "contexts", "genes"))
            return ObservedMeans(perturbations, contexts, stored["n_cells"], stored["means"], genes, str(stored["control"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path.name} cannot be read.", "It is missing or damaged.", "Run the prediction again.") from error


def observed_means(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    perturbations: NDArray[np.str_],
    contexts: NDArray[np.str_],
    genes: Sequence[str],
    control: str,
) -> ObservedMeans:
    """The means, in one pass over blocks of cells.

    Args:
        blocks: (rows (n,), log1p expression (n, g)) pairs, each row at most once; rows index the label arrays. Cells left out do not count.
        perturbations, contexts: labels of all cells of the data set.
        genes: names of the g columns.
        control: the control's label.
    """
    names, codes = np.unique(np.array([contexts, perturbations], str), axis=1, return_inverse=True)
    sums = np.zeros((names.shape[1], len(genes)))
    counts = np.zeros(names.shape[1], np.int64)
    for rows, values in blocks:
        block = codes[rows]
        for code in np.unique(block):
            chosen = block == code
            sums[code] += values[chosen].sum(axis=0, dtype=np.float64)
            counts[code] += int(chosen.sum())
    kept = counts > 0
    means = (sums[kept] / counts[kept][:, None]).astype(np.float32)
    return ObservedMeans(
        tuple(names[1, kept].tolist()), tuple(names[0, kept].tolist()), counts[kept], means, tuple(genes), control
    )
