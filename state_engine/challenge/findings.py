"""What a check found, and the report of all findings at once. Plain values: no files, no matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from state_engine.errors import listed

Severity = Literal["error", "warning", "note"]
SHOWN = 5


@dataclass(frozen=True)
class Repair:
    """A change that makes a finding go away.

    Args:
        name: what `--repair` and a button call it.
        title: what it does, for people.
        automatic: done without being asked for, since it changes no value; reported as a note.
        by_name: made only when it is asked for by its name, not with all.
    """

    name: str
    title: str
    automatic: bool = False
    by_name: bool = False


REPAIRS: dict[str, Repair] = {
    r.name: r
    for r in (
        Repair("reorder-genes", "Put the genes into the order of the list", automatic=True),
        Repair("sparsify", "Store only values that are not zero, each once, in the order of the genes", automatic=True),
        Repair(
            "fill-missing-genes",
            "Add the missing genes with the values of the control cell that each cell starts from: no effect",
        ),
        Repair("zero-missing-genes", "Add the missing genes with zero in every cell, which scores badly", by_name=True),
        Repair("drop-extra-genes", "Leave out genes that are not in the list"),
        Repair("rename-control", "Give the control cells the label that the challenge asks for"),
        Repair("drop-controls", "Leave out the control cells"),
        Repair("add-controls", "Add the control cells of the control files"),
        Repair("drop-extra-perturbations", "Leave out the perturbations that are not asked for"),
        Repair("first-cells", "Of each perturbation, take only the first cells, as many as are asked for"),
        Repair("normalise", "Scale every cell to the median number of counts, then log1p"),
    )
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        code: stable name for programs ("genes-missing").
        severity: an error stops the archive; a warning costs score or trust; a note is for the record.
        title: one sentence.
        detail: numbers, examples and the way out, as sentences.
        count: how many cells, genes, labels or values; 0 when counting makes no sense.
        examples: the first few of them.
        repair: a name in `REPAIRS` when there is a safe way to make it go away.
    """

    code: str
    severity: Severity
    title: str
    detail: str = ""
    count: int = 0
    examples: tuple[str, ...] = ()
    repair: str | None = None


def found(
    code: str,
    severity: Severity,
    title: str,
    fix: str = "",
    *,
    names: list[str] | tuple[str, ...] = (),
    count: int | None = None,
    repair: str | None = None,
) -> Finding:
    """A finding about `names`: their number, the first five, and what to do.

    Args:
        fix: sentences put behind the examples.
        names: what is concerned; the first five are kept.
        count: their number when `names` holds only some of them.
    """
    number = len(names) if count is None else count
    # fewer names than are shown are all there are, whatever is counted (one control label of many cells)
    more = number - SHOWN if len(names) >= SHOWN else 0
    shown = listed([*names[:SHOWN], *[""] * more], SHOWN) if names else ""
    detail = " ".join(part for part in (f"{shown}." if shown else "", fix) if part)
    return Finding(code, severity, title, detail, number, tuple(names[:SHOWN]), repair)


@dataclass(frozen=True)
class Archive:
    """A finished file: where, its size in bytes, the sha256 of the file and of the h5ad inside (hex)."""

    path: str
    bytes: int
    sha256: str
    h5ad_bytes: int
    h5ad_sha256: str


@dataclass(frozen=True)
class NullCheck:
    """Cells without an effect, sent through the steps of a submission, against real control cells.

    Args:
        context: "" when the challenge has none.
        cells, controls: how many of each.
        genes, called: tested, and called significant, which is false of each.
        of: what the cells are.
    """

    context: str
    cells: int
    controls: int
    genes: int
    called: int
    of: str


@dataclass(frozen=True)
class Replacement:
    """What the targets have that the model of a result does not know.

    Args:
        known, targets: how many of how many targets the model knows.
        instead: what was chosen: "control" (no change), "mean" or "transfer".
        screens: of a transfer, the data sets with the measured effects.
        moved: targets that have that.
        lacking: targets that no screen measured: no change.
        genes, genes_predicted: of a transfer, genes that the screens and the prediction share.
    """

    known: int
    targets: int
    instead: str
    screens: tuple[str, ...] = ()
    moved: int = 0
    lacking: tuple[str, ...] = ()
    genes: int = 0
    genes_predicted: int = 0


@dataclass(frozen=True)
class ContextFit:
    """Which control cells the mean of a context's predicted cells is most like.

    Args:
        context: of the predicted cells.
        best: context of the control cells that are most alike.
        r, r_best: correlation with its own control cells, and with those.
    """

    context: str
    best: str
    r: float
    r_best: float


@dataclass(frozen=True)
class Report:
    """All that was found in one submission.

    Args:
        challenge: name of the challenge.
        source: the file that was checked.
        n_cells, n_genes, n_entries: size as submitted, after repairs; entries are stored values.
        n_perturbations: labels that are not the control.
        cells: cells by context ("" when the challenge has no contexts).
        findings: errors first, then warnings and notes.
        repairs: names of the repairs that were made.
        options: the counts step as it was done, or {}: the rounding that was asked for (auto) and the one that it became, the kind.
        archive: the file, when one was written.
        seconds: time it took.
        null: the null check of each context, where values become counts.
        fits: which control cells each context is most like, where there are several contexts and their control cells.
        replacement: what the targets have that the model does not know; None where it knows all, or the file does not say.
    """

    challenge: str
    source: str
    n_cells: int = 0
    n_genes: int = 0
    n_entries: int = 0
    n_perturbations: int = 0
    cells: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    repairs: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    archive: Archive | None = None
    seconds: float = 0.0
    null: tuple[NullCheck, ...] = ()
    fits: tuple[ContextFit, ...] = ()
    replacement: Replacement | None = None

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops the archive."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def offered(self) -> tuple[Repair, ...]:
        """Repairs that would make findings go away and were not made yet."""
        names = dict.fromkeys(f.repair for f in self.findings if f.repair and f.repair not in self.repairs)
        return tuple(REPAIRS[name] for name in names if name)

    def codes(self, severity: Severity | None = None) -> set[str]:
        """Codes of the findings, of one severity or of all."""
        return {f.code for f in self.findings if severity in (None, f.severity)}


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; otherwise in the order found."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda f: rank[f.severity]))
