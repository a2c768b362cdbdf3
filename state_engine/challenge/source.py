"""Where a submission comes from: an .h5ad of anyone's, or the result of a run. Labels and gene names are read, the matrix is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.challenge.spec import Rules
from state_engine.data.embedding_record import PredictionKind, UnknownLabels, prediction_kind, result_depth, unknown_labels
from state_engine.data.files.blocks import Matrix, find_matrix
from state_engine.data.files.columns import Coded as Labels
from state_engine.data.files.columns import read_coded, read_var
from state_engine.data.files.hdf5 import column_names, index_column, open_h5
from state_engine.data.files.safety import FileFacts, check_file
from state_engine.data.gene_rows import genes_among
from state_engine.errors import ChallengeError, DataError


@dataclass(frozen=True)
class SubmissionSource:
    """Which cells of which file, and how they are labelled.

    Args:
        path: the .h5ad.
        perturbation_key, context_key: obs columns; "" for the challenge's own names.
        matrix: "X" or "layers/NAME".
        gene_column: var column with the gene names; "" for the index.
        kinds: values of obs["kind"] to take (results of runs); empty for all cells.
        control_files: .h5ad files with real control cells: library sizes of the counts step, and the repair add-controls.
        contexts: contexts to take; empty for all cells. Also of a file for a challenge that knows no contexts.
        donor_files: .h5ad files with the control cells that predictions start from, beside the control files.
    """

    path: Path
    perturbation_key: str = ""
    context_key: str = ""
    matrix: str = "X"
    gene_column: str = ""
    kinds: tuple[str, ...] = ()
    control_files: tuple[Path, ...] = ()
    contexts: tuple[str, ...] = ()
    donor_files: tuple[Path, ...] = ()

    @property
    def cell_files(self) -> tuple[Path, ...]:
        """Files with measured control cells, each once."""
        return tuple(dict.fromkeys((*self.donor_files, *self.control_files)))


def source_of_run(
    result: Path, rules: Rules, control_files: tuple[Path, ...] = (), contexts: tuple[str, ...] = ()
) -> SubmissionSource:
    """The rows of a run's result.h5ad that a challenge wants: predictions, with observed controls where controls are required.

    With control files and controls required, the run's own controls stay out: the repair add-controls takes those of the files.
    """
    kinds = _kinds(rules, control_files)
    return SubmissionSource(result, keys.PERTURBATION, keys.CONTEXT, kinds=kinds, control_files=control_files, contexts=contexts)


def _kinds(rules: Rules, control_files: tuple[Path, ...]) -> tuple[str, ...]:
    """Kinds of a result's cells that belong into a submission."""
    own = rules.controls != "forbidden" and not (rules.controls == "required" and control_files)
    return (keys.PREDICTED, keys.OBSERVED_CONTROL) if own else (keys.PREDICTED,)


