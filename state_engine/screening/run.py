"""Screen: which perturbation does what I want? Every perturbation of a model in some contexts, as one job, ranked by a goal.

    controls of each context -> blocks of perturbations, each predicted and reduced to means and a sample -> scores, p and q -> ranking

What is done is kept (`screening.shards`): the same request goes on where it was stopped, and another goal ranks the same predictions again.
Where blocks are predicted is a matter of the executor (`state_engine.shards.executors`).
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel, card_of, load_model
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.effects.exposure import exposures, trained_parts
from state_engine.errors import IncompatibleError, RequestError, listed, may_be, near_each
from state_engine.files import full_disk_told, output_folder, replacing, write_bytes, write_json
from state_engine.plain import agreed, plural, to_plain
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.measured_cells import measured_cells
from state_engine.prediction.request import PredictionRequest, contexts_of
from state_engine.progress import OnProgress, Progress, silent
from state_engine.screening.alike import MOST_CLUSTERED, resemblance_of_screen, similarity_of
from state_engine.screening.before import key_before, remove_before, take_before
from state_engine.screening.cost import check_disk, perturbations_of
from state_engine.screening.head_cells import HeadReader, head_reader
from state_engine.screening.null import FDR
from state_engine.screening.predict_blocks import Asked, ScreenBench, key_of, plan_of
from state_engine.screening.rank import JOINED, Goals, rank
from state_engine.screening.report import EFFECTS, FORMAT, RANKING, REPORT, SIMILARITY, ScreenReport, Seen, seen_of
from state_engine.screening.request import ScreenRequest
from state_engine.screening.shards import CONTROL, ScreenKey, ScreenShards, check_same, differences, key_in
from state_engine.screening.signature import signature_of
from state_engine.shards.executors import Executor, Local
from state_engine.shards.in_run import FOLDER
from state_engine.shards.ledger import Ledger, held
from state_engine.shards.run import complete
from state_engine.versions import package_versions

MOST_TARGET: Final = 2000  # target cells that distances are taken to
LEAST_TARGET: Final = 3


@dataclass(frozen=True)
class Predicted:
    """What predicting gave.

    Args:
        device: where it was computed; "" when all was there already.
        blocks, done_before: shards of perturbations, and those of them that were there already.
        remarks: sentences worth showing.
    """

    device: str
    blocks: int
    done_before: int
    remarks: tuple[str, ...]


def screen(
    request: ScreenRequest, output: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None,
    places: tuple[Path, ...] | None = None, executor: Executor | None = None,
) -> ScreenReport:  # fmt: skip
    """Screen, and write ranking, effects, similarity and report into a folder; go on with what is there already.

    Args:
        request: what to screen, and by which goal.
        output: the folder; see `screening.report` for its files.
        on_progress: called for each block of perturbations; may raise `JobCancelled`, what is done then stays.
        loaded: the model of the request when it is in memory already.
        places: where the model behind a head may lie; by default where it was when the head was fitted.
        executor: predicts the blocks; None: this process. It changes no number.

    Raises:
        DataError, ModelError, RequestError, DeviceError: each says what, why and what to do.
    """
    start = time.perf_counter()
    on_progress(Progress("Reading the data set"))
    dataset, card = open_dataset(Path(request.data), request.choices), card_of(Path(request.model))
    contexts = contexts_of(PredictionRequest(request.data, request.model, (), request.contexts), dataset)
    perturbations = perturbations_of(request, card)
    genes = _genes(request, dataset, card, contexts)
    signature = signature_of(request, genes) if request.up_genes or request.down_genes or request.changes else None
    target = _target(request, dataset, card) if request.target_cells else None
    with ExitStack() as stack:
        stack.enter_context(output_folder(output))
        stack.enter_context(full_disk_told(output, RequestError))
        check_disk(request, card, len(perturbations), len(contexts), output)
        key = _like_before(request, output, key_of(request, dataset, card, perturbations, contexts))
        before = _before(request, output, key)
        ledger = stack.enter_context(held(output / FOLDER, plan_of(request, card, key, output / FOLDER)))
        _take(ledger, key, output, before)
        shards = ScreenShards(ledger, key)
        head = head_reader(request, places) if request.head else None
        predicted = _predict(request, shards, dataset, (executor or Local(), loaded, head), on_progress)
        kind = str(shards.sample(contexts[0], CONTROL).uns[keys.X_KIND])
        goals = Goals(signature, target, head, compare=kind != "raw")
        table = _with_training(rank(request, shards, goals, on_progress), card, Path(request.model))
        remarks = [*predicted.remarks, *([signature.remark()] if signature else []), *(head.remarks if head else ())]
        remarks += _remarks(request, table, kind, len(perturbations))
        report = _write(request, output, shards, card, table, predicted, tuple(remarks))
        matched, missing = (signature.known, signature.missing) if signature else (0, ())
        report = replace(
            report, genes=len(genes), matched=matched, missing=missing, kind=kind, seconds=time.perf_counter() - start,
            goal_words=goal_words(request, head.label if head else ""), data=Path(request.data).name,
        )  # fmt: skip
        write_json(output / REPORT, to_plain(report))
    return report


def goal_words(request: ScreenRequest, label: str = "") -> str:
    """Return what was ranked by, for people."""
    words = {
        "signature": f"{plural(len(request.up_genes), 'gene')} up and {len(request.down_genes):,} down",
        "explanation": f"a measured effect of {plural(len(request.changes), 'gene')}",
        "target cells": f"cells with {' = '.join(request.target())}" if request.target_cells else "",
        "head": f"'{label or request.label}' by the head {Path(request.head).name}",
        "effect size": "effect size",
    }[request.goal]
    return f"the opposite of {words}" if request.opposite else words


def _genes(request: ScreenRequest, dataset: Dataset, card: ModelCard, contexts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the genes that are predicted.

    Raises:
        IncompatibleError: data set and model do not fit together, or no genes are predicted.
    """
    report = check_compatibility(dataset, card, None, contexts, False, request.allow_other_embedding)
    genes = measured_cells(dataset, card, require_compatible(report)).genes
    if not genes:
        raise IncompatibleError(
            f"{card.name} predicts no genes.",
            "It predicts an embedding and has no gene decoder; a screen compares expression.",
            "Choose a model that predicts genes.",
        )
    return genes


