"""Distances between sets: against geomloss' numbers, against the definition, and what training needs of them.

Terms added to the distance: values by hand, and how far each gradient reaches.
"""

from __future__ import annotations

import geomloss
import pytest
import torch

from state_engine.errors import ConfigError
from state_engine.models.distances import build_loss, energy_distance, mse, sinkhorn_divergence
from state_engine.models.losses import BatchClassifier, MiniBatch, Objective, StepLoss
from state_engine.models.transition import TransitionModel, TransitionOutput
from tests.small import GENES, config, embedding_changes

# geomloss 0.3.1, SamplesLoss("energy") in float64 on `sets(...)`: arguments, losses, norm of the gradient
GEOMLOSS = [
    ((0, 3, 5, 4, 7, 0.3), [0.45016712860150976, 0.5239061879390459, 0.5675476470336981], 0.5962628118403114),
    ((1, 2, 32, 32, 50, 0.0), [0.08276795764376166, 0.09086698367580315], 0.04265072878190499),
    ((2, 1, 1, 3, 4, 1.0), [1.8345922898642735], 0.9841005704639951),
    ((3, 2, 16, 16, 200, 0.05), [0.43116673559538743, 0.45621487844076114], 0.10536510457611614),
]


def sets(seed: int, b: int, s: int, t: int, g: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(b, s, g, generator=generator, dtype=torch.float64)
    return x, torch.rand(b, t, g, generator=generator, dtype=torch.float64) + shift


SETS = [arguments for arguments, _, _ in GEOMLOSS]


def value_and_gradients(loss, arguments, dtype):
    """A loss (b,) and its gradient for both sets, when the pairs weigh 1, 2, 3, ..."""
    x, y = (part.to(dtype).requires_grad_() for part in sets(*arguments))
    value = loss(x, y)
    (value * torch.arange(1, len(value) + 1)).sum().backward()
    return value.detach(), x.grad, y.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("arguments", "losses", "gradient"), GEOMLOSS)
def test_the_energy_distance_is_that_of_geomloss(arguments, losses, gradient, dtype):
    predicted, observed = (x.to(dtype) for x in sets(*arguments))
    predicted.requires_grad_()
    loss = energy_distance(predicted, observed)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx(losses, abs=1e-5)
    assert float(predicted.grad.norm()) == pytest.approx(gradient, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["energy", "sinkhorn"])
@pytest.mark.parametrize("arguments", SETS)
def test_losses_and_gradients_are_those_of_geomloss(name, arguments, dtype):
    ours = value_and_gradients(build_loss(name), arguments, dtype)
    theirs = value_and_gradients(geomloss.SamplesLoss(name), arguments, torch.float64)
    # in float32, gradients carry the rounding of the costs, which temperature divides by blur^2
    for got, expected, tolerance in zip(ours, theirs, (1e-5, *[5e-5 if dtype == torch.float32 else 1e-5] * 2), strict=True):
        assert float((got - expected).norm()) < tolerance * max(1.0, float(expected.norm()))
    assert float(theirs[1].norm()) > 0.01  # there was something to compare


@pytest.mark.parametrize("blur", [0.2, 1.0, 50.0])
def test_sinkhorn_with_another_blur(blur):
    x, y = sets(*SETS[0])
    expected = geomloss.SamplesLoss("sinkhorn", blur=blur)(x, y)
    assert sinkhorn_divergence(x, y, blur).tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_sinkhorn_is_zero_for_equal_sets_and_finite_where_all_cells_are_one():
    x, _ = (t.float() for t in sets(5, 2, 16, 16, 30, 0.2))
    assert sinkhorn_divergence(x, x.flip(1)).abs().max() < 1e-4
    same = torch.ones(2, 4, 6, requires_grad=True)
    loss = sinkhorn_divergence(same, torch.ones(2, 4, 6))
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert same.grad.abs().max() == 0


