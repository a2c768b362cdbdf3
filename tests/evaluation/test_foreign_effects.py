"""Tables of effects from other programs: read in both forms, evaluated as cells are, refused with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from state_engine.data.dataset import Choices
from state_engine.errors import StateError, UnreadableFileError
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.foreign_effects import read_effects, size_of_effects_file
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.library.foreign import call
from state_engine.sandbox import Limits
from tests.evaluation.screens import CONTROL, GENES, PERTURBATIONS, log1p, screen, write

CHOICES = Choices(perturbation_key="target_gene", control=CONTROL, context_key="context")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def true_effects(cells: ad.AnnData) -> pd.DataFrame:
    """Measured effects: a row for each perturbation, a column for each gene."""
    x, labels = cells.X.toarray(), cells.obs["target_gene"].to_numpy(str)
    control = x[labels == CONTROL].mean(axis=0)
    return pd.DataFrame({p: x[labels == p].mean(axis=0) - control for p in PERTURBATIONS}, index=list(GENES)).T


def long_form(effects: pd.DataFrame, chances: bool = False) -> pd.DataFrame:
    table = effects.rename_axis("perturbation").reset_index().melt("perturbation", var_name="gene", value_name="effect")
    if chances:
        table["p_de"] = 1 - np.exp(-3 * table["effect"].abs())
    return table


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_both_forms_of_all_kinds_are_read_alike(tmp_path: Path, ending: str) -> None:
    effects = true_effects(log1p(screen(1)))
    wide = effects.rename_axis("perturbation").reset_index()
    for name, frame in (("wide", wide), ("long", long_form(effects))):
        path = tmp_path / f"{name}.{ending}"
        frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
        found = read_effects(path)
        assert sorted(found.conditions) == [(p, "") for p in sorted(PERTURBATIONS)] and found.chances is None
        columns = [found.genes.index(g) for g in GENES]
        at = found.row("G1", "anywhere")
        assert at is not None
        np.testing.assert_allclose(found.effects[at, columns], effects.loc["G1"], atol=1e-6)
        assert found.row("nothing", "A") is None


def test_effects_are_evaluated_as_cells_are(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    long_form(true_effects(measured), chances=True).to_csv(tmp_path / "theirs.csv", index=False)
    request = EvaluationRequest(
        (PredictedFile(str(tmp_path / "theirs.csv"), "theirs"),), write(measured, tmp_path / "r.h5ad"), CHOICES
    )
    made = evaluate(request, tmp_path / "out")
    mae, pearson = made.value("theirs", "expr_mae"), made.value("theirs", "delta_pearson")
    assert mae is not None and mae < 1e-3 and pearson is not None and pearson > 0.999
    found = made.value("theirs", "p_de_auprc")
    assert found is not None and 0.7 < found <= 1
    method = next(m for m in made.methods if m.name == "theirs")
    assert method.files == (str(tmp_path / "theirs.csv"),) and method.n_conditions == len(PERTURBATIONS)
    assert any("control cells moved by the effects" in remark for remark in made.remarks)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"metrics.csv", "summary.csv", "effects.npz", "evaluation.json"}


def test_some_genes_some_conditions_and_gaps(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    effects = true_effects(measured).iloc[:3, :100].copy()
    effects.iloc[0, 0] = np.nan
    effects.rename_axis("perturbation").reset_index().to_csv(tmp_path / "part.csv", index=False)
    request = EvaluationRequest(
        (PredictedFile(str(tmp_path / "part.csv")),), write(measured, tmp_path / "r.h5ad"), CHOICES, common_genes=True
    )
    made = evaluate(request, tmp_path / "out")
    assert made.n_genes == 100 and len(made.conditions) == 3
    assert any("1 effect is missing in part" in remark for remark in made.remarks)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column 'perturbation'"),
        ("perturbation,G1\nx,1\nx,2\n", "conditions twice"),
        ("perturbation,gene,effect\nx,G1,1\nx,G1,2\n", "a gene of a condition twice"),
        ("perturbation,G1\nx,much\n", "no numbers"),
        ("perturbation,G1\nx,inf\n", "infinite"),
        ("perturbation,gene,effect,p_de\nx,G1,1,7\n", "no probabilities"),
        ("", "no rows"),
        ("perturbation,G1,G1\nx,1,2\n", "columns twice"),
        ("perturbation,G1\nx,true\n", "no numbers"),
        ("perturbation,G1\nx,NA\n", "no effects"),
        ("perturbation,G1\nx,1e30\n", "no log1p expression"),
        ("perturbation,G1\n", "no rows"),
        ("perturbation,G1\nx,1,2\ny,1\n", "longer than its headings"),  # pandas alone would read a perturbation '1'
        ("perturbation,G1\n1,x,1\n2,y,1\n", "longer than its headings"),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "effects.csv"
    path.write_text(text)
    with pytest.raises(StateError, match=words):
        read_effects(path)


def test_labels_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("perturbation;context;NA;G2\n001;0;1;2\n1e5;;3;NA\nTrue;1;5;6\n", encoding="utf-8-sig")
    found = read_effects(path)
    assert found.conditions == (("001", "0"), ("1e5", ""), ("True", "1")) and found.genes == ("NA", "G2")
    assert np.isnan(found.effects[1, 1]) and found.effects[0].tolist() == [1, 2]
    long = pd.DataFrame({"perturbation": ["a", "a"], "context": [0.0, np.nan], "gene": ["NA", "nan"], "effect": [1.0, 2.0]})
    long.set_index(["perturbation", "context"]).to_parquet(tmp_path / "e.parquet")
    typed = read_effects(tmp_path / "e.parquet")
    assert typed.conditions == (("a", "0"), ("a", "")) and typed.genes == ("NA", "nan")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_effects(tmp_path / "pipe.csv")


def test_an_evaluation_is_not_written_over_what_it_compares(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    table = tmp_path / "metrics.csv"
    long_form(true_effects(measured)).to_csv(table, index=False)
    before = table.read_bytes()
    request = EvaluationRequest((PredictedFile(str(table)),), write(measured, tmp_path / "r.h5ad"), CHOICES)
    with pytest.raises(StateError, match="written over an input"):
        evaluate(request, tmp_path)
    assert table.read_bytes() == before


def test_what_is_not_said_of_predicted_cells_is_as_in_the_measured(tmp_path: Path) -> None:
    measured = write(log1p(screen(1)), tmp_path / "r.h5ad")
    predicted = PredictedFile(write(log1p(screen(2)), tmp_path / "p.h5ad"))
    controls = Choices(perturbation_key="target_gene", control=(CONTROL, "nope"), context_key="context")
    made = evaluate(EvaluationRequest((predicted,), measured, controls, Choices(scale="log1p")), tmp_path / "out")
    assert len(made.conditions) == len(PERTURBATIONS)
    assert any("No cell is labelled nope" in remark for remark in made.remarks)


def test_measured_cells_of_a_result_are_no_prediction(tmp_path: Path) -> None:
    """A result holds predicted and measured cells: without a word of the caller, each side takes its own."""
    measured, predicted = log1p(screen(1)), log1p(screen(2, 0.5))
    alone = EvaluationRequest(
        (PredictedFile(write(predicted, tmp_path / "p.h5ad")),), write(measured, tmp_path / "r.h5ad"), CHOICES
    )
    predicted.obs["kind"] = np.where(predicted.obs["target_gene"] == CONTROL, "predicted control", "predicted")
    seen = measured.copy()
    seen.obs["kind"] = np.where(seen.obs["target_gene"] == CONTROL, "observed control", "observed")
    both = ad.concat([predicted, seen], index_unique="-")
    mixed = EvaluationRequest((PredictedFile(write(both, tmp_path / "result.h5ad")),), alone.real, CHOICES)
    one, other = evaluate(alone, tmp_path / "one"), evaluate(mixed, tmp_path / "other")
    assert one.value("prediction", "expr_mae") == pytest.approx(other.value("prediction", "expr_mae"))
    assert any("result.h5ad is a result: its 360 measured cells" in remark for remark in other.remarks)


def test_a_file_that_is_no_parquet_and_names_that_meet_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not a table")
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_effects(tmp_path / "x.parquet")
    measured = write(log1p(screen(1)), tmp_path / "r.h5ad")
    for text, words in (("perturbation,ZZZ\nG1,1\n", "share no gene"), ("perturbation,G1\nelse,1\n", "no measured condition")):
        (tmp_path / "e.csv").write_text(text)
        with pytest.raises(StateError, match=words):
            evaluate(EvaluationRequest((PredictedFile(str(tmp_path / "e.csv")),), measured, CHOICES), tmp_path / "out")


def shared(text: str, rows: int) -> pa.DictionaryArray:
    """A column in which each row has the same text, by a code."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


