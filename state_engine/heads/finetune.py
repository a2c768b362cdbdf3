"""Fit a head on the vectors of labelled cells, tune the model behind it where that is asked for, and test both beside simple baselines.

Everything is decided on the training cells (genes, components, standardisation, weights), stopped and calibrated on the validation
cells, and scored on the test cells. Notation: m labelled cells, w features, k labels.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from state_engine.checkpoints.embedding_store import LoadedEmbedding, save_embedding
from state_engine.checkpoints.head_card import FORMAT as CARD_FORMAT
from state_engine.checkpoints.head_card import HeadCard, VectorSource
from state_engine.checkpoints.head_store import LoadedHead, load_head, save_head
from state_engine.checkpoints.store import save_model
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import Device, choose_device
from state_engine.errors import CheckpointError, LabelError, SplitError, listed
from state_engine.files import apart_from, is_empty, output_folder, part_beside, remove_parts, write_bytes, write_json
from state_engine.heads import beside
from state_engine.heads.backbones import InputReader, Loaded, backbone_of, load_backbone
from state_engine.heads.cost import cost
from state_engine.heads.fitting import Fitted, Part, fit, fit_temperature, new_head
from state_engine.heads.metrics import reliability, scores
from state_engine.heads.report import (
    BACKBONE,
    CELLS,
    FORMAT,
    REPORT,
    Bin,
    HeadReport,
    Method,
    SplitUsed,
)
from state_engine.heads.request import FinetuneRequest
from state_engine.heads.seen import codes_of
from state_engine.heads.split import Division, divide
from state_engine.heads.tables import cell_table, confusion_of, label_counts, left_out, places_of, wrong_cells
from state_engine.heads.targets import Targets, Truth, read_targets
from state_engine.heads.vectors import Vectors, decide_source, read_vectors
from state_engine.models.head_config import HeadConfig
from state_engine.models.heads import Head
from state_engine.models.lora import merged_state_dict, train_only
from state_engine.plain import agreed, csv_for_people, part_of, plural, to_plain, visible
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import package_versions

VERSIONS = ("torch", "lightning", "scikit-learn", "numpy", "scipy", "scanpy")
MOST_BINS_OF_NUMBERS = 10
BESIDE, TESTING = "Fitting what stands beside the head", "Testing"  # stages
TOLD = 20  # bootstrap samples between two words of progress


@dataclass(frozen=True, eq=False)
class _Case:
    """One fine-tuning on its way: what was asked, the cells, how they are divided, and where a tuned model waits for the folder of its head."""

    request: FinetuneRequest
    dataset: Dataset
    targets: Targets
    parts: Division
    device: Device
    on_progress: OnProgress
    waiting: Path


def finetune(
    request: FinetuneRequest, output: Path, on_progress: OnProgress = silent, loaded: Loaded | None = None
) -> HeadReport:
    """Fit a head.

    Args:
        request: what to fit, on what.
        output: folder of the head; it must not be there yet or be empty, and is filled only when complete.
        on_progress: told each pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already; not used where it is tuned.

    Raises:
        LabelError, SplitError, DataError, ModelError, RequestError, DeviceError: what each says. A head that is complete when another took
            its folder meanwhile stays beside it, and the error says where.
    """
    start = time.perf_counter()
    if not is_empty(output):
        raise CheckpointError(f"{output} is there already.", fix="Choose another folder, or remove it first.")
    apart_from(output, request.data, *filter(None, [request.model]))
    waiting = output.with_name(f"{output.name}-model")
    with output_folder(output.parent), part_beside(output) as folder, part_beside(waiting) as model:
        for killed in (output, waiting):
            remove_parts(output.parent, killed.name)
        on_progress(Progress("Reading labels"))
        dataset = open_dataset(Path(request.data), request.choices)
        _require_named_control(dataset)
        targets = read_targets(dataset, request)
        parts = divide(dataset, request, targets)
        case = _Case(request, dataset, targets, parts, choose_device(request.device), on_progress, model)
        report = _fitted(case, folder, loaded, start)
        _take_place(folder, output, report.id)
    return report


def _require_named_control(dataset: Dataset) -> None:
    """Make sure that a control that was named is one: without a column of perturbations nothing would be read of it."""
    named = dataset.choices.controls
    if named and dataset.labels.perturbation_key is None:
        raise LabelError(
            f"There is no control label {listed([repr(visible(word)) for word in named])} in {dataset.path.name}.",
            "No column says which cells are perturbed.",
            "Name the column (--perturbation-key), or leave --control out.",
        )


def _take_place(folder: Path, output: Path, identity: str) -> None:
    """Give a complete head its name.

    Raises:
        CheckpointError: another head took it meanwhile; this one lies beside it.
    """
    try:
        folder.rename(output)
    except OSError as error:
        if not output.exists():
            raise
        other = output.with_name(f"{output.name}-{identity}")
        folder.rename(other)
        raise CheckpointError(
            f"{output} was made by another fitting meanwhile.", f"This head is complete and lies in {other}.", "Use that folder."
        ) from error


def _fitted(case: _Case, folder: Path, loaded: Loaded | None, start: float) -> HeadReport:
    """Fit, test and write everything into a folder."""
    request, device = case.request, case.device
    tunes = request.tunes_model
    if request.model and (loaded is None or tunes):
        case.on_progress(Progress("Loading the model"))
        loaded = load_backbone(Path(request.model), device, "fp32" if tunes else request.precision)
    source, remarks = decide_source(request, case.dataset, case.targets.rows[case.parts.train], loaded)
    remarks = [*case.targets.remarks, *case.parts.remarks, *remarks]
    for remark in remarks:
        case.on_progress(Progress("Reading labels", message=remark))
    if tunes:
        assert loaded is not None
        case, vectors, fitted, source = _tuned(case, source, loaded, case.waiting, remarks)
    else:
        vectors = read_vectors(case.dataset, source, case.targets.rows, loaded, device, case.on_progress)
        case, vectors = _with_vectors(case, vectors)
        head = _new_head(case, source, torch.from_numpy(vectors.values[case.parts.train]))
        with torch.no_grad():
            inputs = (head.features(torch.from_numpy(vectors.values)),)
        both = (_part(case, case.parts.train, inputs), _part(case, case.parts.validation, inputs))
        fitted = fit(request, head, None, both, device, case.on_progress)
    remarks += vectors.remarks
    saved = _saved(case, fitted, source, vectors, folder)
    if tunes:
        case.waiting.rename(folder / BACKBONE)
    report = _tested(case, saved, fitted, vectors, tuple(dict.fromkeys(remarks)), folder)
    report = replace(report, seconds=time.perf_counter() - start)
    write_json(folder / REPORT, to_plain(report))
    return report


def _with_vectors(case: _Case, vectors: Vectors) -> tuple[_Case, Vectors]:
    """Leave cells without a vector out of every part.

    Raises:
        SplitError: a part is empty then.
    """
    lost = vectors.empty
    n = int(lost.sum())
    if not n:
        return case, vectors
    parts = dataclasses.replace(
        case.parts, train=case.parts.train[~lost[case.parts.train]], validation=case.parts.validation[~lost[case.parts.validation]],
        test=case.parts.test[~lost[case.parts.test]],
    )  # fmt: skip
    if not min(len(parts.train), len(parts.validation), len(parts.test)):
        raise SplitError(
            "A part of the split has no cell with a vector.", f"{part_of(n, len(lost), 'labelled cell')} {agreed(n, 'has', 'have')} none.",
            "Check that the genes of the data set are those of the model.",
        )  # fmt: skip
    said = f"{plural(n, 'labelled cell has no vector and is', 'labelled cells have no vector and are')} left out."
    return replace(case, parts=parts), replace(vectors, remarks=(*vectors.remarks, said))


# ---- fitting ----


def _new_head(case: _Case, source: VectorSource, training_vectors: torch.Tensor) -> Head:
    """A head for vectors such as these (n, w), standardised by them. Of expression it reads components: genes are many and noisy."""
    request = case.request
    outputs = 1 if case.targets.task == "regression" else len(case.targets.labels)
    hidden = request.hidden if request.head == "mlp" else 0
    n, width = training_vectors.shape
    components = min(request.components, n - 1, width) if source.kind == "expression" else 0
    head = new_head(Head(HeadConfig(request.head, width, outputs, hidden, components=components)), request.seed)
    head.standardise(training_vectors)
    return head


def _part(case: _Case, cells: NDArray[np.int64], inputs: tuple[torch.Tensor, ...]) -> Part:
    """What is read of some of the m labelled cells, and what is to be called; numbers are standardised."""
    values = case.targets.values[cells]
    if case.targets.task == "regression":
        centre, spread = _scale_of(case)
        truth = torch.from_numpy(((values.astype(float) - centre) / spread).astype(np.float32))
    else:
        truth = torch.from_numpy(values.astype(np.float32 if case.targets.task == "multi-label" else np.int64))
    at = torch.from_numpy(cells)
    return Part(tuple(tensor[at] for tensor in inputs), truth)


def _scale_of(case: _Case) -> tuple[float, float]:
    """Mean and standard deviation of the training cells' numbers."""
    values = case.targets.values[case.parts.train].astype(float)
    return float(values.mean()), float(values.std()) or 1.0


