"""What we write for arc-state, read by arc-state: `state tx infer` on it must write what our replay of the model writes.

Needs the reference in its own environment (STATE_PEER_PYTHON). Models come from the stored fixtures and from our own networks;
gpt2 is left out because arc-state 0.11.1 cannot build it with transformers 5.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.arc.read import read_arc
from state_engine.checkpoints.arc.write import write_arc
from state_engine.checkpoints.load import load_model
from state_engine.models.config import BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.models.transition import TransitionModel
from state_engine.prediction.replay import ReplayRequest, replay
from tests.parity.make_fixtures import SHAPE, expected_of, run_peer
from tests.parity.test_fixtures import CHOICES, FIXTURES, TOLERANCE, worst
from tests.parity.variants import VARIANTS, input_key

pytestmark = [pytest.mark.parity, pytest.mark.slow]

GENES, WIDTH = SHAPE["genes"], SHAPE["embedding"]
BACKBONE = BackboneConfig("llama", hidden=16, layers=2, heads=4, kv_heads=2, head_dim=6, intermediate=40)
EMBEDDING = {"input_dim": WIDTH, "output_dim": WIDTH, "output_space": "embedding", "final_relu": False}
OURS: dict[str, dict] = {
    "ours_embedding": EMBEDDING,
    "ours_decoder": {**EMBEDDING, "output_space": "hvg", "decoder": DecoderConfig(WIDTH, GENES, (8, 8), 0.0)},
    "ours_tokens": {"batch_token": True, "confidence_token": True, "dropout": 0.0},
    "ours_expression": {"set_size": 5},
    "ours_bare": {"confidence_token": True},
    "ours_batches": {"batch_encoder": True, "batch_dim": 4, "encoder_layers": 2, "basal_mlp": False},
}


def make_ours(name: str, folder: Path) -> None:
    """A network of ours with loud random weights and the labels of the fixtures' cells."""
    base = {"input_dim": GENES, "output_dim": GENES, "perturbation_dim": 4, "output_space": "hvg", "set_size": 7}
    config = TransitionConfig(**{**base, "backbone": BACKBONE, **OURS[name]})
    card = read_arc(FIXTURES / "state_sm")[0]
    reads_embedding = config.input_dim == WIDTH
    card = dataclasses.replace(
        card,
        config=config,
        input_key="X_state" if reads_embedding else "X_hvg",
        input_genes=None if reads_embedding else card.input_genes,
        output_genes=card.output_genes if config.decoder or not reads_embedding else None,
        scale=None if reads_embedding else "log1p",
    )
    if name == "ours_expression":
        card = dataclasses.replace(card, input_key="X")
    if name == "ours_bare":  # data without batches, of which nothing more is known
        card = dataclasses.replace(card, batches=(), contexts=(), batch_key=None, input_genes=None, output_genes=None)
    torch.manual_seed(11)
    model = TransitionModel(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    write_arc(folder, card, model.state_dict())


@pytest.fixture(scope="module")
def written(peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cells.h5ad, a run directory NAME of ours and the reference's result NAME.h5ad for every model."""
    folder = tmp_path_factory.mktemp("written")
    with np.load(FIXTURES / "cells.npz") as cells:
        data = anndata.AnnData(cells["X"], obsm={"X_hvg": cells["X"], "X_state": cells["X_state"]})
        for column in ("gene", "cell_type", "gem_group"):
            data.obs[column] = cells[column]
    data.var_names = [f"G{i}" for i in range(data.n_vars)]
    data.obs_names = [f"cell{i}" for i in range(data.n_obs)]
    data.write_h5ad(folder / "cells.h5ad")
    jobs = []
    for name in (*VARIANTS, *OURS):
        if name in OURS:
            make_ours(name, folder / name)
        else:
            write_arc(folder / name, *read_arc(FIXTURES / name))
        key = read_arc(folder / name)[0].input_key
        embed = [] if key == "X" else ["--embed-key", key]
        arguments = ["--model-dir", str(folder / name), "--adata", str(folder / "cells.h5ad"), *embed, "--pert-col", "gene"]
        jobs.append({"kind": "infer", "arguments": [*arguments, "--output", str(folder / f"{name}.h5ad")]})
    run_peer(peer_python, jobs, folder)
    return folder


@pytest.mark.parametrize("name", [*VARIANTS, *OURS])
def test_the_reference_predicts_with_it_what_we_predict(written, name, tmp_path):
    loaded = load_model(written / name)
    request = ReplayRequest(data=str(written / "cells.h5ad"), model=str(written / name), choices=CHOICES, device="cpu")
    replay(request, tmp_path / "ours.h5ad", loaded=loaded)
    ours = anndata.read_h5ad(tmp_path / "ours.h5ad")
    key = loaded.card.input_key
    theirs = expected_of(written / f"{name}.h5ad", key)
    assert theirs[key].std() > 0.1
    if name == "ours_embedding":  # it decodes nothing, and says so
        assert np.isnan(theirs.pop("X_hvg")).all()
        ours.obsm[key] = np.clip(ours.obsm[key], 0, 14)  # the reference does, where it has a decoder
    for place, expected in theirs.items():
        assert worst(np.asarray(ours.X if place == "X" else ours.obsm[place]), expected) < TOLERANCE, place


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "no_key"])
def test_it_is_what_the_reference_predicted_with_its_own_files(written, name):
    key = input_key(name)
    with np.load(FIXTURES / name / "expected.npz") as stored:
        for place, got in expected_of(written / f"{name}.h5ad", key).items():
            assert worst(got, stored[place]) < TOLERANCE, place
