"""Who there is on an installation, what each may use, and how much each does.

HOME/people/NAME-HASH/owner.json     `Person`, written when somebody logs in

An owner is a text: an e-mail address that the login verified, or the login's own name of a person; "" is the local owner, who has everything
where nobody logs in. Whose something is follows from the home it lies in (`Settings.of`): there is no list of rights to forget an entry of.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from state_engine.config import LOCAL, PEOPLE, Settings, gib
from state_engine.errors import ConfigError, DataError, QuotaError
from state_engine.files import read_json, size_on_disk, write_json
from state_engine.plain import from_plain, to_plain

NOTE = "owner.json"
SPARE_BYTES = 256 * 1024**2  # of the disk, that no upload takes


@dataclass(frozen=True)
class Person:
    """An owner who logged in. Times are ISO (UTC).

    Args:
        owner: who.
        first, last: when they were here first and last.
    """

    owner: str
    first: str
    last: str


def owner_of(claims: Mapping[str, object], trust_email: bool = False) -> str:
    """Return the owner that the claims of an OpenID Connect login name.

    An e-mail address counts when the login verified it, else anybody could claim any; otherwise it is the issuer's own name of the person,
    which no other person gets.

    Args:
        claims: of the id token.
        trust_email: take addresses that are not called verified, for an issuer that verifies and does not say so.

    Raises:
        ConfigError: the claims name nobody.
    """
    email, issuer, subject = (str(claims.get(name) or "").strip() for name in ("email", "iss", "sub"))
    verified = claims.get("email_verified")
    if email and (verified is True or str(verified).lower() == "true" or trust_email):
        return email.lower()
    if not subject or (not issuer and "@" in subject):  # one that looks like somebody's address, and nobody vouches for it
        raise ConfigError("The login does not say who you are.", "It gave neither a verified e-mail address nor a 'sub'.")
    return f"{subject}@{issuer}" if issuer else subject


def greet(settings: Settings, now: datetime | None = None) -> None:
    """Note that the owner of these settings was here."""
    if settings.owner == LOCAL:
        return
    when = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    settings.home.mkdir(parents=True, exist_ok=True)
    known = _person(settings.home)
    write_json(settings.home / NOTE, to_plain(Person(settings.owner, known.first if known else when, when)))


def people(settings: Settings) -> tuple[Person, ...]:
    """Return everybody who logged in, by name."""
    folders = sorted((settings.root / PEOPLE).glob("*"))
    return tuple(sorted(filter(None, map(_person, folders)), key=lambda person: person.owner))


def is_admin(settings: Settings, login: bool) -> bool:
    """Return whether the owner of these settings may see who uses what.

    Args:
        settings: of the owner.
        login: whether people log in here; without that the local owner is the only one.
    """
    return settings.owner in settings.admins if login else settings.owner == LOCAL


def used_bytes(settings: Settings) -> int:
    """Return how much disk an owner uses; what was deleted and goes by itself is not counted."""
    if not settings.home.is_dir():
        return 0
    own = [place for place in settings.home.iterdir() if place.name not in (PEOPLE, "trash")]
    return sum(size_on_disk(place) if place.is_dir() else place.lstat().st_size for place in own)


def check_quota(settings: Settings, more: int = 0) -> None:
    """Refuse what would make an owner use more disk than allowed.

    Args:
        settings: of the owner.
        more: bytes that are to be added.

    Raises:
        QuotaError: says what is used and allowed.
    """
    if settings.quota_bytes is None:
        return
    used = used_bytes(settings)
    if used + more > settings.quota_bytes or used >= settings.quota_bytes:
        raise QuotaError(
            "There is no room left for you.",
            f"You use {gib(used)} of {gib(settings.quota_bytes)}" + (f", and this needs {gib(more)}." if more else "."),
            "Delete runs, models or data sets that you no longer need.",
        )


class QuotaWatch:
    """Looks now and then, while a job writes, whether its owner uses more disk than allowed.

    Args:
        settings: of the owner.
        seconds: between two looks, at least; walking through a large home takes time, of which it may take a hundredth.
    """

    def __init__(self, settings: Settings, seconds: float = 2.0) -> None:
        self._settings, self._seconds, self._next = settings, seconds, 0.0

    def look(self) -> QuotaError | None:
        """Return why the owner may write no more; None where nothing speaks against it, or it is too early to look again."""
        started = time.monotonic()
        if self._settings.quota_bytes is None or started < self._next:
            return None
        used = used_bytes(self._settings)
        now = time.monotonic()
        self._next = now + max(self._seconds, 100 * (now - started))
        if used <= self._settings.quota_bytes:
            return None
        return QuotaError(
            "The job was stopped: there is no room left for you.",
            f"You use {gib(used)} of {gib(self._settings.quota_bytes)}.",
            "Delete runs, models or data sets that you no longer need, then go on with it.",
        )


def check_disk(folder: Path, more: int, name: str) -> None:
    """Refuse what the disk has no room for.

    Raises:
        DataError: says what is free.
    """
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if more > free:
        raise DataError(f"{name} needs {gib(more)}.", f"{max(free, 0) / 1e9:.1f} GB of disk are free.", "Make room first.")


def homes(settings: Settings) -> tuple[Settings, ...]:
    """Return the settings of every owner, the local one first."""
    return (settings.of(LOCAL), *(settings.of(person.owner) for person in people(settings)))


def _person(home: Path) -> Person | None:
    try:
        return from_plain(Person, read_json(home / NOTE))
    except (OSError, ValueError, ConfigError):
        return None
