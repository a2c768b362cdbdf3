"""What is known about a model without loading its weights. Plain JSON; read by pages, so no torch.

`model.json` in a folder of our store is a `ModelCard` written by `state_engine.plain.to_plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from state_engine.checkpoints.folder import FORMAT as FORMAT
from state_engine.checkpoints.folder import id_with_names
from state_engine.data.depth_record import EqualDepth
from state_engine.data.splits.held import HeldOut, Leak, held_out_of_text
from state_engine.models.config import AttentionMode, TransitionConfig
from state_engine.plain import to_plain


@dataclass(frozen=True)
class ConditionScores:
    """Scores of one held-out perturbation in one context: metric ("mae_corrected") -> value, where it is defined."""

    context: str
    perturbation: str
    scores: dict[str, float]

    @property
    def name(self) -> str:
        """For people: "NK x TNF"."""
        return f"{self.context} x {self.perturbation}"


@dataclass(frozen=True)
class TrainingSummary:
    """What is known of the training.

    Args:
        data: what it was trained on, for people.
        steps: of the optimiser.
        loss: that was minimised.
        held_out: contexts and conditions never trained on.
        leaks: what was held out and came back through another data set.
        equal_depth: contexts whose counts were thinned, held-out cells too.
        scores: metric -> mean over the tested conditions.
        validation_scores: the same over the conditions kept for validation.
        conditions: each tested condition.
    """

    data: str = ""
    steps: int = 0
    loss: str = ""
    held_out: tuple[HeldOut, ...] = ()
    leaks: tuple[Leak, ...] = ()
    equal_depth: EqualDepth = EqualDepth()
    scores: dict[str, float] = field(default_factory=dict)
    validation_scores: dict[str, float] = field(default_factory=dict)
    conditions: tuple[ConditionScores, ...] = ()

    def flat(self) -> dict[str, float]:
        """Return all scores by names for people: "mae_corrected", "NK x TNF: mae_corrected", "validation mae_corrected"."""
        each = {f"{c.name}: {metric}": value for c in self.conditions for metric, value in c.scores.items()}
        return {**self.scores, **each, **{f"validation {metric}": value for metric, value in self.validation_scores.items()}}

    @classmethod
    def upgrade(cls, plain: dict[str, Any]) -> dict[str, Any]:
        """Return today's fields from a card whose held-out conditions were text, or whose scores were in one table."""
        held = plain.get("held_out", ())
        if isinstance(held, list) and any(isinstance(one, str) for one in held):
            plain = plain | {"held_out": [to_plain(held_out_of_text(str(one))) for one in held]}
        if "conditions" in plain or "validation_scores" in plain:
            return plain
        means, validation = dict[str, float](), dict[str, float]()
        conditions: dict[str, dict[str, float]] = {}
        for name, value in plain.get("scores", {}).items():
            condition, _, metric = name.rpartition(": ")
            if condition:
                conditions.setdefault(condition, {})[metric] = value
            elif name.startswith("validation "):
                validation[name.removeprefix("validation ")] = value
            else:
                means[name] = value
        parts = [(*name.partition(" x ")[::2], scores) for name, scores in conditions.items()]
        found = [{"context": context, "perturbation": label, "scores": scores} for context, label, scores in parts]
        return {**plain, "scores": means, "validation_scores": validation, "conditions": found}


@dataclass(frozen=True)
class Bands:
    """How often the predicted direction of a gene held on conditions that were left out, by the size of the predicted effect.

    Args:
        edges: smallest absolute effect (log1p) of the first, second and third band; None where no effect is large enough for it.
        shares: of the genes of each of the four bands that went the predicted way, the mean over conditions; None for a band without genes.
        lowest: the same of the first band in the condition where it was lowest; None without genes.
        conditions: that were left out.
        genes: of each.
        origin: what was left out.
    """

    edges: tuple[float | None, ...]
    shares: tuple[float | None, ...]
    lowest: float | None
    conditions: int
    genes: int
    origin: str