def _target(request: ScreenRequest, dataset: Dataset, card: ModelCard) -> NDArray[np.float32]:
    """Return (t, g) expression of the target cells in the result's genes.

    Raises:
        RequestError: there is no such column, no such value, or too few cells; near names are told.
    """
    column, value = request.target()
    if column not in dataset.columns:
        known = tuple(dataset.columns)
        raise RequestError(
            f"The data set has no column '{column}' of labels.",
            f"It has: {listed(known, 12)}.",
            may_be(near_each([column], known)) or "Choose one of them.",
        )
    labels = dataset.columns[column]
    rows = np.flatnonzero(np.asarray(labels.astype(object)) == value)
    if len(rows) < LEAST_TARGET:
        known = tuple(map(str, labels.categories))
        raise RequestError(
            f"There {agreed(len(rows), 'is', 'are')} {plural(len(rows), 'cell')} with {column} = {value}.",
            f"A distance needs {LEAST_TARGET} at least. '{column}' has {listed(known, 12)}.",
            may_be(near_each([value], known)) or "Choose another value.",
        )
    if len(rows) > MOST_TARGET:
        rows = np.sort(np.random.default_rng(request.seed).choice(rows, MOST_TARGET, replace=False))
    cells = measured_cells(dataset, card, require_compatible(check_compatibility(dataset, card, allow_other_embedding=True)))
    if cells.expression is None and card.reads_embedding:
        raise RequestError(
            "The target cells have no measured expression.", "The data set has none of the genes that are predicted.",
            "Choose a data set with counts or log1p values.",
        )  # fmt: skip
    parts = [features if expression is None else expression for _, features, expression in cells.blocks(rows)]
    return np.concatenate(parts).astype(np.float32)


def _like_before(request: ScreenRequest, output: Path, key: ScreenKey) -> ScreenKey:
    """Return the key without the names of the model, where a screen that goes on, or is named, knows none."""
    folders = [output, *([Path(request.earlier)] if request.earlier else [])]
    there = [key_in(folder) or key_before(folder) for folder in folders]
    return replace(key, names="") if any(one is not None and not one.names for one in there) else key


def _before(request: ScreenRequest, output: Path, key: ScreenKey) -> tuple[Path, ...]:
    """Return the folders whose shards can be taken over: what an earlier version left here, and the earlier screen that is named.

    Raises:
        RequestError: the output holds another screen, or the earlier screen is none, or one of other predictions.
    """
    old = key_before(output)
    for there in (key_in(output), old):
        check_same(there, key, output)
    if not request.earlier:
        return (output,) if old is not None else ()
    earlier = Path(request.earlier)
    there = key_in(earlier) or key_before(earlier)
    if there is None:
        raise RequestError(f"{earlier.name} holds no screen.", "It has no predictions of one.", "Give the folder of a screen.")
    if there != key:
        raise RequestError(
            f"The screen in {earlier.name} predicted something else.",
            f"It differs by {', '.join(differences(there, key))}.",
            "Only the goal may differ. Leave --earlier out to predict.",
        )
    return (output, earlier) if old is not None else (earlier,)


def _take(ledger: Ledger, key: ScreenKey, output: Path, before: Sequence[Path]) -> None:
    """Take over shards of other folders, and of an earlier version in this one."""
    for folder in before:
        if folder != output:
            ledger.take(folder / FOLDER)
        if key_before(folder) is not None:
            take_before(folder, ledger, key)
    if output in before:
        remove_before(output)


