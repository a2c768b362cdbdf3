"""Small submissions of both years, good ones, for tests to spoil."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.spec import ChallengeSpec, load_challenge

ROOT = Path(__file__).resolve().parents[2]
N_GENES = 30
PERTURBATIONS = ("ADNP", "BRD4", "CTCF", "KLF10", "KLF2")


@dataclass
class Submission:
    """A submission in the making: change what you like, then `source()` and `spec()` write the files."""

    folder: Path
    year: int
    x: np.ndarray
    obs: pd.DataFrame
    genes: list[str]
    gene_lines: list[str]
    target_lines: list[str]
    kind: str = "csr"
    contexts: tuple[str, ...] | None = None
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    control_files: tuple[Path, ...] = ()
    after: list[Callable[[Path], None]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "predictions.h5ad"

    @property
    def gene_list(self) -> Path:
        path = self.folder / "gene_names.csv"
        path.write_text("".join(f"{line}\n" for line in self.gene_lines))
        return path

    @property
    def target_list(self) -> Path:
        path = self.folder / "pert_counts.csv"
        path.write_text("".join(f"{line}\n" for line in self.target_lines))
        return path

    def matrix(self) -> np.ndarray | sparse.csr_matrix | sparse.csc_matrix:
        return {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[self.kind](self.x)

    def write(self) -> Path:
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Variable names are not unique")
            ad.AnnData(self.matrix(), obs=self.obs, var=var, layers=self.layers).write_h5ad(self.path)
        for change in self.after:
            change(self.path)
        return self.path

    def source(self) -> SubmissionSource:
        return SubmissionSource(self.write(), control_files=self.control_files)

    def spec(self) -> ChallengeSpec:
        return load_challenge(f"vcc{self.year}", genes=self.gene_list, pert_counts=self.target_list, contexts=self.contexts)


def log1p_values(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, N_GENES) log1p of counts per 10,000; a third are zero."""
    counts = rng.poisson(rng.gamma(2, 4, N_GENES), (n, N_GENES)) * (rng.random((n, N_GENES)) > 0.3)
    counts[:, 0] += 1
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)


def small_2025(folder: Path) -> Submission:
    """12 cells each of five perturbations and of controls, log1p."""
    labels = np.repeat(["non-targeting", *PERTURBATIONS], 12)
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(N_GENES)]
    obs = pd.DataFrame({"target_gene": pd.Categorical(labels)}, index=[f"cell{i}" for i in range(len(labels))])
    targets = ["target_gene,n_cells,median_umi_per_cell", *(f"{p},12,50000" for p in PERTURBATIONS)]
    return Submission(folder, 2025, log1p_values(rng, len(labels)), obs, genes, list(genes), targets)


@pytest.fixture
def vcc2025(tmp_path: Path) -> Submission:
    return small_2025(tmp_path)


@pytest.fixture
def vcc2026(tmp_path: Path) -> Submission:
    """4 cells each of five perturbations in three contexts, counts."""
    labels, contexts = np.tile(np.repeat(PERTURBATIONS, 4), 3), np.repeat(["A", "B", "C"], 20)
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(N_GENES)]
    x = rng.poisson(3, (60, N_GENES)).astype(np.float32)
    obs = pd.DataFrame({"target_gene": labels, "context": contexts}, index=[f"cell{i}" for i in range(60)])
    targets = ["target_gene,n_cells", *(f"{p},4" for p in PERTURBATIONS)]
    return Submission(tmp_path, 2026, x, obs, genes, ["gene_name", *genes], targets, contexts=("A", "B", "C"))


@pytest.fixture(scope="session")
def packer_python() -> Path:
    """Python of the environment with cell-eval and vcc-cli: STATE_VCC_PEER_PYTHON, or .peers/vcc made by `make peers`."""
    python = Path(os.environ.get("STATE_VCC_PEER_PYTHON", ROOT / ".peers" / "vcc" / "bin" / "python"))
    if not python.exists():
        pytest.skip("cell-eval and vcc-cli are not installed beside (run `make peers`, or set STATE_VCC_PEER_PYTHON)")
    return python
