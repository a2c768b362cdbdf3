"""What a form says of the time that its job will take: how long here, what stands before it, what runs beside it."""

from __future__ import annotations

from pages.parts import session
from pages.parts.format import duration, md, plural
from state_engine.errors import listed
from state_engine.jobs.kinds import Lane
from state_engine.jobs.past import Forecast, forecast

ALONE = "when nothing else runs (rough)"
NAMED = 2  # jobs that are called by their titles


def expected(kind: str, guess: float, model: str = "", lane: Lane = "long") -> Forecast:
    """Return what is to be expected of a job that would be queued now; see `forecast`."""
    return forecast(session.settings(), kind, guess, model, lane)


def time_words(found: Forecast, note: str = ALONE) -> str:
    """Return how long a job takes and when it starts, to stand within a sentence and end it; names are for Markdown.

    Args:
        found: what is to be expected.
        note: how a guess was made that nothing was learnt for.
    """
    return f"{span(found, note)}.{queue_words(found)}"


def span(found: Forecast, note: str = ALONE) -> str:
    """Return the time without the queue: a range where past jobs tell one, else the guess, and how it was made."""
    if not found.learnt:
        return f"about {duration(found.seconds)} on this machine's CPU {note}"
    least, most = duration(found.least), duration(found.most)
    told = f"about {most}" if found.most < 1.3 * found.least or least == most else f"{least} to {most}"
    runs = f"{found.learnt:,} such runs" if found.learnt > 1 else "such run"
    return f"{told}, by the last {runs} here"


def queue_words(found: Forecast) -> str:
    """Return a sentence about what runs or waits now, after a blank; "" where nothing does."""
    busy = listed([f"'{md(title)}'" for title in found.before[:NAMED]])
    more = len(found.before) - NAMED
    names = [busy] if busy else []
    names += [f"{more:,} more of yours"] if more > 0 else []
    names += [f"{plural(found.others, 'job')} of others"] if found.others else []
    if not names:
        return ""
    words = " and ".join(names)
    if found.wait is None:
        return f" It starts when a worker is free: before it are {words}."
    if found.wait >= 1:
        return f" It starts in about {duration(found.wait)}, behind {words}."
    return f" At the same time: {words}; then both take longer."
