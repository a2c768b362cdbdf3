"""Measure seconds and peak memory of each step on a data set of a million cells x 18,080 genes, that this script makes.

    python -m benchmarks.million SCRATCH [--cells 1000000] [--genes 18080] [--entries 1000] [--stores 20000] [--steps inspect predict …] [--keep]

The cells are counts in AnnData's CSR layout, written block by block (lzf): `--entries` genes are expressed in each cell, 100
perturbations and the control (a tenth of the cells) lie in 4 contexts and 8 batches, and each perturbation raises genes of its own.
Zarr stores of version 2, version 3 and version 3 with shards hold the first `--stores` cells, or all with `--stores 0`. Models have
random weights: numbers of a prediction mean nothing here, what they cost does.

Each step is a process of its own. Peak memory is the largest sum of the resident memory of that process and its children, looked at
50 times a second, or what the system says of a single one of them, whichever is more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from state_engine.data.files.frames import write_empty

ROOT = Path(__file__).resolve().parents[1]
PERTURBATIONS, CONTEXTS, BATCHES = 100, 4, 8
PREDICTED = 20
BLOCK = 20_000  # cells made at once
RAISED = 100  # genes that a perturbation raises


def genes_of(n: int) -> list[str]:
    """Return the names of the genes."""
    return [f"GENE{i}" for i in range(n)]


def labels(cells: int) -> pd.DataFrame:
    """Return obs: the perturbation, context and batch of each cell."""
    rng = np.random.default_rng(1)
    names = ["control", *(f"P{i}" for i in range(PERTURBATIONS))]
    codes = np.where(rng.random(cells) < 0.1, 0, rng.integers(1, PERTURBATIONS + 1, cells))
    columns = {
        "perturbation": pd.Categorical.from_codes(codes, names),
        "cell_type": pd.Categorical.from_codes(rng.integers(0, CONTEXTS, cells), [f"context {i}" for i in range(CONTEXTS)]),
        "batch": pd.Categorical.from_codes(rng.integers(0, BATCHES, cells), [f"lane {i}" for i in range(BATCHES)]),
    }
    return pd.DataFrame(columns, index=pd.Index([f"cell{i}" for i in range(cells)], dtype=object))


def write_cells(path: Path, cells: int, genes: int, entries: int) -> Path:
    """Write the data set."""
    obs, rng, step = labels(cells), np.random.default_rng(0), genes // entries
    perturbation = obs["perturbation"].cat.codes.to_numpy().astype(np.int64)
    total = cells * entries
    with h5py.File(path, "w") as file:
        write_empty(file, obs, pd.DataFrame(index=pd.Index(genes_of(genes), dtype=object)))
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([cells, genes])})
        chunks = {"chunks": (min(1 << 16, total),), "compression": "lzf", "shuffle": True}
        values = matrix.create_dataset("data", (total,), "f4", **chunks)
        columns = matrix.create_dataset("indices", (total,), "i4", **chunks)
        matrix.create_dataset("indptr", data=np.arange(cells + 1, dtype=np.int64) * entries)
        for start in range(0, cells, BLOCK):
            rows = min(BLOCK, cells - start)
            # one gene of each stretch of `step` genes, so that positions ascend
            place = np.arange(entries) * step + rng.integers(0, step, (rows, entries))
            counts = 1 + rng.integers(0, 4, (rows, entries)) * (place % 7 == 0)
            label = perturbation[start : start + rows, None]
            counts = np.where((label > 0) & ((place + 181 * label) % genes < RAISED), 3 * counts, counts)
            part = slice(start * entries, (start + rows) * entries)
            columns[part], values[part] = place.ravel().astype(np.int32), counts.ravel().astype(np.float32)
    return path


def write_models(folder: Path, genes: int) -> None:
    """Write a State Transition model of all genes and a State Embedding model, with random weights."""
    import torch

    from state_engine.checkpoints import card, embedding_card, embedding_store, store
    from state_engine.models.config import BackboneConfig, TransitionConfig
    from state_engine.models.embedding import EmbeddingModel
    from state_engine.models.embedding_config import EmbeddingConfig
    from state_engine.models.transition import TransitionModel

    torch.manual_seed(0)
    backbone = BackboneConfig("llama", hidden=64, layers=2, heads=4, kv_heads=4, head_dim=16, intermediate=128)
    names = ("control", *(f"P{i}" for i in range(PERTURBATIONS)))
    config = TransitionConfig(
        input_dim=genes, output_dim=genes, perturbation_dim=len(names), backbone=backbone, output_space="hvg", set_size=64
    )
    transition = card.ModelCard(
        format=card.FORMAT, id="", name="Random ST", config=config, input_key="X_hvg", input_genes=tuple(genes_of(genes)),
        output_genes=tuple(genes_of(genes)), scale="log1p", control="control", perturbations=names, perturbation_encoding="one-hot",
        batches=(), contexts=(), perturbation_key="perturbation", context_key="cell_type", batch_key="batch", attention="full",
        attention_source="Set by the benchmark.", weights_hash="",
    )  # fmt: skip
    store.save_model(folder / "st", transition, TransitionModel(config).state_dict())
    se = EmbeddingConfig(genes=genes, token_dim=16, hidden=16, layers=1, heads=2, feed_forward=32, output_dim=16, tokens=32)
    known = tuple(genes_of(genes))
    embedding = embedding_card.EmbeddingCard(
        embedding_card.FORMAT, "", "Random SE", se, known, embedding_card.vocabulary_hash(known), ""
    )
    embedding_store.save_embedding(folder / "se", embedding, EmbeddingModel(se).state_dict(), torch.randn(genes, se.token_dim))


def write_stores(folder: Path, cells: Path) -> None:
    """Write the zarr stores."""
    from state_engine.data.files.zarr_copy import h5ad_to_zarr

    h5ad_to_zarr(cells, folder / "v2.zarr", 2)
    h5ad_to_zarr(cells, folder / "v3.zarr", 3)
    h5ad_to_zarr(cells, folder / "sharded.zarr", 3, shards=True)


MAP = """
import sys
from pathlib import Path
from state_engine.analysis.projection import fit_embedding
from state_engine.data.dataset import open_dataset
made = fit_embedding(open_dataset(sys.argv[1]), "X_state", 16, Path(sys.argv[2]))
print(made.settings.note)
"""
RESULT_MAP = """
import sys
from pathlib import Path
from state_engine.analysis.projection import fit
print(fit(Path(sys.argv[1]), Path(sys.argv[2])).settings.note)
"""
LOOK = """
import sys
from pathlib import Path
from state_engine.analysis import stored
from state_engine.prediction.result import open_result
run = Path(sys.argv[1])
stored.effects_for(run)
"""


GENE = """
import sys, time
from pathlib import Path
import numpy as np
from state_engine.data.gene_columns import read_column
place = max(Path(sys.argv[1]).glob("*.h5"), key=lambda path: path.stat().st_size)
times, cells = [], 0
for gene in np.random.default_rng(0).integers(0, 18_000, 50).tolist():
    start = time.perf_counter()
    cells = max(cells, int((read_column(place, gene) > 0).sum()))
    times.append(time.perf_counter() - start)
