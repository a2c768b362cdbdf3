"""Cell sentences: against a plain loop over cells, and what they may not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.data.cell_sentences import SentenceMaker, Sentences
from state_engine.data.gene_vocabulary import GeneMap, map_genes
from state_engine.data.genes import gene_names
from state_engine.errors import ScaleError

VOCABULARY = tuple(f"G{i}" for i in range(50))


def gene_map(names: list[str] | None = None) -> GeneMap:
    return map_genes(gene_names({"": tuple(names or VOCABULARY)}), VOCABULARY)


def counts(cells: int, genes: int, density: float = 0.4, seed: int = 0) -> sp.csr_matrix:
    """Small whole numbers: many ties."""
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(np.where(rng.random((cells, genes)) < density, rng.integers(1, 5, (cells, genes)), 0).astype(np.float32))


def same(one: Sentences, other: Sentences) -> bool:
    fields = ("cells", "rows", "counts", "expressed", "empty", "mean_expression")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


def test_against_a_plain_loop() -> None:
    order = np.random.default_rng(3).permutation(60)
    names = [f"G{i}" if i < 40 else f"unknown{i}" for i in order]
    genes, values = gene_map(names), counts(30, 60)
    made = SentenceMaker(genes, "counts", 16).make(values, np.arange(30))
    for k in range(30):
        cell = np.log1p(values[k].toarray()[0])
        known = [(float(cell[c]), int(names[c][1:]), c) for c in range(60) if names[c][0] == "G"]
        total = sum(value for value, _, _ in known)
        wanted = sorted((row for row in known if row[0] > 0), key=lambda row: (-row[0], row[1]))[:15]
        assert made.rows[k, 0] == 50 and made.expressed[k] == len(wanted)
        assert made.rows[k, 1 : 1 + len(wanted)].tolist() == [row for _, row, _ in wanted]
        np.testing.assert_allclose(made.counts[k, 1 : 1 + len(wanted)], [100 * v / total for v, _, _ in wanted], rtol=1e-5)
        in_file = sorted(known, key=lambda row: row[2])
        assert made.counts[k, 0] == pytest.approx(100 * in_file[3][0] / total, rel=1e-5)  # CLS: gene number 3 of the file
        filled = made.rows[k, 1 + len(wanted) :]
        assert (made.counts[k, 1 + len(wanted) :] == 0).all()
        assert len(set(filled)) == len(filled) and {row for v, row, _ in known if v == 0} >= set(filled.tolist())
        assert made.mean_expression[k] == pytest.approx(total / np.count_nonzero([v for v, _, _ in known]), rel=1e-5)


@pytest.mark.parametrize("length", [8, 40, 70])
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_blocks_order_and_sharding_do_not_matter(length: int, density: float) -> None:
    values = counts(300, 50, density)
    maker = SentenceMaker(gene_map(), "counts", length, seed=7)
    whole = maker.make(values, np.arange(300))
    for size in (1, 7, 64):
        parts = [maker.make(values[i : i + size], np.arange(i, min(i + size, 300))) for i in range(0, 300, size)]
        assert np.array_equal(np.concatenate([p.rows for p in parts]), whole.rows)
        assert np.array_equal(np.concatenate([p.counts for p in parts]), whole.counts)
    for shard in (np.arange(0, 300, 2), np.arange(299, -1, -3)):
        made = maker.make(values[shard], shard)
        kept = np.searchsorted(whole.cells, made.cells)
        assert np.array_equal(made.rows, whole.rows[kept]) and np.array_equal(made.counts, whole.counts[kept])
    assert same(whole, SentenceMaker(gene_map(), "counts", length, seed=7).make(values.toarray(), np.arange(300)))


def test_the_seed_moves_the_filling_alone() -> None:
    values = counts(40, 50, 0.1)
    one, other = (SentenceMaker(gene_map(), "counts", 30, seed=seed).make(values, np.arange(40)) for seed in (0, 1))
    assert np.array_equal(one.counts, other.counts)
    for k in range(len(one)):
        n = one.expressed[k] + 1
        assert np.array_equal(one.rows[k, :n], other.rows[k, :n])
        assert not np.array_equal(one.rows[k, n:], other.rows[k, n:])


def test_cells_of_like_expression_are_filled_differently_and_evenly() -> None:
    values = sp.csr_matrix(np.tile(np.eye(1, 50, dtype=np.float32), (2000, 1)))
    made = SentenceMaker(gene_map(), "counts", 20).make(values, np.arange(2000))
    assert len({tuple(row) for row in made.rows}) > 1200  # of 53 x 52 orders there are
    drawn = np.bincount(made.rows[:, 2:].ravel(), minlength=50)
    assert drawn[0] == 0 and drawn[50:].sum() == 0
    expected = 2000 * 18 / 49
    assert np.abs(drawn[1:50] - expected).max() < 6 * expected**0.5  # six standard deviations of a fair draw


def test_short_files_are_filled_with_repeats() -> None:
    values = sp.csr_matrix(np.array([[3, 0, 0, 1]], dtype=np.float32))
    made = SentenceMaker(gene_map(["G3", "G7", "G9", "G20"]), "counts", 40).make(values, np.arange(1))
    assert made.rows[0, :3].tolist() == [50, 3, 20]
    assert set(made.rows[0, 3:].tolist()) == {7, 9} and made.expressed[0] == 2


def test_a_cell_that_expresses_all_genes_of_a_short_file() -> None:
    """The reference stops with an error here: genes that the file lacks fill up, with amount 0."""
    values = sp.csr_matrix(np.ones((1, 4), dtype=np.float32))
    made = SentenceMaker(gene_map(["G3", "G7", "G9", "G20"]), "counts", 12).make(values, np.arange(1))
    assert made.rows[0, 1:5].tolist() == [3, 7, 9, 20] and not set(made.rows[0, 5:].tolist()) & {3, 7, 9, 20}
    assert (made.counts[0, 5:] == 0).all()


def test_empty_cells_have_no_sentence() -> None:
    values = counts(6, 50)
    values = sp.csr_matrix(values.toarray() * (np.arange(6) % 2)[:, None].astype(np.float32))
    made = SentenceMaker(gene_map(), "counts", 10).make(values, np.arange(10, 16))
    assert made.empty.tolist() == [10, 12, 14] and made.cells.tolist() == [11, 13, 15]
    nothing = SentenceMaker(gene_map(), "counts", 10).make(values[:1], np.array([4]))
    assert len(nothing) == 0 and nothing.empty.tolist() == [4]


def test_scales_and_strange_values() -> None:
    values = np.array([[1, 7, 0, -2] + [0] * 46], dtype=np.float32)
    raw, logged = (SentenceMaker(gene_map(), scale, 10).make(values, np.arange(1)) for scale in ("counts", "log1p"))
    assert logged.counts[0, 1] == pytest.approx(100 * 7 / 8) and logged.negative == 1
    assert raw.counts[0, 1] == pytest.approx(100 * np.log(8) / np.log(16))
    assert raw.counts[0, 0] == 0  # gene number 3 is below 0
    with pytest.raises(ScaleError, match="not numbers"):
        SentenceMaker(gene_map(), "counts", 10).make(np.full((1, 50), np.nan, dtype=np.float32), np.arange(1))


def test_without_the_slip_cls_carries_nothing() -> None:
    made = SentenceMaker(gene_map(), "counts", 10, cls_gene=None).make(np.ones((1, 50), np.float32), np.arange(1))
    assert made.counts[0, 0] == 0 and made.counts[0, 1:] == pytest.approx(np.full(9, 2.0))
