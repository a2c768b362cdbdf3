"""What is left out of a submission on request: contexts, labels that are not asked for, surplus cells; and what a run fell back to."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.report import report_plain
from state_engine.challenge.source import source_of_run
from state_engine.challenge.spec import load_rules
from state_engine.challenge.submit import SubmissionRequest, source_of, spec_of, submit
from state_engine.cli.main import build_parser
from state_engine.cli.options import request as from_words
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from tests.challenge.conftest import Submission, log1p_values


def detail(report: object, code: str) -> str:
    return next(f.title for f in report.findings if f.code == code)  # type: ignore[attr-defined]


def test_labels_that_are_not_asked_for_are_left_out_on_request(vcc2025: Submission) -> None:
    vcc2025.target_lines = vcc2025.target_lines[:-2]  # KLF10 and KLF2 are not asked for
    source, spec = vcc2025.source(), vcc2025.spec()
    before = check(source, spec)
    assert "drop-extra-perturbations" in report_plain(before)["offered"] and not before.ok
    after = check(source, spec, repairs=("drop-extra-perturbations",))
    assert after.ok and after.n_cells == 72 - 24 and after.n_perturbations == 3
    assert detail(after, "perturbations-unknown").startswith("24 cells of 2 perturbations")


def test_the_control_is_never_taken_for_a_label_not_asked_for(vcc2025: Submission) -> None:
    vcc2025.obs["target_gene"] = vcc2025.obs["target_gene"].astype(str).replace("non-targeting", "NT")
    source, spec = vcc2025.source(), vcc2025.spec()
    assert "drop-extra-perturbations" not in report_plain(check(source, spec))["offered"]
    assert check(source, spec, repairs=("drop-extra-perturbations", "rename-control")).n_cells == 72


def test_surplus_cells_are_left_out_the_first_ones_stay(vcc2025: Submission) -> None:
    vcc2025.target_lines = [line.replace(",12,", ",5,") for line in vcc2025.target_lines]
    source, spec = vcc2025.source(), vcc2025.spec()
    assert "first-cells" in report_plain(check(source, spec))["offered"]
    report = check(source, spec, repairs=("first-cells",))
    assert report.n_cells == 12 + 5 * 5
    assert "cells-per-perturbation" not in report.codes("warning")
    from state_engine.challenge.contents import make_plan

    kept = make_plan(source, spec, ("first-cells",)).parts[0].keep
    labels = vcc2025.obs["target_gene"].to_numpy()
    assert np.nonzero(kept & (labels == "BRD4"))[0].tolist() == np.nonzero(labels == "BRD4")[0][:5].tolist()


def test_too_few_cells_offer_no_repair(vcc2025: Submission) -> None:
    vcc2025.target_lines = [line.replace(",12,", ",50,") for line in vcc2025.target_lines]
    assert "first-cells" not in report_plain(check(vcc2025.source(), vcc2025.spec()))["offered"]


def test_contexts_are_taken_by_name(vcc2026: Submission) -> None:
    vcc2026.obs["context"] = vcc2026.obs["context"].replace({"C": "K562"})
    vcc2026.contexts = ("A", "B")
    source, spec = vcc2026.source(), vcc2026.spec()
    assert not check(source, spec).ok
    report = check(replace(source, contexts=("A", "B")), spec)
    assert report.ok and report.cells == {"A": 20, "B": 20}
    wrong = check(replace(source, contexts=("A", "Z")), spec)
    assert "contexts-chosen" in wrong.codes("error")


def test_a_context_is_taken_where_the_challenge_knows_none(vcc2025: Submission) -> None:
    vcc2025.obs["line"] = np.where(np.arange(72) % 2, "H1", "K562")
    vcc2025.target_lines = [line.replace(",12,", ",6,") for line in vcc2025.target_lines]
    source = replace(vcc2025.source(), context_key="line", contexts=("H1",))
    report = check(source, vcc2025.spec())
    assert report.ok and report.n_cells == 36 and report.cells == {"": 36}


def run_result(s: Submission) -> Path:
    """The submission as the result of a run whose label KLF2 the model did not know."""
    s.obs = pd.DataFrame(
        {
            keys.PERTURBATION: s.obs["target_gene"].astype(str),
            keys.CONTEXT: "H1",
            keys.KIND: np.where(s.obs["target_gene"] == "non-targeting", keys.OBSERVED_CONTROL, keys.PREDICTED),
            keys.FALLBACK: (s.obs["target_gene"] == "KLF2").to_numpy(),
        },
        index=s.obs.index,
    )
    return s.write()


def test_fallbacks_of_a_run_are_in_the_report(vcc2025: Submission) -> None:
    source = source_of_run(run_result(vcc2025), load_rules("vcc2025"))
    report = check(source, vcc2025.spec())
    finding = next(f for f in report.findings if f.code == "fallback")
    assert report.ok and finding.severity == "warning" and finding.examples == ("KLF2",) and finding.title.startswith("12 cells")


def test_a_request_with_counts_and_contexts_survives_json_and_its_command_says_the_same(tmp_path: Path) -> None:
    counts = CountsOptions("stochastic", 3, 20000.0)
    request = SubmissionRequest(
        "vcc2026", "p.h5ad", True, genes="g.csv", contexts=("A", "B", "C"), controls=("c.h5ad",), counts=counts, write=True
    )
    assert from_plain(SubmissionRequest, to_plain(request)) == request
    options = build_parser(["submit"]).parse_args(shlex.split(command(request))[3:])
    assert from_words(SubmissionRequest, options) == request
    assert spec_of(request).contexts == ("A", "B", "C")
    assert source_of(request, load_rules("vcc2026")).contexts == ("A", "B", "C")


def test_a_2026_request_turns_log1p_into_counts(vcc2026: Submission) -> None:
    vcc2026.x = log1p_values(np.random.default_rng(2), 60)
    request = SubmissionRequest(
        "vcc2026", str(vcc2026.write()), genes=str(vcc2026.gene_list), pert_counts=str(vcc2026.target_list),
        contexts=("A", "B", "C"), counts=CountsOptions(library=5000.0), write=True,
    )  # fmt: skip
    assert spec_of(request).contexts == ("A", "B", "C")
    report = submit(request, vcc2026.folder)
    assert report.ok and report.archive is not None and report.options["rounding"] == "poisson"
    without = submit(replace(request, counts=None, write=False), vcc2026.folder)
    assert "values-fractional" in without.codes("error")
