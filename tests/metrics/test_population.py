"""The energy distance by hand, without bias between samples of the same cells, and that of scPertEval."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import wasserstein_distance

from state_engine.metrics import population
from state_engine.metrics.own import MeanCells, own_values, spread_ratio
from state_engine.metrics.population import Components, Marginals, energy_distance, expressed_genes


def test_by_hand() -> None:
    """Two cells on a line and one: 2 x mean(1, 3) - 2 - 0."""
    components = Components.of(np.array([[0.0], [2.0], [3.0]]))
    two, one = components.cloud(np.array([[0.0], [2.0]])), components.cloud(np.array([[3.0]]))
    assert energy_distance(two, one) == pytest.approx(2 * 2 - 2)


def test_two_samples_of_the_same_cells_differ_by_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    components = Components.of(rng.normal(size=(200, 30)))
    same, moved = [], []
    for _ in range(60):
        one, other = rng.normal(size=(2, 25, 30))
        same.append(energy_distance(components.cloud(one), components.cloud(other)))
        # a shift and a shrunken spread are both told
        moved.append(energy_distance(components.cloud(one + 0.3), components.cloud(other)))
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60) and np.mean(moved) > 10 * abs(np.mean(same))
    tight = energy_distance(components.cloud(rng.normal(size=(100, 30)) / 3), components.cloud(rng.normal(size=(100, 30))))
    assert tight > 0.5


def test_many_cells_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "MOST_CELLS", 10)
    cells = np.random.default_rng(0).normal(size=(30, 5))
    drawn = Components.of(cells).cloud(cells)
    assert len(drawn.points) == 10 and len(np.unique(drawn.points, axis=0)) == 10


def test_spread_of_the_median_gene() -> None:
    assert spread_ratio(np.array([1.0, 1.0, 3.0, 9.0]), np.array([2.0, 1.0, 1.0, 0.0])) == 1
    assert np.isnan(spread_ratio(np.ones(2), np.zeros(2)))


def test_the_best_amplitude_and_what_it_gains() -> None:
    """Effects a quarter of the real ones: by L1 each is nearest to the smallest real effect, until they are made larger."""
    real = {"x": np.array([4.0, 0.0]), "y": np.array([0.0, 4.0]), "z": np.array([0.2, 0.2])}
    small = {p: effect / 4 for p, effect in real.items()}
    cells = MeanCells(small, real, (np.zeros(2), np.zeros(2)), ("a", "b"))
    factor, gain = (own_values(name, cells, np.zeros(2))[""] for name in ("best_amplitude", "amplitude_gain"))
    assert factor == 3 and gain == pytest.approx(1 - (0.5 + 0.5 + 1) / 3)
    assert (
        own_values("best_amplitude", MeanCells({"x": real["x"]}, {"x": real["x"]}, cells.controls, cells.genes), np.zeros(2))
        == {}
    )


def test_single_genes_equal_a_written_out_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 200 and 100 cells the 200 quantiles hold every cell, so that the distance is the exact one."""
    monkeypatch.setattr(population, "GENES_AT_ONCE", 3)  # parts of the genes change nothing
    rng = np.random.default_rng(3)
    share = np.array([0.02, 0.04, 0.06, 0.3, 0.5, 0.9, 1.0, 0.0])
    measured, control, predicted = (
        np.where(rng.random((n, 8)) < share, rng.gamma(2, size=(n, 8)), 0).astype(np.float32) for n in (200, 80, 100)
    )
    predicted[:, 5] += 0.7
    genes, distances, off = [], [], []
    for gene in range(8):
        if max((measured[:, gene] > 0).mean(), (control[:, gene] > 0).mean()) < 0.05:
            continue
        genes.append(gene)
        distances.append(wasserstein_distance(predicted[:, gene], measured[:, gene]))
        off.append(abs((predicted[:, gene] > 0).mean() - (measured[:, gene] > 0).mean()))
    assert 3 < len(genes) < 8 and expressed_genes(measured, control).tolist() == genes
    for as_stored in (np.asarray, sp.csr_matrix):
        own, real = (Marginals.of(as_stored(cells), np.array(genes)) for cells in (predicted, measured))
        assert own.distance(real) == pytest.approx(np.median(distances), rel=1e-5)
        assert own.share_off(real) == pytest.approx(np.mean(off))
        assert real.distance(real) == real.share_off(real) == 0
