"""Requests of the jobs whose verb has no request of its own, and the summaries that pages read. No torch: pages import this."""

from __future__ import annotations

from dataclasses import dataclass

from state_engine.analysis.enrichment import SetQuestion
from state_engine.attention.modes import ModeScore
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import Layer

# ---- derived from a finished prediction: their files lie in its folder ----


@dataclass(frozen=True)
class LookRequest:
    """The map and the first tables of a prediction, so that the pages are ready.

    Args:
        run: id of the prediction.
    """

    run: str


@dataclass(frozen=True)
class DifferentialRequest:
    """One table of differential expression, and its comparison with measured cells where there are any.

    Args:
        run: id of the prediction.
        perturbation, context: the condition.
        reference, expression: see `analysis.differential`.
    """

    run: str
    perturbation: str
    context: str
    reference: str
    expression: str


@dataclass(frozen=True)
class SelectedCellsRequest:
    """The genes that tell a selection of cells of a prediction from all others.

    Args:
        run: id of the prediction.
        cells: name of the selection, see `analysis.selected.keep_cells`.
        layer: of the predicted cells.
    """

    run: str
    cells: str
    layer: Layer = "corrected"


@dataclass(frozen=True)
class EffectsRequest:
    """Sizes of all effects of a prediction, and the change of each gene in each condition.

    Args:
        run: id of the prediction.
    """

    run: str


@dataclass(frozen=True)
class GeneSetsRequest:
    """An answer about gene sets of a prediction.

    Args:
        run: id of the prediction.
        question: what is asked.
    """

    run: str
    question: SetQuestion


@dataclass(frozen=True)
class TablesRequest:
    """All tables of a prediction as one zip.

    Args:
        run: id of the prediction.
    """

    run: str


@dataclass(frozen=True)
class ReportRequest:
    """The report of a run, one HTML file that opens offline.

    Args:
        run: id of a prediction, evaluation, test, training, screen or comparison.
    """

    run: str


@dataclass(frozen=True)
class MatrixRequest:
    """The predicted cells of a prediction as a matrix, with their labels in a table beside it.

    Args:
        run: id of the prediction.
    """

    run: str


@dataclass(frozen=True)
class StoreRequest:
    """A prediction, or cells that a head called, as a zipped zarr store.

    Args:
        run: id of the prediction, or of the annotation.
    """

    run: str


@dataclass(frozen=True)
class AttentionMapsRequest:
    """The attention maps of one cell set of a prediction.

    Args:
        run: id of the prediction.
        perturbation, context: the condition; `number` of the set in it, from 0.
    """

    run: str
    perturbation: str
    context: str
    number: int


@dataclass(frozen=True)
class ModesRequest:
    """A comparison of each attention mode with measured cells.

    Args:
        prediction: which cells, conditions and model.
    """

    prediction: PredictionRequest


# ---- into the library ----


@dataclass(frozen=True)
class ConvertRequest:
    """An arc-state run directory on this server, converted into the library.

    Args:
        path: the directory, or a checkpoint in it.
        name: of the model; "" for the directory's.
    """

    path: str
    name: str = ""


@dataclass(frozen=True)
class ConvertEmbeddingRequest:
    """A State Embedding checkpoint on this server, converted into the library.

    Args:
        path: the checkpoint, or its folder.
        name: of the model; "" for the file's.
    """

    path: str
    name: str = ""


@dataclass(frozen=True)
class DownloadRequest:
    """A model from the hub.

    Args:
        repo: owner/name; `revision` a branch, tag or commit; `subfolder` of the model, "" for the top.
        accept_licence: whether the user accepted the licence of the weights.
        checkpoint: of several, relative to the subfolder; "" takes the one that is meant by default.
    """

    repo: str
    revision: str
    subfolder: str
    accept_licence: bool
    checkpoint: str = ""


@dataclass(frozen=True)
class PrepareRequest:
    """The most variable genes of a data set, as `obsm["X_hvg"]` of a copy.

    Args:
        data: id of the data set.
        genes: how many.
    """

    data: str
    genes: int


@dataclass(frozen=True)
class GeneCacheRequest:
    """The expression of a data set by gene, so that one gene of all cells is read at once.

    Args:
        data: id of the data set.
    """

    data: str


@dataclass(frozen=True)
class LabelRequest:
    """The labels given by hand, as a column of obs of a copy of the data set.

    Args:
        data: id of the data set.
        column: name of the new column.
        labels: which labels were meant (`library.hand_labels.version_of`), so that others are another job; "" in earlier versions.
    """

    data: str
    column: str
    labels: str = ""


@dataclass(frozen=True)
class FetchRequest:
    """A public data set.

    Args:
        name: in the catalogue.
    """

    name: str


# ---- summaries that pages read ----


@dataclass(frozen=True)
class Prepared:
    """A copy of a data set with its most variable genes.

    Args:
        data: id of the copy.
        method: how the genes were chosen, a sentence.
    """

    data: str
    method: str


@dataclass(frozen=True)
class Labelled:
    """A copy of a data set with the labels given by hand.

    Args:
        data: id of the copy.
        column: that has them.
        cells: that have a label.
    """

    data: str
    column: str
    cells: int


@dataclass(frozen=True)
class FileWritten:
    """Name of the file in the folder of the run that the job belongs to."""

    file: str


@dataclass(frozen=True)
class ModesCompared:
    """Agreement of each attention mode, smallest error first."""

    modes: tuple[ModeScore, ...]
