"""Run folders and the files in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import state_engine
from state_engine import files
from state_engine.config import Settings
from state_engine.errors import RunError
from state_engine.files import Unchanged, replacing, size_on_disk
from state_engine.jobs.before import parent_before
from state_engine.jobs.processes import identity_of
from state_engine.jobs.run_folder import Manifest, RunFolder, list_runs
from state_engine.plain import to_plain
from tests.jobs.workers import log_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home without anything."""
    return Settings(home=tmp_path / "home")


def _edit(run: RunFolder, **fields: object) -> None:
    files.write_json(run.path / "manifest.json", to_plain(run.manifest) | fields)


def test_a_run_keeps_what_was_asked_and_with_what(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {"seed": 3, "perturbations": ["STAT1"]}, "Interferon", "anna")
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.id) and run.path == settings.runs / run.id
    again = RunFolder.open(settings, run.id)
    assert again.request == {"seed": 3, "perturbations": ["STAT1"]}
    manifest = again.manifest
    assert (manifest.kind, manifest.title, manifest.owner, manifest.state) == ("predict", "Interferon", "anna", "queued")
    assert manifest.versions["state-explorer"] == state_engine.__version__ and "numpy" in manifest.versions
    assert manifest.python and manifest.system and manifest.created.endswith("+00:00")


def test_the_life_of_a_run(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    run.start()
    assert run.state == "running" and run.manifest.process == identity_of()
    run.record(seed=7, data_hash="aa", model_hash="bb", device="cpu", precision="fp32", command="python -m state_engine")
    run.record(settings={"set_size": 64})
    run.record(settings={"attention": "full"})
    run.log("Out of memory: 16 sets")
    half = run.path / ".part-1234-result.h5ad"
    half.write_text("half")
    run.finish("failed", "Broken.")
    m = run.manifest
    assert (m.state, m.error, m.seed, m.data_hash, m.model_hash) == ("failed", "Broken.", 7, "aa", "bb")
    assert (m.device, m.precision, m.command) == ("cpu", "fp32", "python -m state_engine")
    assert m.settings == {"set_size": 64, "attention": "full"}
    assert m.started <= m.ended and m.elapsed is not None and 0 <= m.elapsed < 60
    assert not half.exists() and "Out of memory: 16 sets" in log_of(run)


def test_a_run_whose_process_died_is_lost(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    run.start()
    _edit(run, process=identity_of().split("/")[0] + "/999999999/1.00")
    assert run.state == "lost" and list_runs(settings)[0].state == "lost"


def test_runs_are_listed_newest_first_with_the_damaged_ones(settings: Settings) -> None:
    assert list_runs(settings) == ()
    first, second = (RunFolder.create(settings, "predict", {}, title, "anna") for title in ("one", "two"))
    other = RunFolder.create(settings, "demo", {}, "three", "bert")
    (settings.runs / ".new-20261122-151233-ab12cd").mkdir()
    (settings.runs / "notes").mkdir()
    assert [info.id for info in list_runs(settings)] == [other.id, second.id, first.id]
    assert [info.manifest.title for info in list_runs(settings, "anna") if info.manifest] == ["two", "one"]
    (second.path / "manifest.json").write_text("{")
    damaged = {info.id: info for info in list_runs(settings)}[second.id]
    assert damaged.state == "damaged" and damaged.manifest is None and "manifest.json" in damaged.problem


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b'{"format": 1', "cannot be read"),
        ("manifest.json", b"\xff\xfe", "cannot be read"),
        ("manifest.json", b"[]", "not an object"),
        ("manifest.json", b'{"format": 1, "id": "a", "kind": "b", "colour": 1}', "colour"),
        ("manifest.json", b'{"format": 1, "id": "a", "kind": "b", "state": "odd"}', "odd"),
        ("manifest.json", b'{"format": 3, "id": "a", "kind": "b"}', "version 3"),
        ("request.json", None, "request.json is missing"),
        ("request.json", b"", "cannot be read"),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(settings: Settings, name: str, content: bytes | None, says: str) -> None:
    run = RunFolder.create(settings, "predict", {})
    if content is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(content)
    with pytest.raises(RunError, match=says) as caught:
        RunFolder.open(settings, run.id)
    assert caught.value.fix
    run.delete()
    assert not run.path.exists()


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../home",
        "/etc",
        "20261122-151233-ab12cd/../x",
        "20261122-151233-ab12cd\n",
        "20261122-151233-AB12CD",
        "x" * 999,
    ],
)
def test_an_id_cannot_point_elsewhere(settings: Settings, run_id: str) -> None:
    settings.runs.mkdir(parents=True)
    with pytest.raises(RunError, match="not the id of a run"):
        RunFolder.open(settings, run_id)


