"""The command `template`: predict what a challenge's template asks for, and say how to submit it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from state_engine.challenge.counts import ROUNDINGS, CountsOptions
from state_engine.challenge.spec import PRESETS, load_challenge
from state_engine.challenge.submit import command_of
from state_engine.challenge.template import TemplatePlan, TemplateRequest, plan_from_template, write_targets
from state_engine.cli.challenge import Subparsers, Write
from state_engine.data.dataset import Choices, open_dataset
from state_engine.device import DEVICE_NAMES
from state_engine.progress import OnProgress, silent


def add_template_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `template`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "template",
        help="predict what a challenge asks for",
        description="Predict every perturbation that a challenge's template asks for, with the numbers of cells it wants.",
    )
    add = parser.add_argument
    add("--challenge", required=True, metavar="NAME", help=f"{', '.join(PRESETS)}, or a TOML file")
    add("--data", type=Path, required=True, metavar="T.h5ad", help="the template, or control cells")
    add("--model", type=Path, required=True, metavar="DIR", help="model folder")
    add("--genes", type=Path, metavar="G.csv", help="the challenge's gene list")
    add(
        "--pert-counts", type=Path, metavar="C.csv", help="the challenge's list of perturbations; default: labels of the template"
    )
    add("--context", action="append", default=[], metavar="NAME", help="predict in this context; repeatable")
    add("--unknown", choices=("refuse", "mean"), default="refuse", help="perturbations the model does not know (default refuse)")
    add("--to-counts", choices=ROUNDINGS, default="poisson", help="how log1p becomes counts, where counts are wanted")
    add("--seed", type=int, default=42, metavar="S")
    add("--perturbation-key", metavar="C", help="obs column of the perturbation in the template")
    add("--control", metavar="L", help="its label for control cells")
    add("--context-key", metavar="C", help="obs column of the context in the template")
    add("--device", choices=DEVICE_NAMES, default="auto")
    add("--output", type=Path, metavar="P.h5ad", help="the predictions (not with --dry-run)")
    add("--dry-run", action="store_true", help="say what would be predicted")
    return parser


def run_template(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Plan, predict, and print the command that submits.

    Returns:
        0 when predicted (or, with --dry-run, when it could be), else 1.

    Raises:
        StateError: files that cannot be read, arguments that make no sense.
    """
    from state_engine.checkpoints.load import card_of

    request = _request(options)
    spec = load_challenge(options.challenge, genes=options.genes, pert_counts=options.pert_counts)
    plan = plan_from_template(request, open_dataset(options.data, request.choices), card_of(options.model), spec)
    for line in plan_lines(plan):
        write(line)
    if plan.prediction is None or options.dry_run:
        return int(plan.prediction is None)
    if options.output is None:
        write("Nothing was predicted: give --output, or --dry-run to plan only.")
        return 1
    from state_engine.prediction.predict import predict

    made = predict(plan.prediction, options.output, on_progress)
    for remark in made.remarks:
        write(remark)
    counts = options.pert_counts or write_targets(options.output.with_suffix(".pert_counts.csv"), plan, spec)
    write(command_of(replace(plan.submission, source=str(options.output), pert_counts=str(counts), write=True)))
    return 0


def plan_lines(plan: TemplatePlan) -> list[str]:
    """A plan for people."""
    lines = [f"{len(plan.perturbations):,} perturbations, {plan.cells:,} cells"]
    lines += [f"  {context}: {len(asked):,} perturbations" for context, asked in plan.required.items() if context]
    lines += [f"{f.severity.upper():8}{f.title} {f.detail}".rstrip() for f in plan.findings]
    return lines


def _request(options: argparse.Namespace) -> TemplateRequest:
    return TemplateRequest(
        challenge=options.challenge,
        data=str(options.data),
        model=str(options.model),
        genes=str(options.genes or ""),
        pert_counts=str(options.pert_counts or ""),
        contexts=tuple(options.context),
        unknown=options.unknown,
        choices=Choices(perturbation_key=options.perturbation_key, control=options.control, context_key=options.context_key),
        counts=CountsOptions(options.to_counts, options.seed),
        seed=options.seed,
        device=options.device,
    )
