"""Runs inside the environment of the reference program: makes models, louder than initialised, and runs its inference.

    PEER_PYTHON peer.py JOBS.json

One process for all jobs, because importing the program takes longer than the jobs. Uses it as a black box: its command line, its
model's forward, nothing else. A job is {"kind": "script" | "louder" | "small" | "infer" | ..., ...}.
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
    """Make all weights of the checkpoint large enough that a wrong wiring shows."""
    path = Path(job["folder"]) / "checkpoints" / "final.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    generator = torch.Generator().manual_seed(job["seed"])
    weights = checkpoint["state_dict"]
    for name, tensor in weights.items():
        if tensor.ndim == 2 and ("layers." in name or "lora_" in name):
            weights[name] = 1.2 * torch.randn(tensor.shape, generator=generator) / tensor.shape[1] ** 0.5
        elif tensor.ndim == 3:
            weights[name] = torch.randn(tensor.shape, generator=generator)
    # biases at the ends spread the output over the range, past both ends of the clipping
    for name, spread in (("project_out.", 12.0), ("final_down_then_up.2", 8.0), ("gene_decoder.", 8.0)):
        ends = [n for n in weights if n.startswith(name) and n.endswith(".bias")]
        if ends:
            last = ends[-1]
            weights[last] = weights[last] + spread * torch.randn(weights[last].shape, generator=generator)
    last = "confidence_token.confidence_projection.8.bias"
    if last in weights:
        weights[last] = weights[last] + 2
    torch.save(checkpoint, path)


def small(job):
    """Keep the weights and hyper-parameters only, of the dead embeddings of tokens one row."""
    path = Path(job["folder"]) / "checkpoints" / "final.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["state_dict"]
    for name in weights:
        if name.endswith("embed_tokens.weight"):
            weights[name] = weights[name][:1].clone()
    kept = {k: checkpoint[k] for k in ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters")}
    torch.save(kept, path)


def infer(job):
    """`state tx infer` with arguments."""
    from state.__main__ import main

    sys.argv = ["state", "tx", "infer", "--quiet", *job["arguments"]]
    main()


def confidence(job):
    """Prediction and confidence of one set, by calling the model."""
    from state.tx.models.state_transition import StateTransitionPerturbationModel

    path = Path(job["folder"]) / "checkpoints" / "final.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    model = StateTransitionPerturbationModel(**checkpoint["hyper_parameters"]).eval()
    model.load_state_dict(checkpoint["state_dict"])
    hyper = checkpoint["hyper_parameters"]
    basal = torch.rand(job["cells"], hyper["input_dim"], generator=torch.Generator().manual_seed(3))
    one = torch.zeros(job["cells"], hyper["pert_dim"])
    one[:, 2] = 1
    batch = torch.zeros(job["cells"], hyper["batch_dim"])
    batch[:, 1] = 1
    with torch.no_grad():
        predicted, loss = model.forward(
            {"ctrl_cell_emb": basal, "pert_emb": one, "pert_name": ["GENE1"] * job["cells"], "batch": batch}, padded=False
        )
    np.savez(job["output"], basal=basal, perturbation=one[0], predicted=predicted, confidence=loss.reshape(-1))


def gpt2(job):
    """Hidden states of transformers' own GPT2 without positions, causal and full."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(5)
    config = GPT2Config(
        n_embd=16, n_layer=2, n_head=4, n_positions=16, vocab_size=1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        attn_implementation="eager",
    )  # fmt: skip
    model = GPT2Model(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.zeros_like(weight) if name.startswith(("wpe", "wte")) else weight + 0.3 * torch.randn_like(weight))
        x = torch.randn(3, 9, 16)
        everyone = torch.zeros(3, 1, 9, 9)
        causal = model(inputs_embeds=x).last_hidden_state
        full = model(inputs_embeds=x, attention_mask=everyone).last_hidden_state
    assert (causal - full).abs().max() > 0.01
    weights = {f"weight:{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(job["output"], x=x, causal=causal, full=full, **weights)


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        globals()[each["kind"]](each)
