"""Write names, numbers, times and states the same way on every page."""

from __future__ import annotations

import html
import math
import re
from datetime import UTC, datetime

from state_engine.plain import minus as minus
from state_engine.plain import plural as plural
from state_engine.plain import visible

_STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "lost": "lost: its worker stopped",
}

# What Markdown, and Streamlit's colours, formulas and icons, would obey. An underscore between letters is one of a name and obeyed by none
_MARKS = re.compile(
    r"[\\`*\[\]|~$]|!(?=\[|$)|&(?=[#\w]|$)|<(?=[\w/!?]|$)|:(?=[a-z]|$)|(?<![^\W_])_|_(?![^\W_])|^[#+=>-]|^\d+(?=[.)])",
    re.IGNORECASE,
)
# Addresses, e-mail and `:smile:` are found in the finished text, where a backslash is gone already: a joiner of no width parts them
_FOUND_LATER = re.compile(r":(?=//|[\w+/-]+:)|\bwww(?=\.)|(?<=\w)@(?=\w)", re.IGNORECASE)


def md(name: object, most: int | None = 80) -> str:
    """Return a name, or any text with names of a file, model, run or person in it, for Streamlit's Markdown: shown as it is written.

    Args:
        most: characters to keep; None for all.
    """
    shown = _FOUND_LATER.sub("\\g<0>\u2060", visible(name, most).strip())
    return _MARKS.sub(_literal, shown)


def code(name: object, most: int = 80) -> str:
    """Return the name of a column or key between code marks; one that has such a mark itself stands without."""
    shown = visible(name, most).strip()
    return md(shown, None) if "`" in shown else f"`{shown}`"


def drawn(name: object, most: int | None = 80) -> str:
    """Return a name for a Plotly figure, whose words obey some HTML, and in hovers `%{…}`: shown as it is written.

    What a click gives back (customdata) keeps the name itself, and is not shown.

    Args:
        most: characters to keep; None for all, as where names are places on an axis.
    """
    return html.escape(visible(name, most), quote=False).replace("%{", "%&#123;")


def sentences(text: str, most: int = 2000) -> str:
    """Return a message with names in it, such as that of an error, for Streamlit's Markdown."""
    return md(" ".join(text.split()), most)


def _literal(found: re.Match[str]) -> str:
    """Return Markdown for characters as they are: a backslash before a mark, and after the number of a list (before its dot)."""
    text = found.group()
    return f"{text}\\" if text.isdigit() else f"\\{text}"


def state_words(state: str) -> str:
    """Return the state of a job in words."""
    return _STATES.get(state, state)


def age(created: str) -> str:
    """Return the time since an ISO date: 'just now', '5 min ago', '3 h ago', or its date."""
    then = datetime.fromisoformat(created)
    seconds = (datetime.now(UTC) - then.astimezone(UTC)).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    return then.strftime("%Y-%m-%d")


def duration(seconds: float) -> str:
    """Return a length of time: '8 s', '3 min', '2 h'."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Return a number of bytes in the largest unit that keeps it above 1, with a decimal below 100 MB or GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit in ("B", "kB") or abs(n_bytes) >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def p_value(p: float) -> str:
    """Return a p-value: 1.2e-05, or 0.031."""
    if math.isnan(p):
        return "n/a"
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def file_name(words: str, ending: str, most: int = 90) -> str:
    """Return a name for a file to take home: the words without what some systems refuse in names, and an ending such as ".csv"."""
    kept = re.sub(r'[\x00-\x1f<>:"/\\|?*]+', " ", visible(words, None))
    return (" ".join(kept.split())[:most].strip(" .") or "file") + ending
