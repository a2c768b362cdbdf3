"""The one function that computes metrics: by hand, nothing of the caller changed, what does not exist left out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.errors import ChallengeError
from state_engine.metrics import engine
from state_engine.metrics.own import MeanCells, cosine
from state_engine.metrics.profile import Metric, Profile, mean_of, scaled
from state_engine.metrics.profiles import HOUSE
from tests.evaluation.screens import CONTROL, GENES, PERTURBATIONS, log1p, screen

MAE = Profile((Metric("expr_mae", "MAE", False, "", on="means", weight=2.0), Metric("pds_l1", "PDS", True, "", needs_two=True)))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def means(cells: ad.AnnData) -> dict[str, np.ndarray]:
    labels = cells.obs["target_gene"].to_numpy(str)
    return {name: np.asarray(cells.X[labels == name].mean(axis=0)).ravel() for name in np.unique(labels)}


def test_a_metric_by_hand_and_nothing_is_changed() -> None:
    predicted, measured = log1p(screen(2, 0.6)), log1p(screen(1))
    before = predicted.X.copy(), measured.X.copy()
    found = engine.compute(MAE, predicted, measured, CONTROL)
    p, t = means(predicted), means(measured)
    for label in PERTURBATIONS:
        assert found.values["expr_mae"][label] == pytest.approx(np.abs(p[label] - t[label]).mean(), rel=1e-5)
    assert found.means["expr_mae"] == pytest.approx(np.mean(list(found.values["expr_mae"].values())))
    for cells, x in zip((predicted, measured), before, strict=True):
        assert (x != cells.X).nnz == 0


def test_what_does_not_exist_is_left_out() -> None:
    flat, real = np.full(len(GENES), 1.0), np.linspace(0, 2, len(GENES))
    control = np.full(len(GENES), 0.5)
    profile = HOUSE["minimal"]
    both = MeanCells({"G1": flat}, {"G1": real, "G2": real + 1}, (control, control), GENES)
    found = engine.compute_on_means(profile, both, CONTROL, "real")
    assert set(found["expr_mae"]) == {"G1"} and found["delta_pearson"] == {}  # G2 is not predicted, the effect is flat
    assert found["delta_cosine"]["G1"] == pytest.approx(cosine(flat - control, real - control))
    alone = engine.compute_on_means(profile, MeanCells({"G1": real}, {"G1": real}, (control, control), GENES), CONTROL, "real")
    assert "pds_l1" not in alone and alone["delta_pearson"]["G1"] == pytest.approx(1)
    assert np.isnan(cosine(control, np.zeros(len(GENES))))
    assert found["weighted_mse"] == {}  # nothing to hold it against


def test_a_refusal_is_a_sentence() -> None:
    counts = Profile(MAE.metrics, values="counts")
    with pytest.raises(ChallengeError, match="cannot be scored"):
        engine.compute(counts, log1p(screen(2)), log1p(screen(1)), CONTROL)
    few = ad.AnnData(sp.csr_matrix(screen(1).X[:2]), obs=screen(1).obs[:2], var=screen(1).var)
    with pytest.raises(ChallengeError, match="no replicate"):
        engine.replicate(counts, few, CONTROL)


def test_scores_by_hand() -> None:
    assert scaled(0.75, 0.5, True) == 0.5 and scaled(0.01, 0.04, False) == 0.75 and scaled(0.1, 0.0, False) is None
    assert MAE.overall([0.5, -1.0]) == pytest.approx((2 * 0.5 - 1.0) / 3) and MAE.overall([0.5]) is None
    assert mean_of([1.0, -0.5]) == 0.25 and mean_of([1.0, None]) is None
    between = engine.score_between("de_wilcoxon_sig_recall", 0.7, 0.5, 0.9)
    assert between == pytest.approx(0.5) and engine.score_between("de_wilcoxon_sig_recall", 0.7, 0.9, 0.5) is None
    assert engine.score_between("de_wilcoxon_lfc_nmae", 0.6, 1.0, 0.2) == pytest.approx(0.5)


def test_the_engine_gets_the_cells_themselves_and_cannot_write_them() -> None:
    for x in (sp.csr_matrix(np.eye(4, dtype=np.float32)), np.eye(4, dtype=np.float32)):
        cells = engine._cells(x, ["a", "b", "c", "control"], ("G1", "G2", "G3", "G4"))
        locked = engine._locked(cells)
        mine, theirs = (part.data if sp.issparse(part) else part for part in (cells.X, locked.X))
        assert np.shares_memory(mine, theirs) and mine.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            theirs[0] = 2
