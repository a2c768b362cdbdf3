"""What a GPU does with this package, as one table in a few minutes; on a CPU with small sizes, to see that it runs.

    python -m benchmarks.gpu [--device cuda|cpu] [--small] [--only rate predict train embed memory] [--tests] [--minutes 7.5]

tests    the tests marked gpu, in a process of their own (with --tests; needs pytest).
rate     square products in fp32 and bf16: what the matrix units reach here. Everything else is a share of it.
predict  a State Transition model of `state_sm`'s size, 2,000 genes: cells per second from the request to the file, and of the passes alone;
         the share of the time that copies to and from the device take (on their own streams, so they may overlap), that writing takes
         (in its own thread), and that predicting waits for it. In fp32 and bf16.
train    steps of a training of that size: seconds of one, and the share of the time that it waits for cells.
embed    a State Embedding model of the released size (16 layers, d 2048, 2048 tokens) in bf16: cells per second, waiting for sentences.
memory   more cells in a pass than fit: whether the passes are halved and the numbers are those of small passes.

Weights and cells are random. A part that fails is a row that says why, and the exit code is then 1; parts that are not begun when the time
is up are rows too. Nothing outside a temporary folder is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.embed import _operations as operations_of_embedding
from benchmarks.embed import _write_cells, _write_model
from state_engine.checkpoints.card import FORMAT, ModelCard
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import save_model
from state_engine.data.dataset import Choices, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.models.transfer import CopyEvents, Direct, Landing, OnStreams, Transfer
from state_engine.models.transition import TransitionModel
from state_engine.prediction import forward
from state_engine.prediction.forward import SetRunner, SetTask
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest, parameters

ROOT = Path(__file__).resolve().parents[1]
MARKED = {"DEVICES", "@pytest.mark.gpu"}  # words of a file that has tests marked gpu
LEAST_SECONDS = 40.0  # a part is not begun with fewer left


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    products: int = 8192
    genes: int = 2000
    labels: int = 200
    cells: int = 512
    set_size: int = 128
    hidden: int = 672
    layers: int = 4
    heads: int = 8
    steps: int = 60
    sets_per_step: int = 16
    embedded: int = 1024
    embedding: dict[str, int] = field(
        default_factory=lambda: {
            "genes": 19_790, "token_dim": 5120, "hidden": 2048, "layers": 16, "heads": 16, "feed_forward": 2048, "tokens": 2048,
        }
    )  # fmt: skip


SMALL = Sizes(
    products=128, genes=30, labels=3, cells=24, set_size=8, hidden=16, layers=1, heads=2, steps=3, sets_per_step=2, embedded=20,
    embedding={"genes": 3100, "token_dim": 8, "hidden": 16, "layers": 2, "heads": 2, "feed_forward": 16, "tokens": 64},
)  # fmt: skip


@dataclass
class Bench:
    """The device and the sizes, the folder, the table, and the rate of products for each precision (FLOP/s)."""

    kind: str
    sizes: Sizes
    work: Path
    rows: list[tuple[str, str]] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)

    def row(self, name: str, value: str) -> None:
        """Add a row to the table, and show it at once."""
        self.rows.append((name, value))
        print(f"  {name}: {value}", file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def share(self, operations: float, precision: str) -> str:
        """Return operations per second as TFLOP/s, and as a part of what products reach."""
        rate = self.rates.get(precision)
        part = f", {100 * operations / rate:.1f} % of the matrix rate" if rate else ""
        return f"{operations / 1e12:.3g} TFLOP/s{part}"

    @property
    def model(self) -> Path:
        """Return the folder of the State Transition model."""
        return self.work / "st"

    @property
    def data(self) -> Path:
        """Return the cells that it predicts from and trains on."""
        return self.work / "cells.h5ad"


class Clocked(Direct):
    """Copies of a device without streams, with their seconds."""

    def __init__(self, device: torch.device, apart: bool) -> None:
        super().__init__(device)
        self.apart, self.taken = apart, 0.0

    def put(self, values: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Copy at once."""
        began = time.perf_counter()
        there = super().put(values, dtype)
        self.taken += time.perf_counter() - began
        return there

    def fetch(self, values: torch.Tensor) -> Landing:
        """Copy at once."""
        began = time.perf_counter()
        landing = super().fetch(values)
        self.taken += time.perf_counter() - began
        return landing


