"""Expression from embeddings: a State Embedding model's own decoder says the log expression of chosen genes in each cell.

It looks at one gene in one cell at a time, so the cost is cells x genes. Notation: m cells, k genes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch

from state_engine import keys
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.embedding_record import embedding_facts
from state_engine.data.files.npy import NpyRows
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.forward import Timing, stream
from state_engine.embedding.request import DecodeRequest, check_output, gene_map_of, sentence_maker
from state_engine.errors import IncompatibleError, RepresentationError, RequestError, listed
from state_engine.files import replacing
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import package_versions

NUMBERS_A_PASS = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 25}
CELLS_A_BLOCK = 2048


@dataclass(frozen=True)
class DecodeSummary:
    """Facts of the decoded file. `remarks` are sentences worth showing; `empty` cells have no embedding and got NaN."""

    cells: int
    genes: int
    empty: int
    device: str
    remarks: tuple[str, ...]


def decode(
    request: DecodeRequest, output: Path, on_progress: OnProgress = silent, loaded: LoadedEmbedding | None = None
) -> DecodeSummary:
    """Write the decoded log1p expression, cells x genes.

    Args:
        request: what to decode.
        output: an .h5ad with the obs of the data, or a .npy; it appears only when complete.
        on_progress: called once a forward pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already.

    Raises:
        DataError, ModelError, RequestError, DeviceError: what each says.
    """
    check_output(output, request.data, request.model)
    dataset = open_dataset(Path(request.data), request.choices)
    device = choose_device(request.device)
    if loaded is None:
        on_progress(Progress("Loading the model"))
        loaded = load_embedding(Path(request.model), device.kind, dtype_of(request.precision), request.checkpoint)
    remarks = _check_embedding(dataset, loaded.card, request)
    rows = _gene_rows(request.genes, loaded.card)
    depths = _read_depths(dataset, loaded.card, request, on_progress)
    about = {"request": to_plain(request), "model": loaded.card.weights_hash, "versions": package_versions()}
    empty = done = 0
    with _writer(dataset, output, request.genes, about) as writer:
        for cells, embedding in dataset.iter_blocks(f"obsm/{request.key}", block=CELLS_A_BLOCK):
            values = _decode_block(loaded, rows, np.asarray(embedding), None if depths is None else depths[cells])
            empty += int(np.isnan(values[:, 0]).sum())
            writer.write(cells, values)
            done += len(cells)
            on_progress(Progress("Decoding cells", done, dataset.n_cells))
    if empty:
        remarks.append(f"{empty:,} cells have no embedding or no read depth: their expression is NaN.")
    return DecodeSummary(dataset.n_cells, len(rows), empty, device.name, tuple(remarks))


def _check_embedding(dataset: Dataset, card: EmbeddingCard, request: DecodeRequest) -> list[str]:
    facts = dataset.representation(f"obsm/{request.key}")
    if facts.width != card.width:
        raise RepresentationError(
            f"{facts.name} is {facts.width:,} wide.",
            f"Embeddings of '{card.name}' are {card.width:,} wide.",
            "Embed the cells first.",
        )
    made = embedding_facts(dataset.path, request.key)
    if made is None or not made.model:
        return [f"It is not recorded which model made {facts.name}: '{card.name}' was taken at your word."]
    if made.model == card.weights_hash:
        return []
    words = f"{facts.name} was made by '{made.model_name}' ({made.model[:12]}), not by '{card.name}' ({card.id})."
    if not request.allow_other:
        raise IncompatibleError(words, "Embeddings of two models have nothing in common.", "Choose the model that made it.")
    return [words]


def _gene_rows(genes: tuple[str, ...], card: EmbeddingCard) -> list[int]:
    if not genes:
        raise RequestError("No genes were named.", "", f"Name some, such as {listed(card.vocabulary, 3)}.")
    known = {name: row for row, name in enumerate(card.vocabulary)}
    unknown = [name for name in genes if name not in known]
    if unknown:
        raise RequestError(
            f"The model does not know {len(unknown):,} of these genes: {listed(unknown)}.",
            f"It knows {len(known):,}, such as {listed(card.vocabulary, 3)}.",
            "Leave them out, or name them as the model does.",
        )
    return [known[name] for name in genes]


def _read_depths(dataset: Dataset, card: EmbeddingCard, request: DecodeRequest, on_progress: OnProgress) -> np.ndarray | None:
    """(n,) float32, or None when the decoder is not told the read depth."""
    if not card.config.read_depth:
        return None
    if request.read_depth is not None:
        return np.full(dataset.n_cells, request.read_depth, dtype=np.float32)
    on_progress(Progress("Reading how deep the cells were sequenced"))
    depths = np.full(dataset.n_cells, np.nan, dtype=np.float32)
    maker = sentence_maker(dataset, card, gene_map_of(dataset, card), 0)
    for block in stream(dataset, maker, Timing()):
        depths[block.cells] = block.mean_expression
    return depths


@torch.inference_mode()
def _decode_block(loaded: LoadedEmbedding, rows: list[int], embedding: np.ndarray, depths: np.ndarray | None) -> np.ndarray:
    """(m, width) and (m,) -> (m, k) float32; cells and genes are taken in pieces that fit."""
    module, card = loaded.module, loaded.card
    device = module.cls_token.device
    vectors = loaded.vectors[rows].to(device)
    room = max(1, NUMBERS_A_PASS.get(device.type, 1 << 22) // card.config.decoder_width)
    genes = min(len(rows), room)
    whole = torch.from_numpy(np.ascontiguousarray(embedding, dtype=np.float32))
    out = np.empty((len(embedding), len(rows)), dtype=np.float32)
    step = max(1, room // genes)
    for start in range(0, len(embedding), step):
        part = whole[start : start + step].to(device)
        cell, rest = part[:, : card.cell_width], part[:, card.cell_width :]
        depth = None if depths is None else torch.from_numpy(depths[start : start + step]).to(device)
        for first in range(0, len(rows), genes):
            decoded = module.decode(vectors[first : first + genes], cell, rest if card.config.dataset_token else None, depth)
            out[start : start + step, first : first + genes] = decoded.cpu().numpy()
    return out


class _Expression:
    """X of an .h5ad, written in blocks of rows."""

    def __init__(self, made: h5py.Dataset) -> None:
        self.made = made

    def write(self, cells: np.ndarray, values: np.ndarray) -> None:
        self.made[int(cells[0]) : int(cells[-1]) + 1] = values


@contextmanager
def _writer(
    dataset: Dataset, output: Path, genes: tuple[str, ...], about: Mapping[str, object]
) -> Iterator[_Expression | NpyRows]:
    shape = (dataset.n_cells, len(genes))
    with replacing(output) as beside:
        if output.suffix == ".npy":
            with beside.open("wb") as file:
                yield NpyRows(file, *shape)
            return
        with h5py.File(dataset.path, "r") as old, h5py.File(beside, "w") as new:
            new.attrs["encoding-type"], new.attrs["encoding-version"] = "anndata", "0.1.0"
            old.copy("obs", new)
            ad.io.write_elem(new, "var", pd.DataFrame(index=pd.Index(genes, dtype=object)))
            ad.io.write_elem(new, "uns", {f"{keys.MANIFEST}_decoded": json.dumps(about)})
            made = new.create_dataset("X", shape=shape, dtype=np.float32)
            made.attrs["encoding-type"], made.attrs["encoding-version"] = "array", "0.2.0"
            yield _Expression(made)
