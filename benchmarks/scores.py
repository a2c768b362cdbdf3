"""Seconds and peak memory of the scores of a challenge at full size, in a process of its own.

    python -m benchmarks.scores [--challenge vcc2025 vcc2026] [--perturbations 50] [--cells 200] [--genes 18080] [--limit 900]

Simulated cells of 20,000 counts: the measurement, with as many control cells as ten perturbations have cells, and a prediction with half of
each effect. Processor seconds are of all cores: on a shared machine they say more than those on the clock.
The bar for 18,080 genes x 50 perturbations x 200 cells is 5 minutes and 4 GB. Measured numbers: RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[1]
CONTROL, DEPTH = "non-targeting", 20_000


def main() -> None:
    """Measure each challenge in a process of its own."""
    options = _options()
    if options.folder:
        _score(options)
        return
    for challenge in options.challenge:
        with tempfile.TemporaryDirectory() as folder:
            _make(Path(folder), challenge, options)
            sizes = [f"--{name}={getattr(options, name)}" for name in ("perturbations", "cells", "genes")]
            command = [sys.executable, "-m", "benchmarks.scores", "--challenge", challenge, "--folder", folder, *sizes]
            try:
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=options.limit, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
            except subprocess.TimeoutExpired:
                found = {"unfinished after": options.limit}
        print(json.dumps({"challenge": challenge, "genes": options.genes, "perturbations": options.perturbations,
                          "cells": options.cells, **found}), flush=True)  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--challenge", nargs="+", choices=("vcc2025", "vcc2026"), default=["vcc2025", "vcc2026"])
    parser.add_argument("--perturbations", type=int, default=50)
    parser.add_argument("--cells", type=int, default=200, help="of each perturbation")
    parser.add_argument("--genes", type=int, default=18_080)
    parser.add_argument("--limit", type=float, default=900, help="seconds after which it is stopped")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make(folder: Path, challenge: str, options: argparse.Namespace) -> None:
    """Write measured and predicted cells, and the two lists."""
    rng = np.random.default_rng(0)
    share = rng.gamma(0.35, 1, options.genes)
    names = [f"G{i}" for i in range(options.genes)]
    perturbations = [f"G{i * 7}" for i in range(options.perturbations)]
    effects = {p: np.where(rng.random(options.genes) < 0.03, rng.normal(0, 1, options.genes), 0) for p in perturbations}
    for name, part, seed in (("measured", 1.0, 1), ("predicted", 0.5, 2)):
        draws = np.random.default_rng(seed)
        parts = [_cells(draws, share, 10 * options.cells)]
        parts += [_cells(draws, share * np.exp(part * effects[p]), options.cells) for p in perturbations]
        labels = np.repeat([CONTROL, *perturbations], [10 * options.cells, *[options.cells] * len(perturbations)])
        _write(folder / f"{name}.h5ad", sp.vstack(parts, format="csr"), labels, names, challenge, name)
    (folder / "genes.csv").write_text("\n".join(names) + "\n")


def _cells(rng: np.random.Generator, share: np.ndarray, n: int) -> sp.csr_matrix:
    rate = share / share.sum() * DEPTH
    blocks = []
    for start in range(0, n, 500):
        size = min(500, n - start)
        # negative binomial: a gamma for each cell and gene, of dispersion 0.3
        rates = rng.gamma(1 / 0.3, 0.3, (size, len(rate))) * rate * rng.lognormal(0, 0.3, (size, 1))
        blocks.append(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    return sp.vstack(blocks, format="csr")


def _write(path: Path, counts: sp.csr_matrix, labels: np.ndarray, names: list[str], challenge: str, side: str) -> None:
    import anndata
    import pandas as pd

    cells, kept = counts, np.ones(len(labels), bool)
    if challenge == "vcc2025":
        totals = np.asarray(cells.sum(axis=1)).ravel()
        cells = sp.csr_matrix(sp.diags(1e4 / totals) @ cells).log1p().astype(np.float32)
    elif side == "predicted":
        kept = labels != CONTROL
    obs = {"target_gene": pd.Categorical(labels[kept]), "context": pd.Categorical(np.repeat("A", kept.sum()))}
    index = pd.RangeIndex(int(kept.sum())).astype(str)
    anndata.AnnData(cells[kept], pd.DataFrame(obs, index), pd.DataFrame(index=names)).write_h5ad(path)


def _score(options: argparse.Namespace) -> None:
    """Score what `_make` wrote, in this process."""
    import resource

    from state_engine.challenge.score import score
    from state_engine.challenge.score_request import ScoreRequest
    from state_engine.challenge.submit import SubmissionRequest
    from state_engine.data.dataset import Choices

    folder = options.folder
    contexts = ("A",) if options.challenge[0] == "vcc2026" else ()
    submission = SubmissionRequest(
        options.challenge[0], str(folder / "predicted.h5ad"), genes=str(folder / "genes.csv"), contexts=contexts
    )
    choices = Choices(perturbation_key="target_gene", context_key="context" if contexts else "", control=CONTROL)
    start = time.perf_counter()
    scores = score(ScoreRequest(submission, str(folder / "measured.h5ad"), choices), folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"seconds": round(time.perf_counter() - start), "processor": round(used.ru_utime + used.ru_stime)}
    metrics = {m.metric: m.value for m in scores.contexts[0].metrics}
    print(json.dumps({**seconds, "peak MB": round(used.ru_maxrss / 1024), "overall": scores.overall, **metrics}))


if __name__ == "__main__":
    main()
