"""The control cells that predicted cells start from, in the genes of a submission: what a cell keeps where there is no effect.

A result names the control cell of each predicted cell by its row in the data set, and by its name, which tells whether a control file is that
data set. Cells of other files have no such cell of their own: one of the control cells of their context is drawn for each.

Notation: n cells of the submission, m of a block, g genes of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine import keys
from state_engine.challenge.checks import control_aliases
from state_engine.challenge.source import Labels, Opened, SubmissionSource, open_controls, read_strings
from state_engine.challenge.spec import Rules
from state_engine.data.files.blocks import Matrix, map_columns, read_cells
from state_engine.data.files.hdf5 import column_names, index_column, open_h5
from state_engine.data.files.safety import check_file
from state_engine.errors import StateError

# stored values of all donor cells that are held at once (128 MB); beyond it they are read for each block
HELD_VALUES: Final = 16_000_000


@dataclass(frozen=True, eq=False)
class Donors:
    """Control cells, one for each cell of a submission.

    Args:
        matrix: of the control file.
        scale: of its values.
        rows: (n,) row of the control file.
        columns: (genes of the file,) place in the archive, -1 for none.
        width: g.
    """

    matrix: Matrix
    scale: Literal["counts", "log1p"]
    rows: NDArray[np.int64]
    columns: NDArray[np.int32]
    width: int

    @property
    def has(self) -> NDArray[np.bool_]:
        """(g,) genes of the archive that the control file has."""
        there = np.zeros(self.width, bool)
        there[self.columns[self.columns >= 0]] = True
        return there

    def read(self, first: int, last: int) -> tuple[csr_matrix, NDArray[np.float64]]:
        """Return the control cells (m, g) of some cells of the submission, and what each sums to over all genes of its file, (m,)."""
        rows = self.rows[first:last]
        if self._held is None:
            unique, back = np.unique(rows, return_inverse=True)
            values, totals = self._mapped(unique)
            return values[back], totals[back]
        places = np.searchsorted(self._used, rows)
        return self._held[0][places], self._held[1][places]

    @cached_property
    def _used(self) -> NDArray[np.int64]:
        return np.unique(self.rows)

    @cached_property
    def _held(self) -> tuple[csr_matrix, NDArray[np.float64]] | None:
        """All donor cells; None where they are too many to hold. The same few serve every perturbation of a result."""
        each = self.matrix.n_stored / max(1, self.matrix.shape[0])
        # a matrix stored by gene is read as a whole each time, so it is read once
        if each * len(self._used) > HELD_VALUES and self.matrix.kind != "csc":
            return None
        return self._mapped(self._used)

    def _mapped(self, rows: NDArray[np.int64]) -> tuple[csr_matrix, NDArray[np.float64]]:
        values = read_cells(self.matrix, rows)
        return map_columns(values, self.columns, self.width), np.asarray(values.sum(axis=1), np.float64).ravel()


def donors_of_result(
    source: SubmissionSource, rules: Rules, opened: Opened, keep: NDArray[np.bool_], genes: tuple[str, ...]
) -> Donors | None:
    """Return the control cells that the cells of a result start from; None where no control file is the data set of the result.

    Args:
        source: whose control files are looked at.
        rules: of the challenge.
        opened: the result.
        keep: (cells of the file,) those that are submitted.
        genes: (g,) of the archive.
    """
    if opened.basal is None:
        return None
    rows, codes = opened.basal.rows[keep], opened.basal.names.codes[keep]
    names = np.array([*opened.basal.names.names, None], object)[codes]
    for path in source.cell_files:
        try:
            there = np.array(cell_names(path), object)
        except (StateError, OSError, KeyError):
            continue  # a control file that cannot be read is reported where it is needed
        if rows.size and rows.min() >= 0 and rows.max() < len(there) and (there[rows] == names).all():
            return donors_at(path, source, rules, rows, genes)
    return None


def drawn_donors(
    source: SubmissionSource, rules: Rules, contexts: Labels | None, n: int, genes: tuple[str, ...]
) -> Donors | None:
    """Return a control cell of its context for each of n cells that do not say which they start from, drawn with seed 0; None without any."""
    rng = np.random.default_rng(0)
    for path in source.cell_files:
        opened = open_controls(path, replace(source, matrix="X", gene_column=""), rules)
        controls, rows = control_cells(opened, rules), np.full(n, -1, np.int64)
        if contexts is not None and opened.contexts is not None:
            groups = [(contexts.where(c), np.flatnonzero(controls & opened.contexts.where(c))) for c in contexts.names]
        else:
            groups = [(np.ones(n, bool), np.flatnonzero(controls))]
        for cells, pool in groups:
            rows[cells] = rng.choice(pool, int(cells.sum())) if pool.size else -1
        if n and (rows >= 0).all():
            return donors_at(path, source, rules, rows, genes)
    return None


def control_cells(opened: Opened, rules: Rules) -> NDArray[np.bool_]:
    """(n,) the control cells of a file: all of them when it has no perturbation column."""
    if opened.perturbations is None:
        return np.ones(opened.matrix.shape[0], bool)
    keep = opened.perturbations.where(rules.control)
    for name in control_aliases(opened.perturbations, rules.control) if not keep.any() else ():
        keep = keep | opened.perturbations.where(name)
    return keep


def donors_at(
    path: Path, source: SubmissionSource, rules: Rules, rows: NDArray[np.int64], genes: tuple[str, ...]
) -> Donors | None:
    """Return rows of a control file as donors; None where its values are neither counts nor log1p, or it has none of the genes."""
    opened = open_controls(path, replace(source, matrix="X", gene_column=gene_column(path, genes)), rules)
    place = {gene: i for i, gene in enumerate(genes)}
    columns = np.array([place.pop(gene, -1) for gene in opened.genes], np.int32)  # of a gene named twice the first
    if not rows.size or (columns < 0).all():
        return None
    data = read_cells(opened.matrix, np.unique(rows)[:500]).data
    if not np.isfinite(data).all() or (data < 0).any():
        return None
    whole = bool((data == np.trunc(data)).all())
    return Donors(opened.matrix, "counts" if whole else "log1p", rows, columns, len(genes))


def cell_names(path: Path) -> list[str]:
    """Return the names of the cells of a file."""
    n = check_file(path).n_cells
    with open_h5(path) as file:
        return read_strings(file["obs"], index_column(file["obs"]) or "_index", n)


def gene_column(path: Path, genes: tuple[str, ...]) -> str:
    """Return the var column whose names are most like some genes; "" for the index."""
    wanted, best, most, n = set(genes), "", -1, check_file(path).n_genes
    with open_h5(path) as file:
        var = file["var"]
        usual = [name for name in keys.GENE_COLUMN_ALIASES if name in column_names(var)]
        for name in ("", *usual):
            alike = len(wanted & set(read_strings(var, name or index_column(var) or "_index", n)))
            if alike > most:
                best, most = name, alike
    return best
