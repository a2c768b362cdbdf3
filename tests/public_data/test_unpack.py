"""Zips from elsewhere: good ones come whole, bad ones leave nothing behind."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from state_engine.errors import DataError, JobCancelled, StateError, UnsafeFileError
from state_engine.progress import Progress
from state_engine.public_data.unpack import UnpackLimits, unpack

Fill = Callable[[zipfile.ZipFile], None]


def made(tmp_path: Path, fill: Fill) -> Path:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return path


def member(name: str, mode: int = 0, content: str = "content") -> Fill:
    def fill(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("placeholder")
        info.filename, info.external_attr = name, mode << 16
        archive.writestr(info, content)

    return fill


def members(*names: str) -> Fill:
    return lambda archive: [archive.writestr(name, "content") for name in names] and None


def test_a_zip_is_unpacked_beside_and_named_when_whole(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.mkdir("set")
        archive.writestr("set/a.txt", "a" * 100)
        archive.writestr("set/b/c.txt", "c")

    seen: list[Progress] = []
    path = made(tmp_path, fill)
    files = unpack(path, tmp_path / "out", on_progress=seen.append)
    assert [str(f.relative_to(tmp_path / "out")) for f in files] == ["set/a.txt", "set/b/c.txt"]
    assert files[0].read_text() == "a" * 100 and (seen[-1].done, seen[-1].total) == (101, 101)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set.zip"]


BAD: dict[str, tuple[Fill, str]] = {
    "absolute": (member("/etc/passwd"), "leads elsewhere"),
    "up": (member("set/../../evil"), "leads elsewhere"),
    "only up": (member(".."), "leads elsewhere"),
    "backslash": (member("..\\evil"), "leads elsewhere"),
    "drive": (member("C:/evil"), "leads elsewhere"),
    "empty part": (member("set//x"), "leads elsewhere"),
    "dot": (member("./x"), "leads elsewhere"),
    "null": (member("a\0b"), "leads elsewhere"),
    "newline": (member("a\nb"), "cannot be a file's"),
    "long": (member("x" * 300), "cannot be a file's"),
    "link": (member("link", stat.S_IFLNK | 0o777, "/etc/passwd"), "link or a device"),
    "device": (member("device", stat.S_IFBLK | 0o600), "link or a device"),
    "twice": (members("a", "A"), "Two members"),
    "file as folder": (members("a", "a/b"), "below a member that is a file"),
    "many": (members(*map(str, range(21))), "lists 21 files"),
    "large": (lambda a: a.writestr("x", b"0123456789" * 3_000), "up to 20.0 kB are accepted"),
    "bomb": (lambda a: a.writestr("x", b"\0" * 19_000), "times as large"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_safe_is_refused_before_a_byte_is_written(tmp_path: Path, kind: str) -> None:
    fill, words = BAD[kind]
    path = made(tmp_path, fill)
    with pytest.raises(UnsafeFileError, match=words):
        unpack(path, tmp_path / "out", UnpackLimits(files=20, nbytes=20_000, ratio=50))
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"content")
    data[at : at + 7] = b"CONTENT"
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def longer_than_declared(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (3).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damaged, "CRC"),
        (encrypted, "encrypted"),
        (longer_than_declared, "cannot be unpacked|could not be unpacked|can be unpacked"),
        (lambda p: p.write_bytes(b"not a zip"), "not a zip"),
        (lambda p: p.write_bytes(b""), "not a zip"),
        (lambda p: p.write_bytes(p.read_bytes()[:-30]), "not a zip"),
    ],
)
def test_damage_is_said_and_nothing_is_left(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "content")
    spoil(path)
    with pytest.raises(StateError, match=words):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise JobCancelled("enough")

    path = made(tmp_path, members("a", "b"))
    with pytest.raises(JobCancelled):
        unpack(path, tmp_path / "out", on_progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        unpack(made(tmp_path, members("a")), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
