"""What a training job is asked for, how it is started, and how a stopped one goes on. No torch: pages import this."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.store import is_store, read_card
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.data.splits.plan import SplitPlan, parse_plan, plan_files
from state_engine.errors import ConfigError, JobError, RequestError, SplitError
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.library.allowed import is_readable
from state_engine.library.datasets import list_datasets
from state_engine.options import words
from state_engine.train.adapt import adapting
from state_engine.train.request import TrainRequest, resolve

KIND = "train"
RESUMABLE = (KIND, "pretrain", "screen")  # kinds that go on from what is in their run
OUTPUT = "training"


@dataclass(frozen=True)
class TrainJob:
    """A training on a server.

    Args:
        split: the TOML text; places of data sets are absolute.
        request: what to train.
        choices: columns, control and scale of the data, for every file alike.
        init_from: folder of a model or of a training whose weights are the start; "" for new ones.
        data: id of the data set it was asked from, for pages.
    """

    split: str
    request: TrainRequest
    choices: Choices = Choices()
    init_from: str = ""
    data: str = ""


def training_folder(run: RunFolder) -> Path:
    """Return where the training of a run lies: log.csv, validation.csv, checkpoints/, model/ and the files that arc-state reads."""
    return run.path / OUTPUT


def job_request(run: RunFolder) -> TrainJob:
    """Return what the training of a run was asked for.

    Raises:
        ConfigError: it cannot be understood any more.
    """
    return run.request_as(TrainJob)


def start(settings: Settings, job: TrainJob, title: str, expected: float | None = None) -> str:
    """Queue a training; return the id of its run. `expected`: seconds that were guessed for it.

    Raises:
        RequestError, SplitError: see `check_places`; ConfigError: devices that a job cannot use.
    """
    check_places(parse_plan(job.split), settings)
    check_devices(job)
    return local.submit(settings, job, title, expected=expected)[1]


def resume(settings: Settings, run: RunFolder) -> str:
    """Queue a stopped training, pretraining or screen again: it goes on from what is done, in the same run. Return the job's id.

    Raises:
        JobError: it is waiting, running or done, or of another kind.
    """
    settings.check_changes()
    local.look_after(settings)
    store = JobStore(settings.database)
    job = store.for_run(run.id)
    state = job.state if job is not None and job.active else run.state
    kind = run.manifest.kind
    if kind not in RESUMABLE or state in ("queued", "running", "done"):
        raise JobError(
            f"Run {run.id} cannot go on.",
            f"It is {state}." if kind in RESUMABLE else f"It is no training but '{kind}'.",
            "Only a training that was stopped, failed or lost goes on.",
        )
    return local.queue_again(settings, run)


def check_places(plan: SplitPlan, settings: Settings) -> None:
    """Refuse a plan with files that may not be read (`library.allowed`).

    Raises:
        RequestError: names the files that lie elsewhere. SplitError: a place without files.
    """
    for name, file in plan_files(plan, settings.home):
        if not is_readable(file, settings):
            raise RequestError(
                f"The split's data set '{name}' is outside what may be read.",
                f"{file.name} is neither a data set of this installation nor below one of its data folders.",
                "Open it on the Data page, or have its folder added to STATE_EXPLORER_DATA.",
            )


def placed(plan: SplitPlan, settings: Settings, chosen: tuple[str, str]) -> tuple[SplitPlan, tuple[str, ...]]:
    """Return the plan of somebody's TOML with its places found on this installation, and remarks on what was decided.

    A data set is looked for below the data folders, then by file name among the data sets that are open; the only one of a plan is
    taken to be the chosen data set.

    Args:
        chosen: (name, path) of the chosen data set.

    Raises:
        SplitError: a data set is not found.
    """
    entries = {Path(e.path).name: e.path for e in list_datasets(settings)} | {e.name: e.path for e in list_datasets(settings)}
    found, remarks = [], []
    for name, where in plan.datasets:
        place = _below(name, where, settings) or entries.get(Path(where).name)
        if place is None and len(plan.datasets) == 1:
            place = chosen[1]
            remarks.append(f"The split's data set '{name}' ({where}) is not here; it is taken to be {chosen[0]}.")
        if place is None:
            raise SplitError(
                f"The split's data set '{name}' is not here.",
                f"'{where}' is not below the data folders of this installation, and no open data set is called so.",
                "Open it on the Data page first.",
            )
        found.append((name, place))
    return dataclasses.replace(plan, datasets=tuple(found)), tuple(remarks)


def _below(name: str, where: str, settings: Settings) -> str | None:
    """The place as an absolute one, when it matches files in a data folder."""
    for folder in settings.data_folders:
        place = str(folder / where)
        try:
            check_places(SplitPlan(((name, place),), (name,)), settings)
        except (SplitError, RequestError):
            continue
        return place
    return None


def check_devices(job: TrainJob) -> None:
    """Refuse several devices or nodes, which need processes of their own.

    Raises:
        ConfigError: says which command does it.
    """
    if job.request.run.all_devices > 1:
        raise ConfigError(
            "A training job uses one device.",
            f"It asks for {job.request.run.devices} on {job.request.run.nodes} nodes, which need processes of their own.",
            "Use the command line: " + command_of(job),
        )


def command_of(job: TrainJob, split: str = "split.toml", output: str = "RUN") -> str:
    """Return the command line that trains the same again."""
    base, flag = resolve(job.request.run.preset), "--init-from"
    if job.request.optimiser.tune and is_store(Path(job.init_from)):
        base, flag = adapting(base, read_card(Path(job.init_from))), "--adapt"
    start = [flag, job.init_from] if job.init_from else []
    asked = [*words(job.request, base), *words(job.choices)]
    return shlex.join(["python", "-m", "state_engine", "train", "--split", split, *asked, *start, "--output", output])
