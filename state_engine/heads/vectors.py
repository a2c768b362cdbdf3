"""The vectors of cells that a head reads: which they are when a head is fitted, and the same ones when it is applied.

A head is refused vectors of another origin than it was fitted on: equal widths say nothing, so hashes decide, and both are named.

Notation: n cells of the file, m of them asked for, w features.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from state_engine.checkpoints.head_card import HeadCard, VectorSource
from state_engine.checkpoints.load import card_of
from state_engine.config import load_settings
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, hvg_choice, iter_features, match_genes
from state_engine.data.scale import DEPTH
from state_engine.device import Device
from state_engine.errors import GeneError, IncompatibleError, RepresentationError, listed
from state_engine.files import replacing
from state_engine.heads.backbones import InputReader, Loaded, backbone_of, run, source_of
from state_engine.heads.request import LARGEST, AnnotateRequest, FinetuneRequest
from state_engine.plain import agreed, plural, to_plain
from state_engine.progress import OnProgress, Progress

STAGE = "Making vectors of cells"
CACHE, MOST_KEPT, MOST_BYTES = "vectors", 24, 4 << 30
LEAST_GENES, GOOD_GENES = 0.2, 0.9
Rows = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of cells.

    Args:
        source: what they are.
        values: (m, w) float32; NaN in the rows of cells that have none.
        remarks: sentences worth showing.
        seconds: it took.
    """

    source: VectorSource
    values: Matrix
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def empty(self) -> NDArray[np.bool_]:
        """(m,) cells without a vector."""
        return np.asarray(~np.isfinite(self.values).all(1))


# ---- when a head is fitted ----


def decide_source(
    request: FinetuneRequest, dataset: Dataset, train: Rows, loaded: Loaded | None
) -> tuple[VectorSource, list[str]]:
    """Return what vectors a head is fitted on, and remarks.

    Args:
        request: as asked.
        dataset: the cells.
        train: cells that are trained on: genes are chosen on them alone.
        loaded: the model, where one is named.

    Raises:
        RepresentationError, GeneError, ScaleError, RequestError: there are no such vectors.
    """
    if loaded is not None:
        source = source_of(loaded, request.features)
        there = [] if request.tunes_model else _keys_of(dataset, source)
        if there:
            return replace(source, key=there[0]), [
                f"The file has this model's embedding, obsm['{there[0]}']: it is not made again."
            ]
        return source, []
    if request.embedding_key:
        return _stored(dataset, request.embedding_key), []
    stored = {matrix.name for matrix in dataset.representations}
    made = [key for key, facts in dataset.embeddings.items() if facts.model and f"obsm/{key}" in stored]
    if request.features == "auto" and len(made) == 1 and not request.genes_of:
        said = f"The vectors are those of obsm['{made[0]}']: no other embedding of the file says what made it."
        return _stored(dataset, made[0]), [said]
    among = _predicted_genes(request.genes_of, dataset) if request.genes_of else None
    count = min(request.variable_genes, len(set(dataset.genes.names if among is None else among)))
    chosen = hvg_choice(dataset, count, cells=np.sort(train), among=among)
    feature = FeatureSource(str(dataset.expression), normalise=dataset.scale.require() == "counts")
    where = f", of those that '{Path(request.genes_of).name}' predicts" if request.genes_of else ""
    said = f"The vectors are log1p expression of the {len(chosen.names):,} most variable genes of the training cells{where}."
    return VectorSource("expression", len(chosen.names), genes=chosen.names, depth=feature.depth_of(dataset.scale)), [said]


def _predicted_genes(place: str, dataset: Dataset) -> tuple[str, ...]:
    """The genes that an ST predicts and the data set has, as the data set names them.

    Raises:
        GeneError: there are none. CheckpointError: it is no ST.
    """
    genes = card_of(Path(place)).output_genes or ()
    columns = match_genes(dataset, genes).columns if genes else np.empty(0, np.int64)
    found = tuple(dict.fromkeys(dataset.genes.names[int(column)] for column in columns if column >= 0))
    if len(found) < 2:
        raise GeneError(
            f"{dataset.path.name} has {len(found)} of the {plural(len(genes), 'gene')} that '{Path(place).name}' predicts.",
            "The head would have nothing to read." if genes else "Its card names none.",
            "Choose the model that made the predictions, and the column of gene names that it knows.",
        )
    return found


