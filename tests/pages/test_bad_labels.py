"""Labels that no head can learn: each has a sentence of its own on the command line and on the page, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.library.datasets import register_file
from state_engine.library.models import HEADS
from tests.pages.opened import opened, text
from tests.pages.queued import work_off

N = 120
BAD = {  # column: further options of the command line, and the sentence
    "one": ([], "'one' has one label only"),
    "lonely": ([], "1 label of 'lonely' has fewer than 3 cells: 'rare' (1)"),
    "none": ([], "The column 'none' is empty"),
    "words": (["--task", "regression"], "'words' is text, not numbers"),
    "good": (["--group", "plate"], "The groups of 'plate' leave nothing to test on"),
    "words ": (
        ["--group", "donor", "--test-group", "d1"],
        "The groups of 'donor' leave no test: their cells have one label only",
    ),
}


def write(path: Path) -> Path:
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(rng.poisson(3.0, (N, 20)).astype(np.float32))
    cells.var_names = [f"GENE{i}" for i in range(20)]
    cells.obs_names = [f"cell-{i}" for i in range(N)]
    good = rng.choice(["B", "NK"], N)
    cells.obs["good"], cells.obs["one"], cells.obs["words"] = good, "B", good
    cells.obs["lonely"] = np.where(np.arange(N) == 0, "rare", good)
    cells.obs["none"] = np.full(N, np.nan)
    cells.obs["some"] = np.where(np.arange(N) < 7, None, good)
    cells.obs["plate"] = "p1"
    cells.obs["donor"] = np.where(good == "B", np.where(np.arange(N) % 2, "d1", "d2"), np.where(np.arange(N) % 2, "d2", "d3"))
    cells.obsm["X_pca"] = (rng.normal(size=(N, 5)) + 2 * (good == "B")[:, None]).astype(np.float32)
    cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("column", BAD)
def test_the_command_says_what_is_wrong(column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = write(tmp_path / "cells.h5ad"), tmp_path / "head"
    before = data.read_bytes()
    more, sentence = BAD[column]
    words = [
        "finetune",
        "--data",
        str(data),
        "--label",
        column.strip(),
        "--embedding-key",
        "X_pca",
        "--output",
        str(output),
        *more,
    ]
    assert main(words) != 0
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert data.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("column", ["one", "lonely"])
def test_the_page_says_it_too(column: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    settings = Settings(home, (home.parent / "data",))
    data = register_file(settings, write(home.parent / "data" / "cells.h5ad")).id
    page = opened(monkeypatch, "finetune", None, home, data=data)
    page.selectbox(key=f"head_label_{data}").set_value(column).run()
    page.button(key="finetune").click().run()
    (job,) = work_off(settings)
    assert job.state == "failed"
    page.run()
    assert BAD[column][1].split(":")[0] in text(page) and not page.exception and not HEADS.entries(settings)


def test_the_page_offers_no_words_as_numbers_and_no_empty_column(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    data = register_file(Settings(home, (home.parent / "data",)), write(home.parent / "data" / "cells.h5ad")).id
    page = opened(monkeypatch, "finetune", None, home, data=data)
    assert "none" not in page.selectbox(key=f"head_label_{data}").options
    page.selectbox(key=f"head_label_{data}").set_value("some").run()
    assert "7 cells have none and are left out" in text(page)
    page.selectbox(key="head_task").set_value("regression").run()
    keys = [box.key for box in page.selectbox]
    if f"head_number_{data}" in keys:  # the empty column is one of numbers, to pandas
        assert not {"words", "good", "one", "plate"} & set(page.selectbox(key=f"head_number_{data}").options)
    else:
        assert "No column of obs holds numbers" in text(page) and page.button(key="finetune").disabled


def test_groups_that_leave_no_test_are_a_sentence_on_the_page(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    settings = Settings(home, (home.parent / "data",))
    data = register_file(settings, write(home.parent / "data" / "cells.h5ad")).id
    page = opened(monkeypatch, "finetune", None, home, data=data)
    page.selectbox(key=f"head_label_{data}").set_value("good").run()
    page.session_state["head_split"] = "Whole groups"
    page.run()
    page.selectbox(key="head_group").set_value("donor").run()
    page.multiselect(key="head_test_donor").set_value(["d1"]).run()
    page.button(key="finetune").click().run()
    (job,) = work_off(settings)
    page.run()
    assert job.state == "failed" and "leave no test: their cells have one label only" in text(page) and not page.exception
