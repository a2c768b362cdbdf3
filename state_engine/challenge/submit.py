"""A submission as a job: what is asked for as plain values, and what is kept in the job's folder.

FOLDER/report.json       everything that was found (`findings.Report`)
FOLDER/submission.vcc    the archive, when one was asked for and nothing is wrong
FOLDER/verified.json     what was found in the archive when it was opened again
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Report
from state_engine.challenge.source import SubmissionSource, source_of_run
from state_engine.challenge.spec import ChallengeSpec, Rules, load_challenge, load_rules
from state_engine.files import write_json
from state_engine.plain import read_json_as, to_plain
from state_engine.progress import OnProgress, silent

REPORT: Final = "report.json"
VERIFIED: Final = "verified.json"
ARCHIVE: Final = "submission.vcc"


@dataclass(frozen=True)
class SubmissionRequest:
    """What to submit.

    Args:
        challenge: name of a preset, or path of a TOML file.
        source: path of the .h5ad.
        is_run: the file is the result of a run, of which the predicted cells (and the controls, where asked for) are taken.
        perturbation_key: obs column of the perturbation when it is not a run; "" for the challenge's own name.
        genes, pert_counts: paths of the challenge's lists; "" when there is none.
        repairs: names in `findings.REPAIRS`.
        context_key: obs column of the context when it is not a run; "" for the challenge's own name.
        contexts: contexts to take; empty for all cells.
        controls: paths of .h5ad files with real control cells.
        counts: the step from log1p to counts; None leaves the values.
        write: make the archive when nothing is wrong, and open it again to verify it; else only check.
    """

    challenge: str
    source: str
    is_run: bool = False
    perturbation_key: str = ""
    genes: str = ""
    pert_counts: str = ""
    repairs: tuple[str, ...] = ()
    write: bool = False
    context_key: str = ""
    contexts: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    counts: CountsOptions | None = None


def submit(request: SubmissionRequest, folder: Path, on_progress: OnProgress = silent) -> Report:
    """Check, or check and write and verify; the reports are kept in `folder`, which is made when it is not there.

    Raises:
        ChallengeError, ConfigError: no such challenge or repair. What is wrong with files or data is in the report.
    """
    # here, so that a page that only reads reports does not load anndata
    from state_engine.challenge.archive import write_archive
    from state_engine.challenge.check import check
    from state_engine.challenge.verify import verify

    spec = spec_of(request)
    source = source_of(request, spec.rules)
    folder.mkdir(parents=True, exist_ok=True)
    if not request.write:
        report = check(source, spec, repairs=request.repairs, counts=request.counts, on_progress=on_progress)
    else:
        report = write_archive(
            source, spec, folder / ARCHIVE, repairs=request.repairs, counts=request.counts, on_progress=on_progress
        )
        if report.archive is not None:
            seen = verify(folder / ARCHIVE, spec, scratch=folder, on_progress=on_progress)
            write_json(folder / VERIFIED, to_plain(seen))
    write_json(folder / REPORT, to_plain(report))
    return report


def spec_of(request: SubmissionRequest) -> ChallengeSpec:
    """The challenge with the lists of the request."""
    lists = {name: Path(path) if path else None for name, path in (("genes", request.genes), ("counts", request.pert_counts))}
    contexts = request.contexts if request.contexts and load_rules(request.challenge).context_key else None
    return load_challenge(request.challenge, genes=lists["genes"], pert_counts=lists["counts"], contexts=contexts)


def source_of(request: SubmissionRequest, rules: Rules) -> SubmissionSource:
    """The cells of the request."""
    path, controls = Path(request.source), tuple(Path(p) for p in request.controls)
    if request.is_run:
        return source_of_run(path, rules, controls, request.contexts)
    return SubmissionSource(
        path, request.perturbation_key, request.context_key, control_files=controls, contexts=request.contexts
    )


def read_report(path: Path) -> Report | None:
    """Return a stored report; None when there is none yet.

    Raises:
        RunError: it is damaged.
    """
    return read_json_as(Report, path, "report", "Check the submission again.")


def command_of(request: SubmissionRequest) -> str:
    """The command line that does the same."""
    words = ["python", "-m", "state_engine", "submit", "--challenge", request.challenge]
    words += ["--run" if request.is_run else "--data", request.source]
    named = (
        ("--perturbation-key", request.perturbation_key),
        ("--context-key", request.context_key),
        ("--genes", request.genes),
        ("--pert-counts", request.pert_counts),
    )
    for option, value in named:
        words += [option, value] if value else []
    repeated = (("--take-context", request.contexts), ("--controls", request.controls), ("--repair", request.repairs))
    for option, values in repeated:
        for value in values:
            words += [option, value]
    if request.contexts and load_rules(request.challenge).context_key:
        words += ["--contexts", ",".join(request.contexts)]
    if request.counts:
        words += ["--to-counts", request.counts.rounding, "--seed", str(request.counts.seed)]
        words += ["--library", f"{request.counts.library:g}"] if request.counts.library else []
    return shlex.join([*words, *(["--output", ARCHIVE] if request.write else ["--dry-run"])])
