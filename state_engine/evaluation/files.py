"""The files of an evaluation, opened and brought together: the same genes in the same order, the same labels, what is in both.

Nothing is loaded but labels and names; values stream by in blocks. What cannot be compared is an error with numbers, what is left out
a remark. Boundary: no metrics.

Notation: n cells, g compared genes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from state_engine import keys
from state_engine.data.controls import matching
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import DEPTH, FeatureSource, match_genes
from state_engine.data.scale import Scale
from state_engine.errors import EmptyDataError, GeneError, LabelError, RequestError, ScaleError, listed
from state_engine.evaluation.compared import ComparedFiles, Condition, Side
from state_engine.evaluation.foreign_effects import ForeignEffects, is_effects_file, read_effects, write_cells
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.plain import agreed, plural
from state_engine.progress import OnProgress, silent

FAR = 2.0  # ratio of a cell's sum to the depth of the comparison that is remarked on, where the cell's own depth is not known
_PREDICTED = (keys.PREDICTED, keys.PREDICTED_CONTROL)
_MEASURED = (keys.OBSERVED, keys.OBSERVED_CONTROL)


def open_files(request: EvaluationRequest) -> ComparedFiles:
    """Open and align the files of a request.

    Raises:
        LabelError: a column or the control is not there. GeneError: genes differ. ScaleError: values are neither counts nor log1p.
        RequestError: no condition is in all files.
    """
    real = open_dataset(Path(request.real), _choices(request.choices))
    control = real.require_control()
    said = _of_predicted(request)
    if said.controls and said.controls[0] != control:
        raise LabelError(
            f"The control is '{control}' in one file and '{said.controls[0]}' in the other.", fix="Rename one of them."
        )
    opened = {file: _open_predicted(file, said) for file in request.predicted}
    genes, remarks = _common_genes(real, list(opened.values()), request.common_genes)
    depth = _depth_of_comparison(real, list(opened.values()))
    rows_of = partial(_of_kind if request.by_kind else _own_cells, remarks=remarks)
    measured = side_of(real, genes, real.path.name, depth, mask=rows_of(real, _MEASURED))
    sides: dict[str, tuple[Side, ...]] = {}
    for file, dataset in opened.items():
        side = side_of(dataset, genes, _name_of(file), depth, file.representation != "X", rows_of(dataset, _PREDICTED))
        if request.control_source == "predicted":
            _require_own_control(side, control)
        sides[file.method] = (*sides.get(file.method, ()), side)
    there = _with_control(measured, control)
    predicted = {method: [_predicted(side, control) for side in seeds] for method, seeds in sides.items()}
    both, left_out = _conditions(there, predicted)
    kept = {method: frozenset(set.intersection(*found) & set(both)) for method, found in predicted.items()}
    silent = [method for method, found in kept.items() if not found]
    if silent:
        left_out.append(f"Says nothing about the measured conditions, so not scored: {listed(silent)}.")
        sides = {method: seeds for method, seeds in sides.items() if kept[method]}
    hint = _context_hint(real)
    remarks += real.absent_controls()
    remarks += _depth_remarks([measured, *(side for seeds in sides.values() for side in seeds)], depth)
    return ComparedFiles(measured, sides, genes, control, both, kept, (*remarks, *left_out, *([hint] if hint else [])), depth)


def _name_of(file: PredictedFile) -> str:
    """Return how a predicted file is called in messages."""
    if file.representation != "X":
        return f"{file.representation} of {Path(file.path).name}"
    return Path(file.effects or file.path).name


def with_cells_of_effects(
    request: EvaluationRequest, folder: Path, on_progress: OnProgress = silent
) -> tuple[EvaluationRequest, list[str], dict[str, ForeignEffects]]:
    """Return the request with cells in the place of tables of effects, remarks, and the tables by method.

    Args:
        request: what to compare.
        folder: where the cells are written.
        on_progress: told condition by condition.

    Raises:
        UnreadableFileError, GeneError, RequestError: see `read_effects` and `write_cells`.
    """
    if not any(is_effects_file(file.path) for file in request.predicted):
        return request, [], {}
    real = open_dataset(Path(request.real), _choices(request.choices))
    choices = _of_predicted(request)
    side = side_of(real, tuple(dict.fromkeys(real.genes.names)), real.path.name, None)
    files, remarks, tables = [], list[str](), {}
    for number, file in enumerate(request.predicted):
        if not is_effects_file(file.path):
            files.append(file)
            continue
        table = tables[file.method] = read_effects(Path(file.path))
        made = folder / f"{Path(file.path).stem}-{number}.h5ad"
        remarks += write_cells(table, real, side.source, choices, made, request.seed, on_progress)
        files.append(PredictedFile(str(made), file.method, effects=file.path))
    return replace(request, predicted=tuple(files)), remarks, tables


def _of_predicted(request: EvaluationRequest) -> Choices:
    """Return the choices of the predicted files: what is not said of them is as in the measured cells."""
    own, real = request.predicted_choices, request.choices
    if own is None:
        return real
    labels = {"perturbation_key": own.perturbation_key or real.perturbation_key, "control": own.control or real.control}
    return replace(own, **labels, context_key=real.context_key if own.context_key is None else own.context_key)  # type: ignore[arg-type]


def _open_predicted(file: PredictedFile, said: Choices) -> Dataset:
    # the control is looked for by the caller: predicted cells may come without
    choices = replace(_choices(said), control=None)
    if file.effects:  # made here: log1p in X, whatever the measured cells are
        choices = replace(choices, expression="X", scale="log1p")
    if file.representation != "X":  # a layer may be negative or empty in parts, so its scale is looked at, not said
        choices = replace(choices, expression=file.representation, scale=None)
    opened = open_dataset(Path(file.path), choices)
    controls = matching(opened.perturbations, said.controls)
    if not controls or controls == said.controls[:1]:
        return opened
    return open_dataset(Path(file.path), replace(choices, control=said.control))


def _own_cells(dataset: Dataset, kinds: tuple[str, ...], remarks: list[str]) -> np.ndarray | None:
    """(n,) rows of a result of ours that count on its side, since it holds predicted and measured cells; None for any other file."""
    column = dataset.columns.get(keys.KIND)
    if column is None or not set(column.categories.astype(str)) <= set(keys.KINDS):
        return None
    rows = _of_kind(dataset, kinds, remarks)
    if not rows.all():
        left_out = int((~rows).sum())
        other = "measured" if kinds == _PREDICTED else "predicted"
        cells, are = plural(left_out, f"{other} cell"), agreed(left_out, "is", "are")
        words = f"{dataset.path.name} is a result: its {cells} (column '{keys.KIND}') {are} left out."
        remarks += [] if words in remarks else [words]
    return rows


def _of_kind(dataset: Dataset, kinds: tuple[str, ...], remarks: list[str]) -> np.ndarray:
    """(n,) rows of a result with one of these kinds; nothing to remark on, as both kinds are asked for.

    Raises:
        LabelError: it is no result of a prediction.
    """
    if keys.KIND not in dataset.columns:
        raise LabelError(f"{dataset.path.name} is no result of a prediction.", f"Its cells have no column '{keys.KIND}'.")
    return np.isin(np.asarray(dataset.columns[keys.KIND].astype(str)), kinds)


def _require_own_control(side: Side, control: str) -> None:
    names, codes = side.dataset.coded(side.dataset.labels.perturbation_key)
    if control not in names or not (codes == names.index(control)).any():
        raise LabelError(
            f"{side.name} has no control cells.",
            f"No cell of its column '{side.dataset.labels.perturbation_key}' is labelled '{control}', and this evaluation starts from the "
            "control cells of the prediction.",
            "Add them, or use those of the measurement (--controls real; not the rule of every challenge).",
        )


def _choices(choices: Choices) -> Choices:
    """No context column named means none: an evaluation takes no column that nobody named."""
    if not choices.perturbation_key:
        raise LabelError("The perturbation column is not named.", fix="Name it (--perturbation-key).")
    return replace(choices, context_key=choices.context_key or "")


def _common_genes(real: Dataset, predicted: list[Dataset], common: bool) -> tuple[tuple[str, ...], list[str]]:
    """Genes of the first predicted file that are in all files, in its order."""
    wanted = tuple(dict.fromkeys(predicted[0].genes.names))
    shared = [g for g, c in zip(wanted, match_genes(real, wanted).columns, strict=True) if c >= 0]
    for other in predicted[1:]:
        columns = match_genes(other, tuple(shared)).columns
        shared = [g for g, c in zip(shared, columns, strict=True) if c >= 0]
    n_real = len(set(real.genes.names))
    if not shared:
        raise GeneError(
            "Predicted and measured cells share no gene.",
            f"Predicted, such as {listed(wanted, 3)}; measured, such as {listed(real.genes.names, 3)}.",
            "Give files with the same kind of gene names.",
        )
    if len(shared) == len(wanted) == n_real and all(d.n_genes == predicted[0].n_genes for d in predicted):
        return tuple(shared), []
    missing = sorted(set(wanted) - set(shared))
    why = (
        f"{plural(len(shared), 'is', 'are')} in all files: {plural(len(wanted), 'was', 'were')} predicted, {n_real:,} measured."
        + (f" Not in all: {listed(missing)}." if missing else "")
    )
    if not common:
        raise GeneError(
            "Predicted and measured cells have different genes.",
            why,
            "Score the common genes (--common-genes), or give the same.",
        )
    return tuple(shared), [f"Scored on the genes in common. {why}"]


def _own_depth(dataset: Dataset) -> float | None:
    """Return the depth of a file's values as log1p; None when it is not known."""
    return DEPTH if dataset.scale.scale == "counts" else dataset.scale.depth


