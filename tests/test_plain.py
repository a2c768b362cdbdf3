"""Dataclasses to JSON and back: nothing unknown, nothing missing, no wrong types. Settings from the environment."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

from state_engine.config import load_settings
from state_engine.device import choose_device, dtype_of
from state_engine.errors import ConfigError, DeviceError, StateError, listed
from state_engine.plain import (
    agreed,
    csv_file_for_people,
    csv_for_people,
    distinct,
    first_places,
    from_plain,
    part_of,
    plural,
    to_plain,
    visible,
)
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


def test_text_of_strangers_is_seen_and_cut() -> None:
    assert visible("TNF \u03b2-chain 2") == "TNF \u03b2-chain 2"  # letters of any language stay
    assert visible("a\x1b[31mb\u202ec\nd\udce4") == r"a\u001b[31mb\u202ec\u000ad\udce4"
    assert visible("a\nb\x07", keep="\n") == "a\nb\\u0007" and visible("\U000e0041") == r"\U000e0041"
    assert visible("x" * 80) == "x" * 80 and visible("x" * 81) == "x" * 79 + "…"
    assert len(visible("\x1b" * 50)) == 80 and len(visible("x" * 10**6, most=None)) == 10**6


def test_a_table_to_take_home_has_no_formulas() -> None:
    table = pd.DataFrame(
        {
            "=A1": ["=1+1", "+x", "-y", "@z", "\tq", "\rq", "a=b", None],
            "change": [-1.5, 2.0, -0.25, 0.0, 1.0, 1.0, 1.0, float("nan")],
            "kind": pd.Categorical(["-", "b", "b", "b", "b", "b", "b", "b"]),
        },
        index=["@r", *"bcdefgh"],
    )
    text = csv_for_people(table, index_label="-gene")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["'-gene", "'=A1", "change", "kind"]
    assert rows[1] == ["'@r", "'=1+1", "-1.5", "'-"]  # numbers stay numbers
    assert [row[1] for row in rows[1:]] == ["'=1+1", "'+x", "'-y", "'@z", "'\tq", r"'\u000dq", "a=b", ""]
    assert csv_for_people(table[["change"]]).splitlines()[:2] == ["change", "-1.5"]
    assert table.columns[0] == "=A1" and table.iloc[0, 0] == "=1+1"  # the table itself is unchanged


def test_a_kept_table_is_taken_home_without_formulas_and_with_all_digits(tmp_path: Path) -> None:
    kept = "perturbation,score\n@SUM(A1),-0.10\nNA,+1e-300\n"
    (tmp_path / "scores.csv").write_text(kept)
    assert csv_file_for_people(tmp_path / "scores.csv").decode() == kept.replace("@SUM", "'@SUM")


def test_numbers_have_their_nouns_and_verbs() -> None:
    assert (plural(1, "cell"), plural(0, "cell"), plural(1204, "cell")) == ("1 cell", "0 cells", "1,204 cells")
    assert (plural(1, "batch", "batches"), plural(2, "cell has", "cells have")) == ("1 batch", "2 cells have")
    assert (agreed(1, "is", "are"), agreed(0, "is", "are")) == ("is", "are")
    assert (part_of(1, 1, "context"), part_of(1, 3, "context")) == ("1 of 1 context", "1 of 3 contexts")


def test_names_that_repeat_are_told_apart_and_found_at_their_first_place() -> None:
    names = ["A", "B", "A", "A"]
    assert distinct(names, "gene") == ["A", "B", "A (gene 2)", "A (gene 3)"] and distinct(["A", "B"], "gene") == ["A", "B"]
    assert first_places(names) == {"A": 0, "B": 1} and first_places([]) == {}
