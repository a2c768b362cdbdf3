"""log1p to counts: means, spread, seeds, library sizes and caps."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions, ToCounts
from state_engine.errors import ChallengeError
from tests.challenge.conftest import Submission, log1p_values


def step(options: CountsOptions, n: int, size: float, cap: int = 0) -> ToCounts:
    return ToCounts(options, np.zeros(n, np.int32), (np.array([size]),), cap)


@pytest.mark.parametrize(("rounding", "variance"), [("poisson", 1.0), ("stochastic", 0.25), ("nearest", 0.0)])
def test_means_are_kept_and_spread_depends_on_the_rounding(rounding: str, variance: float) -> None:
    """2,000 equal cells: mean = library x share; variance = the mean (Poisson), at most 1/4 (stochastic), none (nearest)."""
    values = log1p_values(np.random.default_rng(0), 1)
    cells = sparse.csr_matrix(np.repeat(values, 2000, 0))
    counts = step(CountsOptions(rounding, 1), 2000, 3000).apply(cells, 0).toarray()  # type: ignore[arg-type]
    wanted = np.expm1(values[0]) / np.expm1(values[0]).sum() * 3000
    assert (counts == np.trunc(counts)).all()
    assert np.abs(counts.mean(0) - wanted).max() < (0.51 if rounding == "nearest" else 1.5)
    spread = counts.var(0)
    assert spread.max() <= (1.2 * wanted.max() if rounding == "poisson" else variance + 0.01)
    if rounding == "poisson":
        assert np.median(spread[wanted > 1] / wanted[wanted > 1]) == pytest.approx(1, abs=0.05)


def test_blocks_change_nothing() -> None:
    cells = sparse.csr_matrix(log1p_values(np.random.default_rng(0), 40))
    change = step(CountsOptions(seed=5), 40, 800)
    whole = change.apply(cells, 0).toarray()
    parts = np.vstack([change.apply(cells[:7], 0).toarray(), change.apply(cells[7:], 7).toarray()])
    np.testing.assert_array_equal(whole, parts)
    assert (step(CountsOptions(seed=6), 40, 800).apply(cells, 0).toarray() != whole).any()


def test_cap_and_empty_cells() -> None:
    cells = sparse.csr_matrix(np.vstack([log1p_values(np.random.default_rng(0), 5), np.zeros((1, 30), np.float32)]))
    counts = step(CountsOptions(), 6, 5000, cap=4000).apply(cells, 0)
    totals = np.asarray(counts.sum(1)).ravel()
    assert (totals[:5] <= 4000).all()
    assert (totals[:5] > 3900).all()
    assert totals[5] == 0
    assert (counts.data > 0).all()


def test_bad_values_do_not_stop_the_step() -> None:
    cells = sparse.csr_matrix(np.array([[np.nan, np.inf, -1, 2, 3]], np.float32))
    counts = step(CountsOptions(rounding="nearest"), 1, 100).apply(cells, 0).toarray()
    assert counts[0, :3].sum() == 0
    assert counts.sum() == 100


def controls(folder: Path, name: str, x: np.ndarray, contexts: list[str] | None, labels: list[str] | None) -> Path:
    obs = pd.DataFrame(index=[str(i) for i in range(len(x))])
    if contexts:
        obs["context"] = contexts
    if labels:
        obs["target_gene"] = labels
    path = folder / name
    ad.AnnData(sparse.csr_matrix(x), obs=obs).write_h5ad(path)
    return path


def test_library_sizes_come_from_the_controls_of_the_context(vcc2026: Submission) -> None:
    """Contexts get sizes near 300, 900 and 2,700; perturbed cells of the control file are not used."""
    s = vcc2026
    s.x = np.log1p(s.x).astype(np.float32)
    x = np.repeat([[30.0], [90], [270], [9999]], 4, 0).repeat(10, 1)
    labels = ["non-targeting"] * 12 + ["ADNP"] * 4
    s.control_files = (controls(s.folder, "c.h5ad", x, ["A"] * 4 + ["B"] * 4 + ["C"] * 4 + ["A"] * 4, labels),)
    from state_engine.challenge.contents import make_plan

    plan = make_plan(s.source(), s.spec(), counts=CountsOptions(rounding="nearest"))
    assert isinstance(plan.change, ToCounts)
    counts = plan.change.apply(sparse.csr_matrix(s.x), 0)
    totals = np.asarray(counts.sum(1)).ravel()
    for context, size in (("A", 300), ("B", 900), ("C", 2700)):
        np.testing.assert_allclose(totals[s.obs.context == context], size, rtol=0.05)
    assert check(s.source(), s.spec(), counts=CountsOptions()).ok


def test_controls_that_do_not_serve_are_findings(vcc2026: Submission) -> None:
    s = vcc2026
    s.x = np.log1p(s.x).astype(np.float32)
    assert "libraries-missing" in check(s.source(), s.spec(), counts=CountsOptions()).codes("error")
    whole = np.ones((4, 5), np.float32)
    cases = (
        (controls(s.folder, "logged.h5ad", whole / 3, ["A", "A", "B", "C"], None), "controls-not-counts"),
        (controls(s.folder, "one.h5ad", whole, ["A"] * 4, None), "libraries-missing"),
        (controls(s.folder, "none.h5ad", whole, None, None), "libraries-missing"),
        (s.folder / "absent.h5ad", "controls-unreadable"),
    )
    for path, code in cases:
        s.control_files = (path,)
        assert code in check(s.source(), s.spec(), counts=CountsOptions()).codes("error")


def test_counts_of_counts_are_refused(vcc2026: Submission) -> None:
    assert "values-counts" in check(vcc2026.source(), vcc2026.spec(), counts=CountsOptions(library=100)).codes("error")


@pytest.mark.parametrize("options", [{"rounding": "up"}, {"seed": -1}, {"library": 0.0}, {"library": float("nan")}])
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ChallengeError):
        CountsOptions(**options)  # type: ignore[arg-type]
