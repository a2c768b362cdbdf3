"""Foreign files are parsed in a child process without rights, and errors name them as their user does.

One place for every door: data sets, uploads, lists, splits, models. `sandbox` is the child; here is what a file may cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from state_engine.config import Settings
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.errors import StateError
from state_engine.sandbox import Limits, isolated

P = ParamSpec("P")
T = TypeVar("T")
SLOWEST: Final = 20e6  # bytes per second of a slow disk: a large file may take longer than the usual limit
OPENING: Final = Limits(seconds=60.0)
TEXT: Final = Limits(seconds=20.0, memory_mb=1024)


def call(
    function: Callable[..., T], *arguments: object, path: Path | None = None, name: str = "", limits: Limits = OPENING,
    writes: Sequence[Path] = (),
) -> T:  # fmt: skip
    """Return function(*arguments), computed in a child that may read one path.

    Args:
        function: a function of a module of `state_engine`.
        arguments: plain values, paths, arrays and frozen dataclasses.
        path: the foreign file or folder; None when the arguments hold the text itself.
        name: how the user calls it, for messages; default: the name of the path.
        limits: time and memory.
        writes: folders in which the child may make files.

    Raises:
        StateError: what the function raised, with the user's name in the place of the path, or an error about the file.
    """
    reads = () if path is None else (path,)
    shown = name or (path.name if path is not None else "The text")
    try:
        return isolated(function, *arguments, reads=(*reads, *writes), name=shown, limits=limits, writes=writes)
    except StateError as error:
        raise _named(error, path, name) from None


def open_foreign(path: Path, choices: Choices | None = None, settings: Settings | None = None, name: str = "") -> Dataset:
    """Open a data set as `open_dataset` does, in a child.

    Raises:
        DataError: see `open_dataset`; or the file took longer, or more memory, than a file of its kind does.
    """
    return call(open_dataset, path, choices, settings, path=path, name=name, limits=limits_for(path))


def limits_for(path: Path) -> Limits:
    """Return the limits for opening a file of this size."""
    size = path.stat().st_size if path.is_file() else 0
    return Limits(seconds=OPENING.seconds + size / SLOWEST, memory_mb=OPENING.memory_mb)


def _named(error: StateError, path: Path | None, name: str) -> StateError:
    """Return an error that shows the user's name, not where or under which name the server keeps the file."""
    if path is None or not name:
        return error
    parts = [error.what, error.why, error.fix]
    for place in (str(path.resolve()), str(path), path.name):
        parts = [part.replace(place, name) for part in parts]
    if not any(name in part for part in parts):
        parts[0] = f"{name}: {parts[0]}"
    return type(error)(*parts)