def _depth_of_comparison(real: Dataset, predicted: list[Dataset]) -> float | None:
    """Return the depth that all are compared at: of the predicted cells, since effects of their training are of it; else of the measured."""
    known = [depth for d in (*predicted, real) if (depth := _own_depth(d))]
    return known[0] if known else None


def _depth_remarks(sides: list[Side], depth: float | None) -> list[str]:
    """Return what was brought to the depth of the comparison, and what may be of another one, in sentences."""
    remarks = []
    for side in sides:
        scale, source = side.dataset.scale, side.source
        if depth and scale.depth and source.factor != 1:
            remarks.append(
                f"{side.name} was normalised to {scale.depth:,.0f} per cell; its values are brought to {depth:,.0f}, which is exact."
            )
        elif source.normalise and source.depth != DEPTH:
            remarks.append(
                f"The counts of {side.name} are normalised to {source.depth:,.0f} per cell, the depth they are compared at."
            )
        elif depth and scale.cell_sum and scale.depth is None and not 1 / FAR < scale.cell_sum / depth < FAR:
            remarks.append(
                f"The depth of {side.name} is not known: its cells sum to {scale.cell_sum:,.0f} (median) over its genes, and they are "
                f"compared at {depth:,.0f} per cell. Where they were normalised otherwise, the scores compare different scales."
            )
    return list(dict.fromkeys(remarks))


