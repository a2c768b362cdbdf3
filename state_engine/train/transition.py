"""Training a State Transition model on a split, on Lightning.

A training example is a cell set: s cells of one perturbation in one context, beside s control cells of that context. The control
label is trained like any other, so that a prediction can be paired. Source: bioRxiv 2025.06.26.661135.

The run's folder is described in `state_engine.train.run_folder`; what happens between steps in `state_engine.train.watch`.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from state_engine import __version__
from state_engine.checkpoints.card import FORMAT, ModelCard, TrainingSummary
from state_engine.checkpoints.store import save_model
from state_engine.data.splits import Split
from state_engine.device import Device, choose_device
from state_engine.errors import CheckpointError, JobCancelled, RunError
from state_engine.models.transition import TransitionModel
from state_engine.progress import OnProgress, Progress, silent
from state_engine.runs import package_versions
from state_engine.train.calibration import add_baselines
from state_engine.train.cells import Inputs, TrainingCells, choose_inputs, read_training_cells
from state_engine.train.mini_batches import Ahead, SetCells, SetSchedule, gather, validation_rows
from state_engine.train.network import network_config
from state_engine.train.request import TrainRequest
from state_engine.train.run_folder import (
    CACHE,
    MODEL,
    RECORD_FORMAT,
    TrainingRecord,
    check_same,
    check_same_cells,
    choices_of,
    is_training,
    read_record,
    write_record,
    write_split,
)
from state_engine.train.scores import score_groups, summarise

LIMITS = ("Trained on one data set: other tissues, doses and time points are not tested.",)


def train_transition(
    split: Split,
    request: TrainRequest,
    output: Path,
    on_progress: OnProgress = silent,
    resume: bool = False,
    init_from: Path | None = None,
) -> ModelCard:
    """Train a model, score it on what was held out, and save it.

    Args:
        split: which cells are trained on, validated on and tested.
        request: what to train.
        output: folder of the run. The model comes to lie in its `model`; this folder itself can be loaded too.
        on_progress: told every step; may raise `JobCancelled`: a checkpoint is saved first, and `resume` goes on from there.
        resume: go on from the last checkpoint of `output` instead of starting anew.
        init_from: a model whose weights are the start; perturbations are matched by name.

    Returns:
        The card, with scores on the held-out blocks beside two baselines (`summarise` says which).

    Raises:
        CheckpointError: the folder is there already (without `resume`), or has no checkpoint to go on from.
        ConfigError: the training of the folder was begun with other settings, or parts of the request contradict the data.
        LabelError: no group of cells has controls to start from.
        GeneError, RepresentationError, ScaleError: the features cannot be made.
        DeviceError: no such device or precision.
    """
    first = _is_first()
    device = choose_device(request.device)
    record = _begin(split, request, output, resume, device, init_from, first)
    try:
        return _train(split, request, output, on_progress, record, resume, init_from, device)
    except JobCancelled:
        _close(output, "cancelled", first)
        raise
    except BaseException:
        _close(output, "failed", first)
        raise
    finally:
        shutil.rmtree(_cache(output), ignore_errors=True)


def _train(
    split: Split, request: TrainRequest, output: Path, on_progress: OnProgress, record: TrainingRecord, resume: bool,
    init_from: Path | None, device: Device,
) -> ModelCard:  # fmt: skip
    on_progress(Progress("Choosing features"))
    inputs = choose_inputs(split, request)
    cells = read_training_cells(split, inputs, request, _cache(output), on_progress)
    on_progress(Progress("Loading the network"))
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        vectors = torch.eye(len(cells.perturbations))
        model = TransitionModel(_network(request, cells, vectors))
        fitted = _fit(model, vectors, cells, request, output, on_progress, resume, device)
        if not _is_first():
            raise SystemExit(0)  # further processes are there for their share of the steps only
        record = replace(
            record, steps=request.steps, seconds=round(fitted.seconds, 3), waited=round(fitted.waited, 3),
            parameters=sum(p.numel() for p in model.parameters()), features=cells.features.where, notes=cells.notes,
        )  # fmt: skip
        card = _save(split, request, output, inputs, cells, fitted, vectors, on_progress)
    write_record(output, replace(record, state="done"))
    return card


def _begin(
    split: Split, request: TrainRequest, output: Path, resume: bool, device: Device, init_from: Path | None, first: bool
) -> TrainingRecord:
    """The record of a training that begins or goes on."""
    if resume:
        record = read_record(output)
        check_same(record.request, request)
        check_same_cells(output, record, split)
        if not (output / "checkpoints" / "last.ckpt").is_file():
            raise CheckpointError(
                f"The training in {output} has no checkpoint to go on from.",
                "It was stopped before the first one.",
                "Start anew.",
            )
        record = replace(record, request=request, state="running", device=device.name)
    else:
        if output.exists() and first:
            fix = "Go on with it (resume), choose another folder, or remove it." if is_training(output) else ""
            raise CheckpointError(f"{output} is there already.", "", fix or "Choose another folder, or remove it first.")
        record = TrainingRecord(
            RECORD_FORMAT, request, choices_of(split), _hashes(split), str(init_from or ""), device=device.name,
            versions=dict(package_versions()),
        )  # fmt: skip
    if first:
        output.mkdir(parents=True, exist_ok=True)
        write_record(output, record)
        if not resume:
            write_split(output, split)
    return record


def _close(output: Path, state: Literal["cancelled", "failed"], first: bool) -> None:
    try:
        if first:
            write_record(output, replace(read_record(output), state=state))
    except (RunError, OSError):
        return


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The trained network in eval mode; seconds of its steps, and part of them that it waited for cells."""

    model: TransitionModel
    seconds: float
    waited: float


