"""Effect zero through the steps of a submission gives control cells: by the kind of prediction, on real and simulated cells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from benchmarks.null_counts import KINDS, Screen, pbmc_cells, result_of, simulated_cells
from state_engine.challenge.archive import write_archive
from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions, OnDonors, moved_counts, step_of
from state_engine.challenge.findings import Report
from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.submit import SubmissionRequest, submit
from tests.challenge.test_archive import unpack

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "pbmc3k.h5ad"


@pytest.fixture(scope="module", params=["simulated", "pbmc3k"])
def screen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Screen:
    if request.param == "pbmc3k" and not DATA.exists():
        pytest.skip("../shared/data/pbmc3k.h5ad is not there")
    counts = simulated_cells(800, 3_000) if request.param == "simulated" else pbmc_cells(DATA)
    return Screen.of(counts, tmp_path_factory.mktemp(request.param))


def checked(screen: Screen, kind: str, rounding: str = "auto") -> Report:
    source = result_of(screen, kind)
    return check(source, screen.spec, counts=CountsOptions(rounding))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_effect_zero_calls_at_most_one_gene_in_a_hundred(screen: Screen, kind: str) -> None:
    report = checked(screen, kind)
    assert report.ok and report.options["kind"] == kind and report.options["rounding"] == "donor"
    (null,) = report.null
    assert null.genes > 900 and null.cells >= 200 and null.controls >= 200
    assert null.called <= 0.01 * null.genes
    assert "null-check" in report.codes("note")


def test_poisson_on_control_cells_is_found_out(screen: Screen) -> None:
    report = checked(screen, "corrected", "poisson")
    (null,) = report.null
    assert null.called > 0.03 * null.genes
    assert "null-check" in report.codes("warning")


def test_cells_without_an_effect_keep_their_counts(screen: Screen, tmp_path: Path) -> None:
    source = result_of(screen, "corrected")
    report = write_archive(source, screen.spec, tmp_path / "s.vcc", counts=CountsOptions())
    assert report.archive is not None
    cells = unpack(Path(report.archive.path)).X
    wanted = screen.counts[screen.basal][:, screen.columns]
    assert abs(cells - wanted).sum() <= 1e-3 * wanted.sum()
    assert report.null[0].of == "predicted control cells"


def test_the_kind_is_a_field_of_the_file_and_raw_predictions_are_drawn(screen: Screen) -> None:
    source = result_of(screen, "corrected")
    raw = check(replace(source, matrix="layers/raw"), screen.spec, counts=CountsOptions())
    assert (raw.options["kind"], raw.options["rounding"]) == ("raw", "poisson")
    old = result_of(screen, "corrected", {"request": {}, "method": "no change", "depth": 1e4})
    assert check(old, screen.spec, counts=CountsOptions()).options["kind"] == "baseline"
    nothing = result_of(screen, "corrected", {})
    report = check(nothing, screen.spec, counts=CountsOptions())
    assert report.options["kind"] == "unknown" and "kind-unknown" in report.codes("warning")


def test_without_the_data_set_cells_are_rounded_at_random(screen: Screen, tmp_path: Path) -> None:
    """Control cells in another order are not those that the rows of the result name."""
    other = tmp_path / "other.h5ad"
    cells = ad.read_h5ad(screen.data)
    cells[np.arange(cells.n_obs)[::-1]].copy().write_h5ad(other)
    report = check(replace(result_of(screen, "corrected"), control_files=(other,)), screen.spec, counts=CountsOptions())
    assert report.options["rounding"] == "stochastic"
    assert report.null[0].called <= 0.01 * report.null[0].genes


def test_a_run_becomes_counts_without_being_asked(screen: Screen, tmp_path: Path) -> None:
    source = result_of(screen, "corrected")
    request = SubmissionRequest(
        str(screen.challenge), str(source.path), is_run=True, genes=str(screen.genes_file), controls=(str(screen.data),)
    )
    report = submit(request, tmp_path / "job")
    assert report.options["rounding"] == "donor" and report.null
    kept = json.loads((tmp_path / "job" / "report.json").read_text())
    assert kept["null"][0]["genes"] == report.null[0].genes and kept["options"]["kind"] == "corrected"


def test_a_file_of_anybody_is_checked_with_control_cells(tmp_path: Path) -> None:
    screen = Screen.of(simulated_cells(800, 2_000), tmp_path)
    cells = ad.AnnData(
        sp.csr_matrix(np.log1p(screen.counts[:60, screen.columns].toarray() * (1e4 / 20_000))),
        pd.DataFrame({"target_gene": ["G1"] * 60}, pd.RangeIndex(60).astype(str)),
        pd.DataFrame(index=list(screen.spec.genes)),
    )
    cells.write_h5ad(tmp_path / "anybody.h5ad")
    source = SubmissionSource(tmp_path / "anybody.h5ad", control_files=(screen.data,))
    report = check(source, screen.spec, counts=CountsOptions("poisson"))
    assert report.null[0].of == "control cells" and "null-check" in report.codes("warning")
    good = check(source, screen.spec, counts=CountsOptions("stochastic"))
    assert good.null[0].called <= 0.01 * good.null[0].genes
    bare = check(replace(source, control_files=()), screen.spec, counts=CountsOptions(library=2000.0))
    assert not bare.null and "null-unchecked" in bare.codes("note")


def test_blocks_change_nothing_and_depth_is_that_of_the_control_cell(screen: Screen) -> None:
    from state_engine.challenge.contents import make_plan

    plan = make_plan(result_of(screen, "corrected"), screen.spec, counts=CountsOptions(seed=3))
    assert isinstance(plan.change, OnDonors)
    cells = sp.csr_matrix(np.vstack([part.toarray() for part, _ in plan.blocks()])[:40]).astype(np.float64)
    cells.data += 0.4  # every gene that is there goes up by half
    whole = plan.change.apply(cells, 0)
    parts = sp.vstack([plan.change.apply(cells[:7], 0), plan.change.apply(cells[7:], 7)])
    assert (whole != parts).nnz == 0
    own = np.asarray(screen.counts[screen.basal[:40]][:, screen.columns].sum(axis=1)).ravel()
    np.testing.assert_allclose(np.asarray(whole.sum(axis=1)).ravel(), own, rtol=0.1)


def test_what_is_added_is_drawn_and_what_is_removed_is_thinned() -> None:
    rng = np.random.default_rng(0)
    own = np.array([40.0, 40, 0, 1000])
    rates = np.array([80.0, 10, 5, 1000])
    drawn = np.array([moved_counts(own, rates, rng) for _ in range(4000)])
    wanted = rates * own.sum() / rates.sum()
    np.testing.assert_allclose(drawn.mean(0), wanted, rtol=0.03)
    # Poisson of the 39 that are added, binomial of 40, Poisson of all
    variance = [wanted[0] - 40, 40 * (wanted[1] / 40) * (1 - wanted[1] / 40), wanted[2]]
    np.testing.assert_allclose(drawn.var(0)[:3], variance, rtol=0.1)
    assert moved_counts(own, own, rng).tolist() == own.tolist()


def test_steps_by_kind() -> None:
    assert step_of("auto", "corrected", True) == step_of("auto", "mixture", True) == "donor"
    assert step_of("auto", "baseline", False) == "stochastic"
    assert step_of("auto", "raw", True) == step_of("auto", "unknown", True) == "poisson"
    assert step_of("nearest", "corrected", True) == "nearest"