def test_a_missing_run_and_a_link_are_no_runs(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder.create(settings, "predict", {})
    moved = run.path.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="There is no run"):
        RunFolder.open(settings, run.id)
    run.path.symlink_to(moved)
    with pytest.raises(RunError, match="There is no run"):
        RunFolder.open(settings, run.id)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".part-x", "/etc/passwd", "a\0b", "a\n"])
def test_a_file_name_stays_in_the_folder(settings: Settings, name: str) -> None:
    run = RunFolder.create(settings, "predict", {})
    with pytest.raises(RunError, match="not the name of a file"):
        run.file(name)
    assert run.file("attention 1.npz").parent == run.path


def test_a_request_that_is_no_json_leaves_no_folder(settings: Settings) -> None:
    with pytest.raises(TypeError):
        RunFolder.create(settings, "predict", {"path": object()})
    assert list(settings.runs.iterdir()) == []


def test_size_and_removal(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    before = size_on_disk(run.path)
    (run.path / "deeper").mkdir()
    (run.path / "deeper" / "table.csv").write_bytes(b"x" * 1000)
    assert size_on_disk(run.path) == before + 1000
    run.start()
    with pytest.raises(RunError, match="is running"):
        run.delete()
    run.finish("done")
    run.delete()
    run.delete()  # twice does no harm
    assert list(settings.runs.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.npz"
    files.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == tmp_path and temporary.suffix == ".npz"
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


WRITER = """
import sys, time
from pathlib import Path
from state_engine.files import part_beside, replacing
with replacing(Path(sys.argv[1])) as part, part_beside(Path(sys.argv[2])) as folder:
    part.write_bytes(b"half")
    folder.mkdir()
    print(part, folder, flush=True)
    time.sleep(600)
"""


def test_parts_of_a_living_process_stay_until_it_is_killed(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    command = [sys.executable, "-c", WRITER, str(run.path / "manifest.json"), str(run.path / "store.zarr")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            parts = list(map(Path, writer.stdout.readline().split()))
            run.finish("done")  # another process ends the run
            assert all(part.exists() for part in parts) and files.remove_parts(run.path) == 0
        finally:
            writer.kill()
    assert files.remove_parts(run.path, "manifest.json") == 1 and files.remove_parts(run.path) == 1
    assert not list(run.path.glob(".part-*")) and run.manifest.state == "done"


def test_parts_of_this_process_and_of_other_machines(tmp_path: Path) -> None:
    with files.part_beside(tmp_path / "x") as being_written:
        being_written.touch()
        left, elsewhere = (tmp_path / being_written.name[:6]).with_name, tmp_path / ".part-00000000-p1.0000-x"
        mine = left(being_written.name.replace(being_written.name[6:14], "00000000"))
        younger = left(being_written.name.replace(f"-p{os.getpid()}.", f"-p{os.getppid()}."))
        for part in (mine, elsewhere, younger):
            part.touch()
        os.utime(younger, (1, 1))  # written long before the process with this number began
        assert files.remove_parts(tmp_path) == 2 and set(tmp_path.iterdir()) == {being_written, elsewhere}
        os.utime(elsewhere, (1, 1))
        assert files.remove_parts(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_two_that_change_a_manifest_lose_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends a run while somebody lets it go on: the end does not write over what the other recorded."""
    run, reading, recorded = RunFolder.create(settings, "train", {}), threading.Event(), threading.Event()
    run.start()
    save = RunFolder._save

    def slow(self: RunFolder, manifest: Manifest) -> None:
        if manifest.state == "cancelled":
            reading.set()
            recorded.wait(0.5)  # the other one would be faster, if it were let
        save(self, manifest)

    monkeypatch.setattr(RunFolder, "_save", slow)
    with ThreadPoolExecutor(1) as worker:
        ending = worker.submit(RunFolder(run.path).finish, "cancelled")
        assert reading.wait(60)
        run.record(job="a" * 16)
        recorded.set()
        ending.result()
    assert (run.manifest.state, run.manifest.job) == ("cancelled", "a" * 16)


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"gene": "TNFα"})
    assert "TNFα" in path.read_text(encoding="utf-8") and json.loads(path.read_bytes()) == {"gene": "TNFα"}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"p": float("inf")})
    assert json.loads(path.read_bytes()) == {"gene": "TNFα"}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900], ids=["open", "lists", "objects"]
)
@pytest.mark.parametrize("name", ["manifest.json", "request.json"])
def test_json_that_is_nested_too_deeply_is_a_damaged_run_beside_the_others(settings: Settings, name: str, text: str) -> None:
    sound = RunFolder.create(settings, "predict", {"seed": 3}, "Sound", "anna")
    damaged = RunFolder.create(settings, "predict", {"seed": 3}, "Damaged", "anna")
    (damaged.path / name).write_text(text)
    found = {info.id: info for info in list_runs(settings)}
    assert found[sound.id].state == "queued" and found[damaged.id].state == "damaged"
    assert "nested too deeply" in found[damaged.id].problem


def test_an_embedding_of_an_older_run_that_is_nested_too_deeply_has_no_parent(settings: Settings) -> None:
    run = RunFolder.create(settings, "embed", {}, "Cells", "anna")
    (run.path / "embedding.json").write_text("[" * 100_000)
    assert parent_before("similar", {"data": "cells.h5ad"}, settings.runs) == ""


def test_a_list_reads_only_the_runs_that_changed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [RunFolder.create(settings, "predict", {"n": n}, f"run {n}") for n in range(4)]
    for run in runs:
        run.start()
        run.finish("done")
    assert len(list_runs(settings)) == 4
    read: list[str] = []
    honest = RunFolder._read
    monkeypatch.setattr(RunFolder, "_read", lambda run, name: read.append(f"{run.id}/{name}") or honest(run, name))  # type: ignore[func-returns-value]
    assert [i.state for i in list_runs(settings)] == ["done"] * 4 and read == []
    runs[1].record(seed=7)
    read.clear()
    assert {i.manifest.seed for i in list_runs(settings) if i.manifest} == {None, 7} and read == [f"{runs[1].id}/manifest.json"]
    (runs[2].path / "request.json").write_text("{")
    (runs[3].path / "manifest.json").unlink()
    assert sorted(i.state for i in list_runs(settings)) == ["damaged", "damaged", "done", "done"]


def test_what_was_read_is_read_again_when_a_file_changes_or_is_missing(tmp_path: Path) -> None:
    reads: list[str] = []
    file, cache = tmp_path / "a.json", Unchanged[str](2)

    def read() -> str:
        reads.append(file.read_text() if file.exists() else "none")
        return reads[-1]

    file.write_text("one")
    assert [cache.get(read, file) for _ in range(3)] == ["one"] * 3 and reads == ["one"]
    with replacing(file) as beside:  # as long, and perhaps within one tick of the clock: it is another file
        beside.write_text("two")
    assert cache.get(read, file) == cache.get(read, file) == "two" and reads == ["one", "two"]
    file.unlink()
    assert cache.get(read, file) == cache.get(read, file) == "none" and len(reads) == 4


def test_what_was_read_is_forgotten_when_it_becomes_too_much(tmp_path: Path) -> None:
    cache = Unchanged[str](2)
    for name in "abc":
        (tmp_path / name).write_text(name)
        assert cache.get((tmp_path / name).read_text, tmp_path / name) == name
    assert len(cache._found) == 1
