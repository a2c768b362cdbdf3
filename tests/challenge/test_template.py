"""From a template to a prediction and a submission: numbers of cells, contexts, perturbations the model does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Replacement
from state_engine.challenge.report import report_lines
from state_engine.challenge.spec import ChallengeSpec, load_challenge
from state_engine.challenge.submit import REPORT, read_report, spec_of, submit
from state_engine.challenge.template import TemplatePlan, TemplateRequest, plan_from_template, plan_lines, write_targets
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.data.dataset import open_dataset
from state_engine.prediction.predict import predict
from tests.prediction.test_screens import write_screen
from tests.small import GENES, write_model


def write_template(path: Path, labels: dict[str, int], contexts: tuple[str, ...] = ("A",), log1p: bool = True) -> Path:
    """Cells of these labels in each context; X is log1p of depth 10,000, or counts."""
    rng = np.random.default_rng(0)
    target = np.tile(np.repeat(list(labels), list(labels.values())), len(contexts))
    where = np.repeat(contexts, sum(labels.values()))
    counts = rng.poisson(rng.gamma(2, 3, len(GENES)), (len(target), len(GENES))).astype(np.float32)
    x = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4) if log1p else counts
    obs = pd.DataFrame({"target_gene": target, "context": where}, index=[f"c{i}" for i in range(len(target))]).astype("category")
    ad.AnnData(sp.csr_matrix(x.astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(GENES))).write_h5ad(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def genes(tmp_path: Path) -> Path:
    path = tmp_path / "gene_names.csv"
    path.write_text("".join(f"{g}\n" for g in GENES))
    return path


def plan(request: TemplateRequest) -> tuple[TemplatePlan, ChallengeSpec]:
    lists = {name: Path(p) if p else None for name, p in (("genes", request.genes), ("pert_counts", request.pert_counts))}
    spec = load_challenge(request.challenge, **lists)  # type: ignore[arg-type]
    card: ModelCard = read_card(Path(request.model))
    return plan_from_template(request, open_dataset(Path(request.data), request.choices), card, spec), spec


def test_a_template_says_which_and_how_many(tmp_path: Path, model: Path, genes: Path) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "IFNB1": 12, "TNF": 7})
    made, spec = plan(TemplateRequest("vcc2025", str(data), str(model), genes=str(genes)))
    assert made.required == {"": {"IFNB1": 12, "TNF": 7}} and made.cells == 19 and not made.findings
    assert made.prediction is not None
    assert made.prediction.cells == 12 and made.prediction.perturbations == ("IFNB1", "TNF") and made.prediction.observed == 0
    text = write_targets(tmp_path / "pert_counts.csv", made, spec).read_text().split()
    assert text == ["target_gene,n_cells", "IFNB1,12", "TNF,7"]


def test_from_template_to_a_submission_with_exact_numbers(tmp_path: Path, model: Path, genes: Path) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "IFNB1": 12, "TNF": 7})
    made, spec = plan(TemplateRequest("vcc2025", str(data), str(model), genes=str(genes)))
    assert made.prediction is not None
    predict(made.prediction, tmp_path / "result.h5ad")
    targets = write_targets(tmp_path / "pert_counts.csv", made, spec)
    asked = replace(made.submission, source=str(tmp_path / "result.h5ad"), pert_counts=str(targets), write=True)
    report = submit(asked, tmp_path)
    assert report.ok and report.archive is not None and not report.codes("warning") & {"cells-per-perturbation"}
    assert report.n_cells == 12 + 7 + 30  # all controls of the template, not only the basal cells


def test_numbers_from_a_list_beat_the_labels_of_the_file(tmp_path: Path, model: Path) -> None:
    data = write_template(tmp_path / "controls.h5ad", {"non-targeting": 30})
    wanted = tmp_path / "pert_counts.csv"
    wanted.write_text("target_gene,n_cells,median_umi_per_cell\nTNF,40,9\nIFNB1,3,9\nnon-targeting,100,9\n")
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model), pert_counts=str(wanted)))
    assert made.required == {"": {"TNF": 40, "IFNB1": 3}}
    assert made.prediction is not None and made.prediction.cells == 40  # more than there are controls: drawn again


@pytest.mark.parametrize(("unknown", "severity"), [("refuse", "error"), ("mean", "warning"), ("no change", "warning")])
def test_what_the_model_does_not_know(tmp_path: Path, model: Path, unknown: str, severity: str) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "IFNB1": 12, "NEW": 5})
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model), unknown=unknown))  # type: ignore[arg-type]
    assert made.unknown == ("NEW",) and [f.severity for f in made.findings] == [severity]
    assert (made.prediction is None) == (severity == "error")
    assert plan_lines(made)[0] == "The model knows 1 of 2 targets."
    if made.prediction:
        wanted = "mean" if unknown == "mean" else "control"
        assert made.prediction.allow_unknown and made.prediction.unknown_effect == wanted


@pytest.mark.parametrize("unknown", ["mean", "no change"])
def test_a_model_that_knows_none_of_the_targets(tmp_path: Path, model: Path, genes: Path, unknown: str) -> None:
    """The mean is that of the model's own perturbations, which do not go in; the manifest and the report say what was written."""
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "NEW": 5})
    made, spec = plan(TemplateRequest("vcc2025", str(data), str(model), genes=str(genes), unknown=unknown))  # type: ignore[arg-type]
    assert made.findings[0].title == "The model knows 0 of 1 targets." and made.prediction is not None
    predict(made.prediction, tmp_path / "result.h5ad")
    result = ad.read_h5ad(tmp_path / "result.h5ad")
    new = (result.obs["perturbation"] == "NEW").to_numpy()
    control = (result.obs["kind"] == "predicted control").to_numpy()
    moved = np.abs(result.X[new] - result.X[control][: new.sum()]).max()
    assert (moved > 1e-3) == (unknown == "mean")
    targets = write_targets(tmp_path / "pert_counts.csv", made, spec)
    report = submit(
        replace(made.submission, source=str(tmp_path / "result.h5ad"), pert_counts=str(targets), write=True), tmp_path
    )
    assert report.ok and report.n_perturbations == 1
    first = report.findings[0]
    assert first.code == "targets-known" and first.title == "The model knows 0 of 1 targets."
    assert ("mean effect" if unknown == "mean" else "no change") in first.detail


