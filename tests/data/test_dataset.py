"""Opening, understanding and reading data sets, compared with what AnnData itself reads."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine import keys
from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.describe import describe, summary_lines
from state_engine.data.expression import FeatureSource, hvg_choice, match_genes, read_features
from state_engine.data.files import matrices
from state_engine.data.files.matrices import dense
from state_engine.data.scale import sample_rows
from state_engine.errors import GeneError, LabelError, RepresentationError, ScaleError, UnreadableFileError, UnsafeFileError
from state_engine.plain import from_plain, to_plain
from tests.data.good_files import cells, counts, write

LAYOUTS = ("csr", "csc", "dense")


def test_kang(real_data: Path) -> None:
    data = open_dataset(real_data / "kang_ifnb.h5ad")
    assert (data.n_cells, data.n_genes, data.scale.scale, data.expression) == (1975, 6998, "counts", "X")
    assert (data.labels.perturbation_key, data.labels.control, data.labels.context_key) == ("condition", "control", "cell_type")
    assert data.labels.batch_key is None
    assert data.genes.kind == "symbol"
    table = data.table()
    assert table.sum(axis=1).to_dict() == {"control": 936, "stimulated": 1039}
    truth = anndata.read_h5ad(real_data / "kang_ifnb.h5ad")
    assert table.loc["stimulated", "NK"] == ((truth.obs.condition == "stimulated") & (truth.obs.cell_type == "NK")).sum()
    rows = data.control_rows("NK")
    np.testing.assert_array_equal(rows, np.flatnonzero((truth.obs.condition == "control") & (truth.obs.cell_type == "NK")))
    np.testing.assert_array_equal(data.read("X", rows[::-1]), truth.X[rows[::-1]].toarray())
    assert data.obs_names.tolist() == truth.obs_names.tolist()
    assert data.genes.names == tuple(truth.var_names)
    assert data.notes == ()


def test_norman(real_data: Path) -> None:
    data = open_dataset(real_data / "norman_mcfaline.h5ad")
    assert (data.scale.scale, data.labels.control, data.labels.batch_key) == ("log1p", "control", None)
    assert len(data.perturbations) == 34
    assert data.perturbations[0] == "control"
    assert data.contexts == ("A172", "T98G", "U87MG", "k562")


def test_pbmc_has_no_perturbation_and_can_be_declared_unperturbed(real_data: Path) -> None:
    path = real_data / "pbmc3k.h5ad"
    data = open_dataset(path)
    assert data.labels.perturbation_key is None
    assert data.labels.control is None
    with pytest.raises(LabelError, match=r"there are: cell_type\..*declare that all cells are unperturbed"):
        data.require_control()
    assert data.table().index.tolist() == [keys.ALL]
    assert any("62 cells have no label in 'cell_type'" in n for n in data.notes)
    declared = open_dataset(path, Choices(perturbation_key=""))
    assert declared.require_control() == "control"
    assert len(declared.control_rows()) == 2700
    assert len(declared.control_rows("NK")) == (anndata.read_h5ad(path).obs.cell_type == "NK").sum()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_reading_rows_equals_anndata(
    layout: str, compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "CLOSE", 7)  # so that ranges are split here as they are in large files
    monkeypatch.setattr(matrices, "BLOCK", 101)
    made = cells(n=157, g=31, layout=layout)
    data = open_dataset(write(made, tmp_path / "x.h5ad", compression=compression))
    rng = np.random.default_rng(1)
    draws = [np.arange(157), np.array([], dtype=int), np.array([156]), rng.integers(0, 157, 400)]
    draws += [np.sort(rng.choice(157, n, replace=False)) for n in (2, 20, 100)]
    for rows in draws:
        for name in ("X", "layers/log1p", "obsm/X_state", "obsm/X_sparse", "obsm/X_table"):
            whole = made.X if name == "X" else getattr(made, name.split("/")[0])[name.split("/")[1]]
            whole = whole.toarray() if sp.issparse(whole) else np.asarray(whole)
            got = data.read(name, rows)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, whole[rows].astype(np.float32), err_msg=f"{name} {len(rows)}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_cover_the_rows_in_order(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("state_engine.data.dataset.CSC_PASS", 200)
    made = cells(n=90, layout=layout)
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    for rows in (None, np.arange(89, -1, -2)):
        parts = list(data.iter_blocks("X", rows, block=16))
        assert all(len(r) == v.shape[0] <= 16 for r, v in parts)
        order = np.concatenate([r for r, _ in parts])
        np.testing.assert_array_equal(order, np.arange(90) if rows is None else rows)
        values = np.concatenate([matrices.dense(v) for _, v in parts])
        np.testing.assert_array_equal(values, matrices.dense(made.X)[order])


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_any_number_type_is_read_as_float32(dtype: str, tmp_path: Path) -> None:
    x = (counts() > 1).astype(dtype) if dtype == "bool" else counts().astype(dtype)
    path = write(cells(layout="dense"), tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = x
    got = open_dataset(path).read("X", np.arange(60))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, x.astype(np.float32))


def test_without_x_the_counts_layer_is_the_expression(tmp_path: Path) -> None:
    made = cells()
    made.layers["counts"] = made.X
    made.X = None
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert (data.expression, data.scale.scale) == ("layers/counts", "counts")
    assert any("layers/counts" in n for n in data.notes)
    with pytest.raises(RepresentationError, match=r"has no 'X'\. It has: layers/counts \(12 wide\)"):
        data.read("X", np.arange(3))
    chosen = open_dataset(data.path, Choices(expression="layers/log1p"))
    assert chosen.scale.scale == "log1p"
    assert chosen.scale.depth == pytest.approx(1e4, rel=1e-3)


def test_only_embeddings(tmp_path: Path) -> None:
    made = cells()
    made.X = None
    del made.layers["log1p"]
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert data.expression is None
    assert data.read("obsm/X_state", np.arange(4)).shape == (4, 5)
    with pytest.raises(ScaleError, match="no expression matrix"):
        data.scale.require()
    json.dumps(describe(data))


def test_the_users_word_decides(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    taken = open_dataset(path)
    assert (taken.labels.perturbation_key, taken.labels.context_key, taken.labels.batch_key) == ("gene", "cell_type", "gem_group")
    assert taken.batches == ("1", "2", "3")
    said = open_dataset(path, Choices(perturbation_key="cell_type", control="NK", context_key="gene", batch_key=""))
    assert (said.labels.perturbation_key, said.labels.control, said.labels.context_key) == ("cell_type", "NK", "gene")
    assert said.labels.batch_key is None
    assert set(said.batch_labels()) == {keys.ALL}
    one = open_dataset(path, Choices(context_key=""))
    assert one.contexts == (keys.ALL,)
    boolean = open_dataset(path, Choices(perturbation_key="treated", control="False"))
    assert boolean.perturbations == ("False", "True")
    numeric = open_dataset(path, Choices(batch_key="mito"))
    assert numeric.labels.batch_key == "mito"


def test_choices_that_are_not_there_list_what_is(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    with pytest.raises(LabelError, match=r"no column 'drug' for the perturbation.*gene, cell_type, gem_group, treated, mito"):
        open_dataset(path, Choices(perturbation_key="drug"))
    with pytest.raises(LabelError, match=r"no control label 'DMSO'.*non-targeting, STAT1, TNF"):
        open_dataset(path, Choices(control="DMSO"))
    with pytest.raises(RepresentationError, match=r"layers/raw.*It has: X, layers/log1p"):
        open_dataset(path, Choices(expression="layers/raw"))
    with pytest.raises(GeneError, match=r"no column 'symbol'"):
        open_dataset(path, Choices(gene_column="symbol"))


def test_no_control_can_be_inspected_and_says_what_to_choose(tmp_path: Path) -> None:
    made = cells()
    made.obs["gene"] = made.obs["gene"].cat.rename_categories({"non-targeting": "AAVS1"})
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert data.labels.perturbation_key == "gene"
    assert data.labels.control is None
    assert data.table().to_numpy().sum() == 60
    with pytest.raises(LabelError, match=r"no label known as a control.*AAVS1, STAT1, TNF"):
        data.control_rows()
    assert any("No label of 'gene' is known as a control" in n for n in data.notes)


def test_missing_labels_are_counted_and_left_out(tmp_path: Path) -> None:
    made = cells()
    labels = made.obs["gene"].astype(object)
    labels.iloc[:4] = np.nan
    labels.iloc[4] = "nan"
    made.obs["gene"] = pd.Categorical(labels)
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert data.labels.n_unlabelled == 5
    assert data.perturbation_labels()[:5].tolist() == [""] * 5
    assert "" not in data.perturbations
    assert data.table().to_numpy().sum() == 55
    assert any(n.startswith("5 cells have no perturbation label") for n in data.notes)


def test_one_context_and_contexts_without_controls_are_noted(tmp_path: Path) -> None:
    made = cells()
    made.obs["cell_type"] = "B"
    data = open_dataset(write(made, tmp_path / "one.h5ad"))
    assert any("one context only ('B')" in n for n in data.notes)
    made = cells()
    made.obs.loc[made.obs["cell_type"] == "NK", "gene"] = "TNF"
    data = open_dataset(write(made, tmp_path / "none.h5ad"))
    assert any("1 of 2 contexts has no control cells: NK" in n for n in data.notes)
    assert len(data.control_rows("NK")) == 0
    assert len(data.rows("TNF", "nowhere")) == 0


@pytest.mark.parametrize("column", ["nullable-int", "nullable-bool", "nullable-string", "int-categories", "bytes"])
def test_every_kind_of_label_column(column: str, tmp_path: Path) -> None:
    made = cells(n=6)
    values = {
        "nullable-int": pd.array([1, 2, None, 1, 2, 2], dtype="Int64"),
        "nullable-bool": pd.array([True, False, None, True, True, False], dtype="boolean"),
        "nullable-string": pd.array(["a", "b", None, "a", "a", "b"], dtype="string"),
        "int-categories": pd.Categorical([5, 7, None, 5, 5, 7]),
    }
    expected = {
        "nullable-int": ["1", "2", "", "1", "2", "2"],
        "nullable-bool": ["True", "False", "", "True", "True", "False"],
        "nullable-string": ["a", "b", "", "a", "a", "b"],
        "int-categories": ["5", "7", "", "5", "5", "7"],
        "bytes": ["a", "b", "", "a", "a", "b"],
    }[column]
    with anndata.settings.override(allow_write_nullable_strings=True):
        if column in values:
            made.obs["plate"] = values[column]
        path = write(made, tmp_path / "x.h5ad")
    if column == "bytes":
        with h5py.File(path, "r+") as file:
            file["obs/plate"] = np.array([b"a", b"b", b"", b"a", b"a", b"b"])
    data = open_dataset(path, Choices(batch_key="plate"))
    assert data.batch_labels().tolist() == expected


def test_row_names_of_another_kind(tmp_path: Path) -> None:
    path = write(cells(n=6), tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        names = file["obs/_index"][...]
        del file["obs/_index"]
        anndata.io.write_elem(file["obs"], "_index", pd.Categorical([n.decode() for n in names]))
    data = open_dataset(path)
    assert data.n_cells == 6
    assert data.obs_names.tolist() == [f"cell{i}" for i in range(6)]
    assert data.obs.index[2] == "cell2"
    assert data.obs["gene"].tolist() == cells(n=6).obs["gene"].tolist()


def test_files_of_anndata_0_7(tmp_path: Path) -> None:
    path = tmp_path / "old.h5ad"
    x = sp.csr_matrix(counts(4, 3))
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": x.shape})
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(x, part)
        for part, names in (("obs", ["c1", "c2", "c3", "c4"]), ("var", ["STAT1", "TNF", "IL6"])):
            frame = file.create_group(part)
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
            frame.attrs["column-order"] = np.array(["gene"] if part == "obs" else [], dtype=h5py.string_dtype())
            frame.create_dataset("index", data=names, dtype=h5py.string_dtype())
        file["obs"].create_dataset("__categories/gene", data=["STAT1", "control"], dtype=h5py.string_dtype())
        file["obs/gene"] = np.array([1, 0, -1, 1], dtype="i1")
        file["obs/gene"].attrs["categories"] = file["obs/__categories/gene"].ref
    data = open_dataset(path)
    assert data.perturbation_labels().tolist() == ["control", "STAT1", "", "control"]
    np.testing.assert_array_equal(data.read("X", np.array([3, 0])), x.toarray()[[3, 0]])


def test_hash_and_a_file_that_changes(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "x.h5ad")
    data = open_dataset(path)
    assert data.hash() == hashlib.sha256(path.read_bytes()).hexdigest()
    write(cells(seed=1), path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnreadableFileError, match="was changed after it was opened"):
        data.read("X", np.arange(2))
    assert open_dataset(path).read("X", np.arange(60)).sum() == counts(seed=1).sum()
    path.unlink()
    with pytest.raises(UnreadableFileError, match="no longer there"):
        data.read("X", np.arange(2))


def test_columns_that_are_no_labels_are_named_but_not_read(tmp_path: Path) -> None:
    made = cells(n=5_000)
    made.obs["barcode"] = [f"b{i}" for i in range(5_000)]
    made.obs["umis"] = np.arange(5_000)
    path = write(made, tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs/newer"] = np.zeros(5_000, "i4")
        file["obs/newer"].attrs.update({"encoding-type": "from-the-future", "encoding-version": "9.0.0"})
    assert open_dataset(path).labels.other_columns == ("mito", "barcode", "umis", "newer")
    assert open_dataset(path, Choices(batch_key="umis")).batches[:2] == ("0", "1")
    with pytest.raises(UnreadableFileError, match=r"'newer' cannot be read.*'from-the-future'"):
        open_dataset(path, Choices(batch_key="newer"))


def test_numbers_beyond_float32_do_not_become_infinite(tmp_path: Path) -> None:
    made = cells()
    made.obsm["X_state"][3, 2] = 1e300
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    with pytest.raises(UnreadableFileError, match="overflow"):
        data.read("obsm/X_state", np.arange(5))


def test_rows_out_of_range(tmp_path: Path) -> None:
    data = open_dataset(write(cells(), tmp_path / "x.h5ad"))
    for rows in ([60], [-1]):
        with pytest.raises(RepresentationError, match="X has 60 rows"):
            data.read("X", np.array(rows))


def test_positions_unchecked_at_opening_are_checked_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "BLOCK", 20)
    monkeypatch.setattr(matrices, "COMPLETE", 40)
    made = cells()
    path = write(made, tmp_path / "x.h5ad")
    middle = made.X.nnz // 2
    with h5py.File(path, "r+") as file:
        file["X/indices"][middle] = 999
    data = open_dataset(path, Choices(expression="layers/log1p"), Settings(home=tmp_path))
    with pytest.raises(UnsafeFileError, match="position 999 of 12"):
        data.read("X", np.arange(60))


def test_describe_is_plain_json_and_the_summary_names_the_facts(tmp_path: Path) -> None:
    data = open_dataset(write(cells(), tmp_path / "x.h5ad"))
    plain = json.loads(json.dumps(describe(data)))
    assert plain["cells"] == 60
    assert plain["scale"]["scale"] == "counts"
    assert sum(plain["table"]["STAT1"].values()) == len(data.rows("STAT1"))
    assert plain["labels"]["suggestions"][0]["column"] == "gene"
    assert from_plain(Choices, plain["choices"]) == Choices()
    text = "\n".join(summary_lines(data))
    for word in (
        "60 cells x 12 genes",
        "counts (by evidence)",
        "column 'gene', 2 perturbations and the control",
        "control: non-targeting",
        "X_state (5 wide",
    ):
        assert word in text


def test_choices_survive_json() -> None:
    choices = Choices(perturbation_key="drug", control="DMSO", context_key="", scale="log1p", normalise=False)
    assert from_plain(Choices, json.loads(json.dumps(to_plain(choices)))) == choices


def test_a_dataset_can_be_sent_to_another_process(tmp_path: Path) -> None:
    data = open_dataset(write(cells(), tmp_path / "x.h5ad"))
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.read("X", np.arange(3)), data.read("X", np.arange(3)))


def test_the_sample_is_spread_over_the_whole_file() -> None:
    rows = sample_rows(1_000_000, 2_000)
    assert (rows[0], rows[-1], len(rows)) == (0, 999_999, 2_000)
    assert sample_rows(50, 2_000).tolist() == list(range(50))


def test_opening_is_quick(tmp_path: Path) -> None:
    n, g = 20_000, 2_000
    rng = np.random.default_rng(0)
    x = sp.random(
        n, g, 0.1, "csr", dtype=np.float32, random_state=rng, data_rvs=lambda k: rng.integers(1, 9, k).astype(np.float32)
    )
    obs = pd.DataFrame({"gene": rng.choice(["control", "A", "B"], n), "cell_type": rng.choice(["B", "T"], n)}).astype("category")
    obs.index = [f"c{i}" for i in range(n)]
    path = write(anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)])), tmp_path / "x.h5ad")
    start = time.process_time()
    data = open_dataset(path)
    data.table()
    assert time.process_time() - start < 1.0
    assert data.scale.scale == "counts"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_only_genes_are_genes(tmp_path: Path, layout: str) -> None:
    genes = cells(layout=layout)
    extra = counts(60, 5, 1) * 50
    both = np.hstack([extra[:, :2], dense(genes.X if layout == "dense" else genes.X.tocsr()), extra[:, 2:]])
    names = ["sgTNF", "CD3D", *genes.var_names, "CD86_prot", "chr1:1-500", "sgJUN"]
    kinds = [
        "CRISPR Guide Capture",
        "Antibody Capture",
        *["Gene Expression"] * 12,
        "Antibody Capture",
        "Peaks",
        "CRISPR Guide Capture",
    ]
    to = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[layout]
    var = pd.DataFrame({"feature_types": pd.Categorical(kinds)}, index=names)
    whole = open_dataset(write(anndata.AnnData(to(both), obs=genes.obs, var=var), tmp_path / "all.h5ad"))
    alone = open_dataset(write(genes, tmp_path / "genes.h5ad"))
    assert whole.genes.names == alone.genes.names == tuple(genes.var_names) and whole.n_genes == 12
    assert whole.representation("X").width == 12
    note = next(n for n in whole.notes if "are no genes" in n)
    assert note.startswith("5 of the 17 rows of var are no genes and are left out: ")
    assert "2 CRISPR Guide Capture" in note and "2 Antibody Capture" in note and "1 Peaks" in note
    rows = np.array([7, 0, 7, 59])
    # the depth of a cell is that of its genes
    ours, right = (read_features(d, FeatureSource("X", None, True), rows) for d in (whole, alone))
    np.testing.assert_array_equal(ours, right)
    assert hvg_choice(whole, 4).names == hvg_choice(alone, 4).names
    assert not match_genes(whole, ("sgTNF", "CD86_prot")).n_matched
    with pytest.raises(GeneError, match="12 different genes"):
        hvg_choice(whole, 13)


def test_kinds_that_are_all_genes_or_unknown_change_nothing(tmp_path: Path) -> None:
    for kind in ("Gene Expression", "protein_coding"):
        data = cells()
        data.var["feature_types"] = pd.Categorical([kind] * 12)
        opened = open_dataset(write(data, tmp_path / "x.h5ad"))
        assert opened.only_genes is None and opened.n_genes == 12


def labelled(path: Path, labels: list[str], column: str = "condition", **more: list[str]) -> Path:
    """Ten cells of each label."""
    n = 10 * len(labels)
    obs = {column: np.repeat(labels, 10), **{k: np.repeat(v, 10) for k, v in more.items()}}
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]).astype("category")
    return write(anndata.AnnData(sp.csr_matrix(counts(n)), obs=frame, var=cells().var), path)


def test_combinations_with_ctrl_are_no_controls_and_orders_are_told(tmp_path: Path) -> None:
    data = open_dataset(labelled(tmp_path / "x.h5ad", ["ctrl", "KLF1+ctrl", "ctrl+GATA1", "KLF1+GATA1", "GATA1+KLF1"]))
    assert data.labels.control == "ctrl" and data.labels.control_suggestions == ("ctrl",)
    assert not any("could be one too" in n for n in data.notes)
    assert "'GATA1+KLF1' and 'KLF1+GATA1' are one perturbation in two spellings." in data.notes


@pytest.mark.parametrize("controls", [["neg_ctrl_1", "neg_ctrl_2"], ["INTERGENIC12", "INTERGENIC7"], ["NO-TARGET"]])
def test_candidates_are_named_where_no_control_is_known(tmp_path: Path, controls: list[str]) -> None:
    data = open_dataset(labelled(tmp_path / "x.h5ad", [*controls, "KLF1", "GATA1"], "gene"))
    assert data.labels.control is None and set(data.labels.control_suggestions) == set(controls)
    assert any(all(c in n for c in controls) and "It could be" in n for n in data.notes)


@pytest.mark.parametrize("word", ["NA", "#N/A", "nan", "<NA>", ""])
def test_words_for_missing_are_no_labels(tmp_path: Path, word: str) -> None:
    data = open_dataset(labelled(tmp_path / "x.h5ad", ["control", "KLF1", word]))
    assert data.perturbations == ("control", "KLF1") and data.labels.n_unlabelled == 10


def test_a_batch_that_equals_the_condition_is_confounded(tmp_path: Path) -> None:
    labels = ["control", "control", "KLF1", "KLF1"]
    for batches, told in ((["1", "2", "3", "4"], True), (["1", "2", "1", "2"], False), (["1", "1", "1", "1"], False)):
        data = open_dataset(labelled(tmp_path / "x.h5ad", labels, batch=[f"lane {b}" for b in batches]))
        assert data.labels.batch_key == "batch" and any("(confounded)" in n for n in data.notes) == told


def test_words_for_missing_are_labels_where_the_user_says_so(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.h5ad", ["None", "KLF1", "GATA1"], "gene", cell_type=["None", "A", "A"])
    silent = open_dataset(path)
    assert silent.labels.control is None and any(
        "If they are the controls, choose what is written there" in n for n in silent.notes
    )
    data = open_dataset(path, Choices(control="None"))
    assert data.perturbations == ("None", "GATA1", "KLF1") and data.contexts == ("A",)


def test_several_labels_are_one_control(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.h5ad", ["neg_ctrl_1", "neg_ctrl_2", "DMSO", "KLF1"], "gene")
    data = open_dataset(path, Choices(control=("DMSO", "neg_ctrl_*", "nobody")))
    assert data.perturbations == ("DMSO", "KLF1") and data.control_rows().tolist() == list(range(30))
    assert set(data.labels.controls) == {"DMSO", "neg_ctrl_1", "neg_ctrl_2"}
    assert "The control 'DMSO' stands for 3 labels: DMSO, neg_ctrl_1, neg_ctrl_2." in data.notes
    assert "No cell is labelled nobody, which was chosen as a control." in data.notes
    assert describe(data)["labels"]["controls"] == ["DMSO", "neg_ctrl_1", "neg_ctrl_2"]
    # a file of the same screen that lacks the first is read alike
    other = open_dataset(labelled(tmp_path / "y.h5ad", ["neg_ctrl_2", "KLF1"], "gene"), data.choices)
    assert other.perturbations == ("DMSO", "KLF1")
    with pytest.raises(LabelError, match="no control label 'a'"):
        open_dataset(path, Choices(control=("a", "b")))
    assert Choices(control=("a",)) == Choices(control="a") and Choices(control=()) == Choices()


def test_combinations_are_renamed_on_request(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.h5ad", ["ctrl", "KLF1+ctrl", "ctrl+GATA1", "KLF1+GATA1", "GATA1+KLF1"])
    asked = open_dataset(path, Choices(rename_combinations=True))
    assert asked.perturbations == ("ctrl", "GATA1", "GATA1+KLF1", "KLF1") and asked.labels.renamed
    assert asked.rows("GATA1+KLF1").tolist() == list(range(30, 50))
    assert len(asked.labels.renamings) == 3 and any("labels of combinations were renamed" in n for n in asked.notes)
    offered = open_dataset(path)
    assert offered.labels.renamings == asked.labels.renamings and "KLF1+ctrl" in offered.perturbations
    assert any("can be renamed on request (--rename-combinations): 'KLF1+GATA1' (10 cells) is" in n for n in offered.notes)


def test_a_pattern_takes_several_controls_together(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.h5ad", ["neg_ctrl_1", "neg_ctrl_2", "neg_ctrl_3", "KLF1", "GATA1"], "gene")
    data = open_dataset(path, Choices(control="neg_ctrl_*"))
    assert data.perturbations == ("neg_ctrl_*", "GATA1", "KLF1") and data.require_control() == "neg_ctrl_*"
    assert data.control_rows().tolist() == list(range(30)) and data.rows("KLF1").tolist() == list(range(30, 40))
    with pytest.raises(LabelError, match=r"no control label 'nobody\*'"):
        open_dataset(path, Choices(control="nobody*"))
    starred = open_dataset(labelled(tmp_path / "y.h5ad", ["*", "KLF1", "GATA1"], "gene"), Choices(control="*"))
    assert starred.perturbations == ("*", "GATA1", "KLF1")
