"""A data set in words and in plain JSON: for `inspect` and for the Data page.

Source: an opened `Dataset`. Boundary: says what was decided; decides nothing.
"""

from __future__ import annotations

from typing import Any

from state_engine.data.dataset import Dataset
from state_engine.data.depth import compare_file, depth_notes_of
from state_engine.errors import listed
from state_engine.plain import to_plain


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
        "depths": [to_plain(depth) for depth in compare_file(dataset)],
        "notes": [*depth_notes_of(dataset), *dataset.notes],
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
        f"perturbation: {_role(labels.perturbation_key)}, {dataset.perturbation_words}",
        f"control: {labels.control or 'not known'}",
        f"context: {_role(labels.context_key)}, {listed(list(dataset.contexts), 8)}",
        f"batch: {_role(labels.batch_key)}" + (f", {len(dataset.batches):,} labels" if dataset.batches else ""),
        "representations: "
        + (", ".join(f"{m.name} ({m.width:,} wide, {m.layout}, {m.dtype})" for m in dataset.representations) or "none"),
    ]
    return (*lines, *(f"note: {n}" for n in (*depth_notes_of(dataset), *dataset.notes)))


def _role(key: str | None) -> str:
    if key is None:
        return "no column"
    return f"column '{key}'" if key else "none on purpose"
