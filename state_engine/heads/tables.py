"""What a head called of the test cells, as tables: each cell, each label, each pair of labels, and the cells called wrongly.

Notation: m test cells, k labels.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics as sk

from state_engine.data.dataset import Dataset
from state_engine.heads.metrics import areas_fit
from state_engine.heads.report import LabelCount, WrongCell
from state_engine.heads.split import Division
from state_engine.heads.targets import Targets, Truth

MOST_WRONG = 200
MOST_IN_MATRIX = 500  # labels up to which a report has the table of true beside called labels, which grows with their square
JOIN = "; "


def cell_table(
    dataset: Dataset, targets: Targets, parts: Division, called: NDArray[np.float64], places: NDArray[np.float32]
) -> pd.DataFrame:
    """Return the test cells: cell, row, part, group, truth, called, probability (of a regression none), map_1, map_2 (`places`)."""
    rows = targets.rows[parts.test]
    truth, said, probability = _words(targets, targets.values[parts.test], called)
    table = pd.DataFrame({
        "cell": dataset.obs_names[rows], "row": rows, "part": "test", "group": parts.groups[parts.test], "truth": truth, "called": said,
    })  # fmt: skip
    table = table if probability is None else table.assign(probability=probability)
    return table.assign(map_1=places[:, 0], map_2=places[:, 1])


def places_of(read: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return where cells lie on a map, (m, 2): the first two principal components of what the head reads of them, (m, w)."""
    from sklearn.decomposition import PCA

    wanted = min(2, *read.shape)
    found = np.zeros((len(read), 2), np.float32)
    if len(read) > 1:
        found[:, :wanted] = PCA(wanted, svd_solver="randomized", random_state=seed % 2**32).fit_transform(read)
    return found


def _words(
    targets: Targets, truth: Truth, called: NDArray[np.float64]
) -> tuple[list[object], list[object], NDArray[np.float64] | None]:
    """Truth, what is called, and the probability of it (of several labels: that of the least certain of them)."""
    names = np.array(targets.labels, object)
    if targets.task == "regression":
        return list(truth.tolist()), list(called.tolist()), None
    if targets.task == "classification":
        return list(names[truth.astype(int)]), list(names[called.argmax(1)]), called.max(1)
    said: list[object] = [JOIN.join(names[row >= 0.5]) for row in called]
    true: list[object] = [JOIN.join(names[row == 1]) for row in truth]
    return true, said, np.maximum(called, 1 - called).min(1)


def wrong_cells(
    targets: Targets, parts: Division, table: pd.DataFrame, called: NDArray[np.float64]
) -> tuple[tuple[WrongCell, ...], int]:
    """Return the test cells called wrongly, the most confident first (of a regression the farthest off), and how many there are."""
    if targets.task == "regression":
        off = np.abs(called - targets.values[parts.test].astype(float))
        order = np.argsort(-off, kind="stable")
        n_wrong = 0
    else:
        wrong = np.flatnonzero((table["truth"] != table["called"]).to_numpy())
        order = wrong[np.argsort(-table["probability"].to_numpy()[wrong], kind="stable")]
        n_wrong = len(wrong)
    found = []
    for row in table.iloc[order[:MOST_WRONG]].to_dict("records"):
        true, said = _short(row["truth"]), _short(row["called"])
        chance = row.get("probability")
        sure = None if chance is None else float(chance)
        found.append(WrongCell(str(row["cell"]), int(row["row"]), str(row["group"]), true, said, sure))
    return tuple(found), n_wrong


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def confusion_of(targets: Targets, truth: Truth, called: NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
    """Return test cells by true label (rows) and called label; nothing unless each cell has one label, of `MOST_IN_MATRIX` at most."""
    if targets.task != "classification" or len(targets.labels) > MOST_IN_MATRIX:
        return ()
    table = sk.confusion_matrix(truth, called.argmax(1), labels=np.arange(len(targets.labels)))
    return tuple(tuple(int(n) for n in row) for row in table)


def left_out(targets: Targets, called: NDArray[np.float64]) -> tuple[str, ...]:
    """Return sentences about what a report lacks where there are very many labels."""
    if targets.task == "regression":
        return ()
    k, said = len(targets.labels), list[str]()
    if k > MOST_IN_MATRIX:
        said.append(
            f"There are {k:,} labels: the table of true beside called labels is left out (it has {MOST_IN_MATRIX:,} at most). Each label's "
            f"numbers are in the report, every test cell in cells.csv."
        )
    if not areas_fit(called):
        said.append(f"AUROC has no interval: {len(called):,} test cells and {k:,} labels would take too much memory.")
    return tuple(said)


def label_counts(targets: Targets, parts: Division, called: NDArray[np.float64]) -> tuple[LabelCount, ...]:
    """Return for each label its cells in each part, and how well it is called in the test."""
    if targets.task == "regression":
        return ()
    # a label at a time: a table of all cells by all labels would not fit into memory with thousands of labels
    several, best = targets.task == "multi-label", called.argmax(1)
    found = []
    for j, name in enumerate(targets.labels):
        has = targets.values[:, j] == 1 if several else targets.values == j
        said = called[:, j] >= 0.5 if several else best == j
        truth = has[parts.test]
        train, validation, test = (int(has[part].sum()) for part in (parts.train, parts.validation, parts.test))
        precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, said, average="binary", zero_division=0.0)
        two_sided = 0 < truth.sum() < len(truth)
        area = float(sk.roc_auc_score(truth, called[:, j])) if two_sided else None
        known = (None if not said.any() else float(precision), float(recall), float(f1)) if test else (None, None, None)
        found.append(LabelCount(name, train, validation, test, known[0], known[1], known[2], area))
    return tuple(found)
