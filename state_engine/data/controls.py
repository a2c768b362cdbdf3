"""Control labels: which labels look like one, several taken together, and combinations with a control read as what they perturb.

Source: label names in use (`keys.CONTROL_ALIASES` and the words below), and the spelling of combination screens: 'ctrl', 'A+ctrl', 'A__NegCtrl0'.
Boundary: names and their codes. Nothing is renamed or taken together unasked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from state_engine import keys

# words within a label that say that nothing was done to a cell; 'NTg1' and 'NT-2' are guides that target nothing
_TELLING = re.compile(
    r"""non[\s_-]?target | no[\s_-]?target | safe[\s_-]?target | control | ctrl | dmso | vehicle | untreated | scrambl | \bmock
    | intergenic | wild[\s_-]?type | unstim | (un|non[\s_-]?|not[\s_-])perturb | neg(ative)?[\s_-]?guide
    | ^ (nt[cg]? [\s_-]? \d* | neg [\s_-]? \d+ | \* | wt | pbs | none) $""",
    re.IGNORECASE | re.VERBOSE,
)
# one of these is in whatever `_TELLING` finds: looking for them in a long list of names at once takes a hundredth of the time
_ROOTS = ("target", "control", "ctrl", "dmso", "vehicle", "untreated", "scrambl", "mock", "intergenic", "wild", "unstim", "perturb",
          "neg", "nt", "*", "wt", "pbs", "none")  # fmt: skip
_BETWEEN = re.compile(r"(\s*(?:\+|__|\||;)\s*)")  # what stands between the perturbations of a combination
_ALIASES = frozenset(alias.lower() for alias in keys.CONTROL_ALIASES)


@dataclass(frozen=True)
class Renaming:
    """A label of a combination and the plain label that says the same: 'KLF1+ctrl' is 'KLF1', 'KLF1+GATA1' is 'GATA1+KLF1'."""

    label: str
    becomes: str
    cells: int


def is_alias(label: str) -> bool:
    """Return whether a label is a known name of controls, in any case."""
    return label.lower() in _ALIASES


def looks_like_control(label: str) -> bool:
    """Return whether a label says that nothing was done to a cell."""
    return is_alias(label.strip()) or _TELLING.search(label.strip()) is not None


def parts_of(label: str) -> list[str]:
    """Return the perturbations that a label names: ['A', 'B'] of 'A+B', ['A'] of 'A'."""
    return [part for part in _BETWEEN.split(label)[::2] if part] or [label]


def candidates(labels: pd.Categorical) -> tuple[str, ...]:
    """Return labels that may be the control: known names as written, then in any case, then those that contain a telling word.

    'KLF1+ctrl' is none: it is the perturbation KLF1 in the spelling of combination screens.
    """
    names = [str(name) for name in labels.categories]
    lower = {name.lower(): name for name in reversed(names)}
    exact = [alias for alias in keys.CONTROL_ALIASES if alias in names]
    loose = [lower[alias.lower()] for alias in keys.CONTROL_ALIASES if alias.lower() in lower]
    telling = [name for name in _likely(names) if all(map(looks_like_control, parts_of(name)))]
    return tuple(dict.fromkeys([*exact, *loose, *telling]))


def _likely(names: list[str]) -> list[str]:
    """Return the names that hold one of the roots of words for controls."""
    text = "\n".join(names).lower()
    roots = [root for root in _ROOTS if root in text]
    return [name for name in names if any(root in name.lower() for root in roots)] if roots else []


def matching(names: Iterable[str], words: Iterable[str]) -> tuple[str, ...]:
    """Return the labels that words name: each is a label, or a pattern with *, ? or []; a label called '*' is itself alone."""
    there = list(names)
    return tuple(name for word in words for name in ([word] if word in there else [n for n in there if fnmatchcase(n, word)]))


def as_one(labels: pd.Categorical, words: tuple[str, ...]) -> tuple[pd.Categorical, tuple[str, ...]]:
    """Take several control labels as one, which is called by the first of the words; the same name in every file that is read so.

    Returns:
        The labels, and those that were taken together; none where the words name no other label than the first.
    """
    names = [str(name) for name in labels.categories]
    taken = tuple(dict.fromkeys(matching(names, words)))
    if not words or not taken or taken == words[:1]:
        return labels, ()
    return _called(labels, dict.fromkeys(taken, words[0])), taken


def renamings(labels: pd.Categorical, control: str | None = None) -> tuple[Renaming, ...]:
    """Return the labels that name a control beside what they perturb, or a combination in another order than by name.

    Args:
        labels: of all cells.
        control: counts as a control whatever it is called.
    """
    codes = np.asarray(labels.codes)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels.categories))
    found = []
    for name, cells in zip(map(str, labels.categories), counts.tolist(), strict=True):
        if _BETWEEN.search(name) is None:
            continue
        perturbed = [part for part in parts_of(name) if part != control and not looks_like_control(part)]
        if not perturbed or name == control:
            continue
        becomes = _BETWEEN.split(name)[1].join(sorted(perturbed))
        if becomes != name:
            found.append(Renaming(name, becomes, int(cells)))
    return tuple(found)


def spaced(labels: pd.Categorical) -> tuple[Renaming, ...]:
    """Return the labels that begin or end with blanks, and what they are without: 'control ' is 'control'."""
    codes = np.asarray(labels.codes)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels.categories)).tolist()
    names = zip(map(str, labels.categories), counts, strict=True)
    return tuple(Renaming(name, name.strip(), int(cells)) for name, cells in names if name != name.strip())


def replaced(labels: pd.Categorical, found: Iterable[Renaming]) -> pd.Categorical:
    """Return the labels with some of them called otherwise; labels that are then called alike are one. Sorted by name."""
    return _called(labels, {one.label: one.becomes for one in found})


def _called(labels: pd.Categorical, names: Mapping[str, str]) -> pd.Categorical:
    called = [names.get(str(name), str(name)) for name in labels.categories]
    known = sorted(set(called))
    place = {name: i for i, name in enumerate(known)}
    to_code = np.array([*(place[name] for name in called), -1])  # the last is that of a missing label
    return pd.Categorical.from_codes(to_code[labels.codes], categories=pd.Index(known, dtype=object))
