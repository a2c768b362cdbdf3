"""Write a submission archive: one block of cells at a time, the same bytes every time, and only under its name when complete.

Cells are checked and spooled in one reading; then HDF5, zstd, tar, each from the file before it. Everything happens in a temporary
folder beside the output. Nothing of the machine or its user goes into the archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from natsort import natsorted

from state_engine import __version__
from state_engine.challenge.check import PlanChecks, check, check_output, unwritable
from state_engine.challenge.contents import Plan, make_plan
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Archive, Report, found, ordered
from state_engine.challenge.null import null_checked
from state_engine.challenge.source import Labels, SubmissionSource
from state_engine.challenge.spec import ChallengeSpec, fingerprint
from state_engine.data.files.csr_writer import Spool, write_h5ad
from state_engine.errors import ChallengeError, DataError
from state_engine.progress import OnProgress, Progress, silent

PREDICTION = "pred.h5ad.zst"
WATERMARK = "watermark.txt"
META = "meta.json"
WATERMARK_BYTES = b"vcc-prep"
COPY_BYTES = 4 * 1024**2
# workers of zstd: more than none, so that the bytes do not depend on their number
ZSTD_THREADS = 2


def write_archive(
    source: SubmissionSource,
    spec: ChallengeSpec,
    output: Path,
    *,
    repairs: tuple[str, ...] = (),
    counts: CountsOptions | None = None,
    on_progress: OnProgress = silent,
) -> Report:
    """Check a submission and, when nothing is wrong with it, write its archive.

    Args:
        source, spec: the data and the challenge.
        output: the file to make; replaced when it is there.
        repairs: names in `REPAIRS` to make, or "all". Repairs that change no value are always made. All are in the report.
        counts: options of the step from log1p to counts; None leaves the values.
        on_progress: may raise `JobCancelled`; nothing is left behind then.

    Returns:
        The report; `report.archive` is the file, or None when there are errors: then nothing was written.

    Raises:
        ChallengeError: a repair of an unknown name.
    """
    start = time.monotonic()
    problems = check_output(source, output)
    if any(f.severity == "error" for f in problems):
        report = check(source, spec, repairs=repairs, counts=counts, on_progress=on_progress)
        return replace(report, findings=ordered([*report.findings, *problems]))
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as name:
        folder = Path(name)
        plan = null_checked(make_plan(source, spec, repairs, counts, folder), repairs)
        plan = replace(plan, findings=(*plan.findings, *problems))
        try:
            report, spool = _spool(plan, folder, on_progress)
            if report.ok:
                report = replace(report, archive=_pack(plan, spool, report, folder, output, on_progress))
        except OSError as error:
            report = PlanChecks(plan).report([unwritable(output, error)])
    return replace(report, seconds=time.monotonic() - start)


def _spool(plan: Plan, folder: Path, on_progress: OnProgress) -> tuple[Report, Spool]:
    """Read all cells once: check them, and keep them until it is known that nothing is wrong."""
    checks, damage = PlanChecks(plan), []
    spool = Spool(folder)
    spooling = not any(f.severity == "error" for f in plan.findings)
    with spool:
        try:
            for part, untidy in plan.blocks(folder):
                part = checks.add(part, untidy)
                if spooling:
                    spool.add(part)
                on_progress(Progress("Checking cells", checks.done, plan.n_cells))
        except (ChallengeError, DataError) as error:
            damage.append(found("file-damaged", "error", error.what, f"{error.why} {error.fix}".strip()))
    return checks.report(damage), spool


def _pack(plan: Plan, spool: Spool, report: Report, folder: Path, output: Path, on_progress: OnProgress) -> Archive:
    h5ad, packed, archive = folder / "pred.h5ad", folder / PREDICTION, folder / "archive"
    write_h5ad(h5ad, spool, plan.genes, _columns(plan), on_progress)
    h5ad_bytes = h5ad.stat().st_size
    h5ad_hash = compress(h5ad, packed, on_progress)
    h5ad.unlink()
    on_progress(Progress("Packing"))
    members: list[tuple[str, Path | bytes]] = [(PREDICTION, packed), (WATERMARK, WATERMARK_BYTES)]
    if plan.spec.rules.layout == "meta":
        members = [(META, _meta(plan, report)), (PREDICTION, packed)]
    digest = _write_tar(archive, members)
    size = archive.stat().st_size
    archive.replace(output)
    return Archive(str(output), size, digest, h5ad_bytes, h5ad_hash)


def _columns(plan: Plan) -> dict[str, Labels]:
    """Label columns of the archive: as `cell-eval prep` orders their categories (the file's order), or `vcc prep` (natural order)."""
    rules = plan.spec.rules
    columns = {rules.perturbation_key: plan.perturbations}
    if rules.context_key:
        columns[rules.context_key] = plan.contexts
    ordered_as_file = {key: labels for key, labels in columns.items() if labels is not None}
    if rules.layout == "watermark":
        return ordered_as_file
    return {key: _sorted(labels) for key, labels in ordered_as_file.items()}


def _sorted(labels: Labels) -> Labels:
    labels = labels.take(np.ones(len(labels.codes), bool))
    names = natsorted(labels.names)
    new = np.array([names.index(n) for n in labels.names], np.int32)
    return Labels(new[labels.codes], tuple(names))


def _meta(plan: Plan, report: Report) -> bytes:
    labels = plan.perturbations
    names = plan.spec.targets.names if plan.spec.targets else labels.names if labels else ()
    meta = {
        "cli_version": f"state-explorer {__version__}",
        "contexts": list(plan.wanted),
        "n_obs": report.n_cells,
        "n_vars": report.n_genes,
        "nnz": report.n_entries,
        "panel_id": plan.spec.panel_id,
        "perts_fingerprint": fingerprint(names),
        "schema": 1,
    }
    return json.dumps({key: value for key, value in meta.items() if value is not None}, sort_keys=True).encode()


def compress(source: Path, target: Path, on_progress: OnProgress = silent) -> str:
    """zstd, level 3, one frame with content size and checksum. Returns the sha256 of what was compressed (hex)."""
    size, digest, done = source.stat().st_size, hashlib.sha256(), 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True, threads=ZSTD_THREADS)
    with (
        source.open("rb") as reader,
        target.open("wb") as file,
        compressor.stream_writer(file, size=size, closefd=False) as writer,
    ):
        while piece := reader.read(COPY_BYTES):
            digest.update(piece)
            writer.write(piece)
            done += len(piece)
            on_progress(Progress("Compressing", done, size))
    return digest.hexdigest()


def _write_tar(path: Path, members: list[tuple[str, Path | bytes]]) -> str:
    """Uncompressed, members at the root, nobody's. Returns the sha256 of the file (hex)."""
    with path.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            with _opened(content) as (file, info.size):
                tar.addfile(info, file)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _opened(content: Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    if isinstance(content, bytes):
        yield io.BytesIO(content), len(content)
    else:
        with content.open("rb") as file:
            yield file, content.stat().st_size
