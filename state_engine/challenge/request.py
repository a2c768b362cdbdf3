"""A submission as a job: what is asked for as plain values, and what is kept in the job's folder.

FOLDER/report.json       everything that was found (`findings.Report`)
FOLDER/submission.vcc    the archive, when one was asked for and nothing is wrong
FOLDER/verified.json     what was found in the archive when it was opened again
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.challenge.findings import Report
from state_engine.challenge.source import SubmissionSource, source_of_run
from state_engine.challenge.spec import ChallengeSpec, Rules, load_challenge
from state_engine.errors import ConfigError, RunError
from state_engine.files import write_json
from state_engine.progress import OnProgress, silent
from state_engine.values import from_plain, to_plain

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


def submit(request: SubmissionRequest, folder: Path, on_progress: OnProgress = silent) -> Report:
    """Check, or check and write and verify; the reports are kept in `folder`.

    Raises:
        ChallengeError, ConfigError: no such challenge or repair. What is wrong with files or data is in the report.
    """
    # here, so that a page that only reads reports does not load anndata
    from state_engine.challenge.archive import write_archive
    from state_engine.challenge.review import check
    from state_engine.challenge.verify import verify

    spec = spec_of(request)
    source = source_of(request, spec.rules)
    if not request.write:
        report = check(source, spec, repairs=request.repairs, on_progress=on_progress)
    else:
        report = write_archive(source, spec, folder / ARCHIVE, repairs=request.repairs, on_progress=on_progress)
        if report.archive is not None:
            seen = verify(folder / ARCHIVE, spec, scratch=folder, on_progress=on_progress)
            write_json(folder / VERIFIED, to_plain(seen))
    write_json(folder / REPORT, to_plain(report))
    return report


def spec_of(request: SubmissionRequest) -> ChallengeSpec:
    """The challenge with the lists of the request."""
    lists = {name: Path(path) if path else None for name, path in (("genes", request.genes), ("counts", request.pert_counts))}
    return load_challenge(request.challenge, genes=lists["genes"], pert_counts=lists["counts"])


def source_of(request: SubmissionRequest, rules: Rules) -> SubmissionSource:
    """The cells of the request."""
    path = Path(request.source)
    return source_of_run(path, rules) if request.is_run else SubmissionSource(path, request.perturbation_key)


def read_report(path: Path) -> Report | None:
    """A kept report; None when there is none yet.

    Raises:
        RunError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        return from_plain(Report, json.loads(path.read_bytes()))
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"The report {path.name} cannot be read.", str(error), "Check the submission again.") from error


def command_of(request: SubmissionRequest) -> str:
    """The command line that does the same."""
    words = ["python", "-m", "state_engine", "submit", "--challenge", request.challenge]
    words += ["--run" if request.is_run else "--data", request.source]
    named = (("--perturbation-key", request.perturbation_key), ("--genes", request.genes), ("--pert-counts", request.pert_counts))
    for option, value in named:
        words += [option, value] if value else []
    for repair in request.repairs:
        words += ["--repair", repair]
    return shlex.join([*words, *(["--output", ARCHIVE] if request.write else ["--dry-run"])])
