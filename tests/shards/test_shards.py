"""Shards: each is done once, whatever happens; damaged ones again; another plan does not take what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.errors import ConfigError, JobCancelled, RequestError
from state_engine.progress import Progress
from state_engine.shards import ledger as ledgers
from state_engine.shards.executors import Local
from state_engine.shards.ledger import Ledger, held, log_lines
from state_engine.shards.plan import Plan
from state_engine.shards.run import arrays_in_order, complete, executor_of
from tests.shards.squares import Squares, plan_of


def values(ledger: Ledger) -> np.ndarray:
    return np.concatenate([arrays["squares"] for arrays, _ in arrays_in_order(ledger)])


def all_of(folder: Path, plan: Plan) -> np.ndarray:
    with held(folder, plan) as ledger:
        complete(ledger, Local(), lambda progress: None)
        return values(ledger)


def done(folder: Path) -> Counter[object]:
    return Counter(line["done"] for line in log_lines(folder) if "done" in line)


def stop_at(units: int):  # type: ignore[no-untyped-def]
    def on_progress(progress: Progress) -> None:
        if progress.done >= units:
            raise JobCancelled("Stopped by the test.")

    return on_progress


def test_interrupted_and_gone_on_with_is_the_same_and_nothing_is_done_twice(tmp_path: Path) -> None:
    plan = plan_of(Squares(20))
    undisturbed = all_of(tmp_path / "a", plan)
    with pytest.raises(JobCancelled), held(tmp_path / "b", plan) as ledger:
        complete(ledger, Local(), stop_at(7))
    with held(tmp_path / "b", plan) as ledger:
        assert 7 <= len(ledger.done) < 20
        seen: list[Progress] = []
        complete(ledger, Local(), seen.append)
        assert np.array_equal(values(ledger), undisturbed)
    assert seen[0].done >= 7 and "done before" in seen[0].message
    assert done(tmp_path / "b") == Counter(range(20))


def test_a_damaged_shard_is_computed_again_and_only_that(tmp_path: Path) -> None:
    plan = plan_of(Squares(5))
    undisturbed = all_of(tmp_path, plan)
    damaged = next(tmp_path.glob("00003-*.shard"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert np.array_equal(all_of(tmp_path, plan), undisturbed)
    assert done(tmp_path) == Counter([0, 1, 2, 3, 3, 4])


def test_shards_of_another_plan_are_not_taken(tmp_path: Path) -> None:
    all_of(tmp_path, plan_of(Squares(5)))
    other = replace(plan_of(Squares(5)), facts={"values": 4, "seed": 1})
    with held(tmp_path, other) as ledger:
        assert not ledger.done
    assert not list(tmp_path.glob("*.shard"))


def test_a_half_written_shard_is_not_done(tmp_path: Path) -> None:
    plan = plan_of(Squares(3))
    with held(tmp_path, plan):
        (tmp_path / ".part-ab-00001.shard").write_bytes(b"half")
    with held(tmp_path, plan) as ledger:
        assert not ledger.done
    assert not list(tmp_path.glob(".part-*"))


def test_threads_are_those_of_the_first_process(tmp_path: Path) -> None:
    plan = plan_of(Squares(3))
    with held(tmp_path, replace(plan, threads=3)) as ledger:
        assert ledger.threads == 3
    with held(tmp_path, replace(plan, threads=1)) as ledger:
        assert ledger.threads == 3


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        held(tmp_path, plan_of(Squares(3))),
        pytest.raises(RequestError, match="Another process"),
        held(tmp_path, plan_of(Squares(3))),
    ):
        pass


def test_the_folder_of_a_command_goes_when_all_is_done(tmp_path: Path) -> None:
    with held(tmp_path / "x", plan_of(Squares(3)), temporary=True) as ledger:
        complete(ledger, Local(), lambda progress: None)
    assert not (tmp_path / "x").exists()


def test_the_disk_is_looked_at_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(Squares(6))
    with held(tmp_path, replace(plan, merged=1 << 60)) as ledger, pytest.raises(RequestError, match="The disk is full"):
        complete(ledger, Local(), lambda progress: None)
    free = iter([1 << 40] * 3 + [0] * 9)
    monkeypatch.setattr("state_engine.files.free_bytes", lambda folder: next(free))
    with held(tmp_path, plan) as ledger, pytest.raises(RequestError, match="The disk is full"):
        complete(ledger, Local(), lambda progress: None)
    assert done(tmp_path) == Counter([0, 1])
    monkeypatch.undo()
    all_of(tmp_path, plan)
    assert done(tmp_path) == Counter(range(6))


FULL = """
import resource, sys
from pathlib import Path
from tests.shards.squares import Squares, plan_of
from tests.shards.test_shards import all_of
if sys.argv[2] != "0":
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    all_of(Path(sys.argv[1]), plan_of(Squares(4, values=100_000)))
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""


def test_a_file_that_does_not_fit_leaves_nothing_half(tmp_path: Path) -> None:
    """A limit on the size of files stops the write itself, as a full disk does between two looks at it."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    limited = subprocess.run([*command, "200000"], capture_output=True, text=True, check=False)
    assert limited.returncode == 3, limited.stderr
    assert not list(tmp_path.glob("*.shard")) and not list(tmp_path.glob(".part-*"))
    assert subprocess.run([*command, "0"], check=False).returncode == 0
    assert len(list(tmp_path.glob("*.shard"))) == 4


def test_an_executor_has_a_known_name() -> None:
    assert isinstance(executor_of("local"), Local)
    for name in ("", "spark", "ray://", "ray://host", "ray://a b:1"):
        with pytest.raises(ConfigError, match="no executor"):
            executor_of(name)


def test_the_log_survives_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / ledgers.LOG).write_text(json.dumps({"done": 1}) + '\n{"do')
    assert log_lines(tmp_path) == [{"done": 1}]


def test_a_shard_is_written_while_the_next_is_computed(tmp_path: Path) -> None:
    """A slow fake device and a slow disk: together they take little longer than one of them, and give the same numbers."""
    plan = plan_of(Squares(10, 0.1, slow_write=0.1))
    began = time.perf_counter()
    found = all_of(tmp_path / "a", plan)
    seconds = time.perf_counter() - began
    assert seconds < 1.7, "computing and writing took turns"  # one after the other: 2 seconds
    assert np.array_equal(found, all_of(tmp_path / "b", plan_of(Squares(10))))
