"""Runs inside the environment of the reference program: makes State Embedding models and cells, and embeds with it.

    PEER_PYTHON peer_embedding.py JOBS.json

As `peer.py`: one process, a black box. What its modules receive is read by hooks on torch's linears.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch


def script(job):
    """Run a script with arguments."""
    sys.argv = [job["path"], *job["arguments"]]
    runpy.run_path(job["path"], run_name="__main__")


def louder(job):
    """Make all weights of the checkpoint large enough that a wrong wiring shows, and keep only what is needed."""
    path = Path(job["folder"]) / "se.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    generator = torch.Generator().manual_seed(job["seed"])
    weights = checkpoint["state_dict"]
    for name, tensor in weights.items():
        if name.startswith(("gene_embedding_layer", "count_encoder")):
            continue
        if tensor.ndim == 2:
            weights[name] = 1.2 * torch.randn(tensor.shape, generator=generator) / max(tensor.shape[1] ** 0.5, 1)
    for part in ("0.weight", "0.bias", "1.weight", "1.bias"):
        weights[f"gene_embedding_layer.{part}"] = weights[f"encoder.{part}"]
    if "count_encoder.2.weight" in weights:  # a count of some per cent should choose among the bins
        weights["count_encoder.2.weight"] *= 4
    for name in job["keep"]:
        checkpoint.setdefault(name, None)
    torch.save({name: checkpoint[name] for name in job["keep"]}, path)


def small(job):
    """Keep of the configuration what says how the model was built."""
    from omegaconf import OmegaConf

    path = Path(job["folder"]) / "se.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    whole = checkpoint["hyper_parameters"]["cfg"]
    kept = OmegaConf.create(
        {
            "model": {name: whole.model[name] for name in ("nhead", "nlayers", "emsize", "d_hid", "output_dim", "counts", "rda")},
            "dataset": {name: whole.dataset[name] for name in ("pad_length", "cls_token_idx")},
        }
    )
    checkpoint["hyper_parameters"]["cfg"], checkpoint["cfg_yaml"] = kept, OmegaConf.to_yaml(kept)
    torch.save(checkpoint, path)


def config(job):
    """The configuration with the path of the gene vectors, which `state emb eval` wants."""
    from omegaconf import OmegaConf

    loaded = OmegaConf.load(job["source"])
    loaded.embeddings[loaded.embeddings.current].all_embeddings = job["vectors"]
    OmegaConf.save(loaded, job["output"])


def _hooked(arguments, linears):
    """Run the program; what goes into and out of linears of these sizes, in the order of the calls."""
    from state.__main__ import main

    seen = {name: [] for name in linears}

    def hook(module, given, result):
        if isinstance(module, torch.nn.Linear):
            name = f"{module.in_features}_{module.out_features}"
            if name in seen:
                seen[name].append((given[0].detach().float().numpy(), result.detach().float().numpy()))

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        sys.argv = ["state", "emb", *arguments]
        main()
    finally:
        handle.remove()
    return seen


def transform(job):
    """`state emb transform`."""
    _hooked(["transform", *job["arguments"]], [])


def sentences(job):
    """`state emb transform` of one mini-batch; the vectors of the tokens and the counts that reached the network are kept."""
    encoder = f"{job['token_dim']}_{job['d_model']}"
    seen = _hooked(["transform", *job["arguments"]], [encoder, "1_512"])
    np.savez(job["output"], tokens=seen[encoder][0][0], counts=seen["1_512"][0][0][..., 0])


def decoded(job):
    """`state emb eval`, for what its expression decoder receives and says. It wants a GPU only to wait for it."""
    torch.cuda.synchronize = lambda *args: None
    wide = job["width"]
    encoder = f"{job['token_dim']}_{job['d_model']}"
    seen = _hooked(["eval", *job["arguments"]], [encoder, f"{wide}_{2 * wide}", f"{wide}_1"])
    genes = next(given for given, _ in seen[encoder] if given.ndim == 2)
    np.savez(job["output"], genes=genes, pairs=seen[f"{wide}_{2 * wide}"][0][0], expected=seen[f"{wide}_1"][0][1][..., 0])


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        globals()[each["kind"]](each)
