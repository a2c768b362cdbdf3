"""What a job can be: a name and where its function lives, as text. Pages read the names; only the worker imports the functions.

A job function has the signature

    f(request: dict, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict

It writes its files into `run`, raises StateError for what the user can mend, and returns a few plain values (the summary).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from importlib import import_module
from typing import Any, TypeAlias, TypeVar, cast

from state_engine.errors import JobError
from state_engine.jobs.run_folder import RunFolder
from state_engine.progress import OnProgress

T = TypeVar("T")
_TASKS = "state_engine.jobs.tasks.results"
_EMBED_TASKS = "state_engine.jobs.tasks.embedding"

KINDS: dict[str, str] = {
    name: f"{_TASKS}:{name}"
    for name in (
        "predict",
        "convert",
        "download",
        "attention",
        "differential",
        "tables",
        "submit",
        "demo",
        "prepare",
        "attention_check",
        "look",
    )
} | {name: f"{_EMBED_TASKS}:{name}" for name in ("embed", "similar", "genes_read", "convert_se")}
KINDS |= {name: f"state_engine.jobs.tasks.challenge:{name}" for name in ("score", "rehearse")}
KINDS["fetch"] = "state_engine.jobs.tasks.library:fetch"
KINDS["train"] = "state_engine.jobs.tasks.train:train"
KINDS |= {name: f"state_engine.jobs.tasks.evaluation:{name}" for name in ("evaluate", "test")}

# done one after the other by a worker that has nothing to do, most wanted first; a job that comes is taken up in between
WARMUP: tuple[str, ...] = (
    "state_engine.jobs.warmup:import_torch",
    "state_engine.jobs.warmup:import_anndata",
    "state_engine.jobs.warmup:import_umap",
)
FIRST_WARMUP_SECONDS = 2.0  # the first page of a new server is drawn meanwhile
# steps of many seconds that nobody should wait behind: only when nothing has come for LATE_SECONDS
LATE_WARMUP: tuple[str, ...] = ("state_engine.jobs.warmup:compile_pdex", "state_engine.jobs.warmup:compile_umap_fit")
LATE_SECONDS = 45.0


class WarmCache:
    """The last few things that were slow to load (models with their weights), kept in the worker between jobs."""

    def __init__(self, capacity: int = 2) -> None:
        self.capacity = capacity
        self._items: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()

    def get_or_load(self, key: tuple[Hashable, ...], loader: Callable[[], T]) -> T:
        """What was loaded under this key, or what `loader` gives now.

        The least recently used goes before loading starts, so that memory never holds more than `capacity`.
        """
        if key in self._items:
            self._items.move_to_end(key)
            return cast(T, self._items[key])
        while len(self._items) >= self.capacity:
            self._items.popitem(last=False)
        value = loader()
        self._items[key] = value
        return value

    def clear(self) -> None:
        """Let go of everything."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)


JobFunction: TypeAlias = Callable[[dict[str, Any], RunFolder, OnProgress, WarmCache], dict[str, Any]]


def check_kind(kind: str, more: Mapping[str, str]) -> str:
    """Where the function of this kind lives, "module:function". `more` are kinds beside the built-in ones.

    Raises:
        JobError: no such kind.
    """
    known = KINDS | dict(more)
    if kind not in known:
        raise JobError(f"There is no kind of job called '{kind}'.", f"Known: {', '.join(known)}.")
    return known[kind]


def load_target(target: str) -> Callable[..., Any]:
    """Import "module:function".

    Raises:
        ImportError, AttributeError: it is not there.
    """
    module, _, name = target.partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), name))