def test_the_combined_loss_is_the_weighted_sum():
    x, y = sets(*SETS[0])
    whole = 0.01 * sinkhorn_divergence(x, y) + energy_distance(x, y)
    assert torch.equal(build_loss("combined")(x, y), whole)
    weighted = build_loss("combined", sinkhorn_weight=2.0, energy_weight=0.5)(x, y)
    assert torch.allclose(weighted, 2 * sinkhorn_divergence(x, y) + 0.5 * energy_distance(x, y))


def test_the_mean_squared_error_compares_cell_by_cell():
    x = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    y = torch.tensor([[[1.0, 1.0], [2.0, 5.0]]])
    assert build_loss("mse")(x, y).tolist() == [(1 + 4) / 4]
    with pytest.raises(ConfigError, match="cell by cell"):
        mse(x, y[:, :1])


def test_chunks_of_features_are_cut_in_order_and_averaged():
    x, y = sets(*SETS[0])  # 7 features: 3 + 3 + 1
    parts = [energy_distance(x[..., a:b], y[..., a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]
    assert torch.allclose(build_loss("energy", chunks=3)(x, y), sum(parts) / 3)


def test_shuffled_chunks_are_drawn_by_the_seed_and_change_from_call_to_call():
    x, y = sets(*SETS[3])
    first, again = (build_loss("energy", chunks=4, shuffle=torch.Generator().manual_seed(1)) for _ in range(2))
    one, two = first(x, y), first(x, y)
    assert torch.equal(one, again(x, y))
    assert not torch.equal(one, two)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, build_loss("energy", chunks=4)(x[..., order], y[..., order]))


def test_half_precision_is_computed_in_single():
    x, y = (t.float() for t in sets(*SETS[1]))
    loss, single = build_loss("energy"), energy_distance(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(x, y), single)
        assert loss(x.bfloat16(), y).dtype == torch.float32
    assert torch.allclose(loss(x.bfloat16(), y.bfloat16()), loss(x, y), atol=0.01)


def test_losses_that_cannot_be_built():
    with pytest.raises(ConfigError, match="Known: energy, sinkhorn, combined, mse"):
        build_loss("wasserstein")
    with pytest.raises(ConfigError, match="one or more"):
        build_loss("energy", chunks=0)


def test_it_is_the_definition():
    x, y = sets(4, 1, 3, 4, 2, 0.5)

    def mean(a, b):
        return sum(float((p - q).norm()) for p in a for q in b) / (len(a) * len(b))

    expected = mean(x[0], y[0]) - mean(x[0], x[0]) / 2 - mean(y[0], y[0]) / 2
    assert float(energy_distance(x, y)) == pytest.approx(expected, abs=1e-4)


def test_cells_far_from_the_origin_lose_no_digits():
    x, y = sets(*SETS[1])
    moved = energy_distance((x + 300).float(), (y + 300).float())
    assert moved.tolist() == pytest.approx(energy_distance(x, y).tolist(), rel=1e-3)


def test_it_has_no_order_and_no_origin_and_is_zero_for_equal_sets():
    x, y = (t.float() for t in sets(5, 2, 16, 16, 30, 0.2))
    loss = energy_distance(x, y)
    assert torch.allclose(energy_distance(x[:, torch.randperm(16)], y.flip(1)), loss, atol=1e-6)
    assert torch.allclose(energy_distance(x + 100, y + 100), loss, atol=1e-4)
    assert energy_distance(x, x.flip(1)).abs().max() < 1e-3 < 0.05 < loss.min()


def test_identical_cells_have_a_finite_gradient():
    x = torch.ones(1, 4, 6, requires_grad=True)
    energy_distance(x, torch.ones(1, 4, 6)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_following_its_gradient_brings_the_sets_together():
    x, y = (t.float() for t in sets(6, 1, 24, 24, 5, 2.0))
    moving = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=0.1)
    before = float(energy_distance(x, y))
    for _ in range(40):
        optimiser.zero_grad()
        energy_distance(moving, y).sum().backward()
        optimiser.step()
    assert float(energy_distance(moving.detach(), y)) < 0.1 * before


NONE = torch.empty(0)


def batch_of(basal: torch.Tensor, observed: torch.Tensor, batches=NONE, targets=NONE) -> MiniBatch:
    """Sets (b, s, g) one after the other."""
    sizes = (basal.shape[1],) * len(basal)
    return MiniBatch(sizes, torch.arange(len(basal)), basal.flatten(0, 1), observed.flatten(0, 1), batches, targets)


def from_output(objective: Objective, output: TransitionOutput, batch: MiniBatch) -> StepLoss:
    """A step without a network, for terms that need none."""
    return objective(batch, output, None)


def test_confidence_learns_ten_times_the_loss_and_leaves_the_loss_alone():
    confidence = torch.tensor([10.0, 0.0], requires_grad=True)
    losses = torch.tensor([1.5, 0.2], requires_grad=True)
    objective = Objective(lambda predicted, observed: losses, {"confidence": 0.01})
    cells = torch.zeros(2, 1, 1)
    output = TransitionOutput(cells.flatten(0, 1), confidence)
    loss = from_output(objective, output, batch_of(cells, cells)).terms["confidence"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx((5**2 + 2**2) / 2)
    assert confidence.grad.tolist() == pytest.approx([-5, -2])
    assert losses.grad is None
    alike = Objective(lambda predicted, observed: losses, {"confidence": 0.01}, confidence_scale=1)
    smaller = from_output(alike, output, batch_of(cells, cells)).terms["confidence"]
    assert float(smaller.detach()) == pytest.approx((8.5**2 + 0.2**2) / 2)


def test_the_batch_is_read_off_the_token():
    torch.manual_seed(0)
    model, classifier = TransitionModel(config(batch_token=True)), BatchClassifier(8, 3)
    cells = torch.rand(2, 5, len(GENES))
    out = model(cells, torch.eye(4)[:2], attention="full")
    assert out.token.shape == (2, 8)
    batch = batch_of(cells, cells, torch.tensor([2] * 5 + [0] * 5))
    output = TransitionOutput(out.predicted.flatten(0, 1), token=out.token)
    loss = Objective(energy_distance, {"batch_token": 0.1})(batch, output, model, classifier).terms["batch_token"]
    logits = classifier(out.token)
    expected = -(logits.log_softmax(-1)[0, 2] + logits.log_softmax(-1)[1, 0]) / 2
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    loss.backward()
    assert float(model.batch_token.grad.norm()) > 0


def test_models_without_a_batch_token_give_none():
    assert TransitionModel(config())(torch.rand(1, 3, len(GENES)), torch.eye(4)[:1], attention="full").token is None


def test_change_from_the_basal_cells_and_the_effect_of_a_set():
    predicted, basal = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.0, 2.0]]])
    batch = batch_of(basal, torch.tensor([[[1.0, 1.0]]]))
    step = from_output(Objective(mse, {"effect": 2.0, "change": 0.5}), TransitionOutput(predicted.flatten(0, 1)), batch)
    assert {name: float(value) for name, value in step.terms.items()} == {"distance": 4.5, "effect": 4.5, "change": 2.5}
    assert float(step.total) == 4.5 + 2.0 * 4.5 + 0.5 * 2.5


@pytest.mark.parametrize("detach", [True, False])
def test_the_decoder_loss_reaches_the_network_unless_detached(detach):
    torch.manual_seed(0)
    model = TransitionModel(config(**embedding_changes()))
    basal, genes = torch.rand(2, 5, 6), torch.rand(2, 5, len(GENES))
    predicted = model(basal, torch.eye(4)[:2], attention="full").predicted
    objective = Objective(energy_distance, {"decoder": 1.0}, detach_decoder=detach)
    batch = batch_of(basal, basal, targets=genes.flatten(0, 1))
    loss = objective(batch, TransitionOutput(predicted.flatten(0, 1)), model).terms["decoder"]
    assert torch.allclose(loss, energy_distance(model.decode(predicted), genes).mean())
    loss.backward()
    assert float(model.gene_decoder.out.weight.grad.norm()) > 0
    assert (model.basal_encoder[0].weight.grad is None) is detach
