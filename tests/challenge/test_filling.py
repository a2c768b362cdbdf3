"""Genes that are not predicted stay as in the control cell that each cell starts from; zeros only by name, with a warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from benchmarks.null_counts import Screen, result_of, simulated_cells
from state_engine.challenge.archive import write_archive
from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Report
from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.spec import load_challenge
from tests.challenge.conftest import Submission
from tests.challenge.test_archive import unpack

FILL = ("fill-missing-genes", "drop-extra-genes")


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Screen:
    """A result of 900 of 1,000 genes, for a challenge of all 1,000."""
    made = Screen.of(simulated_cells(300, 1_000, 5_000.0), tmp_path_factory.mktemp("filling"))
    made.genes_file.write_text("\n".join(f"G{i}" for i in range(1_000)) + "\n")
    return replace(made, spec=load_challenge(made.challenge, genes=made.genes_file))


def packed(
    source: SubmissionSource, screen: Screen, folder: Path, counts: CountsOptions, *repairs: str
) -> tuple[Report, np.ndarray]:
    report = write_archive(source, screen.spec, folder / "s.vcc", repairs=repairs, counts=counts)
    assert report.ok and report.archive is not None
    return report, unpack(Path(report.archive.path)).X.toarray()


def test_missing_genes_have_the_counts_of_the_control_cell(screen: Screen, tmp_path: Path) -> None:
    source = result_of(screen, "corrected")
    assert "fill-missing-genes" in {r.name for r in check(source, screen.spec, counts=CountsOptions()).offered}
    report, cells = packed(source, screen, tmp_path, CountsOptions(), *FILL)
    own = screen.counts[screen.basal].toarray()
    missing = np.setdiff1d(np.arange(1_000), screen.columns)
    assert own[:, missing].sum() > 1_000
    assert np.abs(cells - own).sum() <= 1e-3 * own.sum()
    assert "genes-filled" in report.codes("warning") and report.null[0].called <= 0.01 * report.null[0].genes


def test_raw_predictions_are_filled_too_and_their_library_is_of_the_other_genes(screen: Screen, tmp_path: Path) -> None:
    source = replace(result_of(screen, "corrected"), matrix="layers/raw")
    _, cells = packed(source, screen, tmp_path, CountsOptions(), *FILL)
    own = screen.counts[screen.basal].toarray()
    missing = np.setdiff1d(np.arange(1_000), screen.columns)
    np.testing.assert_array_equal(cells[:, missing], own[:, missing])
    assert cells.sum() == pytest.approx(own.sum(), rel=0.1)


def test_zeros_only_by_name_and_said(screen: Screen, tmp_path: Path) -> None:
    report, cells = packed(result_of(screen, "corrected"), screen, tmp_path, CountsOptions(), "zero-missing-genes")
    missing = np.setdiff1d(np.arange(1_000), screen.columns)
    assert not cells[:, missing].any()
    finding = next(f for f in report.findings if f.code == "genes-zero")
    assert finding.severity == "warning" and finding.title.startswith(
        "Can be packed, will score badly: 10% of the genes are zero"
    )


def test_without_the_control_cells_nothing_is_filled(screen: Screen) -> None:
    source = replace(result_of(screen, "corrected"), control_files=())
    report = check(source, screen.spec, repairs=FILL, counts=CountsOptions(library=5_000.0))
    assert {"genes-unfilled", "genes-missing"} <= report.codes("error")
    given = replace(source, donor_files=(screen.data,))
    assert check(given, screen.spec, repairs=FILL, counts=CountsOptions()).options["rounding"] == "donor"


def test_log1p_values_are_filled_at_their_own_depth(screen: Screen, tmp_path: Path) -> None:
    source = result_of(screen, "corrected")
    spec = replace(screen.spec, rules=replace(screen.spec.rules, values="log1p", controls="optional"))
    report = write_archive(source, spec, tmp_path / "s.vcc", repairs=FILL)
    assert report.ok and report.archive is not None
    own = screen.counts[screen.basal].toarray()
    wanted = np.log1p(own / own.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(unpack(Path(report.archive.path)).X.toarray(), wanted, rtol=1e-5, atol=1e-6)


def test_cells_of_any_file_are_filled_from_control_cells_of_their_context(vcc2026: Submission) -> None:
    s = vcc2026
    s.x, s.genes = s.x[:, :20], s.genes[:20]
    x = np.repeat([[1.0], [2], [3]], 4, 0).repeat(30, 1).astype(np.float32)
    obs = pd.DataFrame({"context": np.repeat(["A", "B", "C"], 4)}, [f"c{i}" for i in range(12)])
    ad.AnnData(sp.csr_matrix(x), obs, pd.DataFrame(index=[f"GENE{i}" for i in range(30)])).write_h5ad(s.folder / "c.h5ad")
    s.control_files = (s.folder / "c.h5ad",)
    report = write_archive(s.source(), s.spec(), s.folder / "s.vcc", repairs=("fill-missing-genes",))
    assert report.ok and report.archive is not None
    cells = unpack(Path(report.archive.path)).X.toarray()
    for context, value in (("A", 1), ("B", 2), ("C", 3)):
        assert (cells[s.obs.context == context][:, 20:] == value).all()
    np.testing.assert_array_equal(cells[:, :20], s.x)
