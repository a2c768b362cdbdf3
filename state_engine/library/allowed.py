"""May this path be read? The one answer for everything that a user of a page can name: data sets, models, runs, lists.

Allowed are the demo, the data sets of this installation, and what lies below its own folders or below a folder of STATE_EXPLORER_DATA.
Links and ".." are followed first, so that neither leads out. The command line runs as its user and is not asked.
"""

from __future__ import annotations

from pathlib import Path

from state_engine.config import Settings
from state_engine.data.files.safety import check_file
from state_engine.errors import RequestError, listed
from state_engine.library.datasets import DEMO_PATH, list_datasets
from state_engine.library.foreign import call, limits_for

_OWN = ("uploads", "models", "runs", "downloads", "challenge")  # folders of HOME


def is_readable(path: str | Path, settings: Settings) -> bool:
    """Return whether a path may be read; it need not exist."""
    place = _place(path)
    if settings.shared:
        return any(place.is_relative_to(folder.resolve()) for folder in (settings.runs / settings.shared, DEMO_PATH.parent))
    folders = [settings.home / name for name in _OWN] + [DEMO_PATH.parent]
    if any(place.is_relative_to(folder.resolve()) for folder in folders) or settings.serves(place):
        return True
    # whoever runs the installation may have linked models from elsewhere into its folder
    models = [entry.resolve() for entry in settings.models.iterdir()] if settings.models.is_dir() else []
    if any(place.is_relative_to(folder) for folder in models):
        return True
    return any(place == Path(entry.path).resolve() for entry in list_datasets(settings))


def check_readable(settings: Settings, *paths: str | Path) -> None:
    """Refuse paths that may not be read; "" names none.

    Raises:
        RequestError: names the first that lies elsewhere.
    """
    for path in paths:
        if str(path) and not is_readable(path, settings):
            folders = listed([str(folder) for folder in settings.data_folders]) or "none is set"
            raise RequestError(
                f"{Path(path).name} is outside what may be read.",
                f"It is no data set, model or run of this installation, and not in a folder that may be read ({folders}).",
                "Open it on the Data page, or have its folder added to STATE_EXPLORER_DATA.",
            )


def check_data(settings: Settings, *paths: str | Path) -> None:
    """Refuse data sets that may not be read, and those that nobody opened yet unless a child process can: a job asks before it reads.

    Raises:
        RequestError: names the first that lies elsewhere.
        DataError: the first that is damaged or unsafe.
    """
    check_readable(settings, *paths)
    known = {Path(entry.path).resolve() for entry in list_datasets(settings)}
    for path in paths:
        place = Path(path).expanduser().resolve()
        new = place not in known and not place.is_relative_to(settings.runs.resolve())
        if str(path) and new and place.suffix == ".h5ad" and place.is_file():
            call(check_file, place, settings, path=place, limits=limits_for(place))


def readable(path: str | Path, settings: Settings) -> Path:
    """Return a path without links and "..".

    Raises:
        RequestError: it may not be read, or is not there.
    """
    check_readable(settings, path)
    place = _place(path)
    if not place.exists():
        raise RequestError(f"There is no {path}.", "", "Check the path.")
    return place


def _place(path: str | Path) -> Path:
    """Return where a path leads, without links and "..".

    Raises:
        RequestError: it can be no path: too long, with a zero in it, or in the home of nobody.
    """
    try:
        place = Path(path).expanduser().resolve()
        place.exists()  # some paths are refused by the system only when it is asked
    except (ValueError, OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"{str(path)[:80]!r} is no path.", f"{why}.", "Check the path.") from error
    return place


def check_no_program(program: str) -> None:
    """Refuse a request that names a program to start: a job of a page starts none.

    Raises:
        RequestError: it names one.
    """
    if program:
        raise RequestError(
            "A job starts no other program.", "cell-eval runs in an environment of its own.", "Use the command line."
        )
