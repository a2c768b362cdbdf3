"""The same perturbation in another screen as a baseline: its mean effect there, on the genes that both have.

Names of perturbations are compared as they are, then without regard to case. A gene that the other screen lacks does not change. Boundary: the other
screen is chosen by the user; nothing here looks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import match_genes
from state_engine.effects.means import Means, means_by_condition
from state_engine.effects.table import Condition, EffectTable
from state_engine.errors import GeneError, RequestError, listed
from state_engine.evaluation.baselines import ELSEWHERE, EvaluatedBaseline
from state_engine.evaluation.compared import ComparedFiles, Side
from state_engine.evaluation.effect_source import FEWEST_CELLS
from state_engine.evaluation.files import side_of
from state_engine.evaluation.request import EvaluationRequest
from state_engine.plain import agreed, part_of
from state_engine.progress import OnProgress, Progress, silent


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What another screen says.

    Args:
        baseline: its effects, by scored condition.
        remarks: what it lacks, sentences.
    """

    baseline: EvaluatedBaseline
    remarks: tuple[str, ...]


def measured_elsewhere(request: EvaluationRequest, files: ComparedFiles, on_progress: OnProgress = silent) -> Elsewhere | None:
    """Return the baseline of the screen that the request names; None when it names none.

    Raises:
        RequestError: it is the measured file itself, or has none of the perturbations. LabelError: its columns or its control are not clear.
        GeneError: it has none of the genes. ScaleError: its values cannot be compared.
    """
    if not request.measured_elsewhere:
        return None
    dataset = open_dataset(Path(request.measured_elsewhere), request.elsewhere_choices or Choices())
    if dataset.hash() == files.real.dataset.hash():
        raise RequestError(
            f"{dataset.path.name} is the measured file itself.",
            "A baseline of the cells that are scored would repeat them.",
            "Name another screen (--measured-elsewhere).",
        )
    control = dataset.require_control()
    names = _same_perturbations(dataset, files)
    missing = sum(c < 0 for c in match_genes(dataset, files.genes).columns)
    if missing == len(files.genes):
        raise GeneError(
            f"{dataset.path.name} has none of the compared genes.", fix="Name a screen of the same species and names."
        )
    side = side_of(dataset, files.genes, dataset.path.name, files.depth)
    table = _means(side, control, tuple(dict.fromkeys(names.values())), files.genes, on_progress).effects(FEWEST_CELLS)
    effects, behind = _effects(table, names, files.conditions)
    if not effects:
        raise RequestError(
            f"{dataset.path.name} has no effect of a scored perturbation.",
            f"In none of its contexts a perturbation and the control '{control}' have {FEWEST_CELLS} cells each.",
        )
    lacking = sorted({p for p, c in files.conditions if (p, c) not in effects})
    reason = f"{dataset.path.name} has not measured {listed(lacking)}." if lacking else ""
    remarks = [f"'{ELSEWHERE}' is {dataset.path.name}: mean effects over its {len(set(table.contexts)):,} contexts."]
    if missing:
        lacking_genes = f"{part_of(missing, len(files.genes), 'gene')} {agreed(missing, 'is', 'are')} not in {dataset.path.name}"
        remarks.append(f"{lacking_genes}; there it predicts no change.")
    return Elsewhere(EvaluatedBaseline(ELSEWHERE, effects, reason, behind), tuple(remarks))


def _same_perturbations(dataset: Dataset, files: ComparedFiles) -> dict[str, str]:
    """Return scored perturbation -> its label in the other screen.

    Raises:
        RequestError: it has none of them.
    """
    wanted = tuple(dict.fromkeys(p for p, _ in files.conditions))
    labels = [p for p in dataset.perturbations if p != dataset.labels.control]
    folded: dict[str, list[str]] = {}
    for label in labels:
        folded.setdefault(label.casefold(), []).append(label)
    found = {}
    for p in wanted:
        alike = folded.get(p.casefold(), [])
        if p in alike or len(alike) == 1:
            found[p] = p if p in alike else alike[0]
    if not found:
        raise RequestError(
            f"{dataset.path.name} has none of the scored perturbations.",
            f"Scored: {listed(wanted, 3)}; measured there: {listed(labels, 3)}.",
            "Name a screen with the same perturbations.",
        )
    return found


def _means(side: Side, control: str, perturbations: tuple[str, ...], genes: tuple[str, ...], on_progress: OnProgress) -> Means:
    """Return the mean cells of some perturbations and of the control, in each context."""
    conditions = tuple((p, str(c)) for c in side.dataset.contexts for p in (*perturbations, control))
    codes = np.full(side.dataset.n_cells, -1, dtype=np.int64)
    for number, (p, c) in enumerate(conditions):
        codes[side.rows(p, c)] = number
    rows = np.flatnonzero(codes >= 0)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        for part, values in side.blocks(rows):
            yield part, values
            done += len(part)
            on_progress(Progress("Averaging cells of the other screen", done, len(rows)))

    return means_by_condition(blocks(), codes, conditions, control, genes)


def _effects(
    table: EffectTable, names: dict[str, str], conditions: tuple[Condition, ...]
) -> tuple[dict[Condition, np.ndarray], dict[Condition, int]]:
    """Return the mean effects over the contexts of the other screen, and how many these are; perturbations without any are left out."""
    labels, means = table.by_perturbation()
    rows = {label: means[i].astype(np.float64) for i, label in enumerate(labels)}
    there = [(p, c) for p, c in conditions if names.get(p) in rows]
    return {(p, c): rows[names[p]] for p, c in there}, {(p, c): len(table.contexts_of(names[p])) for p, c in there}
