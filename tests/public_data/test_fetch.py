"""From an entry of the catalogue to files that open: downloaded, checked, unpacked, with a split plan that leads to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import open_split
from state_engine.download import remote
from state_engine.errors import DataError, DownloadError, JobCancelled
from state_engine.progress import Progress
from state_engine.public_data.fetch import fetch, fetched_here, home_of, read_record, remove_fetched
from state_engine.public_data.split_paths import point_to_files
from tests.public_data.server import FileServer, serving
from tests.public_data.support_set import STARTER, entry, own_catalogue, support_set
from tests.small import write_cells

ZIP = "competition_support_set.zip"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return support_set(tmp_path_factory.mktemp("support"))


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "RETRY_SECONDS", 0.0)
    with serving(FileServer({ZIP: content})) as data:
        yield data


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_support_set_comes_with_a_plan_that_opens(server: FileServer, content: bytes, tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = fetch(entry(server, ZIP, content), tmp_path / "vcc", seen.append, Settings(tmp_path))
    assert made.data == ("competition_support_set/competition_train.h5", "competition_support_set/hepg2.h5")
    assert made.plans == ("competition_support_set/starter.toml",) and made.others == ("competition_support_set/gene_names.csv",)
    assert made.licence == "CC0 1.0" and "as known (the test)" in made.arrived[0].checked
    assert {p.stage.split()[0] for p in seen} == {"Downloading", "Verifying", "Unpacking"}
    assert not (tmp_path / "vcc" / ZIP).exists() and read_record(tmp_path / "vcc") == made
    split = open_split(tmp_path / "vcc" / made.plans[0], Choices(context_key="cell_type"))
    table = split.table()
    assert set(table[table["test"] > 0]["context"]) == {"NK"} and set(table[table["train"] > 0]["context"]) == {"B"}


def test_only_the_paths_of_the_plan_change(server: FileServer, content: bytes, tmp_path: Path) -> None:
    made = fetch(entry(server, ZIP, content), tmp_path / "vcc", settings=Settings(tmp_path))
    folder = tmp_path / "vcc" / "competition_support_set"
    before, after = STARTER.splitlines(), (tmp_path / "vcc" / made.plans[0]).read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert changed == [(before[2], f'replogle_h1 = "{folder}/{{competition_train,hepg2}}.h5"')]
    assert (folder / "starter.toml.original").read_text() == STARTER


def test_what_is_here_is_not_fetched_again(server: FileServer, content: bytes, tmp_path: Path) -> None:
    data, settings = entry(server, ZIP, content), Settings(tmp_path)
    first = fetch(data, tmp_path / "vcc", settings=settings)
    assert fetch(data, tmp_path / "vcc", settings=settings) == first and len(server.asked) == 1
    (tmp_path / "vcc" / first.data[0]).unlink()
    with pytest.raises(DataError, match="exists already"):
        fetch(data, tmp_path / "vcc", settings=settings)
    other = entry(server, ZIP, content, name="other")
    fetch(data, tmp_path / "again", settings=settings)
    with pytest.raises(DataError, match="another data set"):
        fetch(other, tmp_path / "again", settings=settings)


def test_cancelled_while_unpacking_the_archive_stays(server: FileServer, content: bytes, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "Unpacking":
            raise JobCancelled("enough")

    data = entry(server, ZIP, content)
    with pytest.raises(JobCancelled):
        fetch(data, tmp_path / "vcc", stop, Settings(tmp_path))
    assert names(tmp_path / "vcc") == [ZIP]
    fetch(data, tmp_path / "vcc", settings=Settings(tmp_path))
    assert len(server.asked) == 1


def test_a_plan_whose_files_are_missing_is_named_and_can_be_tried_again(server: FileServer, tmp_path: Path) -> None:
    wrong = support_set(tmp_path / "wrong", STARTER.replace("hepg2}", "hepg2,k562}"))
    server.files[ZIP] = wrong
    for _ in range(2):
        with pytest.raises(DataError, match=r"Not there: k562\.h5"):
            fetch(entry(server, ZIP, wrong), tmp_path / "vcc", settings=Settings(tmp_path))
        assert names(tmp_path / "vcc") == [ZIP]


def test_a_single_file_is_a_data_set(server: FileServer, tmp_path: Path) -> None:
    cells = write_cells(tmp_path / "cells.h5ad").read_bytes()
    server.files["kang_2018.h5ad"] = cells
    made = fetch(entry(server, "kang_2018.h5ad", cells, name="kang"), tmp_path / "kang", settings=Settings(tmp_path))
    assert made.data == ("kang_2018.h5ad",) and open_dataset(tmp_path / "kang" / made.data[0]).n_cells == 160


def test_the_app_knows_what_it_has_and_removes_it(server: FileServer, content: bytes, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    assert fetched_here(settings) == {}
    fetch(entry(server, ZIP, content), home_of("vcc2025", settings), settings=settings)
    assert list(fetched_here(settings)) == ["vcc2025"]
    assert remove_fetched("vcc2025", settings) > 10_000 and fetched_here(settings) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml", "not a split plan"),
        ("[training]\n", "not a split plan"),
        ("datasets = 3", "not a split plan"),
        ("[datasets]\na = 3", "not a path"),
        ('[datasets]\na = ""', "did not come with it"),
        ('[datasets]\na = "elsewhere/b.h5ad"', "Not there: b.h5ad"),
    ],
)
def test_a_plan_that_cannot_be_pointed_stays_as_it_is(tmp_path: Path, text: str, words: str) -> None:
    plan = tmp_path / "starter.toml"
    plan.write_text(text)
    with pytest.raises(DataError, match=words):
        point_to_files(plan, tmp_path)
    assert plan.read_text() == text and names(tmp_path) == ["starter.toml"]


def test_folders_and_windows_paths_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "set" / "screens").mkdir(parents=True)
    for name in ("a.h5ad", "b.h5ad"):
        (tmp_path / "set" / "screens" / name).write_bytes(b"")
    plan = tmp_path / "starter.toml"
    plan.write_text('[datasets]\none = "/their/place/screens"\ntwo = "D:\\\\data\\\\b.h5ad"\n')
    files = point_to_files(plan, tmp_path)
    assert [f.name for f in files] == ["a.h5ad", "b.h5ad"] and str(tmp_path / "set" / "screens") in plan.read_text()


def test_the_command_lists_and_fetches(
    server: FileServer, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in own_catalogue(tmp_path / "own.toml", entry(server, ZIP, content)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    assert main(["fetch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "kang" in listed and "38.4 MB" in listed and "CC BY 4.0" in listed and "A small support set" in listed
    assert "size not stated" in listed
    assert main(["fetch", "vcc2025", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "CC0 1.0" in said and "starter.toml" in said and "sha256" in said
    assert main(["fetch", "vcc2025"]) == 0 and fetched_here(Settings(tmp_path / "home"))
    capsys.readouterr()
    assert main(["fetch"]) == 1 and "fetch --list" in capsys.readouterr().err
    assert main(["fetch", "nothing"]) == 1 and "There are" in capsys.readouterr().err
    server.files = {}
    assert main(["fetch", "vcc2025", "--output", str(tmp_path / "gone")]) == 1 and "any more" in capsys.readouterr().err


def test_a_damaged_download_is_never_unpacked(server: FileServer, content: bytes, tmp_path: Path) -> None:
    data = entry(server, ZIP, content)
    server.files[ZIP] = content[:-1] + b"?"
    with pytest.raises(DownloadError, match="not the file that is known"):
        fetch(data, tmp_path / "vcc", settings=Settings(tmp_path))
    assert names(tmp_path / "vcc") == [f"{ZIP}.refused"]
