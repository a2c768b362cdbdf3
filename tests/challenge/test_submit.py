"""A submission as a job: plain values in, reports and the archive in a folder."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.challenge.submit import ARCHIVE, REPORT, VERIFIED, SubmissionRequest, read_report, submit
from state_engine.cli.main import main
from state_engine.errors import RunError
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from tests.prediction.make_result import make_result


@pytest.fixture
def request_of_run(tmp_path: Path) -> SubmissionRequest:
    """A run whose control has another name than the challenge's, and which lacks one of the listed genes."""
    make_result(tmp_path / "result.h5ad")
    (tmp_path / "genes.csv").write_text("\n".join([*(f"G{i}" for i in range(40)), "EXTRA"]) + "\n")
    return SubmissionRequest("vcc2025", str(tmp_path / "result.h5ad"), is_run=True, genes=str(tmp_path / "genes.csv"))


def test_a_check_names_all_problems_and_writes_no_archive(request_of_run: SubmissionRequest, tmp_path: Path) -> None:
    report = submit(request_of_run, tmp_path)
    assert {"control-renamed", "genes-missing"} <= report.codes("error")
    assert {"rename-control", "fill-missing-genes"} <= {repair.name for repair in report.offered}
    assert read_report(tmp_path / REPORT) == report
    assert not (tmp_path / ARCHIVE).exists()


def test_repaired_it_is_written_and_verified(request_of_run: SubmissionRequest, tmp_path: Path) -> None:
    asked = replace(request_of_run, repairs=("rename-control", "zero-missing-genes"), write=True)
    report = submit(asked, tmp_path)
    assert report.ok and report.archive is not None
    assert report.n_cells == 2 * 2 * 30 + 2 * 50
    verified = read_report(tmp_path / VERIFIED)
    assert verified is not None and verified.ok
    assert verified.n_cells == report.n_cells and verified.archive is not None
    assert verified.archive.sha256 == report.archive.sha256


def test_measured_cells_of_a_result_are_not_packed_by_whatever_option(request_of_run: SubmissionRequest, tmp_path: Path) -> None:
    repairs = ("rename-control", "zero-missing-genes")
    as_run = submit(replace(request_of_run, repairs=repairs), tmp_path / "run")
    as_data = replace(request_of_run, is_run=False, perturbation_key="perturbation", context_key="context", repairs=repairs)
    assert submit(as_data, tmp_path / "data").n_cells == as_run.n_cells


def test_what_is_wrong_is_not_written(request_of_run: SubmissionRequest, tmp_path: Path) -> None:
    report = submit(replace(request_of_run, write=True), tmp_path)
    assert not report.ok
    assert not (tmp_path / ARCHIVE).exists() and not (tmp_path / VERIFIED).exists()


def test_it_survives_as_plain_values(request_of_run: SubmissionRequest) -> None:
    asked = replace(request_of_run, repairs=("rename-control",))
    assert from_plain(SubmissionRequest, to_plain(asked)) == asked


def test_the_command_does_the_same(request_of_run: SubmissionRequest, tmp_path: Path) -> None:
    report = submit(request_of_run, tmp_path)
    words = shlex.split(command(request_of_run))
    assert words[:3] == ["python", "-m", "state_engine"]
    assert main(words[3:]) == (0 if report.ok else 1)


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    assert read_report(tmp_path / REPORT) is None
    (tmp_path / REPORT).write_text('{"nothing": 1}')
    with pytest.raises(RunError, match="cannot be read"):
        read_report(tmp_path / REPORT)
