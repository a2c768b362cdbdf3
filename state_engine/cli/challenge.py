"""The commands of challenges: `template`, `submit`, `verify`, `score` and `receipts`. Exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from state_engine.challenge.findings import Report
from state_engine.challenge.report import report_lines, report_plain
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.spec import ChallengeSpec, load_challenge
from state_engine.challenge.submit import ARCHIVE, VERIFIED, SubmissionRequest, read_report, spec_of, submit
from state_engine.challenge.template import TemplateRequest, plan_from_template, plan_lines, write_targets
from state_engine.cli.options import CHECKPOINT, JSON, Write, keep_inputs, named_checkpoint, path, request, takes, word, yes
from state_engine.files import scratch_folder
from state_engine.options import command, option_of, split_commas
from state_engine.plain import to_plain
from state_engine.progress import OnProgress


@takes(
    TemplateRequest,
    CHECKPOINT,
    {"--output": path("P.h5ad", "the predictions (not with --dry-run)"), "--dry-run": yes("plan only")},
)
def run_template(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Plan, predict, and print the command that submits. Returns 0 when predicted or, with --dry-run, when it could be."""
    from state_engine.checkpoints.load import card_of
    from state_engine.data.dataset import open_dataset

    options.model = str(named_checkpoint(Path(options.model), options.checkpoint))
    asked = request(TemplateRequest, options)
    if not hasattr(options, "counts.seed"):
        # the seed of the draw is also that of the rounding, unless that has one of its own
        asked = replace(asked, counts=replace(asked.counts, seed=asked.seed))
    spec = spec_of(SubmissionRequest(asked.challenge, "", genes=asked.genes, pert_counts=asked.pert_counts))
    screens = [open_dataset(Path(screen.data), screen.choices()) for screen in asked.measured]
    plan = plan_from_template(asked, open_dataset(Path(asked.data), asked.choices), card_of(Path(asked.model)), spec, screens)
    write("\n".join(plan_lines(plan)))
    if plan.prediction is None or options.dry_run:
        return int(plan.prediction is None)
    if options.output is None:
        write("Nothing was predicted: give --output, or --dry-run to plan only.")
        return 1
    from state_engine.prediction.predict import predict

    targets = options.output.with_suffix(".pert_counts.csv")
    if not asked.pert_counts:
        keep_inputs(options, targets)
    for remark in predict(plan.prediction, options.output, on_progress).remarks:
        write(remark)
    counts = asked.pert_counts or write_targets(targets, plan, spec)
    ready = replace(plan.submission, source=str(options.output), pert_counts=str(counts), write=True)
    write(command(ready, output=ARCHIVE))
    return 0


@takes(SubmissionRequest, JSON, {"--output": path("S.vcc", "the archive (not with --dry-run)")})
def run_submit(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Check cells for a challenge; pack them and verify the archive when nothing is wrong. Returns 1 when anything is."""
    asked = request(SubmissionRequest, options)
    undecided = asked.write and options.output is None
    with scratch_folder() as folder:
        report = submit(replace(asked, write=asked.write and not undecided), folder, on_progress, options.output)
        verified = read_report(folder / VERIFIED)
    _show(report, spec_of(asked), write, options.json)
    if undecided:
        write("Nothing was written: give --output, or --dry-run to check only.")
    damaged = verified is not None and not verified.ok
    if verified is not None and damaged:
        write("The archive was opened again, and this was found in it:")
        _show(verified, spec_of(asked), write, options.json)
    return int(undecided or damaged or not report.ok)


@takes(
    {
        "archive": path("S.vcc", "the archive, from any program"),
        "--challenge": word("NAME", option_of(SubmissionRequest, "challenge").about.help, required=True),
        "--genes": path("G.csv", "the challenge's gene list"),
        "--pert-counts": path("C.csv", "the challenge's list of perturbations"),
        "--contexts": word("A,B,C", "contexts to cover; default: manifest.json beside the lists"),
        "--scratch": path("FOLDER", "where to unpack it for a while; default: the folder of the installation"),
    },
    JSON,
)
def run_verify(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Check an archive. Returns 0 when nothing is wrong with it, else 1."""
    from state_engine.challenge.verify import verify

    contexts = None if options.contexts is None else split_commas(options.contexts)
    spec = load_challenge(options.challenge, genes=options.genes, pert_counts=options.pert_counts, contexts=contexts)
    report = verify(options.archive, spec, scratch=options.scratch, on_progress=on_progress)
    _show(report, spec, write, options.json)
    return int(not report.ok)


def _show(report: Report, spec: ChallengeSpec, write: Write, as_json: bool) -> None:
    if as_json:
        write(json.dumps(report_plain(report), indent=2))
        return
    write("\n".join(report_lines(report, spec)))
    if report.archive and report.ok and spec.rules.upload:
        write(spec.rules.upload.format(archive=report.archive.path))


@takes(ScoreRequest, JSON, {"--output": path("FOLDER", "keep scores.json and scores.csv (by perturbation) there")})
def run_score(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Score predictions by the metrics of a challenge. Returns 0 when there is an overall score, else 1."""
    from state_engine.challenge.score import score
    from state_engine.challenge.scores import score_lines

    with scratch_folder() as scratch:
        folder = options.output or scratch
        folder.mkdir(parents=True, exist_ok=True)
        scores = score(request(ScoreRequest, options), folder, on_progress)
    write(json.dumps(to_plain(scores), indent=2) if options.json else "\n".join(score_lines(scores)))
    return int(scores.overall is None)


@takes(
    {"receipts": path("R.json", "what `vcc status --json` printed, of one submission or several, or scores.json of `score`")},
    JSON,
)
def run_receipts(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Show receipts as a table, and the anchors that two of them determine. Returns 0."""
    from state_engine.challenge.receipts import read_receipts, receipt_lines, solve_anchors

    found = read_receipts(options.receipts)
    plain = {"receipts": [to_plain(r) for r in found], "anchors": [to_plain(a) for a in solve_anchors(found)]}
    write(json.dumps(plain, indent=2) if options.json else "\n".join(receipt_lines(found)))
    return 0
