"""`submit` and `verify`: exit codes, lines and JSON; custom challenges from TOML."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.challenge.findings import Report, found
from state_engine.challenge.spec import PRESETS, ChallengeSpec, load_challenge, load_rules
from state_engine.cli.main import build_parser
from state_engine.errors import ChallengeError, ConfigError
from state_engine.progress import silent
from tests.challenge.conftest import Submission


def call(*arguments: object) -> tuple[int, list[str]]:
    words = [str(a) for a in arguments]
    options = build_parser(words[:1]).parse_args(words)
    lines: list[str] = []
    code = options.run_command(options, lambda text: lines.extend(text.split("\n")), silent)
    return code, lines


def lists(submission: Submission) -> list[object]:
    given = ["--genes", submission.gene_list, "--pert-counts", submission.target_list]
    return [*given, "--contexts", "A,B,C"] if submission.year == 2026 else given


@pytest.mark.parametrize("year", [2025, 2026])
def test_submit_and_verify(request: pytest.FixtureRequest, year: int) -> None:
    s: Submission = request.getfixturevalue(f"vcc{year}")
    output = s.folder / "s.vcc"
    code, lines = call("submit", "--challenge", f"vcc{year}", "--data", s.write(), *lists(s), "--output", output)
    assert code == 0
    assert output.is_file()
    assert any(str(output) in line and "sha256" in line for line in lines)
    if year == 2026:
        assert lines[-1] == f"vcc submit {output}"
    code, lines = call("verify", output, "--challenge", f"vcc{year}", *lists(s), "--json")
    assert code == 0
    assert json.loads("\n".join(lines))["ok"] is True


def test_submit_opens_the_archive_again_and_verifies_it(vcc2025: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is the verb: an archive that turns out wrong is reported, and the exit code is 1."""
    from state_engine.challenge import verify as verifying

    s, output, honest, seen = vcc2025, vcc2025.folder / "s.vcc", verifying.verify, []

    def damaged(archive: Path, spec: ChallengeSpec, **more: object) -> Report:
        seen.append(archive)
        report = honest(archive, spec, **more)  # type: ignore[arg-type]
        return replace(report, findings=(found("archive-damaged", "error", "Bytes are missing."), *report.findings))

    monkeypatch.setattr(verifying, "verify", damaged)
    code, lines = call("submit", "--challenge", "vcc2025", "--data", s.write(), *lists(s), "--output", output)
    assert code == 1 and seen == [output]
    assert any("Bytes are missing." in line for line in lines) and any("opened again" in line for line in lines)


def test_the_matrix_and_the_gene_column_are_part_of_the_request(vcc2025: Submission) -> None:
    s = vcc2025
    arguments = ["submit", "--challenge", "vcc2025", "--data", s.write(), *lists(s), "--dry-run"]
    assert call(*arguments, "--matrix", "X")[0] == 0
    code, lines = call(*arguments, "--matrix", "layers/none")
    assert code == 1 and any("layers/none" in line for line in lines)
    code, lines = call(*arguments, "--gene-column", "nothing")
    assert code == 1 and any("nothing" in line for line in lines)


def test_problems_are_said_with_the_repair(vcc2025: Submission) -> None:
    s, output = vcc2025, vcc2025.folder / "s.vcc"
    s.obs["target_gene"] = s.obs["target_gene"].astype(str).replace("non-targeting", "DMSO")
    arguments = ["submit", "--challenge", "vcc2025", "--data", s.write(), *lists(s), "--output", output]
    code, lines = call(*arguments)
    assert code == 1
    assert not output.exists()
    assert any("--repair rename-control" in line for line in lines)
    code, lines = call(*arguments, "--repair", "rename-control")
    assert code == 0
    assert any(line.startswith("REPAIRED") for line in lines)


def test_dry_run_writes_nothing(vcc2025: Submission) -> None:
    s, output = vcc2025, vcc2025.folder / "s.vcc"
    arguments = ["submit", "--challenge", "vcc2025", "--data", s.write(), *lists(s)]
    assert call(*arguments, "--output", output, "--dry-run")[0] == 0
    assert not output.exists()
    assert call(*arguments)[0] == 1
    s.x[3, 3] = np.nan
    s.write()
    code, lines = call(*arguments, "--dry-run", "--json")
    report = json.loads("\n".join(lines))
    assert code == 1
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] == ["values-nan"]


def test_counts_from_the_command_line(vcc2026: Submission) -> None:
    s, output = vcc2026, vcc2026.folder / "s.vcc"
    s.x = np.log1p(s.x).astype(np.float32)
    options = ["--to-counts", "stochastic", "--seed", "7", "--library", "400"]
    code, lines = call("submit", "--challenge", "vcc2026", "--data", s.write(), *lists(s), "--output", output, *options, "--json")
    assert code == 0
    asked = {"rounding": "stochastic", "asked": "stochastic", "kind": "unknown", "seed": 7, "library": 400.0, "control_files": []}
    assert json.loads("\n".join(lines))["options"] == asked


def test_a_run_folder(vcc2025: Submission) -> None:
    s = vcc2025
    s.obs = s.obs.rename(columns={"target_gene": "perturbation"})
    s.obs["kind"] = np.array(["observed control"] * 12 + ["predicted"] * 60)
    s.write().rename(s.folder / "result.h5ad")
    assert call("submit", "--challenge", "vcc2025", "--run", s.folder, *lists(s), "--dry-run")[0] == 0


def test_a_challenge_of_ones_own(vcc2025: Submission) -> None:
    """Rules and the names of the lists from one TOML file; unknown fields are errors."""
    s = vcc2025
    s.gene_list, s.target_list  # noqa: B018 - written beside the TOML file
    toml = s.folder / "mine.toml"
    text = 'name = "mine"\ntitle = "Mine"\nvalues = "log1p"\ncontrols = "optional"\nlayout = "watermark"\nmax_cells = 50\n'
    toml.write_text(text + 'gene_list = "gene_names.csv"\ntarget_list = "pert_counts.csv"\n')
    code, lines = call("submit", "--challenge", toml, "--data", s.write(), "--dry-run")
    assert code == 1
    assert any("[too-many-cells]" in line for line in lines)
    assert not any("[gene-list" in line for line in lines)
    toml.write_text(text + "max_cels = 5\n")
    with pytest.raises(ConfigError, match="max_cels"):
        load_challenge(toml)
    toml.write_text("name = ")
    with pytest.raises(ChallengeError, match="not TOML"):
        load_challenge(toml)


def test_presets() -> None:
    """The numbers of both years, as published."""
    first, second = (load_rules(name) for name in PRESETS)
    assert (first.n_genes, first.values, first.controls, first.usual_cells, first.max_value) == (
        18080,
        "log1p",
        "required",
        100_000,
        15,
    )
    assert (second.n_genes, second.values, second.controls, second.cells_per_perturbation) == (18533, "counts", "forbidden", 400)
    assert (second.max_entries, second.max_counts_per_cell) == (4_750_000_000, 1_000_000)
    assert [p.contexts for p in second.phases] == [("A", "B", "C"), ("D", "E", "F")]


def test_official_lists_of_2025(real_data: Path) -> None:
    spec = load_challenge(
        "vcc2025", genes=real_data / "vcc2025_gene_names.csv", pert_counts=real_data / "vcc2025_pert_counts_validation.csv"
    )
    assert spec.problems == ()
    assert len(spec.genes) == 18080
    assert spec.targets is not None
    assert len(spec.targets.of("") or {}) == 50
