"""The labels of cells: which obs columns say perturbation, context and batch, and which label is the control.

Source: column and label names in use (`keys`). Suggestions only: the user's word (`Choices`) decides.
Boundary: columns of strings; no expression values, no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.data.controls import Renaming, candidates, is_alias, parts_of
from state_engine.errors import LabelError, listed, may_be, near_each
from state_engine.plain import agreed, part_of, plural

YES_OR_NO = 2  # so few labels may only say whether a cell is perturbed
NONE = ""  # the user's word for "there is none"
# what pandas, Python, R, Excel and databases write where there is nothing; 'none' in lower case is what people call a control
MISSING_WORDS = frozenset({"", "nan", "NaN", "NaT", "<NA>", "None", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "Null"})
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
# columns that are taken as contexts only when a person says so
_CONTEXT_OFFERS = ("patient", "donor", "subject", "individual", "participant", "replicate", "sample", "batch")


@dataclass(frozen=True)
class ColumnFacts:
    """An obs column of labels. `n_missing` cells have none; `example` is its most frequent label."""

    name: str
    n_labels: int
    n_missing: int
    example: str


@dataclass(frozen=True)
class Suggestion:
    """A column that may play a role ("perturbation", "context", "batch"), best first, and why it is thought so.

    `offered`: it is named to a person and never taken unasked.
    """

    role: str
    column: str
    n_labels: int
    example: str
    reason: str
    offered: bool = False


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
        controls: labels that were taken together as the control; empty for one label as it is.
        renamings: labels of combinations and the plain labels that say the same.
        renamed: they were renamed so, as asked.
        spaced: labels of perturbations that begin or end with blanks.
        stripped: the blanks were taken off, as asked.
        coarser: column of perturbations that was passed over, since `perturbation_key` tells more apart; "" for none.
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
    controls: tuple[str, ...] = ()
    renamings: tuple[Renaming, ...] = ()
    renamed: bool = False
    coarser: str = ""
    spaced: tuple[Renaming, ...] = ()
    stripped: bool = False

    def notes(self, contexts: tuple[str, ...], without_control: tuple[str, ...], control_chosen: bool) -> list[str]:
        """Return what a person may want to correct, most important first.

        Args:
            contexts: of the data set.
            without_control: those of them that have no control cells.
            control_chosen: the user named the control label.
        """
        notes = self._control_notes(contexts, without_control, control_chosen)
        if self.controls:
            notes.append(f"The control '{self.control}' stands for {len(self.controls):,} labels: {listed(self.controls, 8)}.")
        if self.n_unlabelled:
            unknown = self.control is None
            named = " If they are the controls, choose what is written there, such as None." if unknown else ""
            lost = plural(self.n_unlabelled, "cell has no perturbation label and is", "cells have no perturbation label and are")
            notes.append(f"{lost} left out.{named}")
        return [*notes, *self._spelling_notes(), *self._context_notes(contexts)]

    def _control_notes(self, contexts: tuple[str, ...], without_control: tuple[str, ...], control_chosen: bool) -> list[str]:
        """Return what is not known, or could be otherwise, of the column of perturbations and of its control."""
        if self.perturbation_key is None:
            offers = [f"{s.column} ({s.reason})" for s in self.suggestions if s.role == "perturbation"]
            return [f"No column says which cells are perturbed: choose one, or declare all cells unperturbed.{_could_be(offers)}"]
        if self.perturbation_key == NONE:
            return [f"All cells are taken as unperturbed controls ('{self.control}')."]
        if self.control is None:
            could = _could_be(self.control_suggestions, 6)
            could += " Several can be chosen together." if len(self.control_suggestions) > 1 else ""
            return [f"No label of '{self.perturbation_key}' is known as a control: choose one before predicting.{could}"]
        notes = []
        if without_control:
            few, all_of_them = len(without_control), len(contexts)
            has = agreed(few, "has", "have")
            notes.append(f"{part_of(few, all_of_them, 'context')} {has} no control cells: {listed(without_control)}.")
        rivals = [label for label in self.control_suggestions if label != self.control][:3]
        if rivals and not control_chosen:
            notes.append(f"'{self.control}' is taken as the control; {listed(rivals)} could be one too.")
        return notes

    def _spelling_notes(self) -> list[str]:
        """Return what other column, or what other reading of the labels, there is."""
        notes = []
        if self.coarser:
            notes.append(f"'{self.perturbation_key}' is taken for the perturbation: it tells more apart than '{self.coarser}'.")
        if self.spaced:
            each = listed([f"'{r.label}' ({r.cells:,} cells)" for r in self.spaced], 8)
            was = agreed(len(self.spaced), "was", "were")
            offer = f"{was} read without them" if self.stripped else "can be read without them on request (--strip-labels)"
            n = len(self.spaced)
            ends = agreed(n, "begins or ends", "begin or end")
            notes.append(f"{plural(n, 'label')} of '{self.perturbation_key}' {ends} with blanks and {offer}: {each}.")
        if self.renamings:
            each = listed([f"'{r.label}' ({r.cells:,} cells) is '{r.becomes}'" for r in self.renamings])
            start = plural(len(self.renamings), "label of a combination", "labels of combinations")
            offer = (
                f"{agreed(len(self.renamings), 'was', 'were')} renamed"
                if self.renamed
                else "can be renamed on request (--rename-combinations)"
            )
            notes.append(f"{start} {offer}: {each}.")
        return notes

    def _context_notes(self, contexts: tuple[str, ...]) -> list[str]:
        if self.context_key is None:
            offers = [f"{s.column} ({s.n_labels:,} labels)" for s in self.suggestions if s.role == "context" and s.offered]
            return [f"No column says the cell type or line: all cells are taken as one context.{_could_be(offers)}"]
        notes = []
        missing = next(c.n_missing for c in self.columns if c.name == self.context_key)
        if missing:
            lost = agreed(missing, "is", "are")
            notes.append(f"{plural(missing, 'cell has', 'cells have')} no label in '{self.context_key}' and {lost} left out.")
        if len(contexts) == 1:
            notes.append(f"There is one context only ('{contexts[0]}'): nothing can be said about others.")
        return notes


def _could_be(offers: list[str] | tuple[str, ...], most: int = 5) -> str:
    return f" It could be: {listed(offers, most)}." if offers else ""


def twins(labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return pairs of labels that name the same perturbations in another order: ('A+B', 'B+A')."""
    first: dict[tuple[str, ...], str] = {}
    found = []
    for label in labels:
        parts = tuple(sorted(parts_of(label)))
        if len(parts) > 1 and first.setdefault(parts, label) != label:
            found.append((first[parts], label))
    return found


