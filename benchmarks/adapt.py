"""Whether a pretrained model helps with a small screen: ST pretrained on five cell types, adapted to a sixth, tested on the rest of its cells.

    python -m benchmarks.adapt                                      three cell types, 20 stimulated cells each
    python -m benchmarks.adapt --context NK --cells 100 --seed 1    one of them, more cells

Data: ../shared/data/kang_ifnb.h5ad (or --data). Error: mean absolute error of the mean stimulated cell, all read genes, on the cells
of the sixth type that were not trained on. Beside the model adapted (LoRA, all weights): a training from scratch on the few cells, the pretrained
model as it is, and the simple baselines: no change, the mean effect of the five types, and the mean effect of the few cells themselves.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np

from benchmarks.heldout import CHOICES, ROOT
from state_engine.checkpoints.load import card_of
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot, plan_text
from state_engine.effects.apply import applied_mean
from state_engine.effects.store import load_effects
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.report import METRICS, read_metrics
from state_engine.evaluation.request import HeldOutRequest, ModelBeside
from state_engine.train.adapt import adapting, from_scratch
from state_engine.train.fit import train_transition
from state_engine.train.request import resolve

LABEL = "stimulated"
COLUMNS = (
    "adapted (lora)",
    "adapted (full)",
    "from scratch",
    "not adapted",
    "no change",
    "mean of the five",
    "mean of the few cells",
)


def main() -> None:
    options = _options()
    print(
        "| sixth type | seed | few cells | tested cells | "
        + " | ".join(COLUMNS)
        + " | seconds |\n|"
        + "---|" * (len(COLUMNS) + 5)
    )
    for seed in options.seed:
        for context in options.context:
            with tempfile.TemporaryDirectory() as scratch:
                print(_line(options, context, seed, Path(scratch)), flush=True)


def _line(options: argparse.Namespace, context: str, seed: int, folder: Path) -> str:
    begin = time.perf_counter()
    cells, rng = ad.read_h5ad(options.data), np.random.default_rng(seed)
    types = cells.obs["cell_type"].astype(str).to_numpy()
    labels = cells.obs["condition"].astype(str).to_numpy()
    others = rng.permutation(sorted({*types} - {context}))[:5]
    few = np.zeros(len(types), bool)
    for label, n in ((LABEL, options.cells), ("control", 2 * options.cells)):
        few[rng.permutation(np.flatnonzero((types == context) & (labels == label)))[:n]] = True
    files = {"five": np.isin(types, others), "few": few, "rest": (types == context) & ~few}
    for name, rows in files.items():
        cells[rows].copy().write_h5ad(folder / f"{name}.h5ad")
    base = resolve("default", {"seed": seed, "device": "cpu", "cross_fit": False, "validate_every": 0})
    train_transition(_split(folder, "five"), base, folder / "start")
    start = folder / "start" / "model"
    asked = adapting(base, card_of(start)).with_settings(calibrate=False)
    train_transition(_split(folder, "few"), asked, folder / "lora", init_from=start)
    full = asked.with_settings(tune="full", lora_rank=0, lora_feed=False)
    train_transition(_split(folder, "few"), full, folder / "full", init_from=start)
    train_transition(_split(folder, "few"), from_scratch(asked, card_of(folder / "lora").input_genes or ()), folder / "scratch")
    plan = SplitPlan(
        (("few", str(folder / "few.h5ad")), ("rest", str(folder / "rest.h5ad"))), ("few",), (ZeroShot("rest", context, "test"),)
    )
    request = HeldOutRequest(
        model=str(folder / "lora"), split=plan_text(plan), choices=CHOICES, seeds=(seed,), device="cpu", method=COLUMNS[0],
        beside=tuple(ModelBeside(str(folder / f), name) for f, name in zip(("full", "scratch", "start"), COLUMNS[1:4], strict=True)),
    )  # fmt: skip
    evaluate_held_out(request, folder / "test")
    table = read_metrics(folder / "test" / METRICS)
    errors = table[table["metric"] == "expr_mae"].set_index("method")["value"]
    found = [float(errors[name]) for name in (*COLUMNS[:4], "no change", "mean of other contexts")] + [
        _few_cells(folder, context)
    ]
    numbers = " | ".join(f"{value:.4f}" for value in found)
    counts = f"{int((few & (labels == LABEL)).sum())} | {int(((types == context) & ~few & (labels == LABEL)).sum()):,}"
    return f"| {context} | {seed} | {counts} | {numbers} | {time.perf_counter() - begin:.0f} |"


def _split(folder: Path, name: str) -> Split:
    path = folder / f"{name}.h5ad"
    return apply_plan(SplitPlan(((name, str(path)),), (name,)), [(name, open_dataset(path, CHOICES))])


def _few_cells(folder: Path, context: str) -> float:
    """Return the error of the mean effect of the few cells alone, put onto the controls of the others."""
    effects, real = load_effects(folder / "lora"), ad.read_h5ad(folder / "test" / "real.h5ad")
    assert effects is not None
    effect = effects.effect(LABEL, context)
    assert effect is not None and tuple(real.var_names) == effects.features
    control, truth = (
        np.asarray(real[(real.obs["perturbation"] == label).to_numpy()].X.mean(axis=0)).ravel() for label in ("control", LABEL)
    )
    return float(np.abs(applied_mean(control, effect) - truth).mean())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", action="append", help="the sixth type; may be repeated")
    parser.add_argument("--cells", type=int, default=20, help="stimulated cells to adapt with; twice as many controls")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "kang_ifnb.h5ad")
    options = parser.parse_args()
    options.context = options.context or ["NK", "B", "CD14+Mono"]
    return options


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
