"""The commands `app` and `worker`: the server of the pages, and the process that does their jobs. Each takes the place of this process."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from state_engine.cli.options import Write, number, path, takes, word, yes
from state_engine.config import APP, load_settings
from state_engine.errors import RequestError
from state_engine.progress import OnProgress

PORT = 8501


@takes(
    {
        "--port": number("PORT", f"of the server (default {PORT})"),
        "--address": word("ADDRESS", "that the server listens at; default: this machine only", default=None),
    }
)
def run_app(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Start the pages in the browser, with the demo."""
    if not (APP / "app.py").is_file():
        raise RequestError(
            "The pages are not here.",
            f"{APP} has no app.py.",
            "Install state-explorer from its wheel, or run it from its folder.",
        )
    flags = [
        *(["--server.port", str(options.port)] if options.port else []),
        *(["--server.address", options.address] if options.address else []),
    ]
    # what the user's environment says stands before the app's own settings
    environment = {**streamlit_settings(APP / ".streamlit" / "config.toml"), **os.environ}
    _become(["-m", "streamlit", "run", str(APP / "app.py"), *flags], environment)


@takes(
    {
        "--home": path(
            "DIR", "folder of the installation whose jobs are done; default: STATE_EXPLORER_HOME, or ~/.state-explorer"
        ),
        "--idle": number("SECONDS", "without a job, after which it ends (default 1,800)", default=1800),
        "--cold": yes("do not prepare imports and compilations"),
    }
)
def run_worker(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Do the jobs of an installation; one worker for each home. The pages start one by themselves where none runs."""
    home = options.home or load_settings().home
    words = ["--home", str(home), f"--idle={options.idle}", *(["--cold"] if options.cold else [])]
    _become(["-m", "state_engine.jobs.worker", *words], os.environ)


def _become(words: list[str], environment: Mapping[str, str]) -> None:
    """Run Python with these words in place of this process, the package importable."""
    root = str(Path(__file__).resolve().parents[2])
    found = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *words], {**environment, "PYTHONPATH": found})


def streamlit_settings(file: Path) -> dict[str, str]:
    """Return the settings of a config.toml of Streamlit as the variables it reads: `server.maxUploadSize` is STREAMLIT_SERVER_MAX_UPLOAD_SIZE."""
    if not file.is_file():
        return {}
    return {f"STREAMLIT_{_upper(name)}": value for name, value in _flat(tomllib.loads(file.read_text()))}


def _flat(settings: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value).lower() if isinstance(value, bool) else str(value)


def _upper(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace(".", "_").upper()
