"""Kinds of jobs for the tests of the worker."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from state_engine.errors import LabelError
from state_engine.files import replacing
from state_engine.jobs.kinds import Kind, WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.progress import OnProgress, Progress


@dataclass(frozen=True)
class Steps:
    total: int
    seconds: float = 0.0


@dataclass(frozen=True)
class NoLabel:
    pass


@dataclass(frozen=True)
class Crash:
    how: str


@dataclass(frozen=True)
class Unserialisable:
    pass


@dataclass(frozen=True)
class Stuck:
    pass


@dataclass(frozen=True)
class Parent:
    pass


@dataclass(frozen=True)
class Fill:
    size: int


@dataclass(frozen=True)
class Grow:
    pieces: int
    size: int
    seconds: float


@dataclass(frozen=True)
class Cached:
    name: str


@dataclass(frozen=True)
class Total:
    total: int


@dataclass(frozen=True)
class Value:
    value: object


@dataclass(frozen=True)
class Loaded:
    loaded: int


REQUESTS = {
    "steps": Steps, "no_label": NoLabel, "crash": Crash, "unserialisable": Unserialisable, "stuck": Stuck, "cached": Cached,
    "fill": Fill, "grow": Grow, "parent": Parent,
}  # fmt: skip
KINDS = tuple(Kind(name, f"{__name__}:{cls.__name__}", f"{__name__}:{name}") for name, cls in REQUESTS.items())


def steps(request: Steps, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """`total` steps of `seconds` each, with a remark, a seed and a file."""
    total = request.total
    run.record(seed=7, settings={"total": total})
    for done in range(total):
        on_progress(Progress("Counting", done, total, "halfway" if done == total // 2 else ""))
        time.sleep(request.seconds)
    on_progress(Progress("Counting", total, total))
    with replacing(run.file("result.txt")) as path:
        path.write_text(str(total))
    return Total(total)


def no_label(request: NoLabel, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """Fails as a verb does."""
    raise LabelError("There is no control.", "No cell is labelled so.", "Choose another label.")


def crash(request: Crash, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """Fails as a bug does."""
    raise {"zero": ZeroDivisionError, "exit": SystemExit, "memory": MemoryError}[request.how]("the cause")


def unserialisable(request: Unserialisable, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Value:
    """Returns what JSON does not know."""
    return Value(object())


def stuck(request: Stuck, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """One long call that never looks whether it is to stop, in the middle of writing a file, with a child process."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with replacing(run.file("result.txt")) as path:
        path.write_text("half")
        on_progress(Progress("Stuck", 0, 0, f"child {child.pid}"))
        time.sleep(60)
    return Total(0)


def parent(request: Parent, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """Looks whether it is to stop, and forgets its child when it does."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    for _ in range(3000):
        on_progress(Progress("Parent", 0, 0, f"child {child.pid}"))
        time.sleep(0.02)
    return Total(0)


def fill(request: Fill, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """Writes a file of a size."""
    with replacing(run.file("result.bin")) as path, path.open("wb") as out:
        for done in range(0, request.size, 1 << 16):
            out.write(bytes(1 << 16))
            on_progress(Progress("Writing", done, request.size, unit="bytes"))
    return Total(request.size)


def cached(request: Cached, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Loaded:
    """Says whether the value was loaded by this job or was warm."""
    loads: list[int] = []
    warm.get_or_load(("model", request.name), lambda: loads.append(1))
    return Loaded(len(loads))


def grow(request: Grow, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Total:
    """Write so many files of a size, with a pause after each."""
    for done in range(request.pieces):
        on_progress(Progress("Writing", done, request.pieces))
        (run.path / f"piece-{done}").write_bytes(bytes(request.size))
        time.sleep(request.seconds)
    return Total(request.pieces)