def _tuned(
    case: _Case, source: VectorSource, loaded: Loaded, folder: Path, remarks: list[str]
) -> tuple[_Case, Vectors, Fitted, VectorSource]:
    """Train the model together with the head, save it, and read the vectors of all cells from what was saved."""
    request, device = case.request, case.device
    estimate = cost(request, loaded.card, len(case.targets.rows), device.kind).words
    case.on_progress(Progress("Fitting the head", message=estimate))
    remarks.append(estimate)
    reader = InputReader(case.dataset, loaded)
    inputs = reader.whole(case.targets.rows)
    place = np.full(len(case.targets.rows), -1)
    place[np.searchsorted(case.targets.rows, inputs.rows)] = np.arange(len(inputs.rows))
    known = np.where(place >= 0, 0.0, np.nan).astype(np.float32)[:, None]
    case, _ = _with_vectors(case, Vectors(source, known))
    first = read_vectors(case.dataset, source, case.targets.rows, loaded, device, case.on_progress)
    head = _new_head(case, source, torch.from_numpy(first.values[case.parts.train]))
    train_only(loaded.module, request.tune.partition("-")[0], request.last_layers, request.rank)
    backbone = backbone_of(loaded, source, encodes_genes=request.tune == "full")
    # by position among the labelled cells, as every part is; cells without inputs are in no part
    spread = tuple(tensor[torch.from_numpy(np.maximum(place, 0))] for tensor in inputs.tensors)
    parts = (_part(case, case.parts.train, spread), _part(case, case.parts.validation, spread))
    fitted = fit(request, head, backbone, parts, device, case.on_progress)
    weights = {name: tensor.detach().cpu().float() for name, tensor in merged_state_dict(loaded.module).items()}
    name = f"{loaded.card.name} tuned to {request.name or request.labels[0]}"
    if isinstance(loaded, LoadedEmbedding):
        save_embedding(folder, replace(loaded.card, name=name), weights, loaded.vectors)
    else:
        one_hot = loaded.card.perturbation_encoding == "one-hot"
        save_model(
            folder, replace(loaded.card, name=name), weights, None if one_hot else loaded.perturbation_features.cpu().float()
        )
    again = load_backbone(folder, device, request.precision)
    made = replace(source, model=again.card.weights_hash, model_name=name)
    vectors = read_vectors(case.dataset, made, case.targets.rows, again, device, case.on_progress)
    return case, vectors, fitted, made


