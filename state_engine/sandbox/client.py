"""Call a function in a disposable child; whatever a file does to the child, the caller gets a value or a typed error."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from state_engine.errors import StateError, UnreadableFileError, UnsafeFileError
from state_engine.sandbox import wire
from state_engine.sandbox.limits import Limits
from state_engine.sandbox.places import Places

T = TypeVar("T")
AT_ONCE: Final = 4  # children at the same time; further calls wait
FOR_EACH_CALLER: Final = 2  # of them
START_SECONDS: Final = 60.0
PRELOADED: Final = (
    "state_engine.data.dataset",
    "state_engine.data.describe",
    "state_engine.library.zips",
    "state_engine.challenge.spec",
    "state_engine.data.cell_values",
    "state_engine.prediction.result",
)
# variables that a child does not need and a stranger would like
SECRETS: Final = ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL")
ROOT: Final = Path(__file__).resolve().parents[2]


def isolated(
    function: Callable[..., T], *arguments: object, reads: Sequence[Path], name: str = "", limits: Limits | None = None,
    writes: Sequence[Path] = (),
) -> T:  # fmt: skip
    """Return function(*arguments), computed in a child with limits and without rights.

    Args:
        function: a function of a module of `state_engine`; it must not need anything but its arguments.
        arguments: values that `wire` carries.
        reads: files and folders that the child may read.
        name: how the user calls the file, for messages; default: the name of the first path.
        limits: time and memory; default: 60 s, 4 GB.
        writes: folders in which it may make files.

    Raises:
        StateError: what the function raised.
        UnsafeFileError: it took longer, or more memory, than the limits.
        UnreadableFileError: the child stopped without an answer, or the function raised something else.
    """
    limits = limits or Limits()
    name = name or (reads[0].name if reads else "The file")
    target = f"{function.__module__}:{function.__qualname__}"
    readable = [path.resolve() for path in reads]
    with PLACES.held(), _POOL.connection() as connection:
        deadline = time.monotonic() + limits.seconds
        connection.settimeout(limits.seconds)
        pid = 0
        try:
            pid = int(wire.receive(connection))
            wire.send(connection, (target, _absolute(arguments), limits, readable, _absolute(list(writes))))
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            answer = wire.receive(connection)
        except TimeoutError:
            raise _too_slow(name, limits) from None
        except (EOFError, ConnectionError, ValueError) as error:
            raise _stopped(name, limits) from error
        finally:
            _end(pid)
    return _value(answer, name, limits)


def _absolute(value: Any) -> Any:
    """Return a value whose relative paths are absolute: the child has another working folder."""
    if isinstance(value, Path):
        return value.absolute()
    return type(value)(map(_absolute, value)) if type(value) in (list, tuple) else value


def _value(answer: tuple[Any, ...], name: str, limits: Limits) -> Any:
    kind, *parts = answer
    if kind == "value":
        return parts[0]
    if kind == "error" and isinstance(parts[0], StateError):
        raise parts[0]
    if kind == "memory":
        raise UnsafeFileError(
            f"{name} needs more than {limits.memory_mb / 1024:g} GB of memory to be opened.",
            "Real data of this size does not; it may be damaged or made to fill memory.",
            "Export it again with anndata, in parts where it is really that large.",
        )
    why = f"Reading it stopped with {parts[0]}: {' '.join(str(parts[1]).split())[:200]}."
    raise UnreadableFileError(f"{name} is damaged.", why, "Download or export it again.")


def _too_slow(name: str, limits: Limits) -> UnsafeFileError:
    return UnsafeFileError(
        f"{name} could not be opened within {limits.seconds:g} s.",
        "Reading it did not come to an end; it may be damaged or made to hold the server up.",
        "Download or export it again.",
    )


def _stopped(name: str, limits: Limits) -> UnreadableFileError:
    return UnreadableFileError(
        f"{name} cannot be read.",
        f"The process that read it was stopped: it is damaged, or needs more than {limits.seconds:g} s or "
        f"{limits.memory_mb / 1024:g} GB.",
        "Download or export it again.",
    )


def _end(pid: int) -> None:
    """Make sure that a child is gone; it usually is."""
    if pid > 0:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


class _Pool:
    """The server of this process; started at the first call, again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def connection(self) -> socket.socket:
        """Return a socket to a new child."""
        ours, theirs = socket.socketpair()
        with theirs:
            for last in (False, True):
                try:
                    with self._lock:
                        socket.send_fds(self._running(), [b"c"], [theirs.fileno()])
                    return ours
                except (BrokenPipeError, ConnectionError, OSError):
                    self._forget()
                    if last:
                        ours.close()
                        raise
        raise AssertionError("unreachable")

    def _running(self) -> socket.socket:
        if self._control is None or self._owner != os.getpid():  # a fork of this process has a server of its own
            self._control, self._process = _start()
            self._owner = os.getpid()
        return self._control

    def _forget(self) -> None:
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.kill()
                self._process.wait()
            self._control = self._process = None

    def close(self) -> None:
        """Let the server end."""
        if self._owner == os.getpid():
            self._forget()


def _start() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a server and wait until it has imported what it needs."""
    control, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "state_engine.sandbox.server", str(theirs.fileno()), *PRELOADED]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=_environment(), cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    control.settimeout(START_SECONDS)
    if control.recv(1) != b"r":
        control.close()
        process.wait()
        raise ConnectionError("the process that opens files did not start")
    control.settimeout(None)
    return control, process


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in SECRETS)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, **threads, "PYTHONPATH": path}  # one thread: a process with more must not fork


PLACES: Final = Places(AT_ONCE, FOR_EACH_CALLER)
_POOL = _Pool()
atexit.register(_POOL.close)
