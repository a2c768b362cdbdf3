"""Time and peak memory of challenge archives of full size, beside the official packers.

    python benchmarks/submit.py CASE --folder SCRATCH [--peers PYTHON]

Simulates predictions (CSR, one value in each of equal stretches of genes), packs them with STATE Explorer in a process of its own, and,
with `--peers` (the Python of an environment with cell-eval and vcc-cli), with the official packer. Prints a table row each and removes
what it made. Needs about 10 times 8 bytes an entry of disk. Measured numbers: RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A submission: year, cells by gene numbers, entries a cell, storage, and the counts step."""

    year: int
    cells: int
    genes: int
    entries: int
    kind: str = "csr"
    to_counts: bool = False


CASES = {
    "2026-full": Case(2026, 360_000, 18_533, 600),
    "2026-three-times": Case(2026, 360_000, 6_000, 1_800),
    "2026-small": Case(2026, 36_000, 18_533, 600),
    "2026-counts": Case(2026, 36_000, 18_533, 3_000, to_counts=True),
    "2025-full": Case(2025, 98_927, 18_080, 2_200),
    "2025-small": Case(2025, 10_000, 18_080, 2_200),
    "2025-dense": Case(2025, 10_000, 18_080, 2_200, "dense"),
    "2025-csc": Case(2025, 98_927, 18_080, 2_200, "csc"),
}


