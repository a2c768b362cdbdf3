"""Screens of earlier versions, whose shards lie in files of their own: read once, into shards of today. Nothing is predicted again.

shards/screen.json        what was predicted
shards/C-BBBB.npz         context C, block B: perturbations (k,) str, effects (k, g), folds (k, g) float32, up, down (k,) int64
shards/C-BBBB.h5ad        the first cells of each condition and their basal cells; not there where none are kept
shards/C-control.h5ad     control cells of the context
shards/C-*.json           sizes and sha256 of the files of a shard that is done
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import anndata as ad
import numpy as np

from state_engine.files import read_json, sha256_of
from state_engine.plain import read_json_as
from state_engine.screening.shards import CONTROL, Block, ScreenKey, number_of, with_block
from state_engine.shards.in_run import FOLDER
from state_engine.shards.ledger import Ledger, save_shard

KEY: Final = "screen.json"


def key_before(output: Path) -> ScreenKey | None:
    """Return what a screen of an earlier version predicts, as one of today; None where there is none.

    Raises:
        RunError: its note is damaged.
    """
    found = read_json_as(ScreenKey, output / FOLDER / KEY, "screen", "Choose another folder.")
    return None if found is None else replace(found, format=ScreenKey.format)


def take_before(output: Path, ledger: Ledger, key: ScreenKey) -> None:
    """Take over what an earlier version had completed of the same screen.

    Args:
        output: folder of the earlier screen.
        ledger: of this one.
        key: what both predict.
    """
    folder = output / FOLDER
    for at, context in enumerate(key.contexts):
        for block in (CONTROL, *range(len(key.labels))):
            name, number = f"{at}-{'control' if block == CONTROL else f'{block:04d}'}", number_of(key, context, block)
            if number in ledger.done or not _is_whole(folder, name):
                continue
            write = partial(_cells(folder, name, at).write_h5ad, compression="lzf")
            ledger.note(save_shard(ledger.folder, ledger.plan.shards[number], write))


def remove_before(output: Path) -> None:
    """Remove the files of an earlier version, once they are taken over."""
    for path in (output / FOLDER).iterdir():
        if path.name == KEY or (path.name[:1].isdigit() and path.suffix in (".npz", ".h5ad", ".json")):
            path.unlink()


def _is_whole(folder: Path, name: str) -> bool:
    """Return whether a shard was completed, and its files have the sizes and checksums that were noted."""
    try:
        noted = {
            f"{name}{ending}": (int(size), str(digest))
            for ending, (size, digest) in read_json(folder / f"{name}.json")["files"].items()
        }
        return bool(noted) and all(((folder / n).stat().st_size, sha256_of(folder / n)) == facts for n, facts in noted.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _cells(folder: Path, name: str, at: int) -> ad.AnnData:
    """Return what today's shard holds; the remarks of a block were not kept."""
    path = folder / f"{name}.h5ad"
    # without a sample the genes are those of the control cells, which are always there
    cells = ad.read_h5ad(path) if path.exists() else ad.read_h5ad(folder / f"{at}-control.h5ad")[:0].copy()
    effects = folder / f"{name}.npz"
    if not effects.exists():
        return cells
    with np.load(effects, allow_pickle=False) as stored:
        labels = tuple(stored["perturbations"].tolist())
        return with_block(cells, Block(labels, stored["effects"], stored["folds"], stored["up"], stored["down"]), ())
