"""The predictions of a screen: a shard of the ledger (`state_engine.shards.ledger`) for the control cells of each context, and one for each
context and block of perturbations.

    shards/NNNNN-CHECKSUM.shard   an .h5ad in the layout of a result: the control cells of a context, or the first cells of each condition of a
                                  block and their basal cells; of a block also what all its predicted cells say, in uns (`Block`)
    shards/plan.json              what was predicted (`ScreenKey`); a folder holds one screen

Shards stay when the screen is done, so that another goal can rank them. Notation: k perturbations, g genes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anndata as ad
import h5py
import numpy as np
from numpy.typing import NDArray

from state_engine.errors import ConfigError, RequestError
from state_engine.plain import from_plain, to_plain
from state_engine.shards.in_run import FOLDER
from state_engine.shards.ledger import Ledger, plan_in
from state_engine.shards.plan import Shard

VERB: Final = "screen"
CONTROL: Final = -1  # stands for the number of a block: the control cells of a context
BLOCK, REMARKS = "block", "remarks"  # in uns


@dataclass(frozen=True)
class ScreenKey:
    """What predictions depend on; shards of equal keys hold the same numbers.

    Args:
        data_hash, weights_hash, effects_hash: of the files.
        choices: how the data set is read, as JSON values.
        perturbations, contexts: all of them, in order.
        blocks: perturbations of a block.
        cells, sample, seed, set_size, method, precision: of the request.
        allow_other_embedding: of the request.
        names: the model's `model_id`, which tells labels of the same weights apart; "" in screens of before.
        format: of the files; 1 had files of their own, see `screening.before`.
    """

    data_hash: str
    weights_hash: str
    effects_hash: str
    choices: str
    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    blocks: int
    cells: int
    sample: int
    seed: int
    set_size: int
    method: str
    precision: str
    allow_other_embedding: bool
    names: str = ""
    format: int = 2

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Perturbations of each block."""
        return [self.perturbations[i : i + self.blocks] for i in range(0, len(self.perturbations), self.blocks)]


@dataclass(frozen=True, eq=False)
class Block:
    """Effects of a shard.

    Args:
        perturbations: (k,).
        effects: (k, g) float32 difference of mean log1p expression.
        folds: (k, g) float32 log2 fold changes.
        up, down: (k,) genes that change.
    """

    perturbations: tuple[str, ...]
    effects: NDArray[np.float32]
    folds: NDArray[np.float32]
    up: NDArray[np.int64]
    down: NDArray[np.int64]


class ScreenShards:
    """The shards of a screen that are done.

    Args:
        ledger: of its plan.
        key: what is predicted.
    """

    def __init__(self, ledger: Ledger, key: ScreenKey) -> None:
        self.ledger, self.key = ledger, key

    @property
    def blocks(self) -> list[tuple[str, ...]]:
        """Perturbations of each block."""
        return self.key.labels

    @property
    def controls(self) -> tuple[Shard, ...]:
        """The shards of control cells."""
        return self.ledger.plan.shards[: len(self.key.contexts)]

    def place(self, context: str, block: int) -> Path:
        """Return the file of a shard."""
        return self.ledger.done[number_of(self.key, context, block)].path

    def sample(self, context: str, block: int) -> ad.AnnData:
        """Return the cells of a shard."""
        return ad.read_h5ad(self.place(context, block))

    def read_context(self, context: str) -> Block:
        """Return the effects of all perturbations in a context."""
        parts = []
        for block in range(len(self.blocks)):
            with h5py.File(self.place(context, block)) as file:
                parts.append(ad.io.read_elem(file[f"uns/{BLOCK}"]))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in ("effects", "folds", "up", "down")}
        return Block(tuple(str(p) for part in parts for p in part["perturbations"]), **joined)

    def remarks(self) -> tuple[str, ...]:
        """Return what was said of the blocks, each sentence once."""
        found: dict[str, None] = {}
        for number in range(len(self.controls), len(self.ledger.plan.shards)):
            with h5py.File(self.ledger.done[number].path) as file:
                found |= dict.fromkeys(json.loads(ad.io.read_elem(file[f"uns/{REMARKS}"])))
        return tuple(found)


def number_of(key: ScreenKey, context: str, block: int) -> int:
    """Return the number of a shard: control cells first, then the blocks of one context after the other."""
    at = key.contexts.index(context)
    return at if block == CONTROL else len(key.contexts) + at * len(key.labels) + block


def with_block(cells: ad.AnnData, found: Block, remarks: Sequence[str]) -> ad.AnnData:
    """Note in some cells of a block what all of its cells say."""
    cells.uns[BLOCK] = {
        "perturbations": np.array(found.perturbations, object), "effects": found.effects, "folds": found.folds, "up": found.up,
        "down": found.down,
    }  # fmt: skip
    cells.uns[REMARKS] = json.dumps(list(remarks))
    return cells


def key_in(output: Path) -> ScreenKey | None:
    """Return what the screen in a folder predicts; None where there is none."""
    plan = plan_in(output / FOLDER)
    if plan is None or plan.get("verb") != VERB:
        return None
    try:
        return from_plain(ScreenKey, plan.get("facts"))
    except ConfigError:
        return None


def differences(one: ScreenKey, other: ScreenKey) -> Sequence[str]:
    """Return in what two screens differ, in words."""
    first, second = to_plain(one), to_plain(other)
    return [name.replace("_", " ") for name in first if first[name] != second[name]]


def check_same(there: ScreenKey | None, key: ScreenKey, output: Path) -> None:
    """Make sure that what a folder holds belongs to a screen.

    Raises:
        RequestError: it holds another screen.
    """
    if there is not None and there != key:
        raise RequestError(
            f"{output.name} holds another screen.",
            f"It differs by {', '.join(differences(there, key))}.",
            "Choose another folder for this one, or remove the old one.",
        )
