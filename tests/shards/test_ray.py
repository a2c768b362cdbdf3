"""Shards on Ray: the numbers of this process; a node that dies costs its running shards only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from state_engine.analysis.in_shards import make_tables
from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.data.splits.plan import plan_text
from state_engine.errors import JobCancelled, JobError, LabelError
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.request import HeldOutRequest
from state_engine.library.datasets import DEMO_PATH
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.sources import STAGE
from state_engine.progress import Progress
from state_engine.screening import cost
from state_engine.screening.request import ScreenRequest
from state_engine.screening.run import screen
from state_engine.shards.ledger import held, log_lines
from state_engine.shards.on_ray import IN_FLIGHT
from state_engine.shards.run import InShards, complete, executor_of
from state_engine.shards.together import Together, run_together
from state_engine.train.calibration import add_baselines
from state_engine.train.run_folder import MODEL, read_record
from tests.cli.test_train import words as asked_training
from tests.evaluation.test_held_out import begin as begin_training
from tests.prediction.make_result import make_result
from tests.prediction.test_in_shards import asked, same
from tests.shards.squares import Squares, plan_of
from tests.shards.test_shards import all_of, done, values
from tests.small import GENES, write_cells, write_model
from tests.train.small import make_data
from tests.train.small import plan_of as split_of

ray = pytest.importorskip("ray", reason="Ray is optional (pip install -r requirements-ray.txt)")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU on this machine, and this process as a driver."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    ray.shutdown()
    made.shutdown()
    del os.environ["RAY_ADDRESS"]


def test_two_nodes_give_the_numbers_of_this_process(cluster: Any, tmp_path: Path) -> None:
    plan = plan_of(Squares(20, 0.1))
    here = all_of(tmp_path / "here", plan)
    with held(tmp_path / "there", plan) as ledger:
        complete(ledger, executor_of("ray"), lambda progress: None)
        assert np.array_equal(values(ledger), here)
    assert done(tmp_path / "there") == Counter(range(20))
    assert len({line["process"] for line in log_lines(tmp_path / "there")}) == 2


def test_a_process_that_is_killed_costs_its_running_shards(cluster: Any, tmp_path: Path) -> None:
    plan = plan_of(Squares(12, 0.1, die=5, mark=str(tmp_path / "died")))
    here = all_of(tmp_path / "here", plan_of(Squares(12)))
    with held(tmp_path / "there", plan) as ledger:
        complete(ledger, executor_of("ray"), lambda progress: None)
        assert np.array_equal(values(ledger), here)
    assert done(tmp_path / "there") == Counter(range(12))
    begun = Counter(line["begun"] for line in log_lines(tmp_path / "there") if "begun" in line)
    assert begun[5] == 2 and sum(begun.values()) <= 14


def test_a_cancelled_run_ends_its_actors(cluster: Any, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done >= 3:
            raise JobCancelled("Stopped by the test.")

    with pytest.raises(JobCancelled), held(tmp_path, plan_of(Squares(50, 0.1))) as ledger:
        complete(ledger, executor_of("ray"), stop)
    processes = {int(str(line["process"])) for line in log_lines(tmp_path)}
    deadline = time.monotonic() + 10
    while any(map(lives, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(lives, processes))


def test_what_a_shard_raises_comes_out(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="No shard"), held(tmp_path, plan_of(Squares(3, refuse="No shard."))) as ledger:
        complete(ledger, executor_of("ray"), lambda progress: None)


def test_a_prediction_has_the_same_numbers(cluster: Any, tmp_path: Path) -> None:
    request = asked(tmp_path)
    predict(request, tmp_path / "here.h5ad", shards=InShards(tmp_path / "a", size=1))
    predict(request, tmp_path / "there.h5ad", shards=InShards(tmp_path / "b", executor_of("ray"), size=1))
    assert same(tmp_path / "here.h5ad", tmp_path / "there.h5ad")
    lines = log_lines(tmp_path / "b")
    assert done(tmp_path / "b") == Counter(range(6)) and os.getpid() not in {line["process"] for line in lines}


def test_a_screen_has_the_same_ranking(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MOST_BLOCK", 1)
    write_cells(tmp_path / "cells.h5ad", 200)
    write_model(tmp_path / "model")
    request = ScreenRequest(
        f"{tmp_path}/cells.h5ad", f"{tmp_path}/model", up_genes=GENES[:4], cells=16, sample=8, splits=200, device="cpu"
    )
    screen(request, tmp_path / "here")
    report = screen(request, tmp_path / "there", executor=executor_of("ray"))
    for name in ("ranking.csv", "effects.h5ad", "similarity.npz"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    lines = log_lines(tmp_path / "there" / "shards")
    assert report.blocks == 6 and done(tmp_path / "there" / "shards") == Counter(range(8))
    assert os.getpid() not in {line["process"] for line in lines}


def test_held_out_cells_have_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    write_cells(tmp_path / "cells.h5ad", 240)
    split = begin_training(tmp_path)
    write_model(tmp_path / "model")
    add_baselines(tmp_path / "model", split)
    request = HeldOutRequest(str(tmp_path), device="cpu")
    evaluate_held_out(request, tmp_path / "here")
    on_ray = InShards(tmp_path / "there" / "shards", executor_of("ray"), size=1)
    evaluate_held_out(request, tmp_path / "there", shards=on_ray)
    for name in ("predicted.h5ad", "metrics.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert done(on_ray.folder) == Counter(range(2))


def test_tables_have_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    for name, executor in (("a", "local"), ("b", "ray")):
        (tmp_path / name).mkdir()
        make_result(tmp_path / name / "result.h5ad")
        make_tables(tmp_path / name, lambda progress: None, executor_of(executor))
    # names end with a digest of the result, which here are two files
    tables = [
        {(p.name.rpartition("-")[0], p.suffix): p.read_bytes() for p in (tmp_path / name / "differential").iterdir()}
        for name in ("a", "b")
    ]
    assert len(tables[0]) == 4 * 3 and tables[0] == tables[1]


def test_a_training_on_two_nodes_has_the_weights_of_two_processes_here(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_data(tmp_path)
    (tmp_path / "split.toml").write_text(plan_text(split_of("pbmc.h5ad")))
    words = asked_training(tmp_path / "split.toml", tmp_path / "here", "--max-steps", "4", "--set", "sets_a_step=4")
    local = [sys.executable, "-m", "state_engine", *words, "--set", "devices=2"]
    assert subprocess.run(local, check=False, cwd=Path(__file__).parents[2]).returncode == 0
    words[words.index("--output") + 1] = str(tmp_path / "there")
    assert main([*words, "--set", "nodes=2", "--executor", "ray"]) == 0
    assert "mean, testing" in capsys.readouterr().out
    assert read_record(tmp_path / "there").state == "done"
    here, there = (read_card(tmp_path / name / MODEL).weights_hash for name in ("here", "there"))
    assert here == there


def test_a_command_that_fails_on_a_node_says_why(cluster: Any) -> None:
    with pytest.raises(JobError, match="node 1 of 1") as told:
        run_together(Together("ray", ("no-such-command",), 1, 1, "cpu"), lambda line: None)
    assert "no-such-command" in told.value.why


def test_a_node_that_dies_in_a_prediction_costs_its_running_shards(cluster: Any, tmp_path: Path) -> None:
    """The last test: it takes the second node away, its raylet and all that it started."""
    model = DEMO_PATH.parent / "model"
    labels = tuple(p for p in read_card(model).perturbations if p != read_card(model).control)
    request = PredictionRequest(str(DEMO_PATH), str(model), labels, ("B", "NK", "CD4 T"), cells=256, device="cpu")
    predict(request, tmp_path / "here.h5ad", shards=InShards(tmp_path / "a", size=1))
    node = next(node for node in cluster.list_all_nodes() if not node.head)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    killed: set[int] = set()

    def kill(progress: Progress) -> None:
        if killed or progress.stage != STAGE:
            return
        family = raylet.children(recursive=True)
        lines, there = log_lines(tmp_path / "b"), {process.pid for process in family}
        if any(line["process"] in there and "done" in line for line in lines):  # it has done some, and has others
            killed.update(there)
            for process in (raylet, *family):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    predict(request, tmp_path / "there.h5ad", kill, shards=InShards(tmp_path / "b", executor_of("ray"), size=1))
    assert killed and same(tmp_path / "here.h5ad", tmp_path / "there.h5ad")
    lines = log_lines(tmp_path / "b")
    begun = Counter(line["begun"] for line in lines if "begun" in line)
    finished = Counter(line["done"] for line in lines if "done" in line)
    lost = {line["begun"] for line in lines if line["process"] in killed and "begun" in line} - {
        line["done"] for line in lines if line["process"] in killed and "done" in line
    }
    assert len(lost) <= IN_FLIGHT, "only what ran there is lost"
    # of a file that was renamed, but not noted, the log knows the beginning only
    assert set(begun) == set(range(len(begun))) and all(finished[n] == 1 or (n in lost and not finished[n]) for n in begun)
    assert {n for n, times in begun.items() if times > 1} <= lost and begun.total() <= len(begun) + len(lost)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