class _Loader:
    """Mini-batches from the step where the training stands, gathered ahead."""

    def __init__(self, cells: TrainingCells, request: TrainRequest, pin: bool) -> None:
        from state_engine.train.watch import mini_batch

        self.schedule = SetSchedule(
            cells.groups["train"],
            request.set_size,
            request.sets_a_step,
            request.seed,
            request.paired,
            request.balance,
            request.mix,
        )
        self.trainer: Any = None
        self.request, self.cells = request, cells
        self.ahead: Ahead[Any] | None = None
        self._made = mini_batch
        self._pin = pin

    def __iter__(self) -> Iterator[Any]:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        each = self.request.sets_a_step // world
        share = slice(rank * each, (rank + 1) * each)

        def make(step: int) -> Any:
            return self._made(gather(self.cells, self.schedule.rows(step, share)), self._pin)

        self.close()
        self.ahead = Ahead(make, self.trainer.global_step, self.request.steps)
        return self.ahead

    def close(self) -> None:
        if self.ahead is not None:
            self.ahead.close()


def _fit(
    model: TransitionModel, vectors: Tensor, cells: TrainingCells, request: TrainRequest, output: Path, on_progress: OnProgress,
    resume: bool, device: Device,
) -> _Fitted:  # fmt: skip
    """The steps."""
    import lightning.pytorch as pl

    from state_engine.train.module import TransitionTraining
    from state_engine.train.watch import CHECKPOINTS, LAST, Watch

    training = TransitionTraining(request, model, vectors, len(cells.batches))
    watch = Watch(output, on_progress, _validation(cells, request), training)
    loader = _Loader(cells, request, device.kind == "cuda")
    with _quiet():
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(device.kind, device.kind),
            devices=request.devices,
            num_nodes=request.nodes,
            strategy="ddp" if request.devices * request.nodes > 1 else "auto",
            max_steps=request.steps,
            max_epochs=-1,
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=output,
        )
        loader.trainer = trainer
        try:
            last = output / CHECKPOINTS / LAST if resume else None
            trainer.fit(training, train_dataloaders=loader, ckpt_path=last, weights_only=True if resume else None)
        finally:
            loader.close()
    training.to("cpu" if device.kind == "cpu" else device.torch_device)
    with training.final_weights() as final:
        weights = {name: value.detach().clone() for name, value in final.state_dict().items()}
    model.load_state_dict(weights)
    waited = loader.ahead.waited if loader.ahead is not None else 0.0
    return _Fitted(model.eval().requires_grad_(False), watch.seconds, waited)


