"""Sizes of a head's network; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from state_engine.errors import ConfigError

MOST_WIDTH = 1 << 20


@dataclass(frozen=True)
class HeadConfig:
    """A head's network.

    Args:
        kind: one linear layer, or a hidden one of `hidden` units between.
        inputs, outputs: w and o.
        hidden: units of an mlp; 0 for a linear head.
        dropout: of the hidden units, in training.
        components: of a fixed projection before the first layer; 0 for none.
    """

    kind: Literal["linear", "mlp"]
    inputs: int
    outputs: int
    hidden: int = 0
    dropout: float = 0.1
    components: int = 0

    def __post_init__(self) -> None:
        widths = (self.inputs, self.outputs, *([self.hidden] if self.kind == "mlp" else []))
        if min(widths) < 1 or max(widths) > MOST_WIDTH:
            raise ConfigError(f"A head of widths {widths} cannot be made.", f"Each must be 1 to {MOST_WIDTH:,}.")
        if not 0 <= self.components <= self.inputs:
            raise ConfigError(f"{self.components} components of {self.inputs} features cannot be.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"A dropout of {self.dropout} cannot be.", "It must be 0 or more and less than 1.")
