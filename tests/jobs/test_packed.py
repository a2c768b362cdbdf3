"""A run as one zip: out of one installation, into another, and refused in a sentence where it is none."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from state_engine.analysis import stored
from state_engine.config import Settings
from state_engine.errors import RunError
from state_engine.files import write_json
from state_engine.jobs.packed import export_run, import_run
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.pages.make_run import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    found = make_run(Settings(tmp_path / "one"))
    stored.answer(found.path, "drugA", "B")
    return found


@pytest.fixture
def zipped(run: RunFolder, tmp_path: Path) -> Path:
    return export_run(Settings(tmp_path / "one"), run.id, tmp_path / "run.zip")


def test_a_run_comes_out_of_one_home_and_into_another(run: RunFolder, zipped: Path, tmp_path: Path) -> None:
    other = Settings(tmp_path / "two")
    found = import_run(other, zipped)
    assert found.id == run.id and found.state == "done" and found.path.parent == other.runs
    assert found.manifest.title == run.manifest.title and found.manifest.seed == 42
    assert sorted(p.name for p in found.path.glob("differential/*")) == sorted(p.name for p in run.path.glob("differential/*"))
    assert list(found.path.glob("differential/*.parquet")) and found.result.read_bytes() == run.result.read_bytes()
    assert open_result(found.result).conditions() == open_result(run.result).conditions()
    before, after = run.request_as(PredictionRequest), found.request_as(PredictionRequest)
    assert after.perturbations == before.perturbations and after.contexts == before.contexts
    # no path of the other machine stays
    assert str(tmp_path / "one") not in json.dumps(found.request) and not Path(after.data).exists()
    assert import_run(other, zipped).id == found.id and len(list(other.runs.iterdir())) == 1


def test_the_same_run_packs_to_the_same_bytes(run: RunFolder, zipped: Path, tmp_path: Path) -> None:
    again = export_run(Settings(tmp_path / "one"), run.id, tmp_path / "again.zip")
    assert again.read_bytes() == zipped.read_bytes()


def test_it_points_at_the_data_set_that_is_here_too(run: RunFolder, tmp_path: Path) -> None:
    other = Settings(tmp_path / "two")
    cells = other.uploads / "0123456789ab.h5ad"
    cells.parent.mkdir(parents=True)
    shutil.copy(run.result, cells)
    entry = DataEntry("0123456789ab", "mine.h5ad", str(cells), "upload", "2026-11-01T00:00:00+00:00")
    (other.home / "datasets").mkdir()
    write_json(other.home / "datasets" / f"{entry.id}.json", to_plain(entry))
    run.record(data_hash=hashlib.sha256(cells.read_bytes()).hexdigest())
    found = import_run(other, export_run(Settings(tmp_path / "one"), run.id, tmp_path / "run.zip"))
    assert found.request_as(PredictionRequest).data == str(cells)


def test_a_deleted_run_comes_back_under_another_id(run: RunFolder, zipped: Path, tmp_path: Path) -> None:
    other = Settings(tmp_path / "two")
    (other.home / "trash" / "deleted").mkdir(parents=True)
    (other.home / "trash" / "deleted" / run.id).write_text("2026-11-01T00:00:00+00:00")
    found = import_run(other, zipped)
    assert found.id != run.id and found.manifest.id == found.id


def changed(source: Path, out: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], more: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            kept = change(name, old.read(name))
            if kept is not None:
                new.writestr(*kept)
        for name, content in more.items():
            new.writestr(name, content)
    return out


def same(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content


def without(missing: str) -> Callable[[str, bytes], tuple[str, bytes] | None]:
    return lambda name, content: None if name == missing else (name, content)


def edited(which: str, edit: Callable[[bytes], bytes]) -> Callable[[str, bytes], tuple[str, bytes] | None]:
    return lambda name, content: (name, edit(content) if name == which else content)


def field(name: str, value: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), name: value}).encode()


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (without("result.h5ad"), {}, "lacks result.h5ad"),
        (same, {"../evil.json": b"{}"}, "holds '../evil.json'"),
        (same, {"/etc/evil.json": b"{}"}, "holds '/etc/evil.json'"),
        (same, {"weights.pkl": b"x"}, "holds 'weights.pkl'"),
        (same, {"a/b/c.json": b"{}"}, "holds 'a/b/c.json'"),
        (edited("result.h5ad", lambda content: content[:2000]), {}, "is no whole run"),
        (edited("projection.npz", lambda content: content[:200]), {}, "is no whole run"),
        (edited("request.json", lambda content: b"[1]"), {}, "is no whole run"),
        (edited("request.json", field("cells", -3)), {}, "is no whole run"),
        (edited("request.json", field("evil", 1)), {}, "is no whole run"),
        (edited("manifest.json", field("kind", "train")), {}, "no prediction that is done"),
        (edited("manifest.json", field("state", "running")), {}, "no prediction that is done"),
        (edited("manifest.json", field("id", "../../x")), {}, "no prediction that is done"),
        (edited("manifest.json", field("format", 99)), {}, "is no whole run"),
    ],
)  # fmt: skip
def test_what_is_no_whole_run_is_refused_in_a_sentence(
    zipped: Path, tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], more: dict[str, bytes], words: str
) -> None:
    other = Settings(tmp_path / "two")
    with pytest.raises(RunError) as error:
        import_run(other, changed(zipped, tmp_path / "x.zip", change, more), "my run.zip")
    assert words in str(error.value) and str(tmp_path) not in str(error.value)
    assert not list(other.runs.iterdir()) and not list((other.home / "scratch").iterdir())


def test_links_and_files_that_are_no_zip_are_refused(zipped: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped, "a") as archive:
        link = zipfile.ZipInfo("link.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(RunError, match="link or a device"):
        import_run(Settings(tmp_path / "two"), zipped)
    (tmp_path / "no.zip").write_bytes(b"hello")
    with pytest.raises(RunError, match="not a readable zip"):
        import_run(Settings(tmp_path / "two"), tmp_path / "no.zip")


def test_what_is_not_done_or_does_not_travel_is_not_exported(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "one")
    waiting = RunFolder.create(settings, "predict", {"data": "d"})
    training = RunFolder.create(settings, "train", {"data": "d"})
    for run, words in ((waiting, "It is queued"), (training, "It is a training")):
        with pytest.raises(RunError, match=words):
            export_run(settings, run.id, tmp_path / "out.zip")
