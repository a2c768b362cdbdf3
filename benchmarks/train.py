"""Our training beside the reference's `state tx train`, on the same cells, preset and mini-batch, in one run.

    python -m benchmarks.train [--sets 18] [--preset state_sm] [--steps 10 40] [--repeats 3]     steps per second
    python -m benchmarks.train --curve [--sets 6] [--curve-steps 300] [--seeds 0 1 2]           validation loss after the same steps

Data: ../shared/data/norman_mcfaline.h5ad (or --data), 500 genes; a copy with the names and matrices that the reference asks for.

speed   Both programs are started as their users start them, with the smaller and with the larger number of `--steps`, in turn, `--repeats`
        times: seconds of a step are the difference in time by the difference in steps, so start, data and end do not count; the median
        counts. Seconds of processors beside, which a busy machine changes less. The reference loads its cells with `--workers` processes.
        "filled": groups that are smaller than a set are filled up with repeated cells, as the reference does; else a set has no
        cell twice. The mini-batch is best a divisor of the number of sets (the first line says it): the reference's last one of a
        pass has what is left.
curve   Both train with each of `--seeds`, the same cells held out. Every final model is loaded by our loader and scored by one and the
        same evaluation: the energy distance on fixed validation sets, in eval mode.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from state_engine.data.dataset import Choices
from state_engine.train.mini_batches import SetCells

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "state tx train"
COLUMNS = {"perturbation": "condition", "context": "cell_type", "batch": "plate", "control": "control"}
OURS = ("fp32", "fp32-filled", "bf16")
PLAN = """[datasets]
screen = "{data}"

[training]
screen = "train"

[zeroshot]

[fewshot."screen.k562"]
val = ["MAPK1", "SGK1", "MAP3K21", "CBL+CNN1", "KLF1+TGFBR2", "SET+KLF1"]
test = ["TGFBR2"]

[fewshot."screen.A172"]
val = ["MAP2K3", "MAP4K3"]
test = ["MAPK1"]
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        work = Path(folder)
        split = prepare(options.data, work)
        for row in curve(work, split, options) if options.curve else speed(work, split, options):
            print(json.dumps(row), flush=True)


def prepare(data: Path, work: Path) -> Path:
    """A copy of the cells that both programs read, and the split; returns the split."""
    import anndata

    cells = anndata.read_h5ad(data)
    cells.var.index.name = "_index"
    cells.obs[COLUMNS["batch"]] = np.where(np.arange(cells.n_obs) % 2, "one", "two")
    cells.obs = cells.obs.astype("category")
    cells.obsm["X_hvg"] = np.asarray(cells.X.todense(), dtype=np.float32)
    cells.uns = {}
    path = work / "cells.h5ad"
    cells.write_h5ad(path)
    split = work / "split.toml"
    split.write_text(PLAN.format(data=path))
    return split


def choices() -> Choices:
    """What the columns of the cells mean."""
    return Choices(COLUMNS["perturbation"], COLUMNS["control"], COLUMNS["context"], COLUMNS["batch"])


def commands(split: Path, output: Path, steps: int, seed: int, options: argparse.Namespace) -> dict[str, list[str]]:
    """How each program is started, and where its run lies: `output` / program."""
    c = COLUMNS
    theirs = {
        "data.kwargs.toml_config_path": split, "data.kwargs.embed_key": "X_hvg", "data.kwargs.output_space": "gene",
        "data.kwargs.pert_col": c["perturbation"], "data.kwargs.cell_type_key": c["context"], "data.kwargs.batch_col": c["batch"],
        "data.kwargs.control_pert": c["control"], "data.kwargs.num_workers": options.workers, "training.batch_size": options.sets,
        "training.max_steps": steps, "training.val_freq": 10**6, "training.ckpt_every_n_steps": 10**6, "training.lr": 1e-4,
        "training.train_seed": seed, "model": options.preset, "use_wandb": "false", "overwrite": "true", "output_dir": output,
        "name": REFERENCE.replace(" ", "-"),
    }  # fmt: skip
    ours = [
        sys.executable, "-m", "state_engine", "train", "--split", str(split), "--preset", options.preset, "--device", options.device,
        "--perturbation-key", c["perturbation"], "--context-key", c["context"], "--batch-key", c["batch"], "--control", c["control"],
        "--embedding-key", "X_hvg", "--max-steps", str(steps),
    ]  # fmt: skip
    settings = {"sets_a_step": options.sets, "seed": seed, "validate_every": 0, "checkpoint_every": 0, "calibrate": "false"}
    ours += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    found = {REFERENCE: [str(options.peer / "bin" / "state"), "tx", "train", *(f"{k}={v}" for k, v in theirs.items())]}
    for name in options.ours:
        precision, _, filled = name.partition("-")
        more = ["--precision", precision, "--set", f"fill={str(bool(filled)).lower()}"]
        found[f"ours {name}"] = [*ours, *more, "--output", str(output / f"ours-{name}")]
    return found


