"""Everything a page can choose, the command line can, and the reverse: compared from the source of the forms and the options of requests."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pages.parts import session
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.submit import SubmissionRequest
from state_engine.challenge.template import TemplateRequest
from state_engine.cli.main import COMMANDS
from state_engine.data.dataset import Choices
from state_engine.embedding.request import EmbedRequest
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs.kinds import KINDS, request_class
from state_engine.options import options_of
from state_engine.prediction.request import PredictionRequest
from state_engine.train.request import TrainRequest

PAGES = Path(__file__).resolve().parents[2] / "pages"
# request -> fields that no form sets, each with the reason
NOT_ON_PAGES: dict[type, dict[str, str]] = {
    PredictionRequest: {
        "unknown_effect": "the page offers the perturbations that the model knows",
        "measured": "as unknown_effect; the template of a challenge offers both",
    },
    EmbedRequest: {"checkpoint": "models of the library have one; it is chosen when they are brought in"},
    EvaluationRequest: {
        "features": "a ridge regression on the training cells is that of the model's folder (effects)",
        "cell_eval": "a job of a page starts no other program",
    },
    HeldOutRequest: {
        "features": "those of the training are kept with it",
        "method": "the report that compares an adapted model with others is made by its training",
        "beside": "as method",
    },
    SubmissionRequest: {
        "required_contexts": "the challenge's list says it on the page",
        "matrix": "cells of a data set are read from where the Data page says",
        "gene_column": "as the matrix",
    },
    ScoreRequest: {"cell_eval": "a job of a page starts no other program"},
    TemplateRequest: {"counts": "asked when the prediction is submitted, on the same page"},
}
# request -> fields without an option of the command line, each with the reason
NOT_ON_COMMANDS: dict[type, dict[str, str]] = {
    ScoreRequest: {"submission.write": "a score writes no archive"},
}
REQUESTS = (
    PredictionRequest, Choices, EmbedRequest, EvaluationRequest, HeldOutRequest, SubmissionRequest, ScoreRequest, TemplateRequest,
    FinetuneRequest, AnnotateRequest,
)  # fmt: skip


def calls() -> list[ast.Call]:
    trees = [ast.parse(path.read_text()) for path in PAGES.rglob("*.py")]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def set_on_pages(request: type) -> set[str]:
    """Fields that some page gives when it makes such a request, or changes with `replace`."""
    names, found = [f.name for f in fields(request)], set()
    for call in calls():
        if call.func.id == request.__name__:  # type: ignore[attr-defined]
            found |= {*names[: len(call.args)]} | {k.arg for k in call.keywords}
        elif call.func.id == "replace":  # type: ignore[attr-defined]
            found |= {k.arg for k in call.keywords} & {*names}
    return found


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: r.__name__)
def test_each_field_is_chosen_on_a_page_or_says_why_not(request_: type) -> None:
    missing = {f.name for f in fields(request_)} - set_on_pages(request_)
    assert missing == {*NOT_ON_PAGES.get(request_, {})}


@pytest.mark.parametrize("request_", (*REQUESTS, TrainRequest), ids=lambda r: r.__name__)
def test_each_field_has_an_option_or_says_why_not(request_: type) -> None:
    options = options_of(request_)
    elsewhere = {f"{o.path.removesuffix(o.name)}{n}" for o in options for sets in o.about.also.values() for n in sets}
    assert {o.path for o in options if o.flag is None} - elsewhere == {*NOT_ON_COMMANDS.get(request_, {})}


# kind of job whose request names no command -> the command that does the same, or why there is none
COMMAND_OF = {
    "convert": "convert",
    "convert_se": "convert",
    "fetch": "fetch",
    "prepare": "prepare",
    "gene_cache": "gene",
    "label": "label",
    "differential": "de",
    "tables": "tables",
    "effects": "tables",
    "gene_sets": "enrich",
    "selected_cells": "de",
    "report": "report",
    "selection": "none: Python, comparison.selection",
    "matrix": "predict",
    "store": "predict",
    "attention": "attention",
    "embed": "embed",
    "embed_speed": "embed",
    "similar": "query",
    "genes_read": "embed",
    "train": "train",
    "look": "none: it draws the page's map; tables has the places of the cells",
    "attention_check": "none: Python, attention.compare_modes",
    "download": "none: Python, library.hub; convert reads what another program downloaded",
    "rehearse": "none: Python, challenge.rehearsal",
}


def test_each_job_has_a_command_or_says_why_not() -> None:
    verbs = {name: getattr(request_class(kind), "VERB", "").split(" ")[0] for name, kind in KINDS.items()}
    assert {name for name, verb in verbs.items() if not verb} == {*COMMAND_OF}
    assert {verb for verb in verbs.values() if verb} | {c for c in COMMAND_OF.values() if not c.startswith("none: ")} <= {
        *COMMANDS
    }


class Address(dict[str, str]):
    """Query parameters that count the messages to the browser, each an entry of its history."""

    told = 0

    def to_dict(self) -> dict[str, str]:
        return dict(self)

    def update(self, *others: Any, **more: Any) -> None:
        super().update(*others, **more)
        self.told += 1

    def from_dict(self, wanted: dict[str, str]) -> None:
        self.clear()
        self.update(wanted)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.told += 1


def test_the_address_is_written_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address(data="d", run="r", perturbation="TNF", context="B")
    monkeypatch.setattr(session.st, "query_params", address)
    session.write_address({"perturbation": "", "context": "", "gene": "ISG15"})
    assert (dict(address), address.told) == ({"data": "d", "run": "r", "gene": "ISG15"}, 1)
    session.write_address({"gene": "ISG15"})
    assert address.told == 1