def _keys_of(dataset: Dataset, source: VectorSource) -> list[str]:
    """The keys of obsm that hold the embedding of the same SE."""
    made = dataset.embeddings.items() if source.kind == "embedding" else ()
    stored = {matrix.name for matrix in dataset.representations}
    return [key for key, facts in made if facts.model == source.model and f"obsm/{key}" in stored]


def _stored(dataset: Dataset, key: str) -> VectorSource:
    """A matrix of obsm: an SE's embedding where the file says so, else one of unknown origin."""
    name = key if key.startswith("obsm/") else f"obsm/{key}"
    width = dataset.representation(name).width
    key = name.removeprefix("obsm/")
    facts = dataset.embeddings.get(key)
    if facts is None or not facts.model:
        return VectorSource("obsm", width, key)
    return VectorSource(
        "embedding", facts.cell_width or width, key, facts.model, facts.model_name, facts.vocabulary, simulated=facts.simulated
    )


# ---- when it is applied ----


def same_source(
    card: HeadCard, request: AnnotateRequest, dataset: Dataset, loaded: Loaded | None
) -> tuple[VectorSource, Loaded | None]:
    """Return where in a data set the vectors of a head are, or the model that makes them; None where they are read.

    Raises:
        RepresentationError, IncompatibleError: they are not there, or are those of another model; both are named.
    """
    wanted = card.source
    if wanted.kind == "expression":
        return wanted, None
    if loaded is not None and loaded.card.weights_hash != wanted.model:
        raise _another(card, f"'{loaded.card.name}' ({loaded.card.weights_hash[:12]})")
    if request.embedding_key:
        return _checked(card, _stored(dataset, request.embedding_key)), None
    if wanted.kind == "obsm":
        return _checked(card, _stored(dataset, wanted.key)), None
    there = _keys_of(dataset, wanted)
    if there:
        return _checked(card, _stored(dataset, there[0])), None
    if loaded is not None:
        return replace(wanted, key=""), loaded
    found = [f"obsm['{key}'] of '{f.model_name}' ({f.model[:12]})" for key, f in dataset.embeddings.items() if f.model]
    raise RepresentationError(
        f"{dataset.path.name} has no vectors that '{card.name}' reads.",
        f"It reads {wanted.words}. The file has {listed(found) or 'no embedding whose maker is recorded'}.",
        "Name the folder of that model (--backbone DIR), or embed the cells with it first.",
    )


def _checked(card: HeadCard, found: VectorSource) -> VectorSource:
    """The vectors of a file, when they are those that a head was fitted on."""
    wanted = card.source
    if wanted.kind == "obsm" and not found.model and found.width == wanted.width:
        return found
    same = (found.model, found.vocabulary, found.width) == (wanted.model, wanted.vocabulary, wanted.width)
    if wanted.kind == "embedding" and same:
        return found
    raise _another(card, found.words)


def _another(card: HeadCard, found: str) -> IncompatibleError:
    return IncompatibleError(
        f"'{card.name}' was fitted on other vectors than these.",
        f"It reads {card.source.words}; these are {found}.",
        "Embed the cells with the model that the head was fitted on, or fit a head on these vectors.",
    )


# ---- reading ----


def read_vectors(
    dataset: Dataset, source: VectorSource, rows: Rows, loaded: Loaded | None, device: Device, on_progress: OnProgress,
    batch_size: int | None = None,
) -> Vectors:  # fmt: skip
    """Read or make the vectors of cells.

    Args:
        dataset, source: what, as decided.
        rows: (m,) cells, ascending.
        loaded: the model that makes them; None where they are read.
        device: where it is.
        on_progress: told each pass; may raise `JobCancelled`.
        batch_size: cells of a pass.
    """
    start = time.perf_counter()
    if source.kind == "expression":
        values, remarks = _expression(dataset, source, rows)
    elif loaded is None or source.key:
        values, remarks = _read_stored(dataset, source, rows), []
    else:
        values, remarks = _made(dataset, source, rows, loaded, device, on_progress, batch_size)
    return Vectors(source, np.ascontiguousarray(values, np.float32), tuple(remarks), time.perf_counter() - start)


def _read_stored(dataset: Dataset, source: VectorSource, rows: Rows) -> Matrix:
    """(m, w) vectors of obsm.

    Raises:
        RepresentationError: numbers too large for products in float32.
    """
    values = dataset.read(f"obsm/{source.key}", rows)[:, : source.width]
    largest = float(np.abs(values, where=np.isfinite(values), out=np.zeros(values.shape, values.dtype)).max(initial=0))
    if largest > LARGEST:
        raise RepresentationError(
            f"obsm['{source.key}'] has numbers as large as {largest:.0e}.",
            f"From those above {LARGEST:.0e} nothing can be computed: their squares have no number.",
            "Divide them by their spread, or choose other vectors.",
        )
    return values


