"""The labels of cells: which obs columns say perturbation, context and batch, and which label is the control.

Source: column and label names in use (`keys`). Suggestions only: the user's word (`Choices`) decides.
Boundary: columns of strings; no expression values, no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.errors import LabelError, listed

NONE = ""  # the user's word for "there is none"
MISSING_WORDS = frozenset({"", "nan", "NaN", "<NA>", "NA", "N/A", "n/a", "#N/A"})  # of pandas, R and Excel
_TOKENS = {
    "perturbation": ("perturb", "treat", "drug", "compound", "guide", "grna", "stim", "knockout", "crispr", "condition"),
    "context": ("celltype", "cell_type", "cell_line", "annotation", "cluster", "tissue"),
    "batch": ("batch", "plate", "lane", "sample", "library", "replicate", "donor", "channel", "gem"),
}


def _plain_name(column: str) -> str:
    """Return the name of a column as its usual spelling: 'Cell Type', 'cell.type' (of R) and 'cell/type' are cell_type."""
    return re.sub(r"[\s./-]+", "_", column.lower())


_CONTEXT_NAMES = frozenset(map(_plain_name, keys.CONTEXT_ALIASES))
_WEAK_CONTROLS = frozenset({"none", "wt", "mock"})  # labels that other columns have too, for other reasons
_CONTROL_TOKENS = (
    "non-targeting",
    "nontargeting",
    "non_targeting",
    "control",
    "ctrl",
    "dmso",
    "vehicle",
    "untreated",
    "scramble",
    "no-target",
    "intergenic",
    "wildtype",
    "unstim",
)


@dataclass(frozen=True)
class ColumnFacts:
    """An obs column of labels. `n_missing` cells have none; `example` is its most frequent label."""

    name: str
    n_labels: int
    n_missing: int
    example: str


@dataclass(frozen=True)
class Suggestion:
    """A column that may play a role ("perturbation", "context", "batch"), best first, and why it is thought so."""

    role: str
    column: str
    n_labels: int
    example: str
    reason: str


@dataclass(frozen=True)
class Labels:
    """What the labels of a data set are taken to be.

    Args:
        perturbation_key: the obs column; None when it is not known, "" when there is none on purpose (all cells are controls).
        control: the control label; None when it is not known.
        context_key, batch_key: obs columns; None when there is none.
        suggestions: columns that may be perturbation, context or batch.
        control_suggestions: labels that may be the control, best first.
        columns: all columns of labels.
        other_columns: obs columns that are no labels (numbers, barcodes), which the user may still choose.
        n_unlabelled: cells without a perturbation label.
    """

    perturbation_key: str | None
    control: str | None
    context_key: str | None
    batch_key: str | None
    suggestions: tuple[Suggestion, ...]
    control_suggestions: tuple[str, ...]
    columns: tuple[ColumnFacts, ...]
    other_columns: tuple[str, ...]
    n_unlabelled: int

    def notes(self, contexts: tuple[str, ...], without_control: tuple[str, ...], control_chosen: bool) -> list[str]:
        """Return what a person may want to correct, most important first.

        Args:
            contexts: of the data set.
            without_control: those of them that have no control cells.
            control_chosen: the user named the control label.
        """
        notes = []
        if self.perturbation_key is None:
            notes.append("No column says which cells are perturbed: choose one, or declare all cells unperturbed.")
        elif self.perturbation_key == NONE:
            notes.append(f"All cells are taken as unperturbed controls ('{self.control}').")
        elif self.control is None:
            found = listed(list(self.control_suggestions), 6)
            could = f" It could be: {found}." if found else ""
            notes.append(f"No label of '{self.perturbation_key}' is known as a control: choose one before predicting.{could}")
        else:
            if without_control:
                few, all_of_them = len(without_control), len(contexts)
                notes.append(f"{few:,} of {all_of_them:,} contexts have no control cells: {listed(without_control)}.")
            rivals = [label for label in self.control_suggestions if label != self.control][:3]
            if rivals and not control_chosen:
                notes.append(f"'{self.control}' is taken as the control; {listed(rivals)} could be one too.")
        if self.n_unlabelled:
            notes.append(f"{self.n_unlabelled:,} cells have no perturbation label and are left out.")
        return [*notes, *self._context_notes(contexts)]

    def _context_notes(self, contexts: tuple[str, ...]) -> list[str]:
        if self.context_key is None:
            return ["No column says the cell type or line: all cells are taken as one context."]
        notes = []
        missing = next(c.n_missing for c in self.columns if c.name == self.context_key)
        if missing:
            notes.append(f"{missing:,} cells have no label in '{self.context_key}' and are left out.")
        if len(contexts) == 1:
            notes.append(f"There is one context only ('{contexts[0]}'): nothing can be said about others.")
        return notes


def twins(labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return pairs of labels that name the same perturbations in another order: ('A+B', 'B+A')."""
    first: dict[tuple[str, ...], str] = {}
    found = []
    for label in labels:
        parts = tuple(sorted(part.strip() for part in label.split("+")))
        if len(parts) > 1 and first.setdefault(parts, label) != label:
            found.append((first[parts], label))
    return found