@dataclass(frozen=True)
class OwnWeights:
    """Weights of one context, in place of those that all contexts share.

    Args:
        weights: of (paired, mean, common, features); the mean is the shrunk one.
        conditions: of the context that they were fitted on.
        error, common_error: mean MAE of these by the context's own weights and by the common ones, each left out of the fit.
        without: see `Calibration`.
    """

    weights: tuple[float, ...]
    conditions: int
    error: float
    common_error: float
    without: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """How much of the paired, the transferred and the common effect to take, fitted on conditions that the model behind them never saw.

    Args:
        paired, mean: the weights of the network's effect and of the effect that the other contexts had.
        lowest, highest: bounds they were fitted within.
        prior: (paired, mean) the fit was pulled towards.
        contexts, perturbations: it was fitted on, by name.
        conditions: pairs of them.
        cells: measured perturbed cells of these.
        crossed: what was left out in turn to score it: "contexts", "perturbations", or "" when one condition was all there was.
        folds: how often.
        paired_range, mean_range: (smallest, largest) weight over the folds; empty without any.
        scores: means over conditions, on the mean cell: "mae_none", "mae_corrected", "mae_mean", "mae_likeness", "mae_transfer",
            "mae_common" (where all have one), "mae_calibrated", and the same with "mse_". The calibrated ones
            are of conditions left out of the fit, and missing where none could be.
        seed: of the basal cells.
        origin: cells held out for validation, or contexts or blocks of the training that further models, trained without them, predicted.
        common: weight of the mean effect of the context's other perturbations.
        kind: what was left out: whole contexts, blocks of a perturbation in a context that trained others, or perturbations everywhere.
        transfer: how the other contexts are weighed: alike, or by how alike their control cells are; "shrunk" by standard errors.
        without: weights (paired, mean, common, features) where parts are missing, by those that are there ("paired+common").
        fitted: (paired, mean, common, features) of the mixture, where a part alone was closer on what was left out and is used in its place.
        chosen: what is used: "mixture", or the part that alone was closest; "" on cards of before, whose default output is corrected.
        why: that choice in a sentence, with numbers.
        features: weight of the effect that a ridge regression on perturbation features tells.
        correction: 1 where the noise of the mean control cell is taken out of the prediction (`effects.transfer`), 0 where not.
        own: context -> weights of its own, for contexts whose left-out conditions they fit better.
        bands: how often the direction of what is used held on what was left out; None where nothing was, or on cards of before.
    """

    paired: float
    mean: float
    lowest: float
    highest: float
    prior: tuple[float, ...]
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    conditions: int
    cells: int
    crossed: Literal["contexts", "perturbations", ""]
    folds: int
    paired_range: tuple[float, ...] = ()
    mean_range: tuple[float, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    seed: int = 42
    origin: Literal["validation cells", "left-out contexts", "left-out blocks", "left-out perturbations"] = "validation cells"
    common: float = 0.0
    kind: Literal["contexts", "blocks", "perturbations"] = "contexts"
    transfer: Literal["mean of other contexts", "likeness-weighted mean", "shrunk"] = "mean of other contexts"
    without: dict[str, tuple[float, ...]] = field(default_factory=dict)
    fitted: tuple[float, ...] = ()
    chosen: str = ""
    why: str = ""
    correction: float = 0.0
    features: float = 0.0
    own: dict[str, OwnWeights] = field(default_factory=dict)
    bands: Bands | None = None

    def of_context(self, context: str) -> Calibration:
        """Return the calibration of conditions of a context: with its own weights, where it has any."""
        found = self.own.get(context)
        if found is None:
            return self
        paired, mean, common, features = found.weights
        return replace(
            self, paired=paired, mean=mean, common=common, features=features, without=found.without, transfer="shrunk",
            chosen="mixture", why=self.own_words(context), own={},
        )  # fmt: skip

    def own_words(self, context: str) -> str:
        """Return why a context has weights of its own, in a sentence."""
        found = self.own[context]
        return (
            f"{context} has weights of its own: MAE {found.error:.4f} on its {found.conditions:,} conditions, each left out of the fit, "
            f"{found.common_error:.4f} with the common weights."
        )

    def weights(self, parts: Sequence[str]) -> tuple[float, float, float, float]:
        """Return (paired, mean, common, features) for a condition that has only these of the four."""
        names = ("paired", "mean", "common", "features")
        own = (self.paired, self.mean, self.common, self.features)
        if all(name in parts or not weight for name, weight in zip(names, own, strict=True)):
            return own
        # cards of before have weights of three parts, and know nothing of features
        for known in (names, names[:3]):
            found = self.without.get("+".join(name for name in known if name in parts))
            if found is not None and 3 <= len(found) <= 4:
                return found[0], found[1], found[2], (*found, 0.0)[3]
        return (1.0 if "paired" in parts else 0.0), 0.0, 0.0, 0.0


AttentionOrigin = Literal["declared", "assumed", "trained", "chosen", ""]


@dataclass(frozen=True)
class ModelCard:
    """A State Transition model's card.

    Args:
        format: version of the store's layout (`FORMAT`).
        id: first 12 hex digits of `weights_hash`; in a library that has these weights by other names, `model_id`.
        name: for people.
        config: the network.
        input_key: representation it reads: "X", "X_hvg" or another obsm key.
        input_genes: names of the input features in order, or None when the checkpoint does not say.
        output_genes: names of the expression features that come out (decoder or gene space), or None when not known.
        scale: expression scale of input in gene space; always "log1p" for published models; None for embeddings.
        control: the control label.
        perturbations: every label it knows, control included, in the order of the feature rows.
        perturbation_encoding: one-hot or feature vectors.
        batches, contexts: labels seen in training; empty when not recorded. Batches are in the order of the model's indices.
        perturbation_key, context_key, batch_key: obs columns of the training data; None when not recorded.
        attention: which cells of a set see which.
        attention_source: why that mode, a sentence for people; programs read `attention_origin`.
        weights_hash: sha256 of the weights in our store's order, hex.
        licence: name or identifier, "unknown" when not known.
        source: where it came from: "arc-state run directory NAME", "hub owner/name@revision",
            "trained by STATE Explorer VERSION".
        limits: sentences from the model card, shown where they matter.
        notes: what reading it decided, for people ("LoRA adapters of rank 8 merged").
        simulated: trained on simulated data.
        training: what is known of the training.
        embedding_model: hash of the SE model whose embeddings it reads, when known.
        calibration: how far to trust it beside its baselines, when that was fitted.
        block_calibration: the same for a perturbation in a context that trained others, where both were fitted.
        new_calibration: the same for a perturbation that no other context was trained on, where it is not the only one.
        unseen: labels among `perturbations` that no training cell carried: known by their feature vector alone.
        attention_origin: where the attention mode comes from; "" when not recorded.
        log_base: of the logarithm of log1p values, e for the natural one; None when not recorded, and for counts and embeddings.
        depth: what a cell's counts summed to before the log1p; None when not known.
        bands: how often the direction of the corrected prediction held on tested conditions; of models without a calibration.
    """

    format: int
    id: str
    name: str
    config: TransitionConfig
    input_key: str
    input_genes: tuple[str, ...] | None
    output_genes: tuple[str, ...] | None
    scale: Literal["log1p", "counts"] | None
    control: str
    perturbations: tuple[str, ...]
    perturbation_encoding: Literal["one-hot", "features"]
    batches: tuple[str, ...]
    contexts: tuple[str, ...]
    perturbation_key: str | None
    context_key: str | None
    batch_key: str | None
    attention: AttentionMode
    attention_source: str
    weights_hash: str
    licence: str = "unknown"
    source: str = ""
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    simulated: bool = False
    training: TrainingSummary = TrainingSummary()
    embedding_model: str | None = None
    calibration: Calibration | None = None
    unseen: tuple[str, ...] = ()
    attention_origin: AttentionOrigin = ""
    block_calibration: Calibration | None = None
    new_calibration: Calibration | None = None
    log_base: float | None = None
    depth: float | None = None
    bands: Bands | None = None

    @property
    def set_size(self) -> int:
        """Cells in a set as trained."""
        return self.config.set_size

    @property
    def reads_embedding(self) -> bool:
        """The input is an embedding, not gene expression."""
        return self.input_key not in ("X", "X_hvg")

    @property
    def offered(self) -> tuple[str, ...]:
        """The perturbations that it can predict: every label but the control."""
        return tuple(label for label in self.perturbations if label != self.control)

    @property
    def recommended(self) -> Literal["calibrated", "corrected"]:
        """The kind of prediction that is the default output."""
        return "calibrated" if self.calibration is not None and self.calibration.chosen else "corrected"

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """All calibrations of the model."""
        return tuple(c for c in (self.calibration, self.block_calibration, self.new_calibration) if c is not None)

    def calibration_for(self, block: bool, new: bool = False) -> Calibration | None:
        """Return the calibration of a condition; `block`: its context trained others; `new`: no other context knows the perturbation."""
        if new and self.new_calibration is not None:
            return self.new_calibration
        return self.block_calibration if block and self.block_calibration is not None else self.calibration


def model_id(card: ModelCard) -> str:
    """Return an id of weights, of what inputs and outputs are called, and of which cells of a set see which."""
    genes = (card.input_key, card.input_genes, card.output_genes)
    return id_with_names(
        card.weights_hash, (*genes, card.control, card.perturbations, card.batches, card.contexts, card.attention)
    )
