"""Checks of names and labels: genes, perturbations, controls, contexts, numbers of cells. No expression is read here.

Each function takes what a file says and what a challenge wants, and returns what it found; none raises.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.challenge.findings import Finding, found
from state_engine.challenge.source import Labels
from state_engine.challenge.spec import ChallengeSpec, Rules

CONSTRUCT = re.compile(r"-\d+$")
ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}")


def check_genes(genes: tuple[str, ...], spec: ChallengeSpec, repairs: set[str]) -> tuple[list[Finding], NDArray[np.int32] | None]:
    """What is wrong with the gene names, and the column in the archive of each gene of the file.

    Returns:
        findings, and (g,) places in `spec.genes` (-1: left out). None when the genes are as they must be, or cannot be mapped.
    """
    findings = [] if genes else [found("no-genes", "error", "The file has no genes.")]
    if not spec.genes or not genes:
        return findings, None
    wanted = {name: i for i, name in enumerate(spec.genes)}
    present = set(genes)
    missing, extra = [g for g in wanted if g not in present], [g for g in dict.fromkeys(genes) if g not in wanted]
    repeated = repeated_names(genes)
    if repeated:
        findings.append(
            found("genes-duplicated", "error", "Genes occur more than once in the file.", "Keep one.", names=repeated)
        )
    unsolved = bool(repeated)
    if missing:
        title, solved = (
            f"{len(missing):,} of {len(spec.genes):,} genes are missing from the file.",
            "fill-missing-genes" in repairs,
        )
        fix = "They were filled with zeros." if solved else f"{_why_missing(missing, extra)}Add them, or fill them with zeros."
        findings.append(_repairable("genes-missing", title, fix, missing, "fill-missing-genes", solved))
        unsolved |= not solved
    if extra:
        title, solved = f"{len(extra):,} genes of the file are not in the gene list.", "drop-extra-genes" in repairs
        fix = "They were left out." if solved else "Leave them out."
        findings.append(_repairable("genes-extra", title, fix, extra, "drop-extra-genes", solved))
        unsolved |= not solved
    columns = np.array([wanted.get(name, -1) for name in genes], np.int32)
    common = columns[columns >= 0]
    if not repeated and (np.diff(common) < 0).any():
        here, there = [g for g in genes if g in wanted], [g for g in wanted if g in present]
        moved = [g for g, w in zip(here, there, strict=True) if g != w]
        title = f"{len(moved):,} genes are in another order than in the gene list."
        findings.append(found("genes-order", "note", title, "They are put into order.", names=moved, repair="reorder-genes"))
    return findings, None if unsolved or genes == spec.genes else columns


def _why_missing(missing: list[str], extra: list[str]) -> str:
    if extra and sum(bool(ENSEMBL.match(g)) for g in extra) > len(extra) / 2:
        return "The file seems to name genes by Ensembl identifiers; the list has other names. "
    upper = {g.upper() for g in extra}
    if extra and sum(g.upper() in upper for g in missing) > len(missing) / 2:
        return "The names differ in upper and lower case. "
    return ""


def check_labels(perturbations: Labels | None, columns: tuple[str, ...], key: str, rules: Rules) -> list[Finding]:
    """The column is there, every cell has a label, and controls are there or not, as asked for."""
    if perturbations is None:
        likely = [name for name in keys.PERTURBATION_ALIASES if name in columns]
        fix = f"It may be called {' or '.join(likely)} here." if likely else "Say which column it is."
        return [found("perturbation-column", "error", f"obs has no column {key}; it has the following.", fix, names=columns)]
    findings = _missing_labels("labels-missing", perturbations, key)
    n_control = int(perturbations.where(rules.control).sum())
    other = control_aliases(perturbations, rules.control)
    if rules.controls == "required" and not n_control:
        title = f"No cell is labelled '{rules.control}', but control cells are required."
        if other:
            fix = f"They seem to be called '{other[0]}': rename them."
            findings.append(found("control-renamed", "error", title, fix, names=other, repair="rename-control"))
        else:
            findings.append(found("control-missing", "error", title, "Add the control cells.", repair="add-controls"))
    forbidden = [n for n in (rules.control, *other) if perturbations.where(n).any()]
    if rules.controls == "forbidden" and forbidden:
        number = int(sum(perturbations.where(n).sum() for n in forbidden))
        title = f"{number:,} control cells are in the file, but must not be submitted."
        fix = "The scorer uses its own: leave them out."
        findings.append(found("control-present", "error", title, fix, names=forbidden, count=number, repair="drop-controls"))
    return findings


def control_aliases(perturbations: Labels, control: str) -> list[str]:
    """Labels that usually mean control, other than the control label itself."""
    known = {re.sub(r"[\W_]", "", name).lower() for name in (*keys.CONTROL_ALIASES, control)}
    present = [n for n, k in zip(perturbations.names, perturbations.counts(), strict=True) if k]
    return [n for n in present if n != control and re.sub(r"[\W_]", "", n).lower() in known]


def check_contexts(
    contexts: Labels | None, columns: tuple[str, ...], key: str, spec: ChallengeSpec
) -> tuple[list[Finding], tuple[str, ...]]:
    """Every cell has a context, they are those asked for, and the contexts to cover.

    When the spec does not say the contexts, they are those of the phase of which the data have any.
    """
    if not spec.rules.context_key:
        return [], ()
    if contexts is None:
        fix = "Every cell needs the context that it was predicted for."
        return [
            found("context-column", "error", f"obs has no column {key}; it has the following.", fix, names=columns)
        ], spec.contexts
    findings = _missing_labels("context-missing-label", contexts, key)
    present = [n for n, k in zip(contexts.names, contexts.counts(), strict=True) if k]
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
    other_phase = {c: p.name for p in spec.rules.phases for c in p.contexts if c not in wanted}
    foreign = [c for c in present if c in other_phase]
    unknown = [c for c in present if c not in wanted and c not in other_phase]
    lacking = [c for c in wanted if c not in present]
    asked = f"Contexts must be {', '.join(wanted)}."
    if foreign:
        title = f"Contexts of another phase ({other_phase[foreign[0]]}) are in the file."
        findings.append(found("contexts-other-phase", "error", title, asked, names=foreign))
    if unknown:
        findings.append(
            found("contexts-unknown", "error", "The file has contexts that the challenge has not.", asked, names=unknown)
        )
    if lacking:
        findings.append(
            found("contexts-missing", "error", "Contexts have no cells; one file must cover all.", asked, names=lacking)
        )
    return findings, wanted


def check_targets(perturbations: Labels, contexts: Labels | None, wanted: tuple[str, ...], spec: ChallengeSpec) -> list[Finding]:
    """Perturbations missing or not asked for, and numbers of cells, in each context."""
    unknown: dict[str, list[str]] = {}
    missing, wrong, odd, more = [], [], [], 0
    for context in wanted or ("",):
        here = perturbations if contexts is None or not context else perturbations.take(contexts.where(context))
        cells = {n: int(k) for n, k in zip(here.names, here.counts(), strict=True) if k and n != spec.rules.control}
        tail = f" in {context}" if context else ""
        number = spec.rules.n_perturbations
        if spec.targets is None and number and cells and len(cells) != number:
            odd.append(f"{len(cells):,}{tail} instead of {number:,}")
        asked = spec.targets.of(context) if spec.targets else dict.fromkeys(cells, spec.rules.cells_per_perturbation or None)
        if asked is None:
            missing.append(f"all{tail}: the list has no such context")
            continue
        for name in (n for n in cells if n not in asked):
            unknown.setdefault(name, []).append(context)
        missing += [f"{name}{tail}" for name in asked if name not in cells]
        other = {n: k for n, k in asked.items() if k and n in cells and cells[n] != k}
        wrong += [f"{n}{tail} has {cells[n]:,} instead of {k:,}" for n, k in other.items()]
        more += sum(cells[n] > k for n, k in other.items())
    title = "The number of perturbations is not the one asked for."
    number_findings = [found("perturbations-number", "error", title, names=odd)] if odd else []
    aliases = control_aliases(perturbations, spec.rules.control)
    findings = _target_findings(list(unknown), missing, wrong, more, spec.rules)
    # a control under another name has a finding and a repair of its own
    only_controls = set(unknown) <= set(aliases)
    return number_findings + [
        replace(f, repair=None) if f.code == "perturbations-unknown" and only_controls else f for f in findings
    ]


def _target_findings(unknown: list[str], missing: list[str], wrong: list[str], more: int, rules: Rules) -> list[Finding]:
    findings = []
    if unknown:
        fix = "Leave them out, or correct the labels."
        if any(CONSTRUCT.search(name) for name in unknown):
            fix += " Some look like constructs: the label is the gene, without the number behind it."
        title = f"{len(unknown):,} perturbations of the file are not asked for."
        repair = "drop-extra-perturbations"
        findings.append(found("perturbations-unknown", "error", title, fix, names=unknown, repair=repair))
    if missing:
        title = f"{len(missing):,} perturbations that are asked for have no cells."
        findings.append(found("perturbations-missing", "error", title, "Predict them.", names=missing))
    if wrong:
        title = f"{len(wrong):,} perturbations have another number of cells than asked for."
        severity = "error" if rules.cells_rule == "exact" else "warning"
        fix = "The number of cells changes how many genes count as significant."
        shorten = "first-cells" if more else None
        findings.append(found("cells-per-perturbation", severity, title, fix, names=wrong, repair=shorten))  # type: ignore[arg-type]
    return findings


def check_size(n_cells: int, rules: Rules) -> list[Finding]:
    """Some cells, and not too many."""
    if not n_cells:
        return [found("no-cells", "error", "There are no cells to submit.")]
    if rules.max_cells and n_cells > rules.max_cells:
        title = f"There are {n_cells:,} cells; at most {rules.max_cells:,} are accepted."
        return [found("too-many-cells", "error", title, "Submit fewer cells per perturbation.", count=n_cells)]
    if rules.usual_cells and n_cells > rules.usual_cells:
        title = f"There are {n_cells:,} cells; the rules say {rules.usual_cells:,} at most."
        return [found("many-cells", "warning", title, "The official packer accepts more than the rules do.", count=n_cells)]
    return []


def repeated_names(names: tuple[str, ...]) -> list[str]:
    """Names that occur more than once, each once."""
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
    title = f"{rows.size:,} cells have no label in {key}."
    return [found(code, "error", title, "Label them, or leave them out.", names=examples, count=int(rows.size))]


def _repairable(code: str, title: str, fix: str, names: list[str], repair: str, solved: bool) -> Finding:
    return found(code, "note" if solved else "error", title, fix, names=names, repair=repair)