@contextmanager
def copies_clocked(kind: str) -> Iterator[Callable[[], float]]:
    """Have the copies of all runners clocked inside the block; gives what returns their seconds."""
    usual, found, events = forward.transfer_of, list[Clocked](), CopyEvents()

    def clocked(device: torch.device) -> Transfer:
        if device.type == "cuda":
            return OnStreams(device, events)
        found.append(Clocked(device, usual(device).apart))
        return found[-1]

    def seconds() -> float:
        if kind == "cuda":
            torch.cuda.synchronize()
        return events.seconds() + sum(one.taken for one in found)

    forward.transfer_of = clocked
    try:
        yield seconds
    finally:
        forward.transfer_of = usual


def rate(bench: Bench) -> None:
    """Square products, as many as a second takes."""
    size = bench.sizes.products
    for precision in ("fp32", "bf16"):
        one, other = (torch.randn(size, size, device=bench.kind, dtype=dtype_of(precision)) for _ in range(2))
        for _ in range(3):
            one @ other
        bench.wait()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            for _ in range(10):
                one @ other
            bench.wait()
            done += 10
        bench.rates[precision] = 2.0 * size**3 * done / (time.perf_counter() - began)
        bench.row(f"matrix rate, {precision}", f"{bench.rates[precision] / 1e12:.3g} TFLOP/s")


def predict_cells(bench: Bench) -> None:
    """Predictions from the request to the file, then the passes alone."""
    sizes = bench.sizes
    for precision in ("fp32", "bf16"):
        labels = tuple(f"P{i}" for i in range(1, sizes.labels + 1))
        request = PredictionRequest(
            str(bench.data), str(bench.model), labels, cells=sizes.cells, device=bench.kind, precision=precision, observed=0,
        )  # fmt: skip
        loaded = load_model(bench.model, bench.kind, dtype_of(precision))
        operations = 2.0 * parameters(loaded.card.config) + 4.0 * sizes.layers * sizes.set_size * sizes.hidden
        predict(request, bench.work / "warm.h5ad", loaded=loaded)
        with copies_clocked(bench.kind) as copying:
            bench.wait()
            began = time.perf_counter()
            summary = predict(request, bench.work / "result.h5ad", loaded=loaded)
            seconds = time.perf_counter() - began
            shares = [100 * part / seconds for part in (copying(), summary.write_seconds, summary.wait_seconds)]
        cells = summary.cells * (1 + 1 / len(labels))  # and under the control label
        bench.row(
            f"predict, {precision}", f"{summary.cells / seconds:,.0f} cells per second, to a file of {_gigabytes(bench):.2f} GB"
        )
        bench.row(f"predict, {precision}: matrix units", bench.share(operations * cells / seconds, precision))
        words = "{:.1f} % copying, {:.1f} % writing, {:.1f} % waiting for it to be written"
        bench.row(f"predict, {precision}: shares", words.format(*shares))
        for words, compile in (("", False), (", compiled", True)) if bench.kind == "cuda" else (("", False),):
            remarks: list[str] = []
            runner = SetRunner(loaded.module, loaded.perturbation_features, "full", None, remarks.append, compile)
            alone = passes_alone(bench, runner)
            value = f"{alone:,.0f} cells per second, {bench.share(operations * alone, precision)}"
            bench.row(f"passes alone, {precision}{words}", " ".join([value, *remarks]))


def _gigabytes(bench: Bench) -> float:
    return (bench.work / "result.h5ad").stat().st_size / 1e9


