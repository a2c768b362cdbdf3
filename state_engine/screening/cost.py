"""What a screen costs: how it is cut into blocks, and how much it needs on the disk. No torch: pages ask before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from state_engine.checkpoints.card import ModelCard
from state_engine.errors import RequestError, UnknownLabelError, listed, may_be, near_each
from state_engine.files import free_bytes
from state_engine.plain import part_of, plural
from state_engine.screening.request import ScreenRequest

MOST_BLOCK: Final = 64  # perturbations
BLOCK_BYTES: Final = 128 << 20  # of the predicted cells of a block
MOST_CONTROLS: Final = 2048  # control cells of a context that are compared with each other


def perturbations_of(request: ScreenRequest, card: ModelCard) -> tuple[str, ...]:
    """Return the perturbations of a screen, in the order of the model: those that are asked for, or all but the control.

    Raises:
        UnknownLabelError: the model does not know some. RequestError: none is left.
    """
    known = tuple(p for p in card.perturbations if p != card.control)
    unknown = [p for p in request.perturbations if p not in card.perturbations]
    if unknown:
        raise UnknownLabelError(
            f"The model does not know {part_of(len(unknown), len(request.perturbations), 'perturbation')}: {listed(unknown)}.",
            f"It knows {len(known):,}, such as {listed(known)}.",
            may_be(near_each(unknown[:50], known)) or "Choose among these.",
        )
    chosen = tuple(p for p in known if not request.perturbations or p in request.perturbations)
    if not chosen:
        raise RequestError(
            "There is no perturbation to screen.", "The control alone is none.", "Name one, or leave them out for all."
        )
    return chosen


def block_size(request: ScreenRequest, card: ModelCard) -> int:
    """Return how many perturbations a block has."""
    width = len(card.output_genes or ()) + (card.config.output_dim if card.reads_embedding else 0)
    return int(min(MOST_BLOCK, max(1, BLOCK_BYTES // (4 * request.cells * max(1, width)))))


def disk_bytes(request: ScreenRequest, card: ModelCard, perturbations: int, contexts: int) -> int:
    """Return how much a screen needs on the disk: what is kept, and the prediction of one block."""
    genes, embedding = len(card.output_genes or ()), card.config.output_dim if card.reads_embedding else 0
    sample = 4 * request.sample * (genes + embedding)
    block = min(block_size(request, card), perturbations)
    matrices = 2 + (card.calibration is not None)
    kept = contexts * (perturbations * (12 * genes + sample) + -(-perturbations // block) * sample)
    controls = contexts * 4 * min(MOST_CONTROLS, 2 * request.cells) * (genes + embedding)
    return kept + controls + matrices * 4 * (block + 1) * request.cells * (genes + embedding)


def check_disk(request: ScreenRequest, card: ModelCard, perturbations: int, contexts: int, output: Path) -> None:
    """Make sure, before any work, that a screen fits on the disk.

    Raises:
        RequestError: it does not; with what would make it smaller.
    """
    needed, free = disk_bytes(request, card, perturbations, contexts), free_bytes(output)
    if needed > free:
        raise RequestError(
            f"The disk is too small for this screen: {free / 1e6:,.0f} MB are free, {needed / 1e6:,.0f} MB are needed.",
            f"It keeps means and {plural(request.sample, 'cell')} of {plural(perturbations, 'perturbation')} in "
            f"{plural(contexts, 'context')}.",
            "Keep fewer cells (--sample), choose fewer perturbations or contexts, or another disk.",
        )
