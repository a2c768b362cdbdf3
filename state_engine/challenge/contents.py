"""What will go into an archive: which cells of which files, after which repairs of names, labels and scale. Reads no cell but for depths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine.challenge import checks
from state_engine.challenge.cells import choose_cells
from state_engine.challenge.counts import (
    STEPS,
    Change,
    CountsOptions,
    FillGenes,
    Normalise,
    OnDonors,
    Step,
    ToCounts,
    cell_totals,
    control_libraries,
    step_of,
)
from state_engine.challenge.donors import Donors, control_cells, donors_of_result, drawn_donors
from state_engine.challenge.findings import REPAIRS, Finding, NullCheck, Replacement, found
from state_engine.challenge.source import Labels, Opened, SubmissionSource, open_controls, open_source
from state_engine.challenge.spec import ChallengeSpec
from state_engine.data.embedding_record import ON_CONTROL_CELLS
from state_engine.data.files.blocks import Matrix, map_columns, read_blocks
from state_engine.errors import ChallengeError, DataError, EmptyDataError, StateError
from state_engine.plain import agreed, part_of, plural, to_plain


@dataclass(frozen=True)
class Part:
    """Cells of one file.

    Args:
        matrix: where their expression is.
        keep: (n,) the cells that go in.
        columns: (g,) place in the archive of each gene of the file, -1 for none; None when the genes are the same.
    """

    matrix: Matrix
    keep: NDArray[np.bool_]
    columns: NDArray[np.int32] | None


@dataclass(frozen=True)
class Plan:
    """A submission, decided but not read.

    Args:
        source, spec: the cells, and the challenge that they are for.
        parts: files and cells, in order.
        genes: names of the columns.
        perturbations, contexts: labels of all cells, None when the file has no such column.
        wanted: contexts to cover.
        change: change of the values, if any.
        findings: what is already known to be wrong.
        repairs: names of the repairs that were made.
        options: the counts step as it will be done.
        counts: the counts step as it was asked for.
        donors: control cells that the cells of the first part start from, where they were needed and found.
        lacking: (genes,) those that are not predicted and filled from the donors; None for none.
        null: the null checks, where they were made.
        replacement: what the targets have that the model does not know; None for none.
    """

    source: SubmissionSource
    spec: ChallengeSpec
    parts: tuple[Part, ...] = ()
    genes: tuple[str, ...] = ()
    perturbations: Labels | None = None
    contexts: Labels | None = None
    wanted: tuple[str, ...] = ()
    change: Change | None = None
    findings: tuple[Finding, ...] = ()
    repairs: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    counts: CountsOptions | None = None
    donors: Donors | None = None
    lacking: NDArray[np.bool_] | None = None
    null: tuple[NullCheck, ...] = ()
    replacement: Replacement | None = None

    @property
    def n_cells(self) -> int:
        """Cells that go in."""
        return int(sum(np.count_nonzero(part.keep) for part in self.parts))

    def first(self, n: int) -> Plan:
        """Return the plan of the first n cells of the first part."""
        keep = self.parts[0].keep & (np.cumsum(self.parts[0].keep) <= n)
        return replace(self, parts=(replace(self.parts[0], keep=keep),))

    def blocks(self, scratch: Path | None = None) -> Iterator[tuple[csr_matrix, int]]:
        """Cells in order, before the change of values: (m, genes) in the file's number type, and how much was untidy."""
        for part in self.parts:
            for block in read_blocks(part.matrix, part.keep, scratch):
                yield map_columns(block.values, part.columns, len(self.genes)), block.untidy


