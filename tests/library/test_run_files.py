"""Files of run folders are parsed in a child, and what was costly to fail is not tried again at each run of a page."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from state_engine.analysis import projection, stored
from state_engine.analysis.differential import read_table
from state_engine.analysis.effects import EffectComparison, Score
from state_engine.attention.maps import load_maps
from state_engine.data.dataset import open_dataset
from state_engine.errors import RunError, StateError, UnreadableFileError, UnsafeFileError
from state_engine.files import read_json
from state_engine.library import foreign
from state_engine.sandbox import Limits
from tests.hostile import write_hanging

ROOT = Path(__file__).resolve().parents[2]
PARSERS = re.compile(r"(np|pd|json|de|stored|search|projection)\.(load|read_\w+)|(load_|read_)\w+|load|open_result")
SAFE = {
    "read_file", "read_json_as", "read_curve", "read_card", "read_scores", "read_report",  # the door itself, bounded JSON and text
    "load_settings", "load_rules", "load_challenge",
}  # fmt: skip


def test_a_file_that_hangs_costs_its_session_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "COSTLY", 1.0)
    path, limits = write_hanging(tmp_path / "result.h5ad"), Limits(seconds=2)

    def opened() -> float:
        started = time.monotonic()
        with pytest.raises(UnsafeFileError, match=r"result\.h5ad could not be opened within 2 s"):
            foreign.call(open_dataset, path, path=path, limits=limits)
        return time.monotonic() - started

    opened()
    assert opened() < 0.5
    os.utime(path, ns=(1, 1))
    assert opened() > 1.5, "another file now"
    monkeypatch.setattr(foreign, "FORGET", 0.0)
    assert opened() > 1.5, "the machine may have been busy"


def test_a_table_comes_back_with_what_is_noted_on_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"gene": ["A", "B"], "fdr": [0.1, np.nan], "n": [1, 2], "yes": [True, False]})
    table.attrs = {"reference": "control", "floor": 1e-3, "n": 2}
    table.to_parquet(tmp_path / "t.parquet", engine="pyarrow")
    found = foreign.read_file(read_table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    assert found.attrs == table.attrs and found["fdr"].dtype == float


def test_a_comparison_comes_back_from_its_two_files(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    genes = pd.DataFrame({"gene": ["A", "B"], "predicted": [0.5, -0.5]})
    genes.to_parquet(path.with_suffix(".parquet"))
    counts = {"n_predicted": 3, "n_observed": 4, "n_control": 5, "n_significant": 1}
    plain = {"perturbation": "p", "context": "c", "top": 1, "scores": [], **counts}
    path.write_text(json.dumps(plain))
    found = foreign.read_file(stored.read_comparison, path, within=tmp_path)
    assert isinstance(found, EffectComparison) and found.n_control == 5 and found.genes["predicted"].tolist() == [0.5, -0.5]
    assert all(isinstance(score, Score) for score in found.scores)


def test_a_projection_comes_back(tmp_path: Path) -> None:
    settings = _settings()
    given = projection.Projection(np.ones((3, 2), np.float32), np.arange(3, dtype=np.int32), np.ones(2, np.float32), settings)
    given.save(tmp_path / "projection.npz")
    found = foreign.read_file(projection.load, tmp_path / "projection.npz")
    assert np.array_equal(found.xy, given.xy) and found.rows.dtype == np.int32 and found.settings == settings


def _settings() -> projection.Settings:
    return projection.Settings(seed=1, source="X", n_available=3, n_shown=3, subsampled=False, components=2, neighbours=5)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_what_no_run_writes_is_an_error_about_the_file(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"PK\x03\x04 no zip"), ("b.npz", b""), ("c.npz", b"\x80\x04.")):
        path = tmp_path / name
        path.write_bytes(content)
        for function in (projection.load, load_maps):
            with pytest.raises(StateError, match=name):
                foreign.read_file(function, path)
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises((RunError, UnreadableFileError), match=r"t\.parquet"):
        foreign.read_file(read_table, tmp_path / "t.parquet")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path, header = tmp_path / "projection.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3 << 28,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("settings.npy", _npy(np.array(json.dumps(asdict(_settings())))))
        with archive.open("xy.npy", "w", force_zip64=True) as out:  # 3 GB of zeros
            out.write(header.getvalue())
            for _ in range(3 << 6):
                out.write(bytes(1 << 24))
    with pytest.raises(UnsafeFileError, match="memory"):
        foreign.read_file(projection.load, path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'"' + b"a" * (1 << 20), b"{", b"\xff"])
def test_json_is_bounded(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_json(path, most=1 << 19)


def test_pages_parse_no_file_of_a_run_themselves() -> None:
    """A parser of such files is handed to a child, never called by a page."""
    found = []
    for path in sorted((ROOT / "pages").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        own |= {n.name for i in nodes if isinstance(i, ast.ImportFrom) and str(i.module).startswith("pages") for n in i.names}
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        found += [f"{path.name}: {name}" for name in called - own - SAFE if PARSERS.fullmatch(name)]
    assert not found
