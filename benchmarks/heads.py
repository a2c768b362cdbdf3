"""Heads on real cells, beside logistic regression on 50 principal components of the same cells and the same split.

    python -m benchmarks.heads                          all three, seeds 0 1 2
    python -m benchmarks.heads kang                     stimulated against control: fitted on six cell types, tested on the seventh
    python -m benchmarks.heads predicted                what a head calls predicted cells of a type that neither it nor the model ever saw:
                                                        each type of kang in turn, or those of --context
    python -m benchmarks.heads pbmc --model SE          cell types of pbmc3k from the embedding of a State Embedding model, five folds

Data: ../shared/data (or --data). `predicted` trains a State Transition model without one cell type for each seed. `pbmc` reads the SE of --model;
without one it pretrains one for each seed on pbmc3k and kang_ifnb first, with the sizes and settings of `benchmarks.pretrain`. Tables are printed
as Markdown, with the processor seconds that each part took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import anndata
import numpy as np

from benchmarks import pretrain
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.heads.annotate import annotate
from state_engine.heads.finetune import finetune
from state_engine.heads.report import HeadReport
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.options import settings
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.train.once import train_once
from state_engine.train.request import TrainRequest, resolve

ROOT = Path(__file__).resolve().parents[1]
CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")
STIMULATED, CONTROL = "stimulated", "control"
FOLDS = 5


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.part or PARTS:
            start = time.process_time()
            PARTS[part](options, Path(scratch))
            print(f"\n{part}: {time.process_time() - start:,.0f} processor seconds", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", default=[], help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--context", nargs="+", default=[], help="cell types left out; default: all")
    parser.add_argument("--model", type=Path, help="State Embedding model of pbmc; default: one that is pretrained first")
    parser.add_argument("--steps", type=int, help="of that pretraining, or of the State Transition model of predicted")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    return parser.parse_args()


def _value(report: HeadReport, metric: str, method: int = 0) -> float:
    score = report.methods[method].score(metric)
    return float("nan") if score is None or score.value is None else score.value


def kang(options: argparse.Namespace, scratch: Path) -> None:
    """AUROC of stimulated against control in a cell type that the head never saw."""
    path = options.data / "kang_ifnb.h5ad"
    contexts = options.context or open_dataset(path, CHOICES).contexts
    print(
        "\nStimulated against control in a cell type that the head never saw; beside it logistic regression on 50 PCs\n",
        flush=True,
    )
    print("| seed | tested on | cells | AUROC | interval | AUROC, logistic | accuracy | accuracy, logistic |", flush=True)
    print("|--:|---|--:|--:|---|--:|--:|--:|", flush=True)
    for seed in options.seed:
        for context in contexts:
            request = FinetuneRequest(
                str(path),
                ("condition",),
                group="cell_type",
                test_groups=(context,),
                seed=seed,
                choices=CHOICES,
                features="expression",
            )
            report = finetune(request, scratch / f"kang-{context}-{seed}")
            score = report.own.score("auroc")
            assert score is not None and score.low is not None and score.high is not None
            print(
                f"| {seed} | {context} | {report.split.test:,} | {_value(report, 'auroc'):.3f} | {score.low:.3f} to {score.high:.3f} "
                f"| {_value(report, 'auroc', 1):.3f} | {_value(report, 'accuracy'):.3f} | {_value(report, 'accuracy', 1):.3f} |",
                flush=True,
            )  # fmt: skip


def predicted(options: argparse.Namespace, scratch: Path) -> None:
    """What a head calls predicted cells of a cell type that neither the head nor the model was trained on."""
    path = options.data / "kang_ifnb.h5ad"
    print(f"\nShare called '{STIMULATED}'; neither head nor model was trained on the type\n", flush=True)
    print(
        "| held out | seed | cells called | predicted stimulated | paired predicted control | measured stimulated | measured control |",
        flush=True,
    )
    print("|---|--:|---|--:|--:|--:|--:|", flush=True)
    for context in options.context or open_dataset(path, CHOICES).contexts:
        for seed in options.seed:
            st, run = scratch / f"st-{context}-{seed}", scratch / f"run-{context}-{seed}"
            dataset = open_dataset(path, CHOICES)
            plan = SplitPlan((("data", str(path)),), ("data",), zeroshot=(ZeroShot("data", context, "test"),))
            steps = [f"steps={options.steps}"] if options.steps else []
            train_once(
                apply_plan(plan, [("data", dataset)]), resolve("default", {"seed": seed, **settings(TrainRequest, steps)}), st
            )
            head = scratch / f"head-{context}-{seed}"
            finetune(
                FinetuneRequest(
                    str(path), ("condition",), group="cell_type", test_groups=(context,), seed=seed, choices=CHOICES,
                    features="expression", genes_of=str(st),
                ), head,
            )  # fmt: skip
            run.mkdir()
            predict(
                PredictionRequest(str(path), str(st), (STIMULATED,), (context,), seed=seed, choices=CHOICES, method="paired"),
                run / "result.h5ad",
            )
            for title, matrix in (("corrected (the default)", None), ("raw output", "layers/raw")):
                found = annotate(AnnotateRequest(str(head), result=str(run), choices=Choices(expression=matrix)), None)
                share = {group.kind: group.share(STIMULATED) or 0.0 for group in found.groups}
                kinds = ("predicted", "predicted control", "measured", "measured control")
                cells = " | ".join(f"{share.get(kind, float('nan')):.1%}" for kind in kinds)
                print(f"| {context} | {seed} | {title} | {cells} |", flush=True)


def pbmc(options: argparse.Namespace, scratch: Path) -> None:
    """Cell types from SE embeddings, five folds, beside logistic regression on 50 PCs."""
    path = options.data / "pbmc3k.h5ad"
    print(
        "\nMeans over five folds: head on the embedding, logistic regression on 50 PCs, vote of 15 neighbours in the embedding\n",
        flush=True,
    )
    print("| seed | metric | linear head | mlp head | logistic regression | neighbours | linear minus logistic |", flush=True)
    print("|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for seed in options.seed:
        model = options.model or _pretrained(options, scratch / f"se-{seed}", seed)
        folded = _with_folds(path, scratch / f"folds-{seed}.h5ad", seed)
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for fold in range(FOLDS):
            for head in ("linear", "mlp"):
                request = FinetuneRequest(
                    str(folded),
                    ("cell_type",),
                    model=str(model),
                    group="fold",
                    test_groups=(f"fold {fold}",),
                    seed=seed,
                    head=head,
                )  # type: ignore[arg-type]
                report = finetune(request, scratch / f"pbmc-{seed}-{fold}-{head}")
                for metric in ("accuracy", "balanced_accuracy", "f1", "auroc"):
                    found[head, metric].append(_value(report, metric))
                    if head == "linear":
                        found["logistic", metric].append(_value(report, metric, 1))
                        found["neighbours", metric].append(_value(report, metric, 2))
        for metric in ("accuracy", "balanced_accuracy", "f1", "auroc"):
            means = [float(np.mean(found[name, metric])) for name in ("linear", "mlp", "logistic", "neighbours")]
            numbers = " | ".join(f"{mean:.3f}" for mean in means)
            print(f"| {seed} | {metric} | {numbers} | {means[0] - means[2]:+.3f} |", flush=True)


def _pretrained(options: argparse.Namespace, run: Path, seed: int) -> Path:
    """Pretrain an SE with a seed as `benchmarks.pretrain` does, and return its folder."""
    pretrain_embedding(pretrain.request_of(options.data, seed, options.steps or pretrain.SCHEDULE.steps), run)
    return run / "model"


def _with_folds(path: Path, output: Path, seed: int) -> Path:
    """Write a copy whose obs says each cell's fold; each label has about as many cells in each fold."""
    data = anndata.read_h5ad(path)
    rng = np.random.default_rng(seed)
    fold = np.zeros(data.n_obs, np.int64)
    labels = data.obs["cell_type"].astype(str).to_numpy()
    for label in np.unique(labels):
        cells = rng.permutation(np.flatnonzero(labels == label))
        fold[cells] = (np.arange(len(cells)) + rng.integers(FOLDS)) % FOLDS
    data.obs["fold"] = [f"fold {number}" for number in fold]
    data.write_h5ad(output)
    return output


PARTS = {"kang": kang, "predicted": predicted, "pbmc": pbmc}

if __name__ == "__main__":
    main()