def side_of(
    dataset: Dataset, genes: tuple[str, ...], name: str, depth: float | None, signed: bool = False, mask: np.ndarray | None = None
) -> Side:
    """Return a file on some genes, its values brought to a depth where that can be done exactly.

    Raises:
        ScaleError: it has no expression, or its values are neither counts nor log1p.
    """
    if dataset.expression is None:
        raise ScaleError(f"{name} has no expression.", "It has no matrix of genes.", "Give a file with one in X.")
    if signed and dataset.scale.scale is None:
        scale: Scale = "log1p"  # a raw output may be negative, which no measured expression is
    else:
        try:
            scale = dataset.scale.require()
        except ScaleError as error:
            raise ScaleError(f"{name} cannot be compared.", f"{error.what} {error.why}", error.fix) from error
    columns = tuple(int(c) for c in match_genes(dataset, genes).columns)
    source = FeatureSource(dataset.expression, columns, scale == "counts", sum(c < 0 for c in columns))
    if source.normalise or dataset.scale.depth:
        source = source.at_depth(replace(dataset.scale, scale=scale), depth)
    return Side(dataset, source, name, signed, mask)


def _with_control(side: Side, control: str) -> set[Condition]:
    """Measured conditions whose context has control cells.

    Raises:
        LabelError: no cell is a control.
    """
    found = conditions_of(side)
    with_control = {c for p, c in found if p == control}
    if not with_control:
        raise LabelError(
            "The measured cells have no control cells.", f"No cell is labelled '{control}'.", "Name the control (--control)."
        )
    return {(p, c) for p, c in found if p != control and c in with_control}


