"""How well a small State Transition model predicts what it never saw, on real data, beside two baselines.

    python -m benchmarks.heldout kang --context NK          one cell type held out
    python -m benchmarks.heldout kang --context all         each in turn
    python -m benchmarks.heldout norman                     four blocks of perturbation x cell line held out, one training

Data: ../shared/data (or --data). Training and scores are those of `state_engine.train`; the table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.split_plan import FewShot, SplitPlan, ZeroShot
from state_engine.data.splits import apply_plan
from state_engine.train.request import TrainRequest
from state_engine.train.transition import train_transition

ROOT = Path(__file__).resolve().parents[1]
FILES = {"kang": "kang_ifnb.h5ad", "norman": "norman_mcfaline.h5ad"}
# labels that more than one cell line has; the screens differ (activation in k562, interference in the others)
NORMAN = (("U87MG", "MAPK1"), ("A172", "MAP2K3"), ("T98G", "TGFBR2"), ("k562", "SGK1"))
NAME = "data"
COLUMNS = ("r_raw", "r_paired", "r_mean", "mae_raw", "mae_corrected", "mae_mean", "mae_none")
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")


def main() -> None:
    options = _options()
    dataset = open_dataset(options.data / FILES[options.dataset], CHOICES)
    request = TrainRequest(
        hvgs=min(options.hvgs, dataset.n_genes),
        steps=options.steps,
        set_size=options.set_size,
        sets_a_step=options.sets_a_step,
        hidden=options.hidden,
        intermediate=2 * options.hidden,
        layers=options.layers,
        learning_rate=options.learning_rate,
        dropout=options.dropout,
        seed=options.seed,
        device=options.device,
    )
    print("| held out | " + " | ".join(COLUMNS) + " | seconds |\n|" + "---|" * (len(COLUMNS) + 2), flush=True)
    for plan in _plans(options, dataset):
        start = time.perf_counter()
        card = _train(dataset, plan, request)
        _print(card, time.perf_counter() - start)


def _plans(options: argparse.Namespace, dataset: Dataset) -> list[SplitPlan]:
    whole = SplitPlan(((NAME, str(dataset.path)),), (NAME,))
    if options.dataset == "norman":
        return [replace(whole, fewshot=tuple(FewShot(NAME, context, test=(label,)) for context, label in NORMAN))]
    contexts = dataset.contexts if "all" in options.context else options.context
    return [replace(whole, zeroshot=(ZeroShot(NAME, context, "test"),)) for context in contexts]


def _train(dataset: Dataset, plan: SplitPlan, request: TrainRequest) -> ModelCard:
    with tempfile.TemporaryDirectory() as folder:
        return train_transition(apply_plan(plan, [(NAME, dataset)]), request, Path(folder) / "run")


def _print(card: ModelCard, seconds: float) -> None:
    scores = card.training.scores
    blocks = sorted({name.rpartition(": ")[0] for name in scores} - {""})
    for block in [*blocks, *([""] if len(blocks) > 1 else [])]:
        values = [scores.get(f"{block}: {c}" if block else c) for c in COLUMNS]
        cells = [
            "n/a" if v is None else f"{v:.3f}" if c.startswith("r_") else f"{v:.4f}" for c, v in zip(COLUMNS, values, strict=True)
        ]
        print(f"| {block or 'mean'} | " + " | ".join(cells) + f" | {seconds:.0f} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(FILES))
    parser.add_argument("--context", action="append", help="cell type to hold out (kang), or 'all'; may be repeated")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hvgs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--set-size", type=int, default=32)
    parser.add_argument("--sets-a-step", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.context = options.context or ["all"]
    return options


if __name__ == "__main__":
    main()