def test_measured_effects_are_transferred_to_targets_that_the_model_does_not_know(
    tmp_path: Path, model: Path, genes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: said first, predicted, packed, and the report names what was written instead, and where from."""
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "NEW": 5, "NOWHERE": 4})
    screen = write_screen(tmp_path / "screen.h5ad", GENES[:12])
    words = ["template", "--challenge", "vcc2025", "--data", str(data), "--model", str(model), "--genes", str(genes)]
    assert main([*words, "--dry-run", "--unknown", "transfer"]) == 1
    assert "Choose the screens that measured the others" in capsys.readouterr().out
    words += ["--unknown", "transfer", "--measured", str(screen), "gene", "cell_line", "NT"]
    assert main([*words, "--output", str(tmp_path / "result.h5ad"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "The model knows 0 of 2 targets."
    assert "1 of the other 2 was measured in screen.h5ad: it gets the transfer of that effect; 1 gets no change" in " ".join(said)
    counts = tmp_path / "result.pert_counts.csv"
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model), genes=str(genes), unknown="no change"))
    asked = replace(made.submission, source=str(tmp_path / "result.h5ad"), pert_counts=str(counts), write=True)
    report = submit(asked, tmp_path)
    assert report.ok and report.replacement == Replacement(0, 2, "transfer", ("screen.h5ad",), 1, ("NOWHERE",), 12, 24)
    first = report.findings[0]
    assert first.code == "targets-known" and first.title == "The model knows 0 of 2 targets."
    assert "1 has the transfer of its effects measured in screen.h5ad; 12 of 24 predicted genes are shared" in first.detail
    assert "1 was measured in none of these: no change (NOWHERE)" in first.detail
    assert read_report(tmp_path / REPORT) == report
    assert "The model knows 0 of 2 targets." in "\n".join(report_lines(report, spec_of(asked)))


def test_contexts_of_2026_and_counts_from_their_controls(tmp_path: Path, model: Path) -> None:
    data = write_template(tmp_path / "controls.h5ad", {"non-targeting": 30}, ("A", "B", "C"), log1p=False)
    wanted, names = tmp_path / "pert_counts.csv", tmp_path / "gene_names.csv"
    wanted.write_text("target_gene,n_cells\nTNF,9\nIFNB1,9\n")
    names.write_text("gene_name\n" + "".join(f"{g}\n" for g in GENES))
    request = TemplateRequest("vcc2026", str(data), str(model), str(names), str(wanted), counts=CountsOptions("stochastic", 1))
    made, _ = plan(request)
    assert made.prediction is not None and made.prediction.contexts == ("A", "B", "C") and made.cells == 54
    predict(made.prediction, tmp_path / "result.h5ad")
    report = submit(replace(made.submission, source=str(tmp_path / "result.h5ad"), write=True), tmp_path)
    assert report.ok and report.cells == {"A": 18, "B": 18, "C": 18} and report.options["rounding"] == "stochastic"


def test_contexts_without_controls_and_a_choice_to_make(tmp_path: Path, model: Path) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 10, "TNF": 4}, ("A", "B"))
    made, _ = plan(TemplateRequest("vcc2026", str(data), str(model), contexts=("A", "C")))
    assert [f.code for f in made.findings] == ["template-contexts"] and made.findings[0].examples == ("C",)
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model)))
    assert [f.code for f in made.findings] == ["template-context-choice"]
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model), contexts=("B",)))
    assert made.prediction is not None and made.prediction.contexts == ("B",)


def test_a_template_without_perturbations_says_so(tmp_path: Path, model: Path) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 10})
    made, _ = plan(TemplateRequest("vcc2025", str(data), str(model)))
    assert made.prediction is None and "template-empty" in [f.code for f in made.findings]


def test_the_command_predicts_and_says_how_to_submit(
    tmp_path: Path, model: Path, genes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "IFNB1": 12, "TNF": 7})
    command = ["template", "--challenge", "vcc2025", "--data", str(data), "--model", str(model), "--genes", str(genes)]
    assert main([*command, "--dry-run"]) == 0
    assert "2 perturbations, 19 cells" in capsys.readouterr().out
    output = tmp_path / "predicted.h5ad"
    assert main([*command, "--output", str(output), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert said.startswith("python -m state_engine submit") and output.exists()
    import shlex

    words = shlex.split(said)[3:]
    words[words.index("--output") + 1] = str(tmp_path / "mine.vcc")
    assert main(words) == 0 and (tmp_path / "mine.vcc").exists()


def test_the_command_refuses_with_exit_code_1(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_template(tmp_path / "t.h5ad", {"non-targeting": 30, "NEW": 5})
    assert main(["template", "--challenge", "vcc2025", "--data", str(data), "--model", str(model), "--dry-run"]) == 1
    assert "The model knows 0 of 1 targets." in capsys.readouterr().out
