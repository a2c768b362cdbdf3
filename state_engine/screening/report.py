"""What a screen found, as plain values and files. Read by pages and the command line; no torch.

The folder of a screen holds

    screen.json       `ScreenReport`
    ranking.csv       a row for each perturbation and context, best first, with the columns `COLUMNS`
    effects.h5ad      perturbation x context by genes: X difference of mean log1p expression, layers["log2_fold_change"]
    similarity.npz    `Similarity`: correlation of the mean effects of perturbations, in the order of their clustering
    shards/           the predictions (`screening.shards`), which a screen by another goal can use again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine.analysis.resemblance import Resemblance
from state_engine.effects.exposure import TrainedOn
from state_engine.errors import RunError, door
from state_engine.files import replacing
from state_engine.plain import agreed, plural, read_json_as
from state_engine.screening.request import Goal
from state_engine.screening.signature import goal_places

REPORT: Final = "screen.json"
RANKING: Final = "ranking.csv"
EFFECTS: Final = "effects.h5ad"
SIMILARITY: Final = "similarity.npz"
FORMAT: Final = 1
Seen = Literal["both", "context only", "perturbation only", "neither", "not known"]
Made = Literal["predicted", "additive assumption"]
COLUMNS: Final = (
    "rank", "perturbation", "context", "score", "p", "q", "seen", "in_training", "made", "effect_size", "genes_up", "genes_down", "before",
    "after",
)  # fmt: skip
AGAIN: Final = "Run the screen again."
SCORES: Final[dict[Goal, str]] = {
    "signature": "Pearson correlation (-1 to 1, no unit) of the predicted effect with the goal's genes, over all genes of the model: 1 for a gene "
    "that is to go up, -1 for one that is to go down, 0 for all others",
    "explanation": "Pearson correlation (-1 to 1, no unit) of predicted and measured log2 fold changes, over the genes of the table",
    "target cells": "share of the energy distance to the target cells that is gone: 1 on the target, 0 no nearer, below 0 further off",
    "head": "mean probability of the label in predicted cells minus that in their basal cells (-1 to 1)",
    "effect size": "Euclidean length of the mean effect over all genes, log1p units",
}
"""What the score of each goal is, with its unit."""


@dataclass(frozen=True)
class ScreenReport:
    """What a screen found.

    Args:
        format: of this file.
        goal: what was ranked by.
        goal_words: the same with its names, for people.
        model, model_id, data: names, and the model's id.
        contexts: that were screened.
        perturbations, cells, sample, splits: how many; the last two of each condition and of each context.
        found: predicted conditions with q under 0.05.
        best: perturbation and context of the first row; "" twice where there is none.
        genes: of the model. matched: of the goal, that are among them. missing: that are not.
        kind: of prediction, see `keys.X_KIND`.
        blocks, done_before: shards, and those that an earlier attempt had completed.
        resemblance: how alike effects are; None where it cannot be said.
        simulated: the model was trained on simulated cells.
        device, seconds: where, and how long it took.
        versions: of packages.
        remarks: sentences worth showing.
    """

    format: int
    goal: Goal
    goal_words: str
    model: str
    model_id: str
    data: str
    contexts: tuple[str, ...]
    perturbations: int
    cells: int
    sample: int
    splits: int
    found: int
    best: tuple[str, str]
    genes: int
    matched: int
    missing: tuple[str, ...]
    kind: str
    blocks: int
    done_before: int
    resemblance: Resemblance | None
    simulated: bool
    device: str
    seconds: float
    versions: dict[str, str]
    remarks: tuple[str, ...]

    def words(self) -> str:
        """Return what was found in a sentence."""
        n = self.perturbations * len(self.contexts)
        conditions = plural(n, "condition")
        if self.goal == "effect size":
            return f"{self.best[0]} in {self.best[1]} has the largest predicted effect of {conditions}."
        if not self.found:
            return f"None of {conditions} does it: no score is above what control cells reach among themselves (FDR 5 %)."
        best = f"The best is {self.best[0]} in {self.best[1]}."
        found = f"{self.found:,} of {conditions} {agreed(self.found, 'scores', 'score')}"
        return f"{found} above what control cells reach among themselves (FDR 5 %). {best}"


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the effects of perturbations are.

    Args:
        perturbations: (k,) in the order of the clustering.
        r: (k, k) float32 Pearson correlation of their effects, each the mean over contexts; NaN for an effect that is the same everywhere.
    """

    perturbations: tuple[str, ...]
    r: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the file; it appears only when complete."""
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, perturbations=np.array(self.perturbations, str), r=self.r)


def load_similarity(path: Path) -> Similarity:
    """Return the similarity of a screen.

    Raises:
        RunError: the file is missing or damaged.
    """
    with door(path.name, RunError, AGAIN), np.load(path, allow_pickle=False) as stored:
        return Similarity(tuple(stored["perturbations"].tolist()), stored["r"])


def read_screen(folder: Path) -> ScreenReport | None:
    """Return the report of a screen's folder; None while there is none.

    Raises:
        RunError: the file is damaged.
    """
    return read_json_as(ScreenReport, folder / REPORT, "screen", AGAIN)


def read_ranking(path: Path) -> pd.DataFrame:
    """Return the ranking of a screen, with the columns `COLUMNS`.

    Raises:
        RunError: the file is missing or damaged.
    """
    with door(path.name, RunError, AGAIN):
        # labels are text whatever they look like: a perturbation may be called "NA" or "7"
        words = ("perturbation", "context", "seen", "in_training", "made")
        table = pd.read_csv(path, dtype=dict.fromkeys(words, str), keep_default_na=False, na_values=[""])
        table[list(words)] = table[list(words)].fillna("")
        return table[list(COLUMNS)]


def read_condition(path: Path, perturbation: str, context: str) -> pd.DataFrame:
    """Return the genes of a screened condition: gene, effect (log1p), log2_fold_change; the largest change first.

    Args:
        path: effects.h5ad.
        perturbation, context: the condition.

    Raises:
        RunError: the file is missing or damaged, or has no such condition.
    """
    import anndata as ad

    with door(path.name, RunError, AGAIN):
        cells = ad.read_h5ad(path, backed="r")
        chosen = ((cells.obs["perturbation"] == perturbation) & (cells.obs["context"] == context)).to_numpy()
        rows = np.flatnonzero(chosen)
        values = [np.asarray(part[rows[:1]])[0] for part in (cells.X, cells.layers["log2_fold_change"])] if len(rows) else []
        genes = list(cells.var_names)
        cells.file.close()
    if not values:
        raise RunError(f"{path.name} has no {perturbation} in {context}.", "", "Choose a row of the ranking.")
    table = pd.DataFrame({"gene": genes, "effect": values[0], "log2_fold_change": values[1]})
    return table.sort_values("log2_fold_change", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def read_changes(path: Path, conditions: Sequence[tuple[str, str]], genes: Sequence[str]) -> pd.DataFrame:
    """Return predicted log2 fold changes of the genes of a goal, a row a condition: perturbation, context, then a column a gene.

    Args:
        path: effects.h5ad.
        conditions: (perturbation, context), in the order of the rows; those that the screen does not have are left out.
        genes: in the order of the columns; those that the model does not predict are left out (`signature.goal_places`).

    Raises:
        RunError: the file is missing or damaged.
    """
    import anndata as ad

    with door(path.name, RunError, AGAIN):
        cells = ad.read_h5ad(path, backed="r")
        pairs = zip(cells.obs["perturbation"].astype(str), cells.obs["context"].astype(str), strict=True)
        row_of = {pair: row for row, pair in enumerate(pairs)}
        known = [pair for pair in dict.fromkeys(conditions) if pair in row_of]
        wanted = np.array([row_of[pair] for pair in known], np.int64)
        rows, back = np.unique(wanted, return_inverse=True)  # a file is read in its own order
        places = goal_places(dict.fromkeys(genes), list(cells.var_names))
        values = np.asarray(cells.layers["log2_fold_change"][rows])[back][:, list(places.values())]
        cells.file.close()
    names = pd.DataFrame(known, columns=["perturbation", "context"], dtype=object)
    return pd.concat([names, pd.DataFrame(values, columns=list(places))], axis=1)


def seen_of(trained: TrainedOn | None) -> Seen:
    """Return whether the context and the perturbation of a condition were in the training, each by itself."""
    if trained is None:
        return "not known"
    if trained.context and trained.perturbation:
        return "both"
    return "context only" if trained.context else "perturbation only" if trained.perturbation else "neither"
