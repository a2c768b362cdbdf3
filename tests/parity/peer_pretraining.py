"""Runs inside the environment of the reference program: one pretraining step of small State Embedding models, by calling the model.

    PEER_PYTHON peer_pretraining.py JOBS.json OUTPUT_FOLDER

A job is {"name": ..., "loss": ..., "P": ..., "N": ..., "S": ..., "together": ...}; NAME.pt gets the weights, the mini-batch, and the loss and
gradient of the step; only its outside is used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from omegaconf import OmegaConf
from state.emb.nn.model import StateEmbeddingModel

GENES, WIDTH, D, CELLS, TOKENS, DATASETS = 50, 12, 16, 6, 14, 3


def configuration(job: dict) -> OmegaConf:
    """What the reference reads of its configuration in a step."""
    return OmegaConf.create(
        {
            "model": {
                "rda": True, "counts": True, "dataset_correction": True, "num_downsample": job["together"], "nhead": 4, "nlayers": 2,
                "emsize": D, "d_hid": 2 * D, "output_dim": D, "dropout": 0.0,
            },
            "dataset": {"current": "own", "own": {"num_datasets": DATASETS}, "P": job["P"], "N": job["N"], "S": job["S"],
                        "pad_length": TOKENS, "cls_token_idx": 3},
            "embeddings": {"current": "own", "own": {"size": WIDTH, "num": GENES}},
            "loss": {"name": job["loss"], "kernel": "energy", "normalization": False},
            "optimizer": {"weight_decay": 0.01, "start": 0.33, "end": 1.0},
        }
    )  # fmt: skip


def step(job: dict, output: Path) -> None:
    """Make a model, run one training step, keep what went in and came out."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    cfg = configuration(job)
    model = StateEmbeddingModel(WIDTH, D, 4, 2 * D, 2, D, dropout=0.0, cfg=cfg, emb_cnt=GENES, emb_size=WIDTH)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # louder than initialised, so that a wrong wiring shows
            if weight.ndim == 2 and not name.startswith("count_encoder"):
                weight.normal_().div_(weight.shape[1] ** 0.5)
    model.dataset_encoder[3].p = 0.0
    vectors = torch.randn(GENES, WIDTH)
    model.pe_embedding = torch.nn.Embedding.from_pretrained(vectors)
    k = job["P"] + job["N"] + job["S"]
    own = torch.stack([torch.randperm(GENES)[: k - job["S"]] for _ in range(CELLS)])
    genes = torch.cat([own, torch.randint(GENES, (job["S"],)).expand(CELLS, -1)], dim=1)
    values = torch.rand(CELLS, k) * 3 * (torch.rand(CELLS, k) < 0.7)
    sentences = torch.stack([torch.randperm(GENES)[:TOKENS] for _ in range(CELLS)])
    counts = torch.rand(CELLS, TOKENS) * 8
    datasets = torch.arange(CELLS) % DATASETS
    target = (values > 0).double() if job["loss"] == "cross_entropy" else values
    batch = (sentences, genes, target, None, values, torch.zeros(CELLS, TOKENS), None, counts, datasets)
    logged: dict = {}
    model.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    stub = SimpleNamespace(step=lambda *_: None, optimizer=SimpleNamespace(param_groups=[{"lr": 0.0}]))
    model.lr_schedulers = lambda: SimpleNamespace(_schedulers=[stub])
    model._trainer = SimpleNamespace(global_step=0)
    model.train()
    loss = model.shared_step(batch, 0)
    loss.backward()
    gradient = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    kept = {"sentences": sentences, "counts": counts, "genes": genes, "values": values, "datasets": datasets, "vectors": vectors}
    result = {"state_dict": model.state_dict(), "batch": kept, "dataset": logged["trainer/dataset_loss"]}
    torch.save({**result, "loss": float(loss.detach()), "gradient": float(gradient)}, output)


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        step(each, Path(sys.argv[2]) / f"{each['name']}.pt")
