"""A data set in words and in plain JSON: for `inspect`, for the Data page, and the notes that a person should read.

Source: an opened `Dataset`. Boundary: says what was decided; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from state_engine.errors import listed
from state_engine.plain import to_plain

if TYPE_CHECKING:
    from state_engine.data.dataset import Dataset

USUAL_DEPTH = 1e4


def notes_on(dataset: Dataset) -> tuple[str, ...]:
    """Remarks, most important first: whatever a person would want to correct, or to know before trusting a result."""
    return (*_label_notes(dataset), *_scale_notes(dataset), *_gene_notes(dataset), *dataset.file.notes, *_file_notes(dataset))


def _label_notes(dataset: Dataset) -> list[str]:
    labels, notes = dataset.labels, []
    if labels.perturbation_key is None:
        notes.append("No column says which cells are perturbed: choose one, or declare all cells unperturbed.")
    elif labels.perturbation_key == "":
        notes.append(f"All cells are taken as unperturbed controls ('{labels.control}').")
    elif labels.control is None:
        notes.append(f"No label of '{labels.perturbation_key}' is known as a control: choose one before predicting.")
    else:
        few = [c for c in dataset.contexts if not len(dataset.control_rows(c))]
        if few:
            notes.append(f"{len(few):,} of {len(dataset.contexts):,} contexts have no control cells: {listed(few)}.")
        rivals = [c for c in labels.control_suggestions if c != labels.control][:3]
        if rivals and dataset.choices.control is None:
            notes.append(f"'{labels.control}' is taken as the control; {listed(rivals)} could be one too.")
    if labels.n_unlabelled:
        notes.append(f"{labels.n_unlabelled:,} cells have no perturbation label and are left out.")
    if labels.context_key is None:
        notes.append("No column says the cell type or line: all cells are taken as one context.")
    else:
        missing = next(c.n_missing for c in labels.columns if c.name == labels.context_key)
        if missing:
            notes.append(f"{missing:,} cells have no label in '{labels.context_key}' and are left out.")
        if len(dataset.contexts) == 1:
            notes.append(f"There is one context only ('{dataset.contexts[0]}'): nothing can be said about others.")
    return notes


def _scale_notes(dataset: Dataset) -> list[str]:
    scale = dataset.scale
    if scale.scale is None:
        return [" ".join(["The expression values are neither counts nor log1p.", *scale.evidence, scale.fix])]
    if scale.scale == "log1p" and scale.depth and abs(scale.depth / USUAL_DEPTH - 1) > 0.05:
        return [f"The log1p values were normalised to {scale.depth:,.0f} per cell; models usually expect {USUAL_DEPTH:,.0f}."]
    return []


def _gene_notes(dataset: Dataset) -> list[str]:
    chosen, notes = dataset.genes.chosen, []
    if chosen.repeated:
        notes.append(f"{chosen.repeated:,} gene names repeat an earlier one; the first of each is used.")
    if chosen.kind == "other":
        notes.append(f"The gene names (such as '{chosen.example}') are neither symbols nor Ensembl identifiers.")
    return notes


def _file_notes(dataset: Dataset) -> list[str]:
    notes = []
    if dataset.expression is not None and dataset.representation(dataset.expression).layout == "csc":
        notes.append(f"{dataset.expression} is stored by gene (CSC): reading cells takes a pass over the whole file.")
    if dataset.expression not in (None, "X"):
        notes.append(f"The expression is taken from {dataset.expression}.")
    if dataset.file.has_raw:
        notes.append("The file's 'raw' part is not read.")
    return notes


def describe(dataset: Dataset) -> dict[str, Any]:
    """All that was understood, as plain JSON values."""
    genes, labels = dataset.genes, dataset.labels
    return {
        "file": {"name": dataset.path.name, "bytes": dataset.file.nbytes, "declared_bytes": dataset.file.declared_bytes},
        "cells": dataset.n_cells,
        "genes": {
            "count": dataset.n_genes,
            "kind": genes.kind,
            "column": genes.column,
            "repeated": genes.chosen.repeated,
            "examples": list(genes.names[:5]),
            "alternatives": [{"column": c.column, "kind": c.kind, "example": c.example} for c in genes.alternatives],
        },
        "expression": dataset.expression,
        "scale": to_plain(dataset.scale),
        "labels": to_plain(labels),
        "contexts": list(dataset.contexts),
        "batches": list(dataset.batches),
        "perturbations": list(dataset.perturbations),
        "table": {p: {c: int(n) for c, n in row.items()} for p, row in dataset.table().to_dict("index").items()},
        "representations": [to_plain(m) for m in dataset.representations],
        "choices": to_plain(dataset.choices),
        "notes": list(dataset.notes),
    }


def summary_lines(dataset: Dataset) -> tuple[str, ...]:
    """The same for a terminal, a line each."""
    labels, scale = dataset.labels, dataset.scale
    size = f"{dataset.file.nbytes / 1e6:,.1f} MB on disk"
    lines = [
        f"{dataset.path.name}: {dataset.n_cells:,} cells x {dataset.n_genes:,} genes, {size}",
        f"expression: {dataset.expression or 'none'}, {scale.scale or 'neither counts nor log1p'} (by {scale.by})",
        *(f"    {sentence}" for sentence in scale.evidence),
        f"genes: {dataset.genes.chosen.words} ({listed(list(dataset.genes.names), 3)})",
        f"perturbation: {_role(labels.perturbation_key)}, {len(dataset.perturbations):,} labels",
        f"control: {labels.control or 'not known'}",
        f"context: {_role(labels.context_key)}, {listed(list(dataset.contexts), 8)}",
        f"batch: {_role(labels.batch_key)}" + (f", {len(dataset.batches):,} labels" if dataset.batches else ""),
        "representations: "
        + (", ".join(f"{m.name} ({m.width:,} wide, {m.layout}, {m.dtype})" for m in dataset.representations) or "none"),
    ]
    return (*lines, *(f"note: {n}" for n in dataset.notes))


def _role(key: str | None) -> str:
    if key is None:
        return "no column"
    return f"column '{key}'" if key else "none on purpose"
