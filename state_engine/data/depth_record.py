"""What is recorded of sequencing depths: how deep the cells of a context were read, and what a training did about it.

Boundary: numbers and words; they are found in `data.depth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FOLD: Final = 1.5  # a larger difference is told, and made equal in a training


@dataclass(frozen=True)
class ContextDepth:
    """Median UMIs of a cell in one context.

    Args:
        context: its label.
        control, perturbed: medians over the control and over the perturbed cells.
        dataset: name of the data set in a split; "" for one file.
    """

    context: str
    control: float
    perturbed: float
    dataset: str = ""

    @property
    def fold(self) -> float:
        """The deeper median over the shallower."""
        low, high = sorted((self.control, self.perturbed))
        return high / low

    @property
    def differs(self) -> bool:
        """Whether a model would learn from the difference."""
        return self.fold > FOLD

    def share(self, control: bool) -> float:
        """Return what control (or perturbed) cells keep of their counts to be as shallow as the others."""
        own = self.control if control else self.perturbed
        return min(self.control, self.perturbed) / own

    @property
    def words(self) -> str:
        """The two depths, for people."""
        return f"{self.context}: control cells {self.control:,.0f} UMIs, perturbed {self.perturbed:,.0f}: {self.fold:.1f}-fold"


@dataclass(frozen=True)
class EqualDepth:
    """What was done about depths before a training.

    Args:
        contexts: in which counts were thinned to the shallower of control and perturbed cells.
        seed: of the draws.
    """

    contexts: tuple[ContextDepth, ...] = ()
    seed: int = 0

    @property
    def words(self) -> str:
        """What was done, for people; "" where nothing was."""
        if not self.contexts:
            return ""
        each = "; ".join(depth.words for depth in self.contexts)
        return (
            f"Depths made equal: counts were thinned to the shallower group of the context ({each}; medians, seed {self.seed}). Held-out "
            "cells of these contexts are thinned alike, so predicted and measured effects are compared at one depth."
        )
