"""What comes out of an archive is bounded while it is written, with the numbers in the sentence; scratch goes away."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from state_engine.config import Settings
from state_engine.data.files.unpacking import RATIO, RESERVE, Unpacking
from state_engine.errors import CheckpointError, StateError, UnsafeFileError
from state_engine.files import scratch_folder


def meter(folder: Path, **changes: object) -> Unpacking:
    return Unpacking(**{"name": "cells.zip", "packed": 1_000, "folder": folder, "most": 10**9, **changes})  # type: ignore[arg-type]


def test_real_data_come_out(tmp_path: Path) -> None:
    one, out = meter(tmp_path), io.BytesIO()
    one.expect(200_000)
    for _ in range(20):
        one.write(b"x" * 10_000, out)
    assert one.done == len(out.getvalue()) == 200_000


def test_more_than_the_ratio_is_refused_before_it_is_written(tmp_path: Path) -> None:
    one, out = meter(tmp_path), io.BytesIO()
    with pytest.raises(UnsafeFileError, match=r"cells.zip is not unpacked. .* at least 300 times .*\(1.0 kB\).* 200 times"):
        for _ in range(9):
            one.write(b"\0" * 100_000, out)
    assert len(out.getvalue()) == 200_000 <= RATIO * 1_000
    with pytest.raises(UnsafeFileError, match="is 5,000 times"):
        meter(tmp_path).expect(5_000_000)


def test_more_than_is_allowed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has 2.0 GB; up to 1.0 GB"):
        meter(tmp_path, packed=10**8, kind=CheckpointError).expect(2 * 10**9)
    one = meter(tmp_path, most=50)
    with pytest.raises(StateError, match=r"at least 0.1 kB; up to 0.1 kB"):
        one.write(b"x" * 51, io.BytesIO())


def test_a_reserve_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=RESERVE + 1_000))
    one = meter(tmp_path)
    one.write(b"x" * 1_000, io.BytesIO())
    with pytest.raises(
        UnsafeFileError, match=r"needs at least 2.0 kB .*536.9 MB are free, of which 536.9 MB stay free.* Make room"
    ):
        one.write(b"x" * 1_001, io.BytesIO())


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(UnsafeFileError, match=r"No space left on device.*Check space"),
    ):
        meter(tmp_path).write(b"x", full)  # type: ignore[arg-type]


def test_scratch_lies_below_the_home_and_goes_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(Settings(tmp_path)) as folder:
        assert folder.is_relative_to(tmp_path / "scratch")
        (folder / "x").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "scratch").iterdir()) == []
