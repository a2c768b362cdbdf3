"""Similar cells in a LanceDB folder: nearest cells as numpy finds them, no doubles, votes counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.cli.main import main
from state_engine.data.embedding_record import EMBEDDINGS, embedding_facts
from state_engine.errors import JobCancelled, RepresentationError, RequestError, RunError, UnreadableFileError
from state_engine.progress import Progress
from state_engine.search import query as search
from state_engine.search import tables as search_tables
from state_engine.search.query import add_embeddings, forget, query, tables, transfer

MODEL = "ab" * 32
WIDTH = 12


def write_embedded(path: Path, n: int = 60, seed: int = 0, model: str = MODEL, extra: int = 2, **more: object) -> np.ndarray:
    """Cells around three directions, a label for each; the first `WIDTH` columns are the cell part. Returns all columns."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    centres = np.random.default_rng(99).normal(size=(3, WIDTH))
    values = np.column_stack([centres[kind] + 0.3 * rng.normal(size=(n, WIDTH)), 50 * rng.normal(size=(n, extra))])
    obs = pd.DataFrame(
        {"kind": np.array(["B", "T", "NK"])[kind], "donor": rng.choice(["d1", "d2"], n)}, index=[f"c{i}" for i in range(n)]
    )
    data = anndata.AnnData(sp.csr_matrix(rng.poisson(2.0, (n, 5)).astype(np.float32)), obs=obs.astype("category"))
    data.var_names = [f"GENE{i}" for i in range(5)]
    data.obsm["X_state"] = values.astype(np.float32)
    record = {"model": model, "model_name": "Tiny SE", "data_hash": f"{seed:064x}", "cell_width": WIDTH, **more}
    data.uns[EMBEDDINGS] = json.dumps({"X_state": record})
    data.write_h5ad(path)
    return data.obsm["X_state"]


