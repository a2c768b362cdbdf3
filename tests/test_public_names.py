"""The names that `from state_engine import ...` gives: which there are, that they resolve, and that type checkers know them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import state_engine

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "AnnotateRequest", "FinetuneRequest", "annotate", "finetune", "load_head",
    "AttentionRequest", "Choices", "Dataset", "DecodeRequest", "EmbedRequest", "EnrichRequest", "EvaluationRequest",
    "HeldOutRequest", "ModelCard", "PredictedFile", "PredictionRequest", "Progress", "ReplayRequest",
    "ScreenRequest", "Settings", "StateError", "TemplateRequest", "TrainRequest", "__version__", "as_h5ad", "attention_of_set", "card_of",
    "check_compatibility", "cls_attention", "convert", "convert_embedding", "decode", "differential", "embed",
    "embedding_card_of", "estimate", "evaluate", "evaluate_held_out", "fetch", "load_challenge",
    "load_cls_attention", "load_embedding", "load_maps", "load_model", "load_settings", "open_dataset",
    "open_result", "open_split", "plan_from_template", "predict", "read_plan", "replay", "save_model",
    "ComparedSide", "CompareRequest", "compare", "screen", "submit", "train_transition", "write_targets",
]  # fmt: skip
RIGHT = """
from pathlib import Path
from state_engine import Choices, PredictionRequest, load_model, open_dataset, predict
request = PredictionRequest("x.h5ad", "model", ("TNF",), choices=Choices(control="ctrl"))
made = predict(request, Path("out.h5ad"))
cells: int = made.cells
names: tuple[str, ...] = open_dataset("x.h5ad").contexts
kind: str = load_model(Path("model")).card.control
"""


def test_the_public_names_are_these() -> None:
    assert state_engine.__all__ == sorted(NAMES)
    assert set(NAMES) - {"__version__"} <= set(dir(state_engine))


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_resolves(name: str) -> None:
    assert getattr(state_engine, name) is not None


def test_what_is_not_public_says_so() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = state_engine.nothing_of_the_kind


def test_a_type_checker_knows_the_public_names(tmp_path: Path) -> None:
    """A right use passes; a wrong argument, a wrong result and a name that is not there are reported, each at its line."""
    (tmp_path / "right.py").write_text(RIGHT)
    wrong = RIGHT.replace('Path("out.h5ad")', "3").replace("cells: int", "cells: str") + "from state_engine import predct\n"
    (tmp_path / "wrong.py").write_text(wrong)
    files = [str(tmp_path / "right.py"), str(tmp_path / "wrong.py")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *files],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    errors = [line.split(":")[0:2] for line in done.stdout.splitlines() if " error: " in line]
    assert [(Path(file).name, int(line)) for file, line in errors] == [("wrong.py", 5), ("wrong.py", 6), ("wrong.py", 9)], (
        done.stdout
    )
