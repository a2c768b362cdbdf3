"""A child with limits: values and errors come back, and nothing that a file does to it reaches the caller."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import LabelError, StateError, UnreadableFileError, UnsafeFileError
from state_engine.sandbox import Limits, client, isolated, wire
from state_engine.sandbox.limits import confinement
from tests.sandbox import calls
from tests.small import write_cells

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHORT = Limits(seconds=2, memory_mb=512)
needs_landlock = pytest.mark.skipif(not confinement().startswith("Landlock"), reason=f"files: {confinement()}")


def call(function: Any, *arguments: object, limits: Limits = SHORT, writes: tuple[Path, ...] = ()) -> Any:
    return isolated(function, *arguments, reads=(HERE.parent,), name="cells.h5ad", limits=limits, writes=writes)


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, float("inf"), "ü", (1, ("a",)), [1, [2]], {"a": 1, ("x", 2): None}, Path("/a/b"), Choices(control="x")],
    ids=repr,
)
def test_plain_values_come_back(value: object) -> None:
    found = call(calls.echo, value)
    assert found == value and type(found) is type(value)


def test_arrays_and_categories_come_back() -> None:
    for array in (np.arange(6, dtype=np.int16).reshape(2, 3), np.array([1.5, np.nan]), np.array(["a", "ü"]), np.array([])):
        found = call(calls.echo, array)
        assert found.dtype == array.dtype and np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
    names = np.array(["a", "bc"], dtype=object)
    assert call(calls.echo, names).tolist() == names.tolist()
    column = pd.Categorical(["b", None, "a"], categories=["b", "a"])
    assert call(calls.echo, column).equals(column)


def test_bytes_and_tables_come_back() -> None:
    assert call(calls.echo, (b"a\0\xff", "x", b"", np.arange(3)))[0] == b"a\0\xff"
    table = pd.DataFrame({"n": [1, 2], "kind": pd.Categorical(["x", None]), "text": ["a", "ü"]}, index=["c1", "c2"])
    pd.testing.assert_frame_equal(call(calls.echo, table), table)


def test_an_opened_data_set_is_the_same(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.h5ad")
    direct, apart = open_dataset(path), isolated(open_dataset, path, reads=(path,))
    assert apart.table().equals(direct.table()) and apart.notes == direct.notes and apart.scale == direct.scale
    assert np.array_equal(apart.read("X", np.arange(5)), direct.read("X", np.arange(5)))


def test_typed_errors_come_back_whole() -> None:
    with pytest.raises(LabelError) as caught:
        call(calls.fails)
    assert (caught.value.what, caught.value.fix) == ("There is no control.", "Choose one.")


@pytest.mark.parametrize(
    ("function", "arguments", "error", "words"),
    [
        (calls.odd, (), UnreadableFileError, "OverflowError"),
        (calls.hangs, (), UnsafeFileError, "within 2 s"),
        (calls.counts, (), UnsafeFileError, "within 2 s"),
        (calls.fills, (1 << 32,), UnsafeFileError, "0.5 GB of memory"),
        (calls.dies, (), UnreadableFileError, "was stopped"),
        (calls.returns_an_object, (), UnreadableFileError, "does not travel"),
    ],
)
def test_whatever_happens_is_an_error_about_the_file(
    function: Any, arguments: tuple[object, ...], error: type[StateError], words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        call(function, *arguments)
    assert caught.value.what.startswith("cells.h5ad") and time.monotonic() - started < 10
    assert call(calls.echo, 1) == 1, "the next call is served"


@needs_landlock
def test_a_child_reads_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for path in (secret, Path("/etc/passwd")):
        with pytest.raises(UnreadableFileError, match="PermissionError"):
            call(calls.reads, path)
    assert isolated(calls.reads, secret, reads=(HERE.parent, secret)) == "mine"


@needs_landlock
def test_a_child_writes_nothing_and_connects_to_nobody(tmp_path: Path) -> None:
    assert call(calls.writes, tmp_path / "x") == "PermissionError" and not list(tmp_path.iterdir())
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert call(calls.connects, server.getsockname()[1]) == "PermissionError"


def test_a_folder_may_be_written_where_that_is_asked_for(tmp_path: Path) -> None:
    more = Limits(seconds=5, memory_mb=512, written_mb=1)
    assert call(calls.writes, tmp_path / "x", limits=more, writes=(tmp_path,)) == "written"


def test_tokens_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    client._POOL.close()
    assert "HF_TOKEN" not in call(calls.environment)


def test_a_server_that_was_killed_is_replaced() -> None:
    parent = call(os.getppid)
    os.kill(parent, signal.SIGKILL)
    time.sleep(0.2)
    assert call(calls.echo, 2) == 2 and call(os.getppid) != parent


def test_a_message_makes_no_foreign_class() -> None:
    tree = b'{"kind": "dataclass", "module": "subprocess", "name": "Popen", "fields": {}}'
    with pytest.raises(ValueError, match="no value of STATE Explorer"):
        wire.decode(tree, b"")
    with pytest.raises(ValueError, match="an array of"):
        wire.decode(b'{"kind": "array", "dtype": "|O", "shape": [1], "start": 0}', b"AAAAAAAA")


def test_the_caller_needs_no_heavy_import() -> None:
    import subprocess

    code = "import state_engine.sandbox, sys; print([m for m in ('numpy', 'h5py', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_one_server_for_all_calls_which_ends_with_its_process() -> None:
    import subprocess

    code = "import os; from state_engine.sandbox import isolated; print(*{isolated(os.getppid, reads=()) for _ in range(3)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    server = int(done.stdout)  # one number
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}").exists()
