"""Contexts and blocks of a training that are left out to calibrate it: which ones, and what a further training then sees. No torch.

Boundary: labels and parts of a split only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from state_engine.data.splits.apply import TRAIN, UNUSED, VAL, Split
from state_engine.effects.transfer import LEAST_COMMON

FEWEST_CONTEXTS, MOST_CONTEXTS = 4, 6  # two of a real screen gave weights of 0.14 or 0.64, as they were drawn
MOST_STEPS = 1500
ENOUGH = 12  # conditions to weigh; with many perturbations few contexts have them
BLOCK_SHARE = 0.3  # of a context's perturbations that are left out together
FEWEST_BLOCKS, MOST_BLOCKS = 4, 80
NEW_SHARE, FEWEST_NEW = 0.2, 2  # of the perturbations that are left out everywhere where some are tested that are trained nowhere
MIN_CELLS = 10  # measured cells of a condition; fewer say little about an effect


def left_out_places(
    split: Split, most: int | None = None, seed: int = 42, *, min_cells: int | None = None, fewest: int = FEWEST_CONTEXTS,
    enough: int = ENOUGH,
) -> list[tuple[str, str]]:  # fmt: skip
    """Return (data set, context) pairs that can be left out: with controls, and perturbations that another context trains too.

    Args:
        split: of the training.
        most: that are wanted, drawn by the seed where there are more; None: `fewest` to six, until there are `enough` conditions.
        seed: of the draw.
        min_cells: measured cells that a condition needs; None: `MIN_CELLS`.
    """
    table = split.table()
    trained = table[(table["train"] >= (MIN_CELLS if min_cells is None else min_cells))]
    perturbed = trained[trained["perturbation"] != split.control]
    contexts = perturbed.groupby("perturbation")["context"].nunique()
    shared = perturbed[perturbed["perturbation"].map(contexts) > 1]
    places = {*zip(shared["dataset"], shared["context"], strict=True)}
    controls = trained[trained["perturbation"] == split.control]
    usable = sorted(places & {*zip(controls["dataset"], controls["context"], strict=True)})
    if most is None:
        most = int(np.clip(np.ceil(enough * len(places) / max(1, len(shared))), fewest, MOST_CONTEXTS))
    if len(usable) <= most:
        return usable
    chosen = np.random.default_rng(seed).choice(len(usable), most, replace=False)
    return [usable[i] for i in sorted(chosen.tolist())]


def calibrating_places(split: Split, min_cells: int | None = None, seed: int = 42) -> list[tuple[str, str]]:
    """Return what a training without validation cells leaves out in turn to calibrate itself; empty where that would mislead.

    It misleads where only perturbations of trained contexts are tested: a context that is left out whole is harder to predict, and
    too little of the model's effect would be taken (on four blocks of a real screen 0.15 of its effect, where all of it was right).
    """
    plan = split.plan
    if any(c.test for c in plan.fewshot) and not any(c.part == "test" for c in plan.zeroshot):
        return []
    places = left_out_places(split, seed=seed, min_cells=min_cells)
    return places if len(places) > 1 else []


def fold_steps(steps: int) -> int:
    """Return the steps of a further training, two thirds of the model's own: it learns from less, and only its effects are wanted.

    At most `MOST_STEPS`, so that a long training is not made twice as long by weighing it.
    """
    return max(1, min(MOST_STEPS, steps * 2 // 3))


def fold_split(split: Split, place: tuple[str, str]) -> Split:
    """Return the split with one trained context for validation; what was held out before is not used at all."""
    name, context = place
    sources = []
    for source in split.sources:
        parts = np.where(source.parts == TRAIN, TRAIN, UNUSED).astype(np.uint8)
        if source.name == name:
            parts[(parts == TRAIN) & (source.dataset.context_labels() == context)] = VAL
        sources.append(replace(source, parts=parts))
    return replace(split, sources=tuple(sources))


def left_out_blocks(split: Split, seed: int = 42, min_cells: int | None = None) -> list[tuple[str, str, str]]:
    """Return (data set, context, perturbation) blocks that one further training leaves out together; empty where too few can be.

    Each is of a context that goes on training `LEAST_COMMON` others, and of a perturbation that another context goes on training.
    """
    table = split.table()
    trained = table[table["train"] >= (MIN_CELLS if min_cells is None else min_cells)]
    controls = trained[trained["perturbation"] == split.control]
    places = {*zip(controls["dataset"], controls["context"], strict=True)}
    perturbed = trained[trained["perturbation"] != split.control]
    blocks = [
        b for b in zip(perturbed["dataset"], perturbed["context"], perturbed["perturbation"], strict=True) if b[:2] in places
    ]
    left = {place: sum(b[:2] == place for b in blocks) for place in places}
    room = {place: min(int(BLOCK_SHARE * n), n - LEAST_COMMON) for place, n in left.items()}
    elsewhere = {p: len({b[:2] for b in blocks if b[2] == p}) for _, _, p in blocks}
    chosen: list[tuple[str, str, str]] = []
    for i in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        dataset, context, label = blocks[i]
        if len(chosen) < MOST_BLOCKS and room[dataset, context] > 0 and elsewhere[label] > 1:
            chosen.append(blocks[i])
            room[dataset, context] -= 1
            elsewhere[label] -= 1
    return sorted(chosen) if len(chosen) >= FEWEST_BLOCKS else []


def calibrating_blocks(split: Split, seed: int = 42, min_cells: int | None = None) -> list[tuple[str, str, str]]:
    """Return the blocks that a training without validation cells leaves out to calibrate itself; none where only whole contexts are tested."""
    plan = split.plan
    whole_only = any(c.part == "test" for c in plan.zeroshot) and not any(c.test for c in plan.fewshot)
    return [] if whole_only else left_out_blocks(split, seed, min_cells)


def calibrating_perturbations(split: Split, seed: int = 42, min_cells: int | None = None) -> list[tuple[str, str, str]]:
    """Return the blocks of perturbations that one further training leaves out everywhere, to weigh what is said of those trained nowhere.

    Empty where every tested perturbation is trained somewhere, or too few would be left. A model that knows labels alone has no use for it.
    """
    table = split.table()
    perturbed = table[table["perturbation"] != split.control]
    trained = set(perturbed[perturbed["train"] > 0]["perturbation"])
    if set(perturbed[perturbed["test"] > 0]["perturbation"]) <= trained:
        return []
    enough = perturbed[perturbed["train"] >= (MIN_CELLS if min_cells is None else min_cells)]
    labels = sorted(set(enough["perturbation"]))
    number = max(FEWEST_NEW, int(NEW_SHARE * len(labels)))
    if len(labels) - number < LEAST_COMMON + 1:
        return []
    chosen = {labels[i] for i in np.random.default_rng(seed).permutation(len(labels))[:number].tolist()}
    rows = enough[enough["perturbation"].isin(chosen)]
    return sorted(zip(rows["dataset"], rows["context"], rows["perturbation"], strict=True))


def blocks_split(split: Split, blocks: list[tuple[str, str, str]]) -> Split:
    """Return the split with some trained blocks for validation; what was held out before is not used at all."""
    sources = []
    for source in split.sources:
        parts = np.where(source.parts == TRAIN, TRAIN, UNUSED).astype(np.uint8)
        for _, context, label in (b for b in blocks if b[0] == source.name):
            rows = source.dataset.rows(label, context)
            parts[rows[parts[rows] == TRAIN]] = VAL
        sources.append(replace(source, parts=parts))
    return replace(split, sources=tuple(sources))
