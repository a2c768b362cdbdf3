"""A State Embedding model pretrained on small real data sets, and cell types read from its embedding, beside principal components.

    python -m benchmarks.pretrain [--data ../shared/data] [--seeds 1 2 3] [--steps N] [--markdown]

Pretrained on pbmc3k and kang_ifnb without labels, one thread, on the CPU. Then the cell types of pbmc3k in 5 folds, the same for each row:
logistic regression on the embedding's cell part, the 15 nearest cells by cosine, and logistic regression on 50 principal components
(log1p of depth 10,000, all genes that the model knows). `--steps 1` shows a model that has learnt nothing.
Sizes and steps are the settings below. Variable genes, tokens, first weights and learning rate were chosen on the cell types of kang_ifnb; of
pbmc3k no score was looked at for them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.data.dataset import Choices, open_dataset
from state_engine.pretrain.assess import embed_cells, neighbour_labels, principal_components
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task
from state_engine.pretrain.run_folder import read_pretraining, read_report
from state_engine.pretrain.sources import Source, survey
from state_engine.progress import silent

ROOT = Path(__file__).resolve().parents[1]
FILES, TESTED, LABELS = ("pbmc3k.h5ad", "kang_ifnb.h5ad"), "pbmc3k.h5ad", "cell_type"
VARIABLE_GENES = 4000
SIZES = Sizes(hidden=64, layers=1, feed_forward=128, output_dim=64, tokens=128, gene_width=64, dropout=0.0)
TASK = Task(expressed=40, unexpressed=32, shared=32)
SCHEDULE = Schedule(steps=3000, learning_rate=1e-3)
REGULARISATION = 0.1
LEAST_CELLS = 20


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows = []
    for seed in options.seeds:
        row = measure(options.data, seed, options.steps)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.markdown:
        print(table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=SCHEDULE.steps)
    parser.add_argument("--markdown", action="store_true", help="also the table of RESULTS.md")
    return parser.parse_args()


def measure(data: Path, seed: int, steps: int) -> dict[str, object]:
    """Pretrain with a seed and test the embedding."""
    request = request_of(data, seed, steps)
    with tempfile.TemporaryDirectory() as folder:
        run, used = Path(folder) / "run", time.process_time()
        pretrain_embedding(request, run)
        used = time.process_time() - used
        loaded, loss = load_embedding(run / "model"), read_report(run).validation_loss
        seconds = read_pretraining(run).seconds
    source = survey((open_dataset(data / TESTED, Choices()),), loaded.card.vocabulary, silent)[0]
    labels, cells = labelled(source)
    embedded = embed_cells(source, cells, loaded, seed)
    found: dict[str, object] = {
        "seed": seed, "steps": steps, "cells": len(cells), "types": len(set(labels)), "validation_loss": loss,
        "step_seconds": round(seconds), "cpu_seconds": round(used),
    }  # fmt: skip
    for name, x in (("se", embedded), ("components", principal_components([(source, cells)], seed))):
        found[f"{name}_accuracy"], found[f"{name}_balanced"] = regression(x, labels, seed)
    found["se_neighbours"] = round(float(np.mean(neighbour_labels(embedded, labels, seed) == labels)), 4)
    return found


def request_of(data: Path, seed: int, steps: int) -> PretrainRequest:
    """The pretraining with a seed."""
    return PretrainRequest(
        tuple(str(data / name) for name in FILES), sizes=SIZES, task=TASK, schedule=replace(SCHEDULE, steps=steps),
        running=Running(seed=seed, device="cpu", validate_every=300, checkpoint_every=0, test=False),
        variable_genes=VARIABLE_GENES,
    )  # fmt: skip


def labelled(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Labels and rows of the cells of types that have `LEAST_CELLS` cells."""
    column = source.dataset.columns[LABELS]
    labels = np.asarray(column.astype(str), dtype=object)[source.rows]
    names, counts = np.unique(labels.astype(str), return_counts=True)
    usable = np.isin(labels.astype(str), names[(counts >= LEAST_CELLS) & (names != "nan")])
    return labels[usable], source.rows[usable]


def regression(x: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float]:
    """Accuracy and balanced accuracy of logistic regression over cells left out of each fifth."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000, C=REGULARISATION))
    names = labels.astype(str)
    told = cross_val_predict(model, x, names, cv=StratifiedKFold(5, shuffle=True, random_state=seed))
    return round(float(np.mean(told == names)), 4), round(float(balanced_accuracy_score(names, told)), 4)


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    columns = {
        "seed": "seed", "steps": "steps", "validation_loss": "validation loss", "se_accuracy": "SE", "components_accuracy": "50 PCs",
        "se_balanced": "SE, balanced", "components_balanced": "50 PCs, balanced", "se_neighbours": "SE, neighbours",
        "cpu_seconds": "CPU seconds",
    }  # fmt: skip
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "--:|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(f"{row[name]}" for name in columns) + " |" for row in rows)])


if __name__ == "__main__":
    main()
