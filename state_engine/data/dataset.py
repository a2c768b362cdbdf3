"""A data set: an .h5ad file and what was understood of it. Decided once, here, and shown; values are read on request.

Source: the file and the user's `Choices`. Boundary: no handle is kept and no matrix; every read opens the file anew.

Notation: n cells, g genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine import keys
from state_engine.config import Settings
from state_engine.data.choices import Choices, labels_as_chosen
from state_engine.data.controls import matching
from state_engine.data.embedding_record import EmbeddingFacts, embeddings_of, result_depth
from state_engine.data.files.columns import read_index, read_labels, read_var
from state_engine.data.files.hdf5 import column_names, open_h5
from state_engine.data.files.matrices import MatrixFacts, dense, read_rows
from state_engine.data.files.safety import RAW, FileFacts, check_file
from state_engine.data.gene_rows import OnlyGenes, genes_among
from state_engine.data.genes import GeneNames, gene_names
from state_engine.data.labels import Labels, twins
from state_engine.data.scale import ScaleDecision, log_base, scale_of_file
from state_engine.data.thinning import Thinning
from state_engine.errors import LabelError, RepresentationError, UnreadableFileError, listed
from state_engine.files import sha256_of
from state_engine.plain import plural

NAMES_COMPARED = 200_000  # up to so many cells a repeated name is looked for when a file is opened
CSC_PASS = 50_000_000  # stored values kept in memory at once when cells of such a matrix are read one after the other


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened data set.

    Args:
        path: the file.
        choices: the user's word it was opened with.
        file: facts of the file.
        labels: which columns say what.
        genes: names of the genes.
        expression: the representation that holds the expression; None when the file has only embeddings.
        scale: of the expression.
        columns: obs column -> labels of all cells, for every column of labels.
        embeddings: key of obsm -> how it was made, where the file says so.
        broken: sentences about columns that cannot be read and are left out.
        only_genes: which columns of the expression are genes; None when all are.
        thinning: what is drawn from the counts of the expression whenever they are read; None for counts as they are in the file.
    """

    path: Path
    choices: Choices
    file: FileFacts
    labels: Labels
    genes: GeneNames
    expression: str | None
    scale: ScaleDecision
    columns: dict[str, pd.Categorical] = field(repr=False)
    embeddings: dict[str, EmbeddingFacts] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    only_genes: OnlyGenes | None = None
    thinning: Thinning | None = None

    def with_thinning(self, thinning: Thinning) -> Dataset:
        """Return the data set with counts that are thinned as they are read."""
        made = replace(self, thinning=thinning)
        # labels and the hash of the file are the same: what was found of them is kept
        made.__dict__.update({name: value for name, value in self.__dict__.items() if name not in made.__dict__})
        return made

    @property
    def n_cells(self) -> int:
        return self.file.n_cells

    @property
    def n_genes(self) -> int:
        return self.file.n_genes if self.only_genes is None else len(self.only_genes.columns)

    @property
    def representations(self) -> tuple[MatrixFacts, ...]:
        """The matrices that `read` knows; X and layers are as wide as there are genes."""
        if self.only_genes is None:
            return self.file.matrices
        return tuple(m if m.name.startswith("obsm/") else replace(m, width=self.n_genes) for m in self.file.matrices)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a person would want to correct, or to know before trusting a result: sentences, most important first."""
        without = tuple(c for c in self.contexts if self.labels.control is not None and not len(self.control_rows(c)))
        labels = self.labels.notes(self.contexts, without, self.choices.control is not None)
        labels += [f"'{a}' and '{b}' are one perturbation in two spellings." for a, b in twins(self.perturbations)[:5]]
        labels += self._confounded() + self.absent_controls()
        file = [*self.file.notes, *self.broken]
        if self.only_genes is not None:
            file.append(self.only_genes.words(self.file.n_genes))
        if self.expression is not None and self.representation(self.expression).layout == "csc":
            file.append(f"{self.expression} is stored by gene (CSC): reading cells takes a pass over the whole file.")
        if self.expression not in (None, "X"):
            file.append(f"The expression is taken from {self.expression}.")
        if self.n_cells <= NAMES_COMPARED and (different := len(set(self.obs_names.tolist()))) < self.n_cells:
            file.append(
                f"Names of cells repeat: {self.n_cells:,} cells have {plural(different, 'name')}. Cells are found by their row."
            )
        if self.file.raw is not None and self.expression != self.file.raw.name:
            file.append(f"The file's 'raw' part ({self.file.raw.width:,} genes) is not read; it can be chosen as the expression.")
        elif self.file.has_raw and self.file.raw is None:
            file.append("The file's 'raw' part is not read.")
        return (*labels, *self.scale.notes, *self.genes.chosen.notes, *file)

    def _confounded(self) -> list[str]:
        """Return a sentence where no batch has both control and perturbed cells: their difference may be that of the batches."""
        key = self.labels.batch_key
        if not key or not self.labels.perturbation_key or self.labels.control not in self.perturbations or len(self.batches) < 2:
            return []
        names, places = self.coded(self.labels.perturbation_key)
        batch = self.coded(key)[1]
        known = (places > 0) & (batch > 0)
        control = places == names.index(str(self.labels.control))
        if np.intersect1d(batch[known & control], batch[known & ~control]).size:
            return []
        return [
            f"No batch of '{key}' has both control and perturbed cells: effects cannot be told from differences between batches "
            "(confounded)."
        ]

    def absent_controls(self) -> list[str]:
        """Return a sentence where some of several labels chosen as the control are those of no cell."""
        there = self.labels.controls or (str(self.labels.control),)
        absent = [word for word in self.choices.controls if not matching(there, [word])]
        return [f"No cell is labelled {listed(absent)}, which was chosen as a control."] if absent and there else []

    @cached_property
    def obs_names(self) -> np.ndarray:
        """Barcodes, (n,) strings (dtype object)."""
        self._check_unchanged()
        with open_h5(self.path) as file:
            return read_index(file["obs"])

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All columns of labels as categoricals, rows named by barcode."""
        return pd.DataFrame(dict(self.columns), index=pd.Index(self.obs_names))

    def perturbation_labels(self) -> np.ndarray:
        """(n,) strings, "" where missing; the control label everywhere when declared so, `keys.ALL` when not known."""
        return self._labels(self.labels.perturbation_key)

    def context_labels(self) -> np.ndarray:
        """(n,) strings, "" where missing; `keys.ALL` everywhere without a context column."""
        return self._labels(self.labels.context_key)

    def batch_labels(self) -> np.ndarray:
        """(n,) strings, "" where missing; `keys.ALL` everywhere without a batch column."""
        return self._labels(self.labels.batch_key)

    def _labels(self, key: str | None) -> np.ndarray:
        names, places = self.coded(key)
        return np.array(names)[places]

    @cached_property
    def perturbations(self) -> tuple[str, ...]:
        """Labels present, the control first, then by name."""
        names = self._groups[0][1:]
        first = [n for n in names if n == self.labels.control]
        return (*first, *(n for n in names if n not in first))

    @property
    def perturbation_words(self) -> str:
        """How many perturbations there are: '14 perturbations and the control', or '15 labels' where no label is known as the control."""
        n, control = len(self.perturbations), self.labels.control in self.perturbations
        return f"{plural(n - 1, 'perturbation')} and the control" if control else plural(n, "label")

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """Contexts present, by name."""
        return tuple(self._groups[1][1:])

    @cached_property
    def batches(self) -> tuple[str, ...]:
        """Batches present, by name; none without a batch column."""
        return tuple(self.coded(self.labels.batch_key)[0][1:]) if self.labels.batch_key else ()

    def coded(self, key: str | None) -> tuple[list[str], np.ndarray]:
        """Labels by name, "" (missing) in front, and each cell's place among them, (n,) int64."""
        if not key:
            everywhere = self.labels.control if key == "" else keys.ALL
            return ["", str(everywhere)], np.ones(self.n_cells, dtype=np.int64)
        column = self.columns[key]
        return ["", *map(str, column.categories)], np.asarray(column.codes, dtype=np.int64) + 1

    @cached_property
    def _groups(self) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Names of perturbations and contexts, cells ordered by (perturbation, context) then file, and where each pair starts."""
        names_p, p = self.coded(self.labels.perturbation_key)
        names_c, c = self.coded(self.labels.context_key)
        pair = p * len(names_c) + c
        order = np.argsort(pair, kind="stable")
        starts = np.searchsorted(pair[order], np.arange(len(names_p) * len(names_c) + 1))
        return names_p, names_c, order, starts

    def rows(self, perturbation: str, context: str | None = None) -> np.ndarray:
        """The cells of a perturbation in one context (None: in all), (m,) row numbers in file order; may be empty."""
        names_p, names_c, order, starts = self._groups
        if perturbation not in names_p or (context is not None and context not in names_c):
            return np.empty(0, dtype=np.int64)
        first = names_p.index(perturbation) * len(names_c)
        if context is None:
            return np.sort(order[starts[first] : starts[first + len(names_c)]])
        at = first + names_c.index(context)
        return order[starts[at] : starts[at + 1]].copy()

    def require_control(self) -> str:
        """The control label.

        Raises:
            LabelError: it is not known; the message lists what may be chosen.
        """
        if self.labels.control is not None:
            return self.labels.control
        if self.labels.perturbation_key is None:
            raise LabelError(
                "It is not known which cells are perturbed.",
                f"No column of obs looks like it; there are: {listed(list(self.columns), 10) or 'none'}.",
                "Choose the perturbation column, or declare that all cells are unperturbed.",
            )
        options = list(dict.fromkeys([*self.labels.control_suggestions, *self.perturbations]))
        raise LabelError(
            f"The column '{self.labels.perturbation_key}' has no label known as a control.",
            f"It has {len(self.perturbations):,} labels: {listed(options, 10)}.",
            "Choose the label of the unperturbed cells.",
        )

    def control_rows(self, context: str | None = None) -> np.ndarray:
        """The control cells of one context (None: of all), (m,) in file order; empty when that context has none.

        Raises:
            LabelError: the control is not known.
        """
        return self.rows(self.require_control(), context)

    def table(self) -> pd.DataFrame:
        """Cells by perturbation (rows, control first) and context (columns). Cells that lack a label are not counted."""
        names_p, names_c, _, starts = self._groups
        counts = pd.DataFrame(np.diff(starts).reshape(len(names_p), len(names_c)), index=names_p, columns=names_c)
        return (
            counts.loc[list(self.perturbations), list(self.contexts)]
            .rename_axis(keys.PERTURBATION)
            .rename_axis(columns=keys.CONTEXT)
        )

    def representation(self, name: str) -> MatrixFacts:
        """Facts of a matrix by name.

        Raises:
            RepresentationError: it is not there; the message lists what is.
        """
        for facts in self.representations:
            if facts.name == name:
                return facts
        known = listed([f"{f.name} ({f.width:,} wide)" for f in self.representations], 20) or "none that can be read"
        raise RepresentationError(f"{self.path.name} has no '{name}'.", f"It has: {known}.", "Choose one of them.")

    def feature_names(self, representation: str) -> tuple[str, ...]:
        """Return the names of the columns of a data frame in obsm; none for any other matrix.

        Raises:
            RepresentationError: it is not there.
        """
        if self.representation(representation).layout != "frame":
            return ()
        self._check_unchanged()
        with open_h5(self.path) as file:
            return column_names(file[representation])

    def read_stored(self, representation: str, rows: np.ndarray) -> np.ndarray | sp.csr_matrix:
        """Rows as they are stored: (m, width) float32, a CSR matrix when the file's is sparse. Any order, repeats allowed."""
        self.representation(representation)  # says what there is, where this is not
        self._check_unchanged()
        values = read_rows(self.path, next(m for m in self.file.matrices if m.name == representation), rows)
        if self.only_genes is not None and not representation.startswith("obsm/"):
            values = values[:, self.only_genes.columns]
        if self.thinning is not None and representation == self.expression and self.scale.scale == "counts":
            return self.thinning.thinned(values, np.asarray(rows))
        return values

    def read(self, representation: str, rows: np.ndarray) -> np.ndarray:
        """Rows of "X", "layers/NAME" or "obsm/NAME", in any order, repeats allowed.

        Returns:
            (m, width) float32, dense.

        Raises:
            RepresentationError: no such matrix or row.
            UnreadableFileError, UnsafeFileError: the file changed or is damaged.
        """
        return dense(self.read_stored(representation, rows))

    def iter_blocks(
        self, representation: str, rows: np.ndarray | None = None, block: int = 4096
    ) -> Iterator[tuple[np.ndarray, np.ndarray | sp.csr_matrix]]:
        """Blocks of rows as they are stored: pairs (row numbers (b,), values (b, width)). `rows` None: all cells in file order.

        Memory: one block; of a matrix stored by gene up to `CSC_PASS` stored values, since each pass over such a file is long.
        """
        rows = np.arange(self.n_cells) if rows is None else np.asarray(rows, dtype=np.int64)
        facts = self.representation(representation)
        step = block
        if facts.layout == "csc":
            step = max(block, int(CSC_PASS / max(facts.stored / facts.rows, 1)))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = self.read_stored(representation, part)
            for inner in range(0, len(part), block):
                yield part[inner : inner + block], values[inner : inner + block]

    @cached_property
    def _sha256(self) -> str:
        self._check_unchanged()
        return sha256_of(self.path)

    def hash(self) -> str:
        """sha256 of the file, hex; computed once."""
        return self._sha256

    def _check_unchanged(self) -> None:
        try:
            now = self.path.stat()
        except OSError as error:
            raise UnreadableFileError(
                f"{self.path.name} is no longer there.", f"It was at {self.path}.", "Open it again."
            ) from error
        if (now.st_size, now.st_mtime_ns) != (self.file.nbytes, self.file.modified):
            raise UnreadableFileError(f"{self.path.name} was changed after it was opened.", "", "Open it again.")