def _predicted(side: Side, control: str) -> set[Condition]:
    """Predicted conditions; those that a layer leaves empty (NaN) are not predicted by it."""
    found = sorted((p, c) for p, c in conditions_of(side) if p != control)
    if not side.signed or not found:
        return set(found)
    values = side.dataset.read(side.source.representation, np.array([side.rows(p, c)[0] for p, c in found]))
    return {pair for pair, row in zip(found, values, strict=True) if not np.isnan(row).all()}


def _conditions(measured: set[Condition], predicted: dict[str, list[set[Condition]]]) -> tuple[tuple[Condition, ...], list[str]]:
    anywhere = set.union(*(found for seeds in predicted.values() for found in seeds))
    complete = set.union(*(set.intersection(*seeds) for seeds in predicted.values()))
    both = measured & complete
    if not both:
        raise RequestError(
            "No perturbation is both predicted and measured.",
            f"Predicted: {_words(anywhere)}. Measured, in contexts with control cells: {_words(measured)}.",
            "Give cells of the same perturbations and contexts, or name the columns that say so.",
        )
    remarks = []
    if measured - anywhere:
        remarks.append(f"Measured but not predicted, so not scored: {_words(measured - anywhere)}.")
    if anywhere - measured:
        remarks.append(f"Predicted but not measured with control cells, so not scored: {_words(anywhere - measured)}.")
    if (anywhere - complete) & measured:
        remarks.append(f"Not in the file of every seed, so not scored: {_words((anywhere - complete) & measured)}.")
    return tuple(sorted(both, key=lambda pair: (pair[1], pair[0]))), remarks


def conditions_of(side: Side) -> set[Condition]:
    """(perturbation, context) that have cells, the control's too."""
    dataset = side.dataset
    names_p, p = dataset.coded(dataset.labels.perturbation_key)
    names_c, c = dataset.coded(dataset.labels.context_key or "")
    if not dataset.labels.context_key:
        names_c, c = ["", keys.ALL], np.ones(dataset.n_cells, np.int64)
    chosen = (p > 0) & (c > 0) if side.mask is None else (p > 0) & (c > 0) & side.mask
    pairs = np.unique(p[chosen] * len(names_c) + c[chosen])
    if not len(pairs):
        raise EmptyDataError(f"{side.name} has no labelled cells.", fix="Name the column of the perturbation.")
    return {(names_p[i // len(names_c)], names_c[i % len(names_c)]) for i in pairs.tolist()}


def _words(pairs: set[Condition]) -> str:
    names = [p if c == keys.ALL else f"{c} x {p}" for p, c in sorted(pairs, key=lambda pair: (pair[1], pair[0]))]
    return listed(names) or "none"


def _context_hint(real: Dataset) -> str:
    if real.labels.context_key:
        return ""
    columns = [s.column for s in real.labels.suggestions if s.role == "context" and s.n_labels > 1 and not s.offered]
    return (
        f"All cells are compared as one context; the column '{columns[0]}' may name several (--context-key {columns[0]})."
        if columns
        else ""
    )