@pytest.mark.parametrize("as_dictionary", [True, False], ids=["dictionary", "text"])
@pytest.mark.parametrize("place", ["perturbation", "context", "comment"])
def test_a_text_that_all_rows_share_is_kept_once(tmp_path: Path, place: str, as_dictionary: bool) -> None:
    """30,000 rows of one text of 100,000 letters are a small file, and 3 GB where each row has its own."""
    rows, path = 30_000, tmp_path / "shared.parquet"
    columns = {
        "perturbation": pa.array([f"P{i}" for i in range(rows)]), "context": pa.array([f"C{i}" for i in range(rows)]),
        "gene": shared("G1", rows), "effect": pa.array(np.ones(rows)), "comment": shared("none", rows),
    }  # fmt: skip
    columns[place] = shared("L" * 100_000, rows)
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=as_dictionary)
    assert path.stat().st_size < 2_000_000
    assert call(size_of_effects_file, path, path=path, limits=Limits(seconds=600, memory_mb=2048)) == (rows, 1)


def test_a_long_name_is_cut_in_a_message(tmp_path: Path) -> None:
    pd.DataFrame({"perturbation": ["L" * 100_000] * 2, "G1": [1.0, 1.0]}).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(UnreadableFileError, match="has conditions twice") as raised:
        read_effects(tmp_path / "twice.csv")
    assert len(str(raised.value)) < 500
