"""Settings of an installation, from environment variables, as one frozen value, and whose home they lead to.

    HOME/                     of the installation: the queue of jobs, and everything of the local owner
    HOME/people/NAME-HASH/    of each person who logs in: the same folders once more

Everything that a person has lies in one home, so an id, a list, a path that may be read and the key of a cache are that person's alone:
what is another's is not there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from state_engine.errors import ConfigError, RequestError

GB = 1024**3
DATABASE = "jobs.sqlite"  # in the home of the installation
PEOPLE = "people"  # there, too
LOCAL = ""  # the owner of everything where nobody logs in
_PLACE = Path(__file__).resolve().parents[1]
# the pages and assets: beside this package in the source tree, in a package of their own (see setup.py) where it was installed
APP = next((folder for folder in (_PLACE / "state_explorer", _PLACE) if (folder / "app.py").is_file()), _PLACE)
DEMO = APP / "assets" / "demo"


def gib(n_bytes: float) -> str:
    """Return bytes as the settings count them, in units of 1,024³ bytes: '50 GiB'; little in smaller ones: '1,560 bytes', '1.5 MiB'."""
    for unit, size in (("GiB", GB), ("MiB", GB >> 10)):
        if n_bytes >= size / 10:
            return f"{n_bytes / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{n_bytes:,.0f} bytes"


@dataclass(frozen=True)
class Settings:
    """Where things lie and what is allowed.

    Args:
        home: folder of the owner: uploads, models, runs. STATE_EXPLORER_HOME is that of the installation (`root`).
        data_folders: folders whose .h5ad files may be opened from the server. STATE_EXPLORER_DATA, separated by `os.pathsep`.
        max_file_bytes: largest file accepted, on disk. STATE_EXPLORER_MAX_FILE_GB.
        max_declared_bytes: largest sum of declared array sizes. STATE_EXPLORER_MAX_DECLARED_GB.
        max_cells: most cells a file may declare. STATE_EXPLORER_MAX_CELLS.
        trash_days: how long what was deleted can be had back. STATE_EXPLORER_TRASH_DAYS.
        executor: where shards of long work are computed: local, ray or ray://host:port. STATE_EXPLORER_EXECUTOR.
        shard_bytes: of a shard, about. STATE_EXPLORER_SHARD_MB.
        hub_endpoint: base address of the model hub. HF_ENDPOINT.
        run_days: runs older than this go, a week after a warning (`jobs.ages`); None: they stay. STATE_EXPLORER_RUN_DAYS.
        quota_bytes: disk that an owner may use; None: no limit. STATE_EXPLORER_QUOTA_GB.
        most_queued: jobs of an owner that may wait. STATE_EXPLORER_MAX_QUEUED.
        most_running: jobs of an owner that may run at the same time. STATE_EXPLORER_MAX_RUNNING.
        admins: owners who see the Admin page. STATE_EXPLORER_ADMINS, separated by commas.
        trust_email: whether the login's e-mail addresses count although it does not call them verified. STATE_EXPLORER_TRUST_EMAIL.
        demo: folder of the data set and models that come with the program.
        owner: whose home it is: an e-mail address, or what the login calls a person; "" the local owner. STATE_EXPLORER_OWNER.
        shared: id of the only run that these settings see, and may not change (`library.shares`); "" for all.
    """

    home: Path
    data_folders: tuple[Path, ...] = ()
    max_file_bytes: int = 50 * GB
    max_declared_bytes: int = 200 * GB
    max_cells: int = 20_000_000
    trash_days: float = 7.0
    executor: str = "local"
    shard_bytes: int = 64 * 1024**2
    hub_endpoint: str = "https://huggingface.co"
    demo: Path = DEMO
    run_days: float | None = None
    quota_bytes: int | None = None
    most_queued: int | None = None
    most_running: int | None = None
    admins: tuple[str, ...] = ()
    trust_email: bool = False
    owner: str = LOCAL
    shared: str = ""

    def of(self, owner: str) -> Settings:
        """Return the same installation as an owner has it."""
        return replace(self, owner=owner, home=self.root / PEOPLE / folder_of(owner) if owner else self.root)

    def serves(self, place: Path) -> bool:
        """Return whether a file, without links and "..", lies in a data folder that everybody may read.

        What lies in the installation's own folder is somebody's, also where a data folder holds it (a home directory, say).
        """
        root = self.root.resolve()
        if place.is_relative_to(root / PEOPLE):
            return False
        resolved = [folder.resolve() for folder in self.data_folders]
        known = (folder for folder in resolved if not place.is_relative_to(root) or root in folder.parents)
        return any(place.is_relative_to(folder) for folder in known)

    def check_changes(self) -> None:
        """Refuse to change anything through settings that are for looking only.

        Raises:
            RequestError: they are.
        """
        if self.shared:
            raise RequestError("This run was shared for looking.", "Only whoever owns it can change or compute something.")

    @property
    def root(self) -> Path:
        """Folder of the installation, in which the queue is."""
        return self.home.parents[1] if self.owner else self.home

    @property
    def uploads(self) -> Path:
        return self.home / "uploads"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def database(self) -> Path:
        return self.root / DATABASE


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, with defaults.

    Raises:
        ConfigError: a number that is not one.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("STATE_EXPLORER_HOME", "~/.state-explorer")).expanduser().resolve()
    folders = [Path(p).expanduser().resolve() for p in env.get("STATE_EXPLORER_DATA", "").split(os.pathsep) if p]
    return Settings(
        home=home,
        data_folders=tuple(folders),
        max_file_bytes=int(_number(env, "STATE_EXPLORER_MAX_FILE_GB", 50) * GB),
        max_declared_bytes=int(_number(env, "STATE_EXPLORER_MAX_DECLARED_GB", 200) * GB),
        max_cells=int(_number(env, "STATE_EXPLORER_MAX_CELLS", 20_000_000)),
        trash_days=_number(env, "STATE_EXPLORER_TRASH_DAYS", 7),
        executor=env.get("STATE_EXPLORER_EXECUTOR", "local"),
        shard_bytes=int(_number(env, "STATE_EXPLORER_SHARD_MB", 64) * 1024**2),
        hub_endpoint=env.get("HF_ENDPOINT", "https://huggingface.co"),
        run_days=_number(env, "STATE_EXPLORER_RUN_DAYS", 1) if env.get("STATE_EXPLORER_RUN_DAYS") else None,
        quota_bytes=_limit(env, "STATE_EXPLORER_QUOTA_GB", GB),
        most_queued=_limit(env, "STATE_EXPLORER_MAX_QUEUED"),
        most_running=_limit(env, "STATE_EXPLORER_MAX_RUNNING"),
        admins=tuple(filter(None, (name.strip() for name in env.get("STATE_EXPLORER_ADMINS", "").split(",")))),
        trust_email=env.get("STATE_EXPLORER_TRUST_EMAIL", "") == "1",
    ).of(env.get("STATE_EXPLORER_OWNER", LOCAL))


def folder_of(owner: str) -> str:
    """Return the name of an owner's folder: readable, and with a hash, so that no two owners share one."""
    plain = re.sub(r"[^a-z0-9]+", "-", owner.lower())[:40].strip("-") or "person"
    return f"{plain}-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"


def database_of(run: Path) -> Path:
    """Return the database of jobs of the installation that a run's folder lies in."""
    home = run.parents[1]
    return (home.parents[1] if home.parent.name == PEOPLE else home) / DATABASE


def _limit(env: Mapping[str, str], name: str, unit: int = 1) -> int | None:
    """Return what a variable allows, None for as much as one likes."""
    return int(_number(env, name, 1) * unit) if env.get(name) else None


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise ConfigError(f"{name} is '{text}'.", "It must be a positive number.", f"Leave it out for {default:g}.")
    return value
