"""How much longer a job takes on Ray than in this process: the same prediction of the demo, in shards, with both executors.

    OMP_NUM_THREADS=1 python -m benchmarks.executors [--seconds 60] [--cpus 1]

Prints one line for each executor: seconds, seconds until the first shard, and shards. Each has the same threads for a shard; Ray has as many
actors as the machine has CPUs for them, `local` has one process; with --cpus 1 the difference is the overhead. Needs ray.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from state_engine.config import DEMO
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.shards.ledger import log_lines
from state_engine.shards.run import InShards, executor_of

SHARD = 8 << 20
TRIAL = 128  # cells of the run that tells how many fill the time


def demo_request(cells: int) -> PredictionRequest:
    """Return a prediction of all perturbations of the demo."""
    from state_engine.checkpoints.load import card_of

    data, model = DEMO / "demo.h5ad", DEMO / "model"
    labels = tuple(p for p in card_of(model).perturbations if p != card_of(model).control)
    return PredictionRequest(str(data), str(model), labels, cells=cells, observed=0, device="cpu")


def measure(request: PredictionRequest, executor: str, folder: Path) -> tuple[float, float, int]:
    """Return the seconds of a prediction, those until its first shard was done, and the number of its shards."""
    began, wall = time.perf_counter(), time.time()
    shards = InShards(folder / f"shards-{executor}", executor_of(executor), SHARD)
    predict(request, folder / f"{executor}.h5ad", shards=shards)
    seconds = time.perf_counter() - began
    done = [float(str(line["time"])) for line in log_lines(shards.folder) if "done" in line]
    (folder / f"{executor}.h5ad").unlink()
    return seconds, min(done, default=wall) - wall, len(done)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the job, about")
    parser.add_argument("--cpus", type=int, default=1, help="of the Ray cluster that is started here")
    given = parser.parse_args()
    import ray
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="executors-") as name:
        folder = Path(name)
        trial = demo_request(TRIAL)
        measure(trial, "local", folder)  # what is slow the first time
        seconds, _, _ = measure(replace(trial, seed=1), "local", folder)
        request = replace(trial, cells=max(TRIAL, int(TRIAL * given.seconds / seconds)))
        local = measure(request, "local", folder)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        began = time.perf_counter()
        ray.init(
            num_cpus=given.cpus,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
        )
        start = time.perf_counter() - began
        on_ray = measure(request, "ray", folder)
        ray.shutdown()
    print(f"{'executor':<10}{'seconds':>10}{'first shard':>14}{'shards':>8}")
    for label, (total, first, shards) in (("local", local), ("ray", on_ray)):
        print(f"{label:<10}{total:>10.1f}{first:>14.1f}{shards:>8}")
    print(
        f"start of the cluster: {start:.1f} s, not counted; overhead: {100 * (on_ray[0] / local[0] - 1):.1f} %, {given.cpus} CPU"
    )


if __name__ == "__main__":
    main()
