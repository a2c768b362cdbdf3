"""Splits: Arc's TOML read and written, applied to cells, and every way in which it may select nothing or leak."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.splits.apply import Split, apply_plan, open_split
from state_engine.data.splits.plan import (
    FewShot,
    SplitPlan,
    ZeroShot,
    expand_braces,
    parse_plan,
    plan_files,
    plan_text,
    read_plan,
)
from state_engine.errors import SplitError

CHOICES = Choices("gene", "ctrl", "line", "batch")
PLAN = """
[datasets]
screen = "cells.h5ad"

[training]
screen = "train"

[zeroshot]
"screen.NK 2.1" = "val"

[fewshot."screen.B"]
val = ["TNF"]
test = ["IL6", "A+B"]
"""
# perturbation x context -> cells; None is a missing label
CELLS: dict[tuple[str | None, str | None], int] = {
    ("ctrl", "B"): 5, ("TNF", "B"): 4, ("IL6", "B"): 3, ("A+B", "B"): 2, ("JUN", "B"): 6,
    ("ctrl", "NK 2.1"): 3, ("TNF", "NK 2.1"): 2,
    ("ctrl", "T"): 4, ("TNF", "T"): 1, ("IL6", "T"): 2, ("A+B", "T"): 3, ("MYC", "T"): 2,
    (None, "B"): 1, ("TNF", None): 2,
}  # fmt: skip


def write(path: Path, cells: dict[tuple[str | None, str | None], int] = CELLS, genes: Sequence[str] = "abcdef") -> Path:
    """Cells with these labels, shuffled; five counts a cell."""
    pairs = [pair for pair, n in cells.items() for _ in range(n)]
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    obs = pd.DataFrame(pairs, columns=["gene", "line"], index=[f"c{i}" for i in range(len(pairs))]).astype("category")
    obs["batch"] = pd.Categorical(["one"] * len(pairs))
    values = np.random.default_rng(1).poisson(3, (len(pairs), len(genes))).astype(np.float32)
    anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write(tmp_path_factory.mktemp("split") / "cells.h5ad"), CHOICES)


def applied(text: str, *sources: tuple[str, Dataset]) -> Split:
    return apply_plan(parse_plan(text), sources)


def parts_of(split: Split) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    columns = ["train", "val", "test", "unused"]
    return {(r.perturbation, r.context): tuple(getattr(r, c) for c in columns) for r in split.table().itertuples()}


def says(error: pytest.ExceptionInfo[SplitError], *words: str) -> None:
    for word in words:
        assert word in str(error.value), word


# The text


def test_the_format_is_read_as_it_is() -> None:
    plan = parse_plan(PLAN)
    assert plan == SplitPlan(
        datasets=(("screen", "cells.h5ad"),),
        training=("screen",),
        zeroshot=(ZeroShot("screen", "NK 2.1", "val"),),
        fewshot=(FewShot("screen", "B", ("TNF",), ("IL6", "A+B")),),
    )
    assert [str(held) for held in plan.held_out()] == ["B x IL6", "B x A+B", "NK 2.1", "B x TNF"]


@pytest.mark.parametrize("label", ["", "[('DMSO_TF', 0.0, 'uM')]", 'say "x"', "a\\b", "α\tβ\x7f", "it's"])
def test_a_written_plan_reads_back(label: str) -> None:
    plan = SplitPlan(
        (("one", "a/{b,c}.h5"), ("two words", "d")), ("one",),
        (ZeroShot("two words", f"x{label}.y", "test"),), (FewShot("one", "B", (), ("TNF", f"z{label}")),),
    )  # fmt: skip
    assert parse_plan(plan_text(plan)) == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[zeroshot]", "[zeroshot"), "not TOML"),
        (("[zeroshot]", "[zero]"), "unknown sections: zero"),
        (('screen = "train"', 'screen = "val"'), 'screen = "val"'),
        (('screen = "train"', 'other = "train"'), "'other'"),
        (('"screen.NK 2.1"', '"NK"'), "names no context"),
        (('"screen.NK 2.1"', '"scren.NK"'), "'scren'"),
        (('"screen.NK 2.1"', "screen.NK"), "in quotes"),
        (('= "val"', '= "train"'), "leave it out of [zeroshot]"),
        (('"screen.NK 2.1"', '"screen.B"'), "screen.B is held out twice"),
        (('[fewshot."screen.B"]', "[fewshot.screen.B]"), "in quotes"),
        (('val = ["TNF"]', 'val = "TNF"'), "not a list"),
        (('val = ["TNF"]', "val = [1]"), "not a list"),
        (('val = ["TNF"]', 'val = ["TNF", "IL6"]'), "IL6 in both val and test"),
        (('val = ["TNF"]', 'train = ["TNF"]'), "what is not listed is trained on"),
        (('val = ["TNF"]\ntest = ["IL6", "A+B"]', ""), "holds nothing out"),
        (('screen = "cells.h5ad"', ""), "[datasets] is empty"),
        (('screen = "cells.h5ad"', 'screen = "cells.h5ad"\nspare = "x"'), "spare is not used"),
        (('screen = "cells.h5ad"', "screen = 3"), "a file or a pattern"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_contradictions_are_named(change: tuple[str, str], words: str) -> None:
    text = PLAN.replace(*change)
    assert text != PLAN
    with pytest.raises(SplitError) as error:
        parse_plan(text)
    says(error, words)


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "split.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("split.toml", "absent.toml"):
        with pytest.raises(SplitError, match="cannot be read"):
            read_plan(tmp_path / name)


# Places


def test_braces_multiply() -> None:
    assert expand_braces("{a, b}_{1,2}.h5") == ["a_1.h5", "a_2.h5", "b_1.h5", "b_2.h5"] and expand_braces("x") == ["x"]


def test_folders_files_braces_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "a/one.h5",
        "a/two.h5ad",
        "a/notes.txt",
        "a/.part-x.h5",
        "b/k562.h5",
        "b/hepg2.h5",
        "b/jurkat.h5",
        "odd[1].h5ad",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(where: str, base: Path = tmp_path) -> list[str]:
        return [f.name for _, f in plan_files(SplitPlan((("d", where),), ("d",)), base)]

    assert names("a") == ["one.h5", "two.h5ad"]
    assert names(str(tmp_path / "b" / "*.h5")) == ["hepg2.h5", "jurkat.h5", "k562.h5"]
    assert names("b/{k562,hepg2}.h5") == ["k562.h5", "hepg2.h5"]
    assert names("{a,b}") == ["one.h5", "two.h5ad", "hepg2.h5", "jurkat.h5", "k562.h5"]
    assert sorted(names("{a/{one,two}*,b/k*}")) == ["k562.h5", "one.h5", "two.h5ad"]
    assert names("odd[1].h5ad") == ["odd[1].h5ad"]
    monkeypatch.chdir(tmp_path)
    assert names("a", tmp_path / "b") == ["one.h5", "two.h5ad"]
    with pytest.raises(SplitError, match=r"'c/\*' matches no .h5ad or .h5 file"):
        names("c/*")


def test_a_list_in_braces_must_be_all_there(tmp_path: Path) -> None:
    for name in ("k562.h5ad", "rpe1.h5ad"):
        (tmp_path / name).touch()

    def files(where: str) -> int:
        return len(plan_files(SplitPlan((("screen", where),), ("screen",)), tmp_path))

    assert files("{k562,rpe1}.h5ad") == 2 and files("{k5,rp}*.h5ad") == 2 and files("*.h5ad") == 2
    with pytest.raises(SplitError, match=r"'screen' lists jurkat\.h5ad, which is not there"):
        files("{k562,rpe1,jurkat}.h5ad")
    with pytest.raises(SplitError, match=r"lists hep\*\.h5ad, jur\*\.h5ad, which are not there"):
        files("{k,hep,jur}*.h5ad")


LEAK = """
[datasets]
one = "one.h5ad"
two = "two.h5ad"
[training]
one = "train"
two = "train"
[zeroshot]
[fewshot."one.B"]
test = ["IL6", "TNF"]
"""


@pytest.mark.parametrize("change", ["copy", "half", "renamed"])
def test_the_same_cells_under_another_data_set_are_found(tmp_path: Path, change: str) -> None:
    write(tmp_path / "one.h5ad", {k: 10 * n for k, n in CELLS.items()}, "abcdefghijklmnopqrst")
    (tmp_path / "two.h5ad").write_bytes((tmp_path / "one.h5ad").read_bytes())
    if change != "copy":
        cells = anndata.read_h5ad(tmp_path / "two.h5ad")[:: 2 if change == "half" else 1].copy()
        if change == "renamed":
            cells.obs_names = [f"other {i}" for i in range(cells.n_obs)]
        cells.write_h5ad(tmp_path / "two.h5ad")
    (tmp_path / "split.toml").write_text(LEAK)
    split = open_split(tmp_path / "split.toml", CHOICES)
    warnings = split.warnings
    names, cells = split.leaks
    assert (names.held_in, names.trained_in, names.conditions) == ("one", "two", ("B x IL6", "B x TNF"))
    assert cells.files == ("one.h5ad", "two.h5ad") and cells.looked == 70 and cells.same_file == (change == "copy")
    assert any("What one holds out is trained on in two" in w and "B x IL6, B x TNF" in w for w in warnings)
    (same,) = (w for w in warnings if w.startswith("The same cells are held out in one and trained on in two"))
    counted = int(same.split(": ")[1].split(" of ")[0])
    assert counted == {"copy": 70, "renamed": 70}.get(change, counted) and 25 <= counted <= 70
    assert ("byte for byte" in same) == (change == "copy")


def test_cells_that_share_only_their_names_are_not_the_same(tmp_path: Path) -> None:
    write(tmp_path / "one.h5ad", {k: 10 * n for k, n in CELLS.items()}, "abcdefghijklmnopqrst")
    other = anndata.read_h5ad(tmp_path / "one.h5ad")
    other.X = sp.csr_matrix(np.random.default_rng(7).poisson(3, other.shape).astype(np.float32))
    other.obs["line"] = other.obs["line"].cat.rename_categories({"B": "another B"})
    other.write_h5ad(tmp_path / "two.h5ad")
    (tmp_path / "split.toml").write_text(LEAK)
    warnings = open_split(tmp_path / "split.toml", CHOICES).warnings
    assert not any("same cells" in w or "is trained on in" in w for w in warnings)


def test_a_file_of_two_data_sets_would_leak(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").touch()
    with pytest.raises(SplitError, match=r"a\.h5ad is in the data sets one, two"):
        plan_files(SplitPlan((("one", "a.h5ad"), ("two", "*.h5ad")), ("one", "two")), tmp_path)


# Applying


def test_every_cell_has_its_part(cells: Dataset) -> None:
    split = applied(PLAN, ("screen", cells))
    (source,) = split.sources
    p, c = cells.perturbation_labels(), cells.context_labels()
    expected = np.where((p == "") | (c == ""), 0, 1)
    expected[c == "NK 2.1"] = 2
    expected[(c == "B") & (p == "TNF")] = 2
    expected[(c == "B") & np.isin(p, ["IL6", "A+B"])] = 3
    assert source.parts.dtype == np.uint8 and source.parts.tolist() == expected.tolist()
    assert source.held_out_controls().tolist() == np.flatnonzero((p == "ctrl") & (c == "NK 2.1")).tolist()
    assert split.cells() == {"train": 23, "val": 9, "test": 5}
    assert source.rows("test").tolist() == np.flatnonzero(expected == 3).tolist()
    assert split.warnings == ("3 cells lack a perturbation or a context and are not used.",)
    assert split.control == "ctrl" and split.genes == tuple("abcdef")


def test_the_table_counts_each_group(cells: Dataset) -> None:
    table = applied(PLAN, ("screen", cells)).table()
    assert list(table.columns) == ["dataset", "context", "perturbation", "train", "val", "test", "unused"]
    assert table["perturbation"].tolist()[:2] == ["ctrl", "A+B"]
    counts = parts_of(applied(PLAN, ("screen", cells)))
    assert counts["ctrl", "B"] == (5, 0, 0, 0) and counts["TNF", "B"] == (0, 4, 0, 0) and counts["ctrl", "NK 2.1"] == (0, 3, 0, 0)
    for (perturbation, context), row in counts.items():
        assert sum(row) == CELLS[perturbation, context]


def test_without_training_only_the_clauses_select(cells: Dataset) -> None:
    counts = parts_of(applied(PLAN.replace('[training]\nscreen = "train"', ""), ("screen", cells)))
    assert counts["JUN", "B"] == (6, 0, 0, 0) and counts["MYC", "T"] == (0, 0, 0, 2) and counts["TNF", "NK 2.1"] == (0, 2, 0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("NK 2.1", "NK2.1"), ('"screen.NK2.1" matches no cell', "B, NK 2.1, T", "Close to 'NK2.1': NK 2.1")),
        (('"screen.B"', '"screen.b"'), ("no context 'b'",)),
        (('["TNF"]', '["TNFA"]'), ("TNFA, of which there is no cell", "A+B, IL6, JUN, TNF", "Close to 'TNFA': TNF")),
        (('["TNF"]', '["MYC"]'), ("MYC, of which there is no cell", "Other contexts have MYC")),
        (('["TNF"]', '["ctrl"]'), ("holds out the control 'ctrl'",)),
    ],
    ids=["context", "case", "perturbation", "elsewhere", "control"],
)
def test_a_clause_that_selects_nothing_is_an_error(cells: Dataset, change: tuple[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(SplitError) as error:
        applied(PLAN.replace(*change), ("screen", cells))
    says(error, *words)


def test_another_spelling_left_in_training_is_a_leak(tmp_path: Path) -> None:
    for twin, left in (("B+A", "training"), ("a+b ", "training")):
        data = open_dataset(write(tmp_path / "x.h5ad", CELLS | {(twin, "B"): 2}), CHOICES)
        with pytest.raises(SplitError) as error:
            applied(PLAN, ("screen", data))
        says(error, f"'A+B' is left in {left} in screen.B, as '{twin}'")
        both = applied(PLAN.replace('"A+B"', f'"A+B", "{twin}"'), ("screen", data))
        assert parts_of(both)[twin, "B"] == (0, 0, 2, 0)
        with pytest.raises(SplitError, match="left in validation"):
            applied(PLAN.replace('"TNF"', f'"TNF", "{twin}"'), ("screen", data))


def test_nothing_to_train_on(cells: Dataset) -> None:
    everything = '[datasets]\ns = "x"\n[zeroshot]\n"s.B" = "test"\n"s.T" = "val"\n"s.NK 2.1" = "val"\n'
    with pytest.raises(SplitError, match="Nothing is left to train on"):
        applied(everything, ("s", cells))


def test_what_a_person_should_know(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "x.h5ad", {k: n for k, n in CELLS.items() if k != ("ctrl", "T")}), CHOICES)
    plain = '[datasets]\ns = "x"\n[training]\ns = "train"\n'
    warnings = " ".join(applied(plain, ("s", data)).warnings)
    assert "kept for validation: there are no validation curves" in warnings and "kept for testing" in warnings
    assert "Without controls, so left out: s.T." in warnings
    only = plain + '[zeroshot]\n"s.NK 2.1" = "val"\n[fewshot."s.B"]\ntest = ["JUN"]\n'
    assert any("1 held-out perturbation is trained nowhere: JUN" in w for w in applied(only, ("s", data)).warnings)


def test_several_files_share_genes_and_control(tmp_path: Path, cells: Dataset) -> None:
    other = open_dataset(write(tmp_path / "b.h5ad", {("ctrl", "X"): 3, ("TNF", "X"): 3}, "fedcbz"), CHOICES)
    text = PLAN.replace('"cells.h5ad"\n', '"cells.h5ad"\nmore = "b.h5ad"\n').replace("[zeroshot]", 'more = "train"\n[zeroshot]')
    split = applied(text, ("screen", cells), ("more", other))
    assert split.genes == tuple("bcdef") and any("b.h5ad has 6 genes, of which cells.h5ad has 5" in w for w in split.warnings)
    assert split.table()["dataset"].unique().tolist() == ["screen", "more"]
    with pytest.raises(SplitError, match="shares no gene"):
        applied(text, ("screen", cells), ("more", open_dataset(write(tmp_path / "c.h5ad", {("ctrl", "X"): 3}, "uvw"), CHOICES)))
    named = {("DMSO", "X"): 3, ("TNF", "X"): 3}
    with pytest.raises(SplitError, match=r"'ctrl' in cells\.h5ad, 'DMSO' in d\.h5ad"):
        drug = open_dataset(write(tmp_path / "d.h5ad", named), Choices("gene", "DMSO", "line"))
        applied(text, ("screen", cells), ("more", drug))
    with pytest.raises(SplitError, match="more has no file"):
        applied(text, ("screen", cells))
    with pytest.raises(SplitError, match="no data set spare"):
        applied(text, ("screen", cells), ("more", other), ("spare", other))


def test_a_clause_reaches_all_files_of_its_data_set(tmp_path: Path) -> None:
    write(tmp_path / "a.h5ad")
    write(tmp_path / "b.h5ad", {("ctrl", "B"): 2, ("IL6", "B"): 2, ("JUN", "B"): 1})
    (tmp_path / "split.toml").write_text(PLAN.replace("cells.h5ad", "*.h5ad"))
    split = open_split(tmp_path / "split.toml", CHOICES)
    assert [s.name for s in split.sources] == ["screen", "screen"]
    assert parts_of(split)["IL6", "B"] == (0, 0, 5, 0) and parts_of(split)["JUN", "B"] == (7, 0, 0, 0)


def test_the_example_of_real_cells(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "norman_mcfaline.h5ad"
    plan = SplitPlan((("nm", os.fspath(path)),), ("nm",), (ZeroShot("nm", "A172", "val"), ZeroShot("nm", "T98G", "test")))
    (tmp_path / "split.toml").write_text(plan_text(plan))
    split = open_split(tmp_path / "split.toml", Choices("condition", "control", "cell_type"))
    assert sum(split.cells().values()) == 5961 and all(n > 100 for n in split.cells().values())


def test_files_of_different_depths_are_told_with_both_numbers(tmp_path: Path) -> None:
    write(tmp_path / "one.h5ad", {k: 10 * n for k, n in CELLS.items()}, "abcdefghijklmnopqrst")
    for depth, told in ((1e6, True), (1e4, False)):
        other = anndata.read_h5ad(tmp_path / "one.h5ad")
        values = other.X.toarray()
        other.X = sp.csr_matrix(np.log1p(values / values.sum(1, keepdims=True) * depth).astype(np.float32))
        other.write_h5ad(tmp_path / "two.h5ad")
        (tmp_path / "split.toml").write_text(LEAK)
        found = [w for w in open_split(tmp_path / "split.toml", CHOICES).warnings if "different depths" in w]
        assert len(found) == told
        assert all("one.h5ad (counts) at 10,000 per cell, two.h5ad (log1p) at 1,000,000 per cell" in w for w in found)
