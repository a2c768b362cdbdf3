"""How mixed batches are, beside scib-metrics in its own environment: our index is its LISI without weights (a perplexity of k), its mean on
the scale of all cells; its iLISI is the median on the scale of so many batches, from weights that fall with the distance.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from state_engine.pretrain.assess import MIXED_NEIGHBOURS, mixing

pytestmark = [pytest.mark.parity, pytest.mark.slow]

PYTHON = Path(__file__).resolve().parents[2] / ".peers" / "scib" / "bin" / "python"
SCRIPT = """
import json, sys
import numpy as np
from scib_metrics import ilisi_knn, lisi_knn
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.neighbors import NearestNeighbors
given = np.load(sys.argv[1])
x, batches, k = given["x"], given["batches"], int(given["k"])
distances, places = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(x).kneighbors(x)
near = NeighborsResults(indices=places, distances=distances)  # the cell itself is among them, and has no weight
print(json.dumps({
    "lisi": np.asarray(lisi_knn(near, batches, perplexity=k)).tolist(),
    "median": float(ilisi_knn(near, batches, perplexity=k)),
    "weighted": float(ilisi_knn(near, batches)),
}))
"""


@pytest.mark.parametrize(("apart", "shares"), [(0.0, (0.5, 0.5)), (0.6, (0.5, 0.3, 0.2)), (3.0, (0.8, 0.2))])
def test_mixing_is_the_mean_lisi_of_scib_metrics(apart: float, shares: tuple[float, ...], tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("scib-metrics (make peers) is not here")
    rng = np.random.default_rng(3)
    batches = rng.choice(len(shares), 400, p=shares)
    x = (rng.normal(size=(400, 8)) + 1 + apart * np.eye(8)[batches]).astype(np.float32)
    np.savez(tmp_path / "cells.npz", x=x, batches=batches, k=MIXED_NEIGHBOURS)
    out = subprocess.run([str(PYTHON), "-c", SCRIPT, str(tmp_path / "cells.npz")], capture_output=True, text=True, check=True)
    theirs = json.loads(out.stdout.splitlines()[-1])
    lisi = np.array(theirs["lisi"])
    whole = 1 / np.square(np.bincount(batches) / len(batches)).sum()
    ours = mixing(x, batches)
    assert ours == pytest.approx((lisi.mean() - 1) / (whole - 1), abs=2e-3)
    # what its own score is of the same cells, so that the difference is known
    assert theirs["median"] == pytest.approx((np.median(lisi) - 1) / (len(shares) - 1), abs=1e-6)
    assert theirs["weighted"] < theirs["median"] + 0.05  # fewer neighbours count, so cells look less mixed
