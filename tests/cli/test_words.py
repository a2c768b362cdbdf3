"""The command of a request makes that request again, for every request and every field; every option of before is still there."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shlex
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import state_engine
from state_engine import options
from state_engine.analysis.enrichment import EnrichRequest
from state_engine.analysis.on_target import TargetsRequest
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.submit import SubmissionRequest
from state_engine.challenge.template import TemplateRequest
from state_engine.cli.evaluate import run_evaluate
from state_engine.cli.main import COMMANDS, build_parser, main
from state_engine.cli.options import request as from_words
from state_engine.cli.train import wanted
from state_engine.comparison.request import ComparedSide, CompareRequest
from state_engine.data.dataset import Choices
from state_engine.embedding.request import DecodeRequest, EmbedRequest
from state_engine.errors import ConfigError
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest, ModelBeside, PredictedFile
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs.train_job import TrainJob, command_of
from state_engine.options import options_of
from state_engine.prediction.request import CellCount, MeasuredScreen, PredictionRequest, ReplayRequest
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task
from state_engine.screening.request import GeneChange, ScreenRequest
from state_engine.search.request import QueryRequest
from state_engine.train.request import TrainRequest, resolve

CHOICES = Choices("gene's", "", "cell type", "", "log1p", "", "layers/counts", False, 1234.5, True, True)
OTHERS = Choices("p", ("-x", "neg_ctrl_*", "a, b"), "c", "b", "counts", "symbol", "X", False, 1e6, True, True)
COUNTS = CountsOptions("nearest", 7, 1234.5)
SUBMISSION = SubmissionRequest(
    "my.toml", "run 1", True, "target", "g.csv", "p.csv", ("rename-control", "first-cells"), True, "line", ("A", "B,C"),
    ("c 1.h5ad", "c2.h5ad"), COUNTS, ("A", "B,C", ""), "layers/raw", "symbol", "d.h5ad",
)  # fmt: skip
# every field of each off its default
FULL: list[Any] = [
    PredictionRequest(
        "d 1.h5ad", "m'", ("TNF", "-x", "JUN,FOS", ""), ("NK", "B cell"), 7, 8, CHOICES, 9, "cpu", "bf16", "causal", True, "transfer", False,
        0, True, "mean of other contexts", (CellCount("TNF", 3), CellCount("JUN,FOS", 9)), 3, 9,
        (MeasuredScreen("s 1.h5ad"), MeasuredScreen("s2", "gene", "", "NT,ctrl", "layers/counts", scale="counts", depth=1e5, name="Mine")), True,
    ),
    ReplayRequest("d", "m", CHOICES, 8, 9, "cpu", "bf16", "full", "X_pca", True),
    EmbedRequest("d", "m", CHOICES, "X_k", "cpu", "bf16", 3, 9, "a.ckpt", True),
    DecodeRequest("d", "m", ("G1", "-G2"), CHOICES, "X_k", 0.1 + 0.2, "cpu", "bf16", True, "a.ckpt"),
    QueryRequest("db", "d", "X_k", 9, True, CHOICES),
    FinetuneRequest(
        "d", ("cell type", "-x"), "", "m", "hidden", "", CHOICES, "multi-label", "|", "mlp", 7, False, "donor", ("d1", "d 2"), 0.3, 0.25, 9,
        "last-2", 3, 5, 4, 0.1 + 0.2, 0.5, 17, 77, 11, 3, 20, "my head", 9, "cpu", "bf16",
    ),
    AnnotateRequest("h", "d", "", 0.7, CHOICES, "X_k", "b", 3, "cpu", "bf16"),
    EvaluationRequest(
        (PredictedFile("p 1"), PredictedFile("p2", "raw"), PredictedFile("p3", "the raw", "layers/raw")), "r", CHOICES, OTHERS, "vcc2025",
        "real", "run", "f.pt", True, True, "nearest", 5, "/usr/bin/python", "in words: 'held out'", False,
        "s 1.h5ad", OTHERS,
    ),
    HeldOutRequest(
        "run", "model", '[datasets]\na = "x"\n', OTHERS, "val", 9, (1, 2), "full", "f.csv", "cpu", "bf16", "s", OTHERS, "mine",
        (ModelBeside("m 1", "from scratch"), ModelBeside("m2", "-x")),
    ),
    SUBMISSION,
    TemplateRequest("vcc2026", "d", "m", "g", "p", ("A", "B"), "transfer", CHOICES, COUNTS, 3, "cpu", (MeasuredScreen("s", "p", "c", "NT"),)),
    PretrainRequest(
        ("d 1.h5ad", "d2"), CHOICES, "v.csv", evaluate=("cell type", "-x"), sizes=Sizes(64, 3, 8, 96, 32, 100, 33, 0.2),
        task=Task(9, 8, 7, "mse"), schedule=Schedule(5, 6, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7),
        running=Running("my SE", "MIT", True, 9, 0.2, 3, 4, False, "cpu", "bf16", 2, 3), variable_genes=70,
    ),
    ScoreRequest(replace(SUBMISSION, write=False), "t", CHOICES, "d", OTHERS, "pooled", "/usr/bin/python"),
    CompareRequest(
        ComparedSide(("p 1", "p2"), "raw", "TNF", "B cell", "mine", CHOICES), ComparedSide(("-x",), "observed", "-y", "c", "n", OTHERS), 7, 99, 30,
        5, False,
    ),
    ScreenRequest(
        "d 1", "m", ("NK", "B cell"), ("TNF", "-x"), ("G1", "-G2"), ("G3",), opposite=True, combinations=5, cells=9, sample=4, splits=200,
        seed=8, choices=CHOICES, method="paired", set_size=9, allow_other_embedding=True, earlier="s 1", device="cpu", precision="bf16",
    ),
    EnrichRequest("d 1", "gsea", "s 1.gmt", ("TNF", "-x"), ("NK", "B cell"), "observed control", "raw", 7, 0.5, 77, 8),
    TargetsRequest("d 1", "up", "how", "raw", CHOICES),
]  # fmt: skip
LEAST: list[Any] = [
    PredictionRequest("d", "m", ()),
    ReplayRequest("d", "m"),
    EmbedRequest("d", "m"),
    DecodeRequest("d", "m", ()),
    QueryRequest("db", "d"),
    FinetuneRequest("d", ("c",)),
    replace(FULL[5], model="", embedding_key="X_k", features="auto", tune="head"),
    FinetuneRequest("d", ("c",), genes_of="st"),
    AnnotateRequest("h", "d"),
    EnrichRequest("d"),
    TargetsRequest("d"),
    AnnotateRequest("h", result="run"),
    CompareRequest(ComparedSide(("a",)), ComparedSide(("b",))),
    ScreenRequest("d", "m"),
    ScreenRequest("d", "m", changes=(GeneChange("G1", 1.5), GeneChange("-G2", -2e-5))),
    ScreenRequest("d", "m", target_cells="cell type=a=b"),
    ScreenRequest("d", "m", head="h", label="-l", backbone="b"),
    EvaluationRequest((PredictedFile("p"),), "r", Choices("p", "c")),
    replace(FULL[7], predicted_choices=Choices(), elsewhere_choices=Choices()),
    HeldOutRequest("run"),
    SubmissionRequest("vcc2025", "d"),
    replace(SUBMISSION, required_contexts=(), counts=CountsOptions(), is_run=False),
    TemplateRequest("vcc2025", "d", "m"),
    ScoreRequest(SubmissionRequest("vcc2025", "d"), "t"),
    PretrainRequest(("d",)),
    PretrainRequest(("d",), init_from="m"),
]
# what the command line cannot say, and why that loses nothing
UNSAID = {
    (ScoreRequest, "submission.write"): "a score writes no archive",
    (PretrainRequest, "init_from"): "not beside gene vectors; it is among LEAST",
    (FinetuneRequest, "embedding_key"): "in place of a model; among LEAST",
    (FinetuneRequest, "genes_of"): "not beside a model; among LEAST",
    (ScreenRequest, "changes"): "not beside a signature; among LEAST",
    (ScreenRequest, "target_cells"): "not beside a signature; among LEAST",
    (ScreenRequest, "head"): "not beside a signature; among LEAST",
    (ScreenRequest, "label"): "of a head; among LEAST",
    (ScreenRequest, "backbone"): "of a head; among LEAST",
    (AnnotateRequest, "result"): "in place of data; among LEAST",
}


def from_command(request: Any) -> Any:
    words = shlex.split(options.command(request))
    assert words[:3] == ["python", "-m", "state_engine"]
    parser = build_parser(words[3:4])
    for action in parser._actions[-1].choices[words[3]]._actions:  # type: ignore[union-attr,index]
        action.required = action.required and action.dest != "output"
    return from_words(type(request), parser.parse_args(words[3:]))


@pytest.mark.parametrize("request_", [*FULL, *LEAST], ids=lambda r: type(r).__name__)
def test_the_command_of_a_request_makes_it_again(request_: Any) -> None:
    assert from_command(request_) == request_


def follow(request: Any, path: str) -> Any:
    for name in path.split("."):
        request = getattr(request, name)
    return request


@pytest.mark.parametrize("request_", FULL, ids=lambda r: type(r).__name__)
def test_every_field_is_off_its_default_above(request_: Any) -> None:
    for one in options_of(type(request_)):
        if (type(request_), one.path) not in UNSAID:
            assert follow(request_, one.path) != one.default, f"{type(request_).__name__}.{one.path}: set it in FULL"


def test_every_request_with_a_command_is_above() -> None:
    found = set()
    for module in pkgutil.walk_packages(state_engine.__path__, "state_engine."):
        if not module.name.endswith("__main__"):
            named = vars(importlib.import_module(module.name)).values()
            found |= {c for c in named if isinstance(c, type) and is_dataclass(c) and hasattr(c, "VERB")}
    assert {type(request) for request in FULL} == found
    assert {c.VERB.split()[0] for c in found} <= set(COMMANDS)


def test_every_field_has_its_help() -> None:
    for request in FULL:
        for one in options_of(type(request)):
            assert one.about.help or one.flag is None, f"{type(request).__name__}.{one.path}"


# settings that a field of a training needs beside it
BESIDE = {
    "network.batch_token": {"control_mapping": "batch"}, "run.compile": {"fill": True}, "run.devices": {"sets_per_step": 14},
    "run.nodes": {"sets_per_step": 14}, "network.gene_decoder": {"embedding": "X_pca"}, "network.heads": {"hidden": 700},
    "network.hidden": {"heads": 1, "head_dim": 8}, "network.output_space": {"embedding": "X_pca"},
}  # fmt: skip


def off_default(one: options.Option) -> Any:
    """A value that the field does not have by default."""
    if one.path == "optimiser.tune":
        return "last-2"
    if one.about.choices:
        return next(c for c in reversed(one.about.choices) if c != one.default)
    if one.many:
        return (7, 5) if one.kind is int else ("a,b", "c")
    if one.kind is bool:
        return not one.default
    if one.kind is str:
        return "x = 'y'"
    return 7 if one.kind is int else 0.123456789


@pytest.mark.parametrize("preset", ["", "default", "state_sm"])
@pytest.mark.parametrize("one", options_of(TrainRequest), ids=lambda o: o.path)
def test_the_command_of_a_training_makes_it_again(one: options.Option, preset: str) -> None:
    changed = {**BESIDE.get(one.path, {}), one.path: off_default(one)}
    if one.path == "run.preset":
        changed = {}
    try:
        request = resolve(preset, changed)
    except ConfigError as error:
        # the preset forbids it: then the plain defaults must not
        assert preset, error
        return
    words = shlex.split(command_of(TrainJob("", request, CHOICES, "/models/old one")))
    given = build_parser(["train"]).parse_args(words[3:])
    assert wanted(given) == (request, CHOICES) and given.init_from == Path("/models/old one")


BEFORE = json.loads((Path(__file__).parent / "options.json").read_text())


@pytest.mark.parametrize("command", BEFORE)
def test_every_option_of_before_keeps_its_name(command: str) -> None:
    parser = build_parser([command])._actions[-1].choices[command]  # type: ignore[union-attr,index]
    known = {o for a in parser._actions for o in (*a.option_strings, str(a.metavar))}
    assert set(BEFORE[command]) <= known
    assert parser.description and all(a.help is not None for a in parser._actions)


@pytest.mark.parametrize("command", BEFORE)
def test_help_is_readable(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "usage: python -m state_engine " + command in capsys.readouterr().out


def test_what_is_missing_or_not_admitted_is_reported_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict = ["predict", "--model", "m", "--data", "d", "--output", "o", "--perturbation", "TNF"]
    assert main([*predict, "--cells", "0"]) == 1
    assert "cells must be at least 1." in capsys.readouterr().err
    for words, said in (([*predict, "--cells", "many"], "invalid int value"), ([*predict, "--scale", "raw"], "invalid choice"),
                        (["submit", "--challenge", "vcc2025"], "one of the arguments --data --run is required"),
                        (["evaluate", "--real", "r", "--output", "o"], "--perturbation-key, --control")):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and said in capsys.readouterr().err
    assert main(["evaluate", "--real", "r", "--output", "o", "--perturbation-key", "p", "--control", "c"]) == 1
    assert "There are no predicted cells" in capsys.readouterr().err
    assert run_evaluate.__doc__


def test_dataclass_fields_are_options_by_name() -> None:
    """A field without metadata would have an option without a word of help."""
    for cls in {type(request) for request in FULL} | {Choices, CountsOptions}:
        assert all(f.metadata for f in fields(cls)), cls


@pytest.mark.parametrize(
    ("words", "seeds"), [((), (42, 42)), (("--seed", "7"), (7, 7)), (("--seed", "7", "--counts-seed", "3"), (7, 3))]
)
def test_the_seed_of_a_template_is_that_of_its_rounding_too(
    words: tuple[str, ...], seeds: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before; the rounding may now have a seed of its own, which the command of a request always names."""
    from state_engine.cli import challenge
    from tests.small import write_cells, write_model

    write_model(tmp_path / "model")
    asked = []

    def plan(request: TemplateRequest, *more: object) -> None:
        asked.append((request.seed, request.counts.seed))
        raise ConfigError("Enough.")

    monkeypatch.setattr(challenge, "plan_from_template", plan)
    data = write_cells(tmp_path / "cells.h5ad")
    assert main(["template", "--challenge", "vcc2026", "--data", str(data), "--model", str(tmp_path / "model"), *words]) == 1
    assert asked == [seeds]