def make_plan(
    source: SubmissionSource,
    spec: ChallengeSpec,
    repairs: tuple[str, ...] = (),
    counts: CountsOptions | None = None,
    scratch: Path | None = None,
) -> Plan:
    """Open the files, apply the repairs to names and labels, and decide the change of values. No cell is read but for depths.

    Args:
        repairs: names in `REPAIRS`, or "all".
        counts: options of the step from log1p to counts; None leaves the values.
        scratch: folder for temporary files.

    Raises:
        ChallengeError: a repair of an unknown name.
    """
    unknown = [name for name in repairs if name not in REPAIRS and name != "all"]
    if unknown:
        raise ChallengeError(
            f"There is no repair '{unknown[0]}'.", f"Known: {', '.join(REPAIRS)}.", "Choose from these, or 'all'."
        )
    allowed = {*repairs, *(name for name, repair in REPAIRS.items() if "all" in repairs and not repair.by_name)}
    try:
        opened = open_source(source, spec.rules)
    except StateError as error:
        code = "no-cells" if isinstance(error, EmptyDataError) else "file-unreadable"
        return Plan(source, spec, findings=(*spec.problems, found(code, "error", error.what, f"{error.why} {error.fix}".strip())))
    plan = _choose_cells(Plan(source, spec, findings=spec.problems), opened, allowed)
    plan = _choose_genes(plan, opened, allowed)
    plan = _add_controls(plan, allowed)
    plan = _check_labels(plan, opened)
    plan = _change_values(plan, opened, allowed, counts, scratch)
    if opened.no_genes:
        plan = replace(plan, findings=(*plan.findings, found("not-genes", "note", opened.no_genes)))
    if opened.dropped:
        note = found("dropped", "note", "Parts of the file do not go into an archive.", names=opened.dropped)
        plan = replace(plan, findings=(*plan.findings, note))
    return plan


def _choose_cells(plan: Plan, opened: Opened, allowed: set[str]) -> Plan:
    choice = choose_cells(plan.source, plan.spec, opened, allowed)
    part = Part(opened.matrix, choice.keep, None)
    return replace(
        plan,
        parts=(part,),
        perturbations=choice.perturbations,
        contexts=choice.contexts,
        findings=(*plan.findings, *choice.findings),
        repairs=(*plan.repairs, *choice.repairs),
    )


def _choose_genes(plan: Plan, opened: Opened, allowed: set[str]) -> Plan:
    present = set(opened.genes)
    missing = np.array([gene not in present for gene in plan.spec.genes], bool)
    if missing.any() and opened.genes and "fill-missing-genes" in allowed and "zero-missing-genes" not in allowed:
        plan = _find_donors(plan, opened, missing)
        allowed = allowed if plan.lacking is not None else allowed - {"fill-missing-genes"}
    findings, columns = checks.check_genes(opened.genes, plan.spec, allowed)
    made = tuple(f.repair for f in findings if f.severity == "note" and f.repair)
    genes = plan.spec.genes if columns is not None else opened.genes
    part = replace(plan.parts[0], columns=columns)
    return replace(plan, parts=(part,), genes=genes, findings=(*plan.findings, *findings), repairs=(*plan.repairs, *made))


def _find_donors(plan: Plan, opened: Opened, missing: NDArray[np.bool_]) -> Plan:
    """Return the plan with the control cells whose values fill the missing genes, or with the reason why there are none."""
    rules, keep, donors, why = plan.spec.rules, plan.parts[0].keep, None, ""
    try:
        donors = donors_of_result(plan.source, rules, opened, keep, plan.spec.genes)
        if donors is None and opened.basal is None:
            donors = drawn_donors(plan.source, rules, plan.contexts, int(keep.sum()), plan.spec.genes)
        why = "No control file has the control cells that the predictions start from." if donors is None else ""
    except StateError as error:
        why = str(error)
    if donors is not None and rules.values == "counts" and donors.scale != "counts":
        why = "The control cells are not counts."
    elif donors is not None and rules.values == "log1p" and donors.scale == "counts" and not opened.depth:
        why = "The depth of the predictions is not recorded: give control cells as log1p values of the same depth."
    elif donors is not None and donors.scale == "log1p" and opened.depth != (opened.depth_of_data or opened.depth):
        why = f"The control cells are log1p of {opened.depth_of_data:,.0f} per cell, the predictions of {opened.depth:,.0f}."
    elif donors is not None and (lost := missing & ~donors.has).any():
        names = [gene for gene, gone in zip(plan.spec.genes, lost, strict=True) if gone]
        verb, they = agreed(len(names), "is", "are"), agreed(len(names), "it is", "they are")
        some = part_of(len(names), int(missing.sum()), "missing gene")
        title = f"{some} {verb} not in the control file either: {they} zero in every cell."
        plan = replace(plan, findings=(*plan.findings, found("genes-nowhere", "warning", title, names=names)))
    if why:
        title = "The missing genes cannot be filled from control cells."
        fix = f"{why} Give the data set of the run (--donors); zeros are made only by name (zero-missing-genes), and score badly."
        return replace(plan, findings=(*plan.findings, found("genes-unfilled", "error", title, fix)))
    return replace(plan, donors=donors, lacking=missing)


