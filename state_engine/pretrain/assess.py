"""What an embedding is worth: labels carried over by neighbours, batches mixed, perturbations told apart; beside principal components.

Every number is of cells beside the same number of 50 principal components (log1p of one depth) of the same cells. Neighbours are by
cosine in the embedding's cell part. At most `MOST_CELLS` cells of a data set, drawn by the seed, are tested.

Notation: m cells, e columns of the cell part, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from state_engine.checkpoints.embedding_store import LoadedEmbedding
from state_engine.data.cell_sentences import SentenceMaker
from state_engine.data.expression import normalise
from state_engine.embedding.forward import EmbeddingRunner, Timing, read_sentences
from state_engine.pretrain.run_folder import Measure, Tested
from state_engine.pretrain.sources import Source
from state_engine.progress import OnProgress, Progress

COMPONENTS = 50
MOST_CELLS = 4000
NEIGHBOURS, MIXED_NEIGHBOURS, FOLDS = 15, 30, 5
LEAST_GROUP = 20  # cells of a label, for it to be tested
MOST_CONDITIONS = 30
STAGE = "Testing the embedding"


class Tester:
    """The cells of some data sets, embedded and as principal components.

    Args:
        sources: the data sets.
        loaded: the model.
        seed: of the draws of cells and folds.
        on_progress: told for each data set and test.
    """

    def __init__(self, sources: Sequence[Source], loaded: LoadedEmbedding, seed: int, on_progress: OnProgress) -> None:
        self.sources, self.seed, self.on_progress = tuple(sources), seed, on_progress
        rng = np.random.default_rng([seed, 6])
        self.rows = [np.sort(rng.permutation(s.rows)[:MOST_CELLS]) for s in self.sources]
        self.embedded = []
        for source, rows in zip(self.sources, self.rows, strict=True):
            on_progress(Progress(STAGE, message=f"Embedding {len(rows):,} cells of {source.name}"))
            self.embedded.append(embed_cells(source, rows, loaded, seed))
        self.components = [principal_components([(s, r)], seed) for s, r in zip(self.sources, self.rows, strict=True)]

    def tests(self, columns: Sequence[str]) -> tuple[Tested, ...]:
        """Return all tests that the labels allow; `columns` empty: of contexts, batches and perturbations."""
        found: list[Tested] = []
        for number, source in enumerate(self.sources):
            labels = source.dataset.labels
            wanted = tuple(columns) or tuple(filter(None, (labels.context_key,)))
            for column in wanted:
                found += self._transfer(number, column)
            if labels.batch_key and not columns:
                found += self._mixing(number, labels.batch_key)
            if labels.perturbation_key and not columns:
                found += self._separability(number)
        if len(self.sources) > 1:
            found += self._across(columns)
            found += self._datasets_mixed()
        return tuple(found)

    def _labels(self, number: int, column: str) -> np.ndarray | None:
        held = self.sources[number].dataset.columns.get(column)
        if held is None:
            return None
        names = np.array(["", *map(str, held.categories)], dtype=object)
        return names[np.asarray(held.codes, np.int64) + 1][self.rows[number]]

    def _both(self, number: int, usable: np.ndarray, value: Callable[[np.ndarray], float]) -> tuple[float, float]:
        return value(self.embedded[number][usable]), value(self.components[number][usable])

    def _transfer(self, number: int, column: str) -> list[Tested]:
        labels = self._labels(number, column)
        usable = None if labels is None else _in_groups(labels)
        if labels is None or usable is None:
            return []
        own, source = labels[usable], self.sources[number]
        self.on_progress(Progress(STAGE, message=f"Labels of '{column}' in {source.name}"))
        plain = self._both(number, usable, lambda x: float(np.mean(neighbour_labels(x, own, self.seed) == own)))
        balanced = self._both(number, usable, lambda x: _balanced(neighbour_labels(x, own, self.seed), own))
        names, counts = np.unique(own, return_counts=True)
        first = Tested("label transfer", source.name, column, len(names), len(own), *plain, float(counts.max() / len(own)))
        return [
            first,
            replace(first, measure="balanced label transfer", value=balanced[0], components=balanced[1], chance=1 / len(names)),
        ]

    def _mixing(self, number: int, column: str) -> list[Tested]:
        labels = self._labels(number, column)
        usable = None if labels is None else _in_groups(labels)
        if labels is None or usable is None:
            return []
        own = labels[usable]
        value, components = self._both(number, usable, lambda x: mixing(x, own))
        return [Tested("batch mixing", self.sources[number].name, column, len(set(own)), len(own), value, components, 0.0)]

    def _separability(self, number: int) -> list[Tested]:
        source = self.sources[number]
        labels, control = source.dataset.labels, source.dataset.labels.control
        perturbations = self._labels(number, str(labels.perturbation_key))
        if perturbations is None or control is None:
            return []
        contexts = self._labels(number, labels.context_key) if labels.context_key else np.full(len(perturbations), "all", object)
        assert contexts is not None
        conditions = []
        for context in sorted(set(contexts)):
            for name in sorted(set(perturbations[contexts == context]) - {control, ""}):
                there = (contexts == context) & np.isin(perturbations, [name, control])
                yes = perturbations[there] == name
                if min(yes.sum(), (~yes).sum()) >= LEAST_GROUP:
                    conditions.append((int(yes.sum()), np.flatnonzero(there), yes))
        chosen = sorted(conditions, key=lambda one: -one[0])[:MOST_CONDITIONS]
        if not chosen:
            return []
        self.on_progress(Progress(STAGE, message=f"Perturbations of {source.name} against control"))
        values = [
            [auroc(x[at], yes, self.seed) for _, at, yes in chosen] for x in (self.embedded[number], self.components[number])
        ]
        one, other = (float(np.mean(found)) for found in values)
        column = str(labels.perturbation_key)
        return [
            Tested("perturbation separability", source.name, column, len(chosen), sum(len(c[1]) for c in chosen), one, other, 0.5)
        ]

    def _across(self, columns: Sequence[str]) -> list[Tested]:
        """Labels of each data set by neighbours in all the others, for those that both have."""
        together = self._joint_components()
        found = []
        for number, source in enumerate(self.sources):
            wanted = tuple(columns) or tuple(filter(None, (source.dataset.labels.context_key,)))
            for column in wanted:
                each = [self._labels(n, column) for n in range(len(self.sources))]
                own = each[number]
                others = [n for n, held in enumerate(each) if n != number and held is not None]
                if own is None or not others:
                    continue
                known = np.concatenate([each[n] for n in others])
                asked = np.isin(own, list(set(known) - {""})) & (own != "")
                if not asked.any():
                    continue
                value, components = (
                    float(np.mean(vote(np.concatenate([parts[n] for n in others]), known, parts[number][asked]) == own[asked]))
                    for parts in (self.embedded, together)
                )
                names, counts = np.unique(own[asked], return_counts=True)
                chance = float(counts.max() / asked.sum())
                found.append(
                    Tested(
                        "transfer across data sets", source.name, column, len(names), int(asked.sum()), value, components, chance
                    )
                )
        return found

    def _datasets_mixed(self) -> list[Tested]:
        names = np.concatenate([np.full(len(r), s.name, object) for s, r in zip(self.sources, self.rows, strict=True)])
        value, components = (mixing(np.concatenate(parts), names) for parts in (self.embedded, self._joint_components()))
        return [Tested("batch mixing", "all", "data set", len(self.sources), len(names), value, components, 0.0)]

    def _joint_components(self) -> list[np.ndarray]:
        pairs = list(zip(self.sources, self.rows, strict=True))
        whole = principal_components(pairs, self.seed)
        return np.split(whole, np.cumsum([len(r) for r in self.rows])[:-1])


def embed_cells(source: Source, rows: np.ndarray, loaded: LoadedEmbedding, seed: int) -> np.ndarray:
    """Return the cell parts (m, e) of some cells of a data set."""
    config = loaded.card.config
    maker = SentenceMaker(source.genes, source.dataset.scale.require(), config.tokens, config.cls_gene, seed)
    found = np.zeros((len(rows), config.output_dim), np.float32)
    for part in EmbeddingRunner(loaded.module).run(read_sentences(source.dataset, maker, rows, Timing())):
        found[np.searchsorted(rows, part.sentences.cells)] = part.embedding[:, : config.output_dim]
    return found


def principal_components(pairs: Sequence[tuple[Source, np.ndarray]], seed: int) -> np.ndarray:
    """Return principal components of cells, all files' one below the other, over the genes that all of them have: (m, 50)."""
    from sklearn.decomposition import PCA

    common = pairs[0][0].genes.rows
    for source, _ in pairs[1:]:
        common = np.intersect1d(common, source.genes.rows)
    blocks = []
    for source, rows in pairs:
        values = sp.csr_matrix(source.dataset.read_stored(source.expression, rows))
        logged = normalise(values) if source.dataset.scale.scale == "counts" else values
        columns = source.genes.columns[np.searchsorted(source.genes.rows, common)]
        blocks.append(sp.csr_matrix(logged)[:, columns].toarray())
    whole = np.concatenate(blocks)
    wanted = min(COMPONENTS, *(n - 1 for n in whole.shape))
    return PCA(max(1, wanted), svd_solver="randomized", random_state=seed % 2**32).fit_transform(whole).astype(np.float32)


