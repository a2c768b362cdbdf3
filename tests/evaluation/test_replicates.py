"""Can this data set tell? Halves of measured cells, one verdict for each prediction, and scPertEval on the same halves."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from state_engine.data.dataset import Choices
from state_engine.effects.means import means_by_condition
from state_engine.effects.store import save_effects
from state_engine.effects.table import EffectTable
from state_engine.evaluation.compared import Condition
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.files import open_files
from state_engine.evaluation.judgement import ability_words, judgement, tally
from state_engine.evaluation.replicates import Halves, Replicates, judge
from state_engine.evaluation.report import Evaluation, evaluation_lines, read_evaluation
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.metrics.profiles import HOUSE
from state_engine.metrics.replicate import Discrimination, Skill
from tests.evaluation.screens import CONTROL, log1p, screen, write

ROOT = Path(__file__).resolve().parents[2]
CHOICES = Choices(perturbation_key="target_gene", control=CONTROL, context_key="context")
METRICS = HOUSE["minimal"].metrics


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def ask(folder: Path, predicted: ad.AnnData, measured: ad.AnnData) -> EvaluationRequest:
    files = PredictedFile(write(predicted, folder / "p.h5ad")), write(measured, folder / "r.h5ad")
    return EvaluationRequest((files[0],), files[1], CHOICES)


def halves_of(request: EvaluationRequest, seed: int = 42) -> Replicates:
    files = open_files(request)
    dataset = files.real.dataset
    halves = Halves(files, seed)
    pairs = tuple((str(p), str(c)) for c in dataset.contexts for p in dataset.perturbations)
    pairs += tuple((CONTROL, c) for c in files.contexts if (CONTROL, c) not in pairs)
    codes = np.full(dataset.n_cells, -1)
    for number, (p, c) in enumerate(pairs):
        codes[files.real.rows(p, c)] = number
    rows = np.arange(dataset.n_cells)
    real = means_by_condition(halves.watch(files.real.blocks(rows)), codes, pairs, CONTROL, files.genes)
    return Replicates(halves, real, {})


def test_halves_are_the_cells(tmp_path: Path) -> None:
    measured = log1p(screen(1))
    found = halves_of(ask(tmp_path, log1p(screen(2)), measured))
    x, labels = measured.X.toarray(), measured.obs["target_gene"].to_numpy(str)
    for condition in found.halves.conditions:
        first, second = found.halves.sums[condition, 0], found.halves.sums[condition, 1]
        assert (first.n, second.n) == (20, 20)
        np.testing.assert_allclose((first + second).mean, x[labels == condition[0]].mean(axis=0), rtol=1e-5)
        average = np.mean([x[labels == q].mean(axis=0) for q in set(labels) - {CONTROL, condition[0]}], axis=0)
        np.testing.assert_allclose(found.average(condition), average, rtol=1e-5)
    assert found.halves.perturbed["A"].n == (labels != CONTROL).sum()


def test_skill_of_the_replicate_is_1_and_of_the_baseline_0(tmp_path: Path) -> None:
    found = halves_of(ask(tmp_path, log1p(screen(2)), log1p(screen(1))))
    control = found.real.mean(CONTROL, "A")
    said: dict[Condition, tuple[np.ndarray, np.ndarray]] = {}
    flat: dict[Condition, tuple[np.ndarray, np.ndarray]] = {}
    for condition in found.halves.conditions:
        reference = found.reference(condition, 0)
        assert reference is not None
        mean = found.duplicate(condition, reference)
        said[condition] = (mean, mean - control)
        flat[condition] = (control, np.zeros(len(control)))
    judged = judge(HOUSE["minimal"], found, {"replicate": said, "nothing": flat}, {"no change": flat})
    discriminations, skills = judged.discriminations, judged.skills
    by = {(s.method, s.metric): s for s in skills}
    for metric in {s.metric for s in skills}:
        assert by["replicate", metric].value == pytest.approx(1) and by["nothing", metric].value == pytest.approx(0)
    assert {d.metric for d in discriminations} == {m.name for m in METRICS if m.perfect is not None}
    assert all(d.tells for d in discriminations if d.metric in ("weighted_mse", "pearson_mean"))


def test_a_good_prediction_is_better_and_no_effect_is_not(tmp_path: Path) -> None:
    measured = log1p(screen(1, n=60))
    good = evaluate(ask(tmp_path, log1p(screen(2, 0.9, n=60)), measured), tmp_path / "good")
    assert [j.outcome for j in good.judgements] == ["better"]
    assert good.tells("weighted_mse") and good.noise_floor and 0 < good.noise_floor < 0.2
    lines = "\n".join(evaluation_lines(good))
    assert "prediction: Better than " in lines and "a replicate" in lines
    none = evaluate(ask(tmp_path, log1p(screen(2, 0.0, n=60)), measured), tmp_path / "none")
    assert none.judgements[0].outcome in ("worse", "undecided", "mixed")
    assert read_evaluation(tmp_path / "good") == good


def test_a_screen_without_effects_cannot_tell(tmp_path: Path) -> None:
    made = evaluate(ask(tmp_path, log1p(screen(2, 0.0)), log1p(screen(1, 0.0))), tmp_path / "out")
    assert [j.outcome for j in made.judgements] == ["cannot tell"]
    assert made.tells("expr_mse") is False and "cannot tell" in made.judgements[0].text
    assert "(cannot tell here)" in "\n".join(evaluation_lines(made))


def test_files_of_before_are_read(tmp_path: Path) -> None:
    evaluate(ask(tmp_path, log1p(screen(2)), log1p(screen(1))), tmp_path / "out")
    path = tmp_path / "out" / "evaluation.json"
    stored = json.loads(path.read_text())
    for name in ("judgements", "discriminations", "skills", "seen"):
        del stored[name]
    for condition in stored["conditions"]:
        del condition["noise_floor"]
    path.write_text(json.dumps(stored))
    old = read_evaluation(tmp_path / "out")
    assert isinstance(old, Evaluation) and old.judgements == () and old.tells("expr_mae") is None and old.noise_floor is None


def one(metric: str, low: float, high: float, n: int = 9) -> Skill:
    return Skill("mine", metric, "no change", (low + high) / 2, low, high, n)


TELLS = (Discrimination("expr_mae", "", 0.9, 0.5, 9), Discrimination("delta_pearson", "", 0.9, 0.5, 9))
GREY = Discrimination("weighted_mse", "", 0.2, -0.1, 9)


SHORT = {
    "better": "Better than no change by MAE (1 of 2 metrics that can tell).",
    "worse": "Worse than no change by MAE (1 of 2 metrics that can tell).",
    "mixed": "Better than the best simple baseline by Pearson, worse by MAE.",
    "undecided": "Cannot be told apart from the best simple baseline by MAE, Pearson.",
    "too few": "Too few conditions for a verdict: 2 with enough cells, 5 are needed.",
}


@pytest.mark.parametrize(
    ("skills", "outcome"),
    [
        ((one("expr_mae", 0.1, 0.3), one("delta_pearson", -0.1, 0.2)), "better"),
        ((one("expr_mae", -0.3, -0.1), one("delta_pearson", -0.1, 0.2)), "worse"),
        ((one("expr_mae", -0.3, -0.1), one("delta_pearson", 0.1, 0.2)), "mixed"),
        ((one("expr_mae", -0.3, 0.1), one("delta_pearson", -0.1, 0.2)), "undecided"),
        ((one("expr_mae", 0.1, 0.3, 2), one("delta_pearson", 0.1, 0.2, 2)), "too few"),
        ((one("weighted_mse", 0.1, 0.3),), "undecided"),
    ],
)
def test_one_verdict_from_the_metrics_that_can_tell(skills: tuple[Skill, ...], outcome: str) -> None:
    found = (*TELLS, GREY)
    if outcome == "undecided" and skills[0].metric == "weighted_mse":
        # only a metric that cannot tell: it decides nothing
        assert judgement("mine", skills, (GREY,), METRICS).outcome == "cannot tell"
        return
    made = judgement("mine", skills, found, METRICS, ("x in T",))
    assert made.outcome == outcome and made.text.endswith(".") and made.short == SHORT[outcome]
    if outcome != "too few":
        assert "x in T" in made.text


def test_words_about_the_data_set() -> None:
    words = ability_words((*TELLS, GREY), METRICS)
    assert words == "These cells tell a replicate from an average by MAE, Pearson; not by Weighted MSE (BDS 0.20, DRF -0.10)."
    one_line = Discrimination("weighted_mse", "k562", 0.9, 0.6, 30)
    assert "Weighted MSE (in k562 only)" in ability_words((*TELLS, GREY, one_line), METRICS)
    assert ability_words((GREY,), METRICS).startswith("By no metric") and ability_words((), METRICS) == ""
    assert tally((*TELLS, GREY)) == "2 of 3 metrics can tell a replicate from an average on these cells." and tally(()) == ""


def test_a_context_that_can_tell_is_judged_alone(tmp_path: Path) -> None:
    """Six perturbations with effects in A, none in B and C: all together cannot tell, A can."""
    measured = [screen(1, share, n=40, contexts=(c,)) for share, c in ((1.0, "A"), (0.0, "B"), (0.0, "C"))]
    predicted = [screen(2, share, n=40, contexts=(c,)) for share, c in ((0.8, "A"), (0.0, "B"), (0.0, "C"))]
    sides = [ad.concat([log1p(x) for x in part], index_unique="-") for part in (predicted, measured)]
    made = evaluate(ask(tmp_path, *sides), tmp_path / "out")
    mse = {d.context: d for d in made.discriminations if d.metric == "expr_mse"}
    assert not mse[""].tells and mse["A"].tells and not mse["B"].tells and made.tells("expr_mse")
    assert {s.contexts for s in made.skills if s.metric == "expr_mse"} == {("A",)} and made.judgements[0].outcome == "better"
    assert "in A" in made.judgements[0].text


PEER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import anndata, scperteval
found = {}
for line in sys.argv[2:]:
    cells = anndata.read_h5ad(sys.argv[1])
    cells = cells[cells.obs["cell_type"].astype(str) == line].copy()
    cells.obs["condition"] = cells.obs["condition"].astype(str)
    metrics = ["mse", "wmse_exp2", "pearson_ctrl"]
    ready = scperteval.prepare(
        cells, metrics, perturbation_key="condition", control_label="control"
    )
    for metric in metrics:
        for kind in ("bds", "drf"):
            made = scperteval.calibrate(ready, metric, calibrator=kind, de_method="t-test")
            found[f"{line} {metric} {kind}"] = made.aggregate["bds" if kind == "bds" else "median"]
print(json.dumps(found))
"""
OURS = {"mse": "expr_mse", "wmse_exp2": "weighted_mse", "pearson_ctrl": "delta_pearson"}


