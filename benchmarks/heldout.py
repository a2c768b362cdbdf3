"""How well the default output predicts what no training saw, beside every baseline: trained as `train` does it by default, tested as `test`
does.

    python -m benchmarks.heldout kang --seed 0 1 2 --jobs 2          each cell type held out in turn
    python -m benchmarks.heldout kang --context NK                   one of them
    python -m benchmarks.heldout norman --set hvgs=0                 k562, the line that can tell: all its perturbations, a third held out at a time
    python -m benchmarks.heldout shared --set hvgs=0                 the nine of them that other lines have too, three at a time
    python -m benchmarks.heldout blocks --set hvgs=0                 four blocks of perturbation x cell line, one training
    python -m benchmarks.heldout simulated --seed 0 1                screens with known truth (`benchmarks.screens`), a context held out

Data: ../shared/data (or --data). Tables are printed as Markdown: a line a held-out condition, their means over the seeds, and how much smaller the
error of the default output is than that of each other prediction: the mean over conditions with an interval of 95 % (bootstrap over conditions).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.screens import CONTEXTS, KINDS, write_screen
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.report import METRICS
from state_engine.evaluation.request import HeldOutRequest
from state_engine.options import settings
from state_engine.train.fit import train_transition
from state_engine.train.request import TrainRequest, resolve

ROOT = Path(__file__).resolve().parents[1]
FILES = {"kang": "kang_ifnb.h5ad", "norman": "norman_mcfaline.h5ad", "shared": "norman_mcfaline.h5ad", "blocks": "norman_mcfaline.h5ad",
         "simulated": ""}  # fmt: skip
# labels that more than one cell line has; the screens differ (activation in k562, interference in the others)
SHARED = ("MAP2K3", "MAP2K6", "MAP3K21", "MAP4K3", "MAP4K5", "MAPK1", "PLK4", "SGK1", "TGFBR2")
BLOCKS = (("U87MG", "MAPK1"), ("A172", "MAP2K3"), ("T98G", "TGFBR2"), ("k562", "SGK1"))
LINE, FOLDS = "k562", 3  # and in how many trainings all its perturbations are held out once
NAME = "data"
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")
DEFAULT = "default"
# column -> method of the evaluation; the default output is one of the first two, as the model's card says
COLUMNS = {
    DEFAULT: "",
    "corrected": "corrected",
    "calibrated": "calibrated",
    "raw": "raw",
    "no change": "no change",
    "mean of others": "mean of other contexts",
    "likeness-weighted": "likeness-weighted mean",
    "mean of context": "mean of the context",
    "additive": "additive",
    "neighbours": "nearest neighbours",
    "ridge": "ridge",
}
METRIC, CORRELATION = "expr_mae", "delta_pearson"
BASELINES = tuple(COLUMNS)[4:]
DRAWS = 1000


@dataclass(frozen=True)
class Line:
    """A held-out condition of one training: mean absolute errors and r in the order of COLUMNS, the calibration's choice, seconds."""

    condition: str
    seed: int
    values: tuple[float, ...]
    r: tuple[float, ...]
    weights: str
    seconds: float

    def get(self, column: str) -> float:
        return self.values[list(COLUMNS).index(column)]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(plan, seed) for seed in options.seed for plan in _plans(options, Path(scratch), seed)]
        print("MAE of the mean cell (r of effects for the default output)\n", flush=True)
        print(
            "| held out | seed | " + " | ".join(COLUMNS) + " | r | weights | seconds |\n|" + "---|" * (len(COLUMNS) + 5),
            flush=True,
        )
        lines: list[Line] = []
        # a process a training, with one thread: numbers do not depend on how many run beside it
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            futures = [pool.submit(_line, options, plan, seed) for plan, seed in jobs]
            for future in as_completed(futures):
                for line in future.result():
                    lines.append(line)
                    cells = " | ".join(_number(value) for value in line.values)
                    ends = f"{line.r[0]:.3f} | {line.weights} | {line.seconds:.0f}"
                    print(f"| {line.condition} | {line.seed} | {cells} | {ends} |", flush=True)
    _print_summary(lines)


def _plans(options: argparse.Namespace, scratch: Path, seed: int) -> list[SplitPlan]:
    if options.dataset == "simulated":
        made = [(kind, write_screen(kind, scratch / f"{kind}-{seed}.h5ad", seed)) for kind in options.kind or KINDS]
        return [
            SplitPlan(((kind, str(path)),), (kind,), zeroshot=(ZeroShot(kind, f"type {seed % CONTEXTS}", "test"),))
            for kind, path in made
        ]
    path = options.data / FILES[options.dataset]
    whole = SplitPlan(((NAME, str(path)),), (NAME,))
    if options.dataset == "blocks":
        return [replace(whole, fewshot=tuple(FewShot(NAME, context, test=(label,)) for context, label in BLOCKS))]
    if options.dataset == "shared":
        return [replace(whole, fewshot=(FewShot(NAME, LINE, test=SHARED[i::3]),)) for i in range(3)]
    if options.dataset == "norman":
        dataset = open_dataset(path, CHOICES)
        here = [p for p in dataset.perturbations if p != dataset.require_control() and len(dataset.rows(p, LINE))]
        order = np.random.default_rng(seed).permutation(here).tolist()
        return [replace(whole, fewshot=(FewShot(NAME, LINE, test=tuple(order[i::FOLDS])),)) for i in range(FOLDS)]
    contexts = options.context or open_dataset(path, CHOICES).contexts
    return [replace(whole, zeroshot=(ZeroShot(NAME, context, "test"),)) for context in contexts]


