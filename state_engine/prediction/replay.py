"""Replace every cell of a data set by a simulated one, with the draws and the numbers of `state tx infer`.

For comparison with results of the reference program. Predictions are unpaired and raw: to answer a question use
`state_engine.prediction.predict`. Control cells are drawn with numpy's legacy generator, as there. Notation: s cells in a window.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.data.behind import Behind
from state_engine.data.cell_sets import ReplayWindow, replay_plan
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource, iter_features
from state_engine.data.files.replaced_copy import ReplacedCopy
from state_engine.device import choose_device, dtype_of
from state_engine.errors import RepresentationError, UnknownLabelError, listed
from state_engine.files import free_output, replacing
from state_engine.plain import to_plain
from state_engine.prediction.forward import SetResult, SetRunner, SetTask
from state_engine.prediction.outputs import batch_indices
from state_engine.prediction.request import ReplayRequest
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import package_versions

# the reference cuts its output to this range in gene space
LOWEST, HIGHEST = 0.0, 14.0


def replay(
    request: ReplayRequest, output: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None
) -> dict[str, object]:
    """Write a copy of the data set whose cells are simulated.

    Args:
        request: what to replay.
        output: where the .h5ad goes; it appears only when complete.
        on_progress: called for each window; may raise `JobCancelled`.
        loaded: the model, when it is in memory already.

    Returns:
        Number of simulated and kept cells, device, remarks, and the representation that holds what was predicted.

    Raises:
        DataError, ModelError, RequestError, DeviceError: the data set, the model or the request cannot be used.
    """
    free_output(output, request.data, request.model)
    dataset = open_dataset(Path(request.data), request.choices)
    device = choose_device(request.device)
    loaded = loaded or load_model(Path(request.model), device.kind, dtype_of(request.precision), request.attention)
    card = loaded.card
    source = _source(dataset, card, request.embedding_key or card.input_key)
    _check_labels(dataset, card, request.allow_unknown)
    size = request.set_size or card.set_size
    draws = replay_plan(dataset.perturbation_labels(), dataset.context_labels(), dataset.require_control(), size, request.seed)
    plan = tuple(draws)
    remarks: list[str] = []
    runner = SetRunner(loaded.module, loaded.perturbation_features, request.attention or card.attention, on_remark=remarks.append)
    summary = {"simulated": sum(len(w.target) for w in plan), "cells": dataset.n_cells, "device": device.name}
    about = {**summary, "versions": package_versions(), "request": to_plain(request)}
    places = _Output(card, source)
    rows = _load(dataset, runner, plan, source, on_progress)
    with replacing(output) as beside:
        on_progress(Progress("Copying the data set"))
        with (
            ReplacedCopy(Path(request.data), beside, places.widths, dataset.n_cells, (f"{keys.MANIFEST}_replay", about)) as copy,
            closing(_predict(dataset, card, runner, plan, rows, on_progress)) as windows,
            Behind(partial(places.write, copy), name="result") as behind,
        ):
            for found in windows:
                behind.put(found)
    return {**about, "remarks": remarks, "representation": places.decoded or places.main}


def _source(dataset: Dataset, card: ModelCard, key: str) -> FeatureSource:
    """Return the representation as it is in the file: a replay never converts anything.

    Raises:
        RepresentationError: it is missing, or has another width than the model's input.
    """
    name = key if key == keys.X or key.startswith(("obsm/", "layers/")) else f"obsm/{key}"
    found = next((r for r in dataset.representations if r.name == name), None)
    if found is None or found.width != card.config.input_dim:
        has = ", ".join(f"{r.name} ({r.width:,})" for r in dataset.representations)
        raise RepresentationError(
            f"The model reads {name} with {card.config.input_dim:,} features.",
            f"The data set has {has}.",
            "Add that representation, or predict without --replay, which can make it.",
        )
    if dataset.only_genes is not None and not name.startswith("obsm/"):
        raise RepresentationError(
            f"{name} of {dataset.path.name} has columns that are no genes.",
            f"The model reads and writes its {found.width:,} genes; a copy of the file needs all {dataset.file.n_genes:,} columns.",
            "Save the genes alone, or predict without --replay.",
        )
    return FeatureSource(name, None, False, 0)


def _check_labels(dataset: Dataset, card: ModelCard, allow_unknown: bool) -> None:
    if allow_unknown:
        return
    unknown = sorted(set(dataset.perturbation_labels()) - set(card.perturbations))
    if unknown:
        raise UnknownLabelError(
            f"The model does not know {len(unknown):,} perturbations of the data set: {listed(unknown)}.",
            "The reference would silently predict the control for them.",
            "Remove these cells, or allow it (--allow-unknown).",
        )
    if card.config.batch_encoder:
        batches = sorted(set(dataset.batch_labels()) - set(card.batches))
        if batches:
            raise UnknownLabelError(
                f"The model does not know the batches {listed(batches)}.",
                "The reference would silently take the first batch for them.",
                "Name the batch column (--batch-key), or allow it (--allow-unknown).",
            )


def _load(
    dataset: Dataset, runner: SetRunner, plan: tuple[ReplayWindow, ...], source: FeatureSource, on_progress: OnProgress
) -> np.ndarray:
    """Read and encode the control cells that are drawn; return their rows, ascending.

    Raises:
        RepresentationError: values are NaN or infinite. ScaleError: expression is negative.
    """
    rows = np.unique(np.concatenate([w.basal for w in plan])) if plan else np.array([], dtype=np.int64)
    on_progress(Progress("Reading control cells"))
    # only encoded cells are kept, so the controls of a large data set need not fit into memory
    runner.load_cells(values for _, values in iter_features(dataset, source, rows, block=2048))
    return rows


def _predict(
    dataset: Dataset,
    card: ModelCard,
    runner: SetRunner,
    plan: tuple[ReplayWindow, ...],
    rows: np.ndarray,
    on_progress: OnProgress,
) -> Generator[tuple[ReplayWindow, SetResult], None, None]:
    index = {label: i for i, label in enumerate(card.perturbations)}
    batches = batch_indices(dataset, card, allow_unknown=True)  # unknown ones were refused before, or allowed
    tasks = [
        SetTask(
            np.searchsorted(rows, window.basal),
            index.get(window.perturbation, index[card.control]),
            batches[window.target] if batches is not None else None,
            number,
        )
        for number, window in enumerate(plan)
    ]
    for done, result in enumerate(runner.run(tasks), 1):
        on_progress(Progress("Predicting cells", done, len(tasks)))
        yield plan[result.tag], result


class _Output:
    """Where results go: HDF5 paths, and whether values are clipped."""

    def __init__(self, card: ModelCard, source: FeatureSource) -> None:
        self.clip = card.config.output_space != "embedding"  # the embedding too, when genes come out
        self.main = source.representation
        self.widths = {self.main: card.config.output_dim}
        self.decoded = ""
        if card.config.decoder is not None:
            # decoded genes go where the reference puts them: HVGs beside the embedding, the whole space into X
            self.decoded = "obsm/X_hvg" if card.config.output_space == "hvg" else keys.X
            self.widths[self.decoded] = card.config.decoder.genes

    def write(self, copy: ReplacedCopy, found: tuple[ReplayWindow, SetResult]) -> None:
        window, result = found
        rows = window.target
        predicted = np.clip(result.predicted, LOWEST, HIGHEST) if self.clip else result.predicted
        copy.write(self.main, rows, predicted)
        if result.decoded is not None:
            copy.write(self.decoded, rows, np.clip(result.decoded, LOWEST, HIGHEST))