def _add_controls(plan: Plan, allowed: set[str]) -> Plan:
    """Control cells of the control files behind the others, when there are none and they are required."""
    rules, labels = plan.spec.rules, plan.perturbations
    wanted = rules.controls == "required" and "add-controls" in allowed and labels is not None and plan.source.control_files
    if not wanted or labels is None or labels.where(rules.control).any():
        return plan
    number = 0
    for path in plan.source.control_files:
        part, problems = _control_part(plan, path, allowed)
        plan = replace(plan, findings=(*plan.findings, *problems))
        if part is not None:
            plan = replace(plan, parts=(*plan.parts, part))
            number += int(part.keep.sum())
    if not number:
        return plan
    names = labels.names if rules.control in labels.names else (*labels.names, rules.control)
    more = np.full(number, names.index(rules.control), np.int32)
    note = found(
        "control-missing",
        "note",
        plural(number, "control cell was", "control cells were") + " added.",
        repair="add-controls",
        count=number,
    )
    merged = Labels(np.concatenate([labels.codes, more]), names)
    return replace(plan, perturbations=merged, findings=(*plan.findings, note), repairs=(*plan.repairs, "add-controls"))


def _control_part(plan: Plan, path: Path, allowed: set[str]) -> tuple[Part | None, tuple[Finding, ...]]:
    """Return the control cells of a file, in the contexts that are wanted; None, and why, where it cannot give them."""
    rules, source = plan.spec.rules, plan.source
    try:
        opened = open_controls(path, source, rules)
    except StateError as error:
        return None, (found("controls-unreadable", "error", f"The control file {path.name} cannot be read.", str(error)),)
    problems, columns = checks.check_genes(opened.genes, replace(plan.spec, genes=plan.genes), allowed)
    serious = tuple(f for f in problems if f.severity == "error")
    if serious:
        return None, serious
    keep = control_cells(opened, rules)
    if source.contexts and opened.contexts:
        keep &= np.any([opened.contexts.where(c) for c in source.contexts], axis=0)
    return Part(opened.matrix, keep, columns), ()


def _check_labels(plan: Plan, opened: Opened) -> Plan:
    rules, source = plan.spec.rules, plan.source
    perturbation_key, context_key = source.perturbation_key or rules.perturbation_key, source.context_key or rules.context_key
    findings = [*checks.check_size(plan.n_cells, rules)]
    findings += checks.check_labels(plan.perturbations, opened.columns, perturbation_key, rules)
    problems, wanted = checks.check_contexts(plan.contexts, opened.columns, context_key, plan.spec)
    findings += problems
    if plan.perturbations is not None:
        findings += checks.check_targets(plan.perturbations, plan.contexts, wanted, plan.spec)
        # said before everything else
        known, replacement = checks.check_known(plan.perturbations, opened.unknown, rules.control)
        plan = replace(plan, findings=(*known, *plan.findings), replacement=replacement)
    return replace(plan, wanted=wanted, findings=(*plan.findings, *findings))


def _change_values(plan: Plan, opened: Opened, allowed: set[str], counts: CountsOptions | None, scratch: Path | None) -> Plan:
    rules = plan.spec.rules
    if counts is not None and rules.values != "counts":
        problem = found(
            "counts-not-asked", "error", f"{rules.title} wants log1p values, not counts.", "Leave the counts step out."
        )
        return replace(plan, findings=(*plan.findings, problem))
    if counts is not None:
        plan = _plan_counts(plan, opened, counts)
    elif rules.values == "log1p" and "normalise" in allowed:
        plan = _plan_normalise(plan, opened, scratch)
    if plan.donors is None or plan.lacking is None or isinstance(plan.change, OnDonors):
        return plan
    depth = opened.depth if rules.values == "log1p" and plan.donors.scale == "counts" else None
    return replace(plan, change=FillGenes(plan.change, plan.donors, plan.lacking, depth))


