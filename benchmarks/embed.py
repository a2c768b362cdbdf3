"""Our embedding beside the reference's `state emb transform`, whole processes, in one run; and ours against what the machine can do.

    python benchmarks/embed.py --peer .peers/arc-state --oracle ../shared/oracle [--small] [--only toy deep memory full gpu]

toy     a model of 2 layers, d 64, 256 tokens (by the oracle's scripts): both programs on the same cells, in turn, `--repeats` times,
        the median counts. Cells per second: the cells beyond those of a file of `START_CELLS`, in the seconds beyond those it took.
        The largest difference is measured on other cells, without ties or zeros, where both must give the same.
deep    a model of 8 layers, d 512, 2048 tokens with random weights, ours alone, fp32: its arithmetic (counted below: products and
        attention, of the last layer only what is computed) in a second, as a part of what square products of the same precision reach on
        the same cores just before and after. And the part of the time that the forward pass waited for cell sentences.
memory  peak resident size of ours with `--cells` and with ten times as many.
full    models of the released size (600 M parameters) and of about 100 M, random weights written by the reference: loaded and `FULL_CELLS` cells
        embedded by both programs on the CPU, memory and seconds of the whole processes, the largest difference.
gpu     where there is one: a model of 16 layers, d 2048, 2048 tokens in bf16, cells per second and the part of the time waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
START_CELLS = 16
REFERENCE, OURS = "state emb transform", "ours fp32"
FULL_CELLS = 8
RELEASED = {"genes": 19_790, "token-dim": 5120, "pad-length": 2048, "heads": 16}
FULL = {
    "600 M": {**RELEASED, "d-model": 2048, "layers": 16},
    "100 M": {**RELEASED, "d-model": 1024, "layers": 10},
}
PARTS = ("toy", "deep", "memory", "full", "gpu")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        work = Path(folder)
        if {"toy", "memory"} & set(options.only):
            _make_toy(work, options)
        for part in options.only:
            for row in {"toy": toy, "deep": deep, "memory": memory, "full": full, "gpu": gpu}[part](work, options):
                print(json.dumps({"part": part, **row}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", type=Path, default=ROOT / ".peers" / "arc-state", help="virtual environment with arc-state")
    add("--oracle", type=Path, default=ROOT.parent / "shared" / "oracle")
    add("--cells", type=int, default=5_000)
    add("--genes", type=int, default=1_000, help="of the toy's cells")
    add("--deep-cells", type=int, default=16)
    add("--gpu-cells", type=int, default=4_096)
    add("--repeats", type=int, default=3)
    add("--only", nargs="+", choices=PARTS, default=list(PARTS))
    add("--small", action="store_true", help="a tenth of the cells, once: to see that it runs")
    add("--scratch", type=Path, help="where the temporary folder goes")
    options = parser.parse_args()
    if options.small:
        options.cells, options.deep_cells, options.gpu_cells, options.repeats = options.cells // 10, 2, 256, 1
    return options


def _make_toy(work: Path, options: argparse.Namespace) -> None:
    python = str(options.peer / "bin" / "python")
    sizes = {"cells": options.cells, "start": START_CELLS}
    for name, cells in sizes.items():
        _cells(options, work / f"{name}.h5ad", cells)
    _cells(options, work / "check.h5ad", 64, "--dense-sentences")
    model = ["--genes", "2500", "--token-dim", "160", "--d-model", "64", "--layers", "2", "--pad-length", "256"]
    _quietly([python, str(options.oracle / "make_se.py"), str(work / "toy"), *model])


def _cells(options: argparse.Namespace, path: Path, cells: int, *more: str) -> None:
    arguments = [str(path), "--cells", str(cells), "--genes", str(options.genes), "--hvg", "10", "--perts", "5", *more]
    _quietly([str(options.peer / "bin" / "python"), str(options.oracle / "make_cells.py"), *arguments])


def toy(work: Path, options: argparse.Namespace) -> list[dict]:
    """Both programs, a row each."""
    measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(options.repeats):
        for data in ("start", "cells"):
            for program, command in _commands(work, options, data).items():
                measured.setdefault((program, data), []).append(_timed(command))
    for command in _commands(work, options, "check").values():
        _timed(command)
    rows = []
    for program in _commands(work, options, "cells"):
        whole, start = (statistics.median(s for s, _ in measured[program, data]) for data in ("cells", "start"))
        rows.append(
            {
                "program": program,
                "cells": options.cells,
                "seconds": round(whole, 2),
                "spread": [round(f(s for s, _ in measured[program, "cells"]), 2) for f in (min, max)],
                "start": round(start, 2),
                "cells a second": round((options.cells - START_CELLS) / max(whole - start, 1e-9)),
                "peak MB": round(statistics.median(p for _, p in measured[program, "cells"])),
                "largest difference": _difference(work, program),
            }
        )
    first = next(row for row in rows if row["program"] == REFERENCE)
    for row in rows:
        row["times as fast, whole"] = round(first["seconds"] / row["seconds"], 2)
        row["times as fast, a cell"] = round(row["cells a second"] / max(first["cells a second"], 1), 2)
    return rows


def deep(work: Path, options: argparse.Namespace) -> list[dict]:
    """Ours against square products on the same cores."""
    import torch

    config = _write_model(
        work / "deep", genes=19_790, token_dim=160, hidden=512, layers=8, heads=8, feed_forward=1024, tokens=2048
    )
    _write_cells(work / "deep.h5ad", options.deep_cells, 19_790)
    before = _products_a_second()
    made = _embed(work / "deep", work / "deep.h5ad", work / "deep.npy", "cpu", "fp32")
    after = _products_a_second()
    reached, can = _operations(config) * options.deep_cells / made.seconds, (before + after) / 2
    return [
        {
            "cells": options.deep_cells,
            "seconds": round(made.seconds, 2),
            "cores": torch.get_num_threads(),
            "GFLOP a cell": round(_operations(config) / 1e9, 1),
            "GFLOP/s": round(reached / 1e9, 1),
            "square products, GFLOP/s before and after": [round(before / 1e9, 1), round(after / 1e9, 1)],
            "part of these": round(reached / can, 3),
            "making sentences, part of the time": round(made.sentence_seconds / made.seconds, 4),
            "waiting for sentences, part of the time": round(made.waited_seconds / made.seconds, 4),
        }
    ]


def memory(work: Path, options: argparse.Namespace) -> list[dict]:
    """Peak resident size of ours for both numbers of cells."""
    rows = []
    for factor in (1, 10):
        _cells(options, work / "many.h5ad", factor * options.cells)
        seconds, peak = _timed(_commands(work, options, "many")[OURS])
        rows.append({"program": OURS, "cells": factor * options.cells, "seconds": round(seconds, 2), "peak MB": round(peak)})
        (work / f"{OURS} many.h5ad").unlink()
    rows[1]["peak of ten times the cells"] = round(rows[1]["peak MB"] / rows[0]["peak MB"], 2)
    return rows


def full(work: Path, options: argparse.Namespace) -> list[dict]:
    """Released sizes with random weights that the reference writes: loaded and embedded by both, memory and seconds of the whole processes."""
    many = argparse.Namespace(**{**vars(options), "genes": 3_000})  # more than the tokens: nothing is filled up at random
    _cells(many, work / "full.h5ad", FULL_CELLS, "--dense-sentences")
    rows = []
    for name, sizes in FULL.items():
        model = [value for size, number in sizes.items() for value in (f"--{size}", str(number))]
        _quietly([str(options.peer / "bin" / "python"), str(options.oracle / "make_se.py"), str(work / "toy"), *model])
        row: dict = {"model": name, "cells": FULL_CELLS}
        for program, command in _commands(work, options, "full").items():
            if program in (REFERENCE, OURS):
                seconds, peak = _timed(command)
                row |= {f"{program} seconds": round(seconds, 1), f"{program} peak MB": round(peak)}
        row["largest difference"] = _difference(work, OURS, "full")
        rows.append(row)
        shutil.rmtree(work / "toy")
        for program in (REFERENCE, OURS):
            (work / f"{program} full.h5ad").unlink()
    return rows


def gpu(work: Path, options: argparse.Namespace) -> list[dict]:
    """A model of released size with random weights."""
    import torch

    if not torch.cuda.is_available():
        return [{"skipped": "no CUDA device"}]
    config = _write_model(
        work / "released", genes=19_790, token_dim=5120, hidden=2048, layers=16, heads=16, feed_forward=2048, tokens=2048
    )
    _write_cells(work / "gpu.h5ad", options.gpu_cells, 19_790)
    made = _embed(work / "released", work / "gpu.h5ad", work / "gpu.npy", "cuda", "bf16")
    return [
        {
            "device": made.device,
            "cells a second": round(options.gpu_cells / made.seconds, 1),
            "TFLOP/s": round(_operations(config) * options.gpu_cells / made.seconds / 1e12, 1),
            "making sentences, part of the time": round(made.sentence_seconds / made.seconds, 4),
            "waiting for sentences, part of the time": round(made.waited_seconds / made.seconds, 4),
        }
    ]


def _operations(config) -> float:
    """Floating point operations of a cell: multiplications and additions of products and attention."""
    t, d = config.tokens + int(config.dataset_token), config.hidden
    products = 2 * t * d * (3 * d + d + 2 * config.feed_forward)
    attention = 4 * t * t * d
    last = 2 * 2 * 2 * config.heads * t * d  # two queries a head, over all positions, twice
    return float((config.layers - 1) * (products + attention) + last)


def _products_a_second(size: int = 2048, seconds: float = 3.0) -> float:
    """Operations a second of square fp32 products, one at a time on every core, as the embedding uses them."""
    import torch

    cores = torch.get_num_threads()

    def work(_: int) -> int:
        torch.set_num_threads(1)
        one, other = torch.randn(size, size), torch.randn(size, size)
        out, done, end = torch.empty(size, size), 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            torch.mm(one, other, out=out)
            done += 1
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        done = sum(pool.map(work, range(cores)))
    elapsed = time.perf_counter() - start
    torch.set_num_threads(cores)
    return 2.0 * size**3 * done / elapsed


def _embed(model: Path, data: Path, output: Path, device: str, precision: str):
    from state_engine.checkpoints.embedding_store import load_embedding
    from state_engine.device import dtype_of
    from state_engine.embedding.embed import EmbedRequest, embed

    request = EmbedRequest(str(data), str(model), device=device, precision=precision)
    return embed(request, output, loaded=load_embedding(model, device, dtype_of(precision)))


def _write_model(folder: Path, **sizes: int):
    import torch

    from state_engine.checkpoints.embedding_card import FORMAT, EmbeddingCard, vocabulary_hash
    from state_engine.checkpoints.embedding_store import save_embedding
    from state_engine.models.embedding import EmbeddingModel
    from state_engine.models.embedding_config import EmbeddingConfig

    config = EmbeddingConfig(output_dim=sizes["hidden"], **sizes)
    genes = tuple(f"G{i}" for i in range(config.genes))
    card = EmbeddingCard(FORMAT, "", "Random", config, genes, vocabulary_hash(genes), "")
    torch.manual_seed(0)
    vectors = torch.randn(config.genes, config.token_dim)
    save_embedding(folder, card, EmbeddingModel(config).state_dict(), vectors)
    return config


def _write_cells(path: Path, cells: int, genes: int) -> None:
    """Counts as of droplets: 3,000 genes expressed in a cell."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    columns = np.sort(rng.random((cells, genes)).argpartition(3000, axis=1)[:, :3000], axis=1)
    values = rng.geometric(0.5, columns.size).astype(np.float32)
    x = sp.csr_matrix((values, columns.ravel(), np.arange(cells + 1) * 3000), shape=(cells, genes))
    anndata.AnnData(x, var=pd.DataFrame(index=[f"G{i}" for i in range(genes)])).write_h5ad(path)


