"""Links that show one run to others, for looking only: made by its owner, revoked by its owner.

HOME/shares/KEY.json     `Share`; KEY is a hash of the link's token, which is told once, when the link is made

Whoever has a link sees the run as its owner does, through settings that know of no other run, data set or model and refuse every change.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from state_engine.config import Settings
from state_engine.errors import ConfigError, RequestError
from state_engine.files import read_json, write_json
from state_engine.plain import from_plain, to_plain


@dataclass(frozen=True)
class Share:
    """A link.

    Args:
        id: names it for its owner; the token cannot be told from it.
        owner: who made it.
        run: id of the run that it shows.
        created: ISO time (UTC).
    """

    id: str
    owner: str
    run: str
    created: str


def share_run(settings: Settings, run: str) -> str:
    """Make a link to a run of the owner of these settings; return its token, which is not kept.

    Raises:
        RequestError: these settings are themselves for looking only.
    """
    settings.check_changes()
    token = secrets.token_urlsafe(24)
    share = Share(_key(token), settings.owner, run, datetime.now(UTC).isoformat(timespec="seconds"))
    folder = settings.root / "shares"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{share.id}.json", to_plain(share))
    return token


def shares_of(settings: Settings, run: str) -> tuple[Share, ...]:
    """Return the links to a run that its owner made, newest first."""
    if settings.shared:
        return ()
    found = filter(None, (_read(settings, path.stem) for path in (settings.root / "shares").glob("*.json")))
    mine = [share for share in found if (share.owner, share.run) == (settings.owner, run)]
    return tuple(sorted(mine, key=lambda share: share.created, reverse=True))


def revoke(settings: Settings, identity: str) -> None:
    """Make a link of the owner of these settings lead nowhere; one of somebody else's is like one that is not there.

    Raises:
        RequestError: there is no such link.
    """
    settings.check_changes()
    share = _read(settings, identity)
    if share is None or share.owner != settings.owner:
        raise RequestError("There is no such link.", "It was revoked already.")
    (settings.root / "shares" / f"{identity}.json").unlink(missing_ok=True)


def hand_over(before: Settings, after: Settings, runs: Sequence[str]) -> None:
    """Let the links to some runs go along with them to another owner, so that they lead where they led."""
    for run in runs:
        for share in shares_of(before, run):
            write_json(after.root / "shares" / f"{share.id}.json", to_plain(replace(share, owner=after.owner)))


def opened_by(settings: Settings, token: str) -> Settings | None:
    """Return settings that see the run of a link and nothing else; None when the link was revoked or never was."""
    share = _read(settings, _key(token))
    return replace(settings.of(share.owner), shared=share.run) if share is not None else None


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:40]


def _read(settings: Settings, identity: str) -> Share | None:
    if not identity.isalnum():
        return None
    try:
        return from_plain(Share, read_json(settings.root / "shares" / f"{identity}.json"))
    except (OSError, ValueError, ConfigError):
        return None
