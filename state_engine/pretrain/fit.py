"""Pretrain a State Embedding model on many data sets: from files on disk to a model in our format and in that of arc-state.

The folder is described in `state_engine.pretrain.run_folder`; what happens between steps in `state_engine.pretrain.watch`.
Source of the objective: bioRxiv 2025.06.26.661135.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from state_engine import __version__
from state_engine.checkpoints.arc.embedding_out import PretrainingFacts, write_arc_embedding
from state_engine.checkpoints.card import TrainingSummary
from state_engine.checkpoints.embedding_card import FORMAT, EmbeddingCard, read_embedding_card, vocabulary_hash
from state_engine.checkpoints.embedding_store import load_embedding, read_embedding, save_embedding
from state_engine.checkpoints.folder import read_tensor
from state_engine.checkpoints.gene_vectors import read_gene_vectors
from state_engine.data.ahead import Ahead
from state_engine.device import Device, choose_device
from state_engine.errors import CheckpointError, JobCancelled, RunError
from state_engine.files import replacing, write_json
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.plain import plural, to_plain
from state_engine.pretrain.assess import Tester
from state_engine.pretrain.co_expression import gene_vectors
from state_engine.pretrain.mini_batches import CellReader, CellStream, validation_cells
from state_engine.pretrain.order import CellOrder
from state_engine.pretrain.request import PretrainRequest
from state_engine.pretrain.run_folder import (
    ARC,
    GENES,
    MODEL,
    PRETRAINING,
    REPORT,
    PretrainRecord,
    PretrainReport,
    Tested,
    check_same,
    is_finished,
    more_steps,
    read_pretraining,
    read_report,
    write_pretraining,
)
from state_engine.pretrain.run_folder import FORMAT as RECORD_FORMAT
from state_engine.pretrain.sources import (
    Source,
    held_back,
    open_all,
    require_columns,
    require_genes,
    survey,
    union_of_genes,
    without_rare,
)
from state_engine.pretrain.variable import most_variable
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.curves import VALIDATION, read_curve
from state_engine.train.place import AGAIN, alone, begins_again, begun
from state_engine.train.run_folder import check_checkpoint
from state_engine.train.trainer import CHECKPOINTS, LAST, is_first, new_trainer, quiet
from state_engine.versions import package_versions

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from state_engine.pretrain.module import CellBatch, EmbeddingTraining

CLS_GENE = 3  # as arc-state's programs read every checkpoint; ours is to be readable there
AHEAD = 4  # mini-batches that wait for their step
VALIDATED_A_PASS = 32
SIMULATED = "Pretrained on simulated cells: it knows no real cell."
LIMITS = ("Pretrained on the data sets that are named: other tissues and technologies are not tested.",)


@dataclass(frozen=True)
class Pretrained:
    """The finished model's card and its report; `computed` is False when it was finished before and nothing was left to do."""

    card: EmbeddingCard
    report: PretrainReport
    computed: bool = True


@dataclass(frozen=True, eq=False)
class _Start:
    """What a pretraining starts with: genes, their vectors (g, token_dim), the cells, and perhaps weights."""

    sources: tuple[Source, ...]
    vocabulary: tuple[str, ...]
    vectors: Tensor
    source: str
    train: tuple
    validation: tuple
    config: EmbeddingConfig
    weights: dict[str, Tensor] | None
    notes: tuple[str, ...]


def pretrain_embedding(
    request: PretrainRequest, output: Path, on_progress: OnProgress = silent, resume: bool = False
) -> Pretrained:
    """Pretrain a model, test its embedding and save it.

    Args:
        request: what to pretrain.
        output: folder of the run. The model is saved in its `model`, and for arc-state in its `arc`.
        on_progress: told every step; may raise `JobCancelled`: a checkpoint is saved first, and `resume` goes on from there.
        resume: go on from the last checkpoint of `output` instead of starting again, from the beginning where it was killed before one;
            of a finished one return what came out.

    Raises:
        CheckpointError: there is something in the folder (without `resume`), or it has no checkpoint to go on from.
        RequestError: the folder is an input or lies in one, cannot be written, or another process pretrains in it.
        ConfigError: the pretraining of the folder was begun with other settings or cells.
        LabelError: no data set has a column to test on.
        EmptyDataError, GeneError, ScaleError, RepresentationError: the data cannot be pretrained on; the file is named.
        UnreadableFileError, UnsafePickleError: the gene vectors cannot be read.
        DeviceError: no such device or precision.
    """
    device = choose_device(request.running.device)
    if resume:
        old = _resumable(request, output)
        if is_finished(output, old):
            return Pretrained(read_embedding_card(output / MODEL), read_report(output), computed=False)
        with alone(PRETRAINING, output):
            if begins_again(output, old.state):
                on_progress(Progress("Pretraining", message=AGAIN))
                return _followed(request, output, on_progress, device, None)
            return _followed(request, output, on_progress, device, old)
    with begun(PRETRAINING, output, (*request.data, *filter(None, (request.genes, request.init_from)))):
        return _followed(request, output, on_progress, device, None)


