"""A trained model on cells it has never seen: what is predicted, what is written, and that baselines know training cells only."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.held import Leak
from state_engine.data.splits.plan import FewShot, SplitPlan, plan_text
from state_engine.effects.store import load_effects
from state_engine.effects.transfer import Likeness
from state_engine.errors import ConfigError, RunError, SplitError
from state_engine.evaluation.effects_file import read_condition
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.report import Evaluation, read_evaluation
from state_engine.evaluation.request import HeldOutRequest, split_of_card
from state_engine.jobs.kinds import KINDS, load_target
from state_engine.library.datasets import DEMO_PATH
from state_engine.plain import from_plain, to_plain
from state_engine.shards.run import InShards
from state_engine.train.calibration import add_baselines
from state_engine.train.run_folder import TrainingRecord, write_record, write_split
from tests.shards.test_shards import done as shards_done
from tests.small import GENES, write_cells, write_model
from tests.train.small import SMALL


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def begin(folder: Path) -> Split:
    """The folder of a training of folder/cells.h5ad: in B, IFNB1 validates, TNF and the pair are tested; NK (without TNF) trains."""
    dataset = open_dataset(folder / "cells.h5ad")
    held = FewShot("d", "B", val=("IFNB1",), test=("JUN,FOS", "TNF"))
    split = apply_plan(SplitPlan((("d", str(dataset.path)),), ("d",), fewshot=(held,)), [("d", dataset)])
    write_record(folder, TrainingRecord(1, SMALL, data={str(dataset.path): dataset.hash()}))
    write_split(folder, split)
    return split


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_cells(folder / "cells.h5ad", 480)
    split = begin(folder)
    write_model(folder / "model")
    add_baselines(folder / "model", split)
    return folder


@pytest.fixture(scope="module")
def tested(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("tested")
    return folder, evaluate_held_out(HeldOutRequest(str(run), seeds=(1, 2), device="cpu"), folder)


def test_what_is_scored(run: Path, tested: tuple[Path, Evaluation]) -> None:
    folder, made = tested
    assert [(c.perturbation, c.context) for c in made.conditions] == [("JUN,FOS", "B"), ("TNF", "B")]
    assert [m.name for m in made.methods][:3] == ["corrected", "raw", "calibrated"]
    # TNF was trained on in no other context: its calibrated prediction is a part of the network's effect alone
    assert [m.n_conditions for m in made.methods][:3] == [2, 2, 2]
    assert "Held out of the training of Tiny, by its split: B x JUN,FOS, B x TNF." in made.held_out
    assert read_evaluation(folder) == made
    rows = {(r.method, r.metric): r for r in made.summary if r.context == ""}
    # every control cell is a basal cell once, so the draw changes the sets and nothing else
    assert rows["corrected", "expr_mae"].spread is not None and rows["no change", "expr_mae"].spread is None


KILLED = """
import os, signal, sys
from pathlib import Path
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.request import HeldOutRequest
from state_engine.shards.run import InShards

def die(progress):
    if progress.stage == "Predicting held-out cells" and progress.done >= 3:
        os.kill(os.getpid(), signal.SIGKILL)

