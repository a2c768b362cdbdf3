"""The kinds of files that are tried: how a good one is made, how it is spoilt, and the door through which people open it."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import zstandard

from state_engine.challenge.archive import PREDICTION, WATERMARK, write_archive
from state_engine.challenge.spec import load_challenge
from state_engine.challenge.verify import verify
from state_engine.checkpoints.arc.embedding import read_arc_embedding
from state_engine.checkpoints.arc.read import read_arc
from state_engine.config import DEMO, Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.describe import describe, summary_lines
from state_engine.errors import StateError
from state_engine.library import shelf, zips
from state_engine.public_data.unpack import unpack
from tests.challenge.conftest import small_2025
from tests.data.good_files import cells, write
from tests.fuzz.mutate import spoil_bytes, spoil_hdf5, spoil_pickle, spoil_torch_zip
from tests.small import write_cells

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Args:
        good: makes the good files in a folder, once.
        spoil: makes a spoilt one of them in a folder of its own: (good folder, own folder, chance, outside, marker).
        open: goes through the public door: (own folder).
    """

    good: Callable[[Path], None]
    spoil: Callable[[Path, Path, random.Random, Path, Path], None]
    open: Callable[[Path], object]


def _good_h5ad(folder: Path) -> None:
    for layout in ("csr", "csc", "dense"):
        write(cells(layout=layout), folder / f"{layout}.h5ad", compression="gzip" if layout == "csc" else None)
    write_cells(folder / "screen.h5ad", embedding=6)


def _spoil_h5ad(good: Path, own: Path, chance: random.Random, outside: Path, marker: Path) -> None:
    path = own / "cells.h5ad"
    shutil.copyfile(chance.choice(sorted(good.iterdir())), path)
    structured = chance.random() < 0.6
    if structured:
        spoil_hdf5(path, chance, outside)
    if not structured or chance.random() < 0.1:
        path.write_bytes(spoil_bytes(path.read_bytes(), chance))


def _open_h5ad(own: Path) -> object:
    data = open_dataset(own / "cells.h5ad", settings=Settings(own))
    rows = np.arange(min(20, data.n_cells))
    values = [float(np.nansum(data.read(matrix.name, rows))) for matrix in data.representations]
    return describe(data), summary_lines(data), data.table().to_string(), values


def _good_checkpoint(folder: Path) -> None:
    for name in ("state_sm", "lora", "features", "embedding_decoder", "embedding/one_layer"):
        shutil.copytree(FIXTURES / name, folder / name.replace("/", "_"))


def _spoil_checkpoint(good: Path, own: Path, chance: random.Random, outside: Path, marker: Path) -> None:
    shutil.copytree(chance.choice(sorted(good.iterdir())), own / "model")
    weights = next((own / "model").rglob("*.ckpt"))
    others = [p for p in sorted((own / "model").rglob("*")) if p.suffix in (".pkl", ".pt", ".torch", ".yaml")]
    path = weights if not others or chance.random() < 0.6 else chance.choice(others)
    raw = path.read_bytes()
    if path.suffix == ".yaml" or chance.random() < 0.3:
        path.write_bytes(spoil_bytes(raw, chance))
    elif zipfile.is_zipfile(path):
        path.write_bytes(spoil_torch_zip(raw, chance, marker))
    else:
        path.write_bytes(spoil_pickle(raw, chance, marker))


def _open_checkpoint(own: Path) -> object:
    folder = own / "model"
    weights = folder / "se.ckpt"
    return read_arc_embedding(weights) if weights.exists() else read_arc(folder)


def _good_zip(folder: Path) -> None:
    from tests.small import write_model

    write_model(folder / "small")
    shutil.copytree(DEMO / "model", folder / "demo", ignore=shutil.ignore_patterns("losses.csv"))


