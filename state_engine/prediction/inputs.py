"""How a model's input is made from a data set, and what a person should know about it.

The model reads one of: an embedding in obsm (taken as it is), genes whose names are known (found by name, missing ones filled
with zero), or genes whose names are not known (taken as they are, when the number fits). Counts are normalised where needed.
Boundary: names, widths and the scale that was decided when the data set was opened; no values are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.expression import DEPTH, FeatureSource, match_genes
from state_engine.data.genes import GeneMatch
from state_engine.data.scale import same_depth
from state_engine.errors import ScaleError, listed
from state_engine.plain import first_places

Severity = Literal["ok", "warning", "blocking"]

# Shares of the model's genes that the data set has. Below the first, most of the input would be zeros that mean "not measured".
BLOCKED_BELOW = 0.2
WARNED_BELOW = 0.6
# codes of findings that pages offer a way out of
TO_BE_MADE, MAKER = "embedding", "embedding-model"


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Args:
        code: what it is about, for programs ("genes", "control").
        severity: ok, warning (can be predicted, but read this), blocking.
        title: in a few words, with the number.
        detail: a sentence or two.
        fix: the way out; "" when nothing needs doing.
    """

    code: str
    severity: Severity
    title: str
    detail: str
    fix: str = ""


Input = tuple[list[Finding], FeatureSource | None]


def find_input(dataset: Dataset, card: ModelCard, allow_other_embedding: bool = False) -> Input:
    """The findings on input and scale, and how the input is made (None when it cannot be)."""
    if card.reads_embedding:
        return _embedding(dataset, card, allow_other_embedding)
    if card.input_genes is not None:
        findings, source = _named_genes(dataset, card, card.input_genes)
    else:
        findings, source = _unnamed_genes(dataset, card)
    if source is not None and source.representation == dataset.expression:
        scale, fits, normalise = _scale(dataset, card)
        about_depth = list[Finding]()
        source = replace(source, normalise=normalise) if fits else None
        if source is not None:
            source, about_depth = at_models_depth(dataset, card, source)
        findings += about_depth or scale
    return findings + _names_of_output(dataset, card, source), source


def _embedding(dataset: Dataset, card: ModelCard, allow_other: bool) -> Input:
    name, width = _obsm(card.input_key), card.config.input_dim
    there = _width(dataset, name)
    alike = [r.name for r in dataset.representations if r.name.startswith("obsm/") and r.width == width]
    if there == width:
        findings, fits = _maker(dataset, card, name, allow_other)
        title = f"{name} has the {width:,} features the model reads"
        return [Finding("representation", "ok", title, "Taken as it is."), *findings], FeatureSource(name) if fits else None
    fix = "Make it on the Embed page with the State Embedding (SE) model that it was trained with."
    if alike:
        fix += f" If {listed(alike)} is that embedding, rename it to {card.input_key}."
    if there is None:
        detail = f"The model reads the embedding '{card.input_key}' with {width:,} features. The data set has {_have(dataset)}."
        return [Finding(TO_BE_MADE, "blocking", f"{name} is not in the data set", detail, fix)], None
    detail = f"The model reads {width:,} features, {name} has {there:,}: another embedding model made it."
    return [Finding("width", "blocking", f"{name} has another width", detail, fix)], None


def _maker(dataset: Dataset, card: ModelCard, name: str, allow_other: bool) -> tuple[list[Finding], bool]:
    """Which embedding model made it, by its record in the file, and whether that fits. Equal widths say nothing: hashes decide."""
    facts = dataset.embeddings.get(name.removeprefix("obsm/"))
    made, wanted = facts.model if facts else "", card.embedding_model or ""
    who = f"{facts.model_name} ({made[:12]})" if facts and facts.model_name else made[:12]
    if made and made == wanted:
        return [Finding(MAKER, "ok", "The embedding is of the right model", f"{who} made it; the model was trained on it.")], True
    if made and wanted:
        title = "Another embedding model made this embedding"
        detail = (
            f"{who} made {name}; the model was trained on embeddings of {wanted[:12]}. Their features have nothing in common."
        )
        if allow_other:
            return [Finding(MAKER, "warning", title, f"{detail} Allowed on request, and recorded with the run.", "")], True
        return [
            Finding(MAKER, "blocking", title, detail, "Embed the cells again, on the Embed page, with the right model.")
        ], False
    detail = "Embeddings fit only when the same embedding model made them."
    detail += f" {who} made {name}." if made else f" The file does not record what made {name}."
    detail += (
        f" This model was trained on those of {wanted[:12]}."
        if wanted
        else " Which one this model was trained on is not recorded."
    )
    return [
        Finding(MAKER, "warning", "Whether the embedding is the right one is not known", detail, "Make sure that it is.")
    ], True


