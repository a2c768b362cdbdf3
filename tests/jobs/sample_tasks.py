"""Kinds of jobs for the tests of the worker. Imported by the worker process only."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from state_engine.errors import LabelError
from state_engine.files import replacing
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.progress import OnProgress, Progress


def steps(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """`total` steps of `seconds` each, with a remark, a seed and a file."""
    total = request["total"]
    run.record(seed=7, settings={"total": total})
    for done in range(total):
        on_progress(Progress("Counting", done, total, "halfway" if done == total // 2 else ""))
        time.sleep(request.get("seconds", 0.0))
    on_progress(Progress("Counting", total, total))
    with replacing(run.file("result.txt")) as path:
        path.write_text(str(total))
    return {"total": total}


def no_label(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """Fails as a verb does."""
    raise LabelError("There is no control.", "No cell is labelled so.", "Choose another label.")


def crash(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """Fails as a bug does."""
    raise {"zero": ZeroDivisionError, "exit": SystemExit, "memory": MemoryError}[request["how"]]("the cause")


def unserialisable(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """Returns what JSON does not know."""
    return {"value": object()}


def stuck(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """One long call that never looks whether it is to stop, in the middle of writing a file, with a child process."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with replacing(run.file("result.txt")) as path:
        path.write_text("half")
        on_progress(Progress("Stuck", 0, 0, f"child {child.pid}"))
        time.sleep(60)
    return {}


def cached(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """Says whether the value was loaded by this job or was warm."""
    loads: list[int] = []
    warm.get_or_load(("model", request["name"]), lambda: loads.append(1))
    return {"loaded": len(loads)}
