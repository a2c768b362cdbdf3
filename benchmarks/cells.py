"""How an effect is put onto cells: how far the cells of each way are from measured ones of a context that was left out, at one mean cell.

    python -m benchmarks.cells kang                each cell type left out (and another beside it, which teaches nothing)
    python -m benchmarks.cells simulated           two contexts of each screen with known truth (`benchmarks.screens`)
    python -m benchmarks.cells network             kang, three cell types: half a trained network's effect and half the other contexts'

Columns: energy distance in 50 principal components of the training cells; Wasserstein distance of a gene, the median over genes that 5 % of
the cells express; share of expressing cells, the mean absolute difference over these genes; MAE of the mean cell; largest sum of a cell
(measured: at most 10,000). Effects are those of the other contexts (transfer), or the true ones (true): these tell the ways apart alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.screens import write_screen
from state_engine import keys
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import FeatureSource, hvg_choice, match_genes, read_features
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.effects.apply import Moving, apply_effect, below_total, within_total
from state_engine.effects.means import effect_table
from state_engine.effects.transfer import Likeness, shared_effects
from state_engine.metrics.population import Components, Marginals, energy_distance, expressed_genes

ROOT = Path(__file__).resolve().parents[1]
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")
TOTAL, HVGS = 1e4, 2000
HALF = 0.47  # of the network's and of the other contexts' effects, as calibrations of kang find
Way = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _added(cells: np.ndarray, effect: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return apply_effect(cells, effect)


def _multiplied(cells: np.ndarray, effect: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Multiply the natural values of a gene until the mean of its logarithms is the one wanted."""
    target = apply_effect(cells, effect).mean(axis=0, dtype=np.float64)
    natural = np.expm1(cells, dtype=np.float64)
    low, high = np.full(cells.shape[1], -12.0), np.full(cells.shape[1], 12.0)
    for _ in range(40):
        middle = (low + high) / 2
        below = np.log1p(natural * np.exp(middle)).mean(axis=0) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.log1p(natural * np.exp(low))