def unit(values: np.ndarray) -> np.ndarray:
    return values[:, :WIDTH] / np.linalg.norm(values[:, :WIDTH], axis=1, keepdims=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, one of them in the folder "db"."""
    folder = tmp_path_factory.mktemp("search")
    write_embedded(folder / "one.h5ad", 60, 0)
    write_embedded(folder / "two.h5ad", 33, 1)
    add_embeddings(folder / "db", folder / "one.h5ad", "X_state")
    return folder


def test_the_record_of_an_embedding_is_read_back(place: Path) -> None:
    facts = embedding_facts(place / "one.h5ad", "X_state")
    assert facts is not None and (facts.model, facts.cell_width, facts.simulated) == (MODEL, WIDTH, False)
    assert embedding_facts(place / "one.h5ad", "X_pca") is None


def test_nearest_cells_are_those_of_numpy(place: Path) -> None:
    one, two = (unit(search.open_embedded(place / f, "X_state").dataset.read("obsm/X_state", np.arange(n)))
                for f, n in (("one.h5ad", 60), ("two.h5ad", 33)))  # fmt: skip
    found = query(place / "db", place / "two.h5ad", "X_state", k=4)
    truth = two @ one.T
    order = np.argsort(-truth, axis=1)[:, :4]
    names = found.table["similar_cell"].to_numpy().reshape(33, 4)
    assert names.tolist() == [[f"c{j}" for j in row] for row in order]
    got = found.table["similarity"].to_numpy().reshape(33, 4)
    np.testing.assert_allclose(got, np.take_along_axis(truth, order, 1), atol=1e-5)
    assert found.table["rank"].tolist() == [1, 2, 3, 4] * 33
    assert found.table["cell"].tolist() == np.repeat([f"c{i}" for i in range(33)], 4).tolist()
    assert found.stored == 60 and found.left_out == 0
    assert set(found.table["kind"]) <= {"B", "T", "NK"} and set(found.table["data_set"]) == {"one.h5ad"}


def test_the_part_that_describes_the_data_set_is_not_compared(place: Path) -> None:
    """The last columns are fifty times as large as the others: with them, neighbours would be random."""
    found = query(place / "db", place / "two.h5ad", "X_state", k=5)
    kinds = np.array(["B", "T", "NK"])[np.arange(33) % 3]
    assert (found.table["kind"].to_numpy().reshape(33, 5) == kinds[:, None]).mean() > 0.95


def test_a_cell_is_not_its_own_neighbour_and_one_cell_may_ask(place: Path) -> None:
    found = query(place / "db", place / "one.h5ad", "X_state", k=3, rows=np.array([7]))
    assert len(found.table) == 3 and "c7" not in set(found.table["similar_cell"]) and found.asked == ("c7",)


def test_adding_again_updates_and_never_doubles(tmp_path: Path) -> None:
    values = write_embedded(tmp_path / "one.h5ad", 30)
    first = add_embeddings(tmp_path / "db", tmp_path / "one.h5ad", "X_state")
    again = add_embeddings(tmp_path / "db", tmp_path / "one.h5ad", "X_state", name="renamed")
    assert (first.added, first.updated, first.cells) == (30, 0, 30)
    assert (again.added, again.updated, again.cells) == (0, 30, 30)
    assert [(d.name, d.cells) for d in tables(tmp_path / "db")[0].datasets] == [("renamed", 30)]
    # the same cells embedded again, some now empty: those go
    data = anndata.read_h5ad(tmp_path / "one.h5ad")
    values[:5] = np.nan
    data.obsm["X_state"] = values
    data.write_h5ad(tmp_path / "one.h5ad")
    third = add_embeddings(tmp_path / "db", tmp_path / "one.h5ad", "X_state")
    assert (third.updated, third.left_out, third.cells) == (25, 5, 25)
    write_embedded(tmp_path / "two.h5ad", 12, seed=3)
    fourth = add_embeddings(tmp_path / "db", tmp_path / "two.h5ad", "X_state")
    assert (fourth.added, fourth.updated, fourth.cells) == (12, 0, 37)
    assert tables(tmp_path / "db")[0].cells == 37 and tables(tmp_path / "db")[0].labels == ("donor", "kind")


def test_only_other_data_sets_when_asked(place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        add_embeddings(tmp_path / "db", place / f"{name}.h5ad", "X_state", name=name)
    found = query(tmp_path / "db", place / "one.h5ad", "X_state", k=3, others_only=True)
    assert set(found.table["data_set"]) == {"two"} and found.stored == 33
    assert forget(tmp_path / "db", tables(tmp_path / "db")[0].name, f"{1:064x}") == 33
    with pytest.raises(RequestError, match=r"only one\.h5ad itself"):
        query(tmp_path / "db", place / "one.h5ad", "X_state", k=3, others_only=True)
    with pytest.raises(RequestError, match="not among the reference"):
        forget(tmp_path / "db", tables(tmp_path / "db")[0].name, f"{1:064x}")


def test_embeddings_of_two_models_are_kept_apart(place: Path, tmp_path: Path) -> None:
    write_embedded(tmp_path / "other.h5ad", model="cd" * 32)
    with pytest.raises(RequestError, match="nothing in common"):
        query(place / "db", tmp_path / "other.h5ad", "X_state")
    with pytest.raises(RepresentationError, match="X_umap"):
        query(place / "db", place / "one.h5ad", "X_umap")
    with pytest.raises(RequestError, match="no cells in nothing"):
        query(tmp_path / "nothing", place / "one.h5ad", "X_state")


def test_empty_cells_are_left_out_and_all_empty_is_an_error(tmp_path: Path, place: Path) -> None:
    write_embedded(tmp_path / "e.h5ad", 6, seed=8)
    data = anndata.read_h5ad(tmp_path / "e.h5ad")
    data.obsm["X_state"][1:] = np.nan
    data.write_h5ad(tmp_path / "e.h5ad")
    found = query(place / "db", tmp_path / "e.h5ad", "X_state", k=2)
    assert found.asked == ("c0",) and found.left_out == 5 and len(found.table) == 2
    data.obsm["X_state"][:] = np.nan
    data.write_h5ad(tmp_path / "e.h5ad")
    with pytest.raises(RequestError, match=r"No cell of e\.h5ad"):
        add_embeddings(tmp_path / "db", tmp_path / "e.h5ad", "X_state")
    assert tables(tmp_path / "db") == ()


def test_barcodes_that_repeat_stay_different_cells(tmp_path: Path) -> None:
    write_embedded(tmp_path / "r.h5ad", 9)
    data = anndata.read_h5ad(tmp_path / "r.h5ad")
    data.obs_names = ["a", "a", *[f"c{i}" for i in range(7)]]
    data.write_h5ad(tmp_path / "r.h5ad")
    assert add_embeddings(tmp_path / "db", tmp_path / "r.h5ad", "X_state").cells == 9
    assert add_embeddings(tmp_path / "db", tmp_path / "r.h5ad", "X_state").cells == 9


def test_votes_and_their_support() -> None:
    table = pd.DataFrame(
        {
            "cell": ["a"] * 3 + ["b"] * 3 + ["c"] * 3,
            "rank": [1, 2, 3] * 3,
            "similar_cell": list("uvwxyzuvw"),
            "data_set": "d",
            "similarity": [0.9, 0.8, 0.7, 0.9, 0.5, 0.4, 0.9, 0.8, 0.7],
            "type": ["B", "T", "T", "B", "T", "", "", "", ""],
        }
    )
    votes = transfer(search.Neighbours(table, ("a", "b", "c", "d"), 0, 3, 10), "type").set_index("cell")
    assert votes["label"].to_dict() == {"a": "T", "b": "B", "c": "", "d": ""}  # b: a tie, the more similar wins
    np.testing.assert_allclose(votes["support"], [2 / 3, 1 / 3, 0, 0])
    assert votes["labelled"].tolist() == [3, 2, 0, 0]
    np.testing.assert_allclose(votes["similarity"], [0.75, 0.9, np.nan, np.nan])
    with pytest.raises(RequestError, match="There is: type"):
        transfer(search.Neighbours(table, ("a",), 0, 3, 10), "colour")


def test_a_cancelled_addition_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_embedded(tmp_path / "one.h5ad", 40)
    monkeypatch.setattr(search_tables, "BLOCK_BYTES", 4 * WIDTH * 10)

    def stop(progress: Progress) -> None:
        if progress.done >= 20:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        add_embeddings(tmp_path / "db", tmp_path / "one.h5ad", "X_state", stop)
    assert tables(tmp_path / "db") == ()  # not listed before it is whole
    done = add_embeddings(tmp_path / "db", tmp_path / "one.h5ad", "X_state")
    assert (done.added, done.updated, done.cells) == (20, 20, 40)


def test_an_index_finds_what_comparing_all_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_embedded(tmp_path / "big.h5ad", 3000)
    write_embedded(tmp_path / "few.h5ad", 40, seed=5)
    assert not add_embeddings(tmp_path / "all", tmp_path / "big.h5ad", "X_state").indexed
    monkeypatch.setattr(search_tables, "INDEX_FROM", 2000)
    assert add_embeddings(tmp_path / "indexed", tmp_path / "big.h5ad", "X_state").indexed
    pairs = [
        set(zip(found.table["cell"], found.table["similar_cell"], strict=True))
        for found in (query(tmp_path / folder, tmp_path / "few.h5ad", "X_state", k=10) for folder in ("all", "indexed"))
    ]
    assert len(pairs[0] & pairs[1]) >= 0.95 * len(pairs[0])
    # cells added after the index are found as well
    added = add_embeddings(tmp_path / "indexed", tmp_path / "few.h5ad", "X_state")
    assert added.indexed and added.cells == 3040
    again = query(tmp_path / "indexed", tmp_path / "few.h5ad", "X_state", k=1, others_only=True)
    assert set(again.table["data_set"]) == {"big.h5ad"}


def test_a_damaged_list_is_said(tmp_path: Path) -> None:
    (tmp_path / "tables.json").write_text('{"format": 9, "tables": []}')
    with pytest.raises(UnreadableFileError, match="format 9"):
        tables(tmp_path)
    with pytest.raises(RequestError, match="0 neighbours"):
        query(tmp_path, tmp_path / "x.h5ad", "X_state", k=0)


def test_the_list_is_read_without_the_database(place: Path) -> None:
    code = "import sys; from pathlib import Path; from state_engine.search.query import tables; print(tables(Path(sys.argv[1]))[0].cells)"
    code += "; assert not {'lancedb', 'torch', 'pyarrow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(place / "db")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "60"


def test_the_command_writes_similar_cells_and_labels(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["query", "--lancedb", str(place / "db"), "--data", str(place / "two.h5ad"), "--k", "5"]
    out, labels = tmp_path / "similar.csv", tmp_path / "labels.csv"
    assert main([*words, "--output", str(out), "--transfer", "kind", "--labels", str(labels)]) == 0
    assert "165 similar cells of 33 cells, out of 60 stored" in capsys.readouterr().out
    assert pd.read_csv(out).columns.tolist() == [*search.FIXED, "kind", "donor"]
    voted = pd.read_csv(labels, keep_default_na=False)
    assert (voted["label"] == np.array(["B", "T", "NK"])[np.arange(33) % 3]).mean() > 0.95
    assert main([*words, "--output", str(out), "--transfer", "kind"]) == 1
    assert "belong together" in capsys.readouterr().err


def test_an_answer_is_read_back_as_it_was_written(place: Path, tmp_path: Path) -> None:
    found = query(place / "db", place / "two.h5ad", "X_state", k=2)
    search.save(found, tmp_path / "similar.csv")
    again = search.load(tmp_path / "similar.csv")
    assert (again.asked, again.k, again.stored, again.left_out) == (found.asked, 2, 60, 0)
    pd.testing.assert_frame_equal(transfer(again, "kind"), transfer(found, "kind"), check_dtype=False)
    (tmp_path / "similar.json").unlink()
    with pytest.raises(RunError, match="Ask again"):
        search.load(tmp_path / "similar.csv")
