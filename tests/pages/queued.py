"""The run folder that `local.submit` makes of a request, without a job for it."""

from __future__ import annotations

from state_engine.config import Settings
from state_engine.jobs.kinds import kind_of
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain


def queued(settings: Settings, request: object, title: str = "", owner: str = "", parent: str = "") -> RunFolder:
    return RunFolder.create(settings, kind_of(request).name, to_plain(request), title, owner, parent)
