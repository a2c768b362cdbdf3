"""What a training holds out, and held-out cells that come back through another data set: values, for splits, cards and evaluations.

Boundary: names and counts; what is held out is written in `splits.plan`, what comes back is found in `splits.leaks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from state_engine.errors import listed

HeldPart = Literal["val", "test"]


@dataclass(frozen=True)
class HeldOut:
    """A context, or a perturbation of it, that is never trained on.

    Args:
        context: its label.
        perturbation: its label; "" for the whole context.
        dataset: name in the split where that has several data sets; "" for the only one.
        part: what it is kept for.
        text: as a card of before 30 November 2026 says it, which may be a perturbation alone; "" on cards of today.
    """

    context: str
    perturbation: str = ""
    dataset: str = ""
    part: HeldPart = "test"
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        """For people: 'NK', 'B x TNF', 'screen.B x TNF'."""
        place = f"{self.dataset}.{self.context}" if self.dataset else self.context
        return f"{place} x {self.perturbation}" if self.perturbation else place

    def covers(self, perturbation: str, context: str) -> bool:
        """Return whether a condition is held out by it, whatever the data set."""
        if self.text:
            return self.text in (perturbation, context, f"{context} x {perturbation}")
        return context == self.context and self.perturbation in ("", perturbation)


def held_out_of_text(text: str) -> HeldOut:
    """Return what a card of before 30 November 2026 says: 'NK', 'NK x TNF', or where a person wrote it 'TNF'."""
    context, _, perturbation = text.partition(" x ")
    return HeldOut(context, perturbation, text=text)


@dataclass(frozen=True)
class Leak:
    """What one data set holds out and another is trained on.

    Args:
        held_in, trained_in: names of the data sets in the split.
        conditions: "context x perturbation" of the same names in both; empty where the cells themselves come back.
        files: of the two, where the cells come back.
        cells, looked: held-out cells found in the other file, of those that were looked for.
        same_file: both files are equal byte for byte.
    """

    held_in: str
    trained_in: str
    conditions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    cells: int = 0
    looked: int = 0
    same_file: bool = False

    def __str__(self) -> str:
        """For people, with what it means."""
        if self.conditions:
            return (
                f"What {self.held_in} holds out is trained on in {self.trained_in}, in a context of the same name: "
                f"{listed(self.conditions)}. If both are the same cell line or donor, the test is of a condition that was seen."
            )
        here, there = self.files
        equal = f" {here} and {there} are the same file byte for byte." if self.same_file else ""
        return (
            f"The same cells are held out in {self.held_in} and trained on in {self.trained_in}: {self.cells:,} of {self.looked:,} "
            f"held-out cells of {here} that were looked for are in {there}.{equal} What is tested would have been seen: "
            "remove them from one data set."
        )
