"""A short trial of each kind; the long one is `python -m tests.fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from state_engine.errors import DataError
from tests.fuzz import trial
from tests.fuzz.subjects import Subject

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("h5ad", 40), ("checkpoint", 40), ("zip", 20), ("vcc", 20)])
def test_spoilt_files_are_accepted_or_refused_in_a_sentence(kind: str, n: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--kind", kind, "--n", str(n), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def raises(error: Exception) -> object:
    raise error


@pytest.mark.slow
def test_each_verdict_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1.0)
    opens = {
        "accepted": lambda own: None,
        "refused": lambda own: raises(DataError("No.")),
        "untyped": lambda own: raises(OverflowError("1e999")),
        "too large": lambda own: bytearray(4 << 30),
        "too slow": lambda own: __import__("time").sleep(60),
        "died": lambda own: __import__("os")._exit(3),
        "canary": lambda own: (own.parent / "outside.bin").read_bytes(),
    }
    for verdict, reader in opens.items():
        subject = Subject(lambda good: None, lambda good, own, chance, outside, marker: None, reader)
        monkeypatch.setitem(trial.SUBJECTS, verdict, subject)
        (outcome,) = trial.trials(verdict, 1, 0, tmp_path / verdict.replace(" ", "-"))
        assert outcome.verdict == verdict, outcome
