"""Profiles that need cells: differential expression by hand and beside the engine on whole files; 2025 and 2026; other programs live."""

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
from scipy.stats import false_discovery_control, mannwhitneyu, spearmanr, wasserstein_distance
from sklearn.metrics import average_precision_score

from state_engine.data.dataset import Choices
from state_engine.errors import ChallengeError, ScaleError
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.files import open_files
from state_engine.evaluation.replicate_clouds import ReplicateClouds
from state_engine.evaluation.replicates import Halves
from state_engine.evaluation.report import Evaluation, evaluation_lines
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.metrics.population import Components, energy_distance
from state_engine.metrics.profiles import HOUSE
from state_engine.metrics.rank_tests import FLOOR, PSEUDOCOUNT
from tests.evaluation.screens import CONTROL, GENES, PERTURBATIONS, log1p, screen, without_controls, write

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # pdex compiles for seconds
CHOICES = Choices(perturbation_key="target_gene", control=CONTROL)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationRequest, Evaluation]:
    folder = tmp_path_factory.mktemp("full")
    request = ask(folder, log1p(screen(2, 0.6)), log1p(screen(1)), profile="full")
    return folder, request, evaluate(request, folder / "out")


def ask(folder: Path, predicted: ad.AnnData, measured: ad.AnnData, **changes: object) -> EvaluationRequest:
    request = EvaluationRequest(
        (PredictedFile(write(predicted, folder / "p.h5ad")),), write(measured, folder / "r.h5ad"), CHOICES
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def numbers(folder: Path, method: str = "prediction") -> pd.DataFrame:
    """Rows perturbations, columns metrics; without those of a whole context."""
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    return (
        table[(table.method == method) & (table.perturbation != "")]
        .pivot(index="perturbation", columns="metric", values="value")
        .astype(float)
    )


def by_scipy(cells: ad.AnnData, control: ad.AnnData, label: str) -> pd.DataFrame:
    """Mann-Whitney with the detection floor, and fold changes, of a perturbation, a row a gene."""
    x = cells[(cells.obs["target_gene"] == label).to_numpy()].X.toarray().astype(np.float64)
    y = control[(control.obs["target_gene"] == CONTROL).to_numpy()].X.toarray().astype(np.float64)
    seen = [np.where(v < FLOOR, 0, v) for v in (x, y)]
    p = mannwhitneyu(*seen, alternative="two-sided", method="asymptotic", use_continuity=True).pvalue
    fold = np.log2((np.expm1(x).mean(0) + PSEUDOCOUNT) / (np.expm1(y).mean(0) + PSEUDOCOUNT))
    return pd.DataFrame({"fdr": false_discovery_control(np.nan_to_num(p, nan=1)), "fold": fold}, index=list(GENES))


def ranked(table: pd.DataFrame) -> list[str]:
    """Significant genes, the largest fold change first."""
    kept = table[table.fdr < 0.05]
    return kept.fold.abs().sort_values(ascending=False, kind="stable").index.tolist()


def test_differential_expression_by_hand(full: tuple[Path, EvaluationRequest, Evaluation]) -> None:
    folder, request, made = full
    found = numbers(folder / "out")
    predicted, measured = ad.read_h5ad(request.predicted[0].path), ad.read_h5ad(request.real)
    for label in PERTURBATIONS:
        own, real = by_scipy(predicted, measured, label), by_scipy(measured, measured, label)
        a, b = ranked(own), ranked(real)
        assert 10 < len(b) < len(GENES)
        both = set(a) & set(b)
        expected = {
            "overlap": len(set(a[: len(b)]) & set(b)) / len(b),
            "precision": len(set(a) & set(b[: len(a)])) / len(a),
            "sig_recall": len(both) / len(b),
            "direction_match": (np.sign(own.fold[b]) == np.sign(real.fold[b])).mean(),
            "lfc_spearman": spearmanr(own.fold[b], real.fold[b]).statistic,
            "pr_auc": average_precision_score(real.fdr < 0.05, own.fold.abs()),
        }
        for name, value in expected.items():
            assert found.loc[label, f"de_wilcoxon_{name}"] == pytest.approx(value, abs=1e-6), name
        assert found.loc[label, "de_called"] == pytest.approx(len(a) / len(b))
        assert found.loc[label, "de_genes"] == len(a)
        x, y = (cells[(cells.obs["target_gene"] == label).to_numpy()].X.toarray() for cells in (predicted, measured))
        z = measured[(measured.obs["target_gene"] == CONTROL).to_numpy()].X.toarray()
        genes = np.maximum((y > 0).mean(0), (z > 0).mean(0)) >= 0.05
        assert found.loc[label, "expressing_off"] == pytest.approx(np.abs((x > 0).mean(0) - (y > 0).mean(0))[genes].mean())
        exact = np.median([wasserstein_distance(a, b) for a, b in zip(x.T[genes], y.T[genes], strict=True)])
        assert found.loc[label, "wasserstein"] == pytest.approx(exact, rel=0.03)  # by 200 quantiles
        assert numbers(folder / "out", "measured").loc[label, "de_genes"] == len(b)
    assert "illico 0.6.0, values under 0.2 counted as not detected" in made.de_engine and made.device == "cpu"
    of_contexts = {"best_amplitude", "amplitude_gain", "de_null"}
    assert set(found) == {m.name for m in HOUSE["full"].metrics} - of_contexts
    assert made.value("prediction", "best_amplitude") and made.value("prediction", "de_null") is not None


def test_metrics_of_means_equal_the_engine_on_whole_files(full: tuple[Path, EvaluationRequest, Evaluation]) -> None:
    from cell_eval2 import EvalConfig, compute_metrics

    folder, request, _ = full
    predicted, measured = ad.read_h5ad(request.predicted[0].path), ad.read_h5ad(request.real)
    names = [m.name for m in HOUSE["full"].metrics if m.on == "means" and m.by == "cell-eval2"]
    config = replace(EvalConfig.v2(), metrics=names, pert_col="target_gene", control=CONTROL, device="cpu", input_type="lognorm")
    theirs = (
        compute_metrics(predicted, measured, config=config)
        .to_pandas()
        .pivot(index="perturbation", columns="metric", values="value")
    )
    ours = numbers(folder / "out")
    np.testing.assert_allclose(ours.loc[theirs.index, names], theirs[names], rtol=1e-5)


def test_cells_in_chunks_change_nothing(full: tuple[Path, EvaluationRequest, Evaluation], tmp_path: Path) -> None:
    folder, request, _ = full
    evaluate(request, tmp_path, chunk_values=2 * 40 * len(GENES))
    names = [name for name in HOUSE["full"].on_cells if name != "de_null"]  # of a whole context
    pd.testing.assert_frame_equal(numbers(tmp_path)[names], numbers(folder / "out")[names])


def test_baselines_have_cells(full: tuple[Path, EvaluationRequest, Evaluation]) -> None:
    folder, _, made = full
    unchanged = numbers(folder / "out", "no change")
    assert (unchanged["de_wilcoxon_overlap"] == 0).all()  # control cells against control cells: no gene changes
    context = numbers(folder / "out", "mean of the context")
    assert (context["de_wilcoxon_sig_recall"] > 0).all()
    assert "DE overlap" in " ".join(made.verdict)


def test_energy_distance_is_grey_where_it_tells_no_replicate_from_an_average(
    full: tuple[Path, EvaluationRequest, Evaluation], tmp_path: Path
) -> None:
    _, _, made = full
    (whole,) = (d for d in made.discriminations if d.metric == "energy_pca50")
    assert (whole.context, whole.bds, whole.n) == ("", 1.0, len(PERTURBATIONS)) and whole.drf > 0.8
    assert made.tells("energy_pca50")
    # any label may stand for any other: a replicate is no nearer than cells of the others
    measured = log1p(screen(1, share=0.0))
    noise = evaluate(ask(tmp_path, log1p(screen(2)), measured, profile="full"), tmp_path / "out")
    assert noise.tells("energy_pca50") is False
    assert any(line.startswith("Energy distance") and line.endswith("(cannot tell here)") for line in evaluation_lines(noise))
    assert not any(s.metric == "energy_pca50" for s in noise.skills)


def test_energies_of_replicate_and_average_are_those_of_their_cells(
    full: tuple[Path, EvaluationRequest, Evaluation], tmp_path: Path
) -> None:
    _, request, _ = full
    files = open_files(request)
    halves = Halves(files)
    rows = np.arange(files.real.dataset.n_cells)
    list(halves.watch(files.real.blocks(rows)))
    values = np.concatenate([part for _, part in files.real.blocks(rows)])
    components, (p, context) = Components.of(values), files.conditions[0]
    found = ReplicateClouds.of(files, halves, context, components).energies(p)
    truth, replicate = (components.cloud(values[halves.rows((p, context), number)]) for number in (0, 1))
    assert found is not None and found[0] == pytest.approx(energy_distance(replicate, truth))
    others = np.concatenate([values[files.real.rows(q, context)] for q in PERTURBATIONS if q != p])
    assert found[1] == pytest.approx(energy_distance(components.cloud(others), truth))


def test_energy_distance_is_that_of_scperteval(full: tuple[Path, EvaluationRequest, Evaluation]) -> None:
    python = ROOT / ".peers" / "scperteval" / "bin" / "python"
    if not python.exists():
        pytest.skip("scPertEval (make peers) is not here")
    folder, request, _ = full
    peer = (
        "import sys, warnings; warnings.simplefilter('ignore'); import anndata, scperteval\n"
        "cells, said = map(anndata.read_h5ad, sys.argv[1:3])\n"
        "ready = scperteval.prepare(cells, ['energy_distance_pca_k'], perturbation_key='target_gene', control_label=sys.argv[3])\n"
        "said = said[said.obs['target_gene'] != sys.argv[3]].copy()\n"
        "print(scperteval.score(ready, 'energy_distance_pca_k', said).per_perturbation.to_json(orient='records'))"
    )
    args = [str(python), "-c", peer, request.real, request.predicted[0].path, CONTROL]
    out = subprocess.run(args, capture_output=True, text=True, check=True, timeout=300)
    theirs = pd.DataFrame(json.loads(out.stdout.splitlines()[-1])).set_index("perturbation")["score"]
    ours = numbers(folder / "out")["energy_pca50"]
    np.testing.assert_allclose(ours[list(PERTURBATIONS)], theirs[list(PERTURBATIONS)], atol=0.02)
    assert ours.min() > 0.1  # the agreement is one of distances, not of zeros


def test_nothing_is_called_where_nothing_changes(tmp_path: Path) -> None:
    """Control cells are called alike when halved and as a baseline; predicted control cells that are shifted are told."""
    measured = log1p(screen(1, n=30))
    predicted = measured.copy()
    raw = predicted.X.toarray()
    raw[:, :75] += 0.5  # a model that makes half of the genes too high, under the control label too
    predicted.layers["raw"] = raw
    request = ask(tmp_path, predicted, measured, profile="full")
    file = request.predicted[0].path
    made = evaluate(replace(request, predicted=(*request.predicted, PredictedFile(file, "raw", "layers/raw"))), tmp_path / "out")
    null = {m: made.value(m, "de_null") for m in ("measured", "no change", "prediction", "raw")}
    assert all(null[m] is not None and null[m] <= 0.01 for m in ("measured", "no change", "prediction")), null
    assert null["raw"] is not None and 0.4 < null["raw"] <= 0.51
    line = next(line for line in evaluation_lines(made) if line.startswith("Called without effect"))
    assert f"{null['raw']:.1%}" in line
    # cells as they are have the measured spread; each gene's shift changes none of it
    assert made.value("prediction", "spread") == pytest.approx(1) and made.value("raw", "spread") == pytest.approx(1)
    own, moved = made.value("prediction", "energy_pca50"), made.value("raw", "energy_pca50")
    assert own is not None and moved is not None and own + 0.5 < moved  # of the very same cells it is below 0


# ---- 2025 ----


def test_2025_starts_from_the_predicted_controls(tmp_path: Path) -> None:
    predicted, measured = log1p(screen(2, 0.6)), log1p(screen(1))
    request = ask(tmp_path, predicted, measured, profile="vcc2025")
    made = evaluate(request, tmp_path / "out")
    assert "of each prediction (120" in made.control_source and any("cell-eval itself was not run" in r for r in made.remarks)
    found = numbers(tmp_path / "out")
    means = {
        side: pd.DataFrame(cells.X.toarray(), columns=list(GENES)).groupby(cells.obs["target_gene"].to_numpy(str)).mean()
        for side, cells in (("p", predicted), ("t", measured))
    }
    p, t = means["p"], means["t"]
    for label in PERTURBATIONS:
        assert found.loc[label, "mae"] == pytest.approx(np.abs(p.loc[label] - t.loc[label]).mean(), rel=1e-5)
        kept = [g for g in GENES if g != label]
        effect = p.loc[label] - p.loc[CONTROL]
        distance = {y: np.abs((effect - t.loc[y] + t.loc[CONTROL])[kept]).sum() for y in PERTURBATIONS}
        rank = sorted(distance, key=distance.__getitem__).index(label)
        assert found.loc[label, "discrimination_score_l1"] == pytest.approx(1 - rank / len(PERTURBATIONS))
    with pytest.raises(ChallengeError, match="cannot be started"):
        evaluate(replace(request, cell_eval=str(tmp_path / "python")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("profile", ["full", "vcc2025"])
def test_one_thread_is_enough(tmp_path: Path, profile: str) -> None:
    """Where numba may use one thread, an engine that asks for all cores used to be refused, and the files were blamed."""
    request = ask(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)), profile=profile)
    command = ["evaluate", "--predicted", request.predicted[0].path, "--real", request.real, "--profile", profile]
    labels = ["--perturbation-key", "target_gene", "--control", CONTROL, "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "state_engine", *command, *labels],
        env={**os.environ, "NUMBA_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(numbers(tmp_path / "out")) == len(PERTURBATIONS)


@pytest.mark.parity
def test_2025_equals_cell_eval_itself(tmp_path: Path) -> None:
    python = Path(os.environ.get("STATE_VCC_PEER_PYTHON", ROOT / ".peers" / "vcc" / "bin" / "python"))
    if not python.exists():
        pytest.skip("cell-eval is not installed beside (run `make peers`, or set STATE_VCC_PEER_PYTHON)")
    request = ask(tmp_path, log1p(screen(2, 0.6)), log1p(screen(1)), profile="vcc2025")
    evaluate(request, tmp_path / "ours")
    theirs = evaluate(replace(request, cell_eval=str(python)), tmp_path / "theirs")
    assert theirs.engine.startswith("cell-eval 0.8") and theirs.versions["cell-eval"].startswith("0.8")
    pd.testing.assert_frame_equal(numbers(tmp_path / "ours"), numbers(tmp_path / "theirs"), rtol=1e-5)
    for method in ("no change", "mean of the context"):
        ours, other = numbers(tmp_path / "ours", method), numbers(tmp_path / "theirs", method)
        pd.testing.assert_series_equal(ours["overlap_at_N"], other["overlap_at_N"], rtol=1e-5)
        # there the baseline is as many control cells as were measured of a perturbation, here the mean of all of them
        np.testing.assert_allclose(ours["mae"], other["mae"], rtol=0.2)


# ---- 2026 ----


def test_2026_compares_counts(tmp_path: Path) -> None:
    predicted, measured = without_controls(screen(2, 0.6)), screen(1)
    made = evaluate(ask(tmp_path, predicted, measured, profile="vcc2026"), tmp_path / "out")
    from state_engine.challenge.context_numbers import Comparison
    from state_engine.challenge.score import score_cells
    from state_engine.challenge.scored_cells import ScoredCells
    from state_engine.challenge.spec import load_rules

    rules = replace(load_rules("vcc2026"), control=CONTROL, context_key="")
    for cells in (predicted, measured):
        cells.obs_names = [f"c{i}" for i in range(cells.n_obs)]
    scores = score_cells(lambda: (ScoredCells(predicted, measured, ()), Comparison()), rules, tmp_path, ("p", "r"))
    known = {m.metric: m.value for m in scores.contexts[0].metrics}
    for metric, value in known.items():
        assert made.value("prediction", metric) == pytest.approx(value, rel=1e-6), metric
        assert made.value("mean of the context", metric) is not None, metric
    assert made.value("mean of other contexts", "pds_cosine") is None


def test_2026_turns_log1p_into_counts_by_kind_or_as_told(tmp_path: Path) -> None:
    request = ask(tmp_path, without_controls(log1p(screen(2, 0.6))), screen(1), profile="vcc2026", to_counts=None)
    with pytest.raises(ScaleError, match="Choose a rounding"):
        evaluate(request, tmp_path / "out")
    made = evaluate(replace(request, to_counts="poisson"), tmp_path / "out")
    assert any("rounding poisson, seed 0" in r for r in made.remarks)
    auto = evaluate(replace(request, to_counts="auto"), tmp_path / "auto")
    assert any("(unknown) were turned into counts" in r and "rounding poisson" in r for r in auto.remarks)
    pds = made.value("prediction", "pds_cosine")
    assert pds is not None and pds > 0.9
    with pytest.raises(ScaleError, match="compare raw counts"):
        evaluate(ask(tmp_path, screen(2), log1p(screen(1)), profile="vcc2026"), tmp_path / "out")
