"""Errors that readers of foreign bytes raise: typed, with the user's name of the file, and without the places of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import CheckpointError, DataError, StateError, door, without_folders


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No such file: '/home/anna/.state-explorer/uploads/ab12.h5ad'", "No such file: 'ab12.h5ad'"),
        ("in /srv/models/tiny/ now", "in tiny now"),
        ("see https://huggingface.co/arcinstitute/ST/blob/main/README.md", "see https://huggingface.co/arcinstitute/ST/blob/main/README.md"),
        ("obs/perturbation has 3/4 of the cells and/or none; HEK293/T", "obs/perturbation has 3/4 of the cells and/or none; HEK293/T"),
        ("/tmp/a/b.pt, (/x/y/z.csv): damaged", "b.pt, (z.csv): damaged"),
    ],
)  # fmt: skip
def test_paths_are_shortened_to_their_last_name(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_a_door_tells_no_place(tmp_path: Path) -> None:
    missing = tmp_path / "secret" / "file.bin"
    with pytest.raises(DataError, match=r"cells.h5ad cannot be read\. .*No such file or directory") as caught, door("cells.h5ad"):
        missing.read_bytes()
    assert str(tmp_path) not in str(caught.value) and "secret" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"broken: file\.bin") as caught_too, door("model.ckpt", CheckpointError):
        raise RuntimeError(f"broken: {missing}")
    assert str(tmp_path) not in str(caught_too.value)
    with pytest.raises(StateError, match="mine"), door("x"):
        raise StateError("mine")