def _predict(
    request: ScreenRequest, shards: ScreenShards, dataset: Dataset, by: tuple[Executor, LoadedModel | None, HeadReader | None],
    on_progress: OnProgress,
) -> Predicted:  # fmt: skip
    """Compute the shards that are not done, control cells first.

    Args:
        request, shards, dataset: of the screen.
        by: executor, model where it is in memory, and head of the goal; whether it reads such cells is known before the work.
        on_progress: told for each block; may raise `JobCancelled`.
    """
    executor, loaded, head = by
    ledger, here = shards.ledger, isinstance(executor, Local)
    before = sum(number >= len(shards.controls) for number in ledger.done)
    device, total = "", len(ledger.plan.shards) - len(shards.controls)
    if ledger.todo:
        device = executor.device_name(ledger.plan.device)
        if loaded is None and here and request.by_network:
            on_progress(Progress("Loading the model"))
            loaded = load_model(Path(request.model), choose_device(request.device).kind, dtype_of(request.precision))
    bench = ScreenBench(Asked(request, str(ledger.folder)), dataset, loaded) if here else None
    if head is not None:
        complete(ledger, executor, lambda progress: on_progress(Progress("Reading control cells")), bench, shards.controls)
        head.values(shards.place(shards.key.contexts[0], CONTROL))
    complete(ledger, executor, on_progress, bench)
    return Predicted(device if before < total else "", total, before, shards.remarks())


def _with_training(table: pd.DataFrame, card: ModelCard, model: Path) -> pd.DataFrame:
    """Return the ranking with what the training knows of each condition; of an added pair what it knows of the less known one."""
    singles = table[table["made"] == "predicted"]
    conditions = list(zip(singles["perturbation"], singles["context"], strict=True))
    parts, known = trained_parts(card, model, conditions), exposures(card, model, conditions)
    words = {"in training": "yes", "test": "no", "not known": ""}
    pairs = list(zip(table["perturbation"], table["context"], strict=True))
    least_first = get_args(Seen)[::-1]
    seen = [min((seen_of(parts.get(one)) for one in _singles(*pair, known)), key=least_first.index) for pair in pairs]
    return table.assign(seen=seen, in_training=[words[known[pair]] if pair in known else "" for pair in pairs])


def _singles(perturbation: str, context: str, predicted: Container[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a condition that was predicted, or the two whose effects were added."""
    if (perturbation, context) in predicted:
        return [(perturbation, context)]
    return [(name, context) for name in perturbation.split(JOINED)]


def _remarks(request: ScreenRequest, table: pd.DataFrame, kind: str, perturbations: int) -> list[str]:
    found = []
    if kind == "raw":
        found.append("There is no measured expression of control cells to compare, so p and q are missing.")
    elif table["p"].isna().all():
        found.append("There are too few control cells to compare with each other, so p and q are missing.")
    added = int((table["made"] != "predicted").sum())
    if added:
        found.append(
            f"{plural(added, 'combination is a sum', 'combinations are sums')} of two predicted effects: an additive assumption. "
            f"{agreed(added, 'It was chosen by its score, so it has', 'They were chosen by their scores, so they have')} no p and q."
        )
    if perturbations > MOST_CLUSTERED:
        found.append(f"Similarity is shown of the {MOST_CLUSTERED:,} perturbations with the largest effects.")
    return found


def _write(
    request: ScreenRequest, output: Path, shards: ScreenShards, card: ModelCard, table: pd.DataFrame, predicted: Predicted,
    remarks: tuple[str, ...],
) -> ScreenReport:  # fmt: skip
    """Write ranking, effects and similarity; return the report, as far as it is known here."""
    contexts, names = shards.key.contexts, shards.key.perturbations
    effects = _write_effects(output / EFFECTS, shards, table)
    mean = np.mean(list(effects.values()), axis=0)
    similarity_of(names, mean).save(output / SIMILARITY)
    write_bytes(output / RANKING, table.to_csv(index=False).encode())
    ranked = table[table["made"] == "predicted"]
    best = (str(ranked["perturbation"].iloc[0]), str(ranked["context"].iloc[0])) if len(ranked) else ("", "")
    return ScreenReport(
        FORMAT, request.goal, "", card.name, card.id, "", contexts, len(names), request.cells, request.sample, request.splits,
        int((ranked["q"] < FDR).sum()), best, 0, 0, (), "", predicted.blocks, predicted.done_before,
        resemblance_of_screen(effects, Path(request.model)), card.simulated, predicted.device, 0.0, package_versions(), remarks,
    )  # fmt: skip


def _write_effects(path: Path, shards: ScreenShards, table: pd.DataFrame) -> dict[str, NDArray[np.float32]]:
    """Write the effects of all conditions; return them by context."""
    found = {context: shards.read_context(context) for context in shards.key.contexts}
    ranked = table[table["made"] == "predicted"].set_index(["perturbation", "context"])
    pairs = [(p, context) for context, block in found.items() for p in block.perturbations]
    obs = ranked.loc[pairs, ["effect_size", "genes_up", "genes_down", "seen", "in_training", "score"]].reset_index()
    obs.index = pd.Index([f"{p} in {c}" for p, c in pairs], dtype=object)
    genes = shards.sample(shards.key.contexts[0], CONTROL).var_names
    cells = ad.AnnData(np.concatenate([b.effects for b in found.values()]), obs, pd.DataFrame(index=genes))
    cells.layers["log2_fold_change"] = np.concatenate([b.folds for b in found.values()])
    with replacing(path) as beside:
        cells.write_h5ad(beside)
    return {context: block.effects for context, block in found.items()}
