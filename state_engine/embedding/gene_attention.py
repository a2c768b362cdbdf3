"""The genes that a cell's CLS token attends to, as means over each group of cells, by layer and head.

Only the row of CLS is ever computed for this: whole maps are gigabytes.

Notation: m cells, q groups, l layers, h heads, t positions of the transformer, v genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from state_engine import keys
from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.forward import Embedded, EmbeddingRunner, Timing, stream
from state_engine.embedding.gene_attention_table import ClsAttention
from state_engine.embedding.request import EmbedRequest, gene_map_of, sentence_maker
from state_engine.errors import LabelError, RequestError, listed, may_be, near_each
from state_engine.files import free_output, replacing, scratch_folder
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress, silent

TOP_A_HEAD = 20  # genes kept of every layer and head of every group
TOP = 100  # and of the mean over all of them
MOST_GROUPS = 64


class _Sums:
    """Sums over the cells of each group. Those of genes (q, l, h, v) are large and lie in a file without a name."""

    def __init__(self, names: list[str], config: EmbeddingConfig, file: IO[bytes]) -> None:
        shape = (len(names), config.layers, config.heads)
        self.names = names
        self.genes = np.memmap(file, np.float32, "w+", shape=(*shape, config.genes))
        self.shares = np.zeros((*shape, 3))  # CLS, data set token, unexpressed genes
        self.present = np.zeros((len(names), config.genes), dtype=np.int64)
        self.cells = np.zeros(len(names), dtype=np.int64)


def cls_attention(
    request: EmbedRequest,
    group_key: str | None = None,
    output: Path | None = None,
    on_progress: OnProgress = silent,
    loaded: LoadedEmbedding | None = None,
    *,
    cells_a_group: int = 256,
    groups: tuple[str, ...] = (),
) -> ClsAttention:
    """Average what CLS attends to.

    Args:
        request: data set and model, as for `embed`.
        group_key: obs column of the groups; None takes all cells as one.
        output: a .npz (see `load_cls_attention`) or a .csv of the top genes; it appears only when complete. None writes nothing.
        on_progress: called once a forward pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already.
        cells_a_group: most cells averaged in a group, drawn by the request's seed.
        groups: labels to average; empty for all.

    Raises:
        LabelError: no such column or label.
        RequestError: too many groups, or the output is neither .npz nor .csv.
        DataError, ModelError, DeviceError: what each says.
    """
    if output is not None and output.suffix not in (".npz", ".csv"):
        raise RequestError(f"{output.name} cannot be written.", "It must end in .npz or .csv.")
    if output is not None:
        free_output(output, request.data, request.model)
    dataset = open_dataset(Path(request.data), request.choices)
    rows = _rows_of_groups(dataset, group_key, groups, cells_a_group, request.seed)
    device = choose_device(request.device)
    if loaded is None:
        on_progress(Progress("Loading the model"))
        loaded = load_embedding(Path(request.model), device.kind, dtype_of(request.precision), request.checkpoint)
    maker = sentence_maker(dataset, loaded.card, gene_map_of(dataset, loaded.card), request.seed)
    runner = EmbeddingRunner(loaded.module, request.batch_size)
    total, done = sum(map(len, rows.values())), 0
    about = {"request": to_plain(request), "group_key": group_key, "model": loaded.card.weights_hash}
    with scratch_folder() as folder, (folder / "sums").open("w+b") as file:
        sums = _Sums(list(rows), loaded.card.config, file)
        for at, cells in enumerate(rows.values()):
            for part in runner.run(stream(dataset, maker, Timing(), cells), attention=True):
                _add(part, sums, at)
                on_progress(Progress("Averaging attention", done + int(sums.cells[at]), total))
            done += len(cells)
        made = _together(sums, loaded.card.vocabulary, about)
    if output is not None:
        with replacing(output) as beside:
            made.save(beside) if output.suffix == ".npz" else made.table().to_csv(beside, index=False)
    return made


def _rows_of_groups(
    dataset: Dataset, group_key: str | None, wanted: tuple[str, ...], most: int, seed: int
) -> dict[str, np.ndarray]:
    """Row numbers of each group, ascending; at most `most`, drawn by the seed."""
    if group_key is None:
        labels = np.full(dataset.n_cells, keys.ALL)
    elif group_key in dataset.columns:
        # code -1, a missing label, becomes the empty name in front
        column = dataset.columns[group_key]
        labels = np.array(["", *map(str, column.categories)])[np.asarray(column.codes, dtype=np.int64) + 1]
    else:
        known = listed(list(dataset.columns), 10) or "none"
        raise LabelError(f"There is no column '{group_key}' of labels.", f"There are: {known}.", "Choose one of them.")
    present = sorted(set(labels.tolist()) - {""})
    unknown = [label for label in wanted if label not in present]
    if unknown:
        raise LabelError(
            f"No cell of '{group_key}' is labelled {listed(unknown)}.",
            f"Labels are {listed(present, 10)}.",
            may_be(near_each(unknown, present)),
        )
    names = list(wanted) or present
    if len(names) > MOST_GROUPS:
        raise RequestError(f"'{group_key}' has {len(names):,} groups.", f"At most {MOST_GROUPS} are averaged.", "Choose some.")
    rows = {}
    for number, name in enumerate(names):
        cells = np.flatnonzero(labels == name)
        rng = np.random.default_rng([seed, number])
        rows[name] = np.sort(rng.permutation(cells)[:most])
    return rows


def _add(part: Embedded, sums: _Sums, at: int) -> None:
    """Add some cells of group number `at`, genes by their row in the vocabulary."""
    # a sentence is CLS, then the expressed genes, then genes without expression that fill it up
    rows, genes = part.sentences.rows, sums.present.shape[1]
    width = rows.shape[1]
    places = np.arange(width)
    expressed = (places > 0) & (places <= part.sentences.expressed[:, None])
    filling = (places > 0) & ~expressed
    found = rows[expressed]
    sums.present[at] += np.bincount(found, minlength=genes)
    sums.cells[at] += len(rows)
    # head by head: `bincount` weighs one number for each token, and (m, v) maps would be far larger than the sentences
    for layer, seen in enumerate(part.cls_attention):  # (m, h, t)
        for head in range(seen.shape[1]):
            weights = seen[:, head]
            sums.genes[at, layer, head] += np.bincount(found, weights[:, :width][expressed], genes).astype(np.float32)
            # positions behind the sentence are the data set token
            shares = (weights[:, 0].sum(), weights[:, width:].sum(), weights[:, :width][filling].sum())
            sums.shares[at, layer, head] += shares


def _together(sums: _Sums, vocabulary: tuple[str, ...], about: Mapping[str, object]) -> ClsAttention:
    """Means, of the genes that are among the first in any group, layer and head, or in the mean over all."""
    there = np.flatnonzero(sums.cells)
    if not len(there):
        raise RequestError("There is nothing to average.", "No cell of these groups expresses a gene that the model knows.")
    # group by group, since the sums of all groups lie in a file because they need not fit in memory
    kept = np.zeros(len(vocabulary), dtype=bool)
    for at in there:
        heads = np.asarray(sums.genes[at]).reshape(-1, len(vocabulary))
        kept[_largest(heads, TOP_A_HEAD)] = True
        kept[_largest(heads.mean(axis=0)[None], TOP)] = True
    genes = np.flatnonzero(kept & (sums.present.sum(axis=0) > 0))
    cells = sums.cells[there]
    attention = np.stack([sums.genes[at][:, :, genes] / sums.cells[at] for at in there]).astype(np.float32)
    shares = (sums.shares[there] / cells[:, None, None, None]).astype(np.float32)
    return ClsAttention(
        groups=np.array([sums.names[at] for at in there]),
        cells=cells,
        genes=np.array(vocabulary)[genes],
        attention=attention,
        present=(sums.present[there][:, genes] / cells[:, None]).astype(np.float32),
        cls=shares[..., 0],
        dataset=shares[..., 1],
        unexpressed=shares[..., 2],
        about=about,
    )


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Columns of the n largest values of any row."""
    n = min(n, values.shape[1])
    return np.unique(np.argpartition(-values, n - 1, axis=1)[:, :n])
