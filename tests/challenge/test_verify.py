"""Archives of anyone's making: whole ones pass, damaged and hostile ones are reported, none raises."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zstandard

from state_engine.challenge.archive import write_archive
from state_engine.challenge.verify import verify
from tests.challenge.conftest import Submission

Members = dict[str, bytes]


def made(submission: Submission) -> Path:
    path = submission.folder / "s.vcc"
    assert write_archive(submission.source(), submission.spec(), path).ok
    return path


def read(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def write(path: Path, members: Members, mode: str = "w", owner: str = "") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.uname = len(content), owner
            tar.addfile(info, io.BytesIO(content))


def change_h5ad(change: Callable[[h5py.File], None]) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        file = io.BytesIO(zstandard.ZstdDecompressor().decompress(members["pred.h5ad.zst"]))
        with h5py.File(file, "r+") as h5:
            change(h5)
        members["pred.h5ad.zst"] = zstandard.ZstdCompressor().compress(file.getvalue())

    return spoil


def poke(key: str, value: float) -> Callable[[Members], None]:
    def change(file: h5py.File) -> None:
        file[key][5] = value

    return change_h5ad(change)


def swap_genes(file: h5py.File) -> None:
    names = file["var/_index"][:]
    file["var/_index"][:] = names[::-1]


def link_away(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("/etc/hostname", "X")


def store_zeros(file: h5py.File) -> None:
    file["X/data"][:4] = 0


def meta_says(**changes: object) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        members["meta.json"] = json.dumps({**json.loads(members["meta.json"]), **changes}).encode()

    return spoil


def reverse(members: Members) -> None:
    items = list(members.items())
    members.clear()
    members.update(reversed(items))


def replace_labels(value: object, part: str = "") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        place = f"obs/target_gene{part}"
        del file[place]
        file[place] = value

    return change


BAD_2025: dict[str, tuple[Callable[[Members], object], str, str]] = {
    "no prediction": (lambda m: m.pop("pred.h5ad.zst"), "archive-unreadable", "error"),
    "empty prediction": (lambda m: m.update({"pred.h5ad.zst": b""}), "archive-unreadable", "error"),
    "not zstd": (lambda m: m.update({"pred.h5ad.zst": b"plain text that is not compressed"}), "archive-unreadable", "error"),
    "zstd cut off": (lambda m: m.update({"pred.h5ad.zst": m["pred.h5ad.zst"][:-50]}), "archive-unreadable", "error"),
    "zstd of something else": (lambda m: m.update({"pred.h5ad.zst": zstandard.compress(b"hello")}), "file-unreadable", "error"),
    "no watermark": (lambda m: m.pop("watermark.txt"), "members-missing", "error"),
    "watermark with newline": (lambda m: m.update({"watermark.txt": b"vcc-prep\n"}), "watermark", "error"),
    "one member more": (lambda m: m.update({"../notes.txt": b"x"}), "members-extra", "warning"),
    "too many members": (lambda m: m.update({f"{i}": b"" for i in range(99)}), "archive-unreadable", "error"),
    "other order": (reverse, "members-order", "note"),
    "NaN": (poke("X/data", np.nan), "values-nan", "error"),
    "negative": (poke("X/data", -1), "values-negative", "error"),
    "genes in other order": (change_h5ad(swap_genes), "genes-order", "error"),
    "stored zeros": (change_h5ad(store_zeros), "not-sparse", "note"),
    "link to another file": (change_h5ad(link_away), "file-unreadable", "error"),
    "labels are nothing": (change_h5ad(replace_labels(h5py.Empty("f4"))), "file-unreadable", "error"),
    "labels are one word": (change_h5ad(replace_labels("TNF")), "file-unreadable", "error"),
    "names are nothing": (change_h5ad(replace_labels(h5py.Empty("f4"), "/categories")), "file-unreadable", "error"),
    "codes are complex": (change_h5ad(replace_labels(np.zeros(72, complex), "/codes")), "file-unreadable", "error"),
    "codes wrap round": (change_h5ad(replace_labels(np.full(72, 2**32), "/codes")), "file-unreadable", "error"),
    "control renamed": (poke("obs/target_gene/codes", 1), "cells-per-perturbation", "warning"),
}

BAD_2026: dict[str, tuple[Callable[[Members], object], str, str]] = {
    "no meta": (lambda m: m.pop("meta.json"), "members-missing", "warning"),
    "meta is not JSON": (lambda m: m.update({"meta.json": b"[" * 20000}), "meta-unreadable", "warning"),
    "meta of another size": (meta_says(nnz=5), "meta-wrong", "error"),
    "meta of another phase": (meta_says(contexts=["D", "E", "F"]), "meta-wrong", "error"),
    "meta of another panel": (meta_says(perts_fingerprint="sha256:0"), "meta-wrong", "error"),
    "fractions": (poke("X/data", 0.5), "values-fractional", "error"),
    "cell in another context": (poke("obs/context/codes", 1), "cells-per-perturbation", "error"),
}


@pytest.mark.parametrize("name", BAD_2025)
def test_bad_2025(vcc2025: Submission, name: str) -> None:
    check_bad(vcc2025, *BAD_2025[name])


@pytest.mark.parametrize("name", BAD_2026)
def test_bad_2026(vcc2026: Submission, name: str) -> None:
    check_bad(vcc2026, *BAD_2026[name])


def check_bad(submission: Submission, spoil: Callable[[Members], object], code: str, severity: str) -> None:
    path = made(submission)
    assert verify(path, submission.spec()).codes() == {"gene-list-length"}
    members = read(path)
    spoil(members)
    write(path, members)
    report = verify(path, submission.spec(), scratch=submission.folder)
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}
    assert report.ok is (severity != "error")
    assert not [p for p in submission.folder.iterdir() if p.name.startswith(".")]


def test_a_good_archive_tells_what_is_in_it(vcc2026: Submission) -> None:
    path = made(vcc2026)
    report, written = verify(path, vcc2026.spec()), write_archive(vcc2026.source(), vcc2026.spec(), path)
    assert report.ok
    assert report.archive == written.archive
    assert (report.n_cells, report.n_genes, report.n_perturbations) == (60, 30, 5)
    assert report.cells == {"A": 20, "B": 20, "C": 20}


def test_files_that_are_no_archives(vcc2025: Submission) -> None:
    path = made(vcc2025)
    members, content = read(path), path.read_bytes()
    text, cut, folder = path.with_name("text.vcc"), path.with_name("cut.vcc"), path.parent
    text.write_text("not an archive")
    cut.write_bytes(content[: len(content) // 3])
    zipped = path.with_name("zipped.vcc")
    write(zipped, members, "w:gz")
    for bad in (text, cut, folder, zipped, path.with_name("absent.vcc")):
        report = verify(bad, vcc2025.spec())
        assert not report.ok
        assert report.codes("error") & {"archive-unreadable", "file-unreadable"}


def test_the_packer_is_named(vcc2025: Submission) -> None:
    path = made(vcc2025)
    write(path, read(path), owner="maria")
    report = verify(path, vcc2025.spec())
    assert [f.examples for f in report.findings if f.code == "owner-named"] == [("maria",)]


def test_a_bomb_is_stopped(vcc2025: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB of zeros in a few kilobytes, with a limit of 1 MB."""
    monkeypatch.setenv("STATE_EXPLORER_MAX_DECLARED_GB", "0.001")
    path = made(vcc2025)
    members = read(path)
    members["pred.h5ad.zst"] = zstandard.compress(bytes(64 * 1024**2))
    write(path, members)
    report = verify(path, vcc2025.spec(), scratch=vcc2025.folder)
    assert "archive-unreadable" in report.codes("error")


