"""A trained model on the cells it has never seen: predicted from their contexts' own controls, written beside the measured ones, evaluated.

    OUTPUT/predicted.h5ad   X corrected expression (log1p), layers raw and (where the model has a calibration) calibrated; of further
                            seeds predicted-SEED.h5ad. Control cells: the basal cells, in the layers as predicted under the control label
    OUTPUT/real.h5ad        the measured held-out cells and all control cells of their contexts, the same genes and labels, with their names
    OUTPUT/…                tables and verdict of `evaluate`

Baselines come from training cells only: the effects saved with the model, or taken from the training part of the split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine import keys
from state_engine.challenge.source import Labels
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.embedding_record import result_depth
from state_engine.data.expression import FeatureSource, iter_features
from state_engine.data.files.csr_writer import Spool, write_h5ad
from state_engine.data.splits.apply import CODES, Split, SplitSource, apply_plan
from state_engine.data.splits.equal_depth import with_equal_depth
from state_engine.data.splits.held import Leak
from state_engine.data.splits.plan import parse_plan, plan_files
from state_engine.effects.store import load_effects, save_effects
from state_engine.errors import IncompatibleError, SplitError, listed
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import Evaluation
from state_engine.evaluation.request import PREDICTED, REAL, EvaluationRequest, HeldOutRequest, ModelBeside, PredictedFile
from state_engine.files import free_folder, replacing
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.draw import MOST_SCORED
from state_engine.prediction.outputs import expression_source, gene_names
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result_writer import ResultWriter, new_array
from state_engine.progress import OnProgress, Progress, silent

if TYPE_CHECKING:
    from state_engine.checkpoints.load import LoadedModel

BLOCK: Final = 1024
CORRECTED, RAW, CALIBRATED = "corrected", "raw", "calibrated"


@dataclass(frozen=True, eq=False)
class _Block:
    """Held-out perturbations of one context of one file, and how the model's genes are read there."""

    source: SplitSource
    context: str
    perturbations: tuple[str, ...]
    expression: FeatureSource

    def cells(self, part: int) -> np.ndarray:
        """Measured cells of the perturbations that are in the part, and all controls of the context, in file order."""
        dataset = self.source.dataset
        rows = np.concatenate([dataset.rows(p, self.context) for p in self.perturbations])
        return np.sort(np.concatenate([rows[self.source.parts[rows] == part], dataset.control_rows(self.context)]))


@dataclass(frozen=True, eq=False)
class _Tested:
    """A model that predicts held-out blocks.

    Args:
        request: the test; its folder is the model's.
        card: of the model.
        blocks: what it predicts.
        genes: names of the compared genes, and their places among the model's.
        control: label of the controls in the file that is written.
        method: name of the one row for its recommended output; "" for a row for each kind of prediction.
    """

    request: HeldOutRequest
    card: ModelCard
    blocks: tuple[_Block, ...]
    genes: tuple[tuple[str, ...], np.ndarray]
    control: str
    method: str


def evaluate_held_out(
    request: HeldOutRequest, output: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None
) -> Evaluation:
    """Predict held-out cells, write both sides, and evaluate them beside the baselines.

    Args:
        request: the run or model, the part, and how.
        output: a folder, made when missing.
        on_progress: told set by set, then block by block; may raise `JobCancelled`.
        loaded: the model when it is in memory already.

    Raises:
        SplitError: nothing is held out, or nothing of it can be predicted. IncompatibleError: the model gives no expression.
        RunError, DataError, ModelError: see `open_training_split`, `predict` and `evaluate`.
    """
    free_folder(output)
    on_progress(Progress("Reading labels"))
    split, features = _split(request)
    card = loaded.card if loaded is not None else card_of(request.folder)
    split = with_equal_depth(split, card.training.equal_depth)
    blocks, remarks = _blocks(split, card, request.part)
    remarks += [f"{other.method}: {card_of(Path(other.path)).name}." for other in request.beside]
    leaks = tuple(dict.fromkeys([*split.leaks, *card.training.leaks]))
    genes = _genes(blocks, card)
    own = _Tested(request, card, blocks, genes, card.control, request.method)
    predicted = _predicted(own, output, PREDICTED, on_progress, loaded)
    for number, other in enumerate(request.beside, 1):
        try:
            predicted += _predicted(_beside(other, own), output, f"beside-{number}.h5ad", on_progress)
        except (IncompatibleError, SplitError) as error:
            remarks.append(f"{other.method} is not among the rows. {error}")
    _write_real(blocks, CODES[request.part], card, genes, output / REAL, on_progress)
    asked = EvaluationRequest(
        predicted=tuple(predicted),
        real=str(output / REAL),
        choices=Choices(perturbation_key=keys.PERTURBATION, control=card.control, context_key=keys.CONTEXT, scale="log1p"),
        profile=request.profile,
        effects=_effects(request, split, card, output, on_progress),
        features=features,
        measured_elsewhere=request.measured_elsewhere,
        elsewhere_choices=request.elsewhere_choices,
        held_out=" ".join([_words(request, blocks, card), *_of_depths(blocks, card), *remarks, *_came_back(leaks)]),
        flatters=bool(leaks) or (request.part == "val" and card.calibration is not None),
    )
    return evaluate(asked, output, on_progress)


