"""Scores of a challenge: arithmetic by hand, metrics by hand, traps, and beside cell-eval itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.challenge.context_numbers import mean_of_perturbations
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.receipts import read_receipts, receipt_lines
from state_engine.challenge.score import score
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.scores import MetricScore, Scores, overall_words, read_scores, score_lines
from state_engine.challenge.spec import load_rules
from state_engine.challenge.submit import SubmissionRequest, submit
from state_engine.cli.main import main
from state_engine.errors import ChallengeError, ScaleError
from state_engine.metrics.profile import mean_of, scaled
from state_engine.plain import from_plain, to_plain
from tests.evaluation.screens import CONTROL, GENES, PERTURBATIONS, log1p, screen, without_controls, write

ROOT = Path(__file__).resolve().parents[2]
VCC2025, VCC2026 = (load_rules(name).profile for name in ("vcc2025", "vcc2026"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def request_2025(folder: Path, predicted: ad.AnnData, measured: ad.AnnData, **changes: object) -> ScoreRequest:
    submission = SubmissionRequest("vcc2025", write(predicted, folder / "p.h5ad"))
    return replace(ScoreRequest(submission, write(measured, folder / "t.h5ad")), **changes)  # type: ignore[arg-type]


def by_name(scores: Scores) -> dict[str, MetricScore]:
    return {m.metric: m for m in scores.contexts[0].metrics}


# ---- arithmetic ----


def published(des: float, pds: float, mae: float) -> float:
    """Overall against the public mean baseline, itself rounded: DES 0.106, PDS 0.514, MAE 0.027."""
    overall = VCC2025.overall((scaled(des, 0.106, True), scaled(pds, 0.514, True), scaled(mae, 0.027, False)))
    assert overall is not None
    return overall


def test_the_published_example() -> None:
    """DES 0.18, PDS 0.56, MAE 0.036 were published with 5.79: within what the rounding of the metrics leaves open."""
    assert published(0.18, 0.56, 0.036) == pytest.approx(5.914, abs=0.001)
    assert published(0.175, 0.555, 0.0355) < 5.79 < published(0.185, 0.565, 0.0365)
    assert published(0.18, 0.56, 0.5) == published(0.18, 0.56, 0.036)  # an MAE worse than the baseline's counts as none


def test_scaled_by_hand() -> None:
    assert scaled(0.75, 0.5, True) == 0.5 and scaled(0.5, 0.5, True) == 0.0 and scaled(0.25, 0.5, True) == -0.5
    assert scaled(0.01, 0.04, False) == 0.75 and scaled(0.08, 0.04, False) == -1.0
    assert scaled(0.9, 1.0, True) is None and scaled(0.1, 0.0, False) is None
    assert VCC2025.overall([0.5, -3.0, 0.25]) == pytest.approx(25.0)
    assert VCC2025.overall([0.5, None, 0.5]) is None and VCC2025.overall([]) is None
    assert mean_of([1.0, -0.5]) == 0.25 and mean_of([1.0, None]) is None and mean_of([]) is None


def test_2026_is_never_a_percentage() -> None:
    scores = Scores("vcc2026", "p", "t", (), -0.4, 10, "cell-eval2 0.20.0")
    assert "%" not in overall_words(scores) and "-0.400" in overall_words(scores)
    assert "No overall score" in overall_words(replace(scores, overall=None))


# ---- 2025 ----


def test_metrics_of_2025_by_hand(tmp_path: Path) -> None:
    predicted, measured = log1p(screen(2, 0.6)), log1p(screen(1))
    found = by_name(score(request_2025(tmp_path, predicted, measured), tmp_path))

    def means(cells: ad.AnnData) -> pd.DataFrame:
        return (
            pd.DataFrame(cells.X.toarray().astype(np.float64), columns=list(GENES))
            .groupby(cells.obs["target_gene"].to_numpy(str))
            .mean()
        )

    p, t = means(predicted), means(measured)
    mae = np.mean([np.abs(p.loc[x] - t.loc[x]).mean() for x in PERTURBATIONS])
    assert found["mae"].value == pytest.approx(mae, rel=1e-5)
    ranks = []
    for x in PERTURBATIONS:
        kept = [g for g in GENES if g != x]
        distance = {y: np.abs((p.loc[x] - p.loc[CONTROL] - t.loc[y] + t.loc[CONTROL])[kept]).sum() for y in PERTURBATIONS}
        ranks.append(1 - sorted(distance, key=distance.__getitem__).index(x) / len(PERTURBATIONS))
    assert found["discrimination_score_l1"].value == pytest.approx(np.mean(ranks))
    mean = t.mean()
    assert found["mae"].baseline == pytest.approx(np.mean([np.abs(mean - t.loc[x]).mean() for x in PERTURBATIONS]), rel=1e-5)
    assert found["mae"].scaled == pytest.approx(1 - found["mae"].value / found["mae"].baseline)  # type: ignore[operator]
    assert 0 < (found["overlap_at_N"].value or 0) < 1


def test_what_is_kept_and_said_beside_the_numbers(tmp_path: Path) -> None:
    made = score(request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1))), tmp_path)
    assert read_scores(tmp_path / "scores.json") == made and from_plain(Scores, to_plain(made)) == made
    table = pd.read_csv(tmp_path / "scores.csv")
    assert set(table.perturbation) == set(PERTURBATIONS) and set(table.metric) == {m.name for m in VCC2025.metrics}
    text = "\n".join(score_lines(made))
    for words in ("cell-eval2 0.20", "of the submission", "illico 0.6.0", "within each perturbation", "of 100"):
        assert words in text
    assert made.versions["pdex"] and made.n_genes == len(GENES)
    assert read_scores(tmp_path / "none.json") is None


def test_a_perfect_prediction_and_the_mean_itself(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    perfect = score(request_2025(tmp_path, measured.copy(), measured), tmp_path)
    assert perfect.overall == pytest.approx(100.0)
    mean = measured.copy()
    rows = (mean.obs["target_gene"] != CONTROL).to_numpy()
    dense = mean.X.toarray()
    dense[rows] = mean_of_perturbations(measured)
    mean.X = dense
    scaled = [m.scaled for m in score(request_2025(tmp_path, mean, measured), tmp_path).contexts[0].metrics]
    assert scaled == pytest.approx([0.0, 0.0, 0.0], abs=1e-4)


def test_nothing_of_the_caller_is_changed_and_counts_are_normalised_on_the_way(tmp_path: Path) -> None:
    request = request_2025(tmp_path, log1p(screen(2, 0.6)), screen(1))
    before = Path(request.truth).read_bytes()
    from_counts = score(request, tmp_path)
    assert Path(request.truth).read_bytes() == before
    from_log1p = score(request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1))), tmp_path)
    assert from_counts.overall == pytest.approx(from_log1p.overall, rel=1e-5)


def test_another_depth_is_remarked_on(tmp_path: Path) -> None:
    made = score(request_2025(tmp_path, log1p(screen(2, 0.6), 5e4), log1p(screen(1))), tmp_path)
    assert any("different scales" in r for r in made.remarks)


def test_training_data_make_the_baseline(tmp_path: Path) -> None:
    training = write(log1p(screen(7, 0.3)), tmp_path / "train.h5ad")
    request = request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)))
    own, other = score(request, tmp_path), score(replace(request, training=training), tmp_path)
    assert by_name(own)["mae"].value == by_name(other)["mae"].value
    assert by_name(own)["mae"].baseline != by_name(other)["mae"].baseline
    assert "train.h5ad" in other.baseline and "sees the answer" in own.baseline


def test_genes_and_perturbations_that_only_one_side_has(tmp_path: Path) -> None:
    predicted, measured = log1p(screen(2, 0.6)), log1p(screen(1))
    predicted = predicted[:, :120][(predicted.obs["target_gene"] != "G5").to_numpy()].copy()
    measured = measured[:, 10:].copy()
    made = score(request_2025(tmp_path, predicted, measured), tmp_path)
    assert made.n_genes == 110 and made.contexts[0].n_perturbations == 5
    text = " ".join(made.remarks)
    assert "110 of 120" in text and "not predicted, so not scored: G5" in text


def test_refusals_are_sentences(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    with pytest.raises(ChallengeError, match="no control cells"):
        score(request_2025(tmp_path, without_controls(log1p(screen(2))), measured), tmp_path)
    other = log1p(screen(2))
    other.obs["target_gene"] = other.obs["target_gene"].astype(str).map(lambda x: x if x == CONTROL else f"X{x}")
    with pytest.raises(ChallengeError, match="No perturbation is both"):
        score(request_2025(tmp_path, other, measured), tmp_path)
    other = log1p(screen(2))
    other.var_names = [f"other{i}" for i in range(len(GENES))]
    with pytest.raises(ChallengeError, match="share no gene"):
        score(request_2025(tmp_path, other, measured), tmp_path)


def test_perturbations_that_are_no_genes(tmp_path: Path) -> None:
    predicted, measured = log1p(screen(2, 0.6)), log1p(screen(1))
    for cells in (predicted, measured):
        cells.obs["target_gene"] = cells.obs["target_gene"].astype(str).map(lambda x: x if x == CONTROL else f"drug {x}")
    made = score(request_2025(tmp_path, predicted, measured), tmp_path)
    assert made.overall is not None and any("no perturbed gene is left out" in r for r in made.remarks)


def run_of(cells: ad.AnnData, contexts: dict[str, str]) -> ad.AnnData:
    """Cells as the result of a run: predicted and observed control, contexts renamed."""
    out = cells.copy()
    control = (out.obs["target_gene"] == CONTROL).to_numpy()
    out.obs = pd.DataFrame(
        {
            keys.PERTURBATION: out.obs["target_gene"].astype(str),
            keys.CONTEXT: out.obs["context"].astype(str).map(contexts),
            keys.KIND: np.where(control, keys.OBSERVED_CONTROL, keys.PREDICTED),
        },
        index=out.obs.index,
    )
    return out


def test_a_run_is_compared_with_the_contexts_that_it_predicts(tmp_path: Path) -> None:
    measured = log1p(screen(1, contexts=("A", "B", "C")))
    here = run_of(log1p(screen(2, 0.6, contexts=("A", "B"))), {"A": "A", "B": "Z"})
    request = request_2025(tmp_path, here, measured)
    request = replace(request, submission=replace(request.submission, is_run=True))
    made = score(request, tmp_path)
    assert made.contexts[0].n_predicted == made.contexts[0].n_measured == 6 * 40
    assert "Contexts that were not measured, so not scored: Z." in made.remarks
    alone = request_2025(tmp_path, log1p(screen(2, 0.6, contexts=("A", "B")))[:360].copy(), measured[:360].copy())
    assert made.overall == pytest.approx(score(alone, tmp_path).overall)
    other = run_of(log1p(screen(2, 0.6)), {"A": "Y"})
    request = request_2025(tmp_path, other, measured)
    with pytest.raises(ChallengeError, match="share no context"):
        score(replace(request, submission=replace(request.submission, is_run=True)), tmp_path)


@pytest.mark.parity
@pytest.mark.slow
def test_equal_to_cell_eval_itself(tmp_path: Path) -> None:
    python = Path(os.environ.get("STATE_VCC_PEER_PYTHON", ROOT / ".peers" / "vcc" / "bin" / "python"))
    if not python.exists():
        pytest.skip("cell-eval is not installed beside (run `make peers`, or set STATE_VCC_PEER_PYTHON)")
    request = request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)))
    ours = score(request, tmp_path)
    table = pd.read_csv(tmp_path / "scores.csv").sort_values(["perturbation", "metric"]).reset_index(drop=True)
    theirs = score(replace(request, cell_eval=str(python)), tmp_path)
    other = pd.read_csv(tmp_path / "scores.csv").sort_values(["perturbation", "metric"]).reset_index(drop=True)
    assert theirs.engine.startswith("cell-eval 0.8")
    pd.testing.assert_frame_equal(table, other, rtol=1e-5)
    assert ours.overall == pytest.approx(theirs.overall, rel=1e-5)
    agg = "import sys, polars as pl; from cell_eval import score_agg_metrics as s; u, b = (pl.read_csv(p) for p in sys.argv[1:]);"
    agg += "print(s(u, b).filter(pl.col('metric') == 'avg_score')['from_baseline'][0])"
    wide = other.pivot(index="perturbation", columns="metric", values=["value", "baseline"])
    for side in ("value", "baseline"):
        wide[side].mean().to_frame().T.assign(statistic="mean")[["statistic", *wide[side].columns]].to_csv(
            tmp_path / f"{side}.csv", index=False
        )
    said = subprocess.run([python, "-c", agg, "value.csv", "baseline.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert 100 * float(said.stdout.split()[-1]) == pytest.approx(theirs.overall, rel=1e-6)


def test_a_cell_eval_that_is_not_there_is_said(tmp_path: Path) -> None:
    request = request_2025(tmp_path, log1p(screen(2)), log1p(screen(1)))
    with pytest.raises(ChallengeError, match="cannot be started"):
        score(replace(request, cell_eval=str(tmp_path / "python")), tmp_path)
    with pytest.raises(ChallengeError, match="cell-eval failed"):
        score(replace(request, cell_eval=sys.executable), tmp_path)


# ---- 2026 ----


def request_2026(folder: Path, predicted: ad.AnnData, measured: ad.AnnData, **changes: object) -> ScoreRequest:
    submission = replace(SubmissionRequest("vcc2026", write(predicted, folder / "p.h5ad")), **changes)  # type: ignore[arg-type]
    return ScoreRequest(submission, write(measured, folder / "t.h5ad"))


def test_2026_has_six_metrics_between_baseline_and_replicate(tmp_path: Path) -> None:
    predicted = without_controls(screen(2, 0.7, contexts=("A", "B")))
    made = score(request_2026(tmp_path, predicted, screen(1, contexts=("A", "B"))), tmp_path)
    assert [c.context for c in made.contexts] == ["A", "B"]
    for context in made.contexts:
        assert [m.metric for m in context.metrics] == [m.name for m in VCC2026.metrics]
        for m in context.metrics:
            assert m.value is not None and m.baseline is not None and m.replicate is not None, m
        assert context.overall == pytest.approx(np.mean([m.scaled for m in context.metrics if m.scaled is not None]))
    assert made.overall == pytest.approx(np.mean([c.overall for c in made.contexts if c.overall is not None]))
    fold = next(m for m in made.contexts[0].metrics if m.metric == "de_wilcoxon_lfc_nmae")
    assert fold.scaled == pytest.approx((fold.value - fold.baseline) / (fold.replicate - fold.baseline))  # type: ignore[operator]
    assert made.control_source == "of the measurement" and made.challenge == "vcc2026"
    # beside the metrics that reward it: genes called, by the scorer's own rules, of those that are in the measurement
    table = pd.read_csv(tmp_path / "scores.csv").query("context == 'A'").groupby("metric").value.mean()
    first = made.contexts[0]
    assert first.called is not None and first.called.value == pytest.approx(table["de_wilcoxon_nsig_counts_pred"])
    assert first.called_measured == pytest.approx(table["de_wilcoxon_nsig_counts_real"]) and 0 < first.called_measured < len(
        GENES
    )
    assert first.called.baseline is not None and first.null is None  # counts of others: there is no effect zero of theirs
    said = "\n".join(score_lines(made))
    assert f"Genes called of {first.called_measured:,.0f}" in said and "Called at effect 0    not checked" in said
    receipt = read_receipts(tmp_path / "scores.json")[0]
    assert receipt.name == "p.h5ad" and receipt.group == "scored here on t.h5ad" and receipt.overall == made.overall
    assert receipt.raw["fid"] == pytest.approx(np.mean([c.metrics[2].value for c in made.contexts]))
    assert receipt.called == pytest.approx(np.mean([c.called.value for c in made.contexts if c.called]))
    assert f"{receipt.called:,.0f} of {receipt.called_measured:,.0f}; not checked" in "\n".join(receipt_lines((receipt,)))


def test_2026_wants_counts_of_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match="raw counts"):
        score(request_2026(tmp_path, without_controls(screen(2)), log1p(screen(1))), tmp_path)


@pytest.mark.slow
def test_2026_scores_what_the_counts_step_makes(tmp_path: Path) -> None:
    predicted = without_controls(log1p(screen(2, 0.7)))
    made = score(request_2026(tmp_path, predicted, screen(1), counts=CountsOptions(library=500.0)), tmp_path)
    assert made.contexts[0].metrics[0].value is not None
    with pytest.raises(ChallengeError, match="cannot be scored"):
        score(request_2026(tmp_path, predicted, screen(1)), tmp_path)


def test_an_archive_is_scored_like_the_file_it_was_made_of(tmp_path: Path) -> None:
    request = request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)))
    genes = tmp_path / "genes.csv"
    genes.write_text("".join(f"{g}\n" for g in GENES))
    packed = submit(replace(request.submission, genes=str(genes), write=True), tmp_path)
    assert packed.archive is not None
    archive = replace(request, submission=replace(request.submission, source=packed.archive.path))
    assert score(archive, tmp_path).overall == pytest.approx(score(request, tmp_path).overall)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".score-")]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = request_2025(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)))
    command = ["score", "--challenge", "vcc2025", "--data", request.submission.source, "--truth", request.truth]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert "Overall:" in capsys.readouterr().out and (tmp_path / "out" / "scores.csv").exists()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] > 0
    assert main([*command[:-1], str(tmp_path / "nothing.h5ad")]) == 1


def test_the_measured_cells_are_brought_to_the_depth_of_the_submission(tmp_path: Path) -> None:
    same = score(request_2025(tmp_path, log1p(screen(2, 0.6), 5e4), log1p(screen(1), 5e4)), tmp_path)
    assert not any("different scales" in r for r in same.remarks)
    for measured in (log1p(screen(1)), screen(1)):
        made = score(request_2025(tmp_path, log1p(screen(2, 0.6), 5e4), measured), tmp_path)
        assert [m.value for m in made.contexts[0].metrics] == pytest.approx([m.value for m in same.contexts[0].metrics], rel=1e-4)
        assert any("submission is of 50,000 per cell" in r and "h5ad of 10,000" in r for r in made.remarks)
