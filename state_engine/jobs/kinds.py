"""What a job can be: one entry for each kind. Modules are named as text, so that pages read the list without importing a task.

A task has the signature

    task(request: Request, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Summary

with frozen dataclasses both ways. It writes its files into `run` and raises StateError for what the user can mend. The worker makes
the request from the run's request.json and the plain values of the summary for the database. To add a kind: write the task, and add
its entry here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, TypeVar, cast

from state_engine.errors import JobError

T = TypeVar("T")
Lane = Literal["long", "short"]


@dataclass(frozen=True)
class Manner:
    """How a job is worked on: in which lane, and whether it is queued again when its worker died (see `Kind`).

    `expected`: seconds that it was guessed to take on a common machine with nothing else to do; None where nobody guessed.
    """

    lane: Lane = "long"
    resumes: bool = False
    expected: float | None = None


USUAL = Manner()


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Args:
        name: as run folders and the database have it.
        request: class of its request, "module:class". Each kind has a class of its own, so that a request tells its kind.
        target: its task, "module:function".
        page: page that shows a run; "" when its answer is shown elsewhere.
        answer: page that shows a finished run, where that is another; "" for `page`.
        choice: name under which an address holds the run that the page shows.
        listed: whether Runs lists it. Derived kinds write into the run they belong to, so their own folders are not listed.
        words: what such a run is, for people.
        lane: "short" for what somebody waits for, which does not stand behind long work.
        resumes: the task goes on where it was stopped, so that a job whose worker died is queued again.
        saves: asked to stop, the task saves what it has at the end of its step, which may take seconds: it is given that time.
    """

    name: str
    request: str
    target: str
    page: str = ""
    answer: str = ""
    choice: str = "run"
    listed: bool = True
    words: str = ""
    lane: Lane = "long"
    resumes: bool = False
    saves: bool = False

    def manner(self, lane: Lane | None = None, expected: float | None = None) -> Manner:
        """Return how such jobs are worked on; `lane` None: that of the kind."""
        return Manner(lane or self.lane, self.resumes, expected)

    @property
    def title(self) -> str:
        """For people."""
        return self.words or self.name


_REQUESTS = "state_engine.jobs.requests"
_TASKS = "state_engine.jobs.tasks"
_ENTRIES = (
    Kind(
        "predict", "state_engine.prediction.request:PredictionRequest", f"{_TASKS}.results:predict", "predict", "explore",
        words="prediction", resumes=True,
    ),
    Kind("convert", f"{_REQUESTS}:ConvertRequest", f"{_TASKS}.library:convert", words="conversion of a model"),
    Kind("download", f"{_REQUESTS}:DownloadRequest", f"{_TASKS}.library:download", words="download of a model"),
    Kind(
        "convert_se", f"{_REQUESTS}:ConvertEmbeddingRequest", f"{_TASKS}.library:convert_se",
        words="conversion of a State Embedding model",
    ),
    Kind("prepare", f"{_REQUESTS}:PrepareRequest", f"{_TASKS}.library:prepare", words="variable genes"),
    Kind("gene_cache", f"{_REQUESTS}:GeneCacheRequest", f"{_TASKS}.library:gene_cache", listed=False, words="values by gene"),
    Kind("label", f"{_REQUESTS}:LabelRequest", f"{_TASKS}.library:label", words="labels by hand"),
    Kind("fetch", f"{_REQUESTS}:FetchRequest", f"{_TASKS}.library:fetch", words="public data set"),
    Kind("look", f"{_REQUESTS}:LookRequest", f"{_TASKS}.results:look", listed=False, lane="short", resumes=True),
    Kind(
        "differential", f"{_REQUESTS}:DifferentialRequest", f"{_TASKS}.results:differential", listed=False, lane="short",
        resumes=True,
    ),
    Kind("selected_cells", f"{_REQUESTS}:SelectedCellsRequest", f"{_TASKS}.results:selected_cells", listed=False, lane="short", resumes=True),
    Kind("effects", f"{_REQUESTS}:EffectsRequest", f"{_TASKS}.results:effects", listed=False, lane="short", resumes=True),
    Kind("gene_sets", f"{_REQUESTS}:GeneSetsRequest", f"{_TASKS}.results:gene_sets", listed=False, lane="short", resumes=True),
    Kind("targets", "state_engine.analysis.on_target:TargetsRequest", f"{_TASKS}.results:targets", listed=False, lane="short", resumes=True),
    Kind("tables", f"{_REQUESTS}:TablesRequest", f"{_TASKS}.results:tables", listed=False, resumes=True),
    Kind("report", f"{_REQUESTS}:ReportRequest", f"{_TASKS}.results:report", listed=False, lane="short", words="report"),
    Kind("matrix", f"{_REQUESTS}:MatrixRequest", f"{_TASKS}.results:matrix", listed=False),
    Kind("store", f"{_REQUESTS}:StoreRequest", f"{_TASKS}.results:store", listed=False),
    Kind("attention", f"{_REQUESTS}:AttentionMapsRequest", f"{_TASKS}.results:attention", listed=False, lane="short"),
    Kind("attention_check", f"{_REQUESTS}:ModesRequest", f"{_TASKS}.results:attention_check", listed=False, lane="short"),
    Kind(
        "embed", "state_engine.embedding.jobs:EmbedJob", f"{_TASKS}.embedding:embed", "embed", choice="embedding",
        words="embedding", resumes=True,
    ),
    Kind("embed_speed", "state_engine.embedding.jobs:SpeedJob", f"{_TASKS}.embedding:embed_speed", listed=False, lane="short"),
    Kind("similar", "state_engine.embedding.jobs:SimilarJob", f"{_TASKS}.embedding:similar", listed=False, lane="short"),
    Kind("genes_read", "state_engine.embedding.jobs:GenesReadJob", f"{_TASKS}.embedding:genes_read", listed=False),
    Kind(
        "screen", "state_engine.screening.request:ScreenRequest", f"{_TASKS}.screen:screen", "screen", choice="screening",
        words="screen", resumes=True,
    ),
    Kind(
        "finetune", "state_engine.heads.request:FinetuneRequest", f"{_TASKS}.heads:finetune", "finetune", choice="finetuning",
        words="head fitted",
    ),
    Kind(
        "annotate", "state_engine.heads.request:AnnotateRequest", f"{_TASKS}.heads:annotate", "finetune", choice="annotation",
        words="cells called by a head",
    ),
    Kind(
        "submit", "state_engine.challenge.submit:SubmissionRequest", f"{_TASKS}.challenge:submit", "submit", choice="submission",
        words="challenge submission",
    ),
    Kind(
        "score", "state_engine.challenge.score_request:ScoreRequest", f"{_TASKS}.challenge:score", "submit", choice="scoring",
        words="challenge score",
    ),
    Kind(
        "rehearse", "state_engine.challenge.score_request:RehearsalRequest", f"{_TASKS}.challenge:rehearse", "submit",
        choice="scoring",
        words="challenge rehearsal",
    ),
    Kind(
        "train", "state_engine.jobs.train_job:TrainJob", f"{_TASKS}.train:train", "train", choice="training",
        words="training", resumes=True, saves=True,
    ),
    Kind(
        "pretrain", "state_engine.pretrain.request:PretrainRequest", f"{_TASKS}.pretrain:pretrain", "pretrain", choice="pretraining",
        words="pretraining", resumes=True, saves=True,
    ),
    Kind(
        "evaluate", "state_engine.evaluation.request:EvaluationRequest", f"{_TASKS}.evaluation:evaluate", "evaluate",
        choice="evaluation",
        words="evaluation",
    ),
    Kind(
        "compare", "state_engine.comparison.request:CompareRequest", f"{_TASKS}.evaluation:compare", "compare", choice="comparison",
        words="comparison",
    ),
    Kind(
        "selection", "state_engine.comparison.request:SelectionRequest", f"{_TASKS}.evaluation:selection", listed=False, lane="short",
        words="genes of a selection", resumes=True,
    ),
    Kind(
        "test", "state_engine.evaluation.request:HeldOutRequest", f"{_TASKS}.evaluation:test", "evaluate",
        choice="evaluation",
        words="test on held-out cells", resumes=True,
    ),
)  # fmt: skip
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ENTRIES}

