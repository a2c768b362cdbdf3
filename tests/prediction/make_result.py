"""Makes small result files of the layout that the predict verb writes, through anndata, so that the reader meets a real file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from state_engine import keys

CONTROL = "control"


def make_result(
    path: Path,
    *,
    contexts: tuple[str, ...] = ("B", "T"),
    perturbations: tuple[str, ...] = ("drugA", "drugB"),
    n: int = 30,
    n_control: int = 50,
    n_genes: int = 40,
    seed: int = 0,
    embedding: str | None = None,
    decoder: bool = True,
    observed: bool = True,
    calibrated: bool = False,
) -> Path:
    """Perturbation i raises genes 2i and 2i+1 by 1.5 and lowers gene 10 everywhere; the raw layer is off by +0.2.

    With `calibrated` a third layer: halfway between a predicted cell and its basal cell, and nothing for the last perturbation in the
    last context.
    """
    rng = np.random.default_rng(seed)
    base = {c: rng.uniform(0.2, 2.0, n_genes) for c in contexts}
    blocks: list[np.ndarray] = []
    raws: list[np.ndarray] = []
    obs: list[dict[str, Any]] = []
    pools = {c: _cells(rng, base[c], n_control) for c in contexts}
    draws = {c: rng.permutation(n_control)[:n] for c in contexts}

    def add(x: np.ndarray, raw: np.ndarray, kind: str, p: str, c: str, names: list[str], basal: list[str]) -> None:
        blocks.append(x)
        raws.append(raw)
        cell_set = 0 if "predicted" in kind else -1
        obs.extend(
            {"name": a, "perturbation": p, "context": c, "batch": "1", "kind": kind, "basal_cell": b, "cell_set": cell_set,
             "predicted_loss": np.nan} for a, b in zip(names, basal, strict=True)
        )  # fmt: skip

    for c in contexts:
        barcodes = [f"{c}-{i}" for i in draws[c]]
        for p in perturbations:
            x = np.maximum(pools[c][draws[c]] + effect(perturbations.index(p), n_genes), 0)
            add(x, x + 0.2, keys.PREDICTED, p, c, [f"predicted {p} {c} {i}" for i in range(n)], barcodes)
    for c in contexts:
        barcodes = [f"{c}-{i}" for i in draws[c]]
        x = pools[c][draws[c]]
        add(x, x + 0.2, keys.PREDICTED_CONTROL, CONTROL, c, [f"predicted control {c} {i}" for i in range(n)], barcodes)
    for c in contexts:
        names = [f"{c}-{i}" for i in range(n_control)]
        add(pools[c], pools[c], keys.OBSERVED_CONTROL, CONTROL, c, names, [""] * n_control)
    for c in contexts if observed else ():
        for p in perturbations:
            x = np.maximum(_cells(rng, base[c], n) + effect(perturbations.index(p), n_genes), 0)
            add(x, x, keys.OBSERVED, p, c, [f"{c}-{p}-{i}" for i in range(n)], [""] * n)
    table = pd.DataFrame(obs).set_index("name")
    path = write_result(path, np.vstack(blocks), np.vstack(raws), table, embedding, decoder)
    if calibrated:
        _add_calibrated(path, table, np.vstack(blocks), pools, (perturbations[-1], contexts[-1]))
    return path


def effect(i: int, n_genes: int) -> np.ndarray:
    delta = np.zeros(n_genes)
    delta[[2 * i, 2 * i + 1]] = 1.5
    delta[10] = -1.0
    return delta


def write_result(
    path: Path, x: np.ndarray, raw: np.ndarray, obs: pd.DataFrame, embedding: str | None = None, decoder: bool = True
) -> Path:
    """Writes the arrays as they are; X is chunked by rows."""
    x, raw = x.astype(np.float32), raw.astype(np.float32)
    genes = [f"G{i}" for i in range(x.shape[1])] if decoder else []
    for column in ("perturbation", "context", "batch", "kind", "basal_cell"):
        if column in obs:
            obs[column] = pd.Categorical(obs[column])
    adata = anndata.AnnData(x[:, : len(genes)], obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
    adata.layers[keys.RAW_LAYER] = raw[:, : len(genes)]
    if embedding:
        adata.obsm[embedding], adata.obsm[embedding + "_raw"] = x, raw
    adata.uns[keys.MANIFEST] = json.dumps({"seed": 7})
    adata.write_h5ad(path)
    if len(genes):
        _chunk(path, x)
    return path


def _add_calibrated(path: Path, obs: pd.DataFrame, x: np.ndarray, pools: dict[str, np.ndarray], missing: tuple[str, str]) -> None:
    values = x.copy()
    for i, row in enumerate(obs.itertuples()):
        if row.kind == keys.PREDICTED:
            basal = pools[row.context][int(row.basal_cell.rpartition("-")[2])]
            values[i] = np.nan if (row.perturbation, row.context) == missing else (x[i] + basal) / 2
    with h5py.File(path, "r+") as file:
        layer = file["layers"].create_dataset(keys.CALIBRATED_LAYER, data=values.astype(np.float32))
        layer.attrs.update(dict(file["X"].attrs))
        manifest = {"seed": 7, "calibration": {"paired": 0.5, "mean": 0.0, "without": [list(missing)]}}
        file["uns"][keys.MANIFEST][()] = json.dumps(manifest)


def _chunk(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        data = file.create_dataset("X", data=x, chunks=(min(256, len(x)), x.shape[1]))
        data.attrs.update(attributes)


def _cells(rng: np.random.Generator, mean: np.ndarray, n: int) -> np.ndarray:
    values = rng.normal(mean, 0.4, (n, len(mean)))
    values[rng.random(values.shape) < 0.2] = 0
    return np.maximum(values, 0)
