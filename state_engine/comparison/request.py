"""What is asked of a comparison, as plain values. No torch: pages and commands make these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from state_engine.data.dataset import Choices
from state_engine.errors import RequestError
from state_engine.options import about, check, option, part, within

CellsOf = Literal["", "corrected", "raw", "calibrated", "observed"]
CELL_WORDS: Final[dict[str, str]] = {
    "corrected": "corrected prediction", "calibrated": "calibrated prediction", "raw": "raw prediction", "observed": "measured cells",
}  # fmt: skip
"""How a reader is told of the cells of a result."""


@dataclass(frozen=True)
class ComparedSide:
    """One side: a result of a prediction, cells of any program, a challenge archive, or a table of effects. `choices` tell of foreign cells.

    A perturbation or a context that is named on one side is compared with that of the other; what is named on neither is matched by name.
    """

    files: tuple[str, ...] = field(
        metadata=about(
            "result or folder of a prediction or screen, .h5ad, .vcc, or table of effects (.csv, .tsv, .parquet); "
            "several: its seeds", metavar="FILE", data=True,
            label="Files, a seed each",
        )
    )  # fmt: skip
    cells: CellsOf = option(
        "", "of a result: corrected, raw, calibrated, or observed for its measured cells; default: what the model's card recommends",
        label="Cells",
    )  # fmt: skip
    perturbation: str = option("", "one perturbation; default: all", metavar="NAME")
    context: str = option("", "one context; default: all", metavar="NAME")
    name: str = option("", "for people; default: the file's", metavar="NAME", label="Name in figures and tables")
    choices: Choices = part(Choices())

    def __post_init__(self) -> None:
        check(self, RequestError)
        if not self.files or len(set(self.files)) != len(self.files):
            raise RequestError("The files of a side are missing, or one is named twice.", fix="Name each once.")


@dataclass(frozen=True)
class CompareRequest:
    """A comparison, complete."""

    VERB: ClassVar = "compare"
    first: ComparedSide = field(metadata=within(prefix="first-", of="first side", flags={"files": "--first"}))
    second: ComparedSide = field(metadata=within(prefix="second-", of="second side", flags={"files": "--second"}))
    top: int = option(
        50, "genes with the largest effects whose overlap is counted", metavar="N", least=1, offered=2000, label="Leading genes"
    )
    cells: int = option(
        500,
        "cells of a condition, at most, that are looked at on each side",
        metavar="N",
        least=10,
        most=2000,
        label="Cells of a condition",
    )
    draws: int = option(
        200, "bootstrap draws of cells behind an interval, where a side has no further seeds", metavar="N", least=20, most=10_000,
        label="Bootstrap draws",
    )  # fmt: skip
    seed: int = option(42, "of the cells and draws", metavar="S", least=0, offered=2**31 - 1)
    map: bool = option(True, "leave the common map of the cells out", label="Draw the cells of both on one map")

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class SelectionRequest:
    """Differential expression between selected cells of the two sides of a comparison.

    Args:
        run: id of the comparison.
        first, second: rows of its map.
    """

    run: str
    first: tuple[int, ...]
    second: tuple[int, ...]
