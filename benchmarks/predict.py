"""Our replay beside the reference's `state tx infer`, whole processes, in one run: seconds, ratios, peak memory, largest difference.

    python benchmarks/predict.py --peer .peers/arc-state --oracle ../shared/oracle [--cells 20000] [--genes 2000] [--config state_sm]

Everything is made afresh in a temporary folder: cells and a model with random weights by the oracle's scripts. Each program is started
as its user would start it, `--repeats` times in turn; the median counts. Processor seconds are those of all its cores (user and system):
on a machine that is shared they say more than the seconds on the clock. Peak memory is the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        work = Path(folder)
        _make_inputs(work, options)
        runs: dict[str, list[Run]] = {}
        for _ in range(options.repeats):
            for name, command in _commands(work, options).items():
                runs.setdefault(name, []).append(_timed(command))
                print(name, runs[name][-1], file=sys.stderr, flush=True)
        reference = _median(runs["state tx infer"])
        for name, each in runs.items():
            run = _median(each)
            seconds = [round(one.seconds, 2) for one in each]
            row = {
                "program": name,
                "seconds": round(run.seconds, 2),
                "spread": [min(seconds), max(seconds)],
                "times as fast": round(reference.seconds / run.seconds, 2),
                "processor seconds": round(run.processor, 2),
                "part of its processor seconds": round(run.processor / reference.processor, 3),
                "peak MB": round(run.peak),
                "part of its memory": round(run.peak / reference.peak, 2),
                "largest difference": _difference(work, name),
            }
            print(json.dumps(row), flush=True)


@dataclass(frozen=True)
class Run:
    """One process: seconds on the clock, user and system seconds of all cores, peak resident megabytes."""

    seconds: float
    processor: float
    peak: float


def _median(runs: list[Run]) -> Run:
    """The medians, each by itself."""
    return Run(*(statistics.median(values) for values in zip(*map(astuple, runs), strict=True)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", type=Path, default=ROOT / ".peers" / "arc-state", help="virtual environment with arc-state")
    add("--oracle", type=Path, default=ROOT.parent / "shared" / "oracle")
    add("--cells", type=int, default=20_000)
    add("--genes", type=int, default=2_000)
    add("--perturbations", type=int, default=50)
    add("--config", default="state_sm")
    add("--repeats", type=int, default=3)
    add("--scratch", type=Path, help="where the temporary folder goes")
    return parser.parse_args()


def _make_inputs(work: Path, options: argparse.Namespace) -> None:
    python = str(options.peer / "bin" / "python")
    counts = ["--perts", str(options.perturbations)]
    genes = str(options.genes)
    cells = [str(work / "cells.h5ad"), "--cells", str(options.cells), "--genes", genes, "--hvg", genes]
    subprocess.run([python, str(options.oracle / "make_cells.py"), *cells, *counts], check=True)
    model = [str(work / "model"), "--genes", genes, "--config", options.config]
    subprocess.run([python, str(options.oracle / "make_st.py"), *model, *counts], check=True)


def _commands(work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    cells, model = str(work / "cells.h5ad"), str(work / "model")
    ours = [sys.executable, "-m", "state_engine", "predict", "--replay", "--model", model, "--data", cells]
    columns = [
        "--perturbation-key",
        "gene",
        "--control",
        "non-targeting",
        "--context-key",
        "cell_type",
        "--batch-key",
        "gem_group",
    ]
    infer = ["tx", "infer", "--model-dir", model, "--adata", cells, "--embed-key", "X_hvg", "--pert-col", "gene"]
    return {
        "state tx infer": [str(options.peer / "bin" / "state"), *infer, "--output", str(work / "state tx infer.h5ad")],
        "ours fp32": [*ours, *columns, "--output", str(work / "ours fp32.h5ad")],
        "ours bf16": [*ours, *columns, "--precision", "bf16", "--output", str(work / "ours bf16.h5ad")],
    }


def _timed(command: list[str]) -> Run:
    """Run a process below a small parent, so that peak and processor seconds are its own."""
    start = time.perf_counter()
    child = f"import subprocess,resource,sys; r=subprocess.run({command!r}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
    child += "sys.stderr.write(r.stderr.decode()[-2000:]) if r.returncode else None\n"
    child += "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    child += "print(used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(r.returncode)"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    processor, peak = map(float, done.stdout.split())
    return Run(time.perf_counter() - start, processor, peak / (1024 if sys.platform != "darwin" else 1024**2))


def _difference(work: Path, name: str) -> float:
    with h5py.File(work / f"{name}.h5ad") as one, h5py.File(work / "state tx infer.h5ad") as other:
        ours, theirs = one["obsm/X_hvg"], other["obsm/X_hvg"]
        return float(max(np.abs(ours[i : i + 2000] - theirs[i : i + 2000]).max() for i in range(0, len(ours), 2000)))


if __name__ == "__main__":
    main()
