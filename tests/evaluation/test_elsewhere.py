"""The same perturbations in another screen as a baseline: its effects by hand, names, genes, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from state_engine.data.dataset import Choices
from state_engine.errors import GeneError, RequestError
from state_engine.evaluation.effects_file import read_condition
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.request import EvaluationRequest
from tests.evaluation.test_evaluate import CONTROL, GENES, MEASURED, PREDICTED, ask, cells, values

# a screen with four genes of which three are compared, in two contexts of its own
OTHER = {
    ("NT", "P"): (1.0, 1.0, 1.0, 1.0),
    ("X", "P"): (2.0, 1.0, 1.5, 1.0),
    ("NT", "Q"): (2.0, 2.0, 2.0, 2.0),
    ("X", "Q"): (2.5, 3.0, 2.0, 2.0),
    ("z", "Q"): (3.0, 3.0, 2.0, 2.0),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def with_other(folder: Path, genes: tuple[str, ...] = ("D", "B", "A", "Z"), **changes: object) -> EvaluationRequest:
    request = ask(folder, cells(PREDICTED), cells(MEASURED))
    other = cells(OTHER, genes=genes)
    # an effect needs three cells of a condition
    ad.concat([other, other], index_unique="-").write_h5ad(folder / "s.h5ad")
    choices = Choices(perturbation_key="p", control="NT", context_key="c")
    return replace(request, measured_elsewhere=str(folder / "s.h5ad"), elsewhere_choices=choices, **changes)  # type: ignore[arg-type]


def test_by_hand(tmp_path: Path) -> None:
    made = evaluate(with_other(tmp_path), tmp_path / "out")
    kept = read_condition(tmp_path / "out" / "effects.npz", "x", "T")
    # X (any case) in P and Q: (1, 0, 0.5) and (0.5, 1, 0) on D, B, A; C is not measured there
    assert kept is not None and kept.genes == GENES
    assert kept.methods["measured elsewhere"].tolist() == [0.25, 0.5, 0, 0.75]
    found = values(tmp_path / "out")
    predicted = np.array([1.25, 2.5, 3.0, 1.25])
    assert found["measured elsewhere", "x", "T", "expr_mae"] == pytest.approx(np.abs(predicted - MEASURED["x", "T"]).mean())
    assert ("measured elsewhere", "y", "T", "expr_mae") not in found
    method = next(m for m in made.methods if m.name == "measured elsewhere")
    assert method.kind == "baseline" and method.n_conditions == 2 and "has not measured y" in method.reason
    remarks = " ".join(made.remarks)
    assert "1 of 4 genes is not in s.h5ad" in remarks and "mean effects over its 2 contexts" in remarks


def test_refusals(tmp_path: Path) -> None:
    request = with_other(tmp_path)
    with pytest.raises(RequestError, match="is the measured file itself"):
        own = Choices(perturbation_key="p", control=CONTROL, context_key="c")
        evaluate(replace(request, measured_elsewhere=request.real, elsewhere_choices=own), tmp_path / "out")
    with pytest.raises(GeneError, match="none of the compared genes"):
        evaluate(with_other(tmp_path, ("E", "F", "G", "H")), tmp_path / "out")
    strangers = cells({("NT", "P"): (1.0,) * 4, ("q", "P"): (2.0,) * 4})
    strangers.write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(RequestError, match=r"none of the scored perturbations.*Scored: x, y; measured there: q"):
        evaluate(request, tmp_path / "out")