# ---- writing and testing ----


def _saved(case: _Case, fitted: Fitted, source: VectorSource, vectors: Vectors, folder: Path) -> LoadedHead:
    """Calibrate the head, write it, and read it again: what is tested is what was written."""
    request, targets = case.request, case.targets
    head = fitted.training.head.cpu()
    with torch.inference_mode():
        logits = head(torch.from_numpy(vectors.values[case.parts.validation])).double().numpy()
    temperature = fit_temperature(targets.task, logits, targets.values[case.parts.validation])
    centre, spread = _scale_of(case) if targets.task == "regression" else (0.0, 1.0)
    card = HeadCard(
        format=CARD_FORMAT, id="", name=request.name or " and ".join(request.labels), task=targets.task, columns=request.labels,
        labels=targets.labels, config=head.config, source=source, weights_hash="", temperature=temperature, centre=centre, spread=spread,
        place=BACKBONE if request.tunes_model else request.model, tune=request.tune, data=case.dataset.path.name,
        data_hash=case.dataset.hash(), groups=request.group, test_groups=case.parts.test_groups, cells=len(case.parts.train),
    )  # fmt: skip
    used = targets.rows[np.concatenate([case.parts.train, case.parts.validation])]
    codes = torch.from_numpy(np.sort(codes_of(case.dataset.obs_names[used])))
    save_head(folder, card, {name: tensor.detach().float() for name, tensor in head.state_dict().items()}, codes)
    return load_head(folder)


