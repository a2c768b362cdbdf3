"""Apply a head: to the cells of a data set, or to those of a prediction with the measured cells beside, so that its own bias is seen.

Notation: n cells, k labels, w features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from state_engine import keys
from state_engine.checkpoints.embedding_store import embedding_card_of
from state_engine.checkpoints.head_card import HeadCard
from state_engine.checkpoints.head_store import LoadedHead, load_head
from state_engine.checkpoints.load import card_of
from state_engine.checkpoints.recognise import embedding_kind
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import Device, choose_device
from state_engine.errors import RequestError, RunError, StateError
from state_engine.files import free_output, remove_parts, replacing, write_bytes
from state_engine.heads.backbones import Loaded, load_backbone
from state_engine.heads.output import check_columns, write_annotated
from state_engine.heads.report import BACKBONE, FORMAT, UNKNOWN, Annotation, CalledGroup, Share, unknown_word
from state_engine.heads.request import AnnotateRequest
from state_engine.heads.seen import fitted_on, seen_remarks
from state_engine.heads.vectors import VectorSource, read_vectors, same_source
from state_engine.plain import csv_for_people, distinct
from state_engine.progress import OnProgress, Progress, silent

STAGE = "Calling cells"
CELLS_AT_ONCE = 65_536
RESULT = "result.h5ad"
CELL = "cell"
CalledKind = Literal["predicted", "predicted control", "measured", "measured control"]
KINDS: dict[str, CalledKind] = dict(
    zip((keys.PREDICTED, keys.PREDICTED_CONTROL, keys.OBSERVED, keys.OBSERVED_CONTROL), get_args(CalledKind), strict=True)
)


@dataclass(frozen=True, eq=False)
class Calls:
    """What a head calls cells.

    Args:
        card: of the head.
        values: (n, k) probabilities, or (n, 1) numbers; NaN for cells without a vector.
        threshold: of the probability.
    """

    card: HeadCard
    values: NDArray[np.float64]
    threshold: float

    @property
    def empty(self) -> NDArray[np.bool_]:
        """(n,) cells without a vector."""
        return np.asarray(np.isnan(self.values).any(1))

    @property
    def unknown(self) -> str:
        """What cells below the threshold and without a vector are called: no label of the head."""
        return unknown_word(self.card.labels)

    @property
    def labels(self) -> NDArray[np.object_]:
        """(n,) what each cell is called, `unknown` below the threshold and without a vector; of several labels joined."""
        names = np.array(self.card.labels, object)
        if self.card.task == "multi-label":
            said = self.each
            found = np.array(["; ".join(names[row == 1]) for row in said], object)
            found[self.empty] = self.unknown
            return found
        values = np.nan_to_num(self.values, nan=-1.0)
        sure = values.max(1) >= self.threshold
        return np.where(sure & ~self.empty, names[values.argmax(1)], self.unknown)

    @property
    def each(self) -> NDArray[np.int8]:
        """(n, k) of several labels: 1 yes, 0 no, -1 where neither is as probable as the threshold."""
        yes = np.nan_to_num(self.values, nan=0.5)
        said = (yes >= 0.5).astype(np.int8)
        said[(np.maximum(yes, 1 - yes) < self.threshold) | self.empty[:, None]] = -1
        return said

    def columns(self) -> dict[str, object]:
        """Return the columns of obs that say it."""
        if self.card.task == "regression":
            return {"predicted_value": self.values[:, 0]}
        labels = self.labels
        categories = [*self.card.labels, *([self.unknown] if (labels == self.unknown).any() else [])]
        if self.card.task == "classification":
            best = np.where(self.empty, np.nan, np.nan_to_num(self.values).max(1))
            return {"predicted_label": pd.Categorical(labels, categories=categories), "predicted_probability": best}
        found: dict[str, object] = {"predicted_label": pd.Categorical(labels)}
        words = np.array([UNKNOWN, "no", "yes"], object)
        called, sure = _columns_of(self.card.labels)
        for j in range(len(self.card.labels)):
            found[called[j]] = pd.Categorical(words[self.each[:, j] + 1], categories=["no", "yes", UNKNOWN])
            found[sure[j]] = self.values[:, j]
        return found

    def shares(self, cells: NDArray[np.int64] | None = None) -> tuple[Share, ...]:
        """Return how many of some cells (None: all) are called each label, unknown last."""
        if self.card.task == "regression":
            return ()
        at = np.arange(len(self.values)) if cells is None else cells
        n = max(len(at), 1)
        with_vector = at[~self.empty[at]]
        means = self.values[with_vector].mean(0) if len(with_vector) else np.zeros(len(self.card.labels))
        if self.card.task == "multi-label":
            counts = [(self.each[at][:, j] == 1).sum() for j in range(len(self.card.labels))]
            unknown = int((self.each[at] == -1).any(1).sum())
        else:
            called = self.labels[at]
            counts = [(called == name).sum() for name in self.card.labels]
            unknown = len(at) - int(sum(counts))
        found = [Share(name, int(c), float(c / n), float(m)) for name, c, m in zip(self.card.labels, counts, means, strict=True)]
        return (*found, Share(self.unknown, unknown, unknown / n, 0.0))

    def number(self, cells: NDArray[np.int64] | None = None) -> tuple[float | None, float | None]:
        """Return mean and standard deviation of the numbers of a regression; None for any other head."""
        values = self.values[:, 0] if cells is None else self.values[cells, 0]
        values = values[np.isfinite(values)]
        if self.card.task != "regression" or not len(values):
            return None, None
        return float(values.mean()), float(values.std())


def _columns_of(labels: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the columns of several labels, of what is called and of its probability: none has the name of another one."""
    plain = [name.replace("/", "_") for name in labels]  # a slash would be a folder of the file
    names = ["predicted_label", *(f"predicted_{name}" for name in plain), *(f"predicted_probability_{name}" for name in plain)]
    apart = distinct(names, "column")[1:]
    return apart[: len(labels)], apart[len(labels) :]


