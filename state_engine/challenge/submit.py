"""A submission as a job: what is asked for as plain values, and what is kept in the job's folder.

FOLDER/report.json       everything that was found (`findings.Report`)
FOLDER/submission.vcc    the archive, when one was asked for and nothing is wrong
FOLDER/verified.json     what was found in the archive when it was opened again
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import REPAIRS, Report
from state_engine.challenge.source import SubmissionSource, kinds_to_take, source_of_run
from state_engine.challenge.spec import PRESETS, ChallengeSpec, Rules, load_challenge, load_rules
from state_engine.files import free_folder, write_json
from state_engine.options import about, check, option, part
from state_engine.plain import read_json_as, to_plain
from state_engine.progress import OnProgress, silent

REPORT: Final = "report.json"
VERIFIED: Final = "verified.json"
ARCHIVE: Final = "submission.vcc"
ASKED_REPAIRS: Final = tuple(name for name, repair in REPAIRS.items() if not repair.automatic)


@dataclass(frozen=True)
class SubmissionRequest:
    """What to submit."""

    VERB: ClassVar = "submit"
    challenge: str = field(metadata=about(f"{', '.join(PRESETS)}, or a TOML file", metavar="NAME"))
    source: str = field(
        metadata=about("predictions (.h5ad), or with --run a run's folder or result.h5ad, of which the predicted cells are taken",
                       flag="--data", metavar="P", also={"--run": {"is_run": True}}, data=True)
    )  # fmt: skip
    is_run: bool = option(False, flag=None)
    perturbation_key: str = option(
        "", "obs column of the perturbation in the predictions; default: the challenge's own name", metavar="COLUMN",
        label="Column with the perturbation",
    )  # fmt: skip
    genes: str = option("", "the challenge's gene list (.csv)", metavar="G.csv", label="Gene list (gene_names.csv)")
    pert_counts: str = option(
        "", "the challenge's list of perturbations (.csv)", metavar="C.csv",
        label="Perturbations and cells (pert_counts.csv), optional",
    )  # fmt: skip
    repairs: tuple[str, ...] = option((), f"repair, or all: {', '.join(ASKED_REPAIRS)}", flag="--repair", metavar="NAME")
    write: bool = option(False, "check only, write no archive", flag="--dry-run", turns=False)
    context_key: str = option(
        "", "obs column of the context in the predictions; default: the challenge's own name", metavar="COLUMN",
        label="Column with the context",
    )  # fmt: skip
    contexts: tuple[str, ...] = option(
        (), "take only cells of this context", flag="--take-context", metavar="NAME", label="Contexts to take"
    )
    controls: tuple[str, ...] = option((), "real control cells (.h5ad)", metavar="C.h5ad", data=True)
    counts: CountsOptions | None = part(None, switch="rounding", flags={"seed": "--seed"})
    required_contexts: tuple[str, ...] | None = option(
        None, "contexts to cover; default: those to take, else manifest.json beside the lists", flag="--contexts", commas=True,
        metavar="A,B,C",
    )  # fmt: skip
    matrix: str = option("X", "X or layers/NAME", metavar="PLACE")
    gene_column: str = option("", "var column of the gene names; default: the index", metavar="COLUMN")
    donors: str = option(
        "", "data set with the control cells that the predictions start from (.h5ad): their counts and depth are kept, and missing genes filled "
        "from them; default: the control files", metavar="D.h5ad",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


def submit(request: SubmissionRequest, folder: Path, on_progress: OnProgress = silent, archive: Path | None = None) -> Report:
    """Check a submission, or check it, write its archive and verify that.

    Args:
        request: what to submit.
        folder: for the reports; it is made when it is not there.
        on_progress: may raise `JobCancelled`.
        archive: where the archive goes; default: into the folder.

    Raises:
        ChallengeError, ConfigError: no such challenge or repair. What is wrong with files or data is in the report.
    """
    # here, so that a page that only reads reports does not load anndata
    from state_engine.challenge.archive import write_archive
    from state_engine.challenge.check import check as check_cells
    from state_engine.challenge.verify import verify

    spec = spec_of(request)
    source = source_of(request, spec.rules)
    counts = counts_of(request, spec.rules)
    free_folder(folder)
    if not request.write:
        report = check_cells(source, spec, repairs=request.repairs, counts=counts, output=archive, on_progress=on_progress)
    else:
        archive = archive or folder / ARCHIVE
        report = write_archive(source, spec, archive, repairs=request.repairs, counts=counts, on_progress=on_progress)
        if report.archive is not None:
            verified = verify(archive, spec, scratch=archive.parent, on_progress=on_progress)
            write_json(folder / VERIFIED, to_plain(verified))
    write_json(folder / REPORT, to_plain(report))
    return report


def counts_of(request: SubmissionRequest, rules: Rules) -> CountsOptions | None:
    """Return the counts step: as asked for, else auto for the result of a run, which is log1p, where a challenge wants counts."""
    return request.counts or (CountsOptions() if request.is_run and rules.values == "counts" else None)


def spec_of(request: SubmissionRequest) -> ChallengeSpec:
    """The challenge with the lists of the request."""
    lists = {name: Path(path) if path else None for name, path in (("genes", request.genes), ("counts", request.pert_counts))}
    contexts = request.required_contexts
    if contexts is None and request.contexts and load_rules(request.challenge).context_key:
        contexts = request.contexts
    return load_challenge(request.challenge, genes=lists["genes"], pert_counts=lists["counts"], contexts=contexts)


def source_of(request: SubmissionRequest, rules: Rules) -> SubmissionSource:
    """The cells of the request."""
    path, controls = Path(request.source), tuple(Path(p) for p in request.controls)
    donors = (Path(request.donors),) if request.donors else ()
    if not request.is_run:
        # a result holds measured cells beside the predicted ones, which are no submission
        kinds = kinds_to_take(path, rules, controls) if path.is_file() else ()
        return SubmissionSource(
            path, request.perturbation_key, request.context_key, request.matrix, request.gene_column, kinds=kinds, control_files=controls,
            contexts=request.contexts, donor_files=donors,
        )  # fmt: skip
    result = path / "result.h5ad" if path.is_dir() else path
    source = source_of_run(result, rules, controls, request.contexts)
    return replace(source, matrix=request.matrix, gene_column=request.gene_column, donor_files=donors)


def read_report(path: Path) -> Report | None:
    """Return a stored report; None when there is none yet.

    Raises:
        RunError: it is damaged.
    """
    return read_json_as(Report, path, "report", "Check the submission again.")
