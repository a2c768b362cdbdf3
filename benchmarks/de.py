"""Our test of genes (illico) beside pdex, on the same simulated cells, each in a process of its own: seconds, processor seconds, ratios.

    python -m benchmarks.de [--case small middle middle-sparse middle-controls large] [--limit 300]

The first call of a process (imports and compilation among it) and a second one. Processor seconds are those of all cores: on a machine
that is shared they say more than the seconds on the clock. pdex is stopped after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("illico", "pdex")


@dataclass(frozen=True)
class Case:
    """n cells in k groups, g genes, the share of values above 0, and the share of cells that are the reference (0: as large as a group)."""

    n: int
    g: int
    k: int
    dense: float
    stored: Literal["dense", "sparse"] = "dense"
    controls: float = 0.0


# cells of a result are dense, those of a data set sparse
CASES = {
    "small": Case(1_024, 2_000, 3, 0.3),
    "middle": Case(20_000, 2_000, 50, 0.42),
    "middle-sparse": Case(20_000, 2_000, 50, 0.42, "sparse"),
    "middle-controls": Case(20_000, 2_000, 50, 0.42, controls=0.1),
    "large": Case(20_000, 8_000, 300, 0.25, "sparse", 0.1),
}
Cells = np.ndarray | sp.csr_matrix


def main() -> None:
    options = _options()
    if options.engine:
        print(json.dumps(_measure(CASES[options.case[0]], options.engine)))
        return
    for name in options.case:
        rows = {engine: _run(name, engine, options.limit) for engine in ENGINES}
        print(json.dumps({"case": name, **vars(CASES[name]), **rows, "times the processor time": _ratios(rows)}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--limit", type=float, default=300, help="seconds after which an engine is stopped")
    parser.add_argument("--engine", choices=ENGINES, help="measure one, in this process")
    return parser.parse_args()


def _run(case: str, engine: str, limit: float) -> dict[str, float | str]:
    """Measure an engine in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.de", "--case", case, "--engine", engine]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"unfinished after": limit, "processor so far": round(used, 1)}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _ratios(rows: dict[str, dict[str, float | str]]) -> dict[str, float]:
    pairs = {
        call: [rows[engine].get(f"{call}, processor") for engine in reversed(ENGINES)] for call in ("first call", "second call")
    }
    return {call: round(float(a) / float(b), 1) for call, (a, b) in pairs.items() if a is not None and b is not None}


def _measure(case: Case, engine: str) -> dict[str, float | str]:
    cells, labels = simulated(case)
    call = {"illico": _illico, "pdex": _pdex}[engine]
    found: dict[str, float | str] = {}
    for name in ("first call", "second call"):
        seconds, processor = _timed(lambda: call(cells, labels))
        found |= {name: round(seconds, 2), f"{name}, processor": round(processor, 2)}
    return found | {"peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def simulated(case: Case, seed: int = 0) -> tuple[Cells, np.ndarray]:
    """Return cells (n, g), log1p of counts per 10,000, and the group of each, "0" the reference."""
    rng = np.random.default_rng(seed)
    # a mean for each gene, spread as in real cells; scaled until the wanted share of values is above 0
    rate = rng.gamma(0.5, 1, case.g)
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (1 - np.exp(-middle * rate)).mean() < case.dense else (low, middle)
    blocks = []
    for start in range(0, case.n, 1_000):
        size = min(1_000, case.n - start)
        counts = rng.poisson(rng.uniform(0.5, 1.5, (size, 1)) * low * rate).astype(np.float32)
        cells = np.log1p(counts * (1e4 / counts.sum(axis=1, keepdims=True)))
        blocks.append(cells if case.stored == "dense" else sp.csr_matrix(cells))
    values = np.vstack(blocks) if case.stored == "dense" else sp.vstack(blocks, format="csr")
    labels = rng.integers(1, case.k, case.n)
    labels[rng.random(case.n) < (case.controls or 1 / case.k)] = 0
    return values, labels.astype(str)


def _illico(cells: Cells, labels: np.ndarray) -> None:
    from state_engine.metrics.rank_tests import against_reference

    groups = {label: cells[labels == label] for label in np.unique(labels) if label != "0"}
    tests = against_reference(groups, cells[labels == "0"], floor=0)
    assert tests.fdr.shape == tests.log2_fold_change.shape


def _pdex(cells: Cells, labels: np.ndarray) -> None:
    import anndata
    import pandas as pd
    from pdex import pdex

    obs = pd.DataFrame({"group": labels}, index=pd.RangeIndex(len(labels)).astype(str))
    data = anndata.AnnData(cells, obs, pd.DataFrame(index=pd.RangeIndex(cells.shape[1]).astype(str)))
    pdex(data, "group", mode="ref", reference="0", is_log1p=True, geometric_mean=False, epsilon=0.1)


if __name__ == "__main__":
    main()