def _quantiles(cells: np.ndarray, effect: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Move the cells of a gene, by rank, onto measured values that are weighted exponentially until their mean is the one wanted."""
    rng = np.random.default_rng(1)
    added, n = apply_effect(cells, effect), len(cells)
    target, moved = added.mean(axis=0, dtype=np.float64), added.copy()
    for gene in np.flatnonzero(effect):
        values = np.sort(measured[:, gene]).astype(np.float64)
        if values[-1] <= 0 or target[gene] >= 0.95 * values[-1]:
            continue  # no measured values reach so far: added
        low, high, weights = -30.0, 30.0, values
        for _ in range(30):
            middle = (low + high) / 2
            weights = np.exp(middle * (values - values[-1]))
            weights /= weights.sum()
            low, high = (middle, high) if weights @ values < target[gene] else (low, middle)
        order = np.lexsort((rng.random(n), cells[:, gene]))
        place = np.searchsorted(np.cumsum(weights), (np.arange(n) + 0.5) / n)
        moved[order, gene] = values[np.minimum(place, len(values) - 1)]
    return moved


def _molecules(cells: np.ndarray, effect: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return Moving.of(cells, TOTAL, 1).cells(cells, apply_effect(cells, effect), ("", ""), within=True)


WAYS: dict[str, Way] = {"added": _added, "multiplied": _multiplied, "quantiles": _quantiles, "molecules": _molecules}


def _bounded(cells: np.ndarray) -> np.ndarray:
    return within_total(below_total(cells.astype(np.float32), TOTAL), TOTAL)


class _Compared:
    """Cells of one context that was left out, and what they are compared in."""

    def __init__(self, values: np.ndarray, dataset: Dataset, split: Split, label: str, context: str) -> None:
        trained = np.flatnonzero(split.sources[0].parts == 1)
        self.components = Components.of(values[np.random.default_rng(0).permutation(trained)[:1500]])
        self.control, self.measured = values[dataset.control_rows(context)], values[dataset.rows(label, context)]
        self.pool = values[np.intersect1d(dataset.control_rows(), trained)]
        self.genes = expressed_genes(self.measured, self.control)

    def measures(self, found: np.ndarray, truth: np.ndarray | None = None) -> tuple[float, ...]:
        truth = self.measured if truth is None else truth
        energy = energy_distance(self.components.cloud(found), self.components.cloud(truth))
        one, other = (Marginals.of(cells, self.genes) for cells in (found, truth))
        error = np.abs(found.mean(axis=0, dtype=np.float64) - truth.mean(axis=0, dtype=np.float64)).mean()
        largest = np.expm1(found, dtype=np.float64).sum(axis=1).max()
        return energy, one.distance(other), one.share_off(other), float(error), float(largest)


def _opened(path: Path) -> tuple[Dataset, FeatureSource, np.ndarray]:
    dataset = open_dataset(path, CHOICES)
    names = hvg_choice(dataset, min(HVGS, dataset.n_genes)).names
    source = FeatureSource("X", tuple(match_genes(dataset, names).columns.tolist()), normalise=True)
    return dataset, source, read_features(dataset, source, np.arange(dataset.n_cells))


def _split(dataset: Dataset, *contexts: str) -> Split:
    clauses = tuple(ZeroShot("s", context, "test") for context in contexts)
    return apply_plan(SplitPlan((("s", str(dataset.path)),), ("s",), zeroshot=clauses), [("s", dataset)])


def _ways(path: Path, held: list[tuple[str, ...]]) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the measures of each way, and of what it starts from, for each condition of the first of some contexts left out together."""
    dataset, source, values = _opened(path)
    for contexts in held:
        split = _split(dataset, *contexts)
        likeness = Likeness(effect_table(split, source))
        for label in dataset.perturbations[1:]:
            cells = _Compared(values, dataset, split, label, contexts[0])
            control = cells.control.mean(axis=0, dtype=np.float64)
            half = np.random.default_rng(0).permutation(len(cells.measured))
            one, other = np.array_split(half, 2)
            yield "control cells", cells.measures(cells.control)
            yield "a replicate (halves)", cells.measures(cells.measured[one], cells.measured[other])
            likeness.know(contexts[0], control)
            transfer = shared_effects(likeness, label, contexts[0]).transfer
            truth = cells.measured.mean(axis=0, dtype=np.float64) - control
            for kind, effect in (("transfer", transfer), ("true", truth)):
                assert effect is not None
                for name, way in WAYS.items():
                    yield f"{name}, {kind}", cells.measures(_bounded(way(cells.control, effect, cells.pool)))


def _network(path: Path) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the measures of a mixture of a network's and the other contexts' effects: each cell with its own effect, or all with the mean."""
    from state_engine.prediction.predict import predict
    from state_engine.prediction.request import PredictionRequest
    from state_engine.prediction.result import open_result
    from state_engine.train.once import train_once
    from state_engine.train.request import resolve

    dataset, source, values = _opened(path)
    names = hvg_choice(dataset, HVGS).names
    asked = resolve("default", {"seed": 0, "device": "cpu", "cross_fit": False, "calibrate": False, "genes": names})
    for contexts in (("CD4T", "B"), ("FCGR3A+Mono", "NK"), ("NK", "CD14+Mono")):
        split, label = _split(dataset, *contexts), dataset.perturbations[1]
        n = len(dataset.control_rows(contexts[0]))
        with tempfile.TemporaryDirectory() as scratch:
            train_once(split, asked, Path(scratch) / "run")
            run = str(Path(scratch) / "run" / "model")
            predict(
                PredictionRequest(str(path), run, (label,), (contexts[0],), n, 0, CHOICES, observed=0), Path(scratch) / "p.h5ad"
            )
            result = open_result(Path(scratch) / "p.h5ad")
            kind = result.obs[keys.KIND].to_numpy()
            own, basal = (result.read(np.flatnonzero(kind == k)) for k in (keys.PREDICTED, keys.PREDICTED_CONTROL))
        cells = _Compared(values, dataset, split, label, contexts[0])
        likeness = Likeness(effect_table(split, source))
        likeness.know(contexts[0], cells.control.mean(axis=0, dtype=np.float64))
        shared = shared_effects(likeness, label, contexts[0]).transfer
        assert shared is not None
        each = apply_effect(HALF * own + (1 - HALF) * basal, HALF * shared)
        effect = _bounded(each).mean(axis=0, dtype=np.float64) - basal.mean(axis=0, dtype=np.float64)
        yield "the network alone (corrected)", cells.measures(_bounded(own))
        yield "mixture, each cell's own effect and the shared added", cells.measures(_bounded(each))
        yield "mixture, its mean effect added", cells.measures(_bounded(apply_effect(basal, effect)))
        yield "mixture, molecules", cells.measures(Moving("molecules", TOTAL, 1).cells(basal, each, ("", ""), within=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("kang", "simulated", "network"))
    parser.add_argument("--seed", type=int, default=7, help="of simulated screens")
    options = parser.parse_args()
    kang = ROOT.parent / "shared" / "data" / "kang_ifnb.h5ad"
    with tempfile.TemporaryDirectory() as scratch:
        if options.data == "kang":
            types = open_dataset(kang, CHOICES).contexts
            runs = {"kang": _ways(kang, [(t, types[(i + 3) % len(types)]) for i, t in enumerate(types)])}
        elif options.data == "network":
            runs = {"kang": _network(kang)}
        else:
            made = {k: write_screen(k, Path(scratch) / f"{k}.h5ad", options.seed) for k in ("context-dependent", "context-free")}
            runs = {kind: _ways(path, [("type 0",), ("type 3",)]) for kind, path in made.items()}
        for name, found in runs.items():
            _print(name, list(found))


def _print(name: str, found: list[tuple[str, tuple[float, ...]]]) -> None:
    print(
        f"\n| {name} | energy distance | Wasserstein | share expressing | MAE of the mean | largest sum |\n|---|---|---|---|---|---|"
    )
    for way in dict.fromkeys(way for way, _ in found):
        rows = np.array([values for one, values in found if one == way])
        energy, gene, share, error = rows[:, :4].mean(axis=0)
        print(f"| {way} | {energy:.3f} | {gene:.4f} | {share:.4f} | {error:.4f} | {rows[:, 4].max():,.0f} |", flush=True)


if __name__ == "__main__":
    main()
