"""Which cells of a file go into an archive: by kind and context, and after the repairs of labels. Reads labels, no expression."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.challenge import checks
from state_engine.challenge.findings import Finding, found
from state_engine.challenge.source import Labels, Opened, SubmissionSource
from state_engine.challenge.spec import ChallengeSpec
from state_engine.plain import agreed, plural


@dataclass
class CellChoice:
    """A choice in the making.

    Args:
        keep: (n,) cells of the file that go in.
        perturbations, contexts: labels of the kept cells, None when the file has no such column.
        findings, repairs: what was found and done on the way.
    """

    keep: NDArray[np.bool_]
    perturbations: Labels | None
    contexts: Labels | None
    findings: list[Finding] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    def narrow(self, kept: NDArray[np.bool_]) -> None:
        """Of the cells that are in, keep only these."""
        if kept.all():
            return
        keep = np.zeros_like(self.keep)
        # `kept` counts the cells that are still in: their places in the file come first
        keep[np.nonzero(self.keep)[0][kept]] = True
        self.keep = keep
        self.perturbations = self.perturbations.take(kept) if self.perturbations else None
        self.contexts = self.contexts.take(kept) if self.contexts else None

    def note(self, code: str, title: str, repair: str, names: list[str] | None = None, count: int | None = None) -> None:
        """A repair was made."""
        self.findings.append(found(code, "note", title, repair=repair, names=names or [], count=count))
        self.repairs.append(repair)


def choose_cells(source: SubmissionSource, spec: ChallengeSpec, opened: Opened, allowed: set[str]) -> CellChoice:
    """Rows by kind and context; controls renamed or left out; labels that are not asked for and surplus cells left out."""
    choice = CellChoice(np.ones(opened.matrix.shape[0], bool), opened.perturbations, opened.contexts)
    if source.kinds:
        _by_kind(choice, source, opened)
    if source.contexts:
        _by_context(choice, source)
    if not spec.rules.context_key:
        choice.contexts = None
    if choice.perturbations is not None:
        _controls(choice, spec, allowed)
    if choice.perturbations is not None and spec.targets is not None:
        if "drop-extra-perturbations" in allowed:
            _drop_extra(choice, spec)
        if "first-cells" in allowed:
            _first_cells(choice, spec)
    if opened.fallback is not None:
        _name_fallbacks(choice, opened.fallback)
    return choice


def _by_kind(choice: CellChoice, source: SubmissionSource, opened: Opened) -> None:
    kinds = opened.kinds
    if kinds is None:
        title = f"obs has no column {keys.KIND}: this is not the result of a run."
        choice.findings.append(found("kind-column", "error", title))
        return
    # codes are compared, not text: one integer for each cell against a few
    choice.narrow(np.isin(kinds.codes, [kinds.names.index(k) for k in source.kinds if k in kinds.names]))


def _by_context(choice: CellChoice, source: SubmissionSource) -> None:
    contexts = choice.contexts
    lacking = [c for c in source.contexts if contexts is None or c not in contexts.names]
    if lacking:
        title = "Contexts that were chosen are not in the file."
        names = list(contexts.names) if contexts else []
        choice.findings.append(found("contexts-chosen", "error", title, f"It has: {', '.join(names) or 'none'}.", names=lacking))
    if contexts is not None:
        choice.narrow(np.isin(contexts.codes, [contexts.names.index(c) for c in source.contexts if c in contexts.names]))


def _controls(choice: CellChoice, spec: ChallengeSpec, allowed: set[str]) -> None:
    rules, labels = spec.rules, choice.perturbations
    assert labels is not None
    if rules.controls == "forbidden" and "drop-controls" in allowed:
        names = [n for n in (rules.control, *checks.control_aliases(labels, rules.control)) if n in labels.names]
        controls = np.isin(labels.codes, [labels.names.index(n) for n in names])
        if controls.any():
            number = int(controls.sum())
            choice.note(
                "control-present",
                plural(number, "control cell was", "control cells were") + " left out.",
                "drop-controls",
                count=number,
            )
            choice.narrow(~controls)
    if rules.controls == "required" and "rename-control" in allowed and not labels.where(rules.control).any():
        for other in checks.control_aliases(labels, rules.control)[:1]:
            number = int(labels.where(other).sum())
            title = f"The label '{other}' of {plural(number, 'control cell')} was changed to '{rules.control}'."
            choice.note("control-renamed", title, "rename-control", count=number)
            choice.perturbations = Labels(labels.codes, tuple(rules.control if n == other else n for n in labels.names))


def _groups(choice: CellChoice, spec: ChallengeSpec) -> list[tuple[NDArray[np.bool_], dict[str, int | None]]]:
    """Cells of each context that the list of perturbations has, and what it asks of them."""
    assert choice.perturbations is not None and spec.targets is not None
    labels, contexts = choice.perturbations, choice.contexts
    everywhere = np.ones(len(labels.codes), bool)
    places = [(name, contexts.where(name)) for name in contexts.names] if contexts else [("", everywhere)]
    asked = [(where, spec.targets.of(name)) for name, where in places]
    return [(where, of) for where, of in asked if of is not None]


def _drop_extra(choice: CellChoice, spec: ChallengeSpec) -> None:
    labels = choice.perturbations
    assert labels is not None
    stays = {spec.rules.control, *checks.control_aliases(labels, spec.rules.control)}
    kept = np.ones(len(labels.codes), bool)
    gone: dict[str, None] = {}
    for where, asked in _groups(choice, spec):
        extra = [i for i, name in enumerate(labels.names) if name not in asked and name not in stays]
        out = where & np.isin(labels.codes, extra)
        # a name may be extra in one context only: those are named that had cells here
        gone |= dict.fromkeys(labels.names[i] for i in np.unique(labels.codes[out]))
        kept &= ~out
    if gone:
        n = int(np.count_nonzero(~kept))
        of = plural(len(gone), "perturbation that is", "perturbations that are")
        title = f"{plural(n, 'cell')} of {of} not asked for {agreed(n, 'was', 'were')} left out."
        choice.note("perturbations-unknown", title, "drop-extra-perturbations", names=list(gone))
        choice.narrow(kept)


def _first_cells(choice: CellChoice, spec: ChallengeSpec) -> None:
    """Predictions of fewer cells are the beginning of longer ones, so the first cells are what a shorter run would give."""
    labels = choice.perturbations
    assert labels is not None
    kept = np.ones(len(labels.codes), bool)
    for where, asked in _groups(choice, spec):
        for name, number in asked.items():
            if number:
                # places ascend, so all beyond the first `number` in file order go
                kept[np.nonzero(where & labels.where(name))[0][number:]] = False
    surplus = int(np.count_nonzero(~kept))
    if surplus:
        title = plural(surplus, "cell beyond the number asked for was", "cells beyond the number asked for were")
        title += " left out, the last of each perturbation."
        choice.note("cells-per-perturbation", title, "first-cells", count=surplus)
        choice.narrow(kept)


def _name_fallbacks(choice: CellChoice, fallback: NDArray[np.bool_]) -> None:
    """Cells of a run that stand on a fallback (a label or batch that the model did not know) are named."""
    labels = choice.perturbations
    cells = fallback[choice.keep]
    if labels is None or not cells.any():
        return
    # -1 is a cell without a label
    names = [labels.names[i] for i in np.unique(labels.codes[cells]) if i >= 0]
    n = int(cells.sum())
    start = f"{plural(n, 'cell')} of {plural(len(names), 'perturbation')}"
    title = f"{start} {agreed(n, 'does', 'do')} not come from what the model learned of {agreed(n, 'it', 'them')}."
    detail = "The model does not know their label or batch; the run says what stands in for it."
    choice.findings.append(found("fallback", "warning", title, detail, names=names))