def _named_genes(dataset: Dataset, card: ModelCard, genes: tuple[str, ...]) -> Input:
    """By name from the expression. A stored X_hvg has no names, so it is used only where names lead nowhere."""
    stored = _obsm(card.input_key) if card.input_key != keys.X else None
    usable = stored is not None and _width(dataset, stored) == len(genes)
    if dataset.expression is None:
        if usable and stored:
            return _stored_genes(dataset, stored, genes, "The data set has no expression to match names with.")
        detail = f"The model reads {len(genes):,} genes by name. The data set has {_have(dataset)}."
        return [
            Finding("representation", "blocking", "There is no expression in the data set", detail, "Add X or a layer.")
        ], None
    match = match_genes(dataset, genes)
    share = match.n_matched / len(genes)
    title = f"{match.n_matched:,} of {len(genes):,} genes matched"
    if share < BLOCKED_BELOW:
        if usable and stored:
            return _stored_genes(dataset, stored, genes, f"By name only {match.n_matched:,} genes were found.")
        detail = f"{match.how} That is {share:.0%}; at least {BLOCKED_BELOW:.0%} are needed."
        fix = (
            f"Choose another column of gene names on the Data page, with names like {listed(genes, 3)}. {_other_columns(dataset)}"
        )
        return [Finding("genes", "blocking", title, detail, fix.strip())], None
    made = f"Made from {dataset.expression} by name. {match.how}"
    source = FeatureSource(dataset.expression, tuple(int(c) for c in match.columns), False, len(genes) - match.n_matched)
    species = [_other_species(match, genes)] if match.other_species else []
    if not match.missing:
        return [Finding("genes", "ok", title, made), *species], source
    detail = f"{made} The {len(match.missing):,} missing ones are filled with zero: {listed(match.missing)}."
    if share >= WARNED_BELOW:
        return [Finding("genes", "ok", title, detail), *species], source
    fix = "Check the column of gene names on the Data page, or use the data before genes were filtered out."
    few = Finding("genes", "warning", title, f"{detail} Predictions from so few are unreliable.", fix)
    return [few, *species], source


def _other_species(match: GeneMatch, genes: tuple[str, ...]) -> Finding:
    title = f"{match.by_case:,} of {match.n_matched:,} genes match only when case is ignored"
    detail = (
        f"Names of another species differ so: Gapdh of a mouse, GAPDH of a human. The model's genes are like {listed(genes, 3)}."
    )
    return Finding("species", "warning", title, detail, "Make sure that data set and model are of the same species.")


def _stored_genes(dataset: Dataset, name: str, genes: tuple[str, ...], why: str) -> Input:
    """By name where it is a table whose columns are those genes, in any order; else as it is."""
    place = first_places(dataset.feature_names(name))
    if not set(genes) <= place.keys():
        return _taken_as_it_is(name, len(genes), why)
    title = f"{len(genes):,} of {len(genes):,} genes matched"
    found = Finding("genes", "ok", title, f"{why} The columns of {name} are taken by their names, as log1p values.")
    return [found], FeatureSource(name, tuple(place[g] for g in genes))


def _unnamed_genes(dataset: Dataset, card: ModelCard) -> Input:
    width = card.config.input_dim
    places = [dataset.expression] if card.input_key == keys.X else [_obsm(card.input_key), dataset.expression]
    for place in places:
        if place is not None and _width(dataset, place) == width:
            return _taken_as_it_is(place, width, "The model's files do not name its genes.")
    first = places[0] or keys.X
    there = _width(dataset, first)
    detail = f"It reads {first} with {width:,} genes and does not name them. The data set has {_have(dataset)}."
    fix = f"Bring a data set with the {width:,} genes it was trained on, in the same order, or a model that names its genes."
    if there is None:
        return [Finding("representation", "blocking", f"{first} is not in the data set", detail, fix)], None
    return [Finding("width", "blocking", f"{first} has {there:,} genes instead of {width:,}", detail, fix)], None


def _taken_as_it_is(name: str, width: int, why: str) -> Input:
    scale = ", as log1p values" if name.startswith("obsm/") else ""
    detail = f"{why} The {width:,} columns of {name} are taken in their order{scale}: this cannot be checked."
    fix = "Make sure that they are the genes the model was trained on, in the same order."
    return [Finding("genes", "warning", f"{name} fits by its width only", detail, fix)], FeatureSource(name)