def _followed(
    request: PretrainRequest, output: Path, on_progress: OnProgress, device: Device, old: PretrainRecord | None
) -> Pretrained:
    """Pretrain, and write down how it ended."""
    try:
        return _pretrain(request, output, on_progress, device, old)
    except BaseException as error:
        try:
            state = "cancelled" if isinstance(error, JobCancelled) else "failed"
            if is_first() and not isinstance(error, SystemExit):
                write_pretraining(output, replace(read_pretraining(output), state=state))  # type: ignore[arg-type]
        except (RunError, OSError):
            pass
        raise


def _resumable(request: PretrainRequest, output: Path) -> PretrainRecord:
    """Return what is known of a pretraining that is finished or can go on."""
    record = read_pretraining(output)
    hashes = {}
    if not is_finished(output, record):
        hashes = {
            path: dataset.hash() for path, dataset in zip(request.data, open_all(request.data, request.choices), strict=True)
        }
    check_same(output, record, request, hashes)
    if is_finished(output, record) or begins_again(output, record.state):
        return record
    last = output / CHECKPOINTS / LAST
    if not last.is_file():
        what = f"The pretraining in {output} has no checkpoint to go on from."
        raise CheckpointError(what, "It was stopped before the first one.", "Start again in a new folder.")
    check_checkpoint(last)
    return record


def _pretrain(
    request: PretrainRequest, output: Path, on_progress: OnProgress, device: Device, old: PretrainRecord | None
) -> Pretrained:
    start = _started(request, output, on_progress, old)
    with torch.random.fork_rng():
        torch.manual_seed(request.running.seed)
        network = EmbeddingModel(start.config)
        if start.weights is not None:
            network.load_state_dict(start.weights)
        else:
            network.even_start()
        record = PretrainRecord(
            RECORD_FORMAT, request, {path: s.dataset.hash() for path, s in zip(request.data, start.sources, strict=True)},
            start.vocabulary, start.source, versions=dict(package_versions()), device=device.name,
            parameters=sum(p.numel() for p in network.parameters()), cells=tuple(len(rows) for rows in start.train), notes=start.notes,
        )  # fmt: skip
        if is_first():
            write_pretraining(output, record)
            if old is None:
                with replacing(output / GENES) as beside:
                    save_file({"vectors": start.vectors}, beside)
        for note in start.notes:
            on_progress(Progress("Pretraining", message=note))
        training, fitted = _fit(network, start, request, output, on_progress, device, resume=old is not None)
    if not is_first():
        raise SystemExit(0)  # further processes are there for their share of the steps only
    card = _save(start, request, output, training)
    report = _report(start, request, output, on_progress, device)
    taken = request.schedule.steps * request.schedule.cells_per_step
    order = CellOrder(tuple(len(rows) for rows in start.train), request.running.seed)
    done = replace(
        record, state="done", steps=request.schedule.steps, position=order.position(taken), seconds=round(fitted[0], 3),
        waited=round(fitted[1], 4),
    )  # fmt: skip
    write_pretraining(output, done)
    return Pretrained(card, report)


