"""Several requests from one file: each is checked by itself, in the form in which a run offers its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.jobs.checks import check
from state_engine.jobs.many import checked, entry_of, requests_of
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from tests.small import write_cells, write_model


@pytest.fixture
def request_of_small(tmp_path: Path) -> tuple[Settings, PredictionRequest]:
    settings = Settings(tmp_path / "home", data_folders=(tmp_path,))
    write_cells(tmp_path / "cells.h5ad")
    write_model(tmp_path / "model")
    return settings, PredictionRequest(str(tmp_path / "cells.h5ad"), str(tmp_path / "model"), ("TNF",), ("B",), cells=8)


def test_what_a_run_offers_is_taken_again(request_of_small: tuple[Settings, PredictionRequest]) -> None:
    settings, request = request_of_small
    run = RunFolder.create(settings, "predict", to_plain(request), "TNF in B")
    asked = checked(requests_of(entry_of(run))[0], partial(check, settings))
    assert asked.request == request and asked.title == "TNF in B" and not asked.problem


def test_each_entry_is_checked_by_itself(request_of_small: tuple[Settings, PredictionRequest]) -> None:
    settings, request = request_of_small
    plain = to_plain(request)
    wrong: dict[str, dict[str, object]] = {
        "not know": {**plain, "perturbations": ["drugZ"]},
        "no context": {**plain, "contexts": ["Z"]},
        "at least 1": {**plain, "cells": 0},
        "unknown fields": {**plain, "more": 1},
        "outside what may be read": {**plain, "data": "/etc/hosts"},
        "is not there": {**plain, "data": plain["data"] + "x"},
    }
    entries: list[object] = [{"kind": "predict", "request": plain}, *({"kind": "predict", "request": r} for r in wrong.values())]
    entries += [{"kind": "look", "request": {"run": "x"}}, {"kind": "predict", "request": plain, "owner": "x"}, 7]
    found = [checked(asked, partial(check, settings)) for asked in requests_of(json.dumps(entries).encode())]
    assert found[0].request == request and all(asked.request is None for asked in found[1:])
    for asked, words in zip(found[1:], [*wrong, "no such kind", "and no other", "and no other"], strict=True):
        assert words in asked.problem, (words, asked.problem)


@pytest.mark.parametrize("way", ["mine/../other/cells.h5ad", "other/cells.h5ad", "a" * 5000, "cells\0.h5ad", "cells\ud800"])
def test_a_way_from_where_the_server_stands_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    write_cells(tmp_path / "other" / "cells.h5ad")
    write_model(tmp_path / "mine" / "model")
    monkeypatch.chdir(tmp_path)
    settings = Settings(tmp_path / "home", data_folders=(tmp_path / "mine",))
    plain = to_plain(PredictionRequest(way, str(tmp_path / "mine" / "model"), ("TNF",), ("no such context",), cells=8))
    asked = checked(requests_of(json.dumps({"kind": "predict", "request": plain}).encode())[0], partial(check, settings))
    assert asked.request is None  # neither what the file holds nor that it is there is told
    assert "outside what may be read" in asked.problem or "is no path" in asked.problem


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"kind": NaN}x'])
def test_a_file_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(RequestError):
        requests_of(content)