# for a worker that has nothing to do, one after the other, most wanted first; a job that comes is taken up in between
WARMUP: tuple[str, ...] = (
    "state_engine.jobs.warmup:import_torch",
    "state_engine.jobs.warmup:import_anndata",
    "state_engine.jobs.warmup:import_umap",
)
FIRST_WARMUP_SECONDS = 2.0  # the first page of a new server is drawn meanwhile
# a step of many seconds that nobody should wait behind: only when nothing has come for LATE_SECONDS
LATE_WARMUP: tuple[str, ...] = ("state_engine.jobs.warmup:compile_umap_fit",)
LATE_SECONDS = 45.0


class WarmCache:
    """The last few things that were slow to load (models with their weights), kept in the worker between jobs."""

    def __init__(self, capacity: int = 2) -> None:
        self.capacity = capacity
        self._items: OrderedDict[tuple[Hashable, ...], object] = OrderedDict()

    def get_or_load(self, key: tuple[Hashable, ...], loader: Callable[[], T]) -> T:
        """Return the item of this key; without one, load it with `loader`.

        The least recently used item goes before loading starts, so that memory never holds more than `capacity`.
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


def known_kinds(more: Iterable[Kind] = ()) -> dict[str, Kind]:
    """Return all kinds by name. `more` are kinds beside the built-in ones."""
    return KINDS | {kind.name: kind for kind in more}


def find_kind(name: str, more: Iterable[Kind] = ()) -> Kind:
    """Return the kind of this name. `more` are kinds beside the built-in ones.

    Raises:
        JobError: there is none.
    """
    known = known_kinds(more)
    if name not in known:
        raise JobError(f"There is no kind of job called '{name}'.", f"Known: {', '.join(known)}.")
    return known[name]


def kind_of(request: object, more: Iterable[Kind] = ()) -> Kind:
    """Return the kind whose request class this request (or the class itself) is.

    Raises:
        JobError: no kind has it.
    """
    cls = request if isinstance(request, type) else type(request)
    name = f"{cls.__module__}:{cls.__qualname__}"
    for kind in (*more, *KINDS.values()):
        if kind.request == name:
            return kind
    raise JobError(f"No kind of job takes a {cls.__name__}.", "Its entry in state_engine.jobs.kinds is missing.")


def request_class(kind: Kind) -> type[object]:
    """Import the class of a kind's requests."""
    return cast(type[object], load_target(kind.request))


def load_target(target: str) -> Callable[..., object]:
    """Import "module:name", a function or a class.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    module, _, name = target.partition(":")
    return cast(Callable[..., object], getattr(import_module(module), name))
