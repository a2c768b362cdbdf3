"""What foreign bytes might do to the child that reads them."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from state_engine.errors import LabelError


def echo(value: object) -> object:
    return value


def fails() -> None:
    raise LabelError("There is no control.", "Nobody knows.", "Choose one.")


def odd() -> None:
    raise OverflowError("1e999 is too much")


def hangs() -> None:
    time.sleep(60)


def counts() -> None:
    while True:
        pass


def fills(n: int) -> int:
    return len(bytearray(n))


def dies() -> None:
    os.abort()


def reads(path: Path) -> str:
    return path.read_text()


def writes(path: Path) -> str:
    try:
        path.write_text("x" * 100)
    except OSError as error:
        return type(error).__name__
    return "written"


def connects(port: int) -> str:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


def environment() -> list[str]:
    return sorted(os.environ)


class Trojan:
    """No value of STATE Explorer."""


def returns_an_object() -> object:
    return Trojan()
