"""One training of a State Transition model on a split, on Lightning; `state_engine.train.fit` calibrates it as well.

A training example is a cell set: s cells of one perturbation in one context, beside s control cells of that context. The control
label is trained like any other, so that a prediction can be paired. Source: bioRxiv 2025.06.26.661135.

The run's folder is described in `state_engine.train.run_folder`; what happens between steps in `state_engine.train.watch`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.data.ahead import Ahead
from state_engine.data.depth import EMBEDDED, NOT_ASKED
from state_engine.data.splits.apply import Split
from state_engine.data.splits.equal_depth import choose_equal_depth, with_equal_depth
from state_engine.device import Device, choose_device
from state_engine.effects.store import load_effects
from state_engine.errors import CheckpointError, ConfigError, JobCancelled, RunError
from state_engine.models.lora import add_adapters, merged_state_dict
from state_engine.models.losses import MiniBatch
from state_engine.models.transition import TransitionModel
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.adapt import adapted_card, fit_of, genes_there, stays_known
from state_engine.train.calibration import add_baselines
from state_engine.train.cells import TrainingCells, choose_inputs, read_training_cells
from state_engine.train.finish import (
    card_of_training,
    read_vectors,
    save_training,
    start_from,
    vectors_of,
    with_vectors_of,
)
from state_engine.train.gene_features import gene_features
from state_engine.train.mini_batches import SetCells, SetSchedule, gather, validation_rows
from state_engine.train.request import TrainRequest, with_steps
from state_engine.train.run_folder import (
    CACHE,
    MODEL,
    RECORD_FORMAT,
    TrainingRecord,
    check_checkpoint,
    check_same,
    check_same_cells,
    choices_of,
    read_record,
    write_record,
    write_split,
)
from state_engine.train.trainer import CHECKPOINTS, LAST, is_first, new_trainer, quiet
from state_engine.train.tune import new_rows, tune
from state_engine.versions import package_versions

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

SETS_A_PASS = 8  # validation sets predicted together
AHEAD = 4  # mini-batches that wait for their step


def train_once(
    split: Split,
    request: TrainRequest,
    output: Path,
    on_progress: OnProgress = silent,
    resume: bool = False,
    init_from: Path | None = None,
) -> ModelCard:
    """Train a model, score it on what was held out, and save it. Arguments, value and errors are those of `train_transition`."""
    device, request = choose_device(request.run.device), with_steps(request, split)
    record = _begin(split, request, output, resume, device, init_from)
    try:
        return _train(split, request, output, on_progress, record, resume, init_from, device)
    except JobCancelled:
        close(output, "cancelled")
        raise
    except BaseException:
        close(output, "failed")
        raise
    finally:
        shutil.rmtree(_cache(output), ignore_errors=True)


def _train(
    split: Split, request: TrainRequest, output: Path, on_progress: OnProgress, record: TrainingRecord, resume: bool,
    init_from: Path | None, device: Device,
) -> ModelCard:  # fmt: skip
    split, record = _equal_depth(split, request, record, resume, on_progress)
    on_progress(Progress("Choosing features"))
    features = read_vectors(request, split.control)
    adapted = _adapted(request, init_from)
    if init_from is None:
        features = gene_features(split, request.run.seed) if features is None else features
    elif adapted is not None:
        features = with_vectors_of(init_from, features, split)
    threads = torch.get_num_threads()
    depth = record.depth if resume else _depth_of_start(init_from)
    inputs = choose_inputs(split, request.with_settings(genes=_known_genes(request, record, init_from, split)), depth, resume)
    labels = None if features is None else features.labels
    kept = stays_known(adapted, split.control) if adapted is not None else ()
    cells = read_training_cells(split, inputs, request, _cache(output), on_progress, labels, kept)
    torch.set_num_threads(threads)  # compiled loops that choose genes set their own number, and with it everybody's
    on_progress(Progress("Loading the network"))
    with torch.random.fork_rng():
        torch.manual_seed(request.run.seed)
        vectors = vectors_of(cells, features)
        card = card_of_training(split, request, inputs, cells, vectors)
        if adapted is not None:
            card = adapted_card(card, adapted)
        model = TransitionModel(card.config)
        if not resume:
            started: tuple[str, ...] = ()
            if init_from is not None:
                report = start_from(init_from, model, card, vectors, adapted is not None)
                started = report.sentences(fit_of(split, adapted).sentences() if adapted is not None else None)
            record = replace(record, genes=inputs.genes or (), depth=inputs.depth, notes=(*record.notes, *inputs.notes, *started))
            _write(output, record)
        if adapted is not None:
            tune(model, request.optimiser, new_rows(card, adapted))
        fitted = _fit(model, vectors.values, cells, request, output, on_progress, resume, device)
        if not is_first():
            raise SystemExit(0)  # further processes are there for their share of the steps only
        training = replace(card.training, equal_depth=record.equal_depth)
        card = replace(card, notes=(*record.notes, *card.notes), training=training)
        save_training(card, split, request, output, cells, vectors, fitted.model, on_progress)
        before = load_effects(init_from) if adapted is not None and init_from is not None else None
        made = add_baselines(output / MODEL, split, request.run.seed, device.kind, on_progress, request.run.calibrate, before)
    record = replace(
        record, steps=request.optimiser.steps, seconds=round(fitted.seconds, 3), waited=round(fitted.waited, 4), state="done",
        parameters=sum(p.numel() for p in fitted.model.parameters()), features=cells.features.where, notes=made.notes,
    )  # fmt: skip
    _write(output, record)
    return made


def _equal_depth(
    split: Split, request: TrainRequest, record: TrainingRecord, resume: bool, on_progress: OnProgress
) -> tuple[Split, TrainingRecord]:
    """Return the split with control and perturbed cells of one depth, and the record that says so; as recorded where a training goes on."""
    if not resume:
        on_progress(Progress("Comparing depths"))
        why_not = EMBEDDED if request.network.embedding is not None else ""
        why_not = why_not if request.sets.equalise_depth == "auto" else NOT_ASKED
        equal, notes = choose_equal_depth(split, request.run.seed, why_not)
        for note in notes:
            on_progress(Progress("Comparing depths", message=note))
        record = replace(record, equal_depth=equal, notes=notes)
    return with_equal_depth(split, record.equal_depth), record


def _adapted(request: TrainRequest, init_from: Path | None) -> ModelCard | None:
    """Return the card of the model that is adapted; None for other trainings, whatever their first weights are."""
    if not request.optimiser.tune:
        return None
    if init_from is None:
        raise ConfigError("There is no model to adapt.", f"--tune is {request.optimiser.tune}.", "Give --adapt MODEL.")
    return card_of(init_from)


def _known_genes(request: TrainRequest, record: TrainingRecord, init_from: Path | None, split: Split) -> tuple[str, ...]:
    """Genes that need not be chosen: those asked for, those of a training that goes on, those that the start reads."""
    adapted = _adapted(request, init_from)
    if adapted is not None and not request.network.genes and not record.genes:
        return genes_there(split, adapted)
    if request.network.genes or record.genes or init_from is None or request.network.embedding is not None:
        return request.network.genes or record.genes
    return card_of(init_from).input_genes or ()


def _depth_of_start(init_from: Path | None) -> float | None:
    """Return the depth that the start's values were of; None without a start, or where its card does not say."""
    return card_of(init_from).depth if init_from is not None else None