@pytest.mark.parametrize("start", [b"", b"\x89HDF\r\n\x1a\n"], ids=["zeros", "begins as HDF5"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_bomb_is_refused_with_little_written(vcc2025: Submission, start: bytes, declared: bool) -> None:
    path, total = vcc2025.folder / "bomb.vcc", 1 << 29
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=len(start) + total if declared else -1)
    pieces = [compressor.compress(start), *(compressor.compress(bytes(1 << 22)) for _ in range(128)), compressor.flush()]
    write(path, {"pred.h5ad.zst": b"".join(pieces), "watermark.txt": b"vcc-prep"})
    written = 0

    def watch(_: object) -> None:
        nonlocal written
        written = max(written, *(f.stat().st_size for f in vcc2025.folder.rglob(".unpacked-*/*")))

    report = verify(path, vcc2025.spec(), scratch=vcc2025.folder, on_progress=watch)
    finding = next(f for f in report.findings if f.code == "archive-unreadable")
    assert "times as large as the archive" in finding.detail and written <= 5_000 * path.stat().st_size
    assert declared <= (written == 0) and (start or written <= 200 * path.stat().st_size)
    assert not list(vcc2025.folder.glob(".unpacked-*"))


def test_cells_that_are_all_alike_are_no_bomb(vcc2025: Submission) -> None:
    """A mean as the prediction of many cells is one row again and again: 16 MB of it shrink a thousandfold."""
    row = np.random.default_rng(0).random(5_000, dtype=np.float32)
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["X/data"] = np.tile(row, 800)
    path = vcc2025.folder / "mean.vcc"
    write(path, {"pred.h5ad.zst": zstandard.compress(file.getvalue()), "watermark.txt": b"vcc-prep"})
    assert len(file.getvalue()) > 500 * path.stat().st_size
    found = verify(path, vcc2025.spec()).codes()
    assert "file-unreadable" in found and "archive-unreadable" not in found


def test_a_damaged_sparse_map_of_the_tar_is_a_finding(vcc2025: Submission) -> None:
    path = vcc2025.folder / "sparse.vcc"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("pred.h5ad.zst")
        info.size, info.pax_headers = 10, {"GNU.sparse.map": "a,b", "GNU.sparse.size": "9"}
        tar.addfile(info, io.BytesIO(b"x" * 10))
    found = next(f for f in verify(path, vcc2025.spec()).findings if f.code == "archive-unreadable")
    assert "sparse.vcc" in found.title