def _split(request: HeldOutRequest) -> tuple[Split, str]:
    """The split with its files open, and the file of perturbation features."""
    if request.split:
        plan = parse_plan(request.split)
        files = plan_files(plan, Path.cwd())
        return apply_plan(plan, [(name, open_dataset(file, request.choices)) for name, file in files]), request.features
    from state_engine.train.run_folder import open_training_split, read_record

    folder = Path(request.run)
    return open_training_split(folder), request.features or read_record(folder).request.network.features


def _blocks(split: Split, card: ModelCard, part: str) -> tuple[tuple[_Block, ...], list[str]]:
    """What is held out and can be predicted, and what cannot, in words."""
    found, unknown, bare = [], set[str](), set[str]()
    for source in split.sources:
        dataset = source.dataset
        expression, _ = _expression(dataset, card)
        for context in dataset.contexts:
            held = [p for p in dataset.perturbations if p != dataset.labels.control and _in(source, p, context, part)]
            if held and not len(dataset.control_rows(context)):
                bare.add(context)
                continue
            unknown |= {p for p in held if p not in card.perturbations}
            known = tuple(p for p in held if p in card.perturbations and p != card.control)
            if known:
                found.append(_Block(source, context, known, expression))
    remarks = []
    if unknown:
        remarks.append(f"Not known to the model, so not predicted: {listed(sorted(unknown))}.")
    if bare:
        remarks.append(f"Contexts without control cells, so not predicted: {listed(sorted(bare))}.")
    if not found:
        words = {"val": "validation", "test": "testing"}[part]
        raise SplitError(f"No cells are held out for {words} that the model can predict.", " ".join(remarks), "Hold out some.")
    return tuple(found), remarks


def _expression(dataset: Dataset, card: ModelCard) -> tuple[FeatureSource, tuple[str, ...]]:
    """Return how the model's genes are read from a data set, and their names.

    Raises:
        IncompatibleError: the model gives no expression, or the data set has none of its genes.
    """
    usable = require_compatible(check_compatibility(dataset, card))
    expression = expression_source(dataset, card, usable)
    names = () if expression is None else tuple(gene_names(dataset, card, usable))
    if expression is None or not names:
        raise IncompatibleError(
            f"{card.name} predicts no expression of the genes of {dataset.path.name}.",
            "It predicts an embedding, or the genes it decodes are not there.",
            "Test a model that reads genes or has a gene decoder.",
        )
    return expression, names


def _in(source: SplitSource, perturbation: str, context: str, part: str) -> bool:
    rows = source.dataset.rows(perturbation, context)
    return bool((source.parts[rows] == CODES[part]).any())  # type: ignore[index]  # checked by the request


def _genes(blocks: tuple[_Block, ...], card: ModelCard) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the compared genes, and their places among the model's: those that every file measured."""
    _, names = _expression(blocks[0].source.dataset, card)
    there = np.ones(len(names), bool)
    for block in blocks:
        if block.expression.columns is not None:
            there &= np.asarray(block.expression.columns) >= 0
    return tuple(n for n, yes in zip(names, there, strict=True) if yes), np.flatnonzero(there)


def _beside(other: ModelBeside, own: _Tested) -> _Tested:
    """Return how a further model is tested on the same blocks: those perturbations that it knows, the same genes.

    Raises:
        SplitError: it knows none of them. IncompatibleError: it does not give all genes, or does not fit the data.
    """
    request = replace(own.request, run="" if own.request.split else own.request.run, model=other.path)
    card = card_of(request.folder)
    there = [(block, tuple(p for p in block.perturbations if p in card.perturbations)) for block in own.blocks]
    blocks = tuple(replace(block, perturbations=labels) for block, labels in there if labels)
    if not blocks:
        raise SplitError(f"{card.name} knows none of the held-out perturbations.", "Each is new to it.")
    _, names = _expression(blocks[0].source.dataset, card)
    place = {name: i for i, name in enumerate(names)}
    if lacking := [gene for gene in own.genes[0] if gene not in place]:
        raise IncompatibleError(f"{card.name} does not predict {len(lacking):,} of the compared genes.", f"{listed(lacking)}.")
    genes = own.genes[0], np.array([place[gene] for gene in own.genes[0]])
    return _Tested(request, card, blocks, genes, own.control, other.method)


