"""The test of genes beside SciPy, by hand, and beside pdex; sparse and dense cells, in blocks, with progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu

from state_engine.errors import JobCancelled
from state_engine.metrics.rank_tests import FLOOR, RankTests, against_reference
from state_engine.progress import Progress

N_GENES = 120


def screen() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Eleven groups and a reference, log1p of counts over depths, so that there are ties and zeros; one gene is empty, one constant."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 2, N_GENES)

    def cells(n: int, shift: float = 1.0) -> np.ndarray:
        counts = rng.poisson(rate * shift * rng.uniform(0.5, 1.5, (n, 1)))
        x = np.log1p(counts * (1e3 / np.maximum(counts.sum(axis=1, keepdims=True), 1))).astype(np.float32)
        x[:, 0], x[:, 1] = 0, 1
        return x

    groups = {f"p{i}": cells(20 + 3 * i) for i in range(10)} | {"strong": cells(150)}
    groups["strong"][:, 2:20] += 2
    return groups, cells(200)


def by_scipy(x: np.ndarray, y: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.where(v < floor, 0, v).astype(float) for v in (x, y))
    found = mannwhitneyu(x, y, use_continuity=True, method="asymptotic", axis=0)
    return found.statistic, found.pvalue


@pytest.mark.parametrize("floor", [0.0, FLOOR, 1.5])
def test_u_and_p_equal_scipy(floor: float) -> None:
    groups, reference = screen()
    found = against_reference(groups, reference, floor)
    assert found.groups == tuple(groups) and found.n_reference == 200
    for row, (name, x) in enumerate(groups.items()):
        u, p = by_scipy(x, reference, floor)
        np.testing.assert_array_equal(found.statistic[row], u, err_msg=name)
        np.testing.assert_allclose(found.p_value[row], p, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.fdr[row], false_discovery_control(p), rtol=1e-9)
        detected = x >= floor if floor else x > 0
        np.testing.assert_allclose(found.fraction[row], detected.mean(axis=0))
        np.testing.assert_allclose(found.mean[row], np.expm1(x.astype(float)).mean(axis=0), rtol=1e-5)
    assert found.p_value[-1].min() < 1e-50


def test_a_worked_example() -> None:
    """x = 1, 2, 2, 3 against y = 0, 0, 2: pairs in which x is larger 4 x 2 + 1, ties 2, so U = 9 + 1 = 10 of 12."""
    found = against_reference({"x": np.array([[1.0], [2], [2], [3]])}, np.array([[0.0], [0], [2]]), floor=0)
    # n 7, ties 2^3 - 2 (zeros) + 3^3 - 3 (twos) = 30; sigma^2 = 12/12 x (8 - 30/42); z = (10 - 6 - 0.5)/sigma
    z = 3.5 / np.sqrt(8 - 30 / 42)
    from scipy.stats import norm

    assert found.statistic[0, 0] == 10
    assert found.p_value[0, 0] == pytest.approx(2 * norm.sf(z), rel=1e-12)
    mean, base = np.expm1([1, 2, 2, 3]).mean(), np.expm1([0, 0, 2]).mean()
    assert found.log2_fold_change[0, 0] == pytest.approx(np.log2((mean + 0.1) / (base + 0.1)))


def same(a: RankTests, b: RankTests) -> None:
    for name in ("p_value", "statistic", "fraction", "fraction_reference"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-6)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array, sp.csc_matrix])
def test_sparse_cells_in_blocks_give_the_same(kind: type) -> None:
    groups, reference = screen()
    sparse = {name: kind(x) for name, x in groups.items()}
    before = sparse["strong"].copy()
    found = against_reference(sparse, kind(reference), block_values=7 * 800)
    same(found, against_reference(groups, reference))
    assert (sparse["strong"] != before).nnz == 0  # what was given is not changed


def test_progress_is_reported_and_stops_it() -> None:
    groups, reference = screen()
    seen: list[Progress] = []
    against_reference(groups, reference, on_progress=seen.append, block_values=30 * 800)
    assert len(seen) > 3 and (seen[0].done, seen[-1].done, seen[-1].total) == (0, N_GENES, N_GENES)

    def cancel(progress: Progress) -> None:
        if progress.done:
            raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        against_reference(groups, reference, on_progress=cancel, block_values=30 * 800)


def test_nothing_is_compiled_and_threads_do_not_matter() -> None:
    """With one thread for numba, and sparse cells: neither the number of threads nor a compiler is touched."""
    code = (
        "import numpy as np, scipy.sparse as sp\n"
        "from state_engine.metrics.rank_tests import against_reference\n"
        "import numba\n"
        "from numba.core.dispatcher import Dispatcher\n"
        "def refuse(*_, **__): raise AssertionError('compiled')\n"
        "Dispatcher.compile = Dispatcher._compile_for_args = refuse\n"
        "x = sp.random(60, 40, 0.3, format='csr', dtype=np.float32, random_state=0)\n"
        "for kind in (sp.csr_matrix, lambda v: v.toarray()):\n"
        "    against_reference({'a': kind(x[:30])}, kind(x[30:]))\n"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parity
@pytest.mark.slow
def test_u_and_p_equal_pdex() -> None:
    """U exactly, p within 7e-4 in log10."""
    import anndata
    import pandas as pd
    from pdex import pdex

    groups, reference = screen()
    labels = np.repeat([*groups, "reference"], [len(x) for x in (*groups.values(), reference)])
    index = pd.RangeIndex(len(labels)).astype(str)
    values = np.where((v := np.vstack([*groups.values(), reference])) < FLOOR, 0, v)
    cells = anndata.AnnData(values, pd.DataFrame({"group": labels}, index), pd.DataFrame(index=[str(i) for i in range(N_GENES)]))
    theirs = pdex(cells, "group", mode="ref", reference="reference", is_log1p=True, as_pandas=True)
    found = against_reference(groups, reference)
    for row, name in enumerate(groups):
        other = theirs[theirs["target"] == name]
        np.testing.assert_array_equal(found.statistic[row], other["statistic"])
        np.testing.assert_allclose(np.log10(found.p_value[row]), np.log10(other["p_value"]), atol=7e-4)


def test_the_package_is_not_needed_to_import(tmp_path: Path) -> None:
    code = "import sys, state_engine.metrics.rank_tests; print([m for m in ('illico', 'numba', 'anndata') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