print(f"{place.stat().st_size / 1e9:.2f} GB; seconds for a gene: median {np.median(times):.3f}, most {max(times):.3f}; in up to {cells:,} cells")
"""


def steps(folder: Path) -> dict[str, list[str]]:
    """Return the command of each step, in their order."""
    command = [sys.executable, "-m", "state_engine"]
    cells, run = str(folder / "cells.h5ad"), str(folder / "run")
    keys = ["--perturbation-key", "perturbation", "--control", "control", "--context-key", "cell_type"]
    wanted = [word for i in range(PREDICTED) for word in ("--perturbation", f"P{i}")]
    predict = [
        *command,
        "predict",
        "--data",
        cells,
        "--model",
        str(folder / "st"),
        *wanted,
        "--context",
        "context 0",
        "--device",
        "cpu",
    ]
    embedded = str(folder / "embedded.h5ad")
    return {
        "open and inspect .h5ad": [*command, "inspect", cells],
        "open and inspect zarr 2": [*command, "inspect", str(folder / "v2.zarr")],
        "open and inspect zarr 3": [*command, "inspect", str(folder / "v3.zarr")],
        "open and inspect zarr 3, sharded": [*command, "inspect", str(folder / "sharded.zarr")],
        "predict 20 conditions of 256 cells": [*predict, "--output", f"{run}/result.h5ad"],
        "predict, as .zarr": [*predict, "--output", str(folder / "result.zarr")],
        "effects of all conditions": [sys.executable, "-c", LOOK, run],
        "DE of one condition": [*command, "de", "--data", f"{run}/result.h5ad", "--perturbation", "P0", "--context", "context 0",
                                "--output", str(folder / "de.csv")],
        "map of the prediction": [sys.executable, "-c", RESULT_MAP, f"{run}/result.h5ad", str(folder / "result.npz")],
        "export tables": [*command, "tables", "--run", run],
        "embed": [*command, "embed", "--data", cells, "--model", str(folder / "se"), "--device", "cpu", "--key", "X_state", "--output", embedded],
        "map of the embedding": [sys.executable, "-c", MAP, embedded, str(folder / "map.npz")],
        "evaluate": [*command, "evaluate", "--predicted", f"{run}/result.h5ad", "--real", cells, *keys,
                     "--predicted-context-key", "context", "--output", str(folder / "evaluation")],
        "prepare 2,000 variable genes": [*command, "prepare", "--data", cells, "--output", str(folder / "prepared.h5ad")],
        "keep values by gene": [*command, "gene", "--data", cells, "--gene", "GENE5", "--output", str(folder / "gene.npy")],
        "one gene of all cells": [sys.executable, "-c", GENE, str(folder / "home" / "genes")],
    }  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a step took: seconds on the clock and of the processor, and peak resident megabytes."""

    seconds: float
    processor: float
    peak: float