def open_dataset(path: Path | str, choices: Choices | None = None, settings: Settings | None = None) -> Dataset:
    """Open an .h5ad: check it, read its labels and gene names, and decide what they mean.

    Args:
        path: the file.
        choices: the user's word; whatever it leaves open is suggested.
        settings: limits; from the environment by default.

    Raises:
        UnreadableFileError, UnsafeFileError, EmptyDataError: see `check_file`.
        LabelError, GeneError, RepresentationError, ScaleError: a choice that the file does not allow.
    """
    path, choices = Path(path).resolve(), choices or Choices()
    facts = check_file(path, settings)
    named = tuple(k for k in (choices.perturbation_key, choices.context_key, choices.batch_key) if k)
    with open_h5(path) as file:
        obs = read_labels(file["obs"], facts.n_cells, named)
        if choices.expression in (RAW, f"{RAW}/X"):
            facts = facts.of_raw()
        var = read_var(file[f"{RAW}/var" if facts.raw in facts.matrices else "var"], facts.n_genes, choices.gene_column)
        labels = labels_as_chosen(file["obs"], obs, choices, facts.n_cells)
        uns = file.get("uns")
        marked = isinstance(uns, h5py.Group) and "log1p" in uns
        base = log_base(uns["log1p"]) if marked else None
        stated = result_depth(file)
    only_genes, gene_columns = genes_among(var.kinds), var.names
    at = None if only_genes is None else only_genes.columns
    if at is not None:
        gene_columns = {column: tuple(names[i] for i in at.tolist()) for column, names in gene_columns.items()}
    genes = gene_names(gene_columns, choices.gene_column)
    expression = _expression(facts, choices.expression)
    scale = scale_of_file(facts, expression, marked, choices.scale, columns=at, base=base)
    if scale.depth is None:
        scale = scale.at(stated, "A result of this program records that its values are of")
    scale = scale.at(choices.depth, "You set the depth to")
    broken = (*obs.broken, *var.broken)
    return Dataset(path, choices, facts, labels, genes, expression, scale, obs.labels, embeddings_of(path), broken, only_genes)


def _expression(facts: FileFacts, wanted: str | None) -> str | None:
    names = [m.name for m in facts.matrices if not m.name.startswith("obsm/")]
    if wanted is None:
        usual = ["X", "layers/counts", "layers/log1p", "layers/lognorm", "layers/data"]
        return next((n for n in [*usual, *names] if n in names), None)
    if wanted == RAW:
        return f"{RAW}/X"
    if wanted not in names:
        raise RepresentationError(
            f"{facts.path.name} has no expression matrix '{wanted}'.",
            f"It has: {listed(facts.expressions, 20) or 'none'}.",
            "Choose one of them.",
        )
    return wanted
