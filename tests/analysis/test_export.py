"""The zip of tables: complete, readable, and honest about what is left out."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from state_engine.analysis import stored
from state_engine.analysis.export import FILE_NAME, _file_names, pseudobulk, write_tables
from state_engine.analysis.in_shards import STAGE, make_tables
from state_engine.errors import JobCancelled
from state_engine.prediction.result import open_result
from state_engine.progress import Progress, silent
from tests.prediction.make_result import make_result


def written(folder: Path) -> zipfile.ZipFile:
    (folder / "manifest.json").write_text("{}")
    return zipfile.ZipFile(write_tables(folder))


def read(archive: zipfile.ZipFile, name: str, **options: object) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(archive.read(name)), **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("run")
    make_result(folder / "result.h5ad")
    return written(folder)


def test_it_has_a_table_of_every_condition(archive: zipfile.ZipFile) -> None:
    names = set(archive.namelist())
    conditions = {f"{p} in {c}" for p in ("drugA", "drugB") for c in ("B", "T")}
    assert {f"genes/{name}.csv" for name in conditions} | {f"measured/{name}.csv" for name in conditions} < names
    table = read(archive, "genes/drugA in B.csv").set_index("gene")
    assert len(table) == 40
    assert table["log2_fold_change"].nlargest(2).index.isin(["G0", "G1"]).all()


def test_a_table_that_is_done_is_not_made_again_after_an_interruption(
    archive: zipfile.ZipFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_result(tmp_path / "result.h5ad")
    (tmp_path / "manifest.json").write_text("{}")
    made, answer = list[tuple[str, str]](), stored.answer

    def counted(run: Path, perturbation: str, context: str, **more: object) -> Path:
        made.append((perturbation, context))
        return answer(run, perturbation, context, **more)  # type: ignore[arg-type]

    def stop(progress: Progress) -> None:
        if progress.stage == STAGE and progress.done == 2:
            raise JobCancelled("Stopped by the test.")

    monkeypatch.setattr(stored, "answer", counted)
    with pytest.raises(JobCancelled):
        make_tables(tmp_path, stop)
    first = len(made)
    assert first in (2, 3) and not (tmp_path / FILE_NAME).exists()
    # a table that was taken away is made again, though its shard is done
    taken = next(p for p in (tmp_path / "differential").glob("*.parquet") if not p.name.startswith(("comparison", "effects")))
    taken.unlink()
    make_tables(tmp_path, silent)
    assert len(made) - first <= 4 - 2 + 1 and set(made) == {(p, c) for p in ("drugA", "drugB") for c in ("B", "T")}
    assert not (tmp_path / "differential" / "shards").exists()
    again = zipfile.ZipFile(write_tables(tmp_path))
    assert again.namelist() == archive.namelist()
    assert all(again.read(name) == archive.read(name) for name in archive.namelist())


def test_scores_name_their_condition(archive: zipfile.ZipFile) -> None:
    scores = read(archive, "measured/scores.csv")
    assert len(scores) == 4 * 6  # corrected, raw, no change and three means: of contexts, weighted by likeness, of perturbations
    assert set(zip(scores["perturbation"], scores["context"], strict=True)) == {
        ("drugA", "B"), ("drugA", "T"), ("drugB", "B"), ("drugB", "T"),
    }  # fmt: skip
    assert scores.loc[scores["method"] == "mean of other contexts", "pearson"].isna().all()


def test_pseudobulk_is_the_mean_of_each_group(archive: zipfile.ZipFile, tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "result.h5ad"))
    table = pseudobulk(result)
    cells = result.read(result.rows("predicted", "T", "drugB"))
    np.testing.assert_allclose(table["predicted | drugB | T"], cells.mean(axis=0), rtol=1e-5)
    stored = read(archive, "pseudobulk.csv", index_col=0)
    np.testing.assert_allclose(stored.to_numpy(), table.to_numpy(), rtol=1e-5)


def test_every_cell_is_listed(archive: zipfile.ZipFile) -> None:
    cells = read(archive, "cells.csv", index_col=0)
    assert cells["kind"].value_counts().to_dict() == {
        "predicted": 120, "observed": 120, "observed control": 100, "predicted control": 60,
    }  # fmt: skip


def test_the_readme_says_how_it_was_tested_and_leaves_no_gap(archive: zipfile.ZipFile) -> None:
    text = archive.read("README.txt").decode()
    assert "Mann-Whitney" in text
    assert "Left out" not in text


def test_what_cannot_be_tested_is_named(tmp_path: Path) -> None:
    make_result(tmp_path / "result.h5ad", n=2)
    archive = written(tmp_path)
    assert not [name for name in archive.namelist() if name.startswith("genes/")]
    assert "drugA in B: There are 2 predicted cells" in archive.read("README.txt").decode()


def test_an_embedding_has_no_tables_of_genes(tmp_path: Path) -> None:
    make_result(tmp_path / "result.h5ad", embedding="X_state", decoder=False)
    archive = written(tmp_path)
    assert sorted(archive.namelist()) == ["README.txt", "cells.csv", "manifest.json"]
    assert "no gene decoder" in archive.read("README.txt").decode()


def test_two_conditions_never_share_a_file() -> None:
    names = list(_file_names([("a/b", "T"), ("a b", "T"), ("A:b", "T"), ("../x", "T")]))
    assert len({name.lower() for name in names}) == 4
    assert not any("/" in name or name.startswith(".") for name in names)
