"""Makes `fixtures/embedding/` with the reference program: small models with random weights, cells, and what it makes of them.

    python tests/parity/make_embedding_fixtures.py PEER_PYTHON ORACLE_FOLDER

`cells.npz` are 24 cells of 90 genes without ties or zeros; NAME/se.ckpt a model, NAME/expected.npz its embedding of them.
`sentences.npz`: sparse cells, their sentences as the reference drew them and the embeddings it made. `order.npz`: the embedding of
the same cells with genes in another order. `decoded.npz`: input and output of its expression decoder.
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
import pandas as pd
import scipy.sparse as sp

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.parity.embedding_variants import SMALL, Variant

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures" / "embedding"
GENES, CELLS = 90, 24
MAIN = "two_layers"
KEPT = ["state_dict", "hyper_parameters", "cfg_yaml", "protein_embeds_dict", "pytorch-lightning_version"]


def run_peer(python: Path, jobs: list[dict], folder: Path) -> None:
    """Run jobs of `peer_embedding.py` in the reference's environment."""
    listing = folder / "jobs.json"
    listing.write_text(json.dumps(jobs))
    command = [python, HERE / "peer_embedding.py", listing]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}")


def make_jobs(variant: Variant, oracle: Path, folder: Path, seed: int) -> list[dict]:
    """Make a model and make it louder; it has its gene vectors and configuration inside."""
    arguments = variant.arguments(str(folder), seed)
    return [
        {"kind": "script", "path": str(oracle / "make_se.py"), "arguments": arguments},
        {"kind": "louder", "folder": str(folder), "seed": seed, "keep": KEPT},
    ]


def transform_arguments(folder: Path, data: Path, output: Path) -> list[str]:
    """Of `state emb transform`."""
    return ["--model-folder", str(folder), "--input", str(data), "--output", str(output)]


def write_cells(path: Path, values: np.ndarray, names: list[str], **columns: list[str]) -> None:
    """An .h5ad with these genes."""
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(values))])
    obs["gene"] = pd.Categorical(["non-targeting" if i % 3 == 0 else f"GENE{i % 2}" for i in range(len(values))])
    var = pd.DataFrame(columns, index=names)
    anndata.AnnData(sp.csr_matrix(values.astype(np.float32)), obs=obs, var=var).write_h5ad(path)


def dense_cells(seed: int, cells: int, genes: int) -> np.ndarray:
    """Every gene expressed, all values different: nothing is left to chance in a sentence. Log1p-like."""
    rng = np.random.default_rng(seed)
    return (0.01 + 5 * rng.random((cells, genes))).astype(np.float32)


def main() -> None:
    python, oracle = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    names = [f"G{i}" for i in range(GENES)]
    values = dense_cells(0, CELLS, GENES)
    rng = np.random.default_rng(1)
    order = rng.permutation(GENES)
    sparse = np.where(rng.random((12, GENES)) < 0.12, dense_cells(2, 12, GENES), 0).astype(np.float32)
    sparse[5] = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_cells(work / "cells.h5ad", values, names, gene_name=names)
        write_cells(work / "order.h5ad", values[:, order], [names[i] for i in order])
        write_cells(work / "sparse.h5ad", sparse, names)
        jobs: list[dict] = []
        for seed, (name, variant) in enumerate(SMALL.items()):
            jobs += make_jobs(variant, oracle, work / name, seed)
            jobs.append(
                {"kind": "transform", "arguments": transform_arguments(work / name, work / "cells.h5ad", work / f"{name}.h5ad")}
            )
        jobs += special_jobs(work)
        jobs += [{"kind": "small", "folder": str(work / name)} for name in SMALL]
        run_peer(python, jobs, work)
        store(work, values, order, sparse)


def special_jobs(work: Path) -> list[dict]:
    """Other inputs to one of the models."""
    main, folder = SMALL[MAIN], work / MAIN
    width = 2 * main.d_model + 11
    sizes = {"token_dim": main.token_dim, "d_model": main.d_model}
    evaluate = [
        "--checkpoint", str(folder / "se.ckpt"), "--adata", str(work / "cells.h5ad"), "--pert-col", "gene",
        "--control-pert", "non-targeting", "--config", str(work / "eval.yaml"),
    ]  # fmt: skip
    return [
        {"kind": "transform", "arguments": transform_arguments(folder, work / "order.h5ad", work / "order_out.h5ad")},
        {
            "kind": "sentences",
            "arguments": transform_arguments(folder, work / "sparse.h5ad", work / "sparse_out.h5ad"),
            "output": str(work / "sentences.npz"),
            **sizes,
        },
        {
            "kind": "config",
            "source": str(folder / "config.yaml"),
            "vectors": str(folder / "protein_embeddings.pt"),
            "output": str(work / "eval.yaml"),
        },
        {"kind": "decoded", "arguments": evaluate, "output": str(work / "decoded.npz"), "width": width, **sizes},
    ]


def store(work: Path, values: np.ndarray, order: np.ndarray, sparse: np.ndarray) -> None:
    """Copy what was made to the fixtures."""
    np.savez_compressed(FIXTURES / "cells.npz", values=values, order=order, sparse=sparse)
    for name in SMALL:
        target = FIXTURES / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        shutil.copy(work / name / "se.ckpt", target)
        np.savez_compressed(target / "expected.npz", X_state=embedding_of(work / f"{name}.h5ad"))
    np.savez_compressed(FIXTURES / "order.npz", X_state=embedding_of(work / "order_out.h5ad"))
    with np.load(work / "sentences.npz") as seen:
        np.savez_compressed(FIXTURES / "sentences.npz", **seen, X_state=embedding_of(work / "sparse_out.h5ad"))
    with np.load(work / "decoded.npz") as seen:
        np.savez_compressed(FIXTURES / "decoded.npz", **seen)


def embedding_of(path: Path) -> np.ndarray:
    """What the reference wrote."""
    return np.asarray(anndata.read_h5ad(path).obsm["X_state"], dtype=np.float32)


if __name__ == "__main__":
    main()
