"""What is learnt beside the distance between sets: values by hand, and how far each gradient reaches."""

from __future__ import annotations

import pytest
import torch

from state_engine.models.losses import energy_distance
from state_engine.models.objectives import (
    BatchClassifier,
    batch_of_sets,
    batch_token_loss,
    confidence_loss,
    decoder_loss,
    l1_change,
)
from state_engine.models.transition import TransitionModel
from tests.small import GENES, config, embedding_changes


def test_confidence_learns_ten_times_the_loss_and_leaves_the_loss_alone():
    confidence = torch.tensor([10.0, 0.0], requires_grad=True)
    losses = torch.tensor([1.5, 0.2], requires_grad=True)
    loss = confidence_loss(confidence, losses)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((5**2 + 2**2) / 2)
    assert confidence.grad.tolist() == pytest.approx([-5, -2])
    assert losses.grad is None
    assert float(confidence_loss(confidence, losses, scale=1).detach()) == pytest.approx((8.5**2 + 0.2**2) / 2)


def test_the_batch_is_read_off_the_token():
    torch.manual_seed(0)
    model, classifier = TransitionModel(config(batch_token=True)), BatchClassifier(8, 3)
    out = model(torch.rand(2, 5, len(GENES)), torch.eye(4)[:2], attention="full")
    assert out.token.shape == (2, 8)
    logits = classifier(out.token)
    batches = batch_of_sets(torch.tensor([[2] * 5, [0] * 5]))
    loss = batch_token_loss(logits, batches)
    expected = -(logits.log_softmax(-1)[0, 2] + logits.log_softmax(-1)[1, 0]) / 2
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    loss.backward()
    assert float(model.batch_token.grad.norm()) > 0
    with pytest.raises(ValueError, match="share one batch"):
        batch_of_sets(torch.tensor([[0, 1]]))


def test_models_without_a_batch_token_give_none():
    assert TransitionModel(config())(torch.rand(1, 3, len(GENES)), torch.eye(4)[:1], attention="full").token is None


def test_change_from_the_basal_cells():
    assert float(l1_change(torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.0, 2.0]]]))) == 2.5


@pytest.mark.parametrize("detach", [True, False])
def test_the_decoder_loss_reaches_the_network_unless_detached(detach):
    torch.manual_seed(0)
    model = TransitionModel(config(**embedding_changes()))
    predicted = model(torch.rand(2, 5, 6), torch.eye(4)[:2], attention="full").predicted
    genes = torch.rand(2, 5, len(GENES))
    loss = decoder_loss(model, predicted, genes, energy_distance, detach)
    assert torch.allclose(loss, energy_distance(model.decode(predicted), genes))
    loss.sum().backward()
    assert float(model.gene_decoder.out.weight.grad.norm()) > 0
    assert (model.basal_encoder[0].weight.grad is None) is detach
