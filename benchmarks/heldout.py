"""How well a State Transition model predicts what it never saw, on real data, beside two baselines: trained as `train` does it by
default, tested as `test` does.

    python -m benchmarks.heldout kang --seed 0 --seed 1 --seed 2 --jobs 2     each cell type held out in turn
    python -m benchmarks.heldout kang --context NK                            one of them
    python -m benchmarks.heldout norman --set hvgs=0                          four blocks of perturbation x cell line, one training

Data: ../shared/data (or --data). Tables are printed as Markdown: a line a training, then a line a held-out condition over the seeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

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
FILES = {"kang": "kang_ifnb.h5ad", "norman": "norman_mcfaline.h5ad"}
# labels that more than one cell line has; the screens differ (activation in k562, interference in the others)
NORMAN = (("U87MG", "MAPK1"), ("A172", "MAP2K3"), ("T98G", "TGFBR2"), ("k562", "SGK1"))
NAME = "data"
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")
# column -> method and metric of the evaluation. "r mean, uncut" is that of the mean effect as it is, before a mean below 0 becomes 0.
R_UNCUT = "r mean, uncut"
COLUMNS = {
    "r raw": ("raw", "delta_pearson"),
    "r paired": ("corrected", "delta_pearson"),
    "r mean": ("mean of other contexts", "delta_pearson"),
    R_UNCUT: ("", ""),
    "MAE raw": ("raw", "expr_mae"),
    "MAE corrected": ("corrected", "expr_mae"),
    "MAE calibrated": ("calibrated", "expr_mae"),
    "MAE mean": ("mean of other contexts", "expr_mae"),
    "MAE none": ("no change", "expr_mae"),
}


@dataclass(frozen=True)
class Line:
    """A held-out condition of one training: values in the order of COLUMNS, the calibration's weights, seconds."""

    condition: str
    seed: int
    values: tuple[float, ...]
    weights: tuple[float, float]
    seconds: float

    def get(self, column: str) -> float:
        return self.values[list(COLUMNS).index(column)]


def main() -> None:
    options = _options()
    jobs = [(plan, seed) for seed in options.seed for plan in _plans(options)]
    print("| held out | seed | " + " | ".join(COLUMNS) + " | weights | seconds |\n|" + "---|" * (len(COLUMNS) + 4), flush=True)
    lines: list[Line] = []
    # a process a training, with one thread: numbers do not depend on how many run beside it
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(_line, options, plan, seed) for plan, seed in jobs]
        for future in as_completed(futures):
            for line in future.result():
                lines.append(line)
                cells = [_number(name, value) for name, value in zip(COLUMNS, line.values, strict=True)]
                weights = "{:.2f}, {:.2f}".format(*line.weights)
                print(
                    f"| {line.condition} | {line.seed} | " + " | ".join(cells) + f" | {weights} | {line.seconds:.0f} |",
                    flush=True,
                )
    _print_summary(lines)


def _plans(options: argparse.Namespace) -> list[SplitPlan]:
    path = options.data / FILES[options.dataset]
    whole = SplitPlan(((NAME, str(path)),), (NAME,))
    if options.dataset == "norman":
        return [replace(whole, fewshot=tuple(FewShot(NAME, context, test=(label,)) for context, label in NORMAN))]
    contexts = options.context or open_dataset(path, CHOICES).contexts
    return [replace(whole, zeroshot=(ZeroShot(NAME, context, "test"),)) for context in contexts]


def _line(options: argparse.Namespace, plan: SplitPlan, seed: int) -> list[Line]:
    """One training and its test."""
    dataset = open_dataset(Path(plan.datasets[0][1]), CHOICES)
    request = resolve(options.preset, {"seed": seed, "device": options.device, **settings(TrainRequest, options.set)})
    with tempfile.TemporaryDirectory() as scratch:
        folder, start = Path(scratch) / "run", time.perf_counter()
        card = train_transition(apply_plan(plan, [(NAME, dataset)]), request, folder)
        seconds = time.perf_counter() - start
        found = evaluate_held_out(HeldOutRequest(run=str(folder), seeds=(seed,), device=options.device), folder / "test")
        table = pd.read_csv(folder / "test" / METRICS).set_index(["method", "metric", "perturbation", "context"])["value"]
    fitted = card.calibration
    uncut = {(c.perturbation, c.context): c.scores.get("r_mean", np.nan) for c in card.training.conditions}
    weights = (fitted.paired, fitted.mean) if fitted else (float("nan"), float("nan"))
    made = []
    for condition in found.conditions:
        name = condition.context if options.dataset == "kang" else f"{condition.context} x {condition.perturbation}"
        where = condition.perturbation, condition.context
        values = {name: float(table.get((*column, *where), np.nan)) for name, column in COLUMNS.items()}
        values[R_UNCUT] = uncut.get(where, np.nan)
        made.append(Line(name, seed, tuple(values.values()), weights, seconds))
    return made


def _print_summary(lines: list[Line]) -> None:
    """Means over seeds with their spread, and how often what won."""
    print("\n| held out | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for condition in sorted({line.condition for line in lines}):
        values = np.array([line.values for line in lines if line.condition == condition])
        cells = [
            f"{_number(name, mean)} ± {_number(name, spread)}"
            for name, mean, spread in zip(COLUMNS, values.mean(axis=0), values.std(axis=0), strict=True)
        ]
        print(f"| {condition} | " + " | ".join(cells) + " |")
    for words, count in _wins(lines):
        print(f"\n{words}: {count} of {len(lines)}")


def _wins(lines: list[Line]) -> Iterator[tuple[str, int]]:
    yield "MAE: corrected better than no change", sum(line.get("MAE corrected") < line.get("MAE none") for line in lines)
    yield "MAE: corrected better than the mean", sum(line.get("MAE corrected") < line.get("MAE mean") for line in lines)
    yield (
        "r: the paired effect better than the mean's, either way",
        sum(line.get("r paired") > max(line.get("r mean"), line.get(R_UNCUT)) for line in lines),
    )
    ratios = np.array([line.get("MAE calibrated") / min(line.get("MAE corrected"), line.get("MAE mean")) for line in lines])
    if not np.isnan(ratios).all():
        yield f"MAE: calibrated better than both (at worst {np.nanmax(ratios):.3f} of the better one)", int((ratios < 1).sum())


def _number(column: str, value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.3f}" if column.startswith("r ") else f"{value:.4f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(FILES))
    parser.add_argument("--context", action="append", help="cell type to hold out (kang); may be repeated; default: each in turn")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the training")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated; default 0")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.seed = options.seed or [0]
    return options


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):  # read when the processes that compute start
        os.environ.setdefault(name, "1")
    main()
