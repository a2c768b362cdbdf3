"""One training step of the reference: every term of its loss, and the gradient of their sum, as the trainer computes them.

Needs the reference in its own environment (STATE_PEER_PYTHON).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from state_engine.checkpoints.arc.architecture import read_architecture
from state_engine.checkpoints.arc.names_in import translate
from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.models.lora import add_adapters
from state_engine.models.losses import MiniBatch
from state_engine.models.transition import TransitionModel
from state_engine.train.module import TransitionTraining, added_parts
from state_engine.train.request import TrainRequest
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
LOGGED = {  # term -> the reference's name for it
    "distance": "train_loss", "confidence": "train/confidence_loss", "batch_token": "train/batch_token_loss",
    "change": "train/l1_regularization", "decoder": "decoder_loss",
}  # fmt: skip
UNWEIGHTED = ("distance", "batch_token", "change", "decoder")  # the reference logs these before it weighs them
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


def request_of(keywords: dict) -> TrainRequest:
    """The training of a case; weights of the terms are the defaults."""
    token = keywords.get("use_batch_token", False)
    return TrainRequest().with_settings(
        hidden=HIDDEN, heads=4, set_size=SIZE, fill=True, device="cpu", loss=NAMES.get(keywords["loss"], keywords["loss"]),
        loss_chunks=keywords.get("mmd_num_chunks", 1), confidence_token=keywords.get("confidence_token", False), batch_token=token,
        control_mapping="batch" if token else "random", l1=keywords.get("regularization", 0.0),
        embedding="X_state" if "embed_key" in keywords else None, gene_decoder=keywords.get("gene_decoder_bool", False),
        decoder_detach=keywords.get("detach_decoder", False),
    )  # fmt: skip


def training_of(made: dict, keywords: dict) -> TransitionTraining:
    """The trainer with the reference's weights, in float64, at its first step."""
    weights = made["state_dict"]
    config = read_architecture(made["hyper"], list(weights)).config
    model = TransitionModel(config)
    depth = len(config.decoder.hidden) if config.decoder else None
    model.load_state_dict(translate({n: t for n, t in weights.items() if ".lora_" not in n}, None, depth)[0])
    if "lora" in keywords:
        add_adapters(model, LORA["r"], LORA["alpha"], feed=keywords["lora"]["adapt_mlp"])
        take_adapters(model, weights)
    vectors = torch.eye(made["batch"]["pert_emb"].shape[1])
    training = TransitionTraining(request_of(keywords), model, vectors, made["batch"]["batch"].shape[1])
    if training.classifier is not None:
        training.classifier.out.load_state_dict({n: weights[f"batch_classifier.0.{n}"] for n in ("weight", "bias")})
    training.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0)
    return training.double()


def mini_batch_of(batch: dict[str, torch.Tensor]) -> MiniBatch:
    """The reference's mini-batch as the trainer takes it."""
    cells = len(batch["ctrl_cell_emb"])
    perturbations, batches = batch["pert_emb"].argmax(-1)[::SIZE], batch["batch"].argmax(-1)
    targets = batch.get("pert_cell_counts", torch.empty(0))
    return MiniBatch((SIZE,) * (cells // SIZE), perturbations, batch["ctrl_cell_emb"], batch["pert_cell_emb"], batches, targets)


@pytest.mark.parametrize("name", CASES)
def test_terms_sum_and_gradient(steps, name):
    made = load_torch(steps / f"{name}.pt")
    logged, training = made["logged"], training_of(made, CASES[name])
    total = training.training_step(mini_batch_of(made["batch"]), 0)
    terms = {n: float(value) for n, value in training.parts.items() if n != "loss"}
    weights = added_parts(training.request)
    for term, value in terms.items():
        weight = 1.0 if term in UNWEIGHTED else weights[term]
        assert weight * value == pytest.approx(logged[LOGGED[term]], rel=TOLERANCE), term
    # the reference also logs what its distance consists of
    inner = {"train/actual_loss", "train/sinkhorn_loss", "train/energy_loss"}
    assert {LOGGED[term] for term in terms} >= set(logged) - inner
    assert float(total.detach()) == pytest.approx(made["loss"], rel=TOLERANCE)
    total.backward()
    gradient = torch.stack([p.grad.norm() for p in training.parameters() if p.grad is not None]).norm()
    assert float(gradient) == pytest.approx(made["gradient"], rel=1e-5)
