"""A trained model on the cells it has never seen: predicted from their contexts' own controls, written beside the measured ones, evaluated.

    OUTPUT/predicted.h5ad   X corrected expression (log1p), layers raw and (where the model has a calibration) calibrated; of further
                            seeds predicted-SEED.h5ad. Control cells: the basal cells, in the layers as predicted under the control label
    OUTPUT/real.h5ad        the measured held-out cells and all control cells of their contexts, the same genes and labels, with their names
    OUTPUT/…                tables and verdict of `evaluate`

Baselines come from training cells only: the effects saved with the model, or taken from the training part of the split.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from state_engine import keys
from state_engine.challenge.source import Labels
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices
from state_engine.data.expression import iter_features
from state_engine.data.files.csr_writer import Spool, write_h5ad
from state_engine.data.splits.apply import CODES, Split
from state_engine.data.splits.held import Leak
from state_engine.effects.store import load_effects, save_effects
from state_engine.errors import listed
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.held_blocks import HeldBlock, HeldOut, expression_of, held_out_of
from state_engine.evaluation.held_shards import BLOCK, Asked, HeldOutBench, plan_of, put_together
from state_engine.evaluation.report import Evaluation
from state_engine.evaluation.request import PREDICTED, REAL, EvaluationRequest, HeldOutRequest, PredictedFile
from state_engine.files import free_folder, replacing
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.executors import Local
from state_engine.shards.in_run import FOLDER
from state_engine.shards.ledger import held
from state_engine.shards.run import InShards, complete

if TYPE_CHECKING:
    from state_engine.checkpoints.load import LoadedModel


def evaluate_held_out(
    request: HeldOutRequest,
    output: Path,
    on_progress: OnProgress = silent,
    loaded: LoadedModel | None = None,
    shards: InShards | None = None,
) -> Evaluation:
    """Predict held-out cells, write both sides, and evaluate them beside the baselines.

    Args:
        request: the run or model, the part, and how.
        output: a folder, made when missing.
        on_progress: told set by set, then block by block; may raise `JobCancelled`.
        loaded: the model when it is in memory already.
        shards: how it is predicted; None: here. What an interrupted test left is gone on with until the numbers are there.

    Raises:
        SplitError: nothing is held out, or nothing of it can be predicted. IncompatibleError: the model gives no expression.
        RunError, DataError, ModelError: see `open_training_split`, `predict` and `evaluate`.
    """
    free_folder(output)
    on_progress(Progress("Reading labels"))
    held_out = held_out_of(request, loaded.card if loaded is not None else None)
    own, shards = held_out.tested[0], shards or InShards(output / FOLDER, temporary=True)
    here = isinstance(shards.executor, Local)
    device = shards.executor.device_name(request.device)
    with held(
        shards.folder, plan_of(request, held_out, shards.folder, device, shards.size), temporary=shards.temporary
    ) as ledger:
        bench = HeldOutBench(Asked(request, str(shards.folder)), held_out, loaded) if here else None
        complete(ledger, shards.executor, on_progress, bench)
        predicted = list[PredictedFile]()
        for number in range(len(held_out.tested)):
            predicted += put_together(ledger, held_out, number, _names(request, output, number), on_progress)
        _write_real(own.blocks, CODES[request.part], own.card, own.genes, output / REAL, on_progress)
        found = evaluate(_evaluation(request, held_out, tuple(predicted), output, on_progress), output, on_progress)
        ledger.clear()
    return found


def _names(request: HeldOutRequest, output: Path, number: int) -> list[Path]:
    """Return the files of a model's predicted cells: of the test's own, and of those beside it by their place."""
    name = PREDICTED if number == 0 else f"beside-{number}.h5ad"
    return [output / (name if i == 0 else name.replace(".h5ad", f"-{seed}.h5ad")) for i, seed in enumerate(request.seeds)]


def _evaluation(
    request: HeldOutRequest, held_out: HeldOut, predicted: tuple[PredictedFile, ...], output: Path, on_progress: OnProgress
) -> EvaluationRequest:
    """Return how the predicted cells are compared with the measured ones."""
    own, split = held_out.tested[0], held_out.split
    card, blocks = own.card, own.blocks
    leaks = tuple(dict.fromkeys([*split.leaks, *card.training.leaks]))
    return EvaluationRequest(
        predicted=predicted,
        real=str(output / REAL),
        choices=Choices(perturbation_key=keys.PERTURBATION, control=card.control, context_key=keys.CONTEXT, scale="log1p"),
        profile=request.profile,
        effects=_effects(request, split, card, output, on_progress),
        features=held_out.features,
        measured_elsewhere=request.measured_elsewhere,
        elsewhere_choices=request.elsewhere_choices,
        held_out=" ".join([_words(request, blocks, card), *_of_depths(blocks, card), *held_out.remarks, *_came_back(leaks)]),
        flatters=bool(leaks) or (request.part == "val" and card.calibration is not None),
    )


def _write_real(
    blocks: tuple[HeldBlock, ...],
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
        expression, names = expression_of(source.dataset, card)
        sources.append(expression)
    save_effects(output, effect_table(split, sources, names, on_progress))
    return str(output)


def _of_depths(blocks: tuple[HeldBlock, ...], card: ModelCard) -> list[str]:
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


def _words(request: HeldOutRequest, blocks: tuple[HeldBlock, ...], card: ModelCard) -> str:
    conditions = [f"{b.context} x {p}" for b in blocks for p in b.perturbations]
    if request.part == "test":
        return f"Held out of the training of {card.name}, by its split: {listed(conditions)}."
    start = f"Validation cells of {card.name}: {listed(conditions)}. "
    if card.calibration is not None:
        return start + "Its calibration was fitted on them, which flatters it here."
    return start + "They may have shaped the model, by when its training was stopped."
