"""`check`: everything that is wrong with a submission, at once, from one reading of its cells."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine.challenge.contents import Plan, make_plan
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Finding, Report, found, ordered
from state_engine.challenge.null import null_checked
from state_engine.challenge.source import Labels, SubmissionSource
from state_engine.challenge.spec import ChallengeSpec
from state_engine.challenge.swaps import ContextMeans
from state_engine.challenge.value_checks import ValueChecks
from state_engine.errors import ChallengeError, DataError
from state_engine.progress import OnProgress, Progress, silent


def check(
    source: SubmissionSource,
    spec: ChallengeSpec,
    *,
    repairs: tuple[str, ...] = (),
    counts: CountsOptions | None = None,
    output: Path | None = None,
    on_progress: OnProgress = silent,
) -> Report:
    """Everything that is wrong with a submission, at once. Reads each cell once, a block at a time; writes nothing.

    Args:
        repairs: names in `REPAIRS` to take as done, or "all". Findings that they solve become notes.
        counts: check what the step from log1p to counts would give.
        output: also check that this file could be written.

    Raises:
        ChallengeError: a repair of an unknown name. What is wrong with files or data is a finding, never an exception.
    """
    start = time.monotonic()
    plan = null_checked(make_plan(source, spec, repairs, counts), repairs)
    if output is not None:
        plan = replace(plan, findings=(*plan.findings, *check_output(source, output)))
    values = PlanChecks(plan)
    damage = []
    try:
        for part, untidy in plan.blocks():
            values.add(part, untidy)
            on_progress(Progress("Checking cells", values.done, plan.n_cells))
    except (ChallengeError, DataError) as error:
        damage.append(found("file-damaged", "error", error.what, f"{error.why} {error.fix}".strip()))
    return replace(values.report(damage), seconds=time.monotonic() - start)


class PlanChecks:
    """The value checks of a plan: of what the file has, and of what goes into the archive when the values are changed."""

    def __init__(self, plan: Plan) -> None:
        self.plan, rules = plan, plan.spec.rules
        codes, names = group_cells(plan.perturbations, plan.contexts)
        controls = plan.perturbations.where(rules.control) if plan.perturbations else None
        self.after = ValueChecks(rules, plan.genes, codes, names, controls, plan.n_cells)
        self.means = ContextMeans(plan)
        self.before: ValueChecks | None = None
        if plan.change:
            plain = replace(rules, values=plan.change.expects, max_entries=0, max_counts_per_cell=0)
            self.before = ValueChecks(plain, plan.genes, codes, names, controls, plan.n_cells)

    @property
    def done(self) -> int:
        """Cells seen."""
        return self.after.done

    def add(self, part: csr_matrix, untidy: int) -> csr_matrix:
        """Check the next cells and give them as they go into the archive: float32, changed where the plan says so."""
        first = self.after.done
        if self.before and self.plan.change:
            self.before.add(part, untidy)
            part, untidy = self.plan.change.apply(part, first), 0
        self.after.add(part, untidy)
        self.means.add(part, first)
        return part if part.dtype == np.float32 else part.astype(np.float32)

    def _with_values(self, findings: list[Finding]) -> list[Finding]:
        """Return findings with those of the values. An error of values that come in is found once, though those that go out may have it too."""
        if not self.plan.parts or not self.after.done:
            return findings
        before = self.before.findings() if self.before else []
        findings = [*findings, *(f for f in before if f.severity == "error" or f.code == "not-sparse")]
        there = {f.code for f in findings}
        return [*findings, *(f for f in self.after.findings() if f.code not in there or f.severity != "error")]

    def report(self, damage: list[Finding]) -> Report:
        """Everything found: in names, in values, and `damage` met on the way."""
        plan, values = self.plan, self.after
        findings = self._with_values([*plan.findings, *damage])
        fits, misplaced = self.means.findings()
        findings += misplaced
        repairs = dict.fromkeys([*plan.repairs, *(f.repair for f in findings if f.repair in ("sparsify", "reorder-genes"))])
        names = [name for name in _sizes(plan.perturbations) if name != plan.spec.rules.control]
        cells = _sizes(plan.contexts) if plan.contexts else {"": plan.n_cells}
        return Report(
            plan.spec.rules.name,
            str(plan.source.path),
            plan.n_cells,
            len(plan.genes),
            values.n_entries,
            len(names),
            cells,
            ordered(findings),
            tuple(name for name in repairs if name),
            plan.options,
            null=plan.null,
            fits=fits,
            replacement=plan.replacement,
        )


def _sizes(labels: Labels | None) -> dict[str, int]:
    """Return the labels that cells have, with how many have them."""
    return {n: int(k) for n, k in zip(labels.names, labels.counts(), strict=True) if k} if labels else {}


def group_cells(perturbations: Labels | None, contexts: Labels | None) -> tuple[NDArray[np.int32] | None, list[str]]:
    """(n,) index of each cell's perturbation and context, and their names ("ADNP in A")."""
    if perturbations is None:
        return None, []
    if contexts is None:
        return perturbations.codes, list(perturbations.names)
    width = len(contexts.names)
    codes = np.where((perturbations.codes < 0) | (contexts.codes < 0), -1, perturbations.codes * width + contexts.codes)
    return codes.astype(np.int32), [f"{p} in {c}" for p in perturbations.names for c in contexts.names]


def check_output(source: SubmissionSource, output: Path) -> list[Finding]:
    """Whether the file can be made, without making it."""
    for path in (source.path, *source.control_files):
        if output.exists() and path.exists() and output.samefile(path):
            title = f"The output {output.name} is the file with the predictions, which would be lost."
            return [found("output-is-input", "error", title, "Choose another name.")]
    if output.is_dir():
        return [found("output-unwritable", "error", f"The output {output} is a folder.", "Give the name of a file.")]
    if not output.parent.is_dir():
        return [found("output-unwritable", "error", f"There is no folder {output.parent}.", "Make it, or choose another.")]
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        return [unwritable(output, error)]
    if output.exists():
        return [found("output-exists", "note", f"{output.name} is there already and is replaced.")]
    return []


def unwritable(output: Path, error: OSError) -> Finding:
    """The finding of a file that the system does not let us write."""
    title = f"{output} cannot be written."
    return found("output-unwritable", "error", title, f"{error.strerror or error}. Choose another folder, or make room.")
