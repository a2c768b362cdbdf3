"""Do this data set and this model fit? Every finding at once, each with numbers and a way out.

A pure function of what was understood of the data (`Dataset`) and of the model (`ModelCard`): no values are read, nothing is
changed, no torch. How the model's input is made from the data is decided in `inputs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource
from state_engine.errors import IncompatibleError, LabelError, listed, may_be, near_each
from state_engine.plain import agreed, part_of, plural
from state_engine.prediction.inputs import Finding, Severity, find_input

__all__ = ["Compatibility", "Finding", "Severity", "check_compatibility", "require_compatible"]

NO_LABEL = "(no label)"


@dataclass(frozen=True)
class Compatibility:
    """All that was found.

    Args:
        findings: in the order in which a person would go through them: input, labels, cells, the model's own limits.
        source: how the model's input features are made from the data; None when they cannot be.
    """

    findings: tuple[Finding, ...]
    source: FeatureSource | None

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What makes a prediction impossible."""
        return tuple(f for f in self.findings if f.severity == "blocking")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a person should know before trusting a prediction."""
        return tuple(f for f in self.findings if f.severity == "warning")


def check_compatibility(
    dataset: Dataset,
    card: ModelCard,
    perturbations: tuple[str, ...] | None = None,
    contexts: tuple[str, ...] | None = None,
    allow_unknown: bool = False,
    allow_other_embedding: bool = False,
) -> Compatibility:
    """Everything that speaks for or against predicting with this model on these data.

    Args:
        dataset: the opened data.
        card: the model.
        perturbations: the labels asked for; None when nothing was asked yet.
        contexts: the contexts asked for; None or empty for all.
        allow_unknown: labels that the model does not know fall back to the control's vector or the first batch, and rows are
            marked: what would block is then a warning.
        allow_other_embedding: an embedding of another embedding model than the one the model was trained on does not block.
    """
    findings, source = find_input(dataset, card, allow_other_embedding)
    pools = control_pools(dataset)
    asked = tuple(contexts or pools)
    findings += _control(dataset, card, sum(pools.values()))
    findings += [_data_perturbations(dataset, card)]
    findings += _asked_perturbations(card, perturbations, allow_unknown)
    findings += _batches(dataset, card, allow_unknown)
    findings += _contexts(dataset, card, asked, pools)
    if dataset.labels.control is not None:
        findings += _pools(card, asked, pools, chosen=bool(contexts))
    findings += _about_the_model(dataset, card)
    return Compatibility(tuple(findings), source)


def require_compatible(report: Compatibility) -> FeatureSource:
    """How the input is made, when nothing is in the way.

    Raises:
        IncompatibleError: everything that blocks, in one message.
    """
    blocking = report.blocking
    if blocking or report.source is None:
        why = " ".join(f"{f.title}: {f.detail}" for f in blocking)
        raise IncompatibleError("Data set and model do not fit together.", why, " ".join(f.fix for f in blocking if f.fix))
    return report.source


def control_pools(dataset: Dataset) -> dict[str, int]:
    """Control cells of every context, by name; 0 where a context has none. All 0 when the control is not known."""
    labels = dataset.labels
    if labels.perturbation_key:
        column = dataset.columns[labels.perturbation_key]
        known = labels.control is not None and labels.control in column.categories
        is_control = np.asarray(column.codes) == (column.categories.get_loc(labels.control) if known else -2)
    else:
        is_control = np.full(dataset.n_cells, labels.perturbation_key == "")
    if labels.context_key is None:
        return {keys.ALL: int(is_control.sum())}
    column = dataset.columns[labels.context_key]
    codes = np.asarray(column.codes)
    counts = np.bincount(codes[is_control & (codes >= 0)], minlength=len(column.categories))
    return {str(name): int(n) for name, n in zip(column.categories, counts, strict=True)}


# Labels


def _control(dataset: Dataset, card: ModelCard, n_control: int) -> list[Finding]:
    ours, theirs = dataset.labels.control, card.control
    findings = []
    if theirs not in card.perturbations:
        why = f"Its control '{theirs}' is not among its {len(card.perturbations):,} labels, so no effect can be measured."
        findings.append(
            Finding("control", "blocking", "The model does not know its own control", why, "Convert the model again.")
        )
    try:
        dataset.require_control()
    except LabelError as error:
        return [*findings, Finding("control", "blocking", error.what.rstrip("."), error.why, error.fix)]
    if not n_control:
        detail = f"No cell with a context is labelled '{ours}'."
        fix = "Choose the label of the unperturbed cells on the Data page."
        return [*findings, Finding("control", "blocking", "There are no control cells to start from", detail, fix)]
    title = f"{n_control:,} control cells"
    if dataset.labels.controls:
        title += f" of {len(dataset.labels.controls):,} labels"
    if ours == theirs:
        return [*findings, Finding("control", "ok", title, f"Labelled '{ours}', as in the model.")]
    own = _cells_labelled(dataset, theirs)
    if own:
        detail = f"'{ours}' is taken as the control, but {plural(own, 'cell is', 'cells are')} labelled '{theirs}', which is the model's control."
        return [*findings, Finding("control", "warning", title, detail, f"Choose '{theirs}' on the Data page if that is meant.")]
    detail = f"Cells labelled '{ours}' are the start; the model's own label '{theirs}' is what effects are measured against."
    return [*findings, Finding("control", "ok", title, detail)]


def _cells_labelled(dataset: Dataset, label: str) -> int:
    key = dataset.labels.perturbation_key
    if not key or label not in dataset.columns[key].categories:
        return 0
    column = dataset.columns[key]
    return int((np.asarray(column.codes) == column.categories.get_loc(label)).sum())


def _data_perturbations(dataset: Dataset, card: ModelCard) -> Finding:
    key, control = dataset.labels.perturbation_key, dataset.labels.control
    there = [str(p) for p in dataset.columns[key].categories if p != control] if key else []
    offered = len(card.offered)
    if not there:
        title = f"The model knows {plural(offered, 'perturbation')}"
        return Finding("perturbations", "ok", title, "The data set has control cells only: nothing to compare predictions with.")
    model = set(card.perturbations)
    known, unknown = [p for p in there if p in model], [p for p in there if p not in model]
    title = f"The model knows {part_of(len(known), len(there), 'perturbation')} of your data"
    detail = f"It knows {offered:,} in all. "
    detail += (
        "Predictions of these can be compared with measured cells."
        if known
        else "Nothing measured tells how good a prediction is."
    )
    if unknown:
        detail += f" Not known: {listed(unknown)}."
    if card.unseen:
        never = agreed(len(card.unseen), "was never trained and has", "were never trained and have")
        detail += f" {len(card.unseen):,} of the model's labels {never} a feature vector only."
    fix = may_be(near_each(unknown, card.perturbations, cutoff=1))  # other genes that look alike are not meant
    return Finding("perturbations", "ok" if known else "warning", title, detail, fix)


def _asked_perturbations(card: ModelCard, asked: tuple[str, ...] | None, allow_unknown: bool) -> list[Finding]:
    if asked is None:
        return []
    known = set(card.perturbations)
    unknown = [p for p in asked if p not in known]
    if not unknown:
        title = f"All {len(asked):,} chosen perturbations are known"
        return [Finding("request", "ok", title, ""), *_unseen_perturbations(card, asked)]
    title = f"{part_of(len(unknown), len(asked), 'chosen perturbation')} {agreed(len(unknown), 'is', 'are')} not known"
    names = f"The model was not trained on {listed(unknown)}."
    close = may_be(near_each(unknown, card.perturbations))
    if allow_unknown:
        detail = f"{names} They take the control's vector, so their predicted effect is zero; their cells are marked."
        fix = close or "Leave them out."
        return [Finding("request", "warning", title, detail, fix), *_unseen_perturbations(card, asked)]
    fix = close or "Choose labels from the model's list."
    return [Finding("request", "blocking", title, names, fix)]


def _unseen_perturbations(card: ModelCard, asked: tuple[str, ...]) -> list[Finding]:
    never = set(card.unseen)
    unseen = [p for p in asked if p in never]
    if not unseen:
        return []
    title = f"{part_of(len(unseen), len(asked), 'chosen perturbation')} {agreed(len(unseen), 'was', 'were')} never trained"
    detail = f"Predicted from their feature vectors alone: {listed(unseen)}."
    return [
        Finding("unseen", "warning", title, detail, "Read them beside perturbations that were trained, and beside the baselines.")
    ]


def _batches(dataset: Dataset, card: ModelCard, allow_unknown: bool) -> list[Finding]:
    if not card.config.batch_encoder:
        return []
    key = dataset.labels.batch_key
    fix = "Choose the batch column on the Data page, or allow unknown labels."
    if key is None:
        title, detail = "No batch column", f"The model wants a batch for every cell, one of {listed(card.batches)}."
    else:
        column = dataset.columns[key]
        names = [str(b) for b in column.categories] + [NO_LABEL] * bool((np.asarray(column.codes) < 0).any())
        known = set(card.batches)
        unknown = [b for b in names if b not in known]
        if not unknown:
            return [Finding("batches", "ok", f"All {len(names):,} batches are known", "")]
        title = f"{part_of(len(unknown), len(names), 'batch', 'batches')} {agreed(len(unknown), 'is', 'are')} not known"
        detail = f"The model was not trained on {listed(unknown)}. It knows {len(card.batches):,}: {listed(card.batches)}."
    if allow_unknown:
        detail += f" Their cells are treated as batch '{card.batches[0]}' and marked."
    return [Finding("batches", "warning" if allow_unknown else "blocking", title, detail, fix)]


def _contexts(dataset: Dataset, card: ModelCard, asked: tuple[str, ...], pools: dict[str, int]) -> list[Finding]:
    absent = [c for c in asked if c not in pools]
    if absent:
        detail = f"Not in the data set: {listed(absent)}. It has {listed(list(pools), 12)}."
        fix = may_be(near_each(absent, pools)) or "Choose among these."
        return [
            Finding(
                "contexts",
                "blocking",
                plural(len(absent), "chosen context is not there", "chosen contexts are not there"),
                detail,
                fix,
            )
        ]
    if dataset.labels.context_key is None:
        detail = "All cells are taken as one context. A set that mixes cell types is predicted differently from sets of one type."
        findings = [
            Finding("contexts", "warning", "No context column", detail, "Choose the column of cell types on the Data page.")
        ]
    elif not card.contexts:
        detail = "Which contexts the model was trained on is not recorded. It was not tested for unseen cell types."
        findings = [Finding("contexts", "warning", "Trained contexts are not known", detail, "")]
    else:
        findings = [_trained(card, asked)]
    if len(pools) == 1 and dataset.labels.context_key is not None:
        detail = f"All cells are '{next(iter(pools))}': nothing can be said about other contexts."
        findings.append(Finding("one-context", "ok", "One context only", detail))
    return findings


def _trained(card: ModelCard, asked: tuple[str, ...]) -> Finding:
    seen = set(card.contexts)
    unseen = [c for c in asked if c not in seen]
    if not unseen:
        return Finding("contexts", "ok", f"All {len(asked):,} contexts were in training", "")
    title = f"{part_of(len(unseen), len(asked), 'context')} {agreed(len(unseen), 'was', 'were')} not in training"
    tested = {c.context for c in card.training.conditions}
    held = [c for c in unseen if c in tested]
    never = [c for c in unseen if c not in tested]
    parts = [f"{listed(held)}: held out in its training and tested; its card has the scores."] if held else []
    parts += [f"The model was not tested for unseen cell types: {listed(never)}."] if never else []
    detail = " ".join([*parts, f"It was trained on {listed(card.contexts)}."])
    fix = may_be(near_each(unseen, card.contexts, cutoff=1)) or "Compare with the baselines before trusting these."
    return Finding("contexts", "warning", title, detail, fix)


# Cells


def _pools(card: ModelCard, asked: tuple[str, ...], pools: dict[str, int], chosen: bool) -> list[Finding]:
    there = {c: pools[c] for c in asked if c in pools}
    empty = [c for c, n in there.items() if not n]
    small = {c: n for c, n in there.items() if 0 < n < card.set_size}
    findings = []
    if empty and len(empty) < len(pools):  # none at all is the finding "control"
        severity: Severity = "blocking" if chosen else "warning"
        detail = f"In {listed(empty)}. A prediction starts from control cells of the same context."
        title = f"{part_of(len(empty), len(there), 'context')} {agreed(len(empty), 'has', 'have')} no control cells"
        findings.append(Finding("no-controls", severity, title, detail, "Leave these contexts out."))
    if small:
        shown = listed([f"{c} ({n:,})" for c, n in small.items()])
        detail = f"The model sees sets of {card.set_size:,} cells; fewer controls are in {shown}, so cells repeat within a set."
        findings.append(Finding("pool", "warning", "Few control cells", detail, "Choose a smaller set size, or read with care."))
    return findings


# The model


def _about_the_model(dataset: Dataset, card: ModelCard) -> list[Finding]:
    findings = []
    if card.attention_origin == "assumed":
        detail = f"Mode '{card.attention}'. {card.attention_source}"
        fix = "Where perturbed cells were measured, predict with the other modes too and keep the one that fits."
        findings.append(Finding("attention", "warning", "Which cells see which is an assumption", detail, fix))
    if card.simulated:
        findings.append(_simulated(dataset, card))
    return findings


def _simulated(dataset: Dataset, card: ModelCard) -> Finding:
    """The demo's own data, recognised by all its labels being the model's, need no warning."""
    key, context = dataset.labels.perturbation_key, dataset.labels.context_key
    at_home = bool(key and context) and {*dataset.columns[key or ""].categories} <= {*card.perturbations}
    if at_home and {*dataset.columns[context or ""].categories} <= {*card.contexts}:
        return Finding(
            "simulated", "ok", "A demonstration", "The model was trained on simulated cells with the labels of these data."
        )
    detail = "It was trained on simulated cells: it shows how the program works and says nothing about real ones."
    return Finding("simulated", "warning", "The model is a demonstration", detail, "Use a model trained on real cells.")