def _plan_counts(plan: Plan, opened: Opened, counts: CountsOptions) -> Plan:
    donors = None
    if counts.rounding == "auto" and counts.library is None and opened.depth and opened.kind in ON_CONTROL_CELLS:
        donors = donors_of_result(plan.source, plan.spec.rules, opened, plan.parts[0].keep, plan.genes)
        donors = donors if donors is not None and donors.scale == "counts" else None
    step = step_of(counts.rounding, opened.kind, donors is not None)
    options = {**to_plain(counts), "rounding": step, "asked": counts.rounding, "kind": opened.kind}
    options["control_files"] = [p.name for p in plan.source.control_files] if counts.library is None else []
    plan = replace(plan, counts=counts, options=options, findings=(*plan.findings, *_counts_words(step, counts, opened)))
    cap = plan.spec.rules.max_counts_per_cell
    if donors is not None:
        return replace(plan, change=OnDonors(donors, float(opened.depth or 0), counts.seed, cap, plan.lacking), donors=donors)
    assert step != "donor"
    return _plan_libraries(plan, replace(counts, rounding=step), cap)


def _counts_words(step: Step, counts: CountsOptions, opened: Opened) -> list[Finding]:
    """Return how values become counts, and why where that was not chosen."""
    if counts.rounding != "auto":
        return []
    if opened.kind == "unknown":
        title = "The file does not say how its cells were made: they are rounded as raw predictions are (Poisson)."
        fix = "Where they are control cells plus an effect, choose stochastic: Poisson adds the noise of counting a second time."
        return [found("kind-unknown", "warning", title, fix)]
    why = ""
    if step == "stochastic":
        why = (
            "One library size was asked for."
            if counts.library is not None
            else "Give the data set of the run (--donors, or as a control file), with counts, and each cell keeps those of its own control cell."
        )
    return [found("counts-step", "note", f"The predictions are {opened.kind}: {STEPS[step]}.", why)]


def _plan_libraries(plan: Plan, counts: CountsOptions, cap: int) -> Plan:
    """Each cell gets a library size, drawn from the control cells of its context or the same for all."""
    contexts = plan.wanted
    problems: list[Finding] = []
    if counts.library is not None:
        libraries = {context: np.array([counts.library]) for context in contexts or ("",)}
    else:
        # genes that are filled bring counts of their own
        kept = None if plan.lacking is None else frozenset(np.array(plan.genes, object)[~plan.lacking])
        libraries, problems = control_libraries(plan.source, plan.spec.rules, contexts, kept)
    if problems:
        return replace(plan, findings=(*plan.findings, *problems))
    labels = plan.contexts
    order = [c for c in contexts if labels and c in labels.names] or [""]
    places = {name: i for i, name in enumerate(order)}
    # cells of a context that is not asked for are an error already; they draw from the first context
    codes = np.zeros(plan.n_cells, np.int32)
    if labels:
        codes = np.array([places.get(name, 0) for name in (*labels.names, "")], np.int32)[labels.codes]
    sizes = tuple(libraries.get(name, np.ones(1)) for name in order)
    return replace(plan, change=ToCounts(counts, codes, sizes, cap))


def _plan_normalise(plan: Plan, opened: Opened, scratch: Path | None) -> Plan:
    """Only when the values are counts: the repair is not made on values that are log1p already."""
    try:
        totals, whole = cell_totals(opened, plan.parts[0].keep, scratch)
    except (ChallengeError, DataError):
        return plan  # met again, and reported, when the cells are read
    if not whole or not (totals > 0).any():
        return plan
    depth = float(np.median(totals[totals > 0]))
    title = f"Counts were scaled to {depth:,.0f} a cell (the median), then log1p."
    note = found("values-counts", "note", title, repair="normalise")
    return replace(plan, change=Normalise(depth), findings=(*plan.findings, note), repairs=(*plan.repairs, "normalise"))
