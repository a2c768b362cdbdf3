"""Settings of an installation, from environment variables, as one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from state_engine.errors import ConfigError

GB = 1024**3
DATABASE = "jobs.sqlite"  # in the home
_PLACE = Path(__file__).resolve().parents[1]
# the pages and assets: beside this package in the source tree, in a package of their own (see setup.py) where it was installed
APP = next((folder for folder in (_PLACE / "state_explorer", _PLACE) if (folder / "app.py").is_file()), _PLACE)
DEMO = APP / "assets" / "demo"


@dataclass(frozen=True)
class Settings:
    """Where things lie and what is allowed.

    Args:
        home: folder of this installation: uploads, models, runs, jobs database. STATE_EXPLORER_HOME.
        data_folders: folders whose .h5ad files may be opened from the server. STATE_EXPLORER_DATA, separated by `os.pathsep`.
        max_file_bytes: largest file accepted, on disk. STATE_EXPLORER_MAX_FILE_GB.
        max_declared_bytes: largest sum of declared array sizes. STATE_EXPLORER_MAX_DECLARED_GB.
        max_cells: most cells a file may declare. STATE_EXPLORER_MAX_CELLS.
        trash_days: how long what was deleted can be had back. STATE_EXPLORER_TRASH_DAYS.
        hub_endpoint: base address of the model hub. HF_ENDPOINT.
        demo: folder of the data set and models that come with the program.
    """

    home: Path
    data_folders: tuple[Path, ...] = ()
    max_file_bytes: int = 50 * GB
    max_declared_bytes: int = 200 * GB
    max_cells: int = 20_000_000
    trash_days: float = 7.0
    hub_endpoint: str = "https://huggingface.co"
    demo: Path = DEMO

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
        return self.home / DATABASE


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
        hub_endpoint=env.get("HF_ENDPOINT", "https://huggingface.co"),
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise ConfigError(f"{name} is '{text}'.", "It must be a positive number.", f"Leave it out for {default:g}.")
    return value
