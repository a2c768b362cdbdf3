"""Which genes CLS attends to, as it lies in a file. No torch: pages read it.

Notation: q groups, l layers, h heads, k genes that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from state_engine.files import parse_json


@dataclass(frozen=True, eq=False)
class ClsAttention:
    """Mean attention of CLS, per group of cells, layer and head. For each of them the genes and the three shares that are no gene
    would sum to one if all genes were kept.

    Args:
        groups: (q,) labels.
        cells: (q,) cells averaged in each group.
        genes: (k,) gene names, as the model knows them.
        attention: (q, l, h, k) mean over the group's cells of the attention to the gene where it is expressed, else 0.
        present: (q, k) part of the group's cells whose sentence has the gene, expressed.
        cls, dataset, unexpressed: (q, l, h) mean attention to CLS itself, to the data set token, and to all genes that only fill
            up the sentence.
        about: model, data, grouping.
    """

    groups: np.ndarray
    cells: np.ndarray
    genes: np.ndarray
    attention: np.ndarray
    present: np.ndarray
    cls: np.ndarray
    dataset: np.ndarray
    unexpressed: np.ndarray
    about: Mapping[str, object]

    @property
    def layers(self) -> int:
        return int(self.attention.shape[1])

    @property
    def heads(self) -> int:
        return int(self.attention.shape[2])

    def top(self, group: str, layer: int | None = None, head: int | None = None, n: int = 20) -> pd.DataFrame:
        """Return the genes with most attention in a group.

        Args:
            group: a label of `groups`.
            layer, head: one of them, from 0; None for the mean over all.
            n: how many genes.

        Returns:
            Columns rank, gene, attention, cells_with_gene (a part of one).
        """
        at = self.groups.tolist().index(group)
        # slices, not numbers, so that layers and heads stay axes and one mean does for all cases
        part = self.attention[at, slice(None) if layer is None else slice(layer, layer + 1)]
        values = part[:, slice(None) if head is None else slice(head, head + 1)].mean(axis=(0, 1))
        # stable: genes with equal attention keep the order of the file, so that a table repeats
        order = np.argsort(-values, kind="stable")[:n]
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(order) + 1),
                "gene": self.genes[order],
                "attention": values[order],
                "cells_with_gene": self.present[at, order],
            }
        )

    def table(self, n: int = 20) -> pd.DataFrame:
        """Return the top n genes of every group, layer and head, and of the mean over all ("mean"): the CSV."""
        parts = []
        for group in self.groups.tolist():
            parts.append(self.top(group, None, None, n).assign(group=group, layer="mean", head="mean"))
            for layer in range(self.layers):
                for head in range(self.heads):
                    parts.append(self.top(group, layer, head, n).assign(group=group, layer=str(layer + 1), head=str(head + 1)))
        whole = pd.concat(parts, ignore_index=True)
        return whole[["group", "layer", "head", "rank", "gene", "attention", "cells_with_gene"]]

    def save(self, path: Path) -> None:
        """Write a .npz that `load_cls_attention` reads."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(path, **arrays, about=np.array(json.dumps(self.about)))


_ARRAYS = ("groups", "cells", "genes", "attention", "present", "cls", "dataset", "unexpressed")


def load_cls_attention(path: Path) -> ClsAttention:
    """Read what `ClsAttention.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return ClsAttention(**{name: file[name] for name in _ARRAYS}, about=parse_json(str(file["about"])))
