"""What the commands print, refuse and leave alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.cli.main import main
from state_engine.data.dataset import Choices
from state_engine.options import command
from state_engine.prediction.request import PredictionRequest
from tests.small import write_cells, write_model
from tests.small_embedding import write_embedding_model


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a data set and a model."""
    write_cells(tmp_path / "cells.h5ad")
    write_model(tmp_path / "model")
    return tmp_path


def changed(folder: Path, name: str, keep: object = slice(None), genes: object = slice(None), **values: object) -> Path:
    """Write some of the cells and genes of the data set, with other labels."""
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells = cells[np.asarray(keep(cells.obs)) if callable(keep) else keep, genes].copy()
    for column, label in values.items():
        cells.obs[column] = label
    cells.write_h5ad(folder / name)
    return folder / name


def test_values_that_were_logged_twice_are_not_scored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = anndata.read_h5ad(here / "cells.h5ad")
    once = np.log1p(cells.X.toarray() / cells.X.sum(1) * 1e4)
    for name, values in (("once", once), ("twice", np.log1p(once))):
        cells.X = sp.csr_matrix(np.asarray(values, np.float32))
        cells.uns["log1p"] = {}
        cells.write_h5ad(here / f"{name}.h5ad")
    columns = ["--perturbation-key", "perturbation", "--control", "control"]
    files = ["--predicted", str(here / "twice.h5ad"), "--real", str(here / "once.h5ad"), "--output", str(here / "scores")]
    assert main(["inspect", str(here / "twice.h5ad")]) == 0
    assert "neither counts nor log1p" in (told := capsys.readouterr().out) and "log1p was taken twice" in told
    assert main(["evaluate", *files, *columns]) == 1
    said = capsys.readouterr().err
    assert "log1p was taken twice" in said and "Apply numpy.expm1 once" in said and not (here / "scores").exists()


def test_the_matrix_of_counts_is_chosen_and_kept_in_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = anndata.read_h5ad(here / "cells.h5ad")
    cells.layers["counts"] = cells.X.copy()
    values = cells.X.toarray()
    cells.X = ((values - values.mean(0)) / values.std(0)).astype(np.float32)
    cells.write_h5ad(here / "scaled.h5ad")
    asked = [
        "predict",
        "--model",
        str(here / "model"),
        "--perturbation",
        "TNF",
        "--context",
        "B",
        "--cells",
        "8",
        "--device",
        "cpu",
    ]
    assert main([*asked, "--data", str(here / "scaled.h5ad"), "--output", str(here / "x.h5ad")]) == 1
    assert "choose a layer that holds them" in capsys.readouterr().err
    chosen = ["--data", str(here / "scaled.h5ad"), "--expression", "layers/counts"]
    assert main([*asked, *chosen, "--output", str(here / "layer.h5ad")]) == 0
    assert main([*asked, "--data", str(here / "cells.h5ad"), "--output", str(here / "plain.h5ad")]) == 0
    layer, plain = (anndata.read_h5ad(here / f"{name}.h5ad") for name in ("layer", "plain"))
    np.testing.assert_array_equal(layer.X, plain.X)
    request = PredictionRequest("c.h5ad", "m", ("TNF",), choices=Choices(expression="layers/counts"))
    assert "--expression layers/counts" in command(request)


def test_predict_prints_what_inspect_warns_of(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "few_genes": changed(here, "few_genes.h5ad", genes=slice(0, 6)),
        "few_controls": changed(
            here, "few_controls.h5ad", lambda obs: (obs["perturbation"] != "control") | (obs["perturbation"] == "control").cumsum().le(5)
        ),
        "unknown": changed(here, "unknown.h5ad", cell_type="ILC3"),
    }  # fmt: skip
    for path in files.values():
        main(["inspect", str(path), "--model", str(here / "model")])
        warnings = [line.split("] ")[1].split(":")[0] for line in capsys.readouterr().out.splitlines() if "[warning]" in line]
        assert warnings
        output = path.with_suffix(".out.h5ad")
        asked = ["predict", "--model", str(here / "model"), "--data", str(path), "--perturbation", "TNF", "--cells", "8"]
        assert main([*asked, "--device", "cpu", "--output", str(output)]) == 0
        said = capsys.readouterr()
        remarks = json.loads(anndata.read_h5ad(output).uns["state_explorer"])["remarks"]
        for warning in warnings:
            assert warning in said.out + said.err and any(warning in remark for remark in remarks)


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_no_command_writes_over_what_it_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Embed alone may write to its data set: the copy holds everything that was there."""
    write_embedding_model(here / "se")
    data, se, model = str(here / "cells.h5ad"), str(here / "se"), str(here / "model")
    assert main(["embed", "--model", se, "--data", data, "--output", str(here / "embedded.h5ad"), "--device", "cpu"]) == 0
    embedded = str(here / "embedded.h5ad")
    columns = ["--perturbation-key", "perturbation", "--control", "control"]
    before = digests(here)
    commands = [
        ["decode", "--model", se, "--data", embedded, "--gene", "GENE1", "--output", embedded],
        ["decode", "--model", se, "--data", embedded, "--gene", "GENE1", "--output", str(here)],
        ["predict", "--model", model, "--data", data, "--perturbation", "TNF", "--output", str(here / "model" / "model.json")],
        ["evaluate", "--predicted", data, "--real", data, "--output", data, *columns],
        ["convert", "--model", model, "--output", model],
    ]  # fmt: skip
    for asked in commands:
        assert main(asked) == 1, asked
        assert "Traceback" not in capsys.readouterr().err
    assert digests(here) == before
