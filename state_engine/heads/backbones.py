"""The models that give a head its vectors, frozen or tuned: a cell's input in, its vector out, with gradients where they are wanted.

A cell's vector depends on the cell alone. An SE reads each cell by itself anyway; an ST reads sets, so here each cell is a set of its own, under
the control label: what it then says does not depend on which other cells happen to be in the file, nor on labels.

Notation: n cells, p positions of a sentence, g features of an ST's input, w features of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.checkpoints.head_card import VectorSource
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.checkpoints.recognise import embedding_kind
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, iter_features
from state_engine.device import Device, dtype_of
from state_engine.embedding.forward import Timing, read_sentences
from state_engine.embedding.request import gene_map_of, sentence_maker
from state_engine.errors import IncompatibleError, RequestError
from state_engine.heads.request import Features
from state_engine.models.passes import require_finite
from state_engine.plain import plural
from state_engine.prediction.inputs import find_input

Loaded = LoadedEmbedding | LoadedModel
Rows = NDArray[np.int64]
# tokens or cells of a pass: what stays in the caches of a core; a GPU takes many more
TOKENS_A_PASS = {"cpu": 4096, "cuda": 131072, "mps": 16384}
CELLS_A_PASS = {"cpu": 512, "cuda": 16384, "mps": 4096}
VALUES_A_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class CellInputs:
    """What a model reads of some cells.

    Args:
        rows: (n,) of the file.
        tensors: each (n, ...): an SE's rows and counts; an ST's features and batch indices.
    """

    rows: Rows
    tensors: tuple[Tensor, ...]


class EmbeddingVectors(nn.Module):
    """The cell part of an SE's embedding.

    Args:
        loaded: the model.
        encodes_genes: gene vectors are encoded at each pass, because the encoder is trained.
    """

    def __init__(self, loaded: LoadedEmbedding, encodes_genes: bool = False) -> None:
        super().__init__()
        self.network = loaded.module
        self.genes = loaded.vectors if encodes_genes else None
        if encodes_genes and self.network.count_embedding is not None:
            self.network.count_embedding.lines = None  # they were written down from weights that now change

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """(n, p) rows and counts -> (n, w)."""
        table = None if self.genes is None else self.network.gene_table(self.genes.to(rows.device))
        return self.network(rows.long(), counts, table=table).cell


class TransitionVectors(nn.Module):
    """An ST's hidden states, or its output, for each cell as a set of its own under the control label."""

    control: Tensor

    def __init__(self, loaded: LoadedModel, hidden: bool) -> None:
        super().__init__()
        self.network, self.mode, self.hidden = loaded.module, loaded.card.attention, hidden
        place = loaded.card.perturbations.index(loaded.card.control)
        self.register_buffer("control", loaded.perturbation_features[place].clone(), persistent=False)

    def forward(self, basal: Tensor, batch: Tensor) -> Tensor:
        """(n, g) and (n,) -> (n, w)."""
        cells = basal.to(self.control)[:, None]
        output = self.network(cells, self.control.expand(len(basal), -1), batch[:, None], attention=self.mode)
        found = output.hidden if self.hidden else output.predicted
        assert found is not None
        return found[:, 0].float()


Backbone = EmbeddingVectors | TransitionVectors


def load_backbone(path: Path, device: Device, precision: str) -> Loaded:
    """Load an SE or an ST, whichever the path is.

    Raises:
        CheckpointError, UnsafePickleError: see `load_embedding` and `load_model`.
    """
    load = load_embedding if embedding_kind(path) else load_model
    return load(path, device.kind, dtype_of(precision))


def source_of(loaded: Loaded, features: Features) -> VectorSource:
    """Return which vectors of a model are meant.

    Raises:
        RequestError: the model has no such vectors.
    """
    card = loaded.card
    if isinstance(loaded, LoadedEmbedding):
        if features in ("hidden", "prediction"):
            raise RequestError(
                f"'{card.name}' is a State Embedding model (SE) and has no {features} of cells.", "It has embeddings.",
                "Leave --features out, or name a State Transition model.",
            )  # fmt: skip
        se = loaded.card
        return VectorSource("embedding", se.cell_width, "", se.weights_hash, se.name, se.vocabulary_hash, simulated=se.simulated)
    if features == "embedding":
        raise RequestError(
            f"'{card.name}' is a State Transition model (ST) and makes no embedding.", "It has hidden states and predictions.",
            "Choose --features hidden or prediction, or name a State Embedding model.",
        )  # fmt: skip
    st = loaded.card
    prediction = features == "prediction"
    width = st.config.output_dim if prediction else st.config.backbone.hidden
    return VectorSource(
        "prediction" if prediction else "hidden",
        width,
        "",
        st.weights_hash,
        st.name,
        attention=st.attention,
        simulated=st.simulated,
    )


