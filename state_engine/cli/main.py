"""The command line: the same verbs as the pages. Errors go to standard error as sentences, and the exit code is 1."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import state_engine.cli.calibrate as calibrating
import state_engine.cli.challenge as challenge
import state_engine.cli.data as public
import state_engine.cli.embed as embedding
import state_engine.cli.search as search
import state_engine.cli.template as template
import state_engine.cli.train as training
from state_engine import __version__
from state_engine.cli import evaluate as evaluation
from state_engine.cli import held_out
from state_engine.cli import score as scoring
from state_engine.data.dataset import Choices
from state_engine.device import DEVICE_NAMES, PRECISIONS
from state_engine.errors import StateError
from state_engine.prediction.request import METHODS
from state_engine.progress import OnProgress, Progress

CHECKPOINT = "which .ckpt of an arc-state run directory; default: final, best, last, else the latest step"
ATTENTION = ("full", "causal", "causal-rotary")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 an error that is said, 2 words that are not understood."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except StateError as error:
        for line in filter(None, (error.what, error.why, error.fix)):
            print(line, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m state_engine", description="STATE single-cell perturbation models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_predict(commands)
    _add_convert(commands)
    _add_demo(commands)
    template.add_template_parser(commands).set_defaults(run=lambda o: template.run_template(o, print, _on_terminal()))
    challenge.add_submit_parser(commands).set_defaults(run=lambda o: challenge.run_submit(o, print, _on_terminal()))
    scoring.add_score_parser(commands).set_defaults(run=lambda o: scoring.run_score(o, print, _on_terminal()))
    evaluation.add_evaluate_parser(commands).set_defaults(run=lambda o: evaluation.run_evaluate(o, print, _on_terminal()))
    calibrating.add_calibrate_parser(commands).set_defaults(run=lambda o: calibrating.run_calibrate(o, print, _on_terminal()))
    training.add_train_parser(commands).set_defaults(run=lambda o: training.run_train(o, print, _on_terminal()))
    held_out.add_test_parser(commands).set_defaults(run=lambda o: held_out.run_test(o, print, _on_terminal()))
    challenge.add_verify_parser(commands).set_defaults(run=lambda o: challenge.run_verify(o, print, _on_terminal()))
    embedding.add_embed_parser(commands).set_defaults(run=lambda o: embedding.run_embed(o, print, _on_terminal()))
    embedding.add_decode_parser(commands).set_defaults(run=lambda o: embedding.run_decode(o, print, _on_terminal()))
    public.add_fetch_parser(commands).set_defaults(run=lambda o: public.run_fetch(o, print, _on_terminal()))
    search.add_query_parser(commands).set_defaults(run=lambda o: search.run_query(o, print, _on_terminal()))
    return parser


def _add_columns(command: argparse.ArgumentParser) -> None:
    command.add_argument("--perturbation-key", metavar="C", help="obs column of the perturbation")
    command.add_argument("--control", metavar="L", help="its label for control cells")
    command.add_argument("--context-key", metavar="C", help="obs column of the context (cell type, line); '' for none")
    command.add_argument("--batch-key", metavar="C", help="obs column of the batch; '' for none")
    command.add_argument("--scale", choices=("counts", "log1p"), help="expression scale of X; default: from the values")
    command.add_argument("--gene-column", metavar="C", help="var column with the gene names; default: the best match")


def _choices(options: argparse.Namespace) -> Choices:
    return Choices(
        perturbation_key=options.perturbation_key,
        control=options.control,
        context_key=options.context_key,
        batch_key=options.batch_key,
        scale=options.scale,
        gene_column=options.gene_column,
    )


def _model(options: argparse.Namespace) -> Path:
    """Return the model's folder, or the checkpoint of it that was named."""
    if options.checkpoint is None:
        return options.model
    from state_engine.checkpoints.recognise import find_checkpoint

    return find_checkpoint(options.model, options.checkpoint)


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("inspect", help="say what is in a data set, and whether a model fits it")
    command.add_argument("data", type=Path, metavar="X.h5ad")
    command.add_argument("--model", type=Path, metavar="DIR", help="check this model against it")
    command.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    command.add_argument("--json", action="store_true", help="as JSON")
    _add_columns(command)
    command.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from state_engine.data.dataset import open_dataset
    from state_engine.data.describe import describe, summary_lines
    from state_engine.plain import to_plain

    dataset = open_dataset(options.data, _choices(options))
    facts = describe(dataset)
    lines = list(summary_lines(dataset))
    blocked = False
    if options.model:
        from state_engine.checkpoints.load import card_of
        from state_engine.prediction.compatibility import check_compatibility

        report = check_compatibility(dataset, card_of(_model(options)))
        facts["compatibility"] = to_plain(report.findings)
        lines += ["", f"With the model {options.model.name}:"]
        lines += [f"  [{f.severity}] {f.title}: {f.detail} {f.fix}".rstrip() for f in report.findings]
        blocked = bool(report.blocking)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(lines))
    return int(blocked)


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("predict", help="predict perturbed cells")
    add = command.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="model folder, ours or an arc-state run directory")
    add("--checkpoint", metavar="FILE", help=CHECKPOINT)
    add("--data", type=Path, required=True, metavar="X.h5ad")
    add("--output", type=Path, required=True, metavar="Y.h5ad")
    add("--replay", action="store_true", help="replace every cell by a simulated one, as `state tx infer` does")
    add("--perturbation", action="append", default=[], metavar="NAME", help="may be given several times")
    add("--perturbations-file", type=Path, metavar="F", help="one name a line")
    add("--all", action="store_true", help="every perturbation the model knows")
    add("--context", action="append", default=[], metavar="NAME", help="may be given several times; default: all with controls")
    add("--cells", type=int, default=256, metavar="N", help="cells per perturbation and context (default 256)")
    add("--seed", type=int, default=42, metavar="S")
    _add_columns(command)
    add("--embedding-key", metavar="K", help="representation to read in a replay, instead of the one the model names")
    add("--set-size", type=int, metavar="N", help="cells in a set; default: the model's")
    add("--device", choices=DEVICE_NAMES, default="auto")
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--attention", choices=ATTENTION, help="default: the model's")
    add(
        "--allow-unknown",
        action="store_true",
        help="unknown labels fall back to the control and the first batch; rows are marked",
    )
    add("--allow-other-embedding", action="store_true", help="read embeddings of another embedding model; recorded in the result")
    add("--unknown-effect", choices=("control", "mean"), default="control", help="with --allow-unknown: what stands in for them")
    add("--observed", type=int, default=512, metavar="N", help="most measured cells kept a condition, to compare with")
    add(
        "--method",
        choices=METHODS,
        default="model",
        help="predict with a baseline instead, made of the effects saved with the model",
    )
    add("--no-raw", action="store_true", help="leave the uncorrected prediction out of the file")
    command.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    if options.replay:
        return _replay(options)
    from state_engine.checkpoints.load import card_of
    from state_engine.prediction.predict import predict
    from state_engine.prediction.request import PredictionRequest

    request = PredictionRequest(
        data=str(options.data),
        model=str(_model(options)),
        perturbations=_perturbations(options, lambda: card_of(_model(options)).perturbations),
        contexts=tuple(options.context),
        cells=options.cells,
        seed=options.seed,
        choices=_choices(options),
        set_size=options.set_size,
        device=options.device,
        precision=options.precision,
        attention=options.attention,
        allow_unknown=options.allow_unknown,
        allow_other_embedding=options.allow_other_embedding,
        unknown_effect=options.unknown_effect,
        keep_raw=not options.no_raw,
        observed=options.observed,
        method=options.method,
    )
    made = predict(request, options.output, _on_terminal())
    conditions = len(made.contexts) * len(made.perturbations)
    print(f"{options.output}: {made.cells:,} predicted cells, {conditions} conditions, on {made.device}")
    for remark in made.remarks:
        print(remark)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from state_engine.prediction.replay import ReplayRequest, replay

    request = ReplayRequest(
        data=str(options.data),
        model=str(_model(options)),
        choices=_choices(options),
        seed=options.seed,
        set_size=options.set_size,
        device=options.device,
        precision=options.precision,
        attention=options.attention,
        embedding_key=options.embedding_key,
        allow_unknown=options.allow_unknown,
    )
    made = replay(request, options.output, _on_terminal())
    print(f"{options.output}: {made['simulated']:,} of {made['cells']:,} cells simulated, on {made['device']}")
    return 0