def vote(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Return the label that most of the k nearest known cells have, ties by name: (n, e), (n,), (m, e) -> (m,)."""
    near = _nearest(known, asked, k)
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    votes = np.stack([(codes[near] == code).sum(axis=1) for code in range(len(names))], axis=1)
    return names[votes.argmax(axis=1)].astype(object)


def neighbour_labels(x: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the labels that cells get from neighbours in other folds: each fifth of the cells from the rest."""
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(len(labels), dtype=object)
    for rest, out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(x, labels.astype(str)):
        found[out] = vote(x[rest], labels[rest], x[out])
    return found


def mixing(x: np.ndarray, batches: np.ndarray, k: int = MIXED_NEIGHBOURS) -> float:
    """Return how far the batches among a cell's neighbours are as mixed as in all cells: 0 one batch alone, 1 as in all.

    The mean inverse Simpson index of the batches among k neighbours (LISI without its weights), on the scale from 1 to the index of
    all cells.
    """
    codes = np.unique(batches.astype(str), return_inverse=True)[1]
    near = _nearest(x, x, k + 1)[:, 1:]
    shares = np.stack([(codes[near] == code).mean(axis=1) for code in range(codes.max() + 1)], axis=1)
    whole = 1 / np.square(np.bincount(codes) / len(codes)).sum()
    return float(((1 / np.square(shares).sum(axis=1)) - 1).mean() / (whole - 1))


def auroc(x: np.ndarray, yes: np.ndarray, seed: int) -> float:
    """Return how well logistic regression tells two groups apart: area under the curve over cells left out of each fifth."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    scores = cross_val_predict(model, x, yes, cv=folds, method="decision_function")
    return float(roc_auc_score(yes, scores))


def _nearest(known: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """(m, k) places of the nearest by cosine, the nearest first; in blocks."""
    unit = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12)
    others = asked / np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-12)
    k = min(k, len(known))
    found = []
    for start in range(0, len(others), 512):
        likeness = others[start : start + 512] @ unit.T
        best = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def _in_groups(labels: np.ndarray) -> np.ndarray | None:
    """Cells whose label has `LEAST_GROUP` cells, when there are two such labels."""
    names, counts = np.unique(labels.astype(str), return_counts=True)
    large = [name for name, n in zip(names, counts, strict=True) if name and n >= LEAST_GROUP]
    return np.flatnonzero(np.isin(labels.astype(str), large)) if len(large) > 1 else None


def _balanced(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([np.mean(found[right == name] == name) for name in np.unique(right.astype(str))]))


MEASURES: dict[Measure, str] = {
    "label transfer": "cells whose label the 15 nearest cells of other folds name",
    "balanced label transfer": "the same, the mean over labels",
    "transfer across data sets": "cells whose label the 15 nearest cells of the other data sets name",
    "batch mixing": "batches among 30 neighbours: 0 one alone, 1 as mixed as in all cells",
    "perturbation separability": "area under the curve of logistic regression against control, the mean over conditions",
}
