"""Runs inside the environment of the reference program: one training step of small models, by calling the model.

    PEER_PYTHON peer_training.py JOBS.json OUTPUT_FOLDER

A job is {"name": ..., "keywords": ..., "width": ..., "genes": ..., "counts": ...}; NAME.pt gets the weights, the mini-batch, and
what the step logged and returned; only its outside is used.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from state.tx.models.state_transition import StateTransitionPerturbationModel

SETS, SIZE, BATCHES, PERTURBATIONS = 3, 6, 4, 5


def step(job: dict, output: Path) -> None:
    """Make a model, run one training step, keep what went in and came out."""
    torch.manual_seed(0)
    np.random.seed(0)  # a detached decoder is given the observed cells in a tenth of the steps, drawn here; not in this one
    torch.set_default_dtype(torch.float64)  # in float32, the distance of a cell to itself is rounding, another one in every run
    width, genes = job["width"], job["genes"]
    decoder = {"latent_dim": width, "gene_dim": genes, "hidden_dims": [8, 8], "dropout": 0.0, "residual_decoder": False}
    with contextlib.redirect_stdout(io.StringIO()):
        model = StateTransitionPerturbationModel(
            input_dim=width, output_dim=width, hvg_dim=genes, gene_dim=genes, pert_dim=PERTURBATIONS, batch_dim=BATCHES,
            gene_names=[f"G{i}" for i in range(genes)], control_pert="control", batch_size=SETS, loss_fn="mse", lr=1e-4, dropout=0.0,
            decoder_cfg=decoder, **job["keywords"],
        )  # fmt: skip
    if "confidence_token" in job["keywords"]:
        with torch.no_grad():  # else its last ReLU is shut and its loss says nothing
            model.confidence_token.confidence_projection[8].bias.fill_(3.0)
    with torch.no_grad():  # adapters do nothing as they are made
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_()
    cells = SETS * SIZE
    batch = {
        "ctrl_cell_emb": torch.rand(cells, width),
        "pert_cell_emb": torch.rand(cells, width) + 0.3,
        "pert_emb": torch.eye(PERTURBATIONS)[[1] * SIZE + [2] * SIZE + [0] * SIZE],
        "pert_name": ["A"] * SIZE + ["B"] * SIZE + ["control"] * SIZE,
        "batch": torch.eye(BATCHES)[[0] * SIZE + [2] * SIZE + [3] * SIZE],
    }
    if job["counts"]:
        batch["pert_cell_counts"] = torch.rand(cells, genes) + 0.3
    logged: dict = {}
    model.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    model.train()
    with contextlib.redirect_stdout(io.StringIO()):
        loss = model.training_step(batch, 0)
    loss.backward()
    gradient = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    result = {"hyper": dict(model.hparams), "state_dict": model.state_dict(), "batch": tensors, "logged": logged}
    torch.save({**result, "loss": float(loss.detach()), "gradient": float(gradient)}, output)


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        step(each, Path(sys.argv[2]) / f"{each['name']}.pt")
