"""Old runs go, where the installation says so, and never without a warning first.

STATE_EXPLORER_RUN_DAYS: a run that is older is listed with the day on which it will go, at least WARNING later. Then it is moved to the
trash, from which it can be had back as everything else. Nothing goes that another run needs, that waits or runs, or that was asked to stay.

HOME/ages.json    run -> day on which it will go, or "stays"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final

from state_engine.config import Settings
from state_engine.errors import StateError
from state_engine.files import read_json, write_json
from state_engine.jobs.run_folder import RunInfo
from state_engine.jobs.trash import delete_run, runs_that_need_run

WARNING: Final = timedelta(days=7)
STAYS: Final = "stays"


def due(settings: Settings, infos: Sequence[RunInfo], now: datetime | None = None) -> Mapping[str, date]:
    """Return run -> day on which it will go, for the runs that are too old; those that become so are noted, which is their warning.

    Args:
        infos: the runs that are shown; only they are warned of.
        now: default: now.
    """
    if settings.run_days is None or settings.shared:
        return {}
    today = now or datetime.now(UTC)
    noted = _noted(settings)
    oldest = today - timedelta(days=settings.run_days)
    late = [i for i in infos if i.manifest is not None and datetime.fromisoformat(i.manifest.created) < oldest and _is_over(i)]
    new = {i.id: (today + WARNING).date().isoformat() for i in late if i.id not in noted}
    if new:
        write_json(settings.home / "ages.json", {**noted, **new})
    days = {i.id: {**noted, **new}[i.id] for i in late}
    return {run: date.fromisoformat(day) for run, day in days.items() if day != STAYS}


def sweep(settings: Settings, infos: Sequence[RunInfo], now: datetime | None = None) -> tuple[str, ...]:
    """Move the runs whose day has come to the trash; return their ids. None goes without a warning of WARNING before."""
    today = (now or datetime.now(UTC)).date()
    ready = [run for run, day in due(settings, infos, now).items() if day <= today and not _needed(settings, run)]
    gone = []
    for run in ready:
        with suppress(StateError):  # it was begun again meanwhile
            delete_run(settings, run)
            gone.append(run)
    if gone:
        write_json(settings.home / "ages.json", {run: day for run, day in _noted(settings).items() if run not in gone})
    return tuple(gone)


def _needed(settings: Settings, run: str) -> bool:
    """Return whether another run needs this one; what is derived from it goes with it."""
    return any(i.manifest is None or i.manifest.parent != run for i in runs_that_need_run(settings, run))


def hand_over(before: Settings, after: Settings, runs: Sequence[str]) -> None:
    """Let what is noted of some runs go along with them to another owner."""
    noted = {run: day for run, day in _noted(before).items() if run in set(runs)}
    if noted:
        write_json(after.home / "ages.json", {**noted, **_noted(after)})


def keep(settings: Settings, run_id: str) -> None:
    """Have a run stay, however old it is.

    Raises:
        RequestError: the settings are for looking only.
    """
    settings.check_changes()
    write_json(settings.home / "ages.json", {**_noted(settings), run_id: STAYS})


def _is_over(info: RunInfo) -> bool:
    return info.state not in ("queued", "running", "damaged")


def _noted(settings: Settings) -> dict[str, str]:
    try:
        found = read_json(settings.home / "ages.json")
    except (OSError, ValueError):
        return {}
    return {str(run): str(day) for run, day in found.items()} if isinstance(found, dict) else {}