def _perturbations(options: argparse.Namespace, known: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    names = list(options.perturbation)
    if options.perturbations_file:
        text = options.perturbations_file.read_text(encoding="utf-8")
        names += [line.strip() for line in text.splitlines() if line.strip()]
    if options.all:
        names += known()
    return tuple(dict.fromkeys(names))


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("convert", help="an arc-state run directory to our format (safetensors and JSON)")
    command.add_argument("--model", type=Path, required=True, metavar="ARC_DIR")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    command.add_argument("--name", help="what to call it; default: the directory's name")
    command.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from state_engine.checkpoints.arc.read import convert
    from state_engine.checkpoints.embedding_store import convert_embedding, is_embedding

    if is_embedding(options.model):
        made = convert_embedding(options.model, options.output, options.name, options.checkpoint)
        print(
            "\n  ".join((f"{options.output}: {made.name}, {len(made.vocabulary):,} genes, {made.width:,} columns", *made.notes))
        )
        return 0
    card = convert(options.model, options.output, options.name, options.checkpoint)
    print(f"{options.output}: {card.name}, {len(card.perturbations):,} perturbations, attention {card.attention}")
    for note in (card.attention_source, *card.notes):
        print(f"  {note}")
    return 0


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("demo", help="make the demo's data set and model again")
    command.add_argument("--rebuild", action="store_true", required=True)
    command.add_argument("--output", type=Path, metavar="DIR", help="default: where the app looks for it")
    command.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from state_engine.demo.transition import rebuild
    from state_engine.library.datasets import DEMO_PATH

    output = options.output or DEMO_PATH.parent
    card = rebuild(output, _on_terminal()).card
    print(f"{output}: {card.name}")
    for name, value in card.training.scores.items():
        print(f"  {name}: {value:.4f}")
    return 0


def _on_terminal() -> OnProgress:
    """Progress on one line of a terminal; one line a stage and remark where standard error is a file."""
    last_stage, last_time = "", 0.0
    live = sys.stderr.isatty()

    def report(progress: Progress) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        new = progress.stage != last_stage
        if progress.message:
            print(("\n" if live else "") + progress.message, file=sys.stderr)
        if live and (new or now - last_time > 0.2 or progress.done == progress.total):
            counts = f" {progress.done:,}/{progress.total:,}" if progress.total else ""
            print(f"\r\033[K{progress.stage}{counts}", end="", file=sys.stderr, flush=True)
            last_time = now
        elif new and not live:
            print(progress.stage, file=sys.stderr)
        last_stage = progress.stage

    return report
