"""Adapting a trained model to a screen of one's own: its network, its genes and its labels are taken over by name.

What the model knows stays known: perturbations of its own training can be predicted by the adapted model too, and the effects measured there
go on serving as baselines. No torch here: pages show what fits before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.data.expression import match_genes
from state_engine.data.splits.apply import Split
from state_engine.effects.table import EffectTable
from state_engine.errors import GeneError, listed
from state_engine.plain import agreed, part_of, plural
from state_engine.prediction.inputs import BLOCKED_BELOW
from state_engine.train.request import TrainRequest

RANK = 8  # of the adapters, where no other is asked for
NAMED = 8
_ONE = {"perturbations": "perturbation", "contexts": "context", "batches": "batch"}


@dataclass(frozen=True)
class Known:
    """Labels of one kind: those of the data, and which of them the model knows.

    Args:
        kind: what they are, for people, in the plural.
        known, new: of the data.
    """

    kind: str
    known: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """With numbers: "7 of 12 perturbations known to the model; new: A, B"."""
        n = len(self.known) + len(self.new)
        new = f"; new: {listed(self.new, NAMED)}" if self.new else ""
        return f"{part_of(len(self.known), n, _ONE[self.kind], self.kind)} known to the model{new}."


@dataclass(frozen=True)
class Fit:
    """What of a data set a model knows, by name.

    Args:
        model: name of it.
        perturbations, contexts: the control is not counted among the perturbations.
        batches: None where the model has no batch encoder.
        genes: that the model reads and the data have.
        missing: genes of the model that the data lack; left out of the network.
        kept: perturbations that only the model knows; the adapted one predicts them too.
    """

    model: str
    perturbations: Known
    contexts: Known
    batches: Known | None
    genes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """Return it for people."""
        said = [self.perturbations.sentence, self.contexts.sentence, *([self.batches.sentence] if self.batches else [])]
        if self.genes or self.missing:
            n = len(self.genes) + len(self.missing)
            lost = f"; missing and left out of the network: {listed(self.missing, NAMED)}" if self.missing else ""
            of = f"{len(self.genes):,} of the {plural(n, 'gene')} of the model"
            said.append(f"{of} {agreed(len(self.genes), 'is', 'are')} in the data{lost}.")
        if self.kept:
            stay = agreed(len(self.kept), "stays", "stay")
            said.append(f"{plural(len(self.kept), 'further perturbation')} of the model {stay} known.")
        return tuple(said)


def fit_of(split: Split, card: ModelCard) -> Fit:
    """Return what of the data of a split a model knows.

    Raises:
        GeneError: too few of its genes are there, see `genes_there`.
    """
    sets = [source.dataset for source in split.sources]
    labels = [p for d in sets for p in d.perturbations if p not in (split.control, card.control)]
    genes = genes_there(split, card)
    return Fit(
        card.name,
        _known("perturbations", labels, card.perturbations),
        _known("contexts", [c for d in sets for c in d.contexts], card.contexts),
        _known("batches", [b for d in sets for b in d.batches], card.batches) if card.config.batch_encoder else None,
        genes,
        tuple(g for g in genes_of(card) if g not in {*genes}),
        tuple(p for p in card.perturbations if p not in {*labels, card.control, split.control}),
    )


def _known(kind: str, labels: Sequence[str], theirs: Sequence[str]) -> Known:
    names, known = dict.fromkeys(labels), {*theirs}
    return Known(kind, tuple(n for n in names if n in known), tuple(n for n in names if n not in known))


def genes_of(card: ModelCard) -> tuple[str, ...]:
    """Return the genes that must be found in the data: those that the model reads, or that its decoder gives."""
    return (card.output_genes if card.reads_embedding else card.input_genes) or ()


def genes_there(split: Split, card: ModelCard) -> tuple[str, ...]:
    """Return the genes of a model that every file of a split has, in the model's order.

    Raises:
        GeneError: fewer than the share that a prediction needs too, or one where the model needs all.
    """
    wanted = genes_of(card)
    there = np.ones(len(wanted), bool)
    for source in split.sources:
        found = match_genes(source.dataset, wanted)
        there &= np.asarray(found.columns) >= 0
        if wanted and there.mean() < BLOCKED_BELOW:
            raise GeneError(
                f"'{card.name}' is a model of other genes than those of {source.dataset.path.name}.",
                f"{int(there.sum()):,} of its {plural(len(wanted), 'gene')} {agreed(int(there.sum()), 'is', 'are')} there "
                f"({there.mean():.0%}); {found.how}",
                "Choose another column of gene names, or another model.",
            )
    lost = [gene for gene, yes in zip(wanted, there, strict=True) if not yes]
    if lost and card.config.has_bottleneck and not card.reads_embedding:
        raise GeneError(
            f"'{card.name}' needs all of its {len(wanted):,} genes.",
            f"Each gene that it predicts comes from all of them through a narrow layer, so none can be left out; the data lack {len(lost):,}: "
            f"{listed(lost)}.",
            "Give data with these genes, choose another column of gene names, or adapt a model of the output space hvg or of an embedding.",
        )  # fmt: skip
    return tuple(gene for gene, yes in zip(wanted, there, strict=True) if yes)


def adapting(request: TrainRequest, card: ModelCard) -> TrainRequest:
    """Return a request with the network of a model, that trains adapters in it.

    Args:
        request: how to train; its network is left aside, but for the file of features.
        card: of the model to start from.
    """
    config, decoder = card.config, card.config.decoder
    named = bool(card.input_genes) and not card.reads_embedding
    network: dict[str, object] = {
        "embedding": None if named or card.input_key == keys.X else card.input_key,
        "hvgs": 0,
        "genes": (),
        "output_space": config.output_space,
        "gene_decoder": decoder is not None,
        "backbone": config.backbone.kind,
        **{
            name: getattr(config.backbone, name) for name in ("hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate")
        },
        **{name: getattr(config, name) for name in _SAME},
    }
    if decoder is not None:
        network |= {"decoder_hidden": decoder.hidden, "decoder_dropout": decoder.dropout, "decoder_residual": decoder.residual}
    sets = {"set_size": config.set_size, **({"control_mapping": "batch", "mix": 0.0} if config.batch_token else {})}
    lora = {"tune": "lora", "lora_rank": request.optimiser.lora_rank or RANK, "lora_feed": True, "weight_decay": 0.0}
    return request.with_settings({**network, **sets, **lora})


_SAME = (
    "encoder_layers", "decoder_layers", "predict_residual", "basal_mlp", "batch_encoder", "batch_token", "confidence_token", "mask_attention",
    "dropout", "activation",
)  # fmt: skip


def without_batches(request: TrainRequest, split: Split) -> TrainRequest:
    """Return the request without a batch encoder where the data name no batches; the rest of the model is adapted all the same."""
    if all(source.dataset.labels.batch_key for source in split.sources) or not request.network.batch_encoder:
        return request
    return request.with_settings(batch_encoder=False)


def from_scratch(request: TrainRequest, genes: tuple[str, ...]) -> TrainRequest:
    """Return the training that an adapted model is compared with: the same network, genes and steps, and new weights."""
    plain = {"tune": "", "lora_rank": 0, "lora_feed": False, "freeze": (), "name": f"{request.run.name}, from scratch"}
    return request.with_settings({**plain, **({"genes": genes} if genes else {})})


def stays_known(start: ModelCard, control: str) -> tuple[str, ...]:
    """Return the labels of a model that an adapted one keeps: all where each is one-hot, but a control of another name."""
    if start.perturbation_encoding != "one-hot":
        return ()
    return tuple(label for label in start.perturbations if label != start.control or label == control)


def adapted_card(card: ModelCard, start: ModelCard) -> ModelCard:
    """Return the card of an adapted model: the network's finer points, contexts and trained labels are those of its start too."""
    backbone = replace(card.config.backbone, norm_eps=start.config.backbone.norm_eps, rope_theta=start.config.backbone.rope_theta)
    trained = {*start.perturbations} - {*start.unseen}
    return replace(
        card,
        config=replace(card.config, backbone=backbone, final_relu=start.config.final_relu),
        contexts=tuple(dict.fromkeys((*card.contexts, *start.contexts))),
        unseen=tuple(label for label in card.unseen if label not in trained),
    )


def with_effects(own: EffectTable, start: EffectTable | None) -> EffectTable:
    """Return a table of effects with those of the model that was adapted, of the same features; where both measured, the own ones count."""
    if start is None:
        return own
    if own.features and start.features:
        place = {name: i for i, name in enumerate(start.features)}
        if not {*own.features} <= place.keys():
            return own
        start = start.on([place[name] for name in own.features], own.features)
    if start.width != own.width:
        return own
    mine = set(zip(own.perturbations, own.contexts, strict=True))
    rows = [i for i, pair in enumerate(zip(start.perturbations, start.contexts, strict=True)) if pair not in mine]
    controls = {c: values for c, values in start.controls.items() if c not in own.controls}
    errors = None
    if own.errors is not None and start.errors is not None:
        errors = np.concatenate([own.errors, start.errors[rows]])
    return EffectTable(
        (*own.perturbations, *(start.perturbations[i] for i in rows)),
        (*own.contexts, *(start.contexts[i] for i in rows)),
        np.concatenate([own.cells, start.cells[rows]]),
        np.concatenate([own.effects, start.effects[rows]]),
        {**own.controls, **controls},
        own.features,
        errors,
        {**own.control_errors, **{c: e for c, e in start.control_errors.items() if c in controls}},
    )
