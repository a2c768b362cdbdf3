"""A run folder: everything that was asked, what answered, and how to do it again.

    HOME/runs/20261122-151233-ab12cd/
        request.json    what was asked, as the verb got it
        manifest.json   `Manifest`: state, times, versions, seed, hashes, device, the command that reproduces it
        log.txt         remarks and, after an unexpected error, the traceback
        result.h5ad …   files of the verb, each whole or not there

A folder stands alone: it can be copied, read without the jobs database, and says itself whether its process died.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, TypeVar

from state_engine.config import Settings, database_of
from state_engine.errors import ConfigError, JobError, RunError
from state_engine.files import Unchanged, read_json, remove_parts, write_json
from state_engine.jobs.before import parent_before
from state_engine.jobs.processes import identity_of, is_alive
from state_engine.jobs.store import JobStore
from state_engine.plain import from_plain, to_plain
from state_engine.versions import package_versions

T = TypeVar("T")
FORMAT = 2  # 1 had no `parent`; it is read as well
SUMMARY = "summary.json"  # what the task of a run that is done returned; none in runs of before
RunState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
_QUEUING_SECONDS = 60.0
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,199}")


@dataclass(frozen=True)
class Manifest:
    """What is known of a run. Times are ISO 8601 in UTC, "" while unknown.

    Args:
        format: version of the folder's layout.
        id, kind, title, owner: the run, the kind of job, words for people, and whose it is ("" the local owner).
        parent: id of the run that this one is derived from; "" for none.
        state: as last written; `RunFolder.state` also notices a process that died.
        created, started, ended: times.
        elapsed: seconds from start to end, None while it runs.
        process: who ran it (`state_engine.jobs.processes.identity_of`).
        python, system: version of Python; operating system and architecture.
        versions: package name -> version, this package included.
        seed: of all randomness of the run.
        data_hash, model_hash: sha256 of the data set's file and of the weights, hex.
        device, precision: where and how it was computed.
        command: the command line that does the same again.
        settings: every choice of the verb that shaped the numbers, resolved (no "auto").
        error: what went wrong, for people.
        job: id of the job that does it, the latest where a training went on; "" in runs of earlier versions.
    """

    format: int
    id: str
    kind: str
    title: str = ""
    owner: str = ""
    state: RunState = "queued"
    created: str = ""
    started: str = ""
    ended: str = ""
    elapsed: float | None = None
    process: str = ""
    python: str = ""
    system: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    data_hash: str = ""
    model_hash: str = ""
    device: str = ""
    precision: str = ""
    command: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    error: str = ""
    parent: str = ""
    job: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A line of the list of runs. `manifest` is None when the folder is damaged; `problem` then says why."""

    id: str
    path: Path
    state: RunState | Literal["damaged"]
    manifest: Manifest | None
    problem: str = ""


# every page lists runs, of which a home has hundreds: only what changed is read
_MANIFESTS: Unchanged[Manifest] = Unchanged(10_000)
_REQUESTS: Unchanged[bool] = Unchanged(10_000)


