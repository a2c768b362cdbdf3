"""One training step of the reference: every part of its loss, and the gradient of their sum, from our pieces.

Needs the reference in its own environment (STATE_PEER_PYTHON).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from state_engine.checkpoints.arc.architecture import read_architecture
from state_engine.checkpoints.arc.names_in import translate
from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.models.lora import add_adapters
from state_engine.models.losses import build_loss
from state_engine.models.objectives import (
    BATCH_TOKEN_WEIGHT,
    CONFIDENCE_WEIGHT,
    DECODER_WEIGHT,
    BatchClassifier,
    batch_of_sets,
    batch_token_loss,
    confidence_loss,
    decoder_loss,
    l1_change,
)
from state_engine.models.transition import TransitionModel
from tests.models.test_lora import take_adapters

pytestmark = [pytest.mark.parity, pytest.mark.slow]

HIDDEN, SIZE, L1 = 16, 6, 0.5
BACKBONE = {
    "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 4, "bidirectional_attention": True, "max_position_embeddings": SIZE, "use_cache": False,
}  # fmt: skip
COMMON = {
    "hidden_dim": HIDDEN, "cell_set_len": SIZE, "transformer_backbone_key": "llama", "transformer_backbone_kwargs": BACKBONE,
    "blur": 0.05, "n_encoder_layers": 2, "n_decoder_layers": 2, "predict_residual": True, "distributional_loss": "energy",
    "embed_key": "X_hvg", "output_space": "gene", "gene_decoder_bool": False,
}  # fmt: skip
LORA = {"enable": True, "r": 4, "alpha": 6, "dropout": 0.0, "bias": "none", "target": "auto", "adapt_mlp": False}
DECODED = {"embed_key": "X_state", "gene_decoder_bool": True}
CASES: dict[str, dict] = {
    "energy": {"loss": "energy"},
    "sinkhorn": {"loss": "sinkhorn"},
    "se": {"loss": "se"},
    "mse": {"loss": "mse"},
    "chunks": {"loss": "energy", "mmd_num_chunks": 3},
    "confidence": {"loss": "energy", "confidence_token": True},
    "batch_token": {"loss": "energy", "use_batch_token": True, "basal_mapping_strategy": "batch"},
    "l1": {"loss": "energy", "regularization": L1},
    "decoder": {"loss": "energy", **DECODED},
    "decoder_alone": {"loss": "energy", "detach_decoder": True, **DECODED},
    "decoder_se": {"loss": "se", **DECODED},
    "lora": {"loss": "energy", "lora": LORA},
    "lora_mlp": {"loss": "energy", "lora": LORA | {"adapt_mlp": True}},
}
NAMES = {"se": "combined"}
TOLERANCE = 1e-6  # relative, in float64


@pytest.fixture(scope="module")
def steps(peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    jobs = []
    for name, keywords in CASES.items():
        decoded = "embed_key" in keywords
        sizes = {"width": 10 if decoded else 20, "genes": 20, "counts": decoded}
        jobs.append({"name": name, "keywords": COMMON | keywords, **sizes})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("peer_training.py")
    done = subprocess.run([peer_python, script, folder / "jobs.json", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def sets_of(cells: torch.Tensor) -> torch.Tensor:
    return cells.reshape(-1, SIZE, cells.shape[-1])


@pytest.mark.parametrize("name", CASES)
def test_parts_sum_and_gradient(steps, name):
    made = load_torch(steps / f"{name}.pt")
    weights, batch, logged = made["state_dict"], made["batch"], made["logged"]
    architecture = read_architecture(made["hyper"], list(weights))
    config = architecture.config
    model = TransitionModel(config).double()
    depth = len(config.decoder.hidden) if config.decoder else None
    keywords = CASES[name]
    model.load_state_dict(translate({n: t for n, t in weights.items() if ".lora_" not in n}, None, depth)[0])
    if "lora" in keywords:
        add_adapters(model, LORA["r"], LORA["alpha"], feed=keywords["lora"]["adapt_mlp"])
        take_adapters(model, weights)
    loss = build_loss(NAMES.get(keywords["loss"], keywords["loss"]), chunks=keywords.get("mmd_num_chunks", 1))
    basal, observed = sets_of(batch["ctrl_cell_emb"]), sets_of(batch["pert_cell_emb"])
    out = model(basal, sets_of(batch["pert_emb"])[:, 0], attention=architecture.attention)
    losses = loss(out.predicted, observed)
    parts, total = {"train_loss": losses.mean()}, losses.mean()
    if out.confidence is not None:
        parts["train/confidence_loss"] = CONFIDENCE_WEIGHT * confidence_loss(out.confidence, losses)
        total = total + parts["train/confidence_loss"]
    if out.token is not None:
        classifier = BatchClassifier(HIDDEN, weights["batch_classifier.0.weight"].shape[0]).double()
        classifier.out.load_state_dict({n: weights[f"batch_classifier.0.{n}"] for n in ("weight", "bias")})
        batches = batch_of_sets(sets_of(batch["batch"]).argmax(-1))
        parts["train/batch_token_loss"] = batch_token_loss(classifier(out.token), batches)
        total = total + BATCH_TOKEN_WEIGHT * parts["train/batch_token_loss"]
        model.add_module("classifier", classifier)
    if "regularization" in keywords:
        parts["train/l1_regularization"] = l1_change(out.predicted, basal)
        total = total + L1 * parts["train/l1_regularization"]
    if config.decoder is not None:
        genes = sets_of(batch["pert_cell_counts"])
        decoded = decoder_loss(model, out.predicted, genes, loss, keywords.get("detach_decoder", False)).mean()
        parts["decoder_loss"] = decoded
        total = total + DECODER_WEIGHT * decoded
    for part, value in parts.items():
        assert float(value.detach()) == pytest.approx(logged[part], rel=TOLERANCE), part
    assert set(parts) >= {
        part for part in logged if part not in ("train/actual_loss", "train/sinkhorn_loss", "train/energy_loss")
    }
    assert float(total.detach()) == pytest.approx(made["loss"], rel=TOLERANCE)
    total.backward()
    gradient = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(gradient) == pytest.approx(made["gradient"], rel=1e-5)
