"""How a result was made, as JSON values: what its manifest says of the request, the model, each condition and the data set."""

from __future__ import annotations

from pathlib import Path

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.effects.exposure import exposures, trained_parts
from state_engine.effects.store import effects_hash
from state_engine.plain import to_plain
from state_engine.prediction.draw import DrawnCells
from state_engine.prediction.measured_cells import MeasuredCells
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result_layers import Calibrated
from state_engine.prediction.screens import Transfer
from state_engine.versions import package_versions

Conditions = tuple[tuple[str, str], ...]


def manifest(
    request: PredictionRequest, dataset: Dataset, card: ModelCard, cells: MeasuredCells, drawn: DrawnCells, calibrated: Calibrated | None,
    transfer: Transfer | None,
) -> dict[str, object]:  # fmt: skip
    """Return how the result was made, as JSON values."""
    return {
        "request": to_plain(request),
        keys.UNKNOWN: _unknown(request, card, drawn, transfer),
        "model": {"id": card.id, "name": card.name, "weights_hash": card.weights_hash},
        "simulated": card.simulated,
        **_trained(request, card, drawn, calibrated, transfer),
        "method": request.method,
        keys.X_KIND: _kind(request, cells, calibrated),
        "attention": request.attention or card.attention,
        "attention_source": card.attention_source if request.attention is None else "chosen in the request",
        **_data(dataset, card, cells),
        "embedding_key": card.input_key if card.reads_embedding else None,
        "embedding_models": _embedding_models(request, dataset, card) if card.reads_embedding else None,
        "effects_hash": effects_hash(Path(request.model)) if calibrated is not None or not request.by_network else None,
        "calibration": calibrated.facts() if calibrated is not None else None,
        "set_size": drawn.set_size,
        "versions": package_versions(),
    }


def _unknown(
    request: PredictionRequest, card: ModelCard, drawn: DrawnCells, transfer: Transfer | None
) -> dict[str, object] | None:
    """Return the labels that the model does not know, and what stands in their place: "control" is no change."""
    known = {*card.perturbations}
    strange = [p for p in drawn.perturbations if p not in known] if request.by_network else []
    measured = transfer.facts() if transfer is not None else {}
    return {"labels": strange, "instead": request.unknown_effect, **measured} if strange else None


def _trained(
    request: PredictionRequest, card: ModelCard, drawn: DrawnCells, calibrated: Calibrated | None, transfer: Transfer | None
) -> dict[str, object]:
    """Return what each condition is to the training of the model."""
    conditions = tuple((p, c) for c in drawn.contexts for p in drawn.perturbations)
    known = exposures(card, Path(request.model), conditions)
    parts = trained_parts(card, Path(request.model), conditions)
    if transfer is not None:
        known |= dict.fromkeys(transfer.same, "in training")  # what was measured there is what was written
    return {
        # whether agreement with measured cells of a condition would be a test of the model
        "exposure": [[p, c, exposure] for (p, c), exposure in known.items()],
        # what of it was trained on: context, perturbation, both together
        "trained_on": [[p, c, one.context, one.perturbation, one.pair] for (p, c), one in parts.items()],
        # how often the direction of predicted genes held where the model saw nothing: each kind once, and which condition has which
        "bands": _bands(request, card, calibrated, conditions),
    }


def _bands(
    request: PredictionRequest, card: ModelCard, calibrated: Calibrated | None, conditions: Conditions
) -> dict[str, object] | None:
    """Return what is known of how often predicted directions hold: of the calibrated prediction, or of the corrected one where that is X."""
    if not request.by_network:
        return None
    if calibrated is not None and calibrated.calibration.chosen:
        of = calibrated.bands
    else:
        of = {(p, c): card.bands for p, c in conditions if card.bands is not None and p in card.perturbations}
    kinds = list(dict.fromkeys(of.values()))
    return {"kinds": [to_plain(one) for one in kinds], "of": [[p, c, kinds.index(one)] for (p, c), one in of.items()]}


def _kind(request: PredictionRequest, cells: MeasuredCells, calibrated: Calibrated | None) -> str:
    """Return what the X of the result is."""
    if not request.by_network:
        return "baseline"
    if cells.genes and cells.expression is None and cells.reads_embedding:
        return "raw"  # no measured expression to start from: the prediction under the control label stands in for it
    # the calibrated prediction is X where it was chosen
    return "mixture" if calibrated is not None and calibrated.calibration.chosen else "corrected"


def _data(dataset: Dataset, card: ModelCard, cells: MeasuredCells) -> dict[str, object]:
    """Return which cells were read, and how."""
    expression, labels = cells.expression, dataset.labels
    return {
        "data_hash": dataset.hash(),
        "control": {"data": labels.control, "labels": list(labels.controls), "model": card.control},
        "renamed": {r.label: r.becomes for r in labels.renamings} if labels.renamed else {},
        "features": {"representation": cells.source.representation, "genes_missing": cells.source.n_missing},
        "scale": "log1p" if cells.genes else "embedding",
        # of the result's X: what a measured cell's counts summed to before the log1p, and how the data set's values were brought there
        "depth": expression.depth_of(dataset.scale) if expression and cells.genes else None,
        "depth_of_data": dataset.scale.depth,
    }


def _embedding_models(request: PredictionRequest, dataset: Dataset, card: ModelCard) -> dict[str, object]:
    """Return which model made the embedding that was read, "" where it is not recorded, and which one this model was trained on."""
    facts = dataset.embeddings.get(card.input_key)
    return {
        "made": facts.model if facts else "",
        "trained_on": card.embedding_model or "",
        "other_allowed": request.allow_other_embedding,
    }
