"""The commands `submit` and `verify`: arguments, and reports as lines or JSON. Exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.challenge.archive import write_archive
from state_engine.challenge.check import check
from state_engine.challenge.counts import ROUNDINGS, CountsOptions
from state_engine.challenge.findings import REPAIRS, Report
from state_engine.challenge.source import SubmissionSource, source_of_run
from state_engine.challenge.spec import PRESETS, ChallengeSpec, load_challenge
from state_engine.challenge.verify import verify
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, silent

Write = Callable[[str], None]
Subparsers = Any  # argparse has no public name for what add_subparsers returns


def add_submit_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `submit`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "submit",
        help="check predictions and pack them for a challenge",
        description="Check predictions for a challenge, name every problem at once, and pack them when there is none.",
    )
    _add_challenge(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, metavar="P.h5ad", help="the predictions")
    data.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER", help="a run of STATE Explorer, or its result.h5ad")
    parser.add_argument("--output", type=Path, metavar="S.vcc", help="the archive to make (not with --dry-run)")
    parser.add_argument(
        "--controls", type=Path, action="append", default=[], metavar="C.h5ad", help="real control cells; repeatable"
    )
    parser.add_argument("--perturbation-key", default="", metavar="COLUMN", help="obs column of the perturbation in the data")
    parser.add_argument("--context-key", default="", metavar="COLUMN", help="obs column of the context in the data")
    parser.add_argument(
        "--take-context", action="append", default=[], metavar="NAME", help="take only cells of this context; repeatable"
    )
    parser.add_argument("--matrix", default="X", metavar="PLACE", help="X (default) or layers/NAME")
    parser.add_argument("--gene-column", default="", metavar="COLUMN", help="var column of the gene names; default: the index")
    names = ", ".join(name for name, repair in REPAIRS.items() if not repair.automatic)
    parser.add_argument(
        "--repair", action="append", default=[], metavar="NAME", help=f"repair to make, or all: {names}; repeatable"
    )
    parser.add_argument("--to-counts", choices=ROUNDINGS, help="turn log1p values into counts, rounded this way")
    parser.add_argument("--seed", type=int, default=0, help="of the rounding (default 0)")
    parser.add_argument("--library", type=float, metavar="N", help="counts a cell; default: drawn from the cells of --controls")
    parser.add_argument("--dry-run", action="store_true", help="check only")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser


def add_verify_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `verify`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "verify",
        help="check a finished challenge archive",
        description="Open a .vcc archive of anyone's making and check what is in it.",
    )
    parser.add_argument("archive", type=Path, metavar="S.vcc", help="the archive")
    _add_challenge(parser)
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where to unpack it for a while; default: the system's")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser


def run_submit(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Check and pack as the arguments say.

    Returns:
        0 when the archive is written (or, with --dry-run, nothing is wrong), 1 when anything is wrong.

    Raises:
        ChallengeError, ConfigError: arguments that make no sense.
    """
    spec = _spec(options)
    source = _source(options, spec)
    counts = CountsOptions(options.to_counts, options.seed, options.library) if options.to_counts else None
    repairs = tuple(options.repair)
    if options.dry_run or options.output is None:
        report = check(source, spec, repairs=repairs, counts=counts, output=options.output, on_progress=on_progress)
    else:
        report = write_archive(source, spec, options.output, repairs=repairs, counts=counts, on_progress=on_progress)
    _show(report, spec, write, options.json)
    if options.output is None and not options.dry_run:
        write("Nothing was written: give --output, or --dry-run to check only.")
        return 1
    return 0 if report.ok else 1


def run_verify(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Check an archive. Returns 0 when nothing is wrong with it, else 1.

    Raises:
        ChallengeError, ConfigError: arguments that make no sense.
    """
    spec = _spec(options)
    report = verify(options.archive, spec, scratch=options.scratch, on_progress=on_progress)
    _show(report, spec, write, options.json)
    return 0 if report.ok else 1


def report_plain(report: Report) -> dict[str, Any]:
    """A report as JSON values, with `ok` and the repairs on offer."""
    return {"ok": report.ok, **to_plain(report), "offered": [repair.name for repair in report.offered]}


def report_lines(report: Report, spec: ChallengeSpec) -> list[str]:
    """A report for people, a line each."""
    size = f"{report.n_cells:,} cells x {report.n_genes:,} genes, {report.n_entries:,} values, {report.n_perturbations:,} perturbations"
    lines = [f"{spec.rules.title}: {report.source}", f"  {size}"]
    if spec.rules.context_key and report.cells:
        lines.append("  " + ", ".join(f"{context or 'no context'}: {n:,} cells" for context, n in report.cells.items()))
    for finding in report.findings:
        lines.append(f"{finding.severity.upper():8}{finding.title} [{finding.code}]")
        lines += [f"        {finding.detail}"] if finding.detail else []
        if finding.severity != "note" and finding.repair:
            lines.append(f"        --repair {finding.repair}: {REPAIRS[finding.repair].title}.")
    lines += [f"REPAIRED {REPAIRS[name].title}." for name in report.repairs]
    if report.options:
        lines.append("COUNTS  " + ", ".join(f"{key} {value}" for key, value in report.options.items()))
    if report.archive:
        lines.append(f"{report.archive.path}: {report.archive.bytes:,} bytes, sha256 {report.archive.sha256}")
    errors = len(report.errors)
    lines.append(f"{errors} error{'s' * (errors != 1)}." if errors else "No errors.")
    return lines


def _show(report: Report, spec: ChallengeSpec, write: Write, as_json: bool) -> None:
    if as_json:
        write(json.dumps(report_plain(report), indent=2))
        return
    for line in report_lines(report, spec):
        write(line)
    if report.archive and report.ok and spec.rules.upload:
        write(spec.rules.upload.format(archive=report.archive.path))


def _add_challenge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--challenge", required=True, metavar="NAME", help=f"{', '.join(PRESETS)}, or a TOML file")
    parser.add_argument("--genes", type=Path, metavar="G.csv", help="the challenge's gene list")
    parser.add_argument("--pert-counts", type=Path, metavar="C.csv", help="the challenge's list of perturbations")
    parser.add_argument("--contexts", metavar="A,B,C", help="contexts to cover; default: manifest.json beside the lists")


def _spec(options: argparse.Namespace) -> ChallengeSpec:
    contexts = tuple(c.strip() for c in options.contexts.split(",") if c.strip()) if options.contexts is not None else None
    return load_challenge(options.challenge, genes=options.genes, pert_counts=options.pert_counts, contexts=contexts)


def _source(options: argparse.Namespace, spec: ChallengeSpec) -> SubmissionSource:
    controls, taken = tuple(options.controls), tuple(options.take_context)
    if options.run_folder:
        folder: Path = options.run_folder
        return source_of_run(folder / "result.h5ad" if folder.is_dir() else folder, spec.rules, controls, taken)
    return SubmissionSource(
        options.data,
        options.perturbation_key,
        options.context_key,
        options.matrix,
        options.gene_column,
        control_files=controls,
        contexts=taken,
    )