def _begin(
    split: Split, request: TrainRequest, output: Path, resume: bool, device: Device, init_from: Path | None
) -> TrainingRecord:
    """Write and return the record of a training that begins or goes on, in a folder that the caller holds."""
    first = is_first()
    if resume:
        record = replace(_resumable(split, request, output), request=request, state="running", device=device.name)
    else:
        record = TrainingRecord(
            RECORD_FORMAT, request, choices_of(split), {str(s.dataset.path): s.dataset.hash() for s in split.sources},
            str(init_from or ""), device=device.name, versions=dict(package_versions()),
        )  # fmt: skip
    if first:
        output.mkdir(parents=True, exist_ok=True)
        if not resume:
            write_split(output, split)
    _write(output, record)
    return record


def _resumable(split: Split, request: TrainRequest, output: Path) -> TrainingRecord:
    """Return the record of a training that can go on with this request and these cells, from its last checkpoint."""
    record = read_record(output)
    check_same(record.request, request)
    check_same_cells(output, record, split)
    last = output / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise CheckpointError(
            f"The training in {output} has no checkpoint to go on from.", "It was stopped before the first one.", "Start anew."
        )
    check_checkpoint(last)
    return record


def _write(output: Path, record: TrainingRecord) -> None:
    if is_first():
        write_record(output, record)


