"""False genes of effect zero, by kind of prediction and by how log1p becomes counts.

    python -m benchmarks.null_counts [--data ../shared/data/pbmc3k.h5ad]

400 control cells (pbmc3k's CD4 T cells, and simulated negative binomial cells of 20,000 counts) are the prediction, so there is no effect; they go
through the steps of a submission and are tested against other control cells: counts per million, rank test corrected for ties, BH 5 %, genes
above 5 counts per million. Measured numbers: RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine import keys
from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.source import SubmissionSource, source_of_run
from state_engine.challenge.spec import ChallengeSpec, load_challenge

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("corrected", "calibrated", "mixture", "baseline")
DEPTH, CELLS = 1e4, 400
RULES = """
name = "null"
title = "Counts"
values = "counts"
controls = "forbidden"
layout = "meta"
"""


@dataclass(frozen=True, eq=False)
class Screen:
    """Control cells as a data set, and a challenge for its genes.

    Args:
        counts: (n, genes of the file) of all cells.
        basal: (m,) rows that predictions start from.
        columns: genes of the challenge.
        data, challenge, genes_file: files.
        spec: the challenge.
    """

    counts: sp.csr_matrix
    basal: np.ndarray
    columns: np.ndarray
    data: Path
    challenge: Path
    genes_file: Path
    spec: ChallengeSpec

    @classmethod
    def of(cls, counts: sp.csr_matrix, folder: Path) -> Screen:
        """Write the files of a screen; the challenge has nine of ten genes, in another order."""
        rng = np.random.default_rng(0)
        n, g = counts.shape
        columns = rng.permutation(g)[: 9 * g // 10]
        names = np.array([f"G{i}" for i in range(g)])
        cells = pd.DataFrame({"target_gene": "non-targeting"}, [f"cell {i}" for i in range(n)])
        ad.AnnData(counts.astype(np.float32), cells, pd.DataFrame(index=names)).write_h5ad(folder / "data.h5ad")
        (folder / "null.toml").write_text(RULES)
        (folder / "genes.csv").write_text("\n".join(names[columns]) + "\n")
        spec = load_challenge(folder / "null.toml", genes=folder / "genes.csv")
        basal = np.sort(rng.permutation(n)[: min(CELLS, n // 2)])
        return cls(counts, basal, columns, folder / "data.h5ad", folder / "null.toml", folder / "genes.csv", spec)


def pbmc_cells(path: Path) -> sp.csr_matrix:
    """Return the counts of the CD4 T cells of pbmc3k."""
    cells = ad.read_h5ad(path)
    return sp.csr_matrix(cells.X[cells.obs["cell_type"].astype(str).str.contains("CD4").to_numpy()])


def simulated_cells(n: int = 1_000, g: int = 12_000, depth: float = 2e4) -> sp.csr_matrix:
    """Return negative binomial counts (dispersion 0.3) of about `depth` a cell."""
    rng = np.random.default_rng(1)
    share = rng.gamma(0.35, 1, g)
    rate = share / share.sum() * depth * rng.lognormal(0, 0.3, (n, 1))
    return sp.csr_matrix(rng.poisson(rng.gamma(1 / 0.3, 0.3, (n, g)) * rate).astype(np.float32))


def result_of(screen: Screen, kind: str, manifest: dict[str, object] | None = None) -> SubmissionSource:
    """Return a result of a run without an effect: control cells, once as predicted and once as predicted control."""
    counts = screen.counts[screen.basal]
    totals = np.asarray(screen.counts.sum(axis=1)).ravel()[screen.basal]
    values = np.log1p(counts[:, screen.columns].toarray() * (DEPTH / totals[:, None])).astype(np.float32)
    # a raw output is smooth: the mean of all cells, in each of them
    raw = np.repeat(values.mean(axis=0, keepdims=True), len(values), axis=0)
    n = len(values)
    obs = pd.DataFrame(
        {
            keys.PERTURBATION: np.repeat(["G1", "non-targeting"], n),
            keys.CONTEXT: keys.ALL,
            keys.KIND: np.repeat([keys.PREDICTED, keys.PREDICTED_CONTROL], n),
            keys.BASAL_CELL: [f"cell {i}" for i in screen.basal] * 2,
            keys.BASAL_ROW: np.tile(screen.basal, 2).astype(np.int64),
        },
        [f"cell {i}" for i in range(2 * n)],
    )
    method = "no change" if kind == "baseline" else "model"
    about = {"request": {}, "method": method, keys.X_KIND: kind, "depth": DEPTH} if manifest is None else manifest
    layer = kind == "calibrated"
    if layer and manifest is None:
        about[keys.X_KIND] = "corrected"
    cells = ad.AnnData(np.vstack([values, values]), obs, pd.DataFrame(index=[f"G{i}" for i in screen.columns]))
    cells.layers[keys.RAW_LAYER] = np.vstack([raw, raw])
    if layer:
        cells.layers[keys.CALIBRATED_LAYER] = cells.X
    cells.uns[keys.MANIFEST] = json.dumps(about)
    path = screen.data.with_name("result.h5ad")
    cells.write_h5ad(path)
    source = source_of_run(path, screen.spec.rules, (screen.data,))
    return SubmissionSource(**{**vars(source), "matrix": f"layers/{keys.CALIBRATED_LAYER}"}) if layer else source


def main() -> None:
    """Print a row of a table for each kind and rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data" / "pbmc3k.h5ad")
    options = parser.parse_args()
    screens = {"simulated NB, 20k counts": simulated_cells()}
    if options.data.exists():
        screens = {"pbmc3k CD4": pbmc_cells(options.data)} | screens
    for name, counts in screens.items():
        with tempfile.TemporaryDirectory() as folder:
            screen = Screen.of(counts, Path(folder))
            for kind in (*KINDS, "raw"):
                for rounding in ("poisson", "auto"):
                    print(f"| {name} | {kind} | {_row(screen, kind, rounding)} |", flush=True)


def _row(screen: Screen, kind: str, rounding: str) -> str:
    source = result_of(screen, "corrected" if kind == "raw" else kind)
    if kind == "raw":
        source = SubmissionSource(**{**vars(source), "matrix": f"layers/{keys.RAW_LAYER}"})
    report = check(source, screen.spec, counts=CountsOptions(rounding))  # type: ignore[arg-type]
    null = report.null[0]
    return f"{rounding} ({report.options['rounding']}) | {null.called:,} of {null.genes:,}"


if __name__ == "__main__":
    main()
