"""One spoilt file, opened in a child with limits; what came of it, and whether it reached for anything outside."""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from state_engine.errors import StateError
from tests.fuzz.subjects import SUBJECTS, Subject

SECONDS = 30.0
MEMORY = 2 << 30
LONG_AGO = 1_000_000_000  # of the outside file's last reading: older than its last change, so that a reading is noted
SECRET = b"CANARY-5f1c"
Verdict = Literal["accepted", "refused", "untyped", "too slow", "too large", "died", "canary"]
GOOD: tuple[Verdict, ...] = ("accepted", "refused")


@dataclass(frozen=True)
class Outcome:
    """What came of a file: its seed, the verdict, the words, seconds, and the most memory beyond what the child began with, MB."""

    seed: str
    verdict: Verdict
    words: str
    seconds: float
    memory_mb: float


def trials(kind: str, n: int, seed: int, folder: Path) -> list[Outcome]:
    """Try n spoilt files of a kind; a file that is not well is kept in `folder/kept`."""
    subject = SUBJECTS[kind]
    good = folder / "good"
    good.mkdir(parents=True)
    subject.good(good)
    return [_trial(subject, good, f"{kind}-{seed}-{i}", folder) for i in range(n)]


def _trial(subject: Subject, good: Path, seed: str, folder: Path) -> Outcome:
    own, outside, marker = folder / seed, folder / "outside.bin", folder / "marker"
    own.mkdir()
    outside.write_bytes(SECRET * 8)
    marker.unlink(missing_ok=True)
    subject.spoil(good, own, random.Random(seed), outside, marker)
    os.utime(outside, (LONG_AGO, LONG_AGO + 1_000))
    started = time.monotonic()
    verdict, words, memory = _in_child(subject, own)
    seconds = time.monotonic() - started
    touched = outside.stat().st_atime != LONG_AGO or marker.exists() or SECRET.decode() in words
    outcome = Outcome(seed, "canary" if touched else verdict, words, seconds, memory)
    if outcome.verdict not in GOOD:
        (folder / "kept").mkdir(exist_ok=True)
        shutil.copytree(own, folder / "kept" / seed, dirs_exist_ok=True)
    shutil.rmtree(own)
    return outcome


def _in_child(subject: Subject, own: Path) -> tuple[Verdict, str, float]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, json.dumps(_open(subject, own)).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], SECONDS)
        answer = os.read(reader, 1 << 16) if ready else b""
    finally:
        os.close(reader)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    _, status, _ = os.wait4(pid, 0)
    if not ready:
        return "too slow", f"no answer within {SECONDS:g} s", 0.0
    if not answer:
        return "died", f"signal {os.waitstatus_to_exitcode(status)}", 0.0
    verdict, words, memory = json.loads(answer)
    return verdict, words, memory


def _open(subject: Subject, own: Path) -> tuple[str, str, float]:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found = subject.open(own)
        verdict, words = "accepted", repr(found)[:50_000] if found is not None and "Tensor" not in str(type(found)) else ""
        words = words if SECRET.decode() in words else ""
    except StateError as error:
        verdict, words = "refused", f"{type(error).__name__}: {error}"[:2_000]
    except MemoryError as error:
        verdict, words = "too large", str(error)
    except BaseException as error:  # noqa: BLE001 - whatever is not typed is what is looked for
        where = traceback.extract_tb(error.__traceback__)
        place = next((f"{f.filename}:{f.lineno}" for f in reversed(where) if "state_engine" in f.filename), "")
        verdict, words = "untyped", f"{type(error).__name__}: {str(error)[:200]} at {place}"
    return verdict, words, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def summary(outcomes: list[Outcome]) -> str:
    """Return the counts of each verdict, the slowest and the largest."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    slowest, largest = max(o.seconds for o in outcomes), max(o.memory_mb for o in outcomes)
    shown = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.most_common())
    return f"{len(outcomes):,} files: {shown}; slowest {slowest:.1f} s, largest {largest:,.0f} MB"
