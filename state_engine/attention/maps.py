"""Attention maps as they lie in a run folder. No torch: pages read them. Notation: l layers, h heads, s cells in the set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.files import parse_json
from state_engine.plain import distinct


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of one set, as `state_engine.attention.cell_set.attention_of_set` writes them.

    Args:
        perturbed, control: (l, h, s, s) weights; row i says what cell i attends to and sums to one (over cells and tokens).
        cells: (s,) barcodes of the basal cells, in the order of rows and columns.
        batches: (s,) their batches.
        basal: (s, g) float16 features that went in, for distances and for sorting by a gene.
        genes: names of the features, or "feature 0"…
        token_share: (l, h) mean weight on the batch or confidence token, not on cells.
        mode: the attention mode.
        rows: (s,) rows of the cells in the data set, since names may repeat; None in files of before 30 November 2026.
    """

    perturbed: np.ndarray
    control: np.ndarray
    cells: np.ndarray
    batches: np.ndarray
    basal: np.ndarray
    genes: np.ndarray
    token_share: np.ndarray
    mode: str
    rows: np.ndarray | None = None

    @property
    def identities(self) -> np.ndarray:
        """(s,) what tells the cells apart: their rows, or their names where rows are not known."""
        return self.cells if self.rows is None else self.rows


def load_maps(path: Path) -> AttentionMaps:
    """Return the maps of a file."""
    with np.load(path, allow_pickle=False) as file:
        about = parse_json(str(file["about"]))
        return AttentionMaps(
            file["perturbed"],
            file["control"],
            file["cells"],
            file["batches"],
            # stored as float16 to save space; float32 here, because distances may overflow and do round in half precision
            file["basal"].astype(np.float32),
            np.array(distinct(file["genes"].tolist(), "feature")),
            file["token_share"],
            about["mode"],
            file.get("rows"),
        )


def maps_name(perturbation: str, context: str, number: int) -> str:
    """Return the file name of a set's maps in its run's folder."""
    digest = hashlib.sha256(json.dumps([perturbation, context, number]).encode()).hexdigest()[:16]
    return f"attention-{digest}.npz"