def close(output: Path, state: Literal["cancelled", "failed"]) -> None:
    """Note in the record how a training ended, where there is one."""
    try:
        _write(output, replace(read_record(output), state=state))
    except (RunError, OSError):
        return


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The trained network in eval mode; seconds of its steps, and part of them (0 to 1) that it waited for cells."""

    model: TransitionModel
    seconds: float
    waited: float


class _Loader:
    """Mini-batches from the step where the training stands, gathered ahead."""

    def __init__(self, cells: TrainingCells, request: TrainRequest, pin: bool) -> None:
        from state_engine.train.watch import mini_batch

        sets = request.sets
        self.schedule = SetSchedule(
            cells.groups["train"], sets.set_size, sets.sets_per_step, request.run.seed, sets.paired, sets.balance, sets.mix, sets.fill
        )  # fmt: skip
        self.trainer: Trainer
        self.request, self.cells = request, cells
        self.ahead: Ahead[MiniBatch] | None = None
        self._made = mini_batch
        self._pin = pin

    def __iter__(self) -> Iterator[MiniBatch]:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        each = self.request.sets.sets_per_step // world
        share = slice(rank * each, (rank + 1) * each)

        def make(step: int) -> MiniBatch:
            return self._made(gather(self.cells, self.schedule.rows(step, share)), self._pin)

        self.close()
        steps = range(self.trainer.global_step, self.request.optimiser.steps)
        self.ahead = Ahead(map(make, steps), AHEAD, "mini-batches")
        return self.ahead

    def close(self) -> None:
        if self.ahead is not None:
            self.ahead.close()


def _fit(
    model: TransitionModel, vectors: Tensor, cells: TrainingCells, request: TrainRequest, output: Path, on_progress: OnProgress,
    resume: bool, device: Device,
) -> _Fitted:  # fmt: skip
    """The steps."""
    from state_engine.train.module import TransitionTraining
    from state_engine.train.watch import Watch

    config = model.config
    optimiser = request.optimiser
    if optimiser.lora_rank and not optimiser.tune:
        add_adapters(model, optimiser.lora_rank, optimiser.lora_alpha, optimiser.lora_dropout, optimiser.lora_feed)
    training = TransitionTraining(request, model, vectors, len(cells.batches))
    watch = Watch(output, on_progress, _validation(cells, request), training)
    loader = _Loader(cells, request, device.kind == "cuda")
    with quiet():
        trainer = new_trainer(device, request.run.devices, request.run.nodes, request.optimiser.steps, watch, output)
        loader.trainer = trainer
        try:
            last = output / CHECKPOINTS / LAST if resume else None
            trainer.fit(training, train_dataloaders=loader, ckpt_path=last, weights_only=True if resume else None)
        finally:
            loader.close()
    with training.final_weights() as final:
        weights = {name: value.detach().clone() for name, value in merged_state_dict(final).items()}
    made = TransitionModel(config)
    made.load_state_dict(weights)
    waited = loader.ahead.waited / max(watch.seconds - watch.seconds_before, 1e-9) if loader.ahead is not None else 0.0
    return _Fitted(made.to(device.torch_device).eval().requires_grad_(False), watch.seconds, waited)


def _validation(cells: TrainingCells, request: TrainRequest) -> tuple[SetCells, ...]:
    """The validation sets, `SETS_A_PASS` at a time."""
    sets, run = request.sets, request.run
    rows = validation_rows(cells.groups["val"], sets.set_size, run.validation_sets, run.seed, sets.fill)
    if rows is None:
        return ()
    return tuple(gather(cells, rows.part(slice(i, i + SETS_A_PASS))) for i in range(0, len(rows.sizes), SETS_A_PASS))


def _cache(output: Path) -> Path:
    return output / f"{CACHE}-{os.environ.get('LOCAL_RANK', '0')}"
