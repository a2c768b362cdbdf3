"""The catalogue: what is stated of each data set, by whom, and entries of the installation's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import ConfigError, RequestError
from state_engine.public_data.catalogue import CATALOGUE_VARIABLE, PUBLISHED, catalogue, find, read_catalogue


def test_every_data_set_of_the_issue_is_there() -> None:
    names = [data.name for data in PUBLISHED]
    assert {"kang", "norman", "replogle-k562", "replogle-rpe1", "vcc2025", *(f"tahoe-plate{n}" for n in range(1, 15))} == set(
        names
    )
    assert len(set(names)) == len(names) and find("Kang").name == "kang"
    with pytest.raises(RequestError, match="There are: kang, norman"):
        find("gasperini")


@pytest.mark.parametrize("data", PUBLISHED, ids=lambda d: d.name)
def test_an_entry_says_what_it_is_whose_and_where_that_stands(data) -> None:
    assert data.title and data.what and data.citation and "doi:10." in data.citation
    assert data.source.startswith("https://") and data.found and data.licence
    assert (data.licence == "not stated") == (data.licence_url == "")
    for file in data.files:
        assert all(url.startswith("https://") for url in file.urls)
        assert bool(file.hash_source) == bool(file.sha256 or file.md5)


def test_what_is_not_stated_stays_open() -> None:
    assert find("tahoe-plate3").size is None and find("tahoe-plate3").files[0].sha256 is None
    assert find("tahoe-plate6").size == 28_934_897_078 and find("vcc2025").files[0].is_archive


def test_an_installation_adds_and_replaces_entries(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[data]]\nname = "kang"\ntitle = "Mirror"\nfiles = [{name = "k.h5ad", urls = ["https://mirror.example/k.h5ad"]}]\n'
        '[[data]]\nname = "ours"\ntitle = "Ours"\nlicence = "internal"\n'
        'files = [{name = "o.h5ad", urls = ["http://127.0.0.1:1/o.h5ad"], size = 3}]\n'
    )
    entries = {d.name: d for d in catalogue({CATALOGUE_VARIABLE: str(own)})}
    assert entries["kang"].title == "Mirror" and entries["ours"].size == 3 and "norman" in entries
    assert {d.name for d in catalogue({})} == {d.name for d in PUBLISHED}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data = 3", "no list"),
        ("[[dat]]", "no list"),
        ("not toml", "cannot be read"),
        ('[[data]]\nname = "x"', "lacks fields"),
        ('[[data]]\nname = "X Y"\ntitle = ""\nfiles = [{name = "a", urls = ["https://a.b/c"]}]', "cannot name"),
        ('[[data]]\nname = "x"\ntitle = ""\nfiles = []', "needs files"),
        ('[[data]]\nname = "x"\ntitle = ""\nfiles = [{name = "a", urls = []}]', "no address"),
        ('[[data]]\nname = "x"\ntitle = ""\nfiles = [{name = "a", urls = ["https://a.b/c"], sha256 = "abc"}]', "64 hex"),
        ('[[data]]\nname = "x"\ntitle = ""\nfiles = [{name = "a", urls = ["https://a.b/c"], size = -1}]', "positive"),
        ('[[data]]\nname = "x"\ntitle = ""\nfiles = [{name = "a", urls = ["https://a.b/c"], size = "big"}]', "type"),
        ('[[data]]\nname = "x"\ntitle = ""\ncolour = "red"\nfiles = [{name = "a", urls = ["https://a.b/c"]}]', "unknown fields"),
    ],
)
def test_a_wrong_catalogue_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_catalogue(tmp_path / "own.toml")


def test_a_catalogue_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "own.toml")
