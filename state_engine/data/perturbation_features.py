"""Vectors of perturbations: what a model knows a perturbation by. One-hot, or features that let it predict labels never trained.

A table is labels and float32 vectors, of one width, all finite. `.csv` files are read here (label in the first column, numbers
in the others); `.pt` files by `state_engine.checkpoints.arc.perturbation_vectors`, which knows torch.

Notation: n labels, p width of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.data.files.text import read_rows
from state_engine.errors import LabelError, UnreadableFileError, listed, may_be, near_each


@dataclass(frozen=True, eq=False)
class PerturbationFeatures:
    """Labels and their vectors.

    Args:
        labels: each once.
        vectors: (n, p) float32.
        source: where they come from, for people: a file's name, or "one-hot".
        hash: sha256 of the table, hex; the same whatever the order of the labels.
    """

    labels: tuple[str, ...]
    vectors: np.ndarray
    source: str
    hash: str

    @property
    def width(self) -> int:
        """Numbers of a vector (p)."""
        return int(self.vectors.shape[1])

    def of(self, labels: Sequence[str]) -> np.ndarray:
        """Vectors of these labels, in their order: (labels, p).

        Raises:
            LabelError: some have none; they are named.
        """
        place = {label: row for row, label in enumerate(self.labels)}
        lacking = [label for label in labels if label not in place]
        if lacking:
            raise LabelError(
                f"{len(lacking):,} of {len(labels):,} perturbations have no vector: {listed(lacking)}.",
                f"{self.source} has vectors of {len(self.labels):,} labels.",
                f"Add them to the file or leave these cells out. {may_be(near_each(lacking, self.labels))}".rstrip(),
            )
        return self.vectors[[place[label] for label in labels]]

    def with_zeros(self, labels: Sequence[str]) -> PerturbationFeatures:
        """The same table with a vector of zeros for labels that have none: for a control that no feature describes."""
        new = tuple(label for label in dict.fromkeys(labels) if label not in set(self.labels))
        if not new:
            return self
        vectors = np.vstack([self.vectors, np.zeros((len(new), self.width), np.float32)])
        return _made((*self.labels, *new), vectors, f"{self.source}; zeros for {listed(new)}")


def one_hot(labels: Sequence[str]) -> PerturbationFeatures:
    """A vector of its own for each label, in their order."""
    return _made(tuple(labels), np.eye(len(labels), dtype=np.float32), "one-hot")


def from_vectors(vectors: Mapping[str, np.ndarray], source: str) -> PerturbationFeatures:
    """A table of label -> vector.

    Raises:
        UnreadableFileError: no vectors, several widths, or values that are not finite; labels are named.
    """
    if not vectors:
        raise UnreadableFileError(f"{source} has no vectors.", "It should have labels and the numbers of each.")
    plain = {label: np.asarray(vector, dtype=np.float32).reshape(-1) for label, vector in vectors.items()}
    widths: dict[int, list[str]] = {}
    for label, vector in plain.items():
        widths.setdefault(len(vector), []).append(label)
    if len(widths) > 1 or 0 in widths:
        shown = "; ".join(f"{width:,} ({listed(labels, 3)})" for width, labels in sorted(widths.items()))
        raise UnreadableFileError(f"{source} has vectors of several widths.", f"{shown}.", "All must be equally long.")
    strange = [label for label, vector in plain.items() if not np.isfinite(vector).all()]
    if strange:
        raise UnreadableFileError(
            f"{source} has vectors that are not numbers.", f"{listed(strange)}.", "Leave these labels out, or fill the gaps."
        )
    return _made(tuple(plain), np.stack(list(plain.values())), source)


def read_features_csv(path: Path) -> PerturbationFeatures:
    """Vectors of a table of text: label, number, number, ...; a first line without numbers or label is a header. Comma, semicolon or tab.

    Raises:
        UnreadableFileError: not such a table; the line is named.
    """
    rows = read_rows(path, "")
    vectors: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row):
            continue
        label = row[0].strip()
        try:
            vector = np.array([float(cell) for cell in row[1:]], dtype=np.float32)
        except ValueError as error:
            if number == 1:  # a header
                continue
            raise UnreadableFileError(f"{path.name}, line {number}: {error}.", "Behind the label come numbers only.") from error
        if not label and number == 1:  # a header of numbers, as pandas writes it
            continue
        if not label or label in vectors:
            what = f"'{label}' is there twice" if label else "there is no label"
            raise UnreadableFileError(f"{path.name}, line {number}: {what}.", "Each label has one line.")
        vectors[label] = vector
    return from_vectors(vectors, path.name)


def _made(labels: tuple[str, ...], vectors: np.ndarray, source: str) -> PerturbationFeatures:
    repeated = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) != len(labels) else []
    if repeated:
        raise LabelError(f"Labels of perturbations repeat: {listed(repeated)}.", fix="Name each once.")
    digest = hashlib.sha256()
    for row in sorted(range(len(labels)), key=lambda i: labels[i]):
        digest.update(f"{labels[row]}\n".encode())
        digest.update(np.ascontiguousarray(vectors[row]).data)
    return PerturbationFeatures(labels, np.ascontiguousarray(vectors, dtype=np.float32), source, digest.hexdigest())