def kinds_to_take(path: Path, rules: Rules, control_files: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """Return the kinds of cells to take of a file: of a result, which holds measured cells too, those of a submission; () of any other.

    Raises:
        DataError: the file is not safe to read.
    """
    if path.suffix.lower() != ".h5ad":  # an archive, which holds a submission already
        return ()
    facts = check_file(path)
    with open_h5(path) as file:
        obs = node(file, "obs")
        labels = _labels(obs, keys.KIND, facts.n_cells) if keys.KIND in column_names(obs) else None
    ours = {keys.PREDICTED, keys.PREDICTED_CONTROL, keys.OBSERVED, keys.OBSERVED_CONTROL}
    return (
        _kinds(rules, control_files)
        if labels is not None and keys.PREDICTED in labels.names and set(labels.names) <= ours
        else ()
    )


@dataclass(frozen=True, eq=False)
class Basal:
    """Which control cell each cell of a result starts from.

    Args:
        rows: (n,) row of the data set that the prediction was made for.
        names: name of that cell, to know the data set by.
    """

    rows: NDArray[np.int64]
    names: Labels


@dataclass(frozen=True)
class Opened:
    """What a file says of itself.

    Args:
        matrix: the expression matrix.
        genes: names of its g genes.
        columns: names of the obs columns.
        perturbations, contexts, kinds: labels of the n cells, None when there is no such column.
        fallback: (n,) cells of labels that the model did not know, None when the file does not say.
        dropped: what the archive will not carry ("layers/raw", "obsm/X_pca").
        no_genes: which rows of var are guides, antibodies or peaks and are read nowhere, in words; "" where all are genes.
        kind: what kind of prediction the matrix holds, where the file records it.
        depth: of log1p values of a result: what a cell's counts summed to; None when not recorded.
        basal: of a result: the control cells that its cells start from.
        unknown: labels of a result that its model does not know, and what stands in their place.
        depth_of_data: of the log1p values of the data set that a result was predicted for; None for counts, or when not recorded.
    """

    matrix: Matrix
    genes: tuple[str, ...]
    columns: tuple[str, ...]
    perturbations: Labels | None
    contexts: Labels | None
    kinds: Labels | None
    fallback: NDArray[np.bool_] | None
    dropped: tuple[str, ...]
    no_genes: str = ""
    kind: PredictionKind = "unknown"
    depth: float | None = None
    basal: Basal | None = None
    unknown: UnknownLabels = UnknownLabels()
    depth_of_data: float | None = None


def open_source(source: SubmissionSource, rules: Rules) -> Opened:
    """Read everything but the matrix.

    Raises:
        DataError: the file cannot be read, is not safe to read, or has no cells or genes.
        ChallengeError: no such matrix, or parts that contradict each other. A missing column does not raise.
    """
    facts = check_file(source.path)
    try:
        with h5py.File(source.path, "r") as file:
            return _open(file, source, rules, facts)
    except (OSError, RuntimeError, KeyError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0].strip("\"'")
        raise ChallengeError(f"{source.path.name} cannot be read as an .h5ad file.", f"{first}.", "Write it again.") from error


def open_controls(path: Path, source: SubmissionSource, rules: Rules) -> Opened:
    """A file of real control cells. Its columns may be called otherwise than those of the predictions: usual names are tried.

    Raises:
        DataError, ChallengeError: as `open_source`.
    """
    plain = replace(source, path=path, kinds=(), control_files=(), donor_files=())
    opened = open_source(plain, rules)
    perturbation, context = plain.perturbation_key, plain.context_key
    if opened.perturbations is None:
        perturbation = _first((rules.perturbation_key, *keys.PERTURBATION_ALIASES), opened.columns)
    if opened.contexts is None:
        context = _first((rules.context_key, *keys.CONTEXT_ALIASES), opened.columns)
    return open_source(replace(plain, perturbation_key=perturbation, context_key=context), rules)


def _first(names: tuple[str, ...], columns: tuple[str, ...]) -> str:
    return next((name for name in names if name and name in columns), "")


def _open(file: h5py.File, source: SubmissionSource, rules: Rules, facts: FileFacts) -> Opened:
    matrix = find_matrix(facts, source.matrix)
    obs, var = node(file, "obs"), node(file, "var")
    genes = read_strings(var, source.gene_column or index_column(var) or "_index", facts.n_genes)
    n_cells, columns = facts.n_cells, column_names(obs)
    if matrix.shape != (n_cells, len(genes)):
        raise ChallengeError(
            f"{source.matrix} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, but obs and var say {n_cells:,} x {len(genes):,}.",
            "The file contradicts itself.",
            "Write it again.",
        )
    kinds = read_var(var, len(genes), None).kinds
    only = genes_among(kinds)
    no_genes = only.words(len(genes)) if only else ""
    if only:
        matrix, genes = replace(matrix, columns=only.columns), [genes[i] for i in only.columns.tolist()]
    context = (source.context_key or rules.context_key) if rules.context_key or source.contexts else ""
    wanted = (source.perturbation_key or rules.perturbation_key, context, keys.KIND if source.kinds else "")
    labels = [_labels(obs, name, n_cells) if name in columns else None for name in wanted]
    dropped = _dropped(file, source.matrix)
    plain = Opened(matrix, tuple(genes), columns, labels[0], labels[1], labels[2], None, dropped, no_genes)
    if not source.kinds:
        return plain
    return replace(
        plain,
        fallback=_flags(obs, keys.FALLBACK, n_cells),
        kind=prediction_kind(file, source.matrix),
        depth=result_depth(file),
        basal=_basal(obs, n_cells),
        unknown=unknown_labels(file),
        depth_of_data=result_depth(file, "depth_of_data"),
    )


def basal_of(path: Path) -> Basal | None:
    """Return the control cells that the cells of a result start from; None where a file does not say."""
    with open_h5(path) as file:
        rows = file["obs"].get(keys.BASAL_ROW)
        return _basal(file["obs"], len(rows)) if isinstance(rows, h5py.Dataset) and rows.ndim == 1 else None


def _basal(obs: h5py.Group, n_cells: int) -> Basal | None:
    rows = obs.get(keys.BASAL_ROW)
    if not isinstance(rows, h5py.Dataset) or rows.shape != (n_cells,) or rows.dtype.kind not in "iu":
        return None
    return Basal(rows[:].astype(np.int64), _labels(obs, keys.BASAL_CELL, n_cells)) if keys.BASAL_CELL in obs else None


def _dropped(file: h5py.File, matrix: str) -> tuple[str, ...]:
    """Return the places of the file beside the matrix, obs and var: an archive does not carry them."""
    places = []
    for group in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
        names = file[group] if isinstance(file.get(group), h5py.Group) else ()
        places += [f"{group}/{name}" for name in names]
    return tuple(p for p in places if p != matrix) + (("raw",) if "raw" in file else ())


def node(file: h5py.File | h5py.Group, key: str) -> h5py.Group | h5py.Dataset:
    """Return the group or data set at a place.

    Raises:
        ChallengeError: it is not there.
    """
    if key not in file:
        raise ChallengeError(f"The file has no {key}.")
    return file[key]


def _flags(frame: h5py.Group, column: str, n_cells: int) -> NDArray[np.bool_] | None:
    """A column of yes and no; None when there is none."""
    place = frame.get(column)
    flags = isinstance(place, h5py.Dataset) and place.shape == (n_cells,) and place.dtype.kind == "b"
    return np.asarray(place[:], bool) if flags else None


def read_strings(frame: h5py.Group, column: str, length: int) -> list[str]:
    """A column as strings, missing values as "nan"."""
    labels = _labels(frame, column, length)
    return [labels.names[code] if code >= 0 else "nan" for code in labels.codes]


def _labels(frame: h5py.Group, column: str, length: int) -> Labels:
    node(frame, column)  # says what is not there
    try:
        labels = read_coded(frame, column, length)
    except DataError as error:
        where = frame.name.strip("/")
        raise ChallengeError(f"Column {column} of {where} cannot be read.", error.why or error.what, "Write it again.") from error
    if len(labels.codes) != length:  # a single word where a list belongs
        raise ChallengeError(
            f"Column {column} has {len(labels.codes):,} entries; there are {length:,}.",
            "The file contradicts itself.",
            "Write it again.",
        )
    return labels
