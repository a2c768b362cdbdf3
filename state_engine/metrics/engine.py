"""The metrics of one context by cell-eval2, on the CPU: on mean expression (one row a perturbation), or on cells with pdex.

Known traps, and what is done: cell-eval2 wants the same perturbations on both sides, so those that a method says nothing about are filled
with the control and their numbers dropped (a perturbation's numbers do not depend on the other predictions); it charges the
worst value for a correlation that does not exist, which is none here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.scored_cells import TARGET
from state_engine.errors import ChallengeError
from state_engine.evaluation.request import ControlSource, Profile
from state_engine.metrics.metrics import COSINE, on_cells, on_means

if TYPE_CHECKING:
    from cell_eval2 import EvalConfig

DEVICE: Literal["cpu"] = "cpu"

Values = dict[str, dict[str, float]]
"""metric -> perturbation -> value; what does not exist is left out."""


def config_of(
    profile: Profile, controls: ControlSource, control: str, genes: tuple[str, ...], labels: tuple[str, ...]
) -> EvalConfig:
    """The definitions of a profile on log1p expression; `labels` without a gene among them have no target gene to leave out."""
    from cell_eval2 import EvalConfig

    config = EvalConfig.v1() if profile == "vcc2025" else EvalConfig.v2()
    config = replace(
        config,
        pert_col=TARGET,
        control=control,
        device=DEVICE,
        input_type="lognorm",
        control_source="pred" if controls == "predicted" else "real",
        de=replace(config.de, backend="pdex", fdr_scope="per_pert"),
    )
    return config if set(labels) & set(genes) else replace(config, target_gene_map={"*": None})


def metrics_on_means(
    config: EvalConfig,
    profile: Profile,
    predicted: Mapping[str, np.ndarray],
    predicted_control: np.ndarray,
    real: Mapping[str, np.ndarray],
    real_control: np.ndarray,
    genes: tuple[str, ...],
) -> Values:
    """Metrics of mean expression (g,) by perturbation.

    Args:
        predicted: may lack perturbations of `real`; those have no values.
        predicted_control: mean of the prediction's control cells; used where the config says so.
    """
    sides = []
    for means, control in ((predicted, predicted_control), (real, real_control)):
        rows = [means.get(p, control) for p in real]
        sides.append(_cells(np.vstack([*rows, control]).astype(np.float32), [*real, config.control], genes))
    names = [name for name in on_means(profile) if name != COSINE]
    found = computed(sides[0], sides[1], replace(config, metrics=names, validate_input=False))
    base = predicted_control if config.control_source == "pred" else real_control
    effects = {p: (mean - base, real[p] - real_control) for p, mean in predicted.items()}
    constant = {p for p, pair in effects.items() if any(np.ptp(e) == 0 for e in pair)}
    kept = {
        metric: {
            p: v
            for p, v in values.items()
            if p in predicted and not (metric in ("delta_pearson", "pearson_delta") and p in constant)
        }
        for metric, values in found.items()
    }
    if len(real) < 2:  # one perturbation has nobody to be told apart from
        kept = {metric: v for metric, v in kept.items() if metric not in ("pds_l1", "discrimination_score_l1")}
    if COSINE in on_means(profile):
        kept[COSINE] = {p: c for p, pair in effects.items() if (c := cosine(*pair)) is not None}
    return kept


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of two effects (g,); None when one is zero."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else None


def metrics_on_cells(config: EvalConfig, profile: Profile, predicted: ad.AnnData, real: ad.AnnData, kept: str) -> Values:
    """Metrics of differential expression.

    Args:
        kept: a folder for the tests of the measured cells: the same for every method on the same `real`.
    """
    names = list(on_cells(profile))
    return computed(predicted, real, replace(config, metrics=names, cache_real=kept, cache_strict=True))


def computed(predicted: ad.AnnData, real: ad.AnnData, config: EvalConfig) -> Values:
    """What cell-eval2 makes of two sets of cells, which it may change.

    Raises:
        ChallengeError: it refuses them; its reason is quoted.
    """
    from cell_eval2 import compute_metrics

    with quiet():
        try:
            tidy = compute_metrics(predicted, real, config=config)
        except ValueError as error:
            why = str(error).split(". ")[0].rstrip(".")[:400]
            raise ChallengeError("These cells cannot be scored.", f"cell-eval2 says: {why}.", "Check the two files.") from error
    found: Values = {}
    for perturbation, metric, value in tidy.select("perturbation", "metric", "value").iter_rows():
        if value is not None and np.isfinite(value):
            found.setdefault(metric, {})[perturbation] = float(value)
    return found


def stacked(
    parts: Mapping[str, np.ndarray | sp.csr_matrix], control: np.ndarray | sp.csr_matrix, label: str, genes: tuple[str, ...]
) -> ad.AnnData:
    """Cells of perturbations and of the control as AnnData, CSR float32."""
    blocks = [sp.csr_matrix(x) for x in (*parts.values(), control)]
    labels = np.repeat([*parts, label], [x.shape[0] for x in blocks])
    return _cells(sp.vstack(blocks, format="csr").astype(np.float32), labels, genes)


def _cells(x: np.ndarray | sp.csr_matrix, labels: np.ndarray | list[str], genes: tuple[str, ...]) -> ad.AnnData:
    obs = pd.DataFrame({TARGET: pd.Categorical(labels)}, index=[f"cell {i}" for i in range(x.shape[0])])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the engines, which are about what is decided and said here."""
    log = logging.getLogger("cell_eval2")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # pdex's progress bar cannot be turned off
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
