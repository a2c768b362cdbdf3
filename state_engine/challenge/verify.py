"""Open an archive of anyone's making and check what is in it, as strictly as what goes in.

The archive is not trusted: members are found by name and never unpacked by their own path, sizes are bounded before anything is
written, and links inside the HDF5 file are refused. The prediction is unpacked to a temporary file, a piece at a time.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import zstandard

from state_engine.challenge.archive import COPY_BYTES, META, PREDICTION, WATERMARK, WATERMARK_BYTES
from state_engine.challenge.check import check
from state_engine.challenge.findings import Archive, Finding, Report, found, ordered
from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.spec import ChallengeSpec, fingerprint
from state_engine.config import GB, load_settings
from state_engine.data.files.unpacking import ALIKE_RATIO, RATIO, Unpacking
from state_engine.errors import ChallengeError, door, listed
from state_engine.files import open_regular, scratch_folder
from state_engine.progress import OnProgress, Progress, silent

MAX_MEMBERS = 64
MAX_SMALL_BYTES = 64 * 1024
MAX_FRAME_HEADER_BYTES = 18
MAX_UNDECLARED_BYTES = 16 * GB  # of a frame that does not say how large its content is; a whole panel has some 5 GB
MAX_WINDOW_BYTES = 2**27
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
AGAIN = "Pack it again."


@dataclass(frozen=True)
class _Unpacked:
    """What came out of an archive: the sha256 and size of the h5ad, and what meta.json says ({} without)."""

    sha256: str
    bytes: int
    meta: dict[str, Any]


def verify(archive: Path, spec: ChallengeSpec, *, scratch: Path | None = None, on_progress: OnProgress = silent) -> Report:
    """Everything that is wrong with an archive: the container, the labels and the values.

    Args:
        archive: a .vcc file.
        scratch: folder for the unpacked prediction (as large as the h5ad inside); below the home of the installation for None.
        on_progress: may raise `JobCancelled`.
    """
    start = time.monotonic()
    findings: list[Finding] = []
    with scratch_folder(load_settings(), scratch) as folder:
        h5ad = folder / "pred.h5ad"
        try:
            with door(archive.name, ChallengeError, AGAIN):
                unpacked = _unpack(archive, h5ad, spec, findings, on_progress)
                report = check(SubmissionSource(h5ad), spec, on_progress=on_progress)
        except ChallengeError as error:
            findings.append(found("archive-unreadable", "error", error.what, f"{error.why} {error.fix}".strip()))
            report = Report(spec.rules.name, str(archive), findings=ordered([*spec.problems, *findings]))
            return replace(report, seconds=time.monotonic() - start)
    findings += _repairs_needed(report)
    findings += _check_meta(unpacked.meta, report, spec) if spec.rules.layout == "meta" else []
    size, digest = _hash(archive)
    return replace(
        report,
        source=str(archive),
        findings=ordered([*(f for f in report.findings if f.repair not in ("reorder-genes", "sparsify")), *findings]),
        repairs=(),
        archive=Archive(str(archive), size, digest, unpacked.bytes, unpacked.sha256),
        seconds=time.monotonic() - start,
    )


def _unpack(archive: Path, h5ad: Path, spec: ChallengeSpec, findings: list[Finding], on_progress: OnProgress) -> _Unpacked:
    try:
        with open_regular(archive) as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            members = _members(tar)
            findings += _check_members(members, spec)
            findings += _check_watermark(tar, members) if spec.rules.layout == "watermark" else []
            meta = _read_meta(tar, members, findings) if spec.rules.layout == "meta" else {}
            prediction = next((m for m in members if _plain(m.name) == PREDICTION and m.isreg()), None)
            content = tar.extractfile(prediction) if prediction else None
            if content is None:
                names = listed([m.name for m in members]) or "nothing"
                raise ChallengeError(f"{archive.name} has no {PREDICTION}.", f"It has {names}.", "Pack it again.")
            with h5ad.open("wb") as file, door(PREDICTION, ChallengeError, AGAIN):
                return _decompress(content, file, _meter(archive, h5ad.parent), findings, meta, on_progress)
    except tarfile.TarError as error:
        raise ChallengeError(f"{archive.name} is not an uncompressed tar archive.", f"{error}.", AGAIN) from error
    except OSError as error:
        raise ChallengeError(f"{archive.name} cannot be read.", f"{error.strerror or error}.", "Check the path.") from error


def _meter(archive: Path, folder: Path) -> Unpacking:
    """Return what bounds the unpacking of a prediction; in it all cells may be alike, as where a mean is the prediction."""
    most = load_settings().max_declared_bytes
    fix = "Pack the prediction again, or open the .h5ad itself."
    return Unpacking(archive.name, archive.stat().st_size, folder, most, ALIKE_RATIO, ChallengeError, fix)


def _members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members: list[tarfile.TarInfo] = []
    for member in tar:
        members.append(member)
        if len(members) >= MAX_MEMBERS:
            raise ChallengeError("The archive has too many members.", f"More than {MAX_MEMBERS}.", "Pack it again.")
    return members


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _check_members(members: list[tarfile.TarInfo], spec: ChallengeSpec) -> list[Finding]:
    wanted = [PREDICTION, WATERMARK] if spec.rules.layout == "watermark" else [META, PREDICTION]
    names = [m.name for m in members]
    out = []
    missing = [n for n in wanted if n not in names and n != PREDICTION]
    if missing:
        # the scorer of vcc2026 reads archives without meta.json; the page of vcc2025 asked for the watermark
        severity = "error" if spec.rules.layout == "watermark" else "warning"
        out.append(found("members-missing", severity, "Members of the archive are missing.", "Pack it again.", names=missing))  # type: ignore[arg-type]
    extra = [n for n in names if _plain(n) not in wanted]
    if extra:
        out.append(found("members-extra", "warning", "The archive has members that do not belong there.", names=extra))
    elif not missing and names != wanted:
        out.append(found("members-order", "note", "The members are in another order or place than usual.", names=names))
    owners = sorted({m.uname for m in members if m.uname} | {f"user {m.uid}" for m in members if m.uid})
    if owners:
        out.append(found("owner-named", "warning", "The archive names the account that packed it.", names=owners))
    return out


def _small(tar: tarfile.TarFile, members: list[tarfile.TarInfo], name: str) -> bytes | None:
    member = next((m for m in members if m.name == name and m.isreg() and m.size <= MAX_SMALL_BYTES), None)
    content = tar.extractfile(member) if member else None
    return content.read() if content else None


def _check_watermark(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> list[Finding]:
    content = _small(tar, members, WATERMARK)
    if content is None or content == WATERMARK_BYTES:
        return []
    fix = "Pack it again."
    return [found("watermark", "error", f"{WATERMARK} is not what the packer writes.", fix, names=[repr(content[:20])])]


def _read_meta(tar: tarfile.TarFile, members: list[tarfile.TarInfo], findings: list[Finding]) -> dict[str, Any]:
    content = _small(tar, members, META)
    if content is None:
        return {}
    try:
        meta = json.loads(content)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        findings.append(found("meta-unreadable", "warning", f"{META} is not a JSON object."))
        return {}
    return meta


def _decompress(
    content: IO[bytes], file: IO[bytes], meter: Unpacking, findings: list[Finding], meta: dict[str, Any], on_progress: OnProgress
) -> _Unpacked:
    head = content.read(MAX_FRAME_HEADER_BYTES)
    content.seek(0)
    frame = zstandard.get_frame_parameters(head)
    declared = 0 if frame.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) else frame.content_size
    if not declared or not frame.has_checksum:
        findings.append(found("frame", "note", "The compressed prediction lacks its content size or checksum."))
    if declared:
        meter.expect(declared)
    meter.most = declared or min(meter.most, MAX_UNDECLARED_BYTES)
    digest = hashlib.sha256()
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with decompressor.stream_reader(content, read_across_frames=True, closefd=False) as reader:
        while piece := reader.read(COPY_BYTES):
            if not meter.done and not piece.startswith(HDF5_SIGNATURE):
                meter.ratio = RATIO  # no cells, so none that are alike
            meter.write(piece, file)
            digest.update(piece)
            on_progress(Progress("Unpacking", meter.done, declared, unit="bytes"))
    if declared and meter.done != declared:
        raise ChallengeError(f"{PREDICTION} is cut off.", f"It unpacks to {meter.done:,} of {declared:,} bytes.", AGAIN)
    return _Unpacked(digest.hexdigest(), meter.done, meta)


def _repairs_needed(report: Report) -> list[Finding]:
    """In an archive nothing is put into order any more: what would be an automatic repair is a problem."""
    out = []
    for finding in report.findings:
        if finding.repair == "reorder-genes":
            out.append(replace(finding, severity="error", repair=None, detail=f"{finding.examples}. Pack it again."))
        if finding.code == "not-genes":
            # in an archive they are there, for a scorer that takes every row for a gene
            out.append(replace(finding, severity="error", detail="Pack it again without them."))
        if finding.repair == "sparsify":
            out.append(replace(finding, severity="note", repair=None, detail="The archive is larger than it need be."))
    return out


def _check_meta(meta: dict[str, Any], report: Report, spec: ChallengeSpec) -> list[Finding]:
    is_true: dict[str, Any] = {"schema": 1, "n_obs": report.n_cells, "n_vars": report.n_genes, "nnz": report.n_entries}
    if spec.contexts:
        is_true["contexts"] = list(spec.contexts)
    if spec.targets:
        is_true["perts_fingerprint"] = fingerprint(spec.targets.names)
    wrong = [f"{key} is {meta[key]} instead of {value}" for key, value in is_true.items() if key in meta and meta[key] != value]
    if not wrong:
        return []
    return [found("meta-wrong", "error", f"{META} contradicts the prediction or the challenge.", "Pack it again.", names=wrong)]


def _hash(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(COPY_BYTES):
            digest.update(piece)
    return path.stat().st_size, digest.hexdigest()


def unpack_prediction(archive: Path, h5ad: Path, spec: ChallengeSpec) -> Path:
    """The prediction inside an archive, as a file.

    Raises:
        ChallengeError: it cannot be read.
    """
    with door(archive.name, ChallengeError, AGAIN):
        _unpack(archive, h5ad, spec, [], silent)
    return h5ad