def _commands(work: Path, options: argparse.Namespace, data: str) -> dict[str, list[str]]:
    source, model = str(work / f"{data}.h5ad"), str(work / "toy")
    ours = [sys.executable, "-m", "state_engine", "embed", "--model", model, "--data", source, "--device", "cpu"]
    ours += ["--scale", "log1p"]  # that is what `make_cells.py` writes
    theirs = [str(options.peer / "bin" / "state"), "emb", "transform", "--model-folder", model, "--input", source]
    return {
        REFERENCE: [*theirs, "--output", str(work / f"{REFERENCE} {data}.h5ad")],
        OURS: [*ours, "--output", str(work / f"{OURS} {data}.h5ad")],
        "ours bf16": [*ours, "--precision", "bf16", "--output", str(work / f"ours bf16 {data}.h5ad")],
    }


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-2000:]}")


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a process; it is run by a small parent, so that the peak is its own."""
    child = f"import subprocess,resource,sys; r=subprocess.run({command!r}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
    child += "sys.stderr.write(r.stderr.decode()[-2000:]) if r.returncode else None\n"
    child += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)"
    environment = {**os.environ, "PYTHONPATH": ""} if "state_engine" not in command else None
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, cwd=ROOT, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    return seconds, int(done.stdout) / (1024 if sys.platform != "darwin" else 1024**2)


def _difference(work: Path, program: str, data: str = "check") -> float:
    with h5py.File(work / f"{program} {data}.h5ad") as one, h5py.File(work / f"{REFERENCE} {data}.h5ad") as other:
        return float(np.abs(one["obsm/X_state"][...] - other["obsm/X_state"][...]).max())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
