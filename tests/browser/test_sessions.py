"""Sessions of two owners at once, without a browser: all are served, nothing is mixed up (`benchmarks.sessions` measures twenty)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.sessions import measure

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_sessions_of_two_owners_with_the_same_file_and_settings() -> None:
    """Four whole stories, from a file to the numbers of a prediction: a minute on two cores, most of it in the worker's jobs."""
    with ThreadPoolExecutor(1) as thread:  # other browser tests keep an event loop in this one
        wrong, grown = thread.submit(measure, 4, cells=16, warm=True).result()
    assert wrong == [] and grown < 30
