"""What stands beside a head, on the same cells and the same parts: regression on principal components, and a vote of near labelled cells.

Both by scikit-learn. The genes and components are chosen on the training cells alone.

Notation: m cells, k labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, hvg_choice, iter_features, match_genes
from state_engine.errors import StateError
from state_engine.heads.request import FinetuneRequest
from state_engine.heads.split import Division
from state_engine.heads.targets import Targets

MOST_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class Called:
    """What a baseline calls the test cells: probabilities (m, k) or numbers (m,), None where it could not be fitted; `note` says how."""

    name: str
    note: str
    values: NDArray[np.float64] | None


def regression(
    request: FinetuneRequest, dataset: Dataset, targets: Targets, parts: Division, vectors: NDArray[np.float32]
) -> Called:
    """Logistic (labels) or ridge (numbers) regression on principal components of the cells' expression.

    Args:
        vectors: (m, w) of the labelled cells, for data sets without expression.
    """
    name = "ridge regression" if targets.task == "regression" else "logistic regression"
    fitted = np.sort(np.concatenate([parts.train, parts.validation]))  # it has no early stopping, so it may learn from both
    try:
        values, what = _expression(request, dataset, targets.rows, targets.rows[fitted])
    except StateError as error:
        values, what = vectors, f"the head's own vectors, since the expression cannot be read ({error.what})"
    n = min(request.components, len(fitted) - 1, values.shape[1])
    title = f"{name} on {n} PCs"
    pca = PCA(n, random_state=request.seed).fit(values[fitted])
    components = pca.transform(values)
    note = f"scikit-learn, on {n} principal components of {what}; fitted on training and validation cells."
    truth = targets.values[fitted]
    if targets.task == "regression":
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
        return Called(title, note, model.fit(components[fitted], truth).predict(components[parts.test]))
    weight = "balanced" if request.class_weights else None
    logistic = LogisticRegression(max_iter=MOST_ITERATIONS, class_weight=weight)
    if targets.task == "multi-label":
        model = make_pipeline(StandardScaler(), OneVsRestClassifier(logistic))
        found = np.asarray(model.fit(components[fitted], truth).predict_proba(components[parts.test]))
        return Called(title, note, found if found.ndim == 2 else found[:, None])
    model = make_pipeline(StandardScaler(), logistic)
    model.fit(components[fitted], truth)
    return Called(title, note, _placed(model.predict_proba(components[parts.test]), model.classes_, len(targets.labels)))


def neighbours(request: FinetuneRequest, targets: Targets, parts: Division, vectors: NDArray[np.float32]) -> Called:
    """Vote of the nearest labelled cells, for labels only.

    Args:
        vectors: (m, w) of the labelled cells, standardised as the head reads them.
    """
    fitted = np.sort(np.concatenate([parts.train, parts.validation]))
    fitted = fitted[np.isfinite(vectors[fitted]).all(1)]
    k = min(request.neighbours, len(fitted))
    name = f"vote of {k} neighbours"
    note = (
        f"scikit-learn, the {k} nearest training and validation cells by the head's vectors (standardised), each with one vote."
    )
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(k))
    model.fit(vectors[fitted], targets.values[fitted])
    there = vectors[parts.test]
    found = model.predict_proba(there)
    if targets.task == "multi-label":
        classes = model.classes_
        columns = [_placed(p, c, 2)[:, 1] for p, c in zip(found, classes, strict=True)]
        return Called(name, note, np.stack(columns, 1))
    return Called(name, note, _placed(found, model.classes_, len(targets.labels)))


def _expression(
    request: FinetuneRequest, dataset: Dataset, rows: NDArray[np.int64], fitted: NDArray[np.int64]
) -> tuple[NDArray[np.float32], str]:
    count = min(request.variable_genes, len(set(dataset.genes.names)))
    chosen = hvg_choice(dataset, count, cells=np.sort(fitted))
    columns = tuple(int(i) for i in match_genes(dataset, chosen.names).columns)
    source = FeatureSource(str(dataset.expression), columns, dataset.scale.require() == "counts", 0)
    values = np.concatenate([block for _, block in iter_features(dataset, source, rows)])
    return values, f"log1p expression of {count:,} variable genes"


def _placed(found: NDArray[np.float64], classes: NDArray[np.generic], k: int) -> NDArray[np.float64]:
    """Probabilities of the labels that were fitted, at their places among all k."""
    values = np.zeros((len(found), k))
    values[:, np.asarray(classes, int)] = found
    return values
