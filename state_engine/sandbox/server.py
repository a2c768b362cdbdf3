"""The process that forks a child for each call; started by `client`, one for each caller's process.

It has imported what the calls need, so that a child is there in milliseconds. It never touches foreign bytes itself. A call comes as a
socket, handed over by its caller; the child answers on it and ends. When the caller's process ends, the control socket closes and so does
this process.

    python -m state_engine.sandbox.server DESCRIPTOR MODULE …
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from state_engine.errors import StateError
from state_engine.sandbox import wire
from state_engine.sandbox.limits import confine, confinement

REAP_SECONDS: Final = 1.0


def serve(control: socket.socket) -> None:
    """Fork a child for each socket that arrives, until the other side closes."""
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([control], [], [], REAP_SECONDS)
        children = {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0] == 0}
        if not ready:
            continue
        word, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not word or not descriptors:
            break
        pid = os.fork()
        if pid == 0:
            control.close()
            with socket.socket(fileno=descriptors[0]) as connection:
                _answer(connection)
            os._exit(0)
        os.close(descriptors[0])
        children.add(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _answer(connection: socket.socket) -> None:
    """Do one call and send what came of it: ("value", …), ("error", StateError), ("memory",) or ("odd", class, text)."""
    os.setsid()
    wire.send(connection, os.getpid())
    target, arguments, limits, reads, writes = wire.receive(connection)
    try:
        confine(limits, reads, writes)
        function = _function(target)
        wire.send(connection, ("value", function(*arguments)))
    except StateError as error:
        wire.send(connection, ("error", error))
    except MemoryError:
        wire.send(connection, ("memory",))
    except BaseException as error:  # noqa: BLE001 - foreign bytes fail in ways that no list of types covers
        wire.send(connection, ("odd", type(error).__name__, str(error)[:300]))


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def main(arguments: list[str]) -> None:
    """Import what the calls need, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's; the closing socket ends this process
    for module in arguments[1:]:
        import_module(module)
    confinement()  # imports what a child takes its rights away with
    with socket.socket(fileno=int(arguments[0])) as control:
        control.sendall(b"r")
        serve(control)


if __name__ == "__main__":
    main(sys.argv[1:])