class RunFolder:
    """A run on disk. Holds the path and nothing else: each property is that of the file as it is now, so two processes see the same."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        settings: Settings,
        kind: str,
        request: dict[str, object],
        title: str = "",
        owner: str | None = None,
        parent: str = "",
        job: str = "",
    ) -> Self:
        """A new folder with the request and a manifest in state "queued"; `run.id` is its name. `owner` None: that of the settings.

        Raises:
            TypeError, ValueError: the request is not plain JSON. RequestError: the settings are for looking only.
        """
        settings.check_changes()
        owner = settings.owner if owner is None else owner
        settings.runs.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        new = settings.runs / f".new-{run_id}"  # renamed when whole: a list of runs never sees half a folder
        new.mkdir()
        try:
            write_json(new / "request.json", request)
            manifest = Manifest(
                format=FORMAT, id=run_id, kind=kind, title=title, owner=owner, parent=parent, job=job, created=now.isoformat(),
                python=platform.python_version(), system=platform.platform(), versions=dict(package_versions()),
            )  # fmt: skip
            write_json(new / "manifest.json", to_plain(manifest))
            return cls(new.rename(settings.runs / run_id))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    @classmethod
    def open(cls, settings: Settings, run_id: str) -> Self:
        """The run with this id, its request and manifest readable.

        Raises:
            RunError: not an id, no such run, or a damaged folder.
        """
        run = cls(_path_of(settings, run_id))
        manifest = run.manifest
        _REQUESTS.get(lambda: run.request is not None, run.path / "request.json")
        if settings.shared and settings.shared not in (run_id, manifest.parent):
            raise _missing(run_id)
        return run

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def request(self) -> dict[str, object]:
        """What was asked, as plain values. Raises RunError when it cannot be read."""
        return self._read("request.json")

    def request_as(self, cls: type[T]) -> T:
        """Return what was asked.

        Raises:
            RunError: it cannot be read. ConfigError: it is no such request.
        """
        return from_plain(cls, self.request)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on disk now. Raises RunError when it cannot be read."""
        return _MANIFESTS.get(self._manifest, self.path / "manifest.json")

    def _manifest(self) -> Manifest:
        plain = self._read("manifest.json")
        try:
            manifest = from_plain(Manifest, plain)
        except ConfigError as error:
            raise _damaged(self.path, str(error)) from error
        if manifest.format not in (1, FORMAT):
            raise _damaged(self.path, f"Its layout has version {manifest.format}; this program reads version {FORMAT}.")
        if manifest.format == 1:
            return replace(manifest, format=FORMAT, parent=parent_before(manifest.kind, self.request, self.path.parent))
        return manifest

    @property
    def state(self) -> RunState:
        """The state; "lost" when the manifest says running and that process is dead, or queued and no job of the run is active."""
        return _state(self.manifest, self.path)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("queued", "running")

    @property
    def result(self) -> Path:
        """Where the verb writes its cells."""
        return self.path / "result.h5ad"

    @property
    def summary(self) -> dict[str, object] | None:
        """What the task returned, as plain values; None in runs that are not done, and in those of earlier versions."""
        return self._read(SUMMARY) if (self.path / SUMMARY).is_file() else None

    def file(self, name: str) -> Path:
        """The path of a file of this run (which need not exist).

        Raises:
            RunError: the name could point outside the folder.
        """
        if not _FILE.fullmatch(name):
            raise RunError(f"'{name[:80]}' is not the name of a file in a run.", "It must be a plain name, without folders.")
        return self.path / name

    def log(self, text: str) -> None:
        """Append a remark with the time in front."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text.rstrip()}\n")

    def start(self) -> None:
        """The state becomes "running", by this process, from now."""
        with self._alone():
            self._save(replace(self.manifest, state="running", started=_now(), process=identity_of()))

    def record(
        self,
        *,
        seed: int | None = None,
        data_hash: str | None = None,
        model_hash: str | None = None,
        device: str | None = None,
        precision: str | None = None,
        command: str | None = None,
        settings: dict[str, object] | None = None,
        job: str | None = None,
    ) -> None:
        """Add facts to the manifest; what is None stays as it is, `settings` are merged."""
        given = {
            "seed": seed, "data_hash": data_hash, "model_hash": model_hash, "device": device,
            "precision": precision, "command": command, "job": job,
        }  # fmt: skip
        with self._alone():
            old = self.manifest
            plain = to_plain(old) | {name: value for name, value in given.items() if value is not None}
            plain["settings"] = old.settings | to_plain(settings or {})
            self._save(from_plain(Manifest, plain))

    def wait_again(self) -> None:
        """The state becomes "queued" again: its worker ended before it was done."""
        remove_parts(self.path)
        with self._alone():
            self._save(replace(self.manifest, state="queued", started="", process=""))

    def finish(
        self, state: Literal["done", "failed", "cancelled", "lost"], error: str = "", ended: datetime | None = None
    ) -> None:
        """Write the end of the run (at `ended`, default: now) and remove half-written files."""
        remove_parts(self.path)
        with self._alone():
            old, now = self.manifest, ended or datetime.now(UTC)
            elapsed = round((now - datetime.fromisoformat(old.started)).total_seconds(), 3) if old.started else None
            self._save(replace(old, state=state, ended=now.isoformat(), elapsed=elapsed, error=error))

    def delete(self) -> None:
        """Remove the folder, damaged or not.

        Raises:
            RunError: it is running.
        """
        try:
            running = self.state == "running"
        except RunError:
            running = False
        if running:
            raise RunError(f"Run {self.id} is running.", "Its files are being written.", "Cancel it first.")
        # renamed first: a reader finds a whole folder or none
        going = self.path.with_name(f".deleted-{self.id}-{secrets.token_hex(2)}")
        try:
            self.path.rename(going)
        except FileNotFoundError:
            return
        shutil.rmtree(going, ignore_errors=True)

    def _read(self, name: str) -> dict[str, object]:
        try:
            value = read_json(self.path / name)
        except FileNotFoundError as error:
            raise _damaged(self.path, f"{name} is missing.") from error
        except (OSError, ValueError) as error:
            raise _damaged(self.path, f"{name} cannot be read: {error}.") from error
        if not isinstance(value, dict):
            raise _damaged(self.path, f"{name} is not an object.")
        return value

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder while the manifest is read, changed and written: two processes that end and begin a run lose nothing."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it is gone: whoever reads the manifest says so
            yield
            return
        try:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _save(self, manifest: Manifest) -> None:
        write_json(self.path / "manifest.json", to_plain(manifest))


def list_runs(settings: Settings, owner: str | None = None) -> tuple[RunInfo, ...]:
    """All runs, newest first; damaged folders are listed with the problem. `owner` None: everybody's."""
    if not settings.runs.is_dir():
        return ()
    names = sorted((p.name for p in settings.runs.iterdir() if _ID.fullmatch(p.name) and p.is_dir()), reverse=True)
    infos = [i for name in names if _seen(settings, i := _info(settings, name))]
    mine = [i for i in infos if owner is None or (i.manifest is not None and i.manifest.owner == owner)]
    # ids of one second are in no order; the manifest knows better
    return tuple(sorted(mine, key=lambda i: (i.id[:15], i.manifest.created if i.manifest else ""), reverse=True))


