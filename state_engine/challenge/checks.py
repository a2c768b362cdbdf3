"""Checks of names and labels: genes, perturbations, controls, contexts, numbers of cells. No expression is read here.

Each function takes what a file says and what a challenge wants, and returns what it found; none raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.challenge.findings import Finding, Replacement, Severity, found
from state_engine.challenge.source import Labels
from state_engine.challenge.spec import ChallengeSpec, Rules
from state_engine.data.embedding_record import UnknownLabels
from state_engine.errors import listed
from state_engine.plain import agreed, part_of, plural

CONSTRUCT = re.compile(r"-\d+$")
ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}")


# ---- genes ----

MANY_MISSING = 0.05
"""Share of the genes beyond which filling them is a warning."""


def check_genes(genes: tuple[str, ...], spec: ChallengeSpec, repairs: set[str]) -> tuple[list[Finding], NDArray[np.int32] | None]:
    """Return what is wrong with the gene names, and the column in the archive of each gene of the file.

    The columns are (g,) places in `spec.genes` (-1: left out); None when the genes are as they must be, or cannot be mapped.
    """
    if not genes:
        return [found("no-genes", "error", "The file has no genes.")], None
    if not spec.genes:
        return [], None
    wanted, present = {name: i for i, name in enumerate(spec.genes)}, set(genes)
    missing = [g for g in wanted if g not in present]
    extra = [g for g in dict.fromkeys(genes) if g not in wanted]
    repeated = repeated_names(genes)
    columns = np.array([wanted.get(name, -1) for name in genes], np.int32)
    findings = [
        *_genes_repeated(repeated),
        *_genes_missing(missing, extra, len(spec.genes), repairs),
        *_genes_extra(extra, "drop-extra-genes" in repairs),
        *([] if repeated else _genes_in_another_order(genes, spec.genes, columns)),
    ]
    unsolved = any(f.severity == "error" for f in findings)
    return findings, None if unsolved or genes == spec.genes else columns


def _genes_repeated(repeated: list[str]) -> list[Finding]:
    if not repeated:
        return []
    return [found("genes-duplicated", "error", "Genes occur more than once in the file.", "Keep one.", names=repeated)]


def _genes_missing(missing: list[str], extra: list[str], n_wanted: int, repairs: set[str]) -> list[Finding]:
    if not missing:
        return []
    title = f"{part_of(len(missing), n_wanted, 'gene')} {agreed(len(missing), 'is', 'are')} missing from the file."
    way = next((name for name in ("zero-missing-genes", "fill-missing-genes") if name in repairs), "")
    if not way:
        fix = (
            f"{_why_missing(missing, extra)}Add them, or fill them with the values of the control cell that each cell starts from (no effect; "
            "its data set is needed, --donors or a control file)."
        )
        return [found("genes-missing", "error", title, fix, names=missing, repair="fill-missing-genes")]
    filled = way == "fill-missing-genes"
    fix = "They have the values of the control cell that each cell starts from." if filled else "They are zero in every cell."
    findings = [found("genes-missing", "note", title, fix, names=missing, repair=way)]
    share = len(missing) / n_wanted
    if share > MANY_MISSING and filled:
        title = f"{share:.0%} of the genes are not predicted: they stay as in the control cells."
        findings.append(
            found("genes-filled", "warning", title, "A model of all genes says something about them.", count=len(missing))
        )
    elif share > MANY_MISSING:
        title = f"Can be packed, will score badly: {share:.0%} of the genes are zero in every cell."
        fix = "Zeros are large effects that nobody predicted: an overall of -0.99 with them was -0.30 with the genes restored. Fill them instead."
        findings.append(found("genes-zero", "warning", title, fix, count=len(missing)))
    return findings


def _genes_extra(extra: list[str], solved: bool) -> list[Finding]:
    if not extra:
        return []
    title = plural(len(extra), "gene of the file is", "genes of the file are") + " not in the gene list."
    fix = "They were left out." if solved else "Leave them out."
    return [_repairable("genes-extra", title, fix, extra, "drop-extra-genes", solved)]


def _genes_in_another_order(genes: tuple[str, ...], wanted: tuple[str, ...], columns: NDArray[np.int32]) -> list[Finding]:
    common = columns[columns >= 0]
    if not (np.diff(common) < 0).any():
        return []
    # the common genes as the file has them, beside the same genes as the list has them
    here = [wanted[i] for i in common]
    there = [wanted[i] for i in np.sort(common)]
    moved = [g for g, w in zip(here, there, strict=True) if g != w]
    title = plural(len(moved), "gene is", "genes are") + " in another order than in the gene list."
    return [found("genes-order", "note", title, "They are put into order.", names=moved, repair="reorder-genes")]


def _why_missing(missing: list[str], extra: list[str]) -> str:
    if extra and sum(bool(ENSEMBL.match(g)) for g in extra) > len(extra) / 2:
        return "The file seems to name genes by Ensembl identifiers; the list has other names. "
    upper = {g.upper() for g in extra}
    if extra and sum(g.upper() in upper for g in missing) > len(missing) / 2:
        return "The names differ in upper and lower case. "
    return ""


# ---- labels ----


def check_labels(perturbations: Labels | None, columns: tuple[str, ...], key: str, rules: Rules) -> list[Finding]:
    """Return what is wrong with the labels: no column, cells without one, controls that must or must not be there."""
    if perturbations is None:
        likely = [name for name in keys.PERTURBATION_ALIASES if name in columns]
        fix = f"It may be called {' or '.join(likely)} here." if likely else "Say which column it is."
        return [found("perturbation-column", "error", f"obs has no column {key}; it has the following.", fix, names=columns)]
    findings = _missing_labels("labels-missing", perturbations, key)
    if rules.controls == "required":
        findings += _controls_lacking(perturbations, rules.control)
    if rules.controls == "forbidden":
        findings += _controls_present(perturbations, rules.control)
    return findings


def _controls_lacking(perturbations: Labels, control: str) -> list[Finding]:
    if perturbations.where(control).any():
        return []
    title, other = f"No cell is labelled '{control}', but control cells are required.", control_aliases(perturbations, control)
    if other:
        fix = f"They seem to be called '{other[0]}': rename them."
        return [found("control-renamed", "error", title, fix, names=other, repair="rename-control")]
    return [found("control-missing", "error", title, "Add the control cells.", repair="add-controls")]


def _controls_present(perturbations: Labels, control: str) -> list[Finding]:
    names = [n for n in (control, *control_aliases(perturbations, control)) if perturbations.where(n).any()]
    if not names:
        return []
    number = int(sum(perturbations.where(n).sum() for n in names))
    title = plural(number, "control cell is", "control cells are") + " in the file, but must not be submitted."
    fix = "The scorer uses its own: leave them out."
    return [found("control-present", "error", title, fix, names=names, count=number, repair="drop-controls")]


def control_aliases(perturbations: Labels, control: str) -> list[str]:
    """Return the labels that usually mean control, other than the control label itself."""
    known = {re.sub(r"[\W_]", "", name).lower() for name in (*keys.CONTROL_ALIASES, control)}
    return [n for n in _used(perturbations) if n != control and re.sub(r"[\W_]", "", n).lower() in known]


# ---- contexts ----


def check_contexts(
    contexts: Labels | None, columns: tuple[str, ...], key: str, spec: ChallengeSpec
) -> tuple[list[Finding], tuple[str, ...]]:
    """Return what is wrong with the contexts, and the contexts to cover.

    When the spec does not say the contexts, they are those of the phase of which the data have any.
    """
    if not spec.rules.context_key:
        return [], ()
    if contexts is None:
        title, fix = f"obs has no column {key}; it has the following.", "Every cell needs the context that it was predicted for."
        return [found("context-column", "error", title, fix, names=columns)], spec.contexts
    findings = _missing_labels("context-missing-label", contexts, key)
    present = _used(contexts)
    wanted = spec.contexts
    if not wanted:
        phases = [phase for phase in spec.rules.phases if set(phase.contexts) & set(present)]
        if len(phases) != 1:
            title = "The contexts to cover are not known: the data match no phase, or several."
            findings.append(found("contexts-not-known", "error", title, "Say them, as in --contexts A,B,C.", names=present))
            return findings, ()
        wanted = phases[0].contexts
        title = f"Contexts to cover were not given; the data match phase {phases[0].name}."
        findings.append(found("contexts-assumed", "note", title, names=wanted))
    elsewhere = {c: phase.name for phase in spec.rules.phases for c in phase.contexts if c not in wanted}
    findings += _contexts_of_another_phase(present, elsewhere, wanted)
    findings += _contexts_unknown([c for c in present if c not in wanted and c not in elsewhere], wanted)
    findings += _contexts_lacking([c for c in wanted if c not in present], wanted)
    return findings, wanted


def _contexts_of_another_phase(present: list[str], elsewhere: dict[str, str], wanted: tuple[str, ...]) -> list[Finding]:
    foreign = [c for c in present if c in elsewhere]
    if not foreign:
        return []
    title = f"Contexts of another phase ({elsewhere[foreign[0]]}) are in the file."
    return [found("contexts-other-phase", "error", title, _must_be(wanted), names=foreign)]


def _contexts_unknown(unknown: list[str], wanted: tuple[str, ...]) -> list[Finding]:
    title = "The file has contexts that the challenge has not."
    return [found("contexts-unknown", "error", title, _must_be(wanted), names=unknown)] if unknown else []


def _contexts_lacking(lacking: list[str], wanted: tuple[str, ...]) -> list[Finding]:
    title = "Contexts have no cells; one file must cover all."
    return [found("contexts-missing", "error", title, _must_be(wanted), names=lacking)] if lacking else []


def _must_be(wanted: tuple[str, ...]) -> str:
    return f"Contexts must be {', '.join(wanted)}."


# ---- perturbations and numbers of cells ----


@dataclass(frozen=True)
class _Group:
    """Cells by perturbation in one context ("" without contexts), and what is asked for; None: the list has no such context."""

    context: str
    cells: dict[str, int]
    asked: dict[str, int | None] | None

    @property
    def where(self) -> str:
        """ " in CONTEXT" """
        return f" in {self.context}" if self.context else ""


def check_targets(perturbations: Labels, contexts: Labels | None, wanted: tuple[str, ...], spec: ChallengeSpec) -> list[Finding]:
    """Return which perturbations are missing or not asked for, and wrong numbers of cells, over all contexts."""
    groups = []
    for context in wanted or ("",):
        here = perturbations if contexts is None or not context else perturbations.take(contexts.where(context))
        cells = {n: int(k) for n, k in zip(here.names, here.counts(), strict=True) if k and n != spec.rules.control}
        # without a list every perturbation is asked for, with the number of cells that the rules say
        usual: dict[str, int | None] = dict.fromkeys(cells, spec.rules.cells_per_perturbation or None)
        groups.append(_Group(context, cells, spec.targets.of(context) if spec.targets else usual))
    return [
        *([] if spec.targets else _perturbations_miscounted(groups, spec.rules.n_perturbations)),
        *_perturbations_unknown(groups, control_aliases(perturbations, spec.rules.control)),
        *_perturbations_missing(groups),
        *_cells_miscounted(groups, spec.rules),
    ]


def check_known(perturbations: Labels, unknown: UnknownLabels, control: str) -> tuple[list[Finding], Replacement | None]:
    """Return how many of the targets the model of a result knows, where it does not know all, and what the others have."""
    names = [n for n in _used(perturbations) if n != control]
    strange = [n for n in names if n in {*unknown.labels}]
    if not strange:
        return [], None
    lacking = [n for n in strange if n in {*unknown.lacking}]
    there = Replacement(
        len(names) - len(strange), len(names), unknown.instead, unknown.screens, len(strange) - len(lacking), tuple(lacking),
        unknown.genes, unknown.of,
    )  # fmt: skip
    title = f"The model knows {there.known:,} of {there.targets:,} targets."
    return [found("targets-known", "warning", title, instead_words(there), names=strange)], there


def instead_words(there: Replacement) -> str:
    """Return what the targets that a model does not know have, as sentences."""
    if there.instead != "transfer":
        has = {"mean": "the mean effect of the perturbations that it knows", "control": "no change: control cells"}
        return f"The others have {has.get(there.instead, there.instead)}."
    text = (
        f"{there.moved:,} {agreed(there.moved, 'has the transfer of its', 'have the transfer of their')} effects measured in "
        f"{listed(there.screens)}; {part_of(there.genes, there.genes_predicted, 'predicted gene')} "
        f"{agreed(there.genes, 'is', 'are')} shared, the others do not change."
    )
    if not there.lacking:
        return text
    n = len(there.lacking)
    return f"{text} {plural(n, 'was', 'were')} measured in none of these: no change ({listed(there.lacking)})."


def _perturbations_miscounted(groups: list[_Group], number: int) -> list[Finding]:
    odd = [f"{len(g.cells):,}{g.where} instead of {number:,}" for g in groups if number and g.cells and len(g.cells) != number]
    title = "The number of perturbations is not the one asked for."
    return [found("perturbations-number", "error", title, names=odd)] if odd else []


def _perturbations_unknown(groups: list[_Group], aliases: list[str]) -> list[Finding]:
    unknown = list(dict.fromkeys(n for g in groups if g.asked is not None for n in g.cells if n not in g.asked))
    if not unknown:
        return []
    fix = "Leave them out, or correct the labels."
    if any(CONSTRUCT.search(name) for name in unknown):
        fix += " Some look like constructs: the label is the gene, without the number behind it."
    title = plural(len(unknown), "perturbation of the file is", "perturbations of the file are") + " not asked for."
    # a control under another name has a finding and a repair of its own
    repair = None if set(unknown) <= set(aliases) else "drop-extra-perturbations"
    return [found("perturbations-unknown", "error", title, fix, names=unknown, repair=repair)]


def _perturbations_missing(groups: list[_Group]) -> list[Finding]:
    missing = []
    for group in groups:
        if group.asked is None:
            missing.append(f"all{group.where}: the list has no such context")
        else:
            missing += [f"{name}{group.where}" for name in group.asked if name not in group.cells]
    title = plural(len(missing), "perturbation that is asked for has", "perturbations that are asked for have") + " no cells."
    return [found("perturbations-missing", "error", title, "Predict them.", names=missing)] if missing else []


def _cells_miscounted(groups: list[_Group], rules: Rules) -> list[Finding]:
    wrong, more = [], False
    for group in groups:
        for name, number in (group.asked or {}).items():
            cells = group.cells.get(name, number)
            if number and cells and cells != number:
                wrong.append(f"{name}{group.where} has {cells:,} instead of {number:,}")
                more = more or cells > number
    if not wrong:
        return []
    title = plural(len(wrong), "perturbation has", "perturbations have") + " another number of cells than asked for."
    severity: Severity = "error" if rules.cells_rule == "exact" else "warning"
    fix = "The number of cells changes how many genes count as significant."
    return [found("cells-per-perturbation", severity, title, fix, names=wrong, repair="first-cells" if more else None)]


# ---- sizes ----


def check_size(n_cells: int, rules: Rules) -> list[Finding]:
    """Return whether there are cells, and not too many."""
    if not n_cells:
        return [found("no-cells", "error", "There are no cells to submit.")]
    if rules.max_cells and n_cells > rules.max_cells:
        title = f"There {agreed(n_cells, 'is', 'are')} {plural(n_cells, 'cell')}; at most {rules.max_cells:,} are accepted."
        return [found("too-many-cells", "error", title, "Submit fewer cells per perturbation.", count=n_cells)]
    if rules.usual_cells and n_cells > rules.usual_cells:
        title = f"There {agreed(n_cells, 'is', 'are')} {plural(n_cells, 'cell')}; the rules say {rules.usual_cells:,} at most."
        return [found("many-cells", "warning", title, "The official packer accepts more than the rules do.", count=n_cells)]
    return []


def _used(labels: Labels) -> list[str]:
    """Labels that cells have."""
    return [n for n, k in zip(labels.names, labels.counts(), strict=True) if k]


def repeated_names(names: tuple[str, ...]) -> list[str]:
    """Return the names that occur more than once, each once."""
    if len(set(names)) == len(names):
        return []
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [name for name, number in seen.items() if number > 1]


def _missing_labels(code: str, labels: Labels, key: str) -> list[Finding]:
    rows = np.nonzero(labels.codes < 0)[0]
    if not rows.size:
        return []
    examples = [f"cell {row:,}" for row in rows[:5]]
    title = f"{plural(rows.size, 'cell has', 'cells have')} no label in {key}."
    return [found(code, "error", title, "Label them, or leave them out.", names=examples, count=int(rows.size))]


def _repairable(code: str, title: str, fix: str, names: list[str], repair: str, solved: bool) -> Finding:
    return found(code, "note" if solved else "error", title, fix, names=names, repair=repair)
