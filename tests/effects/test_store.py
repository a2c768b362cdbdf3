from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from state_engine.effects.store import EFFECTS, LAYOUT, load_effects, save_effects
from state_engine.effects.table import EffectTable
from state_engine.errors import CheckpointError


def table() -> EffectTable:
    effects = np.array([[0.5, -1.0], [2.0, 0.25]], dtype=np.float32)
    controls = {"B": np.array([1.0, 2.0], np.float32), "T µ": np.array([3.0, 4.0], np.float32)}
    return EffectTable(("TNF", "IFNB1"), ("T µ", "T µ"), np.array([10, 7]), effects, controls, ("GENE1", "GENE2"))


def write(folder, tensors=None, **metadata) -> None:
    labels = {"perturbations": ["TNF"], "contexts": ["T"], "controls": ["T"], "features": []}
    texts = {"layout": LAYOUT, **{k: json.dumps(v) for k, v in labels.items()}, **metadata}
    given = {"effects": np.ones((1, 2), np.float32), "cells": np.ones(1, np.int64), "controls": np.ones((1, 2), np.float32)}
    save_file({**given, **(tensors or {})}, folder / EFFECTS, metadata={k: v for k, v in texts.items() if v is not None})


def test_a_table_comes_back_as_it_was_saved(tmp_path):
    saved = table()
    assert save_effects(tmp_path, saved) == tmp_path / EFFECTS
    found = load_effects(tmp_path)
    assert (found.perturbations, found.contexts, found.features) == (saved.perturbations, saved.contexts, saved.features)
    np.testing.assert_array_equal(found.effects, saved.effects)
    np.testing.assert_array_equal(found.cells, saved.cells)
    assert list(found.controls) == ["B", "T µ"]
    np.testing.assert_array_equal(found.controls["T µ"], [3.0, 4.0])
    assert [p.name for p in tmp_path.iterdir()] == [EFFECTS]  # nothing half-written beside it


def test_an_empty_table_comes_back(tmp_path):
    save_effects(tmp_path, EffectTable((), (), np.zeros(0, np.int64), np.zeros((0, 3), np.float32), {}))
    assert load_effects(tmp_path).width == 3


def test_a_model_may_have_none(tmp_path):
    assert load_effects(tmp_path) is None


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({}, {"layout": "effects 2"}, "known is 'effects 1'"),
        ({}, {"surprise": "1"}, "not a table of effects"),
        ({}, {"contexts": None}, "not a table of effects"),
        ({}, {"contexts": "[1"}, "not JSON"),
        ({}, {"contexts": "[1]"}, "not a list of labels"),
        ({}, {"contexts": '["NK"]'}, "no control for NK"),
        ({}, {"controls": '["T", "T"]'}, "two controls"),
        ({"more": np.ones(1, np.float32)}, {}, "It must hold"),
        ({"effects": np.ones((1, 2), np.float64)}, {}, "effects is float64"),
        ({"controls": np.ones((2, 2), np.float32)}, {}, "1 controls by name"),
        ({"effects": np.full((1, 2), np.inf, np.float32)}, {}, "not finite"),
        ({"cells": np.ones(3, np.int64)}, {}, "labels for effects"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(tmp_path, tensors, metadata, words):
    write(tmp_path, tensors, **metadata)
    with pytest.raises(CheckpointError, match=words):
        load_effects(tmp_path)


def test_the_files_of_these_tests_are_good_where_nothing_is_wrong(tmp_path):
    write(tmp_path)
    assert load_effects(tmp_path).perturbations == ("TNF",)


def test_a_truncated_file_is_refused(tmp_path):
    path = save_effects(tmp_path, table())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_effects(tmp_path)


def test_reading_needs_no_torch(tmp_path):
    save_effects(tmp_path, table())
    code = (
        "import sys; from pathlib import Path; from state_engine.effects.store import load_effects;"
        f"load_effects(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
