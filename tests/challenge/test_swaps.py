"""Contexts in each other's place are found by the control cells that they are most like."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions
from tests.challenge.conftest import Submission


def contexts_of_their_own(s: Submission) -> None:
    """Cells of each context with a profile of its own, and control cells that have it too."""
    rng = np.random.default_rng(3)
    rate = {context: rng.gamma(2, 4, 30) for context in "ABC"}
    s.x = np.vstack([rng.poisson(rate[c]) for c in s.obs["context"]]).astype(np.float32)
    x = np.vstack([rng.poisson(rate[c], (30, 30)) for c in "ABC"]).astype(np.float32)
    obs = pd.DataFrame({"context": np.repeat(["A", "B", "C"], 30)}, [f"c{i}" for i in range(90)])
    # genes in another order than in the submission
    ad.AnnData(sp.csr_matrix(x[:, ::-1]), obs, pd.DataFrame(index=s.genes[::-1])).write_h5ad(s.folder / "controls.h5ad")
    s.control_files = (s.folder / "controls.h5ad",)


def test_each_context_is_most_like_its_own_controls(vcc2026: Submission) -> None:
    contexts_of_their_own(vcc2026)
    report = check(vcc2026.source(), vcc2026.spec())
    assert report.ok and [f.best for f in report.fits] == ["A", "B", "C"] and all(f.r > 0.9 for f in report.fits)
    assert "contexts-fit" in report.codes("note")


def test_swapped_contexts_are_told(vcc2026: Submission) -> None:
    contexts_of_their_own(vcc2026)
    swapped = {"A": "B", "B": "A", "C": "C"}
    vcc2026.obs["context"] = [swapped[c] for c in vcc2026.obs["context"]]
    report = check(vcc2026.source(), vcc2026.spec())
    finding = next(f for f in report.findings if f.code == "contexts-swapped")
    assert finding.severity == "warning" and finding.title.startswith("2 contexts")
    assert [(f.context, f.best) for f in report.fits] == [("A", "B"), ("B", "A"), ("C", "C")]
    assert report.ok  # for the packer nothing is wrong


def test_also_of_values_that_become_counts(vcc2026: Submission) -> None:
    contexts_of_their_own(vcc2026)
    vcc2026.x = np.log1p(vcc2026.x / vcc2026.x.sum(1, keepdims=True) * 1e4).astype(np.float32)
    report = check(vcc2026.source(), vcc2026.spec(), counts=CountsOptions("stochastic"))
    assert [f.best for f in report.fits] == ["A", "B", "C"]


def test_without_control_cells_nothing_is_said(vcc2026: Submission) -> None:
    report = check(vcc2026.source(), vcc2026.spec())
    assert not report.fits and not {"contexts-fit", "contexts-swapped"} & report.codes()