def main() -> None:
    """One case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--verify", action="store_true", help="also verify each archive, and show the hash of what is in it")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    case = CASES[options.case]
    if options.make:
        make(case, options.folder)
        return
    folder = options.folder / f"submit-{options.case}"
    folder.mkdir(parents=True)
    try:
        measure([sys.executable, __file__, options.case, "--folder", folder, "--make"])
        size = (folder / "predictions.h5ad").stat().st_size
        print(
            f"{options.case}: {case.cells:,} x {case.genes:,}, {case.cells * case.entries:,} entries, {case.kind}, {size / 1e9:.2f} GB"
        )
        for name, command, output in commands(case, folder, options.peers):
            code, seconds, peak = measure(command)
            made = f"{output.stat().st_size / 1e6:,.0f} MB" if output.exists() else "no file"
            print(f"| {name} | {seconds:,.0f} s | {peak / 1e6:,.0f} MB | {made} | exit {code} |", flush=True)
            if output.exists() and options.verify:
                verify(case, folder, output)
            output.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder)


def commands(case: Case, folder: Path, peers: Path | None) -> list[tuple[str, list[object], Path]]:
    """Name, command line and output of each packer."""
    data, genes, targets = folder / "predictions.h5ad", folder / "gene_names.csv", folder / "pert_counts.csv"
    ours, theirs = folder / "ours.vcc", folder / "theirs.vcc"
    contexts = ["--contexts", "A,B,C"] if case.year == 2026 else []
    lists = ["--genes", genes, "--pert-counts", targets, *contexts]
    engine = [sys.executable, "-m", "state_engine"]
    step = ["--to-counts", "poisson", "--library", "20000"] if case.to_counts else []
    submit = [*engine, "submit", "--challenge", f"vcc{case.year}", "--data", data, *lists, *step]
    out: list[tuple[str, list[object], Path]] = [("STATE Explorer submit", [*submit, "--output", ours], ours)]
    if peers and case.year == 2025:
        out.append(("cell-eval prep", [peers.with_name("cell-eval"), "prep", "-i", data, "-g", genes, "-o", theirs], theirs))
    if peers and case.year == 2026 and not case.to_counts:
        command = [peers.with_name("vcc"), "prep", data, "-g", genes, "--perts", targets, *contexts, "-o", theirs]
        out.append(("vcc prep", command, theirs))
    return out


def verify(case: Case, folder: Path, archive: Path) -> None:
    """Verify an archive with STATE Explorer; one more table row."""
    lists = ["--genes", folder / "gene_names.csv", "--pert-counts", folder / "pert_counts.csv"]
    contexts = ["--contexts", "A,B,C"] if case.year == 2026 else []
    said = folder / "verify.json"
    command = [sys.executable, "-m", "state_engine", "verify", archive, "--challenge", f"vcc{case.year}", *lists, *contexts]
    code, seconds, peak = measure([*command, "--scratch", folder, "--json"], said)
    digest = json.loads(said.read_text())["archive"]["h5ad_sha256"]
    print(f"| its `verify` | {seconds:,.0f} s | {peak / 1e6:,.0f} MB | h5ad {digest[:12]} | exit {code} |", flush=True)


def measure(command: list[object], said: Path | None = None) -> tuple[int, float, int]:
    """Exit code, seconds and peak resident memory (bytes) of a command; its output goes to `said`."""
    start = time.monotonic()
    with open(said or os.devnull, "wb") as out:  # noqa: PTH123 - os.devnull is no path
        process = subprocess.Popen([str(c) for c in command], stdout=out)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.monotonic() - start, usage.ru_maxrss * 1024


def make(case: Case, folder: Path) -> None:
    """Write simulated predictions and lists, a block at a time."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    per_context = case.cells // (3 if case.year == 2026 else 1)
    n_labels = per_context // 400 if case.year == 2026 else 51
    labels = [f"P{i}" for i in range(n_labels)]
    codes = np.minimum(np.arange(case.cells) % per_context // (per_context // n_labels), n_labels - 1)
    labels[0] = "non-targeting" if case.year == 2025 else labels[0]
    genes = [f"GENE{i}" for i in range(case.genes)]
    (folder / "gene_names.csv").write_text("\n".join(["gene_name"] * (case.year == 2026) + genes) + "\n")
    sizes = np.bincount(codes[:per_context])
    rows = [f"{name},{size}" for name, size in zip(labels, sizes, strict=True) if name != "non-targeting"]
    (folder / "pert_counts.csv").write_text("\n".join(["target_gene,n_cells", *rows]) + "\n")
    with h5py.File(folder / "predictions.h5ad", "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_frame(file, "obs", np.arange(case.cells).astype(bytes), {"target_gene": (codes, labels)})
        if case.year == 2026:
            write_frame(file, "obs", None, {"context": (np.arange(case.cells) // per_context, ["A", "B", "C"])})
        write_frame(file, "var", np.array(genes, bytes), {})
        write_values(file, case, rng)


def write_frame(file, name, index, columns) -> None:  # type: ignore[no-untyped-def]
    """obs or var as AnnData stores them."""
    import h5py
    import numpy as np

    group = file.require_group(name)
    text = h5py.string_dtype()
    if index is not None:
        group["_index"] = index.astype(text)
        group["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
        group.attrs.create("column-order", [], dtype=text)
    for column, (codes, labels) in columns.items():
        place = group.create_group(column)
        place.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
        place["codes"] = codes.astype(np.int16)
        place["codes"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        place["categories"] = np.array(labels, text)
        place["categories"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        order = [*group.attrs["column-order"], column]
        del group.attrs["column-order"]
        group.attrs.create("column-order", order, dtype=text)


def write_values(file, case: Case, rng) -> None:  # type: ignore[no-untyped-def]
    """X: `entries` values a cell (a gene, when csc), each somewhere in its own stretch of the genes (cells)."""
    import numpy as np

    wide = case.cells if case.kind == "csc" else case.genes
    lines = case.genes if case.kind == "csc" else case.cells
    k = case.entries * case.cells // lines
    if case.kind == "dense":
        x = file.create_dataset("X", (case.cells, case.genes), np.float32)
    else:
        x = file.create_group("X")
        x.attrs.update({"encoding-type": f"{case.kind}_matrix", "encoding-version": "0.1.0", "shape": (case.cells, case.genes)})
        data, indices = (x.create_dataset(n, (lines * k,), t, maxshape=(None,)) for n, t in (("data", "f4"), ("indices", "i4")))
        x["indptr"] = (np.arange(lines + 1) * k).astype(np.int32 if lines * k < 2**31 else np.int64)
    for start in range(0, lines, 1000):
        m = min(1000, lines - start)
        columns = ((np.arange(k) + rng.random((m, k))) * (wide / k)).astype(np.int32)
        values = rng.geometric(0.15, (m, k)).astype(np.float32)
        if case.year == 2025 or case.to_counts:
            values = np.log1p(values / values.sum(1, keepdims=True) * 50_000)
        if case.kind == "dense":
            block = np.zeros((m, wide), np.float32)
            np.put_along_axis(block, columns, values, 1)
            x[start : start + m] = block
        else:
            data[start * k : (start + m) * k], indices[start * k : (start + m) * k] = values.ravel(), columns.ravel()


if __name__ == "__main__":
    main()
