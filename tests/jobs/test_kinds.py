"""Kinds of jobs and what the worker keeps warm."""

from __future__ import annotations

import subprocess
import sys

import pytest

from state_engine.errors import JobError
from state_engine.jobs.kinds import LATE_WARMUP, WARMUP, WarmCache, check_kind, load_target


def test_kinds_are_names_and_more_can_be_given() -> None:
    assert check_kind("predict", {}) == "state_engine.jobs.tasks.results:predict"
    assert check_kind("nap", {"nap": "time:sleep"}) == "time:sleep"
    with pytest.raises(JobError, match="Known: predict"):
        check_kind("nap", {})


def test_a_target_is_loaded_when_asked_for() -> None:
    assert load_target("json:dumps")([1]) == "[1]"
    assert all(callable(load_target(step)) for step in (*WARMUP, *LATE_WARMUP))


def test_the_cache_forgets_the_least_recently_used_before_it_loads() -> None:
    cache = WarmCache(capacity=2)
    cache.get_or_load(("a",), lambda: "A")
    cache.get_or_load(("b",), lambda: "B")
    assert cache.get_or_load(("a",), lambda: "loaded again") == "A"
    assert cache.get_or_load(("c",), lambda: len(cache)) == 1  # b went first
    assert cache.get_or_load(("a",), lambda: "loaded again") == "A"
    assert cache.get_or_load(("b",), lambda: "loaded again") == "loaded again"
    cache.clear()
    assert len(cache) == 0


def test_a_failed_load_is_not_kept() -> None:
    cache = WarmCache()
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load(("a",), lambda: 1 // 0)
    assert cache.get_or_load(("a",), lambda: 2) == 2


@pytest.mark.slow
def test_every_warm_up_step_works() -> None:
    code = "import sys; from state_engine.jobs.kinds import load_target; [load_target(step)() for step in sys.argv[1:]]"
    done = subprocess.run([sys.executable, "-c", code, *WARMUP, *LATE_WARMUP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