def speed(work: Path, split: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Seconds of a step of each program, and how many times as fast as the reference."""
    few, many = options.steps
    sets = sets_a_pass(split, options)
    yield {
        "sets a pass": sets,
        "sets a step": options.sets,
        "sets a step of the reference": round(sets / -(-sets // options.sets), 2),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    for repeat in range(options.repeats):
        for name in commands(split, work, few, 0, options):
            taken = [
                _timed(commands(split, work / f"{repeat}-{steps}", steps, 0, options)[name], options.threads)
                for steps in (few, many)
            ]
            wall, processors = (np.array(taken[1]) - np.array(taken[0])) / (many - few)
            found.setdefault(name, []).append((float(wall), float(processors)))
    wall, processors = ({n: statistics.median(t[i] for t in times) for n, times in found.items()} for i in (0, 1))
    for name, times in found.items():
        yield {
            "program": name,
            "sets a step": options.sets,
            "seconds a step": round(wall[name], 3),
            "spread": [round(min(t[0] for t in times), 3), round(max(t[0] for t in times), 3)],
            "processor seconds a step": round(processors[name], 3),
            "times as fast": round(wall[REFERENCE] / wall[name], 2),
            "part of its processor seconds": round(processors[name] / processors[REFERENCE], 2),
            **_waited(work, name, many),
        }


def sets_a_pass(split: Path, options: argparse.Namespace) -> int:
    """Sets that the training cells make: of each perturbation and context as many as its cells fill, the last one too."""
    from state_engine.data.splits.apply import open_split
    from state_engine.train.request import resolve

    size = resolve(options.preset).set_size
    return int((-(-open_split(split, choices()).table()["train"] // size)).sum())


def _waited(work: Path, name: str, steps: int) -> dict[str, float]:
    record = work / f"0-{steps}" / name.replace(" ", "-") / "training.json"
    return {"part of its time that it waited for cells": json.loads(record.read_text())["waited"]} if record.is_file() else {}


def curve(work: Path, split: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Validation loss of every final model, and whether ours are within the spread of the reference's."""
    losses: dict[str, list[float]] = {REFERENCE: [], "ours fp32": []}
    options.ours = ["fp32"]
    sets = validation_sets(split, options)
    for seed in options.seeds:
        output = work / f"seed-{seed}"
        for name in losses:
            began = time.perf_counter()
            _timed(commands(split, output, options.curve_steps, seed, options)[name], options.threads)
            loss = validation_loss(sets, output / name.replace(" ", "-"))
            losses[name].append(loss)
            yield {
                "program": name,
                "seed": seed,
                "validation loss": round(loss, 4),
                "seconds": round(time.perf_counter() - began),
            }
    low, high = min(losses[REFERENCE]), max(losses[REFERENCE])
    ours = losses["ours fp32"]
    yield {
        "steps": options.curve_steps,
        "sets a step": options.sets,
        "reference": [round(low, 4), round(high, 4)],
        "ours": [round(min(ours), 4), round(max(ours), 4)],
        "ours within the reference's spread": [low <= loss <= high for loss in ours],
        "ours at most the reference's largest": all(loss <= high for loss in ours),
        "before training": round(validation_loss(sets), 4),
    }


def validation_sets(split: Path, options: argparse.Namespace) -> list[tuple[str, SetCells]]:
    """The cell sets that every model is scored on, each with its perturbation."""
    from state_engine.data.splits.apply import open_split
    from state_engine.train.cells import choose_inputs, read_training_cells
    from state_engine.train.mini_batches import gather, validation_rows
    from state_engine.train.request import resolve

    opened = open_split(split, choices())
    request = resolve(options.preset, {"embedding": "X_hvg"})
    cells = read_training_cells(opened, choose_inputs(opened, request), request, split.parent / "cache")
    rows = validation_rows(cells.groups["val"], request.sets.set_size, 64, 0)
    assert rows is not None
    sets = [gather(cells, rows.part(slice(i, i + 1))) for i in range(len(rows.sizes))]
    return [(cells.perturbations[int(one.perturbations[0])], one) for one in sets]


def validation_loss(sets: list[tuple[str, SetCells]], run: Path | None = None) -> float:
    """Mean energy distance of a model's predictions on the sets; without a model, of the basal cells themselves."""
    import torch

    from state_engine.checkpoints.load import load_model
    from state_engine.models.distances import energy_distance

    loaded = None if run is None else load_model(run)
    losses = []
    with torch.inference_mode():
        for label, one in sets:
            predicted = torch.from_numpy(one.basal)[None]
            if loaded is not None:
                vector = loaded.perturbation_features[loaded.card.perturbations.index(label)]
                predicted = loaded.module(predicted, vector[None], attention=loaded.card.attention).predicted
            losses.append(float(energy_distance(predicted, torch.from_numpy(one.observed)[None])))
    return float(np.mean(losses))


def _timed(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds and processor seconds of a program, its children included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", type=Path, default=ROOT / ".peers" / "arc-state", help="virtual environment with arc-state")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data" / "norman_mcfaline.h5ad")
    add("--preset", default="state_sm")
    add("--sets", type=int, default=18, help="cell sets in a mini-batch")
    add("--steps", type=int, nargs=2, default=[10, 40])
    add("--repeats", type=int, default=3)
    add("--workers", type=int, default=0, help="processes that load cells for the reference; 0: none beside its own")
    add("--ours", nargs="+", choices=OURS, default=list(OURS))
    add("--threads", type=int, default=os.cpu_count() or 1, help="of both programs")
    add("--device", default="cpu")
    add("--curve", action="store_true")
    add("--curve-steps", type=int, default=300)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--scratch", type=Path, help="where the temporary folder goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