def _started(request: PretrainRequest, output: Path, on_progress: OnProgress, old: PretrainRecord | None) -> _Start:
    """Open the data and decide genes, cells and sizes; of a pretraining that goes on, as it was begun."""
    datasets = open_all(request.data, request.choices)
    if request.running.test and old is None:
        require_columns(datasets, request.evaluate)
    seed, sizes = request.running.seed, request.sizes
    weights, config, notes = None, None, list[str]()
    if request.init_from:
        card, weights, vectors = read_embedding(Path(request.init_from))
        config, vocabulary, source = replace(card.config, dropout=sizes.dropout), card.vocabulary, f"those of '{card.name}'"
        notes.append(f"It starts from the weights of '{card.name}' ({card.id}), with its genes and sizes.")
    elif old is not None:
        vocabulary, source = old.vocabulary, old.vectors
        vectors = read_tensor(output / GENES, "vectors")
    elif request.genes:
        found = read_gene_vectors(Path(request.genes))
        vocabulary, source, vectors = found.names, found.source, torch.from_numpy(found.values)
    else:
        vocabulary, source, vectors = union_of_genes(datasets), "learnt from co-expression", torch.empty(0)
    sources = survey(datasets, vocabulary, on_progress)
    learnt = not len(vectors)
    if request.variable_genes and old is None:
        chosen, words = most_variable(sources, request.variable_genes, seed, on_progress)
        vocabulary, vectors = tuple(vocabulary[i] for i in chosen), vectors if learnt else vectors[chosen]
        sources = survey(datasets, vocabulary, on_progress)  # again: a cell that expresses none of them is left out
        notes.append(words)
    elif learnt:
        vocabulary, sources = without_rare(sources, vocabulary)
    require_genes(vocabulary)
    train, validation = held_back(sources, request.running.validation, seed)
    if learnt:
        vectors = torch.from_numpy(gene_vectors(sources, train, sizes.gene_width, seed, on_progress))
    if config is None:
        config = EmbeddingConfig(
            genes=len(vocabulary), token_dim=vectors.shape[1], hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads,
            feed_forward=sizes.feed_forward, output_dim=sizes.output_dim, tokens=sizes.tokens, cls_gene=CLS_GENE, dropout=sizes.dropout,
        )  # fmt: skip
    told = old.notes if old is not None else (*notes, *_notes(sources, source))
    return _Start(sources, vocabulary, vectors.float(), source, train, validation, config, weights, told)


def _notes(sources: tuple[Source, ...], vectors: str) -> Iterator[str]:
    yield f"Gene vectors: {vectors}."
    for source in sources:
        yield f"{source.name}: {source.genes.numbers}. {source.genes.how}"
        if source.genes.warning:
            yield source.genes.warning
        empty = source.dataset.n_cells - len(source.rows)
        if empty:
            yield f"{source.name}: {plural(empty, 'cell')} without any gene that is known left out."
        if source.negative:
            yield f"{source.name}: {plural(source.negative, 'value')} below 0 taken as 0."
    if len(sources) == 1:
        yield "There is one data set: no data set is learnt, and the loss has no part for it."


class _Loader:
    """Mini-batches from the step where the training stands, read ahead."""

    def __init__(self, stream: CellStream, request: PretrainRequest, pin: bool) -> None:
        self.stream, self.request, self.pin = stream, request, pin
        self.trainer: Trainer
        self.ahead: Ahead[CellBatch] | None = None

    def __iter__(self) -> Iterator[CellBatch]:
        from state_engine.pretrain.module import cell_batch

        world, rank = self.trainer.world_size, self.trainer.global_rank
        each = self.request.schedule.cells_per_step // world
        share = slice(rank * each, (rank + 1) * each)

        def make(step: int) -> CellBatch:
            return cell_batch(self.stream.step(step, share), self.pin)

        self.close()
        self.ahead = Ahead(map(make, range(self.trainer.global_step, self.request.schedule.steps)), AHEAD, "mini-batches")
        return self.ahead

    def close(self) -> None:
        if self.ahead is not None:
            self.ahead.close()


