"""The command line: the same verbs as the pages. Errors go to standard error as sentences, and the exit code is 1.

Only the module of the command on the command line is imported.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from state_engine import __version__
from state_engine.cli.options import add_command, as_typed, keep_inputs
from state_engine.config import load_settings
from state_engine.errors import RequestError, StateError
from state_engine.files import disk_full, free_bytes
from state_engine.plain import visible
from state_engine.progress import OnProgress, Progress

# command -> the module beside this one that has its function `run_COMMAND`, and what it does
COMMANDS = {
    "app": ("serve", "start the pages in the browser, with the demo"),
    "worker": ("serve", "do the jobs of the pages, in a process of its own"),
    "runs": ("runs", "list runs; export, import and ask for several at once"),
    "people": ("people", "list who logged in; give a person what was there before"),
    "inspect": ("data", "describe a data set, and whether a model fits it"),
    "fetch": ("data", "download a public data set"),
    "prepare": ("results", "choose the most variable genes of a data set"),
    "gene": ("data", "read genes of all cells, which are kept by gene from then on"),
    "label": ("data", "write labels given by hand into a copy of a data set"),
    "predict": ("predict", "predict perturbed cells"),
    "screen": ("screen", "rank every perturbation of a model by what it does to the cells"),
    "de": ("results", "test which genes a prediction changes"),
    "enrich": ("genes", "which gene sets a prediction changes, or how high they stand in each group of cells"),
    "targets": ("genes", "whether perturbations that name a gene move it, measured or predicted"),
    "attention": ("results", "which cells of a set a model looks at"),
    "tables": ("results", "write all tables of a run as CSV in one zip"),
    "report": ("results", "write the report of a run as one HTML file that opens offline"),
    "train": ("train", "train a State Transition model"),
    "pretrain": ("pretrain", "pretrain a State Embedding model on one or more data sets"),
    "calibrate": ("train", "fit how much of a trained model's effect to take beside the mean of other contexts"),
    "test": ("evaluate", "test a trained model on its held-out cells, beside baselines"),
    "finetune": ("heads", "fit a head that calls labels or numbers of cells from their vectors"),
    "annotate": ("heads", "apply a head to cells, or to predicted cells beside measured ones"),
    "evaluate": ("evaluate", "compare predicted with measured cells, beside baselines"),
    "compare": ("evaluate", "compare two runs, models, perturbations, contexts, seeds, or a prediction and a measurement"),
    "embed": ("embed", "embed cells with a State Embedding model"),
    "decode": ("embed", "decode log expression of chosen genes from embeddings"),
    "query": ("embed", "find the most similar stored cells of each cell"),
    "template": ("challenge", "predict what a challenge asks for"),
    "submit": ("challenge", "check predictions and pack them for a challenge"),
    "verify": ("challenge", "check a finished challenge archive"),
    "score": ("challenge", "score predictions against held-out measured cells"),
    "download": ("models", "download a published model from the hub and convert it"),
    "receipts": ("challenge", "a table of scored submissions, and the anchors behind their scores"),
    "convert": ("models", "convert an arc-state run directory to our format (safetensors and JSON)"),
    "demo": ("models", "rebuild the demo's data set and model"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 an error that is reported, 2 options that are not understood."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser(words[:1]).parse_args(words)
    options.typed = tuple(words)
    try:
        keep_inputs(options)
        return int(options.run_command(options, say, _on_terminal()) or 0)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        told = _told(error, getattr(options, "output", None))
        if not isinstance(told, StateError | OSError):  # a defect of the engine
            raise
        for line in _lines(told):
            say(line, file=sys.stderr)
        return 1


def start() -> int:
    """Run the console script `state-explorer`: the same commands, and the pages where none is named."""
    return main(sys.argv[1:] or ["app"])


def _told(error: Exception, output: object) -> Exception:
    """Return what an error comes from, where that is the disk of the output or of the installation's home."""
    try:
        home = load_settings().home.absolute()
    except StateError as wrong:  # settings that are wrong
        return wrong
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        place = Path(str(error.filename)).absolute()
        if place == home or place.is_relative_to(home) or home.is_relative_to(place):
            return RequestError(
                f"{home} cannot be written.",
                f"{error.strerror}.",
                "Set STATE_EXPLORER_HOME to a folder in which files can be made.",
            )
    places = [*([output.absolute().parent] if isinstance(output, Path) else []), home]
    return disk_full(error, min(places, key=free_bytes), RequestError) or error


def _lines(error: StateError | OSError) -> Iterator[str]:
    """Yield the lines that tell people of an error."""
    if isinstance(error, StateError):
        yield from filter(None, (error.what, error.why, error.fix))
    else:  # of a path or a disk: the engine's doors raise errors of their own
        place = f": {error.filename}" if error.filename else ""
        yield f"{error.strerror or error}{place}"


def say(text: object = "", file: TextIO | None = None, begin: str = "", end: str = "\n") -> None:
    """Print text that may hold names of files, genes and labels: no character of theirs is a code of the terminal.

    Args:
        file: standard output where none is given.
        begin: own codes before the text, such as the return to the start of a line.
    """
    print(begin + visible(as_typed(str(text)), most=None, keep="\n\t"), end=end, file=file, flush=not end)


def build_parser(wanted: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the options of those that are wanted; by default of all."""
    parser = argparse.ArgumentParser(prog="python -m state_engine", description="STATE single-cell perturbation models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if wanted is None or name in wanted:
            run = getattr(import_module(f"state_engine.cli.{module}"), f"run_{name}")
            add_command(command, run)
            command.set_defaults(run_command=run)
    return parser


def _on_terminal() -> OnProgress:
    """Progress on one line of a terminal; one line for each stage and remark where standard error is a file."""
    last_stage, last_time = "", 0.0
    live = sys.stderr.isatty()

    def report(progress: Progress) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        new = progress.stage != last_stage
        if progress.message:
            say(progress.message, file=sys.stderr, begin="\n" if live else "")
        if live and (new or now - last_time > 0.2 or progress.done == progress.total):
            counts = f" {progress.done:,}/{progress.total:,}" if progress.total else ""
            say(f"{progress.stage}{counts}", file=sys.stderr, begin="\r\033[K", end="")
            last_time = now
        elif new and not live:
            say(progress.stage, file=sys.stderr)
        last_stage = progress.stage

    return report
