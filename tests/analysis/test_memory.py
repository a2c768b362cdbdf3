"""Peak memory of a child process does not grow with the cells: five times the cells, the same blocks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine import keys
from tests.prediction.make_result import write_result
from tests.small import write_model
from tests.small_embedding import write_embedding_model

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
FEW, MANY = 4_000, 20_000
GENES = 600
PEAK = """
import sys
from pathlib import Path
{imports}
{call}
print(next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1024)
"""
NAMES = tuple(f"GENE{i}" for i in range(GENES))


def cells(path: Path, n: int) -> Path:
    """Counts with 150 values for each cell, in the genes and labels of the small models."""
    rng = np.random.default_rng(0)
    columns = np.sort(np.argsort(rng.random((500, GENES)), axis=1)[:, :150], axis=1)
    columns = np.tile(columns, (n // 500, 1)).ravel()
    counts = sp.csr_matrix((rng.integers(1, 5, n * 150).astype(np.float32), columns, np.arange(n + 1) * 150), shape=(n, GENES))
    labels = {"perturbation": rng.choice(["control", "IFNB1", "TNF"], n), "cell_type": rng.choice(["B", "NK"], n),
              "batch": rng.choice(["lane 1", "lane 2"], n)}  # fmt: skip
    obs = pd.DataFrame(labels, index=[f"c{i}" for i in range(n)]).astype("category")
    made = anndata.AnnData(
        counts, obs, pd.DataFrame(index=list(NAMES)), obsm={"X_e": rng.normal(size=(n, 64)).astype(np.float32)}
    )
    made.write_h5ad(path, compression="lzf")
    return path


def peak(imports: str, call: str) -> float:
    """Return the peak resident memory of a process, MB."""
    script = PEAK.format(imports=imports, call=call)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


# verb -> (imports, call on {data} in {folder}, MB that it may grow by: what is kept of each cell, and chunks). The cells more have 19 MB of
# values and positions, 4 MB of embedding, and would have 38 MB as a dense matrix
VERBS = {
    "inspect": (
        "from state_engine.data.dataset import open_dataset\nfrom state_engine.data.describe import describe",
        "describe(open_dataset('{data}'))",
        20,
    ),
    "map of an embedding": (
        "from state_engine.analysis import projection\nfrom state_engine.data.dataset import open_dataset",
        "projection.EMBEDDING_BLOCK = 512\n"
        "projection.fit_embedding(open_dataset('{data}'), 'X_e', 64, Path('{folder}/map.npz'), max_cells=500)",
        20,
    ),
    "embed": (
        "from state_engine.embedding.embed import embed\nfrom state_engine.embedding.request import EmbedRequest",
        "embed(EmbedRequest('{data}', '{folder}/se', device='cpu'), Path('{folder}/embedded.h5ad'))",
        25,
    ),
    "predict": (
        "from state_engine.data.files import matrices\nfrom state_engine.prediction import measured_cells\n"
        "from state_engine.prediction.predict import predict\nfrom state_engine.prediction.request import PredictionRequest",
        "matrices.BLOCK, measured_cells.BLOCK = 100_000, 256\n"
        "predict(PredictionRequest('{data}', '{folder}/st', ('TNF',), cells=64, device='cpu'), Path('{folder}/p.h5ad'))",
        25,
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_five_times_the_cells_take_the_same_memory(tmp_path: Path, verb: str) -> None:
    write_embedding_model(tmp_path / "se", genes=NAMES)
    write_model(tmp_path / "st")
    imports, call, most = VERBS[verb]
    peaks = [peak(imports, call.format(data=cells(tmp_path / f"{n}.h5ad", n), folder=tmp_path)) for n in (FEW, MANY)]
    assert peaks[1] - peaks[0] < most, peaks


def test_a_comparison_of_five_times_the_cells_takes_the_same_memory(tmp_path: Path) -> None:
    """Each group is read a block of genes at a time: 16,000 cells more of 600 genes have 38 MB in each of two matrices."""
    call = (
        "de.against_reference = partial(de.against_reference, block_values=400_000)\n"
        "result = open_result(Path('{path}'))\n"
        "de.differential(result, 'TNF', 'B', 'observed control', 'observed')"
    )
    imports = (
        "from functools import partial\nfrom state_engine.analysis import differential as de\n"
        "from state_engine.prediction.result import open_result"
    )
    peaks = []
    for n in (FEW, MANY):
        half = n // 2
        kinds = [keys.OBSERVED] * half + [keys.OBSERVED_CONTROL] * half
        labels = {
            "perturbation": ["TNF"] * half + ["control"] * half,
            "context": "B",
            "kind": kinds,
            "basal_cell": [f"c{i}" for i in range(n)],
        }
        obs = pd.DataFrame(labels, index=[f"c{i}" for i in range(n)])
        x = np.random.default_rng(0).random((n, GENES)).astype(np.float32)
        path = write_result(tmp_path / f"{n}.h5ad", x, x, obs)
        peaks.append(peak(imports, call.format(path=path)))
    assert peaks[1] - peaks[0] < 35, peaks
