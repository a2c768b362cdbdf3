"""The log of server and worker: lines for people, or with STATE_EXPLORER_LOG=json one JSON object a line, with the id of the run.

{"time": "2026-11-29T07:40:00+00:00", "level": "INFO", "logger": "state_engine.worker", "message": "…", "run": "…", "job": "…"}
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

FIELDS = ("run", "job", "kind", "owner")  # given to a call as extra={"run": …}


class JsonLines(logging.Formatter):
    """One JSON object for each record; what a call gave as `extra` among `FIELDS` is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(getattr(record, name)) for name in FIELDS if getattr(record, name, "")}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_log() -> None:
    """Send the log of this process to standard error, in the form that STATE_EXPLORER_LOG names ("text" or "json")."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("STATE_EXPLORER_LOG", "text") == "json"
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=as_json)