def measure(command: list[str], folder: Path) -> tuple[Cost, str]:
    """Run a command; return its cost and the last line that it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STATE_EXPLORER_HOME": str(folder / "home")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peaks, over = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peaks, over))
    watch.start()
    said = process.communicate()[0]
    over.set()
    watch.join()
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line for line in said.splitlines() if line.strip()] or [""]
    if process.returncode:
        return Cost(seconds, float("nan"), max(peaks)), f"failed: {said.strip()[-600:]}"
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, processor, max(peaks)), lines[0]


def _watch(pid: int, peaks: list[float], over: threading.Event) -> None:
    """Note the resident megabytes of a process and its descendants, and the peak of each, until it is over."""
    while not over.wait(0.02):
        tree = _tree(pid)
        peaks.append(sum(_megabytes(one, "VmRSS") for one in tree))
        peaks.append(max((_megabytes(one, "VmHWM") for one in tree), default=0.0))


def _tree(pid: int) -> list[int]:
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                ahead += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _megabytes(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def make(folder: Path, given: argparse.Namespace) -> None:
    """Make the data set, the stores and the models, where they are not there."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "manifest.json").write_text("{}")
    (folder / "home").mkdir(exist_ok=True)
    cells = folder / "cells.h5ad"
    if not cells.exists():
        write_cells(cells, given.cells, given.genes, given.entries)
    if not (folder / "st").exists():
        write_models(folder, given.genes)
    if not (folder / "sharded.zarr").exists():
        some = (
            cells
            if not given.stores
            else write_cells(folder / "some.h5ad", min(given.stores, given.cells), given.genes, given.entries)
        )
        write_stores(folder, some)


def main() -> None:
    """Make the inputs, run each step, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=18_080)
    parser.add_argument("--entries", type=int, default=1_000)
    parser.add_argument("--stores", type=int, default=20_000)
    parser.add_argument("--steps", nargs="*", default=[], help="parts of the names of the steps to run; default: all")
    given = parser.parse_args()
    folder = given.scratch.resolve()
    make(folder, given)
    size = (folder / "cells.h5ad").stat().st_size / 1e9
    print(f"{given.cells:,} cells x {given.genes:,} genes, {given.entries:,} values for each cell, {size:.1f} GB\n")
    print("| step | seconds | processor seconds | peak MB |\n|---|--:|--:|--:|", flush=True)
    for name, command in steps(folder).items():
        if not given.steps or any(part in name for part in given.steps):
            cost, said = measure(command, folder)
            print(f"| {name} | {cost.seconds:.1f} | {cost.processor:.1f} | {cost.peak:,.0f} |", flush=True)
            print(f"{name}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
