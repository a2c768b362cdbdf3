"""Starting from another model: what a label owns moves with it, what is new or gone is named, what does not fit is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from state_engine.checkpoints.load import LoadedModel
from state_engine.errors import CheckpointError
from state_engine.models.config import BackboneConfig
from state_engine.models.transition import TransitionModel
from state_engine.train.start_weights import BATCHES as BATCH_ROWS
from state_engine.train.start_weights import FIRST_LINEAR, NewLabels, initial_weights
from tests.small import BATCHES, GENES, PERTURBATIONS, card_of, config, embedding_changes

NEW = ("control", "TNF", "IL6", "IL10", "IFNB1")


def model(seed: int, **changes) -> TransitionModel:
    torch.manual_seed(seed)
    return TransitionModel(config(**changes))


def started(vectors: torch.Tensor | None = None, **changes) -> LoadedModel:
    """A trained model of the labels control, IFNB1, TNF, `JUN,FOS`."""
    made = model(1, **changes)
    card = card_of(made.config)
    if vectors is not None:
        card = dataclasses.replace(card, perturbation_encoding="features")
    return LoadedModel(card, made, torch.eye(len(PERTURBATIONS)) if vectors is None else vectors)


def labels(**changes) -> NewLabels:
    return dataclasses.replace(NewLabels(NEW, "control", genes=GENES), **changes)


def test_perturbations_are_matched_by_name():
    start, fresh = started(), model(2, perturbation_dim=5).state_dict()
    weights, report = initial_weights(fresh, labels(), start)
    old = start.module.state_dict()
    columns = {"control": 0, "IFNB1": 1, "TNF": 2}
    for place, name in enumerate(NEW):
        expected = old[FIRST_LINEAR][:, columns[name]] if name in columns else fresh[FIRST_LINEAR][:, place]
        assert torch.equal(weights[FIRST_LINEAR][:, place], expected), name
    assert all(torch.equal(tensor, old[name]) for name, tensor in weights.items() if name != FIRST_LINEAR)
    assert (report.perturbations.matched, report.perturbations.new) == (("control", "TNF", "IFNB1"), ("IL6", "IL10"))
    assert report.perturbations.dropped == ("JUN,FOS",)
    assert report.sentences() == (
        "The weights start from 'Tiny'.",
        "3 of 5 perturbations are known to it.",
        "New perturbations, 2: IL6, IL10.",
        "Dropped perturbation, 1: JUN,FOS.",
    )


def test_a_shared_label_is_predicted_as_before():
    start = started()
    network = model(2, perturbation_dim=5).eval()
    network.load_state_dict(initial_weights(network.state_dict(), labels(), start)[0])
    basal = torch.rand(1, 6, len(GENES))
    before = start.module.eval()(basal, torch.eye(4)[[2]], attention="full").predicted
    assert torch.equal(network(basal, torch.eye(5)[[1]], attention="full").predicted, before)  # TNF


def test_nothing_is_shared_with_the_model_that_was_the_start():
    start = started()
    weights, _ = initial_weights(model(2, perturbation_dim=5).state_dict(), labels(), start)
    before = {name: tensor.clone() for name, tensor in start.module.state_dict().items()}
    for tensor in weights.values():
        tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.module.state_dict().items())


def test_a_control_of_another_name_takes_the_place_of_the_control():
    start = started()
    other = labels(perturbations=("non-targeting", "TNF"), control="non-targeting")
    weights, report = initial_weights(model(2, perturbation_dim=2).state_dict(), other, start)
    assert torch.equal(weights[FIRST_LINEAR][:, 0], start.module.state_dict()[FIRST_LINEAR][:, 0])
    assert "The control 'non-targeting' takes the place of the control 'control'." in report.sentences()


def test_batches_are_matched_by_name():
    start = started(batch_encoder=True, batch_dim=2)
    fresh = model(2, perturbation_dim=5, batch_encoder=True, batch_dim=3).state_dict()
    new = labels(batches=("lane 3", "lane 2", "lane 4"))
    weights, report = initial_weights(fresh, new, start)
    assert torch.equal(weights[BATCH_ROWS][1], start.module.state_dict()[BATCH_ROWS][BATCHES.index("lane 2")])
    assert torch.equal(weights[BATCH_ROWS][[0, 2]], fresh[BATCH_ROWS][[0, 2]])
    assert "Dropped batch, 1: lane 1." in report.sentences()


def test_parts_that_only_one_of_them_has_are_said():
    start = started(batch_encoder=True, batch_dim=2)
    fresh = model(2, perturbation_dim=5, confidence_token=True).state_dict()
    weights, report = initial_weights(fresh, labels(), start)
    assert (report.new_parts, report.dropped_parts) == (("confidence_head", "confidence_token"), ("batch_encoder",))
    assert torch.equal(weights["confidence_token"], fresh["confidence_token"])
    assert "Parts that start anew: confidence_head, confidence_token." in report.sentences()
    assert set(weights) == set(fresh)


def test_features_keep_their_encoder_and_must_be_the_same():
    vectors = torch.rand(4, 3)
    start = started(vectors, perturbation_dim=3)
    fresh = model(2, perturbation_dim=3).state_dict()
    new = torch.stack([vectors[0], vectors[2], torch.rand(3), torch.rand(3), vectors[1]])
    weights, report = initial_weights(fresh, labels(vectors=new), start)
    assert torch.equal(weights[FIRST_LINEAR], start.module.state_dict()[FIRST_LINEAR])
    assert report.perturbations.new == ("IL6", "IL10")
    with pytest.raises(CheckpointError, match=r"vectors of 1 perturbation differ.*TNF"):
        initial_weights(fresh, labels(vectors=new.index_copy(0, torch.tensor([1]), torch.ones(1, 3))), start)
    with pytest.raises(CheckpointError, match="vectors of 3 numbers"):
        initial_weights(model(2, perturbation_dim=7).state_dict(), labels(vectors=torch.rand(5, 7)), start)


def test_other_kinds_of_vectors_start_their_first_layer_anew():
    fresh = model(2, perturbation_dim=4).state_dict()  # as wide as one-hot, but another thing
    weights, report = initial_weights(fresh, labels(vectors=torch.rand(5, 4)), started())
    assert torch.equal(weights[FIRST_LINEAR], fresh[FIRST_LINEAR])
    assert any("starts anew" in sentence for sentence in report.sentences())


WIDER = BackboneConfig("llama", hidden=8, layers=2, heads=2, kv_heads=2, head_dim=4, intermediate=20)
DEEPER = BackboneConfig("llama", hidden=8, layers=3, heads=2, kv_heads=2, head_dim=4, intermediate=16)
WIDE = BackboneConfig("llama", hidden=12, layers=2, heads=2, kv_heads=2, head_dim=6, intermediate=16)
GPT2 = BackboneConfig("gpt2", hidden=8, layers=2, heads=2, kv_heads=2, head_dim=4, intermediate=16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": WIDER}, r"feed.down.weight is \(8, 16\) there and \(8, 20\) here"),
        ({"backbone": DEEPER}, "backbone.layers.2.* is only here"),
        ({"backbone": WIDE}, "width 8 there and 12 here|there and"),
        ({"backbone": GPT2}, "only here|only there"),
        ({"encoder_layers": 2}, "only there"),
        ({"basal_mlp": False}, "basal_encoder.* is only there"),
        ({"input_dim": 9, "output_dim": 9}, r"basal_encoder.0.weight is \(8, 24\) there and \(8, 9\) here"),
    ],
)
def test_another_network_is_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        initial_weights(model(2, perturbation_dim=5, **changes).state_dict(), labels(genes=None), started())


def test_other_input_is_refused():
    fresh = model(2, perturbation_dim=5).state_dict()
    with pytest.raises(CheckpointError, match="1 of 24 is not among its genes: OTHER"):
        initial_weights(fresh, labels(genes=(*GENES[:-1], "OTHER")), started())
    with pytest.raises(CheckpointError, match="differ in order"):
        initial_weights(fresh, labels(genes=GENES[::-1]), started())
    with pytest.raises(CheckpointError, match=r"reads X_hvg.*reads X_state"):
        initial_weights(fresh, labels(input_key="X_state", genes=None), started())
    start = started(**embedding_changes())
    made = model(2, perturbation_dim=5, **embedding_changes()).state_dict()
    assert initial_weights(made, labels(input_key="X_state", genes=None), start)[1].new_parts == ()


def test_another_attention_is_said():
    start = started()
    start = dataclasses.replace(start, card=dataclasses.replace(start.card, attention="causal"))
    _, report = initial_weights(model(2, perturbation_dim=5).state_dict(), labels(), start)
    assert "It was trained with causal attention; training goes on with full attention." in report.notes
