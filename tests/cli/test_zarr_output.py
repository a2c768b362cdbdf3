"""Results as zarr stores: `--output X.zarr` holds what the .h5ad of the same command holds, and is read where that is."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine.cli.main import main
from state_engine.heads.finetune import finetune
from tests.heads.cells import asked
from tests.small import write_cells, write_model
from tests.small_embedding import write_embedding_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    write_cells(tmp_path / "cells.h5ad")
    write_model(tmp_path / "model")
    write_embedding_model(tmp_path / "se")
    return tmp_path


COMMANDS = {
    "predict": ["predict", "--model", "{}/model", "--perturbation", "TNF", "--cells", "8", "--device", "cpu"],
    "replay": ["predict", "--replay", "--model", "{}/model", "--embedding-key", "X", "--device", "cpu"],
    "embed": ["embed", "--model", "{}/se", "--device", "cpu"],
    "prepare": ["prepare", "--genes", "5"],
    "annotate": ["annotate", "--model", "{}/head", "--device", "cpu"],
    "label": ["label", "--labels", "{}/l.csv"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_is_what_the_file_is(places: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command == "annotate":
        finetune(asked(places / "cells.h5ad", "cell_type", max_epochs=1), places / "head")
    (places / "l.csv").write_text("row,label\n0,B cell\n2,NK cell\n")
    words = [word.format(places) for word in COMMANDS[command]] + ["--data", str(places / "cells.h5ad")]
    for output in ("r.h5ad", "r.zarr"):
        assert main([*words, "--output", str(places / output)]) == 0, capsys.readouterr().err
    one, other = anndata.read_h5ad(places / "r.h5ad"), anndata.read_zarr(places / "r.zarr")
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert list(one.var_names) == list(other.var_names) and sorted(one.uns) == sorted(other.uns)
    for a, b in ((one.X, other.X), *((one.layers[k], other.layers[k]) for k in one.layers)):
        np.testing.assert_array_equal(getattr(a, "toarray", lambda a=a: a)(), getattr(b, "toarray", lambda b=b: b)())
    for key in one.obsm:
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])
    assert sorted(p.name for p in places.iterdir() if p.name.startswith(("r", "."))) == ["r.h5ad", "r.zarr"]
    assert main([*words, "--output", str(places / "r.zarr")]) == 1
    assert "none is written over" in capsys.readouterr().err


def test_a_store_is_compared_and_evaluated_as_a_file_is(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.format(places) for word in COMMANDS["predict"]] + ["--data", str(places / "cells.h5ad")]
    tables = []
    for output in ("r.h5ad", "r.zarr"):
        assert main([*words, "--output", str(places / output)]) == 0, capsys.readouterr().err
        table = places / f"{output}.csv"
        assert main(["de", "--data", str(places / output), "--output", str(table)]) == 0, capsys.readouterr().err
        found = places / f"{output}-evaluation"
        asked = ["--real", str(places / "cells.h5ad"), "--perturbation-key", "perturbation", "--control", "control"]
        assert main(["evaluate", "--predicted", str(places / output), *asked, "--output", str(found)]) == 0, (
            capsys.readouterr().err
        )
        tables.append((table.read_text(), (found / "metrics.csv").read_text()))
    assert tables[0] == tables[1]


def test_other_endings_are_refused(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.format(places) for word in COMMANDS["predict"]] + ["--data", str(places / "cells.h5ad")]
    assert main([*words, "--output", str(places / "r.loom")]) == 1
    assert ".h5ad, .zarr or .npy" in capsys.readouterr().err
