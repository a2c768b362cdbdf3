"""Depths of a split made equal before a training: which contexts are thinned, and the split with counts that are.

Source: `data.depth`. Boundary: a split in, a split out; all parts of a context are thinned alike, so that what is held out is measured as
deeply as what is trained on.
"""

from __future__ import annotations

from dataclasses import replace

from state_engine.data.depth import NO_COUNTS, compare, depth_notes, thinned
from state_engine.data.depth_record import ContextDepth, EqualDepth
from state_engine.data.splits.apply import Split


def depths_of(split: Split) -> tuple[ContextDepth, ...]:
    """Return the depths of control and perturbed cells in each context of a split."""
    return compare([(s.name, s.dataset, s.parts) for s in split.sources])


def choose_equal_depth(split: Split, seed: int, why_not: str = "") -> tuple[EqualDepth, tuple[str, ...]]:
    """Return what is thinned, and what to know of it and of the rest, in sentences.

    Args:
        split: which cells are used.
        seed: of the draws.
        why_not: a sentence where nothing is to be thinned.
    """
    if any(s.dataset.thinning is not None for s in split.sources):
        return EqualDepth(), ()  # it was done when the split was opened
    differ = [depth for depth in depths_of(split) if depth.differs]
    # a data set of several files is thinned as one, or not at all
    logged = {s.name for s in split.sources if s.dataset.scale.scale != "counts"}
    chosen = tuple(d for d in differ if not why_not and d.dataset not in logged)
    notes = depth_notes([d for d in differ if d not in chosen], why_not or NO_COUNTS)
    equal = EqualDepth(chosen, seed) if chosen else EqualDepth()
    return equal, tuple(filter(None, (equal.words, *notes)))


def with_equal_depth(split: Split, equal: EqualDepth) -> Split:
    """Return the split with its counts thinned as recorded; the same where nothing is recorded, or it was done before."""
    if not equal.contexts or any(s.dataset.thinning is not None for s in split.sources):
        return split
    return replace(split, sources=tuple(replace(s, dataset=thinned(s.dataset, equal, s.name)) for s in split.sources))