def _predicted(
    tested: _Tested, output: Path, name: str, on_progress: OnProgress, loaded: LoadedModel | None = None
) -> list[PredictedFile]:
    """Predict with each seed; return what is to be scored."""
    found = []
    for number, seed in enumerate(tested.request.seeds):
        path = output / (name if number == 0 else name.replace(".h5ad", f"-{seed}.h5ad"))
        layers = _predict(tested, seed, path, on_progress, loaded)
        if tested.method:
            found.append(PredictedFile(str(path), tested.method))
            continue
        found += [PredictedFile(str(path), CORRECTED), PredictedFile(str(path), RAW, f"layers/{keys.RAW_LAYER}")]
        found += [PredictedFile(str(path), CALIBRATED, f"layers/{keys.CALIBRATED_LAYER}")] if layers else []
    return found


def _predict(tested: _Tested, seed: int, path: Path, on_progress: OnProgress, loaded: LoadedModel | None) -> bool:
    """Predict every block and write the predicted file. Returns whether it has a calibrated layer."""
    request = tested.request
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".predict-") as name:
        made = []
        for number, block in enumerate(tested.blocks):
            dataset = block.source.dataset
            cells = request.cells or min(len(dataset.control_rows(block.context)), MOST_SCORED)
            asked = PredictionRequest(
                str(dataset.path), str(request.folder), block.perturbations, (block.context,), cells, seed, dataset.choices,
                device=request.device, precision=request.precision, observed=0,
            )  # fmt: skip
            made.append(Path(name) / f"{number}.h5ad")
            predict(asked, made[-1], on_progress, loaded, dataset)
        with replacing(path) as beside:
            return _join(made, beside, tested, on_progress)


def _join(parts: list[Path], path: Path, tested: _Tested, on_progress: OnProgress) -> bool:
    """Predicted cells and their controls of several results, in one file. Returns whether it has a calibrated layer."""
    frames, chosen, depths = [], [], set[float | None]()
    for part in parts:
        with h5py.File(part) as file:
            obs = ad.io.read_elem(file["obs"])
            depths.add(result_depth(file))
        chosen.append(np.flatnonzero(obs[keys.KIND].isin([keys.PREDICTED, keys.PREDICTED_CONTROL]).to_numpy()))
        columns = [keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.KIND, keys.BASAL_CELL, keys.CELL_SET]
        frames.append(obs.iloc[chosen[-1]][columns].astype({c: str for c in columns if c != keys.CELL_SET}))
    obs = pd.concat(frames, ignore_index=True)
    obs.loc[obs[keys.KIND] == keys.PREDICTED_CONTROL, keys.PERTURBATION] = tested.control
    for column in (keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.KIND, keys.BASAL_CELL):
        obs[column] = pd.Categorical(obs[column])
    obs.index = pd.Index([f"cell {i}" for i in range(len(obs))], dtype=object)
    (names, columns_kept), card = tested.genes, tested.card
    writer = ResultWriter(path, obs, list(names))
    calibrated = card.calibration is not None
    start = 0
    # every part is of the model's depth; where its card records none, of the data set's own
    depth = depths.pop() if len(depths) == 1 else None
    try:
        for part, rows in zip(parts, chosen, strict=True):
            corrected = f"layers/{keys.CORRECTED_LAYER}"
            main = corrected if _has(part, corrected) and not tested.method else "X"  # X is what the model's card recommends
            for at, n, x, raw in _read(part, rows, main, f"layers/{keys.RAW_LAYER}"):
                on_progress(Progress("Writing predicted cells", start + at, len(obs)))
                writer.write(start + at, x[:, columns_kept], raw[:, columns_kept])
                assert n == len(x)
            start += len(rows)
        writer.finish(np.full(len(obs), np.nan), {"model": {"id": card.id, "name": card.name}, "scale": "log1p", "depth": depth})
    finally:
        writer.close()
    return calibrated and not tested.method and _add_calibrated(parts, chosen, path, columns_kept, len(obs))