def annotate(
    request: AnnotateRequest, output: Path | None, on_progress: OnProgress = silent, *, labels: Path | None = None,
    loaded: Loaded | None = None, places: Sequence[Path] | None = None,
) -> Annotation:  # fmt: skip
    """Call the cells of a data set or of a prediction.

    Args:
        request: the head and the cells.
        output: a copy of the cells with what they are called in obs (.h5ad); None writes none. It is never the input.
        on_progress: told each pass; may raise `JobCancelled`.
        labels: a table of the same (.csv).
        loaded: the model behind the head when it is in memory already.
        places: where that model may lie, beside the head's own folder; by default where it was when the head was fitted.

    Raises:
        IncompatibleError, RepresentationError: the cells have no vectors that the head reads; both models are named.
        DataError, ModelError, RequestError, DeviceError: what each says.
    """
    start = time.perf_counter()
    folder, path = Path(request.model), cells_of(request)
    if output is not None and output.suffix != ".h5ad":
        raise RequestError(
            f"{output.name} is no name for annotated cells.",
            "It must end in .h5ad (on the command line .zarr too).",
            "Give another name.",
        )
    for file in filter(None, (output, labels)):
        free_output(file, path, folder, *filter(None, [request.backbone]))
        remove_parts(file.parent, file.name)
    if output is not None and labels is not None and labels.resolve() == output.resolve():
        raise RequestError(f"{labels.name} is named for cells and for their table.", "Each is a file.", "Give two names.")
    on_progress(Progress("Reading the data set"))
    dataset = open_dataset(path, request.choices)
    device = choose_device(request.device)
    head = load_head(folder)
    if output is not None:
        check_columns(dataset, Calls(head.card, np.empty((0, head.card.config.outputs)), request.threshold).columns())
    if loaded is None:
        found = find_backbone(head.card, folder, request, places)
        if found is not None:
            on_progress(Progress("Loading the model"))
            loaded = load_backbone(found, device, request.precision)
    source, loaded = same_source(head.card, request, dataset, loaded)
    values, remarks = head_values(head, source, dataset, loaded, device, on_progress, request.batch_size)
    called = Calls(head.card, values, request.threshold)
    seen = fitted_on(folder, dataset)
    said = [*_remarks(head.card), *seen_remarks(head.card, dataset, seen)]
    annotation = replace(_annotation(request, head.card, dataset, called, (*remarks, *said), device.name), fitted_on=seen)
    if output is not None:
        with replacing(output) as beside:
            again = write_annotated(
                dataset, beside, called.columns(), head.card, (request.threshold, called.unknown), on_progress
            )
        annotation = replace(annotation, remarks=(*annotation.remarks, *again))
    if labels is not None:
        table = pd.DataFrame({CELL: dataset.obs_names, **called.columns()})
        write_bytes(labels, csv_for_people(table).encode())
    return replace(annotation, seconds=time.perf_counter() - start)


