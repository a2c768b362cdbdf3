"""Measure how long the Data page waits for a data set to be opened, now and in an older tree, in one alternating run.

    python benchmarks/opening.py FILE [FILE ...] [--before TREE] [--repeats 5] [--million SCRATCH]

Each opening is what the page of a running server does the first time: here in a child process (`library.foreign.open_foreign`), before in
the same process (`open_dataset`). A new process for each measurement opens the demo first, so that imports are not counted, and is timed for
the file. `--million` also writes two sparse files of 2,000 genes there and opens them: 1 million cells, and 200,000 cells with much to note
(labels that are words for missing, several controls, a batch that is the condition).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NOW = """
import sys, time
from pathlib import Path
from state_engine.library.foreign import open_foreign
open_foreign(Path("assets/demo/demo.h5ad"))
path = Path(sys.argv[1])
started = time.perf_counter()
data = open_foreign(path)
print(time.perf_counter() - started, data.n_cells, len(data.notes))
"""
THEN = """
import sys, time
from pathlib import Path
from state_engine.data.dataset import open_dataset
open_dataset(Path("assets/demo/demo.h5ad"))
path = Path(sys.argv[1])
started = time.perf_counter()
data = open_dataset(path)
print(time.perf_counter() - started, data.n_cells, len(data.notes))
"""


def write_sparse(path: Path, cells: int, noted: bool = False, genes: int = 2_000, entries: int = 100) -> Path:
    """Write a sparse file of counts in AnnData's layout, block by block; `noted`: with labels that deserve notes."""
    rng, block = np.random.default_rng(0), 50_000
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([cells, genes])})
        total = cells * entries
        values = matrix.create_dataset("data", (total,), "f4", chunks=(1 << 18,), compression="lzf")
        columns = matrix.create_dataset("indices", (total,), "i4", chunks=(1 << 18,), compression="lzf")
        matrix.create_dataset("indptr", data=np.arange(cells + 1, dtype=np.int64) * entries)
        step = genes // entries
        for start in range(0, cells, block):
            rows = min(block, cells - start)
            part = slice(start * entries, (start + rows) * entries)
            values[part] = rng.integers(1, 6, rows * entries).astype(np.float32)
            columns[part] = (np.arange(entries) * step + rng.integers(0, step, (rows, entries))).ravel().astype(np.int32)
        odd = ["NA", "non-targeting-1", "non-targeting-2"] if noted else []
        obs = {
            "perturbation": ["control", *odd, *(f"P{i}" for i in range(99))],
            "cell_type": ["B", "T", "NK"],
            "batch": ["1", "2"],
        }
        _frame(file.create_group("obs"), [f"cell{i}" for i in range(cells)], obs, rng)
        if noted:
            file["obs/batch/codes"][:] = file["obs/perturbation/codes"][:] == 0
        _frame(file.create_group("var"), [f"GENE{i}" for i in range(genes)], {}, rng)
    return path


def _frame(group: h5py.Group, index: list[str], columns: dict[str, list[str]], rng: np.random.Generator) -> None:
    text = h5py.string_dtype()
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    group.attrs["column-order"] = np.array(list(columns), dtype=text)
    group.create_dataset("_index", data=np.array(index, object), dtype=text).attrs.update(
        {"encoding-type": "string-array", "encoding-version": "0.2.0"}
    )
    for name, labels in columns.items():
        column = group.create_group(name)
        column.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
        column.create_dataset("categories", data=np.array(labels, object), dtype=text).attrs.update(
            {"encoding-type": "string-array", "encoding-version": "0.2.0"}
        )
        codes = column.create_dataset("codes", data=rng.integers(0, len(labels), len(index)).astype(np.int8))
        codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def opened(tree: Path, script: str, path: Path) -> tuple[float, str]:
    """Return the seconds that a new process of a tree takes to open a file, and what it found."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    said = subprocess.run(
        [sys.executable, "-c", script, path], cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    seconds, *found = said.stdout.split()
    return float(seconds), " ".join(found)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--million", type=Path)
    given = parser.parse_args()
    files = [path.resolve() for path in given.files]
    if given.million:
        for name, cells, noted in (("1-million.h5ad", 1_000_000, False), ("200,000-noted.h5ad", 200_000, True)):
            large = given.million.resolve() / name
            files.append(large if large.exists() else write_sparse(large, cells, noted))
    trees = [("now", ROOT, NOW)] + ([("before", given.before.resolve(), THEN)] if given.before else [])
    print("| file | tree | cells, notes | seconds: median | least | most |")
    print("|---|---|--:|--:|--:|--:|")
    for path in files:
        times: dict[str, list[float]] = {name: [] for name, _, _ in trees}
        found = dict.fromkeys(times, "")
        for _ in range(given.repeats):
            for name, tree, script in trees:
                seconds, found[name] = opened(tree, script, path)
                times[name].append(seconds)
        for name, _, _ in trees:
            numbers = (statistics.median(times[name]), min(times[name]), max(times[name]))
            print(f"| {path.name} | {name} | {found[name]} | {' | '.join(f'{n:.2f}' for n in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