def as_labels(values: object) -> pd.Categorical:
    """Any column as strings; missing values (NaN, masked, "", "nan") become missing. Whole floats keep their ".0"."""
    series = pd.Series(values)
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy()
        names = [_text(c) for c in series.cat.categories]
    else:
        codes, unique = pd.factorize(series, use_na_sentinel=True)
        names = [_text(c) for c in unique]
    # two categories may read alike (1 and "1"), and some may be unused or mean "missing"
    known = sorted({n for n in np.array(names, dtype=object)[np.unique(codes[codes >= 0])] if n not in MISSING_WORDS})
    place = {n: i for i, n in enumerate(known)}
    to_code = np.array([place.get(n, -1) for n in names] + [-1], dtype=np.int64)
    return pd.Categorical.from_codes(to_code[codes], categories=pd.Index(known, dtype=object))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def merged(labels: pd.Categorical, pattern: str) -> pd.Categorical:
    """Return the labels with all that a pattern such as 'neg_ctrl_*' matches as one, called by the pattern; the same where none does."""
    names = [str(name) for name in labels.categories]
    taken = [name for name in names if fnmatchcase(name, pattern)]
    if not taken or pattern in names:
        return labels
    known = sorted({*names} - {*taken} | {pattern})
    place = np.array([known.index(pattern if name in taken else name) for name in names] + [-1])
    return pd.Categorical.from_codes(place[labels.codes], categories=pd.Index(known, dtype=object))


def column_facts(name: str, labels: pd.Categorical) -> ColumnFacts:
    """Counts of one column."""
    codes = np.asarray(labels.codes)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels.categories))
    example = str(labels.categories[int(counts.argmax())]) if len(counts) else ""
    return ColumnFacts(name, len(labels.categories), int((codes < 0).sum()), example)


def decide_labels(
    columns: dict[str, pd.Categorical],
    other_columns: tuple[str, ...] = (),
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
) -> Labels:
    """Take the user's word where there is one, else the best suggestion.

    Args:
        columns: obs column -> labels of all cells.
        other_columns: names of the columns that are no labels.
        perturbation_key, control, context_key, batch_key: the user's words; None takes the suggestion, "" means none.

    Raises:
        LabelError: a column or the control label is not there; the message lists what is.
    """
    facts = {n: column_facts(n, c) for n, c in columns.items()}
    for role, key in (("perturbation", perturbation_key), ("context", context_key), ("batch", batch_key)):
        if key and key not in columns:
            raise _no_column(role, key, columns, other_columns)
    taken = {k for k in (perturbation_key, context_key, batch_key) if k}
    suggestions: list[Suggestion] = []
    keys_: dict[str, str | None] = {}
    for role, word in (("perturbation", perturbation_key), ("context", context_key), ("batch", batch_key)):
        found = _suggest(role, columns, facts)
        suggestions += found
        free = [s.column for s in found if s.column not in taken]
        keys_[role] = word if word is not None else (free[0] if free else None)
        taken |= {keys_[role] or ""}
    key = keys_["perturbation"]
    labels = columns[key] if key else None
    candidates = _controls(labels) if labels is not None else ()
    return Labels(
        key,
        _control(control, key, labels, candidates),
        keys_["context"] or None,
        keys_["batch"] or None,
        tuple(suggestions),
        candidates,
        tuple(facts.values()),
        other_columns,
        facts[key].n_missing if key else 0,
    )


