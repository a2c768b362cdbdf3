"""What every prediction begins with: its data set read and found to fit, its cells drawn, and who predicts them.

Boundary: nothing is predicted and nothing is written here. A process that computes shards of a prediction begins with the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel
from state_engine.data.dataset import Dataset
from state_engine.effects.apply import Moving
from state_engine.effects.baselines import baseline_effects
from state_engine.effects.table import Condition
from state_engine.errors import RequestError
from state_engine.plain import plural
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.draw import DrawnCells, draw_cells
from state_engine.prediction.measured_cells import MeasuredCells, measured_cells
from state_engine.prediction.outputs import batch_indices
from state_engine.prediction.request import PredictionRequest, check_perturbations, contexts_of
from state_engine.prediction.rows import ResultRows, result_rows
from state_engine.prediction.sources import BaselineSource, Computing, ModelSource, Source
from state_engine.progress import OnProgress, Progress, silent

LOOKED_AT = 256  # control cells that show what a molecule is


@dataclass(frozen=True, eq=False)
class Start:
    """A prediction that may begin.

    Args:
        request, dataset, card: what is predicted, from which cells, by which model.
        cells: reads the cells; `drawn` says which, `rows` where they lie in the result.
        moving: how cells of a mixture or a baseline get to their mean.
        warnings: of the compatibility report, sentences.
        repeated: a sentence where names of cells repeat, or "".
    """

    request: PredictionRequest
    dataset: Dataset
    card: ModelCard
    cells: MeasuredCells
    drawn: DrawnCells
    rows: ResultRows
    moving: Moving
    warnings: tuple[str, ...]
    repeated: str

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Return (perturbation, context) of all that is predicted."""
        return tuple((p, c) for c in self.drawn.contexts for p in self.drawn.perturbations)

    @property
    def has_embedding(self) -> bool:
        """Whether the result has an embedding; a baseline's effects are of genes where there are any."""
        return self.card.reads_embedding and (self.request.by_network or not self.cells.genes)

    @property
    def keeps_raw(self) -> bool:
        """Whether the uncorrected prediction is written too; a baseline of genes has nothing to correct."""
        return self.request.keep_raw and (self.request.by_network or not self.cells.genes)


def start(request: PredictionRequest, card: ModelCard, dataset: Dataset, on_progress: OnProgress = silent) -> Start:
    """Check a request and draw its cells.

    Raises:
        DataError, ModelError, RequestError: each says what, why and what to do.
    """
    check_perturbations(request, card)
    contexts = contexts_of(request, dataset)
    report = check_compatibility(
        dataset, card, request.perturbations, contexts, request.allow_unknown, request.allow_other_embedding
    )
    cells = measured_cells(dataset, card, require_compatible(report))
    on_progress(Progress("Drawing control cells"))
    drawn = draw_cells(request, dataset, card, contexts)
    rows = result_rows(drawn, card.control)
    used = np.unique(np.concatenate([block.cells for block in rows.blocks]))
    # the cells that only complete a set are read too
    cells = cells.looked_at(np.unique(np.concatenate([used, *drawn.basal.values()])))
    repeated, different = "", len(set(dataset.obs_names[used].tolist()))
    if different < len(used):
        repeated = f"Names of cells repeat: {len(used):,} cells have {plural(different, 'name')}. Cells are found by their row."
    warnings = tuple(" ".join(filter(None, (f"{f.title}.", f.detail))) for f in report.warnings)
    return Start(request, dataset, card, cells, drawn, rows, _moving(request, cells, drawn), warnings, repeated)


def source_of(begun: Start, loaded: LoadedModel | None, remarks: list[str], on_progress: OnProgress) -> Source:
    """Return who predicts: the model, or the request's baseline, whose effects are refused here where they do not fit.

    Args:
        begun: the prediction.
        loaded: its model; None for a baseline.
        remarks: gets a sentence when something was done differently on the way.
        on_progress: called for each set; may raise `JobCancelled`.

    Raises:
        RequestError: see `baseline_effects`. UnknownLabelError: batches that the model does not know.
    """
    request, card, cells, drawn, rows = begun.request, begun.card, begun.cells, begun.drawn, begun.rows
    if loaded is None:
        return BaselineSource(cells, drawn, rows, _baseline(begun), card.control, begun.moving, on_progress)
    batches = batch_indices(begun.dataset, card, request.allow_unknown)
    computing = Computing(request.attention or card.attention, request.compile)
    return ModelSource(loaded, cells, drawn, rows, batches, computing, remarks, on_progress)


def control_means(cells: MeasuredCells, contexts: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the mean control cell of each context and its squared standard errors; how alike contexts are is told by it."""
    if cells.genes and cells.expression is None:
        return {}  # the result's genes were not measured here
    return {c: cells.mean(cells.dataset.control_rows(c)) for c in dict.fromkeys(contexts)}


def _moving(request: PredictionRequest, cells: MeasuredCells, drawn: DrawnCells) -> Moving:
    """Return how cells of a mixture or a baseline get to their mean, by the first control cells."""
    if not cells.genes or cells.expression is None:
        return Moving(seed=request.seed)
    first = drawn.basal[drawn.contexts[0]][:LOOKED_AT]
    _, features, expression = next(cells.blocks(first))
    return Moving.of(features if expression is None else expression, cells.total, request.seed)


def _baseline(begun: Start) -> dict[Condition, np.ndarray]:
    """Return the effects of the request's baseline.

    Raises:
        RequestError: nothing to start from, or conditions about which it says nothing. CheckpointError: the model has no effects.
    """
    request, card, cells = begun.request, begun.card, begun.cells
    assert request.method != "model" and request.method != "paired"
    if cells.genes and cells.expression is None:
        why = f"{cells.dataset.path.name} has no expression of the genes that the model predicts."
        raise RequestError("A baseline starts from measured expression.", why, "Choose a data set with counts or log1p values.")
    width = len(cells.genes) or card.config.output_dim
    controls = {context: mean for context, (mean, _) in control_means(cells, begun.drawn.contexts).items()}
    return baseline_effects(request.method, Path(request.model), card, begun.conditions, cells.genes, width, controls)
