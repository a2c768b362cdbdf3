"""Uploads on their way: pieces count when they are whole, stop and go on, and stay within limits."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.data.files.folder_archive import zip_of_folder
from state_engine.errors import QuotaError, RequestError, StateError, UnreadableFileError, UnsafeFileError
from state_engine.library import arriving
from state_engine.library.arriving import Arriving, Piece, arrived, begin, check_whole, drop, offset
from state_engine.library.datasets import adopt_upload, list_datasets
from tests.small import write_cells

ID, OTHER = "0" * 32, "1" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home").of("anna")


def send(settings: Settings, identity: str, start: int, content: bytes, checksum: str = "") -> int:
    with Piece(settings, identity, start) as piece:
        piece.write(content)
        return piece.keep(checksum)


def test_pieces_make_a_file(settings: Settings) -> None:
    content = os.urandom(300)
    upload = Arriving(ID, "cells.h5ad", 300, "box", "tab")
    assert (begin(settings, upload), offset(settings, ID, "tab")) == (0, 0)
    assert send(settings, ID, 0, content[:100], hashlib.sha256(content[:100]).hexdigest()) == 100
    assert begin(settings, upload) == 100 and arrived(settings, "box", "tab") == ()
    send(settings, ID, 100, content[100:])
    check_whole(settings, ID, hashlib.sha256(content).hexdigest())
    ((found, place),) = arrived(settings, "box", "tab")
    assert found == upload and place.read_bytes() == content
    assert (
        arrived(settings, "another box", "tab") == ()
        and arrived(settings.of("bert"), "box", "tab") == ()
        and offset(settings.of("bert"), ID, "tab") == 0
    )
    assert arrived(settings, "box", "another tab") == ()
    assert begin(settings, replace(upload, session="another tab")) == 300  # as after a reload
    assert arrived(settings, "box", "tab") == () and len(arrived(settings, "box", "another tab")) == 1
    drop(settings, ID)
    assert arrived(settings, "box", "another tab") == ()


def test_a_piece_that_stops_or_is_damaged_does_not_count(settings: Settings) -> None:
    begin(settings, Arriving(ID, "cells.h5ad", 300, "box", "tab"))
    send(settings, ID, 0, b"a" * 50)
    with pytest.raises(ConnectionError), Piece(settings, ID, 50) as piece:
        piece.write(b"b" * 20)
        raise ConnectionError
    with pytest.raises(RequestError, match="damaged on their way"):
        send(settings, ID, 50, b"b" * 20, "0" * 64)
    assert offset(settings, ID, "tab") == 50
    for start in (0, 49, 51):
        with pytest.raises(RequestError, match="not the next bytes"):
            send(settings, ID, start, b"c")
    with pytest.raises(RequestError, match="More bytes"):
        send(settings, ID, 50, b"c" * 251)
    assert offset(settings, ID, "tab") == 50


def test_a_file_with_another_checksum_is_dropped(settings: Settings) -> None:
    begin(settings, Arriving(ID, "cells.h5ad", 3, "box", "tab"))
    send(settings, ID, 0, b"abc")
    with pytest.raises(RequestError, match="checksum differs"):
        check_whole(settings, ID, "0" * 64)
    assert arrived(settings, "box", "tab") == () and offset(settings, ID, "tab") == 0


def test_what_is_too_much_is_refused_before_a_byte_is_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(settings, max_file_bytes=1000, quota_bytes=1500)
    with pytest.raises(UnsafeFileError, match="are accepted here"):
        begin(settings, Arriving(ID, "cells.h5ad", 1001, "box", "tab"))
    begin(settings, Arriving(ID, "cells.h5ad", 1000, "box", "tab"))
    with pytest.raises(QuotaError):  # what is still to come counts
        begin(settings, Arriving(OTHER, "more.h5ad", 600, "box", "tab"))
    monkeypatch.setattr(arriving, "MOST", 1)
    with pytest.raises(QuotaError, match="Too many"):
        begin(settings, Arriving(OTHER, "more.h5ad", 1, "box", "tab"))
    huge = replace(settings, max_file_bytes=10**18, quota_bytes=None)
    monkeypatch.setattr(arriving, "MOST", 9)
    with pytest.raises(StateError, match="of disk are free"):
        begin(huge, Arriving(OTHER, "huge.h5ad", 10**17, "box", "tab"))
    assert [path.name for path in (settings.home / "incoming").iterdir()] == [ID]


@pytest.mark.parametrize("identity", ["", "x", "../" * 10 + "ab", "0" * 31 + "/", "0" * 33])
def test_ids_lead_nowhere_else(settings: Settings, identity: str) -> None:
    for ask in (lambda: offset(settings, identity, "tab"), lambda: drop(settings, identity)):
        with pytest.raises(RequestError, match="not the id"):
            ask()


@pytest.mark.parametrize("name", ["", "../cells.h5ad", "a/b.h5ad", "a\\b.h5ad", "x" * 256])
def test_names_are_names(settings: Settings, name: str) -> None:
    with pytest.raises(RequestError, match="not the name"):
        begin(settings, Arriving(ID, name, 3, "box", "tab"))


def stopped(path: Path, name: str) -> None:
    raise KeyboardInterrupt


def test_a_file_that_came_becomes_a_data_set(settings: Settings, tmp_path: Path) -> None:
    path = write_cells(tmp_path / "sent.h5ad")
    entry = adopt_upload(settings, "cells.h5ad", path)
    assert not path.exists() and Path(entry.path).is_relative_to(settings.home) and entry.name == "cells.h5ad"
    assert entry.id in [e.id for e in list_datasets(settings)] and entry.id not in [e.id for e in list_datasets(settings.of(""))]
    (tmp_path / "bad").write_bytes(b"no cells")
    with pytest.raises(StateError):
        adopt_upload(settings, "bad.h5ad", tmp_path / "bad")
    path = write_cells(tmp_path / "sent.h5ad")
    with pytest.raises(KeyboardInterrupt):  # as when a page runs again: the next one takes it
        adopt_upload(settings, "cells.h5ad", path, opened=stopped)
    assert path.exists() and (tmp_path / "bad").exists()
    assert len(list(settings.uploads.iterdir())) == 1


def folder(path: Path, source: Path) -> Path:
    """Write a folder as the browser sends it."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            archive.add(file, arcname=str(file.relative_to(source.parent)))
    return path


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning", "ignore:Consolidated")
def test_a_folder_that_came_becomes_a_data_set(settings: Settings, tmp_path: Path) -> None:
    import anndata

    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        anndata.read_h5ad(write_cells(tmp_path / "c.h5ad")).write_zarr(tmp_path / "cells.zarr")
    entry = adopt_upload(settings, "cells.zarr.folder.tar", folder(tmp_path / "sent", tmp_path / "cells.zarr"))
    assert entry.name == "cells.zarr" and anndata.read_h5ad(entry.path).n_obs == 160


def test_only_files_come_out_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "sent.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("x/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UnsafeFileError, match="x/link"):
        zip_of_folder(path, tmp_path / "out.zip", "x")
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UnreadableFileError):
        zip_of_folder(path, tmp_path / "out.zip", "x")
    with tarfile.open(path, "w") as archive:
        one = tarfile.TarInfo("x/.zgroup")
        one.size = 2
        archive.addfile(one, io.BytesIO(b"{}"))
    zip_of_folder(path, tmp_path / "out.zip", "x")
    assert zipfile.ZipFile(tmp_path / "out.zip").read("x/.zgroup") == b"{}"