class _Tested:
    """Tells how many of all bootstrap samples are scored, of one method after the other.

    Args:
        on_progress: is told.
        total: samples of all methods.
    """

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, 0, total
        on_progress(Progress(TESTING, 0, total))

    def __call__(self) -> None:
        self.done += 1
        if self.done % TOLD == 0 or self.done == self.total:
            self.on_progress(Progress(TESTING, self.done, self.total))


def _tested(
    case: _Case, saved: LoadedHead, fitted: Fitted, vectors: Vectors, remarks: tuple[str, ...], folder: Path
) -> HeadReport:
    """Score the head and what stands beside it on the test cells, and write the cells."""
    request, targets, parts = case.request, case.targets, case.parts
    test = torch.from_numpy(vectors.values[parts.test])
    called = saved.outputs(test).double().numpy()
    called = called[:, 0] if targets.task == "regression" else called
    truth = targets.values[parts.test]
    n_beside = 1 if targets.task == "regression" else 2
    case.on_progress(Progress(BESIDE, 0, n_beside))
    beside_it = [beside.regression(request, case.dataset, targets, parts, vectors.values)]
    case.on_progress(Progress(BESIDE, 1, n_beside))
    with torch.inference_mode():
        read = saved.module.features(torch.from_numpy(vectors.values)).numpy()
    if targets.task != "regression":
        beside_it.append(beside.neighbours(request, targets, parts, read))
        case.on_progress(Progress(BESIDE, 2, n_beside))
    tested = _Tested(case.on_progress, request.resamples * (1 + sum(one.values is not None for one in beside_it)))
    own = f"{saved.card.config.kind} head on {vectors.source.words}"
    methods = [Method("head", "head", scores(targets.task, truth, called, request.resamples, request.seed, tested), own)]
    for one, kind in zip(beside_it, ("regression", "neighbours"), strict=False):
        found = () if one.values is None else scores(targets.task, truth, one.values, request.resamples, request.seed, tested)
        methods.append(Method(one.name, kind, found, one.note))  # type: ignore[arg-type]
    bins, gap, before = tuple[Bin, ...](), None, None
    if targets.task != "regression":
        bins, gap = reliability(*_confidence(targets, truth, called))
        plain = dataclasses.replace(saved, card=replace(saved.card, temperature=1.0)).outputs(test).double().numpy()
        before = reliability(*_confidence(targets, truth, plain))[1]
    table = cell_table(case.dataset, targets, parts, called, places_of(read[parts.test], request.seed))
    write_bytes(folder / CELLS, csv_for_people(table).encode())
    wrong, n_wrong = wrong_cells(targets, parts, table, called)
    split = SplitUsed(
        "groups" if request.group else "stratified", request.group, len(parts.train), len(parts.validation), len(parts.test),
        parts.test_groups, parts.validation_groups, request.seed, targets.unlabelled, targets.too_few,
    )  # fmt: skip
    return HeadReport(
        format=FORMAT, name=saved.card.name, id=saved.card.id, task=targets.task, columns=request.labels, labels=targets.labels,
        head=request.head, tune=request.tune, vectors=vectors.source.words, width=vectors.source.width, split=split,
        methods=tuple(methods), label_counts=label_counts(targets, parts, called), confusion=confusion_of(targets, truth, called),
        reliability=bins, calibration_error=gap, error_before=before, temperature=saved.card.temperature, wrong=wrong, n_wrong=n_wrong,
        epochs=fitted.epochs, best_epoch=fitted.best_epoch, trained=fitted.trained, weights=fitted.weights,
        vector_seconds=vectors.seconds, device=case.device.name, remarks=(*remarks, *left_out(targets, called)),
        seed=request.seed, versions=package_versions(VERSIONS),
    )  # fmt: skip


def _confidence(targets: Targets, truth: Truth, called: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability of what is called, and whether it is right: for each cell, or for each label of each cell."""
    if targets.task == "classification":
        return called.max(1), called.argmax(1) == truth
    return np.maximum(called, 1 - called).ravel(), ((called >= 0.5) == (truth == 1)).ravel()