def _fit(
    network: EmbeddingModel, start: _Start, request: PretrainRequest, output: Path, on_progress: OnProgress, device: Device,
    resume: bool,
) -> tuple[EmbeddingTraining, tuple[float, float]]:  # fmt: skip
    """Do the steps; return what was trained, and seconds and the part of them that it waited for cells."""
    from state_engine.pretrain.module import EmbeddingTraining
    from state_engine.pretrain.watch import Watch

    reader = CellReader(start.sources, start.config, request.task, request.running.seed)
    stream = CellStream(reader, start.train, request.schedule.cells_per_step)
    training = EmbeddingTraining(request, network, start.vectors, len(start.sources))
    watch = Watch(output, on_progress, validation_cells(reader, start.validation, VALIDATED_A_PASS), training)
    loader = _Loader(stream, request, device.kind == "cuda")
    with quiet():
        trainer = new_trainer(device, request.running.devices, request.running.nodes, request.schedule.steps, watch, output)
        loader.trainer = trainer
        try:
            last = output / CHECKPOINTS / LAST if resume else None
            trainer.fit(training, train_dataloaders=loader, ckpt_path=last, weights_only=True if resume else None)
        finally:
            loader.close()
    waited = loader.ahead.waited / max(watch.seconds - watch.seconds_before, 1e-9) if loader.ahead is not None else 0.0
    return training.cpu().eval(), (watch.seconds, waited)


def _save(start: _Start, request: PretrainRequest, output: Path, training: EmbeddingTraining) -> EmbeddingCard:
    """Write the model in both formats and return its card."""
    weights = {name: value.detach().cpu() for name, value in training.network.state_dict().items()}
    running, schedule, task = request.running, request.schedule, request.task
    names = tuple(source.name for source in start.sources)
    limits = (SIMULATED,) if running.simulated else LIMITS
    card = EmbeddingCard(
        FORMAT, "", running.name, start.config, start.vocabulary, vocabulary_hash(start.vocabulary), "", licence=running.licence,
        source=f"pretrained by STATE Explorer {__version__}", limits=limits, notes=start.notes, simulated=running.simulated,
        training=TrainingSummary(data=", ".join(names), steps=schedule.steps, loss=task.loss),
    )  # fmt: skip
    facts = PretrainingFacts(
        names, task.expressed, task.unexpressed, task.shared, task.loss, schedule.cells_per_step, schedule.learning_rate, schedule.start,
        schedule.weight_decay, schedule.gradient_clip, running.seed, schedule.steps,
    )  # fmt: skip
    classifier = None if training.classifier is None else training.classifier.state_dict()
    try:
        write_arc_embedding(output / ARC, card, weights, start.vectors, facts, classifier)
    except CheckpointError as error:
        card = replace(card, notes=(*card.notes, f"Not written for arc-state: {error}"))
    return save_embedding(output / MODEL, card, weights, start.vectors, replace=True)


def _report(start: _Start, request: PretrainRequest, output: Path, on_progress: OnProgress, device: Device) -> PretrainReport:
    """Test the embedding and write report.json."""
    loaded = load_embedding(output / MODEL, device.kind)
    losses = read_curve(output / VALIDATION).get("loss", [])
    notes: tuple[str, ...] = ()
    lacking = [c for c in request.evaluate if not any(c in s.dataset.columns for s in start.sources)]
    if lacking:
        notes = (f"No data set has the column {', '.join(lacking)}.",)
    tests: tuple[Tested, ...] = ()
    if request.running.test:
        tests = Tester(start.sources, loaded, request.running.seed, on_progress).tests(request.evaluate)
    report = PretrainReport(tests, losses[-1] if losses else None, notes)
    write_json(output / REPORT, to_plain(report))
    return report


def report_lines(output: Path, made: Pretrained) -> list[str]:
    """Return what came out, one line each."""
    card, report = made.card, made.report
    before = f"{output}: the pretraining is finished: all {card.training.steps:,} steps were done before. For more {more_steps(output)}"
    lines = [
        *([] if made.computed else [before]),
        f"{output / MODEL}: '{card.name}' ({card.id}), {card.config.genes:,} genes, {card.width:,} columns, "
        f"{card.training.steps:,} steps on {card.training.data}",
        f"{output / ARC}: the same for arc-state (state emb transform --model-folder)",
    ]
    if report.validation_loss is not None:
        lines.append(f"  validation loss {report.validation_loss:.4f}")
    for test in report.tests:
        lines.append(
            f"  {test.measure}, {test.column} of {test.data}: {test.value:.3f} (50 principal components {test.components:.3f}, "
            f"chance {test.chance:.3f}; {test.groups:,} groups, {test.cells:,} cells)"
        )
    return [*lines, *(f"  {note}" for note in (*card.notes, *report.notes))]
