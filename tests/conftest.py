"""Shared by all tests: how they are spread over the cores, and where the real data and the reference programs are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
# groups of files that must not run beside one another; every other file is a group of its own, because its fixtures are shared
ALONE = {"browser": "browser"}
LONGEST_FIRST = ("browser", "parity", "slow")

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads of two workers would only wait for one another
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name the group of each test, and begin with the groups that take longest, so that no core is left alone at the end."""
    if not hasattr(config, "workerinput"):
        return
    ranks: dict[str, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        group = next((group for mark, group in ALONE.items() if mark in marks), str(item.path))
        if "xdist_group" not in marks:
            item.add_marker(pytest.mark.xdist_group(group))
        rank = next((rank for rank, mark in enumerate(LONGEST_FIRST) if mark in marks), len(LONGEST_FIRST))
        ranks[str(item.path)] = min(rank, ranks.get(str(item.path), rank))
    items.sort(key=lambda item: ranks[str(item.path)])


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an installation that the tests of a file share; the folder that it is in is theirs too."""
    return tmp_path_factory.mktemp("installation") / "home"


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