@pytest.mark.parity
@pytest.mark.slow
def test_bds_and_drf_are_those_of_scperteval(tmp_path: Path) -> None:
    python = ROOT / ".peers" / "scperteval" / "bin" / "python"
    data = ROOT.parent / "shared" / "data" / "norman_mcfaline.h5ad"
    if not python.exists() or not data.exists():
        pytest.skip("scPertEval (make peers) or norman_mcfaline.h5ad is not here")
    lines = ("k562", "T98G", "A172", "U87MG")
    out = subprocess.run([str(python), "-c", PEER, str(data), *lines], capture_output=True, text=True, check=True, timeout=600)
    theirs = json.loads(out.stdout.splitlines()[-1])
    choices = Choices(perturbation_key="condition", control="control", context_key="cell_type")
    request = EvaluationRequest((PredictedFile(str(data)),), str(data), choices)
    made = evaluate(request, tmp_path / "out")
    ours = {(d.context, d.metric): d for d in made.discriminations}
    for line in lines:
        for name, metric in OURS.items():
            found = ours[line, metric]
            assert found.bds == pytest.approx(theirs[f"{line} {name} bds"], abs=0.02), (line, name)
            assert found.drf == pytest.approx(theirs[f"{line} {name} drf"], abs=0.02), (line, name)


