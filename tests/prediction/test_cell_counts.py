"""How many cells of each perturbation: a table, fewest and most, on the same basal cells; and the matrix alone."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.attention.cell_set import AttentionRequest, attention_of_set
from state_engine.attention.maps import load_maps
from state_engine.cli.main import build_parser, main
from state_engine.cli.options import request
from state_engine.errors import ConfigError, RequestError
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.cell_counts import cell_counts, read_cell_counts
from state_engine.prediction.predict import predict
from state_engine.prediction.request import CellCount, PredictionRequest
from state_engine.prediction.result import open_result
from tests.small import write_cells, write_model


@pytest.fixture
def asked(tmp_path: Path) -> PredictionRequest:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad")
    return PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=20, observed=4, device="cpu")


@pytest.mark.parametrize("method", ["model", "no change"])
def test_each_perturbation_has_its_number_of_the_same_basal_cells(asked: PredictionRequest, tmp_path: Path, method: str) -> None:
    # 20 cells of one and 11 of the other: the second ends within its second set of eight
    counted = replace(asked, cells_of=(CellCount("TNF", 11),), method=method)
    summary = predict(counted, tmp_path / "few.h5ad")
    predict(replace(asked, method=method), tmp_path / "all.h5ad")
    few, all_ = anndata.read_h5ad(tmp_path / "few.h5ad"), anndata.read_h5ad(tmp_path / "all.h5ad")
    assert summary.cells == 2 * (20 + 11)
    for context in ("B", "NK"):
        for perturbation, n in (("IFNB1", 20), ("TNF", 11), ("control", 20)):
            a, b = (
                x[(x.obs[keys.PERTURBATION] == perturbation) & (x.obs[keys.CONTEXT] == context)
                & x.obs[keys.KIND].isin([keys.PREDICTED, keys.PREDICTED_CONTROL])] for x in (few, all_)
            )  # fmt: skip
            assert len(a) == n and list(a.obs[keys.BASAL_ROW]) == list(b.obs[keys.BASAL_ROW])[:n]
            np.testing.assert_allclose(a.X, b.X[:n], atol=1e-5)
    result = open_result(tmp_path / "few.h5ad")
    rows = result.rows(keys.PREDICTED, "B", "TNF")
    assert len(result.paired_controls(rows)) == 11


def test_the_mean_effect_of_unknown_labels_with_other_numbers(asked: PredictionRequest, tmp_path: Path) -> None:
    wanted = replace(
        asked, perturbations=("IFNB1", "TNF", "NEW"), allow_unknown=True, unknown_effect="mean",
        cells_of=(CellCount("TNF", 11), CellCount("NEW", 5)),
    )  # fmt: skip
    predict(wanted, tmp_path / "p.h5ad")
    cells = anndata.read_h5ad(tmp_path / "p.h5ad")
    cells = cells[cells.obs[keys.CONTEXT] == "B"]
    kind, label = cells.obs[keys.KIND], cells.obs[keys.PERTURBATION]
    control, new = cells[kind == keys.PREDICTED_CONTROL].layers["raw"], cells[label == "NEW"].layers["raw"]
    of = [cells[(kind == keys.PREDICTED) & (label == p)].layers["raw"] for p in ("IFNB1", "TNF")]
    effect = np.mean([x.mean(0) - control[: len(x)].mean(0) for x in of], axis=0)
    assert new.shape[0] == 5
    np.testing.assert_allclose(new, control[:5] + effect, atol=1e-5)


def test_fewest_and_most_cells(asked: PredictionRequest) -> None:
    wide = replace(asked, cells_of=(CellCount("TNF", 900), CellCount("IFNB1", 2)), least_cells=5, most_cells=300)
    assert (wide.count("TNF"), wide.count("IFNB1"), wide.count("other"), wide.most("control")) == (300, 5, 20, 300)
    assert from_plain(PredictionRequest, to_plain(wide)) == wide
    for changes, match in (
        ({"least_cells": 9, "most_cells": 8}, "more than the most"),
        ({"cells_of": (CellCount("JUN", 3),)}, "not predicted: JUN"),
        ({"cells_of": (CellCount("TNF", 3), CellCount("TNF", 4))}, "twice for TNF"),
    ):
        with pytest.raises(ConfigError, match=match):
            replace(asked, **changes)


def test_attention_of_a_perturbation_with_few_cells(asked: PredictionRequest, tmp_path: Path) -> None:
    counted = replace(asked, cells_of=(CellCount("TNF", 11),))
    predict(counted, tmp_path / "p.h5ad")
    obs = open_result(tmp_path / "p.h5ad").obs
    attention_of_set(AttentionRequest(counted, "TNF", "B", 1), tmp_path / "maps.npz")
    second = obs[(obs[keys.PERTURBATION] == "TNF") & (obs[keys.CONTEXT] == "B") & (obs[keys.CELL_SET] == 1)
                 & (obs[keys.KIND] == keys.PREDICTED)]  # fmt: skip
    # the set was predicted whole, of which three cells were wanted
    assert list(load_maps(tmp_path / "maps.npz").cells[:3]) == list(second[keys.BASAL_CELL]) and len(second) == 3
    with pytest.raises(RequestError, match="no set 3"):
        attention_of_set(AttentionRequest(counted, "TNF", "B", 2), tmp_path / "maps.npz")


TABLES = {
    "tsv": "perturbation\tnum_cells\nTNF\t11\nIFNB1\t7\n",
    "csv with more columns and other capitals": "gene,Perturbation,NUM_CELLS\nx,TNF,11.0\n,IFNB1,7\n\n",
    "semicolons": "perturbation;num_cells\r\nTNF;11\r\nIFNB1;7\r\n",
    "a name with a comma": 'perturbation\tnum_cells\n"TNF"\t11\nIFNB1\t 7\n',
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_tables(tmp_path: Path, kind: str, mark: str) -> None:
    (tmp_path / "cells.tsv").write_text(TABLES[kind], encoding=mark)
    assert read_cell_counts(tmp_path / "cells.tsv") == (CellCount("TNF", 11), CellCount("IFNB1", 7))


@pytest.mark.parametrize(
    "text, match",
    [
        ("TNF\t5\n", "no column perturbation and no column num_cells"),
        ("perturbation,n\nTNF,5\n", "no column num_cells"),
        ("perturbation,num_cells\nTNF,-5\n", "'-5'"),
        ("perturbation,num_cells\nTNF,many\n", "'many'"),
        ("perturbation,num_cells\nTNF,0\n", "1 or more"),
        ("perturbation,num_cells\nTNF,99999999999\n", "'99999999999'"),
        ("perturbation,num_cells\nTNF\n", "Line 2"),
        ("perturbation,num_cells\n,5\n", "names no perturbation"),
        ("perturbation,num_cells\nTNF,5\nTNF,6\n", "TNF is counted above"),
        ("perturbation,num_cells\n", "no line below"),
        ("", "no column"),
    ],
)
def test_tables_that_are_none(text: str, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        cell_counts(text, "my.tsv")


def test_the_command_line(asked: PredictionRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cells.tsv").write_text("perturbation\tnum_cells\nTNF\t11\nIFNB1\t3\n")
    common = ["predict", "--model", asked.model, "--data", asked.data, "--device", "cpu", "--context", "B"]
    file = ["--cells-file", str(tmp_path / "cells.tsv"), "--least-cells", "5"]
    assert main([*common, *file, "--output", str(tmp_path / "a.h5ad")]) == 0
    obs = open_result(tmp_path / "a.h5ad").obs
    assert obs[obs[keys.KIND] == keys.PREDICTED][keys.PERTURBATION].astype(str).value_counts().to_dict() == {
        "TNF": 11,
        "IFNB1": 5,
    }
    # the command that the request gives makes the same
    wanted = replace(asked, perturbations=("TNF", "IFNB1"), contexts=("B",), least_cells=5,
                     cells_of=(CellCount("TNF", 11), CellCount("IFNB1", 3)))  # fmt: skip
    words = shlex.split(command(wanted, output=str(tmp_path / "b.h5ad")))[3:]
    assert main(words) == 0 and "--cells-of" in words
    assert open_result(tmp_path / "b.h5ad").obs[keys.KIND].value_counts()[keys.PREDICTED] == 16
    for more, match in ((["--cells-of", "TNF", "x"], "must be a number"), (["--cells-of", "TNF"], "has 1 words"),
                        (["--cells-file", str(tmp_path / "none.tsv")], "no such file")):  # fmt: skip
        capsys.readouterr()
        assert main([*common, "--perturbation", "TNF", *more, "--output", str(tmp_path / "c.h5ad")]) == 1
        assert match in capsys.readouterr().err
    assert main([*common, "--replay", "--most-cells", "3", "--output", str(tmp_path / "c.h5ad")]) == 1
    assert not (tmp_path / "c.h5ad").exists()


@pytest.mark.parametrize("label", ["-x", "--a=b", "TNF", "a=b"])
def test_labels_that_look_like_options_can_be_counted(label: str) -> None:
    asked = PredictionRequest("d.h5ad", "m", (label, "IL6"), cells_of=(CellCount(label, 9), CellCount("IL6", 3)))
    words = shlex.split(command(asked, output="o.h5ad"))[3:]
    given = build_parser(["predict"]).parse_args(words)
    assert request(PredictionRequest, given) == asked
    if label.startswith("-"):
        assert f"--cells-of={label}=9" in words


def test_the_matrix_alone(asked: PredictionRequest, tmp_path: Path) -> None:
    common = ["predict", "--model", asked.model, "--data", asked.data, "--device", "cpu"]
    few = ["--perturbation", "TNF", "--cells", "9"]
    assert main([*common, *few, "--output", str(tmp_path / "p.h5ad")]) == 0
    assert main([*common, *few, "--output", str(tmp_path / "out" / "p.npy")]) == 0
    cells, matrix = anndata.read_h5ad(tmp_path / "p.h5ad"), np.load(tmp_path / "out" / "p.npy")
    predicted = (cells.obs[keys.KIND] == keys.PREDICTED).to_numpy()
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, cells.X[predicted])
    labels = pd.read_csv(tmp_path / "out" / "p.csv")
    assert list(labels[keys.CONTEXT]) == list(cells.obs[keys.CONTEXT][predicted]) and set(labels[keys.PERTURBATION]) == {"TNF"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p.csv", "p.npy"]
    replay = [*common, "--replay", "--embedding-key", "X", "--output"]
    assert main([*replay, str(tmp_path / "r.h5ad")]) == 0 and main([*replay, str(tmp_path / "r.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), anndata.read_h5ad(tmp_path / "r.h5ad").X)
    assert main([*common, *few, "--output", str(tmp_path / "cells.npy")]) == 0
    Path(asked.data).rename(tmp_path / "mine.csv")  # an input that the labels would be written over
    assert (
        main(
            [
                "predict",
                "--model",
                asked.model,
                "--data",
                str(tmp_path / "mine.csv"),
                *few,
                "--output",
                str(tmp_path / "mine.npy"),
            ]
        )
        == 1
    )
    assert (tmp_path / "mine.csv").stat().st_size > 10_000 and not (tmp_path / "mine.npy").exists()