def derived_runs(settings: Settings, parent: str, kind: str = "") -> tuple[RunInfo, ...]:
    """Return the runs that are derived from a run, newest first; `kind` "": of every kind.

    A derived run is no older than its parent, and ids begin with the time, so that older folders are not opened.
    """
    names = [p.name for p in settings.runs.iterdir()] if settings.runs.is_dir() else []
    newer = [name for name in names if _ID.fullmatch(name) and name[:15] >= parent[:15]]
    infos = [i for name in newer if _seen(settings, i := _info(settings, name))]
    found = [i for i in infos if i.manifest and i.manifest.parent == parent and kind in ("", i.manifest.kind)]
    return tuple(sorted(found, key=lambda i: i.manifest.created if i.manifest else "", reverse=True))


def _seen(settings: Settings, info: RunInfo) -> bool:
    """Return whether settings know of a run: all of them, or the one that is shared and what is derived from it."""
    return not settings.shared or (info.manifest is not None and settings.shared in (info.id, info.manifest.parent))


def _info(settings: Settings, run_id: str) -> RunInfo:
    path = settings.runs / run_id
    try:
        manifest = RunFolder.open(settings, run_id).manifest
    except RunError as error:
        return RunInfo(run_id, path, "damaged", None, str(error))
    return RunInfo(run_id, path, _state(manifest, path), manifest)


def _state(manifest: Manifest, path: Path) -> RunState:
    if manifest.state == "running" and is_alive(manifest.process) is False:
        return "queued" if _is_queued_again(manifest, database_of(path)) else "lost"
    if manifest.state == "queued" and not _is_waited_for(manifest, database_of(path)):
        return "lost"
    return manifest.state


def _is_queued_again(manifest: Manifest, database: Path) -> bool:
    """Return whether the job of a run whose process died waits to go on."""
    if not database.exists():
        return False
    try:
        job = JobStore(database).for_run(manifest.id)
    except JobError:
        return False
    return job is not None and job.state == "queued"


def _is_waited_for(manifest: Manifest, database: Path) -> bool:
    """Return whether a queued run will be done as far as is known: a folder that was copied away stands for itself."""
    if not database.exists():
        return True
    try:
        job = JobStore(database).for_run(manifest.id)
    except JobError:
        return True
    if job is not None:
        return job.active
    # the folder is made before its job
    return (datetime.now(UTC) - datetime.fromisoformat(manifest.created)).total_seconds() < _QUEUING_SECONDS


def _path_of(settings: Settings, run_id: str) -> Path:
    if not _ID.fullmatch(run_id):
        raise RunError(
            f"'{run_id[:80]}' is not the id of a run.", "Ids look like 20261122-151233-ab12cd.", "Choose a run on Runs."
        )
    path = settings.runs / run_id
    tombstone = settings.home / "trash" / "deleted" / run_id
    if tombstone.exists() and not settings.shared and not path.exists():
        when = tombstone.read_text()[:16].replace("T", " ")
        raise RunError(
            f"Run {run_id} was deleted on {when} UTC.",
            f"What was deleted can be had back for {settings.trash_days:g} days.",
            "See 'Deleted lately' on Runs, or choose another run there.",
        )
    if path.is_symlink() or not path.is_dir():
        raise _missing(run_id)
    return path


def _missing(run_id: str) -> RunError:
    return RunError(f"There is no run {run_id}.", "It was deleted, or belongs to another installation.", "Choose a run on Runs.")


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"Run {path.name} is damaged.", why, "Delete it and run it again.")


def _now() -> str:
    return datetime.now(UTC).isoformat()
