"""Makes `fixtures/` with the reference program: small models with random weights, an input, and what it predicts.

    python tests/parity/make_fixtures.py PEER_PYTHON ORACLE_FOLDER [NAME ...]

Each model is an arc-state run directory with its dead token embeddings cut to one row; `expected.npz` is what
`state tx infer` wrote. `cells.npz` is the input of all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.parity.variants import VARIANTS, input_key, options

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
SHAPE = {"hidden": 16, "genes": 20, "embedding": 12, "set_size": 6}


def run_peer(python: Path, jobs: list[dict], folder: Path) -> None:
    """Run jobs of `peer.py` in the reference's environment."""
    listing = folder / "jobs.json"
    listing.write_text(json.dumps(jobs))
    done = subprocess.run([python, HERE / "peer.py", listing], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}")


def cells_job(oracle: Path, path: Path, cells: int, genes: int) -> dict:
    """Synthetic cells whose names match the models."""
    arguments = [str(path), "--cells", str(cells), "--genes", str(genes), "--hvg", str(genes), "--perts", "3"]
    return {"kind": "script", "path": str(oracle / "make_cells.py"), "arguments": arguments}


def add_embedding(path: Path, width: int) -> None:
    """Random values as `obsm["X_state"]`, and no controls of one cell type, so that all controls must stand in."""
    cells = anndata.read_h5ad(path)
    cells.obsm["X_state"] = np.random.default_rng(0).normal(size=(cells.n_obs, width)).astype(np.float32)
    cells = cells[~((cells.obs["cell_type"] == "rpe1") & (cells.obs["gene"] == "non-targeting"))].copy()
    cells.write_h5ad(path)


def model_jobs(
    name: str, oracle: Path, folder: Path, data: Path, shape: dict, seed: int, more: tuple[str, ...] = ()
) -> list[dict]:
    """Make a model, make it louder, infer with it."""
    key = input_key(name)
    embed = [] if key == "X" else ["--embed-key", key]
    arguments = ["--model-dir", str(folder), "--adata", str(data), *embed, "--pert-col", "gene", "--output", f"{folder}.h5ad"]
    make = options(name, str(folder), **shape, seed=seed)
    return [
        {"kind": "script", "path": str(oracle / "make_st.py"), "arguments": make},
        {"kind": "louder", "folder": str(folder), "seed": seed},
        {"kind": "infer", "arguments": [*arguments, *more]},
    ]


def expected_of(path: Path, key: str) -> dict[str, np.ndarray]:
    """The matrices `state tx infer` may have written, dense."""
    result = anndata.read_h5ad(path)
    x = result.X if isinstance(result.X, np.ndarray) else result.X.toarray()
    found = {"X": np.asarray(x, np.float32), "X_hvg": np.asarray(result.obsm["X_hvg"], np.float32)}
    return found | ({"X_state": np.asarray(result.obsm["X_state"], np.float32)} if key == "X_state" else {})


def main() -> None:
    python, oracle, only = Path(sys.argv[1]), Path(sys.argv[2]).resolve(), sys.argv[3:]
    FIXTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = work / "cells.h5ad"
        run_peer(python, [cells_job(oracle, data, 90, SHAPE["genes"])], work)
        add_embedding(data, SHAPE["embedding"])
        jobs: list[dict] = [{"kind": "gpt2", "output": str(work / "gpt2.npz")}]
        names = only or list(VARIANTS)
        for seed, name in enumerate(names):
            jobs += model_jobs(name, oracle, work / name, data, SHAPE, seed)
        for name in ("confidence_token", "both_tokens", "causal_tokens", "masked_tokens"):
            if name in names:
                jobs.append(
                    {"kind": "confidence", "folder": str(work / name), "cells": 6, "output": str(work / f"{name}_set.npz")}
                )
        jobs += [{"kind": "small", "folder": str(work / name)} for name in names]
        run_peer(python, jobs, work)
        store(work, data, names)


def store(work: Path, data: Path, names: list[str]) -> None:
    """Copy what was made to the fixtures."""
    cells = anndata.read_h5ad(data)
    labels = {column: cells.obs[column].astype(str).to_numpy().astype("U") for column in cells.obs}
    values = {"X": cells.X.toarray(), "X_state": cells.obsm["X_state"]}  # X_hvg is X here
    np.savez_compressed(FIXTURES / "cells.npz", **labels, **values)
    shutil.copy(work / "gpt2.npz", FIXTURES / "gpt2.npz")
    for name in names:
        target = FIXTURES / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(work / name, target)
        np.savez_compressed(target / "expected.npz", **expected_of(work / f"{name}.h5ad", input_key(name)))
        if (work / f"{name}_set.npz").exists():
            shutil.copy(work / f"{name}_set.npz", target / "set.npz")


if __name__ == "__main__":
    main()