evaluate_held_out(
    HeldOutRequest(sys.argv[1], seeds=(1, 2), device="cpu"), Path(sys.argv[2]), die, shards=InShards(Path(sys.argv[2]) / "shards", size=1)
)
"""


def test_a_test_that_is_killed_goes_on_with_the_same_numbers(run: Path, tested: tuple[Path, Evaluation], tmp_path: Path) -> None:
    """The whole one had a shard for each draw, this one has a shard for each perturbation of each."""
    folder, made = tested
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run), str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "predicted.h5ad").exists()
    before = set(shards_done(tmp_path / "shards"))
    assert 1 <= len(before) < 4
    shards = InShards(tmp_path / "shards", size=1)
    again = evaluate_held_out(HeldOutRequest(str(run), seeds=(1, 2), device="cpu"), tmp_path, shards=shards)
    counted = shards_done(tmp_path / "shards")
    assert set(counted) == {*range(4)} and all(counted[number] == 1 for number in before)
    for name in ("predicted.h5ad", "predicted-2.h5ad", "real.h5ad", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert again.summary == made.summary
    assert not list(tmp_path.rglob("*.shard")) and not (folder / "shards").exists()


def test_predicted_and_measured_cells_have_the_same_genes_and_labels(run: Path, tested: tuple[Path, Evaluation]) -> None:
    folder, _ = tested
    predicted, real = ad.read_h5ad(folder / "predicted.h5ad"), ad.read_h5ad(folder / "real.h5ad")
    assert tuple(predicted.var_names) == tuple(real.var_names) == GENES
    assert set(predicted.layers) == {"raw", "calibrated"} and (folder / "predicted-2.h5ad").exists()
    source = open_dataset(run / "cells.h5ad")
    sizes = predicted.obs.groupby("perturbation", observed=True).size().to_dict()
    assert sizes == dict.fromkeys(("control", "JUN,FOS", "TNF"), len(source.control_rows("B")))
    sizes = real.obs.groupby(["context", "perturbation"], observed=True).size().to_dict()
    assert sizes == {("B", p): len(source.rows(p, "B")) for p in ("control", "JUN,FOS", "TNF")}
    where = {p: (predicted.obs["perturbation"] == p).to_numpy() for p in ("control", "TNF")}
    assert not np.isnan(predicted.layers["calibrated"]).any()
    fitted = read_card(run / "model").calibration
    own, other, common, _ = fitted.weights(("paired",))
    assert 0 <= own < 1 and (other, common) == (0, 0)
    basal = predicted.X[where["control"]]
    noise = Likeness(load_effects(run / "model")).correction("B")
    expected = (
        basal.mean(axis=0) + own * (predicted.X[where["TNF"]].mean(axis=0) - basal.mean(axis=0)) + fitted.correction * noise
    )
    # a cell that would rise above the total of a cell is scaled back to it, so the mean may lie a little lower
    below = expected - predicted.layers["calibrated"][where["TNF"]].mean(axis=0)
    assert (below > -1e-4).all() and below.max() < 2e-3
    # the control cells are the basal cells as measured, here all of them
    np.testing.assert_allclose(
        np.sort(predicted.X[where["control"]], axis=0),
        np.sort(real.X[(real.obs["perturbation"] == "control").to_numpy()].toarray(), axis=0),
    )


def test_the_corrected_prediction_by_hand(tested: tuple[Path, Evaluation]) -> None:
    folder, _ = tested
    predicted, real = ad.read_h5ad(folder / "predicted.h5ad"), ad.read_h5ad(folder / "real.h5ad")
    for label in ("JUN,FOS", "TNF"):
        mine = predicted.X[(predicted.obs["perturbation"] == label).to_numpy()].mean(axis=0)
        truth = real.X[(real.obs["perturbation"] == label).to_numpy()].toarray().mean(axis=0)
        table = pd.read_csv(folder / "metrics.csv")
        row = table[
            (table.method == "corrected") & (table.perturbation == label) & (table.metric == "expr_mae") & (table.seed == 1)
        ]
        assert row["value"].item() == pytest.approx(np.abs(mine - truth).mean(), rel=1e-5)


def test_baselines_know_training_cells_only(run: Path, tested: tuple[Path, Evaluation], tmp_path: Path) -> None:
    folder, made = tested
    assert "in the training cells of Tiny; no cell scored here is among them" in made.effects_source
    found = {m.name: m for m in made.methods}
    assert found["no change"].n_conditions == 2 and found["mean of other contexts"].n_conditions == 1
    assert "TNF in B was not in the training cells in any other context" in found["mean of other contexts"].reason
    assert found["mean of the context"].n_conditions == 0  # all other perturbations of B are held out
    # other test and validation cells change no baseline
    cells = ad.read_h5ad(run / "cells.h5ad")
    held = ((cells.obs["cell_type"] == "B") & (cells.obs["perturbation"] != "control")).to_numpy()
    values = cells.X.toarray()
    values[held] = np.random.default_rng(1).permutation(values[held], axis=1)
    cells.X = values
    cells.write_h5ad(tmp_path / "cells.h5ad")
    begin(tmp_path)
    (tmp_path / "model").mkdir()
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((run / "model" / name).read_bytes())
    # this model has no effects saved with it: they are made from the training part of its split
    other = evaluate_held_out(HeldOutRequest(str(tmp_path), seeds=(1,), device="cpu"), tmp_path / "out")
    kept, again = (read_condition(f / "effects.npz", "JUN,FOS", "B") for f in (folder, tmp_path / "out"))
    assert kept is not None and again is not None and not np.allclose(kept.measured, again.measured)
    np.testing.assert_allclose(kept.methods["mean of other contexts"], again.methods["mean of other contexts"], atol=1e-6)
    assert next(m for m in other.methods if m.name == "mean of other contexts").n_conditions == 1


def test_validation_cells_are_said_to_flatter(run: Path, tmp_path: Path) -> None:
    made = evaluate_held_out(HeldOutRequest(str(run), part="val", cells=20, device="cpu"), tmp_path)
    assert [(c.perturbation, c.context, c.n_predicted) for c in made.conditions] == [("IFNB1", "B", 20)]
    assert "flatters" in made.held_out


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No training was begun"):
        evaluate_held_out(HeldOutRequest(str(tmp_path)), tmp_path / "out")
    with pytest.raises(ConfigError):
        HeldOutRequest()
    with pytest.raises(ConfigError):
        HeldOutRequest(str(run), seeds=(1, 1))
    with pytest.raises(ConfigError):
        HeldOutRequest(str(run), cells=0)
    held = FewShot("d", "B", val=("IFNB1",))
    plain = plan_text(SplitPlan((("d", str(run / "cells.h5ad")),), ("d",), fewshot=(held,)))
    request = HeldOutRequest(model=str(run / "model"), split=plain, device="cpu")
    with pytest.raises(SplitError, match="No cells are held out for testing"):
        evaluate_held_out(request, tmp_path / "out")
    assert from_plain(HeldOutRequest, to_plain(request)) == request


def test_cells_that_came_back_under_another_name_are_told_beside_the_numbers(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5ad"
    copy.write_bytes((run / "cells.h5ad").read_bytes())
    held = FewShot("d", "B", test=("TNF",))
    plan = SplitPlan((("d", str(run / "cells.h5ad")), ("copy", str(copy))), ("d", "copy"), fewshot=(held,))
    made = evaluate_held_out(HeldOutRequest(model=str(run / "model"), split=plan_text(plan), device="cpu"), tmp_path / "out")
    assert made.flatters and "What d holds out is trained on in copy" in made.held_out
    assert "The same cells are held out in d and trained on in copy" in made.held_out
    assert "are the same file byte for byte. What is tested would have been seen" in made.held_out


def test_what_the_card_says_came_back_is_repeated(run: Path, tmp_path: Path) -> None:
    leak = Leak("screen", "copy", ("B x TNF",))
    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    plain = json.loads((model / "model.json").read_text())
    plain["training"]["leaks"] = [to_plain(leak)]
    (model / "model.json").write_text(json.dumps(plain))
    assert read_card(model).training.leaks == (leak,)
    made = evaluate_held_out(HeldOutRequest(str(run), model=str(model), device="cpu"), tmp_path / "out")
    assert made.flatters and str(leak) in made.held_out


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["test", "--run", str(run), "--output", str(tmp_path), "--cells", "16", "--seed", "3", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "corrected" in said and "mean of other contexts" in said and "Held out of the training of" in said
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert set(table.loc[table.method == "corrected", "n_predicted"].dropna()) == {16}
    assert main(["test", "--run", str(tmp_path / "none")]) == 1
    assert "No training was begun" in capsys.readouterr().err


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_demo_has_held_out_blocks(tmp_path: Path) -> None:
    model = DEMO_PATH.parent / "model"
    card = read_card(model)
    split = split_of_card(card, open_dataset(DEMO_PATH))
    request = HeldOutRequest(model=str(model), split=split, cells=32, device="cpu")
    made = evaluate_held_out(request, tmp_path)
    assert {f"{c.context} x {c.perturbation}" for c in made.conditions} == {str(held) for held in card.training.held_out}
    assert made.value("corrected", "expr_mae") is not None and made.value("mean of other contexts", "expr_mae") is not None
    with pytest.raises(SplitError, match="names no held-out cells"):
        split_of_card(replace(card, training=replace(card.training, held_out=())), open_dataset(DEMO_PATH))


def test_both_are_kinds_of_jobs() -> None:
    assert callable(load_target(KINDS["test"].target)) and callable(load_target(KINDS["evaluate"].target))