def as_labels(values: object, words: Collection[str] = ()) -> pd.Categorical:
    """Any column as strings; missing values (NaN, masked, "", "nan", "None") become missing. Whole floats keep their ".0".

    Args:
        words: labels though they read as missing, by the user's word.
    """
    series = pd.Series(values)
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy()
        names = [text_of(c) for c in series.cat.categories]
    else:
        codes, unique = pd.factorize(series, use_na_sentinel=True)
        names = [text_of(c) for c in unique]
    # two categories may read alike (1 and "1"), and some may be unused or mean "missing"
    known = sorted({n for n in np.array(names, dtype=object)[np.unique(codes[codes >= 0])] if n in words or not is_missing(n)})
    place = {n: i for i, n in enumerate(known)}
    to_code = np.array([place.get(n, -1) for n in names] + [-1], dtype=np.int64)
    return pd.Categorical.from_codes(to_code[codes], categories=pd.Index(known, dtype=object))


def text_of(value: object) -> str:
    """Return a value of a column as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def is_missing(word: str) -> bool:
    """Return whether a word says that there is no label."""
    return word.strip() in MISSING_WORDS


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
    words = {"perturbation": perturbation_key, "context": context_key, "batch": batch_key}
    for role, word in words.items():
        if word and word not in columns:
            raise _no_column(role, word, columns, other_columns)
    facts = {n: column_facts(n, c) for n, c in columns.items()}
    suggestions = {role: _suggest(role, columns, facts) for role in words}
    chosen, coarser = _columns_of_roles(words, suggestions, columns)
    key = chosen["perturbation"]
    labels = columns[key] if key else None
    likely = candidates(labels) if labels is not None else ()
    return Labels(
        key,
        _control(control, key, labels, likely),
        chosen["context"] or None,
        chosen["batch"] or None,
        tuple(s for found in suggestions.values() for s in found if not (s.offered and s.column == key)),
        likely,
        tuple(facts.values()),
        other_columns,
        facts[key].n_missing if key else 0,
        coarser=coarser,
    )


def _columns_of_roles(
    words: dict[str, str | None], suggestions: dict[str, list[Suggestion]], columns: dict[str, pd.Categorical]
) -> tuple[dict[str, str | None], str]:
    """Return the column of each role: the user's word, else the best that has no other role.

    Returns:
        role -> column, and the column of perturbations that was passed over; "" for none.
    """
    taken, coarser = {word for word in words.values() if word}, ""
    chosen: dict[str, str | None] = {}
    for role, word in words.items():
        if word is not None:
            chosen[role] = word
            continue
        free = [s.column for s in suggestions[role] if s.column not in taken and not s.offered]
        if role == "perturbation":
            free, coarser = _most_telling(free, columns)
        if role == "batch" and (context := chosen["context"]):
            free = [name for name in free if not _repeats(name, columns[name], columns[context])]
        chosen[role] = next(iter(free), None)
        taken.update(free[:1])
    return chosen, coarser


def _most_telling(free: list[str], columns: dict[str, pd.Categorical]) -> tuple[list[str], str]:
    """Put the column first that says which perturbation a cell has, where the best says only whether it has one.

    Returns:
        The columns, best first, and the one that says less; "" for none.
    """
    for coarse in (name for name in free if len(columns[name].categories) <= YES_OR_NO):
        finer = [name for name in free if name != coarse and _says_more(columns[name], columns[coarse])]
        if finer:
            first = finer[0] if free[0] == coarse else free[0]
            if first in finer:
                return [first, *(name for name in free if name != first)], coarse
    return free, ""


def _says_more(fine: pd.Categorical, coarse: pd.Categorical) -> bool:
    """Return whether each label of one column has one label of the other, and the one has more and a control as well."""
    known, there = candidates(fine)[:1], candidates(coarse)[:1]
    if len(fine.categories) <= YES_OR_NO or not known or (there and is_alias(there[0]) and not is_alias(known[0])):
        return False
    width = len(coarse.categories) + 1
    pairs = np.bincount((np.asarray(fine.codes, np.int64) + 1) * width + np.asarray(coarse.codes) + 1)
    return np.count_nonzero(pairs[width:]) == len(fine.categories)  # of the cells that the finer column labels


def _repeats(name: str, column: pd.Categorical, context: pd.Categorical) -> bool:
    """Return whether a column says only which data set the contexts come from: several labels, and one for each context."""
    if _plain_name(name) != "dataset" or len(column.categories) < 2:
        return False
    pairs = np.unique(np.stack([np.asarray(context.codes), np.asarray(column.codes)]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1]  # cells without a label in either are a label of their own here


def _no_column(role: str, key: str, columns: dict[str, pd.Categorical], other: tuple[str, ...]) -> LabelError:
    known = [*columns, *other]
    there = f"The data set has: {listed(known, 30)}." if known else "The data set has no columns of labels."
    fix = may_be(near_each([key], known)) or "Choose one of them."
    return LabelError(f"There is no column '{key}' for the {role}.", there, fix)


def _suggest(role: str, columns: dict[str, pd.Categorical], facts: dict[str, ColumnFacts]) -> list[Suggestion]:
    aliases = {"perturbation": keys.PERTURBATION_ALIASES, "context": keys.CONTEXT_ALIASES, "batch": keys.BATCH_ALIASES}[role]
    rank = {_plain_name(a): i for i, a in reversed(list(enumerate(aliases)))}
    scored: list[tuple[float, Suggestion]] = []
    for name, column in columns.items():
        score, reason = _evidence(role, name, column, rank)
        if score and facts[name].n_labels:
            scored.append((score, Suggestion(role, name, facts[name].n_labels, facts[name].example, reason)))
    found = [s for _, s in sorted(scored, key=lambda pair: -pair[0])]
    if found or role == "batch":
        return found
    return _context_offers(columns, facts) if role == "context" else _perturbation_offers(columns, facts)


def _evidence(role: str, name: str, column: pd.Categorical, rank: dict[str, int]) -> tuple[float, str]:
    """Return how much speaks for a column in a role, and what; 0 where nothing does. `rank`: of the usual names, the best 0."""
    plain, score, reason = _plain_name(name), 0.0, ""
    if plain in rank:
        score, reason = 100.0 - rank[plain], f"'{name}' is a usual name for it"
    elif any(t in plain for t in _TOKENS[role]):
        score, reason = 10.0, f"the name '{name}' suggests it"
    control = next(iter(candidates(column)), "") if role == "perturbation" else ""
    telling = control.lower() not in _WEAK_CONTROLS and plain not in _CONTEXT_NAMES
    if not is_alias(control) or not (reason or telling):
        return score, reason
    # a label that says "control" is stronger evidence than the name of the column
    return score + 200.0, " and ".join(filter(None, [reason, f"it has the label '{control}'"]))


def _perturbation_offers(columns: dict[str, pd.Categorical], facts: dict[str, ColumnFacts]) -> list[Suggestion]:
    """Return the columns of which a label may be a control, where nothing else says that they are of perturbations."""
    likely = {name: candidates(column)[:1] for name, column in columns.items() if _plain_name(name) not in _CONTEXT_NAMES}
    return [
        Suggestion("perturbation", name, facts[name].n_labels, facts[name].example, f"it has the label '{label}'", offered=True)
        for name, labels in likely.items()
        for label in labels
    ]


def _context_offers(columns: Iterable[str], facts: dict[str, ColumnFacts]) -> list[Suggestion]:
    """Return the columns that may tell contexts apart where none says the cell type: patients, replicates, batches."""
    named = [(word, name) for word in _CONTEXT_OFFERS for name in columns if word in name.lower() and facts[name].n_labels > 1]
    names = dict.fromkeys(name for _, name in named)
    return [
        Suggestion("context", name, facts[name].n_labels, facts[name].example, "cells of each may differ", offered=True)
        for name in names
    ]


def _control(wanted: str | None, key: str | None, labels: pd.Categorical | None, candidates: tuple[str, ...]) -> str | None:
    if labels is None:
        return None if key is None else (wanted or "control")
    if wanted:
        if wanted not in labels.categories:
            known = [str(c) for c in labels.categories]
            raise LabelError(
                f"There is no control label '{wanted}' in the column '{key}'.",
                f"It has {len(known):,} labels: {listed(list(candidates) + [n for n in known if n not in candidates], 10)}.",
                may_be(near_each([wanted], known)) or "Choose one of them as the control.",
            )
        return wanted
    return candidates[0] if candidates and is_alias(candidates[0]) else None