def _no_column(role: str, key: str, columns: dict[str, pd.Categorical], other: tuple[str, ...]) -> LabelError:
    known = [*columns, *other]
    there = f"The data set has: {listed(known, 30)}." if known else "The data set has no columns of labels."
    return LabelError(f"There is no column '{key}' for the {role}.", there, "Choose one of them.")


def _suggest(role: str, columns: dict[str, pd.Categorical], facts: dict[str, ColumnFacts]) -> list[Suggestion]:
    aliases = {"perturbation": keys.PERTURBATION_ALIASES, "context": keys.CONTEXT_ALIASES, "batch": keys.BATCH_ALIASES}[role]
    rank = {_plain_name(a): i for i, a in reversed(list(enumerate(aliases)))}
    scored: list[tuple[float, Suggestion]] = []
    for name, column in columns.items():
        control = _controls(column)[:1] if role == "perturbation" else ()
        reason, score, plain = "", 0.0, _plain_name(name)
        if plain in rank:
            reason, score = f"'{name}' is a usual name for it", 100.0 - rank[plain]
        elif any(t in plain for t in _TOKENS[role]):
            reason, score = f"the name '{name}' suggests it", 10.0
        telling = control and control[0].lower() not in _WEAK_CONTROLS and plain not in _CONTEXT_NAMES
        if control and _is_control_word(control[0]) and (reason or telling):
            # a label that says "control" is stronger evidence than the name of the column
            reason, score = " and ".join(filter(None, [reason, f"it has the label '{control[0]}'"])), score + 200.0
        if score and facts[name].n_labels:
            scored.append((score, Suggestion(role, name, facts[name].n_labels, facts[name].example, reason)))
    return [s for _, s in sorted(scored, key=lambda pair: -pair[0])]


def _is_control_word(label: str) -> bool:
    return label.lower() in {a.lower() for a in keys.CONTROL_ALIASES}


def _controls(labels: pd.Categorical) -> tuple[str, ...]:
    """Labels that may be the control: known names as written, then ignoring case, then names that contain a telling word."""
    names = [str(c) for c in labels.categories]
    lower = {n.lower(): n for n in reversed(names)}
    exact = [a for a in keys.CONTROL_ALIASES if a in names]
    loose = [lower[a.lower()] for a in keys.CONTROL_ALIASES if a.lower() in lower]
    # 'KLF1+ctrl' is a single perturbation, in the spelling of combination screens
    telling = [n for n in names if "+" not in n and any(t in n.lower() for t in _CONTROL_TOKENS)]
    return tuple(dict.fromkeys([*exact, *loose, *telling]))


def _control(wanted: str | None, key: str | None, labels: pd.Categorical | None, candidates: tuple[str, ...]) -> str | None:
    if labels is None:
        return None if key is None else (wanted or "control")
    if wanted:
        if wanted not in labels.categories:
            known = [str(c) for c in labels.categories]
            raise LabelError(
                f"There is no control label '{wanted}' in the column '{key}'.",
                f"It has {len(known):,} labels: {listed(list(candidates) + [n for n in known if n not in candidates], 10)}.",
                "Choose one of them as the control.",
            )
        return wanted
    return candidates[0] if candidates and _is_control_word(candidates[0]) else None
