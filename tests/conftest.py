"""Shared by all tests: how they are spread over the cores, and where the real data and the reference programs are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
LONGEST_FIRST = ("browser", "parity", "slow")

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads of two workers would only wait for one another
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core is left alone at the end. Files stay together."""
    if not hasattr(config, "workerinput"):
        return
    ranks: dict[str, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        rank = next((rank for rank, mark in enumerate(LONGEST_FIRST) if mark in marks), len(LONGEST_FIRST))
        ranks[str(item.path)] = min(rank, ranks.get(str(item.path), rank))
    items.sort(key=lambda item: ranks[str(item.path)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, because tests share the fixtures of their file, and all browser tests to one worker.

    This is what `--dist loadgroup` is for, but pytest-xdist 3.8 loses the groups with pytest 9.2, which computes the id of each test itself.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "browser" if "/browser/" in file else file

    return ByFile(config, log)


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