def test_skill_by_what_was_in_the_training(tmp_path: Path) -> None:
    """Of a training on A alone: B is another context, G4 and G5 are unknown, and in A the pairs of G0 and G1 were trained on."""
    contexts = ("A", "B")
    measured, predicted = (log1p(screen(seed, share, contexts=contexts)) for seed, share in ((1, 1.0), (2, 0.8)))
    others = ("G2", "G3")  # measured elsewhere only
    pairs = [("G0", "A"), ("G1", "A"), *((p, "C") for p in others)]
    effects = np.random.default_rng(0).normal(size=(4, len(measured.var_names))).astype(np.float32)
    controls = {c: np.zeros(effects.shape[1], np.float32) for c in ("A", "C")}
    save_effects(
        tmp_path, EffectTable.of_pairs(pairs, [9] * 4, list(effects), controls, tuple(measured.var_names), effects.shape[1])
    )
    made = evaluate(replace(ask(tmp_path, predicted, measured), effects=str(tmp_path)), tmp_path / "out")
    found = {(cell.trained.context, cell.trained.perturbation, cell.trained.pair): cell for cell in made.seen}
    assert {key: cell.n for key, cell in found.items()} == {
        (True, True, True): 2, (True, True, False): 2, (True, False, False): 2, (False, True, False): 4, (False, False, False): 2,
    }  # fmt: skip
    assert sum(cell.n for cell in made.seen) == len(made.conditions) == 12
    for cell in made.seen:
        assert {s.n for s in cell.skills} == {cell.n} and all(s.value > 0 for s in cell.skills if s.metric == "weighted_mse")
    lines = "\n".join(evaluation_lines(made))
    assert (
        "  this pair trained, 2 conditions: skill by" in lines
        and "  context not trained, perturbation trained, 4 conditions" in lines
    )
    assert read_evaluation(tmp_path / "out") == made
