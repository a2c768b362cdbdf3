"""What a command writes never lands on, or in, what it reads: one check for all commands, of the paths as they were given.

The verbs check too (`files.free_output`), but know a converted data set only by its copy. Boundary: paths; nothing is opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from state_engine.errors import RequestError
from state_engine.files import apart_from
from state_engine.options import options_of

OUTPUTS: Final = ("output", "labels", "lancedb", "attention")  # where they are paths: --attention of `predict` is a word


def keep_inputs(options: argparse.Namespace, *beside: Path) -> None:
    """Make sure, before any work, that no output of a command is one of its inputs or lies in a data set that is a folder.

    Args:
        options: of a command, as they were given.
        beside: further files that it writes.

    Raises:
        RequestError: one is, or two outputs are the same file, or one is a device, a pipe or a socket.
    """
    named = (getattr(options, name, None) for name in OUTPUTS)
    outputs = [*(path for path in named if isinstance(path, Path)), *beside]
    inputs = [*_data_sets(options), *_files(options)]
    for number, output in enumerate(outputs):
        apart_from(output, *inputs)
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise RequestError(f"{output.name} is named twice.", "Two results are two files.", "Give another name.")


def _data_sets(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the data sets of a command, which may be folders."""
    requests = [one for one in options.run_command.requests if isinstance(one, type)]
    fields = {one.path for request in requests for one in options_of(request) if one.about.data}
    for field in {"data", *fields}:
        yield from _paths(getattr(options, field, None))


def _files(options: argparse.Namespace) -> Iterator[Path]:
    """Yield every other value of the options that names a file: lists, tables, checkpoints, a split as '@FILE'."""
    for field, value in vars(options).items():
        if field not in OUTPUTS or not isinstance(value, Path):
            yield from filter(_is_file, _paths(value))


def _paths(value: object) -> Iterator[Path]:
    """Yield the words and paths of an option; its items may be lists of words."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, str | Path) and str(value):
        yield Path(str(value).removeprefix("@"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a word too long for a name
        return False
