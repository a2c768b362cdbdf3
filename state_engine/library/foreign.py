"""Foreign files are parsed in a child process without rights, and errors name them as their user does.

One place for every door: data sets, uploads, lists, splits, models. `sandbox` is the child; here is what a file may cost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from state_engine.config import Settings
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.errors import StateError
from state_engine.sandbox import Limits, isolated
from state_engine.sandbox.limits import MB

P = ParamSpec("P")
T = TypeVar("T")
SLOWEST: Final = 20e6  # bytes per second of a slow disk: a large file may take longer than the usual limit
OPENING: Final = Limits(seconds=60.0)
TEXT: Final = Limits(seconds=20.0, memory_mb=1024)
COSTLY: Final = 5.0  # seconds: a failure that took longer is not tried again at once
FORGET: Final = 600.0  # seconds
MOST_FAILURES: Final = 1024
IN_MEMORY: Final = 8  # bytes of memory for each byte of a file of a run


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
        StateError: what the function raised, with the user's name in the place of the path, or an error about the file. One that cost
            over 5 s is raised again at once for 10 minutes, or until the file changes: a page asks at each of its runs.
    """
    reads = () if path is None else (path,)
    shown = name or (path.name if path is not None else "The text")
    key = _key(function, path)
    _FAILURES.raise_again(key)
    started = time.monotonic()
    try:
        return isolated(function, *arguments, reads=(*reads, *writes), name=shown, limits=limits, writes=writes)
    except StateError as error:
        found = _named(error, path, name)
        if time.monotonic() - started > COSTLY:
            _FAILURES.add(key, found)
        raise found from None


def read_file(function: Callable[..., T], path: Path, *arguments: object, within: Path | None = None) -> T:
    """Return function(path, *arguments), which reads a file of a run, computed in a child: the run may have been copied from anywhere.

    Args:
        function: a function of a module of `state_engine`.
        path: the file.
        arguments: further ones.
        within: a folder that the child may read, where the function reads other files too.

    Raises:
        StateError: as `call`.
    """
    size = path.stat().st_size if path.is_file() else 0
    memory = min(OPENING.memory_mb, TEXT.memory_mb + IN_MEMORY * size // MB)
    limits = Limits(seconds=limits_for(path).seconds, memory_mb=memory)
    return call(function, path, *arguments, path=within or path, name=path.name, limits=limits)


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


@dataclass
class _Failures:
    """What could not be read, and cost a lot to try."""

    found: dict[object, tuple[float, StateError]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, key: object, error: StateError) -> None:
        with self.lock:
            if len(self.found) >= MOST_FAILURES:
                self.found.clear()
            self.found[key] = time.monotonic(), type(error)(error.what, error.why, error.fix)  # without its trace

    def raise_again(self, key: object) -> None:
        """Raise what failed lately for this key; do nothing where nothing did."""
        when, error = self.found.get(key, (0.0, None))
        if error is not None and time.monotonic() - when < FORGET:
            raise type(error)(error.what, error.why, error.fix)


_FAILURES = _Failures()


def _key(function: Callable[..., object], path: Path | None) -> object:
    """Return what tells a reading of a file, as it is now, from others; None for what is no file."""
    if path is None or not path.exists():
        return object()
    facts = path.stat()
    return function.__module__, function.__qualname__, str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


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