def backbone_of(loaded: Loaded, source: VectorSource, encodes_genes: bool = False) -> Backbone:
    """Return the module that makes the vectors."""
    if isinstance(loaded, LoadedEmbedding):
        return EmbeddingVectors(loaded, encodes_genes)
    return TransitionVectors(loaded, source.kind == "hidden")


class InputReader:
    """Reads what a model wants to know of a data set's cells.

    Args:
        dataset: the cells.
        loaded: the model.

    Raises:
        IncompatibleError: an ST does not fit the data set. GeneError, ScaleError, RepresentationError: an SE does not.
    """

    def __init__(self, dataset: Dataset, loaded: Loaded) -> None:
        self.dataset, self.remarks = dataset, list[str]()
        if isinstance(loaded, LoadedEmbedding):
            genes = gene_map_of(dataset, loaded.card)
            self.remarks += [genes.warning] if genes.warning else []
            self.maker = sentence_maker(dataset, loaded.card, genes, 0)
            self.batch = TOKENS_A_PASS.get(loaded.module.cls_token.device.type, 4096) // loaded.card.config.tokens
            self.features: FeatureSource | None = None
            return
        findings, source = find_input(dataset, loaded.card)
        blocking = [f for f in findings if f.severity == "blocking"]
        if blocking or source is None:
            why = " ".join(f"{f.title}: {f.detail}" for f in blocking)
            raise IncompatibleError("Data set and model do not fit together.", why, " ".join(f.fix for f in blocking if f.fix))
        self.remarks += [f"{f.title}. {f.detail}" for f in findings if f.severity == "warning"]
        self.features = source
        self.batch = CELLS_A_PASS.get(loaded.perturbation_features.device.type, 512)
        self.batches = self._batches(loaded)

    def _batches(self, loaded: LoadedModel) -> Rows:
        """(n,) index of each cell's batch in the model; the first for one that it does not know."""
        if not loaded.card.config.batch_encoder:
            return np.zeros(self.dataset.n_cells, np.int64)
        place = {name: i for i, name in enumerate(loaded.card.batches)}
        labels = self.dataset.batch_labels()
        found = np.array([place.get(str(label), -1) for label in labels], np.int64)
        if (found < 0).any():
            self.remarks.append(
                plural(
                    int((found < 0).sum()),
                    "cell is of a batch that the model does not know and takes its first.",
                    "cells are of a batch that the model does not know and take its first.",
                )
            )
        return np.maximum(found, 0)

    def blocks(self, rows: Rows) -> Iterator[CellInputs]:
        """Yield the inputs of cells, in their order; cells without anything to read are left out."""
        if self.features is None:
            for part in read_sentences(self.dataset, self.maker, rows, Timing()):
                yield CellInputs(part.cells, (torch.from_numpy(part.rows), torch.from_numpy(part.counts)))
            return
        block = int(np.clip(VALUES_A_BLOCK // max(self.dataset.n_genes, 1), 64, 4096))
        for at, values in iter_features(self.dataset, self.features, rows, block):
            yield CellInputs(at, (torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(self.batches[at])))

    def whole(self, rows: Rows) -> CellInputs:
        """Return all inputs at once, for training."""
        parts = list(self.blocks(rows))
        tensors = tuple(torch.cat([part.tensors[i] for part in parts]) for i in range(len(parts[0].tensors)))
        return CellInputs(np.concatenate([part.rows for part in parts]), tensors)


@torch.inference_mode()
def run(backbone: Backbone, inputs: CellInputs, batch: int, device: torch.device) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Yield (row numbers, vectors) of cells, a pass at a time."""
    for start in range(0, len(inputs.rows), max(1, batch)):
        part = slice(start, start + max(1, batch))
        found = backbone(*(tensor[part].to(device) for tensor in inputs.tensors))
        yield inputs.rows[part], require_finite(found.float().cpu().numpy(), "gives vectors")