def _line(options: argparse.Namespace, plan: SplitPlan, seed: int) -> list[Line]:
    """One training and its test."""
    name = plan.datasets[0][0]
    dataset = open_dataset(Path(plan.datasets[0][1]), CHOICES)
    request = resolve(options.preset, {"seed": seed, "device": options.device, **settings(TrainRequest, options.set)})
    with tempfile.TemporaryDirectory() as scratch:
        folder, start = Path(scratch) / "run", time.perf_counter()
        card = train_transition(apply_plan(plan, [(name, dataset)]), request, folder)
        seconds = time.perf_counter() - start
        found = evaluate_held_out(HeldOutRequest(run=str(folder), seeds=(seed,), device=options.device), folder / "test")
        table = pd.read_csv(folder / "test" / METRICS).set_index(["method", "metric", "perturbation", "context"])["value"]
    made = []
    for condition in found.conditions:
        where = condition.perturbation, condition.context
        words = f"{condition.context} x {condition.perturbation}"
        title = condition.context if options.dataset == "kang" else words if name == NAME else f"{name}: {words}"
        methods = {**COLUMNS, DEFAULT: card.recommended}
        values, r = (
            tuple(float(table.get((method, metric, *where), np.nan)) for method in methods.values())
            for metric in (METRIC, CORRELATION)
        )
        made.append(Line(title, seed, values, r, _weights(card), seconds))
    return made


def _weights(card: ModelCard) -> str:
    said = []
    for fitted in card.calibrations:
        each = {"": fitted, **{f" in {context}": fitted.of_context(context) for context in fitted.own}}
        said += [
            f"{c.kind}{where}: {c.chosen} {c.paired:.2f} {c.mean:.2f} {c.common:.2f} {c.features:.2f}"
            + ", control noise out" * bool(c.correction)
            for where, c in each.items()
        ]
    return "; ".join(said) or "none"


def _print_summary(lines: list[Line]) -> None:
    """Means over seeds with their spread, and how much smaller the error of the default output is."""
    print("\n| held out | " + " | ".join(COLUMNS) + " | r |\n|" + "---|" * (len(COLUMNS) + 2))
    names = sorted({line.condition for line in lines})
    means = np.array([np.mean([line.values for line in lines if line.condition == name], axis=0) for name in names])
    for name, mean in zip(names, means, strict=True):
        own = [line for line in lines if line.condition == name]
        spread = np.std([line.values[0] for line in own])
        r = np.mean([line.r[0] for line in own])
        cells = [f"{_number(mean[0])} ± {_number(spread)}", *map(_number, mean[1:])]
        print(f"| {name} | " + " | ".join(cells) + f" | {r:.3f} |")
    groups = sorted({name.partition(":")[0] for name in names}) if any(":" in name for name in names) else [""]
    for group in groups:
        rows = np.array([name.startswith(group) for name in names])
        _print_gains(group, means[rows])


def _print_gains(group: str, means: np.ndarray) -> None:
    """How much smaller the error of the default output is than each other one, in per cent; (conditions, COLUMNS) errors."""
    print(
        f"\n| {group or 'all'}: default against | smaller by % | 95 % interval | better in | at worst % |\n|---|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    for name in (*tuple(COLUMNS)[1:], "best baseline"):
        places = [list(COLUMNS).index(b) for b in BASELINES]
        other = np.nanmin(means[:, places], axis=1) if name == "best baseline" else means[:, list(COLUMNS).index(name)]
        there = np.isfinite(other)
        if not there.any():
            continue
        gain = 100 * (1 - means[there, 0] / other[there])
        draws = gain[rng.integers(0, len(gain), (DRAWS, len(gain)))].mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        counts = f"{int((gain > 0).sum())} of {len(gain)}"
        print(f"| {name} | {gain.mean():.1f} | {low:.1f} to {high:.1f} | {counts} | {gain.min():.1f} |")


def _number(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.4f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(FILES))
    parser.add_argument("--context", action="append", help="cell type to hold out (kang); may be repeated; default: each in turn")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the training")
    parser.add_argument("--kind", action="append", choices=KINDS, help="of a simulated screen; may be repeated; default: all")
    parser.add_argument("--seed", type=int, nargs="+", action="extend", help="one or more; default 0")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.seed = options.seed or [0]
    return options


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):  # read when the processes that compute start
        os.environ.setdefault(name, "1")
    main()