def passes_alone(bench: Bench, runner: SetRunner) -> float:
    """Return the cells per second of sets whose results are dropped."""
    sizes, rng = bench.sizes, np.random.default_rng(0)
    runner.load_cells([rng.random((4 * sizes.set_size, sizes.genes), np.float32)])
    sets = max(8, sizes.labels * sizes.cells // sizes.set_size)
    tasks = [SetTask(rng.integers(0, 4 * sizes.set_size, sizes.set_size), 1 + i % sizes.labels, None, i) for i in range(sets)]
    for _ in runner.run(tasks[: sets // 4]):
        pass
    bench.wait()
    began = time.perf_counter()
    for _ in runner.run(tasks):
        pass
    return sets * sizes.set_size / (time.perf_counter() - began)


def train_steps(bench: Bench) -> None:
    """Steps of a training, without validation, checkpoints and calibration."""
    from state_engine.data.splits.apply import apply_plan
    from state_engine.data.splits.plan import SplitPlan
    from state_engine.train.fit import train_transition
    from state_engine.train.request import TrainRequest
    from state_engine.train.run_folder import read_record

    sizes = bench.sizes
    plan = SplitPlan((("random", str(bench.data)),), ("random",))
    split = apply_plan(plan, [("random", open_dataset(bench.data, Choices("perturbation", ("control",), "context")))])
    for precision in ("fp32", "bf16"):
        request = TrainRequest().with_settings(
            hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads, set_size=sizes.set_size, sets_per_step=sizes.sets_per_step,
            steps=sizes.steps, validate_every=0, checkpoint_every=0, calibrate=False, device=bench.kind, precision=precision,
            hvgs=sizes.genes,
        )  # fmt: skip
        output = bench.work / f"train-{precision}"
        train_transition(split, request, output)
        record = read_record(output)
        each, cells = record.seconds / record.steps, sizes.sets_per_step * sizes.set_size
        words = f"{1e3 * each:.1f} ms of {cells:,} cells, {100 * record.waited:.1f} % of it waiting for cells"
        bench.row(f"training step, {precision}", words)


def embed_cells(bench: Bench) -> None:
    """A State Embedding model, from a file to a file."""
    from state_engine.checkpoints.embedding_store import load_embedding
    from state_engine.embedding.embed import EmbedRequest, embed

    folder, data = bench.work / "se", bench.work / "sentences.h5ad"
    config = _write_model(folder, **bench.sizes.embedding)
    _write_cells(data, bench.sizes.embedded, bench.sizes.embedding["genes"])
    loaded = load_embedding(folder, bench.kind, dtype_of("bf16"))
    request = EmbedRequest(str(data), str(folder), device=bench.kind, precision="bf16")
    made = embed(request, bench.work / "se.npy", loaded=loaded)
    speed = bench.sizes.embedded / made.seconds
    waiting = f"{100 * made.waited_seconds / made.seconds:.1f} % of the time waiting for sentences"
    bench.row("SE, bf16", f"{speed:,.1f} cells per second, {made.batch_size:,} in a pass, {waiting}")
    bench.row("SE, bf16: matrix units", bench.share(operations_of_embedding(config) * speed, "bf16"))


def memory(bench: Bench) -> None:
    """Sets in a pass that has no room for all of them: on CUDA by a limit for this process, elsewhere by an error in their place."""
    sizes, loaded, remarks = bench.sizes, load_model(bench.model, bench.kind, torch.float32), list[str]()
    sets, rng = 64, np.random.default_rng(0)
    tasks = [SetTask(rng.integers(0, 512, sizes.set_size), 1 + i % sizes.labels, None, i) for i in range(sets)]
    basal = rng.random((512, sizes.genes), np.float32)
    found = []
    for cells, little in ((sizes.set_size, False), (sets * sizes.set_size, True)):
        runner = SetRunner(loaded.module, loaded.perturbation_features, "full", cells, remarks.append)
        runner.load_cells([basal])
        with little_memory(bench.kind, runner, sizes.set_size) if little else nullcontext():
            found.append(np.stack([result.predicted for result in runner.run(tasks)]))
    difference = float(np.abs(found[0] - found[1]).max())
    handled = "yes" if remarks and difference < 1e-2 else "no"
    bench.row("out of memory handled", f"{handled}: {len(remarks)} times half the pass, largest difference {difference:.1e}")
    if handled == "no":
        raise RuntimeError("A pass that does not fit is not halved, or other numbers come out.")


@contextmanager
def little_memory(kind: str, runner: SetRunner, set_size: int) -> Iterator[None]:
    """Leave room for a pass of about a quarter of what is asked for."""
    if kind == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        width = max(runner.model.config.output_dim, 4 * runner.model.config.backbone.hidden)
        room = torch.cuda.memory_allocated() + 2 * 4 * runner.passes.cells * width // 4
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    whole = runner._forward

    def limited(batch: list[SetTask]) -> Callable:
        if len(batch) > 16:
            raise torch.OutOfMemoryError(f"{len(batch)} sets of {set_size} cells do not fit.")
        return whole(batch)

    runner._forward = limited  # type: ignore[method-assign]
    yield


def make_inputs(bench: Bench) -> None:
    """Cells of all labels, counts of which a third is not 0, and a model with random weights."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    sizes, rng = bench.sizes, np.random.default_rng(0)
    labels = ["control", *(f"P{i}" for i in range(1, sizes.labels + 1))]
    each = 2 * sizes.set_size
    column = np.concatenate([np.repeat(labels, each), np.repeat("control", each)])
    x = sp.random(
        len(column), sizes.genes, 0.3, "csr", np.float32, rng, data_rvs=lambda n: rng.geometric(0.5, n).astype(np.float32)
    )
    obs = pd.DataFrame({"perturbation": pd.Categorical(column), "context": pd.Categorical(["A"] * len(column))})
    obs.index = obs.index.map(lambda i: f"cell {i}")
    genes = tuple(f"G{i}" for i in range(sizes.genes))
    anndata.AnnData(x, obs, pd.DataFrame(index=list(genes))).write_h5ad(bench.data)
    backbone = BackboneConfig(
        "llama", hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads, kv_heads=sizes.heads,
        head_dim=sizes.hidden // sizes.heads, intermediate=4 * sizes.hidden,
    )  # fmt: skip
    config = TransitionConfig(
        input_dim=sizes.genes, output_dim=sizes.genes, perturbation_dim=len(labels), backbone=backbone, output_space="hvg",
        set_size=sizes.set_size,
    )  # fmt: skip
    card = ModelCard(
        format=FORMAT, id="", name="Random", config=config, input_key="X_hvg", input_genes=genes, output_genes=genes, scale="log1p",
        control="control", perturbations=tuple(labels), perturbation_encoding="one-hot", batches=(), contexts=("A",),
        perturbation_key="perturbation", context_key="context", batch_key="", attention="full", attention_source="Set here.",
        weights_hash="",
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(bench.model, card, TransitionModel(config).state_dict())


PARTS: dict[str, Callable[[Bench], None]] = {
    "rate": rate, "predict": predict_cells, "train": train_steps, "embed": embed_cells, "memory": memory,
}  # fmt: skip


def run_tests(bench: Bench, seconds: float) -> bool:
    """Run the tests marked gpu; return whether none failed."""
    # these files alone: collecting the others needs packages that a machine with a GPU may lack
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARKED & set(path.read_text().split())]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
    except subprocess.TimeoutExpired:
        bench.row("tests marked gpu", f"not done after {seconds:.0f} s")
        return False
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["nothing printed"]
    bench.row("tests marked gpu", lines[-1].strip("= "))
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    return done.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and print the table; return the exit code."""
    options = _options(arguments)
    began, well = time.perf_counter(), True

    def left() -> float:
        return 60 * options.minutes - (time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        bench = Bench(options.device, SMALL if options.small else Sizes(), Path(folder))
        bench.row("device", choose_device(options.device).name)
        bench.row("torch", torch.__version__)
        if options.tests:
            well = run_tests(bench, max(LEAST_SECONDS, left() / 2))
        make_inputs(bench)
        for name in options.only:
            if left() < LEAST_SECONDS:
                bench.row(name, "not run: the time is up")
                well = False
                continue
            try:
                PARTS[name](bench)
            except Exception as error:  # noqa: BLE001 - the other parts are measured all the same
                bench.row(name, f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
                well = False
    bench.row("seconds in all", f"{time.perf_counter() - began:.0f}")
    width = max(len(name) for name, _ in bench.rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in bench.rows))
    return 0 if well else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--small", action="store_true", help="tiny sizes: to see that it runs")
    add("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    add("--tests", action="store_true", help="the tests marked gpu first")
    add("--minutes", type=float, default=7.5, help="in all; what is not begun by then is left out, and said so")
    add("--scratch", type=Path, help="where the temporary folder goes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