def _add_calibrated(parts: list[Path], chosen: list[np.ndarray], path: Path, columns: np.ndarray, n: int) -> bool:
    """The calibrated layer; cells of results that have none are NaN. False when none has."""
    layer = f"layers/{keys.CALIBRATED_LAYER}"
    has = [_has(part, layer) for part in parts]
    if not any(has):
        return False
    with h5py.File(path, "r+") as file:
        target = new_array(file["layers"], keys.CALIBRATED_LAYER, (n, len(columns)))
        start = 0
        for part, rows, there in zip(parts, chosen, has, strict=True):
            if there:
                for at, size, values, _ in _read(part, rows, layer, layer):
                    target[start + at : start + at + size] = values[:, columns]
            else:
                target[start : start + len(rows)] = np.nan
            start += len(rows)
    return True


def _has(path: Path, name: str) -> bool:
    with h5py.File(path) as file:
        return name in file


def _read(path: Path, rows: np.ndarray, one: str, other: str) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Blocks of two matrices: where the block begins among `rows`, its size, and its values. Rows are consecutive."""
    with h5py.File(path) as file:
        for first in range(0, len(rows), BLOCK):
            part = slice(int(rows[first]), int(rows[min(first + BLOCK, len(rows)) - 1]) + 1)
            values = file[one][part]
            yield first, len(values), values, values if one == other else file[other][part]


def _write_real(
    blocks: tuple[_Block, ...],
    part: int,
    card: ModelCard,
    genes: tuple[tuple[str, ...], np.ndarray],
    path: Path,
    on_progress: OnProgress,
) -> None:
    """The measured cells, sparse, in blocks."""
    labels, contexts, cells = [], [], []
    total, done = sum(len(b.cells(part)) for b in blocks), 0
    names, columns = genes
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".real-") as name:
        with Spool(Path(name)) as spool:
            for block in blocks:
                dataset, rows = block.source.dataset, block.cells(part)
                found = dataset.perturbation_labels()[rows]
                labels.append(np.where(found == dataset.require_control(), card.control, found))
                contexts += [block.context] * len(rows)
                cells.append(np.asarray(dataset.obs_names)[rows].astype(str))
                for _, values in iter_features(dataset, block.expression, rows, BLOCK):
                    on_progress(Progress("Writing measured cells", done, total))
                    spool.add(sp.csr_matrix(values[:, columns]))
                    done += len(values)
        with replacing(path) as beside:
            write_h5ad(
                beside,
                spool,
                names,
                {
                    keys.PERTURBATION: _labels(np.concatenate(labels)),
                    keys.CONTEXT: _labels(np.array(contexts)),
                    # the cells that predictions start from are found by their names
                    keys.BASAL_CELL: _labels(np.concatenate(cells)),
                },
            )


def _labels(values: np.ndarray) -> Labels:
    names, codes = np.unique(values.astype(str), return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(names.tolist()))


def _effects(request: HeldOutRequest, split: Split, card: ModelCard, output: Path, on_progress: OnProgress) -> str:
    """The folder with the effects of training cells; made here for a model that has none."""
    if load_effects(request.folder) is not None:
        return str(request.folder)
    from state_engine.effects.means import effect_table

    sources, names = [], tuple[str, ...]()
    for source in split.sources:
        expression, names = _expression(source.dataset, card)
        sources.append(expression)
    save_effects(output, effect_table(split, sources, names, on_progress))
    return str(output)


def _of_depths(blocks: tuple[_Block, ...], card: ModelCard) -> list[str]:
    """Return what is thinned of the compared cells, in words."""
    tested = {(block.source.name, block.context) for block in blocks}
    found = [depth for depth in card.training.equal_depth.contexts if (depth.dataset, depth.context) in tested]
    if not found:
        return []
    each = listed([depth.words for depth in found], 6)
    return [f"Counts are thinned as in the training, so that control and perturbed cells are of one depth: {each}."]


def _came_back(leaks: tuple[Leak, ...]) -> list[str]:
    """Return what of the held-out cells was trained on after all, in words."""
    return [*map(str, leaks), "These numbers flatter the model."] if leaks else []


def _words(request: HeldOutRequest, blocks: tuple[_Block, ...], card: ModelCard) -> str:
    conditions = [f"{b.context} x {p}" for b in blocks for p in b.perturbations]
    if request.part == "test":
        return f"Held out of the training of {card.name}, by its split: {listed(conditions)}."
    start = f"Validation cells of {card.name}: {listed(conditions)}. "
    if card.calibration is not None:
        return start + "Its calibration was fitted on them, which flatters it here."
    return start + "They may have shaped the model, by when its training was stopped."
