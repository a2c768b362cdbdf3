"""Which metrics an evaluation can compute: the profiles of the house, and that of each challenge, by name."""

from __future__ import annotations

from state_engine.challenge.spec import known_challenges, load_rules
from state_engine.errors import ConfigError, StateError
from state_engine.metrics.profile import Profile
from state_engine.metrics.profiles import HOUSE


def profiles() -> dict[str, Profile]:
    """Return the profiles by name, those of the house first. A challenge's file that cannot be read, or has no metrics, is left out."""
    found = dict(HOUSE)
    for name in known_challenges():
        try:
            found[name] = load_rules(name).profile
        except StateError:
            continue
    return found


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        ConfigError: no such profile.
    """
    if name in HOUSE:
        return HOUSE[name]
    known = profiles()
    if name not in known:
        raise ConfigError(f"There is no profile '{name}'.", f"Known: {', '.join(known)}.")
    return known[name]
