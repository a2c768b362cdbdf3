"""Plans made from choices instead of a text: everything, without a context, without some perturbations, or a sensible default.

Boundary: labels of an opened data set; the plan they give is applied by `splits.apply_plan` like any other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from state_engine.data.dataset import Dataset
from state_engine.data.splits.held import HeldPart
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.errors import SplitError, listed

TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of the perturbations, in a default plan that holds out perturbations


def everything(dataset: Dataset, name: str = "") -> SplitPlan:
    """All of a data set is trained on. `name` in the plan is made from the file's when not given."""
    name = name or dataset.path.stem.replace(".", "_")
    return SplitPlan(((name, str(dataset.path)),), (name,))


def hold_out_contexts(plan: SplitPlan, contexts: tuple[str, ...], part: HeldPart, name: str = "") -> SplitPlan:
    """The plan with contexts moved whole to validation or test; what was said of them before is replaced.

    Args:
        name: of the data set in the plan; the first by default.
    """
    name = name or plan.datasets[0][0]
    kept = [c for c in plan.zeroshot if (c.dataset, c.context) not in {(name, context) for context in contexts}]
    few = tuple(c for c in plan.fewshot if c.dataset != name or c.context not in contexts)
    return replace(plan, zeroshot=(*kept, *(ZeroShot(name, context, part) for context in contexts)), fewshot=few)


def hold_out_perturbations(
    plan: SplitPlan,
    dataset: Dataset,
    which: int | tuple[str, ...],
    contexts: tuple[str, ...],
    part: HeldPart,
    seed: int = 42,
    name: str = "",
) -> SplitPlan:
    """The plan with perturbations of some contexts moved to validation or test.

    Args:
        which: labels, or how many: drawn by `seed` among those with cells in all of the contexts that the plan holds out in none
            of them; first those that another context trains.
        contexts: where they are held out; a perturbation held out everywhere needs features to be predicted.
        name: of the data set in the plan; the first by default.

    Raises:
        SplitError: fewer perturbations than asked for, no context, or one that is held out whole.
    """
    name = name or plan.datasets[0][0]
    whole = [c.context for c in plan.zeroshot if c.dataset == name and c.context in contexts]
    if whole or not contexts:
        raise SplitError(
            f"Perturbations cannot be held out in {listed(whole) or 'no context'}.",
            "A context that is held out whole has none left." if whole else "",
            "Choose contexts that are trained on.",
        )
    labels = _draw(plan, dataset, which, contexts, seed, name) if isinstance(which, int) else which
    if not labels:
        return plan
    here = {c.context: c for c in plan.fewshot if c.dataset == name and c.context in contexts}
    others = (c for c in plan.fewshot if c.dataset != name or c.context not in here)
    new = (_with_labels(here.get(context, FewShot(name, context)), labels, part) for context in contexts)
    return replace(plan, fewshot=(*others, *new))


def _with_labels(clause: FewShot, labels: tuple[str, ...], part: HeldPart) -> FewShot:
    """Return the clause with labels in one part and in no other."""
    kept = {"val": clause.val, "test": clause.test}
    for other in kept:
        kept[other] = tuple(label for label in kept[other] if label not in labels)
    kept[part] = (*kept[part], *labels)
    return FewShot(clause.dataset, clause.context, **kept)


def candidates(dataset: Dataset, contexts: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Perturbations that have cells in all of the contexts, by name: those that other contexts have too, and the rest."""
    control = dataset.require_control()
    others = [c for c in dataset.contexts if c not in contexts and len(dataset.control_rows(c))]
    found: tuple[list[str], list[str]] = ([], [])
    for label in dataset.perturbations:
        if label != control and all(len(dataset.rows(label, c)) for c in contexts):
            found[0 if any(len(dataset.rows(label, c)) for c in others) else 1].append(label)
    return found


def _draw(plan: SplitPlan, dataset: Dataset, n: int, contexts: tuple[str, ...], seed: int, name: str) -> tuple[str, ...]:
    taken = {p for c in plan.fewshot if c.dataset == name and c.context in contexts for p in (*c.val, *c.test)}
    seen, unseen = ([label for label in group if label not in taken] for group in candidates(dataset, contexts))
    if n > len(seen) + len(unseen):
        raise SplitError(
            f"{n:,} perturbations cannot be held out in {listed(contexts)}.",
            f"{len(seen) + len(unseen):,} have cells there and are not held out yet.",
            "Ask for fewer.",
        )
    rng = np.random.default_rng(seed)
    drawn = [group[i] for group in (seen, unseen) for i in rng.permutation(len(group))]
    return tuple(sorted(drawn[:n]))


def parts_of(label: str) -> tuple[str, ...]:
    """Return the single perturbations of a label, joined by '+' where there are several."""
    return tuple(part.strip() for part in label.split("+"))


def genes_of(label: str, genes: Collection[str]) -> tuple[str, ...]:
    """Return the genes that a perturbation names, joined by '+' where there are several; empty unless each is among the genes given."""
    parts = parts_of(label)
    return parts if all(part in genes for part in parts) else ()


def suggest_plan(dataset: Dataset, name: str = "", seed: int = 42) -> SplitPlan:
    """A sensible default.

    With three or more contexts that have controls and share perturbations: one of middle size is tested on. None validates: a context
    that does not teach costs more than its validation is worth, and a calibration can leave contexts out in turn. Otherwise
    perturbations are held out to test and to validate on, in the smaller of two contexts (the larger one still teaches them), or in
    the only one where they are genes of the data set (predicted from where these lie among the genes that vary together). Nothing is held out
    where there are too few for both, or where no model could predict what is held out.
    """
    plan, control = everything(dataset, name), dataset.require_control()
    perturbed = [p for p in dataset.perturbations if p != control]
    cells = {c: sum(len(dataset.rows(p, c)) for p in perturbed) for c in dataset.contexts if len(dataset.control_rows(c))}
    order = sorted((c for c, n in cells.items() if n), key=lambda c: (-cells[c], c))  # the one with most perturbed cells first
    shared = [c for c in order if candidates(dataset, (c,))[0]]
    if len(shared) >= 3:
        return hold_out_contexts(plan, (shared[len(shared) // 2],), "test")
    if not order:
        return plan
    where = (order[-1],)
    seen, unseen = candidates(dataset, where)
    group = seen if len(order) > 1 else unseen
    taught = len(order) > 1 or all(genes_of(label, dataset.genes.names) for label in (*seen, *unseen))
    if len(group) < 3 or not taught:
        return plan
    plan = hold_out_perturbations(plan, dataset, max(1, round(TEST_SHARE * len(group))), where, "test", seed)
    return hold_out_perturbations(plan, dataset, max(1, round(VAL_SHARE * len(group))), where, "val", seed)
