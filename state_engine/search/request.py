"""What a search for similar cells is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from state_engine.data.dataset import Choices
from state_engine.errors import RequestError
from state_engine.options import about, check, option, part


@dataclass(frozen=True)
class QueryRequest:
    """A search for the stored cells most similar to those of a data set; the arguments of `search.query.query`."""

    VERB: ClassVar = "query"
    folder: str = field(metadata=about("folder of the stored cells", flag="--lancedb", metavar="DIR"))
    data: str = field(metadata=about("embedded cells (.h5ad)", metavar="Y.h5ad", data=True))
    key: str = option("X_state", "their embedding in obsm", metavar="K")
    k: int = option(5, "similar cells of each", metavar="N", least=1, offered=100)
    others_only: bool = option(False, "leave stored cells of the same data set out")
    choices: Choices = part(Choices())

    def __post_init__(self) -> None:
        check(self, RequestError)
