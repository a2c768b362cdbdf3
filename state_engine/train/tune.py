"""Which weights of a model change when it is adapted: adapters in every layer, its last layers, or all.

Rows of labels that the model did not know are trained in each case, since nothing was learnt for them; with adapters or last layers, all
other weights stay bit for bit.

Boundary: a network and two cards in; the network is changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import empty_network
from state_engine.errors import ConfigError
from state_engine.models.lora import add_adapters
from state_engine.models.transition import TransitionModel
from state_engine.train.request import Optimiser
from state_engine.train.start_weights import BATCHES, FIRST_LINEAR

OUTPUT = ("project_out", "bottleneck", "gene_decoder")
ADAPTED = ("perturbation_encoder", "basal_encoder", "project_out")  # beside the backbone


@dataclass(frozen=True)
class NewRows:
    """What a model that is adapted did not know.

    Args:
        perturbations: places of labels whose column of the perturbation encoder is new; None: its whole first layer is.
        one_hot: its first layer has a column for each label.
        batches: places of labels whose row of the batch encoder is new.
        parts: of the network, that the model did not have.
    """

    perturbations: tuple[int, ...] | None
    one_hot: bool
    batches: tuple[int, ...]
    parts: tuple[str, ...]


def new_rows(card: ModelCard, start: ModelCard) -> NewRows:
    """Return what is new to the start, from the cards; see `start_weights.initial_weights`, which matches the weights."""
    known = {*start.perturbations}
    if card.control not in known and start.control not in card.perturbations:
        known.add(card.control)  # it takes the place of the start's control
    one_hot = card.perturbation_encoding == "one-hot"
    if card.perturbation_encoding != start.perturbation_encoding:
        labels: tuple[int, ...] | None = None
    else:
        labels = tuple(i for i, label in enumerate(card.perturbations) if one_hot and label not in known)
    batches = tuple(i for i, label in enumerate(card.batches) if label not in start.batches)
    here, there = ({name.split(".")[0] for name in empty_network(c).state_dict()} for c in (card, start))
    return NewRows(labels, one_hot, batches, tuple(sorted(here - there)))


def tune(network: TransitionModel, optimiser: Optimiser, new: NewRows) -> None:
    """Leave only those weights of a network to be trained that `optimiser.tune` names, and what is new; adapters are added in place.

    Raises:
        ConfigError: more layers than there are.
    """
    if optimiser.tune in ("", "full"):
        return
    layers, last = network.backbone.layers, optimiser.last_layers
    if last > len(layers):
        raise ConfigError(
            f"There are no {last} last layers.", f"The transformer has {len(layers)}.", f"Say --tune last-{len(layers)}."
        )
    network.requires_grad_(False)
    if last:
        parts: list[nn.Module] = [*layers[-last:], network.backbone.norm]
        for part in [*parts, *filter(None, (getattr(network, name) for name in OUTPUT))]:
            part.requires_grad_(True)
    else:
        beside = tuple(name for name in _linears(network) if not (new.one_hot and f"{name}.weight" == FIRST_LINEAR))
        add_adapters(network, optimiser.lora_rank, optimiser.lora_alpha, optimiser.lora_dropout, optimiser.lora_feed, beside)
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if name.split(".")[0] in new.parts:
            parameter.requires_grad_(True)
    if new.perturbations is None:
        network.perturbation_encoder[0].requires_grad_(True)
    elif new.perturbations:
        _train_only(parameters[FIRST_LINEAR], new.perturbations, 1)
    if network.batch_encoder is not None and new.batches and "batch_encoder" not in new.parts:
        _train_only(parameters[BATCHES], new.batches, 0)


def _linears(network: TransitionModel) -> Iterable[str]:
    """Yield the names of the linears beside the backbone that get adapters."""
    for part in ADAPTED:
        for name, module in network.get_submodule(part).named_modules():
            if isinstance(module, nn.Linear):
                yield f"{part}.{name}"


def _train_only(weight: nn.Parameter, rows: tuple[int, ...], axis: int) -> None:
    """Train only some rows (axis 0) or columns (axis 1) of a weight: without a gradient and without weight decay, Adam moves nothing."""
    keep = torch.zeros(weight.shape[axis], 1) if axis == 0 else torch.zeros(1, weight.shape[axis])
    keep.view(-1)[list(rows)] = 1.0

    def masked(gradient: Tensor) -> Tensor:
        return gradient * keep.to(gradient)

    weight.requires_grad_(True).register_hook(masked)