def head_values(
    head: LoadedHead, source: VectorSource, dataset: Dataset, loaded: Loaded | None, device: Device, on_progress: OnProgress = silent,
    batch_size: int | None = None,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:  # fmt: skip
    """Return what a head says of the cells of a data set, see `Calls.values`, and remarks.

    Args:
        head: the head.
        source, loaded: where its vectors are, or the model that makes them; see `same_source`.
        dataset: the cells.
        device: where that model is.
        on_progress: told each pass; may raise `JobCancelled`.
        batch_size: cells of a pass of that model.
    """
    found, remarks = [], dict[str, None]()
    for first in range(0, dataset.n_cells, CELLS_AT_ONCE):
        rows = np.arange(first, min(first + CELLS_AT_ONCE, dataset.n_cells))
        vectors = read_vectors(dataset, source, rows, loaded, device, on_progress, batch_size)
        remarks |= dict.fromkeys(vectors.remarks)
        found.append(_called(head, vectors.values))
        on_progress(Progress(STAGE, int(rows[-1]) + 1, dataset.n_cells))
    return np.concatenate(found), tuple(remarks)


def cells_of(request: AnnotateRequest) -> Path:
    """Return the file of the cells.

    Raises:
        RunError: the folder has no prediction.
    """
    if request.data:
        return Path(request.data)
    path = Path(request.result)
    path = path / RESULT if path.is_dir() else path
    if not path.is_file():
        raise RunError(
            f"There is no prediction in {path.parent.name}.", f"It has no {path.name}.", "Give the folder of a prediction."
        )
    return path


def find_backbone(card: HeadCard, folder: Path, request: AnnotateRequest, places: Sequence[Path] | None = None) -> Path | None:
    """Return where the model behind a head is: the one that is asked for, else the first place whose card has its hash; None for none."""
    if card.source.kind in ("obsm", "expression"):
        return None
    if request.backbone:
        return Path(request.backbone)  # whatever it is: that it is another one is said with both names
    hinted = [Path(card.place)] if places is None and card.place else places or []
    for place in (folder / BACKBONE, *hinted):
        with suppress(OSError):  # a card may name anything, such as a name that is too long
            if place.exists() and hash_of(place) == card.source.model:
                return place
    return None


def hash_of(place: Path) -> str:
    """Return the hash of the weights of a model, as its card says it; "" where there is none."""
    try:
        return (embedding_card_of(place) if embedding_kind(place) else card_of(place)).weights_hash
    except StateError:
        return ""


def _called(head: LoadedHead, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, k) probabilities, or (n, 1) numbers; NaN where there is no vector."""
    there = np.isfinite(vectors).all(1)
    values = np.full((len(vectors), head.card.config.outputs), np.nan)
    if there.any():
        values[there] = head.outputs(torch.from_numpy(vectors[there])).double().numpy()
    return values


def _remarks(card: HeadCard) -> list[str]:
    said, word = [], unknown_word(card.labels)
    if card.source.kind == "obsm":
        said.append(f"What made {card.source.words} of this file could not be compared: only the width was.")
    if word != UNKNOWN:
        said.append(f"The head has a label '{UNKNOWN}': cells that it is not sure of are called '{word}' in its place.")
    return said


def _annotation(
    request: AnnotateRequest, card: HeadCard, dataset: Dataset, called: Calls, remarks: tuple[str, ...], device: str
) -> Annotation:
    shares = called.shares()
    value, spread = called.number()
    unknown = shares[-1].cells if shares else int(called.empty.sum())
    return Annotation(
        format=FORMAT, head=card.name, head_id=card.id, task=card.task, data=dataset.path.name, cells=dataset.n_cells,
        empty=int(called.empty.sum()), threshold=request.threshold, unknown=unknown, shares=shares,
        groups=_groups(dataset, called) if request.result else (), value=value, spread=spread, vectors=card.source.words, device=device,
        remarks=remarks,
    )  # fmt: skip


def _groups(dataset: Dataset, called: Calls) -> tuple[CalledGroup, ...]:
    """What the cells of each condition of a prediction are called, by kind.

    Raises:
        RunError: the file is no prediction.
    """
    missing = [column for column in (keys.KIND, keys.PERTURBATION, keys.CONTEXT) if column not in dataset.columns]
    if missing:
        raise RunError(
            f"{dataset.path.name} is no prediction.", f"Its obs lacks {', '.join(missing)}.", "Give --data for other cells."
        )
    obs = dataset.obs[[keys.CONTEXT, keys.PERTURBATION, keys.KIND]].astype(str).reset_index(drop=True)
    found = []
    for (context, perturbation, kind), part in obs.groupby(list(obs.columns), sort=True):
        cells = part.index.to_numpy(np.int64)
        value, spread = called.number(cells)
        if kind in KINDS:
            found.append(CalledGroup(KINDS[kind], perturbation, context, len(cells), called.shares(cells), value, spread))
    order = list(KINDS.values())
    return tuple(sorted(found, key=lambda g: (g.context, g.perturbation, order.index(g.kind))))