def _spoil_zip(good: Path, own: Path, chance: random.Random, outside: Path, marker: Path) -> None:
    source = good / chance.choice(("small", "small", "small", "demo"))
    members = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    kind = chance.choice(("archive", "archive", "member", "card", "header", "name"))
    if kind == "member":
        name = chance.choice(sorted(members))
        members[name] = spoil_bytes(members[name], chance)
    elif kind == "card":
        members["model.json"] = _spoil_json(members["model.json"], chance)
    elif kind == "header":
        raw = members["model.safetensors"]
        length = int.from_bytes(raw[:8], "little")
        header = _spoil_json(raw[8 : 8 + length], chance)
        members["model.safetensors"] = len(header).to_bytes(8, "little") + header + raw[8 + length :]
    elif kind == "name":
        odd = ("../model.json", "/model.json", "a/b/c/model.json", "model.json\0.txt", "CON", "x" * 300, "mod\u00e9l.json", "..")
        members[chance.choice(odd)] = members.pop(chance.choice(sorted(members)))
    how = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(own / "model.zip", "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members.items():
            archive.writestr(name, content)
    if kind == "archive":
        (own / "model.zip").write_bytes(spoil_bytes((own / "model.zip").read_bytes(), chance))


def _spoil_json(raw: bytes, chance: random.Random) -> bytes:
    """Replace one value, wherever it lies."""
    whole = json.loads(raw)
    place = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and len(place[key]) and chance.random() < 0.7:
            place = place[key]
            continue
        break
    odd = (None, "", [], {}, -1, 2**70, 1e300, float("inf"), float("nan"), True, "x" * 10_000, [[[1]]], {"a": {"b": 1}}, "\u0000")
    place[key] = chance.choice(odd)
    return json.dumps(whole).encode()


def _here(function: Callable[..., object], *arguments: object, **_: object) -> object:
    return function(*arguments)


def _open_zip(own: Path) -> object:
    """Both doors for zips: that of a download first, which leaves the archive where it is."""
    settings = Settings(own / "home")
    problems = []
    for read in (lambda: unpack(own / "model.zip", own / "unpacked"), lambda: zips.import_zip(own / "model.zip", settings)):
        # each trial is in a child of its own, so that the program's own children would only take time to start
        with patch.object(zips, "call", _here), patch.object(shelf, "call", _here):
            try:
                read()
            except StateError as error:
                problems.append(error)
    if problems:
        raise problems[-1]
    return None


def _good_vcc(folder: Path) -> None:
    submission = small_2025(folder)
    assert write_archive(submission.source(), submission.spec(), folder / "good.vcc").ok


def _spoil_vcc(good: Path, own: Path, chance: random.Random, outside: Path, marker: Path) -> None:
    for name in ("gene_names.csv", "pert_counts.csv"):
        shutil.copyfile(good / name, own / name)
    path = own / "s.vcc"
    shutil.copyfile(good / "good.vcc", path)
    kind = chance.choice(("tar", "compressed", "prediction", "structure", "structure", "list"))
    if kind == "tar":
        path.write_bytes(spoil_bytes(path.read_bytes(), chance))
        return
    if kind == "list":
        chosen = own / chance.choice(("gene_names.csv", "pert_counts.csv"))
        chosen.write_bytes(spoil_bytes(chosen.read_bytes(), chance))
        return
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    packed = members[PREDICTION]
    if kind == "compressed":
        packed = spoil_bytes(packed, chance)
    else:
        h5ad = own / "inside.h5ad"
        h5ad.write_bytes(zstandard.ZstdDecompressor().decompress(packed))
        if kind == "structure":
            spoil_hdf5(h5ad, chance, outside)
        else:
            h5ad.write_bytes(spoil_bytes(h5ad.read_bytes(), chance))
        packed = zstandard.compress(h5ad.read_bytes())
        h5ad.unlink()
    with tarfile.open(path, "w") as tar:
        for name, content in {**members, PREDICTION: packed, WATERMARK: members[WATERMARK]}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _open_vcc(own: Path) -> object:
    """A report is the door's sentence: its findings are returned as an error where it is not well."""
    spec = load_challenge("vcc2025", genes=own / "gene_names.csv", pert_counts=own / "pert_counts.csv")
    report = verify(own / "s.vcc", spec, scratch=own)
    if report.ok:
        return None
    first = report.findings[0]
    raise StateError(first.title, first.detail, str(first.examples))


SUBJECTS = {
    "h5ad": Subject(_good_h5ad, _spoil_h5ad, _open_h5ad),
    "checkpoint": Subject(_good_checkpoint, _spoil_checkpoint, _open_checkpoint),
    "zip": Subject(_good_zip, _spoil_zip, _open_zip),
    "vcc": Subject(_good_vcc, _spoil_vcc, _open_vcc),
}
