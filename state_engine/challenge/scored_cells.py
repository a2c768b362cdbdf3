"""The cells that are scored: a submission as it would be packed, and the measurement, on the same genes and labels.

Both come as AnnData with CSR float32 X, obs `target_gene` (the control under the challenge's label) and, where there are contexts,
`context`. The caller's files are read, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.contents import Plan, make_plan
from state_engine.challenge.findings import Finding, NullCheck
from state_engine.challenge.null import null_checked
from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.spec import Rules
from state_engine.challenge.submit import SubmissionRequest, counts_of, source_of, spec_of
from state_engine.challenge.verify import unpack_prediction
from state_engine.data.dataset import Dataset
from state_engine.data.embedding_record import result_depth
from state_engine.data.expression import DEPTH, FeatureSource, iter_features, match_genes
from state_engine.data.files.hdf5 import open_h5
from state_engine.data.scale import SAMPLE_CELLS, decide_scale, same_depth
from state_engine.errors import ChallengeError, ScaleError, listed
from state_engine.files import scratch_folder
from state_engine.metrics.profile import TARGET
from state_engine.plain import part_of
from state_engine.progress import OnProgress, Progress, silent

CONTEXT = "context"
BLOCK = 2048


@dataclass(frozen=True)
class ScoredCells:
    """Cells to compare: the same genes in the same order, remarks on what was left out, and the null checks of the submission."""

    predicted: ad.AnnData
    measured: ad.AnnData
    remarks: tuple[str, ...]
    null: tuple[NullCheck, ...] = ()


def read_submission(request: SubmissionRequest, rules: Rules, scratch: Path, on_progress: OnProgress = silent) -> ad.AnnData:
    """A submission as it would be packed, repairs and counts step included; of a .vcc what is in it.

    Raises:
        ChallengeError: it cannot be read, or has no perturbation labels.
    """
    plan = _plan_of(request, rules, scratch)
    why = _why_not(plan, counts_of(request, rules) is not None)
    if why is not None or plan.perturbations is None:
        title, detail = (why.title, why.detail) if why else ("The cells have no labels.", "")
        raise ChallengeError(title, detail, "Check the submission.")
    parts, done = [], 0
    for part, _ in plan.blocks(scratch):
        on_progress(Progress("Reading predicted cells", done, plan.n_cells))
        changed = plan.change.apply(part, done) if plan.change else part
        parts.append(changed.astype(np.float32))
        done += part.shape[0]
    # "" comes last, so that code -1 (no label) reads it
    names = np.array([*plan.perturbations.names, ""], dtype=object)
    obs = {TARGET: names[plan.perturbations.codes].astype(str)}
    if rules.context_key and plan.contexts is not None:
        obs[CONTEXT] = np.array([*plan.contexts.names, ""], dtype=object)[plan.contexts.codes].astype(str)
    return _cells(sp.vstack(parts, format="csr"), obs, plan.genes)


def _plan_of(request: SubmissionRequest, rules: Rules, scratch: Path) -> Plan:
    spec = replace(spec_of(request), rules=rules)
    source = source_of(request, rules)
    if source.path.suffix == ".vcc":
        source = SubmissionSource(unpack_prediction(source.path, scratch / "pred.h5ad", spec))
    return make_plan(source, spec, request.repairs, counts_of(request, rules), scratch)


def null_checks(request: SubmissionRequest, rules: Rules, on_progress: OnProgress = silent) -> tuple[NullCheck, ...]:
    """Return what effect zero calls in each context when it is sent through the steps of a submission; () where that cannot be checked.

    It can where the steps make counts of log1p values and there are control cells with counts: an archive, or counts of others, do not tell.
    """
    if rules.values != "counts" or counts_of(request, rules) is None:
        return ()
    on_progress(Progress("Checking effect zero"))
    with scratch_folder() as scratch:
        plan = _plan_of(request, rules, scratch)
        # what stops an archive need not stop its scores
        return null_checked(replace(plan, findings=()), request.repairs).null


def _why_not(plan: Plan, counts: bool) -> Finding | None:
    """Return the finding that leaves nothing to score; other errors stop an archive, not its scores."""
    errors = [f for f in plan.findings if f.severity == "error"]
    fatal = [f for f in errors if not plan.parts or f.code in ("perturbation-column", "no-cells")]
    # counts were asked for, and something kept them from being made
    if counts and plan.change is None:
        fatal += errors
    return fatal[0] if fatal else None


def read_measured(
    dataset: Dataset, genes: tuple[str, ...], rules: Rules, contexts: tuple[str, ...] = (), on_progress: OnProgress = silent,
    depth: float | None = None,
) -> tuple[ad.AnnData, np.ndarray]:  # fmt: skip
    """Measured cells in the scale of a challenge.

    Args:
        dataset: the measurement.
        genes: genes wanted.
        rules: values "counts" or "log1p" (counts are normalised to depth 10,000 over all genes of the file, then log1p).
        contexts: contexts to take; empty for all.
        depth: that log1p values are brought to, where their own one is known; None for 10,000 of counts, and log1p values as they are.

    Returns:
        the cells on those genes that the data set has, and (len(genes),) which these are.

    Raises:
        ScaleError: the data are neither counts nor log1p, or log1p where counts are needed.
        ChallengeError: none of the genes is there.
    """
    if dataset.expression is None or dataset.scale.scale is None:
        raise ScaleError(f"{dataset.path.name} has no expression that can be scored.", " ".join(dataset.scale.evidence))
    if rules.values == "counts" and dataset.scale.scale != "counts":
        raise ScaleError(f"{dataset.path.name} has log1p values.", "The scores compare raw counts.", "Give the raw counts.")
    match = match_genes(dataset, genes)
    there = np.asarray(match.columns) >= 0
    if not there.any():
        raise ChallengeError(
            "Predicted and measured cells share no gene.", f"Predicted: {listed(genes)}.", "Choose the column of gene names."
        )
    # only genes that were measured: others would be scored against zeros that nobody measured
    columns = tuple(int(c) for c in np.asarray(match.columns)[there])
    normalise = rules.values == "log1p" and dataset.scale.scale == "counts"
    source = FeatureSource(dataset.expression, columns, normalise)
    if rules.values == "log1p" and (normalise or dataset.scale.depth):
        source = source.at_depth(dataset.scale, depth)
    labels, where = dataset.perturbation_labels(), dataset.context_labels()
    rows = np.nonzero(np.isin(where, contexts) if contexts else np.ones(dataset.n_cells, bool))[0]
    parts, done = [], 0
    for _, values in iter_features(dataset, source, rows, BLOCK):
        on_progress(Progress("Reading measured cells", done, len(rows)))
        # sparse at once: a dense block is held for a moment, the whole matrix never
        parts.append(sp.csr_matrix(values))
        done += len(values)
    if not parts:
        raise ChallengeError("There are no measured cells to compare with.", f"Contexts: {listed(contexts)}.", "Choose others.")
    control = dataset.require_control()
    obs = {TARGET: np.where(labels[rows] == control, rules.control, labels[rows])}
    if rules.context_key:
        obs[CONTEXT] = where[rows]
    kept = tuple(g for g, yes in zip(genes, there, strict=True) if yes)
    return _cells(sp.vstack(parts, format="csr"), obs, kept), there


def depth_of(predicted: ad.AnnData, rules: Rules, source: Path) -> float | None:
    """Return the depth of the log1p values of a submission; None when it is not known, or for counts.

    Args:
        predicted: its cells.
        rules: of the challenge.
        source: its file: the result of a run records its depth, which predicted cells do not show.
    """
    if rules.values != "log1p" or predicted.n_obs == 0:
        return None
    control = (predicted.obs[TARGET] == rules.control).to_numpy()
    cells = predicted.X[control] if control.any() else predicted.X
    stored = sp.coo_matrix(cells[:: max(1, cells.shape[0] // SAMPLE_CELLS)])
    found = decide_scale(stored.data, stored.row, stored.shape[0])
    if found.scale == "log1p" and found.depth:
        return found.depth
    if source.suffix != ".h5ad":
        return None
    with open_h5(source) as file:
        return result_depth(file)


def depth_remarks(dataset: Dataset, depth: float | None, rules: Rules) -> tuple[str, ...]:
    """Return what to know where measured values are brought to the depth of a submission."""
    own = DEPTH if dataset.scale.scale == "counts" else dataset.scale.depth
    if rules.values != "log1p" or not depth or not own or same_depth(own, depth):
        return ()
    return (
        f"The submission is of {depth:,.0f} per cell, {dataset.path.name} of {own:,.0f}: they are different scales. The measured cells are "
        f"brought to {depth:,.0f} for these scores, which is exact; the scorer of the challenge brings nothing to anything.",
    )


def compared(predicted: ad.AnnData, measured: ad.AnnData, there: np.ndarray, rules: Rules) -> ScoredCells:
    """Predicted and measured cells on common genes and perturbations; what is left out is a remark.

    Raises:
        ChallengeError: nothing is left to compare.
    """
    remarks = []
    if not there.all():
        remarks.append(f"Scored on {part_of(int(there.sum()), len(there), 'predicted gene')}: the others were not measured.")
        predicted = predicted[:, there].copy()
    a, b = set(predicted.obs[TARGET]) - {rules.control}, set(measured.obs[TARGET]) - {rules.control}
    both = sorted(a & b)
    if not both:
        raise ChallengeError(
            "No perturbation is both predicted and measured.",
            f"Predicted: {listed(sorted(a))}. Measured: {listed(sorted(b))}.",
            "Choose the measurement of the same perturbations.",
        )
    if b - a:
        remarks.append(f"Measured but not predicted, so not scored: {listed(sorted(b - a))}. A challenge would not accept that.")
    if a - b:
        remarks.append(f"Predicted but not measured, so not scored: {listed(sorted(a - b))}.")
    if not (measured.obs[TARGET] == rules.control).any():
        raise ChallengeError("The measurement has no control cells.", "Effects are differences from them.", "Add them.")
    keep = [*both, rules.control]
    # copies, not views: a view keeps the whole matrix in memory, and copies itself with a warning when written to
    predicted = predicted[np.isin(predicted.obs[TARGET].to_numpy(str), keep)].copy()
    return ScoredCells(predicted, measured[np.isin(measured.obs[TARGET].to_numpy(str), keep)].copy(), tuple(remarks))


def _cells(x: sp.csr_matrix, obs: dict[str, np.ndarray], genes: tuple[str, ...]) -> ad.AnnData:
    frame = pd.DataFrame({k: pd.Categorical(v) for k, v in obs.items()}, index=[f"cell {i}" for i in range(x.shape[0])])
    return ad.AnnData(x, obs=frame, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
