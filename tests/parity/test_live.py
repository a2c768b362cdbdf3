"""Every variant made anew by the reference program, which then infers; our replay must write the same numbers.

Needs the reference in its own environment (STATE_PEER_PYTHON) and the scripts that make models.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.checkpoints.load import load_model
from state_engine.prediction.replay import ReplayRequest, replay
from tests.parity.make_fixtures import add_embedding, cells_job, expected_of, model_jobs, run_peer
from tests.parity.test_fixtures import AS_THE_REFERENCE, CHOICES, TOLERANCE, worst
from tests.parity.variants import LIVE, input_key

pytestmark = [pytest.mark.parity, pytest.mark.slow]

SHAPE = {"hidden": 32, "genes": 30, "embedding": 14, "set_size": 9}
OTHER_DRAWS = {"relu": ("--seed", "7", "--max-set-len", "5")}


@pytest.fixture(scope="module")
def made(peer_python: Path, oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cells.h5ad, a run directory NAME and the reference's result NAME.h5ad for every variant."""
    folder = tmp_path_factory.mktemp("reference")
    data = folder / "cells.h5ad"
    run_peer(peer_python, [cells_job(oracle.resolve(), data, 150, SHAPE["genes"])], folder)
    add_embedding(data, SHAPE["embedding"])
    jobs = []
    for number, name in enumerate(LIVE):
        jobs += model_jobs(name, oracle.resolve(), folder / name, data, SHAPE, 1000 + number, OTHER_DRAWS.get(name, ()))
    run_peer(peer_python, jobs, folder)
    return folder


@pytest.mark.parametrize("name", LIVE)
def test_replay_equals_the_reference(made, name, tmp_path):
    seed, size = (7, 5) if name in OTHER_DRAWS else (42, None)
    request = ReplayRequest(
        data=str(made / "cells.h5ad"),
        model=str(made / name),
        choices=CHOICES,
        seed=seed,
        set_size=size,
        device="cpu",
        attention=AS_THE_REFERENCE.get(name),
    )
    replay(request, tmp_path / "ours.h5ad", loaded=load_model(made / name, attention=AS_THE_REFERENCE.get(name)))
    ours = anndata.read_h5ad(tmp_path / "ours.h5ad")
    for place, expected in expected_of(made / f"{name}.h5ad", input_key(name)).items():
        got = ours.X if place == "X" else ours.obsm[place]
        assert worst(got if isinstance(got, np.ndarray) else got.toarray(), expected) < TOLERANCE, place
