"""What a head can be asked for, and the sentences for what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from state_engine.errors import RequestError, RunError
from state_engine.files import write_json
from state_engine.heads.report import REPORT, HeadReport, Method, Score, SplitUsed, read_annotation, read_report
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.plain import to_plain


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ()}, "No column of labels"),
        ({"labels": ("a", "a")}, "named twice"),
        ({"labels": ("a", "b")}, "2 columns of labels"),
        ({"labels": ("a", "b"), "task": "regression"}, "For regression there is one"),
        ({"task": "multi-label", "separator": ""}, "no separator"),
        ({"test_groups": ("d1",)}, "no column of groups"),
        ({"group": "type"}, "the label and the group"),
        ({"embedding_key": "X_pca", "model": "m"}, "Both an embedding"),
        ({"features": "hidden"}, "No model is named whose hidden"),
        ({"features": "expression", "model": "m"}, "need no model"),
        ({"genes_of": "st", "model": "m"}, "vectors from expression alone"),
        ({"tune": "last-0", "model": "m"}, "What is trained is 'last-0'"),
        ({"tune": "some", "model": "m"}, "Known: head, lora, last-N or full"),
        ({"tune": "lora"}, "could train"),
        ({"test_share": 1.0}, "--test-share must be more than 0 and less than 1. --test-share is 1.0"),
        ({"patience": 0}, "patience must"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        FinetuneRequest(**{"data": "d", "labels": ("type",), **changes})


def test_what_is_trained_is_read() -> None:
    asked = [FinetuneRequest("d", ("t",), model="m", tune=t) for t in ("head", "lora", "last-3", "full")]
    assert [(a.tunes_model, a.last_layers) for a in asked] == [(False, 0), (True, 0), (True, 3), (True, 0)]


def test_a_head_is_applied_to_cells_or_to_a_prediction() -> None:
    for wrong in ({}, {"data": "d", "result": "r"}):
        with pytest.raises(RequestError, match="named"):
            AnnotateRequest("m", **wrong)
    assert AnnotateRequest("m", "d").threshold == 0


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    methods = (Method("head", "head", (Score("accuracy", 0.9, 0.8, 0.95), Score("auroc", None))),)
    split = SplitUsed("groups", "donor", 10, 2, 3, ("d1",), (), 42)
    report = HeadReport(1, "x", "a" * 12, "classification", ("t",), ("A", "B"), "linear", "head", "obsm/X", 4, split, methods,
                        confusion=((1, 0), (1, 1)))  # fmt: skip
    write_json(tmp_path / REPORT, to_plain(report))
    assert read_report(tmp_path) == report and report.own.score("auroc") == Score("auroc", None)
    with pytest.raises(RunError, match=r"annotation\.json"):
        read_annotation(tmp_path)
    (tmp_path / REPORT).write_text("{}")
    with pytest.raises(RunError, match="cannot be read"):
        read_report(tmp_path)
