"""Dataclasses to JSON and back: nothing unknown, nothing missing, no wrong types. Settings from the environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from state_engine.config import load_settings
from state_engine.device import choose_device, dtype_of
from state_engine.errors import ConfigError, DeviceError, StateError, listed
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    parts: tuple[Inner, ...] = ()
    factor: float = 1.0
    maybe: Inner | None = None
    scores: dict[str, float] | None = None


def test_there_and_back() -> None:
    value = Outer("x", "b", (Inner(1), Inner(2)), 2.0, Inner(3), {"r": 1.0})
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value
    request = PredictionRequest("d", "m", ("p", "q"), ("c",))
    assert from_plain(PredictionRequest, json.loads(json.dumps(to_plain(request)))) == request


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colour": 1}, "unknown fields: colour"),
        ({"kind": "c"}, "Known: a, b"),
        ({"name": 3}, "type str"),
        ({"parts": "x"}, "not a list"),
        ({"parts": [{"n": True}]}, "Outer.parts.n"),
        ({"parts": [{}]}, "lacks fields: n"),
        ({"scores": []}, "not an object"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        from_plain(Outer, {"name": "x", "kind": "a"} | change)
    with pytest.raises(ConfigError, match="not an object"):
        from_plain(Outer, [])


def test_settings() -> None:
    made = load_settings(
        {"STATE_EXPLORER_HOME": "/tmp/h", "STATE_EXPLORER_DATA": "/tmp/a:/tmp/b", "STATE_EXPLORER_MAX_FILE_GB": "2"}
    )
    assert made.home == Path("/tmp/h") and len(made.data_folders) == 2 and made.max_file_bytes == 2 * 1024**3
    for bad in ("x", "0", "-1"):
        with pytest.raises(ConfigError, match="STATE_EXPLORER_MAX_CELLS"):
            load_settings({"STATE_EXPLORER_MAX_CELLS": bad})


def test_devices() -> None:
    assert choose_device("cpu").kind == "cpu" and choose_device("auto").memory > 0
    with pytest.raises(DeviceError, match="tpu"):
        choose_device("tpu")
    with pytest.raises(DeviceError, match="fp64"):
        dtype_of("fp64")


def test_errors_are_sentences() -> None:
    error = StateError("It broke.", "Too hot.", "Cool it.")
    assert str(error) == "It broke. Too hot. Cool it."
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more" and listed(("a",)) == "a"
