"""Two simulated data sets and a tiny pretraining, for the tests of pretraining."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np

from state_engine.demo.cells import Design, write_simulated
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task

SIZES = Sizes(hidden=16, layers=2, heads=2, feed_forward=32, output_dim=8, tokens=24, gene_width=12)
TASK = Task(8, 7, 6)


def make_files(folder: Path, cells: int = 260) -> tuple[Path, Path]:
    """Two files whose genes overlap: the second has another seed, and its genes in another order without the first forty."""
    one = write_simulated(folder / "one.h5ad", Design(n_cells=cells))
    other = anndata.read_h5ad(write_simulated(folder / "two.h5ad", Design(n_cells=cells, seed=5)))
    order = np.random.default_rng(0).permutation(other.n_vars)
    other = other[:, order[order >= 40]].copy()
    other.write_h5ad(folder / "two.h5ad")
    return one, folder / "two.h5ad"


def small_request(*data: Path, steps: int = 6, **running: object) -> PretrainRequest:
    """Some steps on the CPU."""
    given: dict = {"device": "cpu", "checkpoint_every": 0, "validate_every": 3, "validation": 0.1, "simulated": True, **running}
    schedule = Schedule(steps=steps, cells_per_step=10, learning_rate=2e-3, warmup=0.34)
    return PretrainRequest(tuple(map(str, data)), sizes=SIZES, task=TASK, schedule=schedule, running=Running(**given))
