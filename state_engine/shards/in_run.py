"""Where the shards of a run lie, and whether there are any. No numpy: pages ask."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = "shards"


def is_unfinished(run: Path) -> bool:
    """Return whether a run folder has shards that are done, and are not put together yet."""
    return any((run / FOLDER).glob("*.shard"))