def _scale(dataset: Dataset, card: ModelCard) -> tuple[list[Finding], bool, bool]:
    """Findings, whether the values can be used, and whether they are normalised first."""
    decision, wanted = dataset.scale, card.scale or "log1p"
    evidence = " ".join(decision.evidence)
    if decision.scale is None:
        title = "The expression values are neither counts nor log1p"
        fix = decision.fix or "Say on the Data page what they are."
        return [Finding("scale", "blocking", title, f"The model reads {wanted}. {evidence}", fix)], False, False
    if wanted == "counts":
        fits = decision.scale == "counts"
        detail = "As the model reads them." if fits else f"The model reads counts. {evidence}"
        fix = "" if fits else "Choose the layer of counts on the Data page."
        return [Finding("scale", "ok" if fits else "blocking", f"Values are {decision.scale}", detail, fix)], fits, False
    if decision.scale == "counts" and dataset.choices.normalise:
        depth = card.depth or DEPTH
        detail = f"They are normalised to {depth:,.0f} per cell and log1p while they are read; the file stays as it is."
        return [Finding("scale", "ok", "Values are counts", detail)], True, True
    if decision.scale == "counts":
        detail = "The model reads log1p, and normalisation is switched off: what it predicts from counts means nothing."
        return [Finding("scale", "blocking", "Values are counts", detail, "Switch normalisation on.")], False, False
    if card.depth is None and decision.depth and not same_depth(decision.depth, DEPTH):
        detail = f"They were normalised to {decision.depth:,.0f} per cell; models are usually trained at {DEPTH:,.0f}."
        fix = "Open the data with its counts, which are normalised as needed."
        return [Finding("scale", "warning", "Values are log1p at another depth", detail, fix)], True, False
    return [Finding("scale", "ok", "Values are log1p", "As the model reads them.")], True, False


def at_models_depth(dataset: Dataset, card: ModelCard, source: FeatureSource) -> tuple[FeatureSource | None, list[Finding]]:
    """Return how expression is read at the depth that the model was trained at, None where it cannot be, and what to know of it.

    A card that records no depth takes log1p values as they are, and counts at the usual depth.
    """
    own, wanted = dataset.scale.depth, card.depth
    try:
        brought = source.at_depth(dataset.scale, wanted)
    except ScaleError as error:
        title = "Values are log1p at another depth"
        detail = f"The model was trained at {wanted:,.0f} per cell. {error.why}"
        return None, [Finding("scale", "blocking", title, detail, error.fix)]
    if brought.factor != 1 and own:
        return brought, [Finding("scale", "ok", "Values are log1p at another depth", depth_words(own, wanted or own))]
    if wanted and not source.normalise and dataset.scale.scale == "log1p" and own is None:
        title = "The depth of the log1p values is not known"
        detail = f"The model was trained at {wanted:,.0f} per cell. The cells share no sum, as when genes were left out."
        return brought, [
            Finding("scale", "warning", title, detail, "Say what they were normalised to (--depth), or give counts.")
        ]
    return brought, []


def depth_words(own: float, wanted: float) -> str:
    """Return for people that log1p values are brought from one depth to another."""
    return (
        f"They were normalised to {own:,.0f} per cell and are brought to {wanted:,.0f} while they are read: the log1p is undone, the "
        "amounts are rescaled, and the log1p is taken again, which is exact."
    )


def _names_of_output(dataset: Dataset, card: ModelCard, source: FeatureSource | None) -> list[Finding]:
    """A result whose columns nobody can name is of little use to a biologist: said before, not after."""
    whole = source is not None and source.representation == dataset.expression and source.columns is None
    if card.output_genes is not None or source is None or (whole and card.config.output_dim == dataset.n_genes):
        return []
    detail = f"The {card.config.output_dim:,} columns of the result will be called 'feature 0', 'feature 1' and so on."
    return [
        Finding("names", "warning", "The predicted genes have no names", detail, "Add their names to the model if you know them.")
    ]


def _obsm(key: str) -> str:
    return key if key == keys.X or key.startswith(("obsm/", "layers/")) else f"obsm/{key}"


def _width(dataset: Dataset, name: str) -> int | None:
    return next((r.width for r in dataset.representations if r.name == name), None)


def _have(dataset: Dataset) -> str:
    return listed([f"{r.name} ({r.width:,})" for r in dataset.representations], 8) or "no matrix that can be read"


def _other_columns(dataset: Dataset) -> str:
    others = [
        f"{c.column or 'the index'} (such as {c.example})" for c in dataset.genes.alternatives if c.column != dataset.genes.column
    ]
    return f"There are also: {listed(others)}." if others else ""
