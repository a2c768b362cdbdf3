"""Groups of one and two cells, a single control cell, and genes without any count."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.cli.main import main
from state_engine.evaluation.report import METRICS


def groups(path: Path, sizes: dict[str, int], seed: int, silent: tuple[int, ...] = ()) -> Path:
    """Write that many cells of each label; each perturbation moves the same genes in every file."""
    labels = np.repeat(list(sizes), list(sizes.values()))
    rate = np.random.default_rng(1).gamma(1, 2, 80)
    lift = {p: np.random.default_rng(99 + i).choice([1, 4, 0.2], 80, p=[0.8, 0.1, 0.1]) for i, p in enumerate(sizes)}
    rng = np.random.default_rng(seed)
    counts = np.array([rng.poisson(rate * (1 if p == "control" else lift[p])) for p in labels]).astype(np.float32)
    counts[:, list(silent)] = 0
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(80)])
    anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var).write_h5ad(path)
    return path


@pytest.mark.slow  # the differential test is compiled first
@pytest.mark.parametrize("profile", ["minimal", "full", "vcc2025"])
def test_groups_of_one_and_two_cells_are_scored_where_they_can_be(
    tmp_path: Path, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    real = groups(tmp_path / "real.h5ad", {"control": 60, "ONE": 1, "TWO": 2, "MANY": 50}, 1, silent=(3, 4))
    predicted = groups(tmp_path / "predicted.h5ad", {"control": 60, "ONE": 40, "TWO": 40, "MANY": 40}, 2)
    alone = groups(tmp_path / "alone.h5ad", {"control": 1, "ONE": 1, "TWO": 2, "MANY": 50}, 3)
    single = groups(tmp_path / "single.h5ad", {"control": 1, "ONE": 1, "TWO": 1, "MANY": 1}, 4)
    for number, (guess, truth) in enumerate([(predicted, real), (single, alone)]):
        output = tmp_path / str(number)
        columns = ["--perturbation-key", "perturbation", "--control", "control", "--profile", profile]
        files = ["--predicted", str(guess), "--real", str(truth), "--output", str(output)]
        assert main(["evaluate", *files, *columns]) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert "nan" not in said.out.lower().split() and "Traceback" not in said.err
        table = pd.read_csv(output / METRICS)
        values = table["value"].dropna()
        assert np.isfinite(values).all()
        error = "mae" if profile == "vcc2025" else "expr_mae"
        many = table[(table["perturbation"] == "MANY") & (table["metric"] == error)]["value"].dropna()
        assert number == 1 or 0 < many.iloc[0] < 1
