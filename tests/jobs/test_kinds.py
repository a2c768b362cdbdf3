"""Kinds of jobs and what the worker keeps warm."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import timedelta
from typing import get_type_hints

import pytest

from pages.parts.navigation import names
from pages.parts.session import THREAD
from state_engine.errors import JobError
from state_engine.jobs.kinds import KINDS, LATE_WARMUP, WARMUP, Kind, WarmCache, find_kind, kind_of, load_target, request_class


def test_kinds_are_names_and_more_can_be_given() -> None:
    assert find_kind("predict").target == "state_engine.jobs.tasks.results:predict"
    nap = Kind("nap", "datetime:timedelta", "time:sleep")
    assert find_kind("nap", [nap]) is nap and kind_of(timedelta(1), [nap]) is nap
    with pytest.raises(JobError, match="Known: predict"):
        find_kind("nap")
    with pytest.raises(JobError, match="No kind of job takes a timedelta"):
        kind_of(timedelta(1))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_its_task_and_its_request(kind: Kind) -> None:
    """The task takes the kind's own request and gives a summary, frozen dataclasses both."""
    request, hints = request_class(kind), get_type_hints(load_target(kind.target))
    assert hints["request"] is request and kind_of(request) is kind
    for cls in (request, hints["return"]):
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert list(hints) == ["request", "run", "on_progress", "warm", "return"]
    assert kind.page in ("", *names()) and kind.answer in ("", *names()) and kind.choice in THREAD


def test_what_runs_lists_has_words_for_people() -> None:
    assert [kind.name for kind in KINDS.values() if kind.listed and not kind.words] == []
    assert KINDS["annotate"].title == "cells called by a head" and Kind("nap", "m:R", "m:f").title == "nap"


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