def _validation(cells: TrainingCells, request: TrainRequest) -> SetCells | None:
    rows = validation_rows(cells.groups["val"], request.set_size, request.validation_sets, request.seed)
    return None if rows is None else gather(cells, rows)


def _network(request: TrainRequest, cells: TrainingCells, vectors: Tensor) -> Any:
    decoded = cells.targets.width if cells.targets is not None else 0
    return network_config(request, cells.features.width, vectors.shape[1], len(cells.batches), decoded)


def _save(
    split: Split, request: TrainRequest, output: Path, inputs: Inputs, cells: TrainingCells, fitted: _Fitted, vectors: Tensor,
    on_progress: OnProgress,
) -> ModelCard:  # fmt: skip
    """Scores, card, weights, baselines, and the files that arc-state reads."""
    model = fitted.model
    device = next(model.parameters()).device
    on_progress(Progress("Scoring held-out cells"))
    there = vectors.to(device)
    tests = score_groups(model, there, cells, cells.groups["test"], request.seed, on_progress)
    validations = score_groups(model, there, cells, cells.groups["val"], request.seed, on_progress)
    scores = summarise(tests) | summarise(validations, "validation ", blocks=False)
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    save_model(output / MODEL, _card(split, request, inputs, cells, scores), weights, replace=True)
    return add_baselines(output / MODEL, split, request.seed, device.type, on_progress, request.calibrate)


def _card(split: Split, request: TrainRequest, inputs: Inputs, cells: TrainingCells, scores: dict[str, float]) -> ModelCard:
    dataset = split.sources[0].dataset
    all_genes = inputs.genes is not None and len(inputs.genes) == len(set(split.genes))
    scale: Literal["log1p", "counts"] = "counts" if dataset.scale.scale == "counts" and not dataset.choices.normalise else "log1p"
    made = dataset.embeddings.get(request.embedding) if request.embedding else None
    vectors_width = len(cells.perturbations)
    config = network_config(
        request, cells.features.width, vectors_width, len(cells.batches), cells.targets.width if cells.targets else 0
    )
    return ModelCard(
        format=FORMAT,
        id="",
        name=request.name,
        config=config,
        input_key=request.embedding or ("X" if all_genes else "X_hvg"),
        input_genes=inputs.genes if request.reads_genes else None,
        output_genes=inputs.genes if request.reads_genes or request.gene_decoder else None,
        scale=scale if request.reads_genes else None,
        control=split.control,
        perturbations=cells.perturbations,
        perturbation_encoding="one-hot",
        batches=cells.batches,
        contexts=cells.contexts,
        perturbation_key=dataset.labels.perturbation_key,
        context_key=dataset.labels.context_key,
        batch_key=dataset.labels.batch_key,
        attention="full",
        attention_source="Trained with full attention: the cells of a set have no order.",
        weights_hash="",
        licence=request.licence,
        source=f"trained by STATE Explorer {__version__}",
        limits=LIMITS,
        notes=cells.notes,
        simulated=request.simulated,
        embedding_model=made.model or None if made else None,
        training=TrainingSummary(
            data=request.data_name or ", ".join(dict.fromkeys(s.dataset.path.name for s in split.sources)),
            steps=request.steps,
            loss=request.loss,
            held_out=split.plan.held_out(),
            scores=scores,
        ),
    )


def _hashes(split: Split) -> dict[str, str]:
    return {str(s.dataset.path): s.dataset.hash() for s in split.sources}


def _cache(output: Path) -> Path:
    return output / f"{CACHE}-{os.environ.get('LOCAL_RANK', '0')}"


def _is_first() -> bool:
    """The process that writes; Lightning starts the others with these variables set."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning reports by callback here; its own remarks would say again what is known."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # autocast hands RMSNorm bf16 values and float32 weights: right, only not the fastest kernel
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
