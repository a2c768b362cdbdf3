"""Do the bands of doubt hold? Of predicted genes in each band, how many keep their direction in a replicate.

    python -m benchmarks.bands --seed 0 1 2                  kang: each cell type held out in turn, predicted by the mean of the other ones
    python -m benchmarks.bands --model --context NK          the same by a training with its default recipe: bands as its card has them

The bands of a held-out cell type are fitted without it: each of the others is predicted from the rest. The replicate is one half of the measured
cells, perturbed and control, drawn by the seed; "all" are all of them. Data: ../shared/data (or --data).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import Bands
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import FeatureSource, read_features
from state_engine.data.splits.apply import TEST, VAL, apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.effects.apply import applied_mean
from state_engine.effects.bands import BANDS, bands_of, fit_bands

ROOT = Path(__file__).resolve().parents[1]
FILE, LABEL, NAME = "kang_ifnb.h5ad", "stimulated", "data"
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")


@dataclass(frozen=True, eq=False)
class Context:
    """Cells (log1p) of one cell type: perturbed (n, g), control (m, g)."""

    perturbed: np.ndarray
    control: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        return self.perturbed.mean(axis=0, dtype=np.float64) - self.control.mean(axis=0, dtype=np.float64)

    def half(self, rng: np.random.Generator) -> np.ndarray:
        """Return the effect (g,) of half of the cells."""
        a, b = (rng.permutation(len(cells))[: len(cells) // 2] for cells in (self.perturbed, self.control))
        return Context(self.perturbed[a], self.control[b]).effect


def read_contexts(dataset: Dataset) -> dict[str, Context]:
    source = FeatureSource(str(dataset.expression), None, dataset.scale.require() == "counts")
    return {
        str(c): Context(
            read_features(dataset, source, dataset.rows(LABEL, c)), read_features(dataset, source, dataset.control_rows(c))
        )
        for c in dataset.contexts
    }


def by_others(contexts: dict[str, Context], name: str, others: list[str]) -> np.ndarray:
    """Return the effect that the mean of other cell types has on one's mean control cell, (g,)."""
    control = contexts[name].control.mean(axis=0, dtype=np.float64)
    return applied_mean(control, np.mean([contexts[o].effect for o in others], axis=0)) - control


def transferred(contexts: dict[str, Context], name: str) -> tuple[np.ndarray, Bands | None]:
    """Return the effect of a held-out cell type by the mean of the others, and bands that were fitted without it."""
    rest = [o for o in contexts if o != name]
    predicted = [by_others(contexts, c, [o for o in rest if o != c]) for c in rest]
    return by_others(contexts, name, rest), fit_bands(predicted, [contexts[c].effect for c in rest], "left-out cell types")


def trained(dataset: Dataset, name: str, seed: int, steps: int) -> tuple[np.ndarray, Bands | None]:
    """Return the same of a training that never saw the cell type: its corrected mean cell by the weights of its card, and the card's bands."""
    from state_engine.checkpoints.load import load_model
    from state_engine.effects.mixture import Mixture, mixed_mean
    from state_engine.effects.store import load_effects
    from state_engine.train.conditions import validation_conditions
    from state_engine.train.fit import train_transition
    from state_engine.train.request import resolve

    plan = SplitPlan(((NAME, str(dataset.path)),), (NAME,), zeroshot=(ZeroShot(NAME, name, "test"),))
    split = apply_plan(plan, [(NAME, dataset)])
    more = {"optimiser.steps": steps} if steps else {}
    with tempfile.TemporaryDirectory() as scratch:
        train_transition(split, resolve("default", {"run.seed": seed, "network.hvgs": 0, **more}), Path(scratch) / "run")
        loaded = load_model(Path(scratch) / "run" / "model")
        effects = load_effects(Path(scratch) / "run" / "model")
        sources = tuple(replace(at, parts=np.where(at.parts == TEST, VAL, at.parts).astype(np.uint8)) for at in split.sources)
        assert effects is not None
        condition = next(iter(validation_conditions(loaded, effects, replace(split, sources=sources), seed)))
    fitted = loaded.card.calibration
    if fitted is None:
        return applied_mean(condition.control, condition.paired) - condition.control, loaded.card.bands
    mixture = Mixture(fitted.paired, fitted.mean, fitted.common, fitted.features, fitted.correction)
    return mixed_mean(condition, mixture, nonnegative=True) - condition.control, fitted.bands


def main() -> None:
    options = _options()
    dataset = open_dataset(options.data / FILE, CHOICES)
    contexts = read_contexts(dataset)
    print(
        "| held out | seed | "
        + " | ".join(f"{band}: genes, replicate, all" for band in BANDS)
        + " |\n|"
        + "---|" * (len(BANDS) + 2)
    )
    held: dict[str, list[tuple[int, float, float]]] = {band: [] for band in BANDS}
    for seed in options.seed:
        for name in options.context or contexts:
            effect, bands = trained(dataset, name, seed, options.steps) if options.model else transferred(contexts, name)
            replicate, band = contexts[name].half(np.random.default_rng(seed)), bands_of(effect, bands)
            cells = []
            for each in BANDS:
                here = band == each
                shares = [_share(effect[here], measured[here]) for measured in (replicate, contexts[name].effect)]
                held[each].append((int(here.sum()), *shares))
                cells.append(f"{here.sum():,}, {shares[0]:.1%}, {shares[1]:.1%}" if here.any() else "none")
            print(f"| {name} | {seed} | " + " | ".join(cells) + " |", flush=True)
    pooled = []
    for each in BANDS:
        there = [row for row in held[each] if row[0]]
        n = sum(row[0] for row in there)
        pooled.append(", ".join([f"{n:,}", *(f"{sum(r[0] * r[i] for r in there) / n:.1%}" for i in (1, 2))]) if n else "none")
    print("| all genes together | | " + " | ".join(pooled) + " |")


def _share(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(((np.sign(predicted) == np.sign(measured)) & (measured != 0)).mean()) if len(predicted) else float("nan")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--context", action="append", default=[])
    parser.add_argument("--model", action="store_true", help="a training in the place of the mean of other cell types")
    parser.add_argument("--steps", type=int, default=0, help="of the training; 0: its default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
