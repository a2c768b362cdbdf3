"""One gene of all cells from values ordered by gene: the numbers that reading all cells gives, whatever the layout and the blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.config import Settings
from state_engine.data import cell_values, gene_columns
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.gene_columns import read_column, write_columns
from state_engine.errors import GeneError, JobCancelled, RequestError, UnreadableFileError
from state_engine.library.datasets import register_made
from state_engine.library.gene_cache import find_columns, forget_columns, make_columns
from state_engine.library.people import used_bytes
from state_engine.library.trash import forget_dataset
from state_engine.progress import Progress

GENES = 40


def written(path: Path, layout: str = "csr", scale: str = "counts", n: int = 300) -> Path:
    rng = np.random.default_rng(3)
    values = rng.poisson(0.7, (n, GENES)).astype(np.float32)
    values[5] = 0  # a cell without counts
    if scale == "large":
        values[7, 3] = 100_000  # more than two bytes hold
    if scale == "log1p":
        values = np.log1p(values / np.maximum(values.sum(1, keepdims=True), 1) * 1e4).astype(np.float32)
    stored = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[layout](values)
    obs = pd.DataFrame({"perturbation": pd.Categorical(rng.choice(["control", "a"], n))}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(GENES)])
    if layout == "dense":  # some rows of var are no genes
        var["feature_types"] = pd.Categorical(["Gene Expression"] * (GENES - 2) + ["Antibody Capture"] * 2)
    anndata.AnnData(stored, obs, var).write_h5ad(path)
    return path


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("scale", ["counts", "large", "log1p"])
@pytest.mark.parametrize("values_a_block", [200, 10**6])
def test_a_gene_is_that_of_all_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, scale: str, values_a_block: int
) -> None:
    monkeypatch.setattr(gene_columns, "BLOCK_VALUES", values_a_block)
    monkeypatch.setattr("state_engine.data.dataset.CSC_PASS", 500)
    data = open_dataset(written(tmp_path / "a.h5ad", layout, scale))
    blocks = data.__class__.iter_blocks
    monkeypatch.setattr(data.__class__, "iter_blocks", lambda self, name, rows=None, block=64: blocks(self, name, rows, block))
    write_columns(data, tmp_path / "g.h5")
    every = np.arange(data.n_cells)
    for gene in (0, 3, data.n_genes - 1):
        expected = cell_values.gene_values(data.path, Choices(), Settings(tmp_path), gene, every)
        found = read_column(tmp_path / "g.h5", gene)
        assert found.dtype == np.float32 and expected.any()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read_column(tmp_path / "g.h5", gene, np.array([9, 2])), expected[[9, 2]])
    with pytest.raises(GeneError):
        read_column(tmp_path / "g.h5", data.n_genes)
    (tmp_path / "g.h5").write_bytes((tmp_path / "g.h5").read_bytes()[:900])
    with pytest.raises(UnreadableFileError):
        read_column(tmp_path / "g.h5", 0)


def test_it_is_found_while_the_file_is_what_it_was(tmp_path: Path) -> None:
    settings, path = Settings(tmp_path / "home"), written(tmp_path / "a.h5ad")
    data = open_dataset(path)
    assert find_columns(settings, data) is None
    place = make_columns(settings, data)
    before = place.stat().st_mtime_ns
    assert find_columns(settings, data) == place and make_columns(settings, data) == place and place.is_relative_to(settings.home)
    assert used_bytes(settings) >= place.stat().st_size
    os.utime(path, ns=(1, 1))  # the same content at another time
    again = open_dataset(path)
    assert find_columns(settings, again) is None and make_columns(settings, again) == place and place.stat().st_mtime_ns == before
    as_log = open_dataset(path, Choices(scale="log1p"))  # another question about the same file
    assert find_columns(settings, as_log) is None and make_columns(settings, as_log) != place
    written(path, n=301)
    other = open_dataset(path)
    assert find_columns(settings, other) is None and make_columns(settings, other) != place
    assert len(read_column(make_columns(settings, other), 0)) == 301
    forget_columns(settings, path)
    assert not list((settings.home / "genes").iterdir())


def test_it_goes_with_the_data_set_and_stays_with_one_of_the_same_content(tmp_path: Path) -> None:
    settings, twin = Settings(tmp_path / "home"), written(tmp_path / "twin.h5ad")
    entry = register_made(settings, "mine", written(tmp_path / "a.h5ad"), Choices())
    place = make_columns(settings, open_dataset(entry.path))
    assert make_columns(settings, open_dataset(twin)) == place
    forget_dataset(settings, entry.id)
    assert place.exists() and find_columns(settings, open_dataset(twin)) == place
    forget_columns(settings, twin.resolve())
    assert not place.exists()


def test_what_is_stopped_or_has_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, data = Settings(tmp_path / "home"), open_dataset(written(tmp_path / "a.h5ad"))

    def stop(progress: Progress) -> None:
        if progress.stage == "Ordering values by gene":
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        make_columns(settings, data, stop)
    assert not list((settings.home / "genes").iterdir())
    monkeypatch.setattr("state_engine.files.free_bytes", lambda folder: 10)
    with pytest.raises(RequestError, match="disk is full"):
        make_columns(settings, data)
    assert not list((settings.home / "genes").iterdir())


PEAK = """
import sys
from pathlib import Path
from state_engine.data import gene_columns
from state_engine.data.dataset import open_dataset
gene_columns.BLOCK_VALUES = 400_000
gene_columns.write_columns(open_dataset(sys.argv[1]), Path(sys.argv[2]))
print(next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1024)
"""


def wide(path: Path, n: int) -> Path:
    """Cells with 300 values each."""
    columns = np.tile(np.arange(300) * 2, n) + np.repeat(np.arange(n) % 2, 300)
    counts = sp.csr_matrix((np.full(n * 300, 3, np.float32), columns, np.arange(n + 1) * 300), shape=(n, 600))
    made = anndata.AnnData(counts, var=pd.DataFrame(index=[f"G{i}" for i in range(600)]))
    made.obs_names = [f"c{i}" for i in range(n)]
    made.write_h5ad(path, compression="lzf")
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_is_that_of_a_block_and_a_gene_is_quick(tmp_path: Path) -> None:
    peaks = []
    for n in (10_000, 34_000):
        command = [sys.executable, "-c", PEAK, str(wide(tmp_path / f"{n}.h5ad", n)), str(tmp_path / f"{n}.h5")]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 25, peaks  # 24,000 cells more have 58 MB of values and positions
    read_column(tmp_path / "34000.h5", 1)
    start = time.process_time()
    assert int((read_column(tmp_path / "34000.h5", 5) > 0).sum()) == 17_000
    assert time.process_time() - start < 0.4
