"""Our numbers beside those of the reference program, stored in `fixtures/` (see `make_fixtures.py`). Needs no peer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.arc.names_in import translate
from state_engine.checkpoints.arc.read import convert
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.data.cell_sets import replay_plan
from state_engine.data.dataset import Choices
from state_engine.models.backbones import Backbone
from state_engine.models.config import AttentionMode, BackboneConfig
from state_engine.prediction.replay import ReplayRequest, replay
from tests.parity.variants import VARIANTS, input_key

FIXTURES = Path(__file__).resolve().parent / "fixtures"
TOLERANCE = 1e-4
# arc-state 0.11.1 reads a checkpoint without the key as causal with rotary positions; we do so only when told to (PARITY.md)
AS_THE_REFERENCE: dict[str, AttentionMode] = {"no_key": "causal-rotary"}
CHOICES = Choices(perturbation_key="gene", control="non-targeting", context_key="cell_type", batch_key="gem_group", scale="log1p")


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "cells.npz") as stored:
        return dict(stored) | {"X_hvg": stored["X"]}


def windows_predicted(model: LoadedModel, cells: dict[str, np.ndarray], key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """What `state tx infer` does, in the fewest words: RandomState(42), one forward pass a window. (cells, o), (cells, genes)."""
    card, config = model.card, model.card.config
    values = torch.from_numpy(cells[key])
    batch = torch.tensor([card.batches.index(label) for label in cells["gem_group"]])
    out = np.full((len(values), config.output_dim), np.nan, np.float32)
    decoded = np.full((len(values), config.decoder.genes), np.nan, np.float32) if config.decoder else None
    for window in replay_plan(cells["gene"], cells["cell_type"], card.control, card.set_size):
        vector = model.perturbation_features[card.perturbations.index(window.perturbation)]
        with torch.inference_mode():
            got = model.module(
                values[window.basal][None], vector[None], batch[window.target][None], attention=card.attention
            ).predicted[0]
            out[window.target] = got.numpy()
            if decoded is not None:
                decoded[window.target] = model.module.decode(got).numpy()
    return out, decoded


def worst(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_predicts_what_the_reference_predicted(name, cells):
    model = load_model(FIXTURES / name, attention=AS_THE_REFERENCE.get(name))
    key = input_key(name)
    assert model.card.input_key == key
    out, decoded = windows_predicted(model, cells, key)
    with np.load(FIXTURES / name / "expected.npz") as expected:
        if model.card.config.output_space != "embedding":
            out = out.clip(0, 14)
        assert worst(out, expected[key]) < TOLERANCE
        assert expected[key].std() > 0.1  # the reference's numbers are not all alike
        if decoded is not None:
            place = "X_hvg" if model.card.config.output_space == "hvg" else "X"
            assert worst(decoded.clip(0, 14), expected[place]) < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_replay_of_a_file_is_what_the_reference_wrote(name, cells, tmp_path):
    data = anndata.AnnData(cells["X"], obsm={"X_hvg": cells["X_hvg"], "X_state": cells["X_state"]})
    data.var_names = [f"G{i}" for i in range(data.n_vars)]
    for column in ("gene", "cell_type", "gem_group"):
        data.obs[column] = cells[column]
    data.obs_names = [f"cell{i}" for i in range(data.n_obs)]
    data.write_h5ad(tmp_path / "cells.h5ad")
    request = ReplayRequest(
        data=str(tmp_path / "cells.h5ad"),
        model=str(FIXTURES / name),
        choices=CHOICES,
        device="cpu",
        attention=AS_THE_REFERENCE.get(name),
    )
    replay(request, tmp_path / "replayed.h5ad")
    ours = anndata.read_h5ad(tmp_path / "replayed.h5ad")
    with np.load(FIXTURES / name / "expected.npz") as expected:
        for place in expected:
            got = ours.X if place == "X" else ours.obsm[place]
            assert worst(np.asarray(got), expected[place]) < TOLERANCE, place


@pytest.mark.parametrize("name", ["confidence_token", "both_tokens", "causal_tokens", "masked_tokens"])
def test_confidence_is_that_of_the_reference(name):
    model = load_model(FIXTURES / name)
    with np.load(FIXTURES / name / "set.npz") as expected:
        batch = torch.ones(1, len(expected["basal"]), dtype=torch.long)
        out = model.module(
            torch.from_numpy(expected["basal"])[None],
            torch.from_numpy(expected["perturbation"])[None],
            batch,
            attention=model.card.attention,
        )
        assert worst(out.predicted[0].detach().numpy(), expected["predicted"]) < TOLERANCE
        assert worst(out.confidence.detach().numpy(), expected["confidence"]) < TOLERANCE
        assert expected["confidence"] > 0.1


@pytest.mark.parametrize("name", ["causal", "causal_tokens", "state_sm", "no_key", "masked", "batch_encoder", "lora"])
def test_the_comparison_would_notice(name, cells):
    """A wrong mode, mask, batch or adapter moves the numbers far more than the tolerance."""
    model = load_model(FIXTURES / name, attention=AS_THE_REFERENCE.get(name))
    right, _ = windows_predicted(model, cells, input_key(name))
    if name == "masked":
        model.module.config = dataclasses.replace(model.module.config, mask_attention=False)
        wrong_model = model
    elif name == "batch_encoder":
        wrong_model = dataclasses.replace(model, card=dataclasses.replace(model.card, batches=model.card.batches[::-1]))
    elif name == "lora":
        model.module.backbone.layers[0].attention.qkv.weight.mul_(0.9)
        wrong_model = model
    else:
        other: AttentionMode = "full" if model.card.attention != "full" else "causal"
        wrong_model = load_model(FIXTURES / name, attention=other)
    wrong, _ = windows_predicted(wrong_model, cells, input_key(name))
    assert worst(right.clip(0, 14), wrong.clip(0, 14)) > 100 * TOLERANCE


def test_a_converted_model_predicts_the_same(cells, tmp_path):
    for name in ("lora", "features", "embedding_residual_decoder"):
        card = convert(FIXTURES / name, tmp_path / name, name="Converted")
        theirs, ours = load_model(FIXTURES / name), load_model(tmp_path / name)
        assert (card.name, ours.card.id) == ("Converted", theirs.card.id)
        key = input_key(name)
        for one, other in zip(windows_predicted(theirs, cells, key), windows_predicted(ours, cells, key), strict=True):
            assert one is other is None or worst(one, other) < 1e-6


@pytest.mark.parametrize("mode", ["full", "causal"])
def test_gpt2_layout_is_that_of_transformers(mode):
    """An independent check: arc-state cannot build its GPT2 models with transformers 5."""
    with np.load(FIXTURES / "gpt2.npz") as stored:
        weights = {
            f"transformer_backbone.{name[7:]}": torch.from_numpy(stored[name]) for name in stored if name.startswith("weight:")
        }
        translated, dropped = translate(weights, None, None)
        backbone = Backbone(BackboneConfig("gpt2", 16, 2, 4, 4, 4, 64, norm_eps=1e-5)).eval()
        backbone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in translated.items()})
        got, _ = backbone(torch.from_numpy(stored["x"]), mode)
        assert worst(got.detach().numpy(), stored[mode]) < 1e-5
        assert set(dropped) == {"transformer_backbone.wte.weight", "transformer_backbone.wpe.weight"}
