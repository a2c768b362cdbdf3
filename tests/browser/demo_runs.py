"""A run of each kind on the demo, made by the worker of an installation: what the pages have open in a test or on a picture."""

from __future__ import annotations

from urllib.parse import urlencode

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.submit import SubmissionRequest
from state_engine.checkpoints.store import read_card
from state_engine.comparison.request import ComparedSide, CompareRequest
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.embedding.jobs import EmbedJob
from state_engine.embedding.request import EmbedRequest
from state_engine.evaluation.request import HeldOutRequest, split_of_card
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs import local
from state_engine.jobs.kinds import KINDS, kind_of
from state_engine.jobs.requests import AttentionMapsRequest, EffectsRequest, ReportRequest
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import JobStore
from state_engine.jobs.train_job import TrainJob
from state_engine.library.datasets import DEMO_ID, DEMO_PATH
from state_engine.library.models import DEMO_EMBEDDING, list_models
from state_engine.prediction.request import PredictionRequest
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes
from state_engine.screening.request import ScreenRequest
from state_engine.train.request import resolve

MODEL = DEMO_PATH.parent / "model"
PERTURBATIONS = ("IFN-beta", "TNF", "Dexamethasone")
CONTEXTS = ("NK", "B", "CD14 monocyte")
UP = ("ISG15", "IFIT1", "MX1", "IFI6", "STAT1")
PREDICTION = PredictionRequest(str(DEMO_PATH), str(MODEL), PERTURBATIONS, CONTEXTS, cells=64)
SPLIT = f"""[datasets]
demo = "{DEMO_PATH}"
[training]
demo = "train"
[zeroshot]
"demo.NK" = "test"
[fewshot."demo.B"]
val = ["IFN-gamma", "TNF"]
"""
TINY = {"hidden": 16, "layers": 1, "heads": 2, "set_size": 16, "sets_per_step": 4, "hvgs": 200, "steps": 120, "validate_every": 40,
        "validation_sets": 8, "name": "Demo without NK", "simulated": True, "calibrate": False}  # fmt: skip


class DemoRuns:
    """Runs of an installation, by kind, also those that an earlier process made; `address` has those that a page shows."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        done = (RunFolder(info.path) for info in reversed(list_runs(settings)) if info.state == "done")
        self.runs = {run.manifest.kind: run for run in done}

    def ask(self, *requests: object, parent: str = "", title: str = "") -> None:
        """Queue jobs; the latest of a kind is the one that is shown."""
        for request in requests:
            kind = kind_of(request)
            _, run = local.submit(self.settings, request, title or f"Demo: {kind.title}", parent)
            self.runs[kind.name] = RunFolder.open(self.settings, run)

    def wait(self) -> None:
        """Until all that was asked for is done, and what followed from it, such as the map of a prediction."""
        while waiting := [job.id for job in JobStore(self.settings.database).list() if job.active]:
            local.wait(self.settings, waiting[0], timeout=900)
        for job in JobStore(self.settings.database).list():
            assert job.state == "done", f"{job.kind}: {job.state} {job.error}"

    def address(self, page: str, **more: str) -> str:
        """Return the part of an address behind the server: the page, with the demo and all runs open."""
        ids = {KINDS[kind].choice: run.id for kind, run in self.runs.items() if KINDS[kind].listed and KINDS[kind].page}
        model = next(e.card.id for e in list_models(self.settings) if e.demo and e.card)
        return f"/{'' if page == 'home' else page}?{urlencode({'data': DEMO_ID, 'model': model} | ids | more)}"


def ask_to_look(demo: DemoRuns) -> None:
    """A prediction with its map and tables, and what is asked of it and of the model, in a few seconds each."""
    demo.ask(PREDICTION, title="IFN-beta, TNF, Dexamethasone in NK, B, CD14 monocyte")
    demo.ask(
        ScreenRequest(str(DEMO_PATH), str(MODEL), CONTEXTS[:2], up_genes=UP, cells=64, splits=1000),
        title="Screen: interferon genes up",
    )
    demo.wait()
    run = demo.runs["predict"]
    result = str(run.result)
    sides = [
        ComparedSide((result,), cells=cells, name=name) for cells, name in (("corrected", "Predicted"), ("observed", "Measured"))
    ]
    condition = (PERTURBATIONS[0], "B")  # the one that Attention shows first
    demo.ask(EffectsRequest(run.id), AttentionMapsRequest(run.id, *condition, 0), ReportRequest(run.id), parent=run.id)
    demo.ask(CompareRequest(*sides, draws=50), title="Predicted and measured")
    split = split_of_card(read_card(MODEL), open_dataset(DEMO_PATH))
    demo.ask(HeldOutRequest(str(MODEL), split=split), title="Demo ST on held-out cells")
    demo.wait()


def ask_to_learn(demo: DemoRuns) -> None:
    """What takes longer: an embedding, trainings of small networks, a head and cells that it called, a challenge file."""
    data, run = str(DEMO_PATH), demo.runs["predict"]
    demo.ask(EmbedJob(EmbedRequest(data, str(DEMO_EMBEDDING)), "demo_embedded"), title="demo.h5ad with Demo SE")
    demo.ask(TrainJob(SPLIT, resolve("default", TINY), data=DEMO_ID), title="Demo without NK")
    small = Sizes(hidden=32, layers=1, heads=2, feed_forward=64, output_dim=16, tokens=64, gene_width=32)
    schedule, running = Schedule(steps=60), Running(name="SE of the demo", simulated=True, validate_every=20)
    demo.ask(
        PretrainRequest((data,), evaluate=("cell_type",), sizes=small, schedule=schedule, running=running), title="SE of the demo"
    )
    head = FinetuneRequest(
        data, ("cell_type",), max_epochs=12, resamples=50, variable_genes=200, components=10, name="Cell types"
    )
    demo.ask(head, title="Head: cell types")
    counts = CountsOptions()
    demo.ask(SubmissionRequest("vcc2025", str(run.path), is_run=True, counts=counts), title="Check: Virtual Cell Challenge 2025")
    demo.wait()
    folder = demo.runs["finetune"].path / "head"
    demo.ask(AnnotateRequest(str(folder), result=str(run.path)), title="Cell types of the prediction")
    demo.wait()