def _expression(dataset: Dataset, source: VectorSource, rows: Rows) -> tuple[Matrix, list[str]]:
    """(m, w) log1p expression of genes by name; genes that the data lack are 0."""
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "The head reads genes by name.", "Add X or a layer.")
    match = match_genes(dataset, source.genes)
    missing = [gene for gene, column in zip(source.genes, match.columns, strict=True) if column < 0]
    share = match.n_matched / len(source.genes)
    genes = f"{match.n_matched:,} of the {plural(len(source.genes), 'gene')} that the head reads"
    numbers = f"{genes} {agreed(match.n_matched, 'is', 'are')} in {dataset.path.name}"
    if share < LEAST_GENES:
        raise GeneError(
            f"Only {numbers}.",
            f"{match.how} At least {LEAST_GENES:.0%} are needed.",
            "Choose the column of gene names that it knows.",
        )
    remarks = [f"{numbers}; the others count as 0: {listed(missing)}."] if share < 1 else []
    if share < GOOD_GENES:
        remarks.append("So many missing genes shift every vector: what is called of these cells is doubtful.")
    columns = tuple(int(column) for column in match.columns)
    feature = FeatureSource(dataset.expression, columns, dataset.scale.require() == "counts", len(missing))
    feature = feature.at_depth(dataset.scale, source.depth or (DEPTH if feature.normalise else None))
    return np.concatenate([values for _, values in iter_features(dataset, feature, rows)]), remarks


def _made(
    dataset: Dataset, source: VectorSource, rows: Rows, loaded: Loaded, device: Device, on_progress: OnProgress,
    batch_size: int | None,
) -> tuple[Matrix, list[str]]:  # fmt: skip
    """(m, w) vectors of a frozen model; those of the same file and model are kept for the next time."""
    reader = InputReader(dataset, loaded)
    for remark in reader.remarks:
        on_progress(Progress(STAGE, 0, len(rows), remark))
    made = 0

    def compute() -> Matrix:
        nonlocal made
        backbone = backbone_of(loaded, source).to(device.torch_device).eval()
        values = np.full((len(rows), source.width), np.nan, np.float32)
        for inputs in reader.blocks(rows):
            for at, found in run(backbone, inputs, batch_size or reader.batch, device.torch_device):
                values[np.searchsorted(rows, at)] = found
                made += len(at)
                on_progress(Progress(STAGE, made, len(rows)))
        return values

    values = cached(_key(dataset, source, rows, loaded), compute)
    empty = int((~np.isfinite(values).all(1)).sum())
    said = plural(
        empty, "cell expresses no gene that the model knows and has", "cells express no gene that the model knows and have"
    )
    lost = [f"{said} no vector."] if empty else []
    return values, [*reader.remarks, *lost]


def _key(dataset: Dataset, source: VectorSource, rows: Rows, loaded: Loaded) -> str:
    """What vectors depend on, as the name of a file."""
    digest = hashlib.sha256(dataset.hash().encode())
    dtype = next(loaded.module.parameters()).dtype
    digest.update(f"{to_plain(source)} {to_plain(dataset.choices)} {dtype}".encode())
    digest.update(np.ascontiguousarray(rows, "<i8").tobytes())
    return digest.hexdigest()[:40]


def cached(key: str, compute: Callable[[], Matrix], folder: Path | None = None) -> Matrix:
    """Return a matrix that is kept under a key, or compute and keep it; the oldest go when there are too many."""
    folder = folder or load_settings().home / CACHE
    path = folder / f"{key}.npy"
    with suppress(OSError, ValueError, EOFError, MemoryError):  # what is damaged is made again
        values = np.load(path, allow_pickle=False)
        path.touch()
        return np.asarray(values, np.float32)
    values = compute()
    with suppress(OSError):  # without room or rights nothing is kept, and nothing is lost
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            np.save(beside, values, allow_pickle=False)
        kept = sorted(folder.glob("*.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
        total = 0
        for place, file in enumerate(kept):
            total += file.stat().st_size
            if place >= MOST_KEPT or total > MOST_BYTES:
                file.unlink(missing_ok=True)
    return values
