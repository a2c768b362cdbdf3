"""Shared by all tests: where the real data and the reference programs are, and why a test is skipped without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the small real data sets (kang_ifnb.h5ad, norman_mcfaline.h5ad, pbmc3k.h5ad)."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets (../shared/data) are not here")
    return folder


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder of the scripts that make checkpoints with the reference program."""
    folder = SHARED / "oracle"
    if not folder.is_dir():
        pytest.skip("the oracle scripts (../shared/oracle) are not here")
    return folder


@pytest.fixture(scope="session")
def peer_python() -> Path:
    """Python of the environment that has arc-state: STATE_PEER_PYTHON, or .peers/arc-state made by `make peers`."""
    python = Path(os.environ.get("STATE_PEER_PYTHON", ROOT / ".peers" / "arc-state" / "bin" / "python"))
    if not python.exists():
        pytest.skip("arc-state is not installed beside (run `make peers`, or set STATE_PEER_PYTHON)")
    return python
