"""A screen of 1,000 perturbations x 256 cells on a model of the demo's size: seconds, peak memory and disk, whole process.

    python -m benchmarks.screen [--perturbations 1000] [--cells 256] [--contexts 1] [--goal signature|target|size] [--threads 2]

The model has the demo's weights and random ones for the perturbations that the demo does not know, so its predictions mean nothing; the work is
that of a trained one. The screen runs as its user would start it, in a process of its own, on the demo's cells.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from state_engine.checkpoints.store import read_store, save_model
from state_engine.data.dataset import open_dataset
from state_engine.files import size_on_disk
from state_engine.models.transition import TransitionModel

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "assets" / "demo"
GOALS = {
    "signature": [word for gene in ("ISG15", "IFIT1", "MX1", "IFI6", "STAT1") for word in ("--up-gene", gene)],
    "target": ["--target-cells", "perturbation=IFN-beta"],
    "size": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perturbations", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--contexts", type=int, default=1)
    parser.add_argument("--goal", choices=[*GOALS], default="signature")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_wide(work / "model", options.perturbations)
        contexts = open_dataset(DEMO / "demo.h5ad").contexts[: options.contexts]
        words = [
            sys.executable,
            "-m",
            "state_engine",
            "screen",
            "--data",
            str(DEMO / "demo.h5ad"),
            "--model",
            str(work / "model"),
        ]
        words += ["--cells", str(options.cells), "--device", "cpu", "--output", str(work / "screen"), *GOALS[options.goal]]
        words += [word for context in contexts for word in ("--context", context)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
        for name in ("screen", "the same again"):
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                words, cwd=ROOT, env=os.environ | threads, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            row = {
                "what": name,
                "conditions": options.perturbations * len(contexts),
                "seconds": round(time.perf_counter() - start, 1),
                "processor seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
                "peak MB": round(used.ru_maxrss / 1024),
                "disk MB": round(size_on_disk(work / "screen") / 1e6),
            }
            print(json.dumps(row), flush=True)


def write_wide(folder: Path, perturbations: int) -> None:
    """Write a model of the demo's size that knows so many perturbations."""
    card, weights, _ = read_store(DEMO / "model")
    config = replace(card.config, perturbation_dim=perturbations + 1)
    torch.manual_seed(0)
    made = {
        name: weights[name] if weights[name].shape == value.shape else torch.randn(value.shape) * weights[name].std()
        for name, value in TransitionModel(config).state_dict().items()
    }
    labels = (card.control, *(f"P{i:05d}" for i in range(perturbations)))
    save_model(folder, replace(card, name="Wide", config=config, perturbations=labels, calibration=None), made)


if __name__ == "__main__":
    main()
