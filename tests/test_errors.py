"""Errors that readers of foreign bytes raise: typed, with the user's name of the file, and without the places of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import CheckpointError, DataError, StateError, door, may_be, near_each, without_folders


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


def test_names_that_are_spelled_nearly_so_are_offered() -> None:
    known = ("STAT1", "STAT2", "IL6", "TP53", "IFN-beta")
    near = near_each(["STATT1", "il-6", "NOSUCH", "IFN_Beta"], known)
    assert near == (("STATT1", ("STAT1", "STAT2")), ("il-6", ("IL6",)), ("IFN_Beta", ("IFN-beta",)))
    assert may_be(near[:2]) == "'STATT1' may be 'STAT1' or 'STAT2', 'il-6' may be 'IL6'."
    assert may_be(near_each(["NOSUCH"], known)) == ""
    assert near_each(["STATT1", "il-6"], known, cutoff=1) == (("il-6", ("IL6",)),)


def test_near_names_are_sought_for_a_few_names_only() -> None:
    """Thousands of wrong names take no longer than five; those of the same letters are still found."""
    many = [f"GENEX{n}" for n in range(2000)]
    near = dict(near_each([*many, "g-1"], ["GENEX", "G1"]))
    assert len(near) == 6 and near["g-1"] == ("G1",) and near["GENEX0"] == ("GENEX",)
