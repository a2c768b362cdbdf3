"""Peak memory does not follow the number of entries, and the challenge code needs no torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_three_times_the_entries_take_the_same_memory(tmp_path: Path) -> None:
    """21.6 and 64.8 million entries (173 and 518 MB as CSR), each packed in a process of its own."""
    spec = importlib.util.spec_from_file_location("submit_benchmark", ROOT / "benchmarks" / "submit.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["submit_benchmark"] = benchmark
    spec.loader.exec_module(benchmark)
    small = benchmark.CASES["2026-small"]
    peaks = []
    for name, case in (("one", small), ("three", replace(small, genes=6_000, entries=1_800))):
        folder = tmp_path / name
        folder.mkdir()
        benchmark.make(case, folder)
        [(_, command, output)] = benchmark.commands(case, folder, None)
        code, peak = _measured(["env", f"PYTHONPATH={ROOT}", *command])
        assert code == 0
        assert output.is_file()
        peaks.append(peak)
    assert max(peaks) < 600e6
    assert abs(peaks[1] - peaks[0]) < 60e6


def _measured(command: list[str]) -> tuple[int, int]:
    """Exit code and peak bytes, started by a small process: a child's peak counts what its parent held when it forked."""
    script = (
        "import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL); _, status, usage = os.wait4(p.pid, 0);"
        "print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script, *command], capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()
    return int(code), int(peak)


def test_no_torch() -> None:
    script = "import sys; import state_engine.cli.challenge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
