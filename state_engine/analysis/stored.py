"""Answers kept in a run folder: the worker makes them, a page reads them without importing anything heavy.

    RUN/differential/NAME-DIGEST.parquet              a table of all genes (see `differential.table_for`)
    RUN/differential/comparison-NAME-DIGEST.json      an `EffectComparison` without its genes, and
    RUN/differential/comparison-NAME-DIGEST.parquet   its genes
    RUN/differential/effects-DIGEST.parquet           how large the effect of each condition is (see `effects.effect_sizes`)
    RUN/differential/changes-effects-DIGEST.parquet   log2 fold change of each gene in each condition (see `effects.effect_tables`)
    RUN/differential/standing-DIGEST.parquet          band of doubt of each condition, and whether it beats the mean (see `standing.standings`)

The digest changes with the question and with the result, so an answer is never of another result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis.effects import ConditionEffect, EffectComparison, Score, compare, effect_tables
from state_engine.analysis.standing import Weighing, standings
from state_engine.effects.means import FILE_NAME, load_means
from state_engine.errors import RunError
from state_engine.files import read_json, replacing, write_json
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, silent

_VERSION: Final = 4  # of the numbers: change it, and stored comparisons are made again
_EFFECTS: Final = 1  # of the sizes of effects, the same
_STANDING: Final = 2  # of what can be trusted, the same
_FIELDS: Final = ("perturbation", "context", "n_predicted", "n_observed", "n_control", "n_significant", "top")


def measured_conditions(result: Result) -> frozenset[tuple[str, str]]:
    """Return the (perturbation, context) pairs with enough measured cells, and control cells of the context, to compare with."""
    counts = result.obs.groupby([keys.KIND, keys.CONTEXT, keys.PERTURBATION], observed=True).size()
    controls: dict[str, int] = {}
    for (kind, context, _), n in counts.items():
        if kind == keys.OBSERVED_CONTROL:
            controls[str(context)] = controls.get(str(context), 0) + int(n)
    return frozenset(
        (str(p), str(c))
        for (kind, c, p), n in counts.items()
        if kind == keys.OBSERVED and n >= de.MIN_CELLS and controls.get(str(c), 0) >= de.MIN_CELLS
    )


def is_measured(result: Result, perturbation: str, context: str) -> bool:
    """Whether one condition is among the `measured_conditions`."""
    return (perturbation, context) in measured_conditions(result)


def comparison_path(run_dir: Path, perturbation: str, context: str) -> Path:
    """Where `comparison_for` keeps a comparison; it may not be there yet.

    Raises:
        RunError: the run has no result.
    """
    table = de.table_path(run_dir, perturbation, context, keys.OBSERVED_CONTROL, "observed")
    return table.with_name(f"comparison-{_VERSION}-{table.stem}.json")


def comparison_for(run_dir: Path, perturbation: str, context: str, result: Result | None = None) -> Path:
    """Predicted against measured, as a file, made when it is not there. See `read_comparison`.

    Args:
        result: the run's, where it is open already.

    Raises:
        RequestError: the condition was not measured or not predicted.
        RunError: the run has no readable result.
    """
    path = comparison_path(run_dir, perturbation, context)
    if path.exists():
        return path
    means = Path(run_dir) / FILE_NAME
    result = result or open_result(Path(run_dir) / "result.h5ad")
    found = compare(result, perturbation, context, load_means(means) if means.exists() else None)
    path.parent.mkdir(exist_ok=True)
    with replacing(path.with_suffix(".parquet")) as beside:
        found.genes.to_parquet(beside, engine="pyarrow")
    plain = {name: getattr(found, name) for name in _FIELDS}
    write_json(path, plain | {"scores": to_plain(found.scores)})  # last: its being there says that both are complete
    return path


def read_comparison(path: Path) -> EffectComparison:
    """A stored comparison.

    Raises:
        RunError: a file is missing or damaged.
    """
    try:
        plain = read_json(path)
        genes = pd.read_parquet(path.with_suffix(".parquet"), engine="pyarrow")
        scores = tuple(from_plain(Score, score) for score in plain["scores"])
        return EffectComparison(**{name: plain[name] for name in _FIELDS}, scores=scores, genes=genes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"The comparison {path.name} cannot be read.", "It is missing or damaged.", "Delete it; it is made again."
        ) from error


def effects_path(run_dir: Path) -> Path:
    """Return where `effects_for` keeps the sizes of all effects; it may not be there yet.

    Raises:
        RunError: the run has no result.
    """
    table = de.table_path(run_dir, "", "")
    return table.with_name(f"effects-{_EFFECTS}{table.stem}.parquet")


def effects_for(run_dir: Path, on_progress: OnProgress = silent) -> Path:
    """Measure all effects of a run and how far each can be trusted, where that was not done; return the file of `effects.effect_sizes`.

    Raises:
        RequestError: as `effects.effect_sizes`.
        RunError: the run has no readable result.
    """
    path, changes, standing = effects_path(run_dir), changes_path(run_dir), standing_path(run_dir)
    if has_effects(run_dir):
        return path
    result, means = open_result(Path(run_dir) / "result.h5ad"), Path(run_dir) / FILE_NAME
    known = load_means(means) if means.exists() else None
    if path.exists() and changes.exists():
        _write({standing: standings(result, measured_conditions(result), known, on_progress)})
        return path
    weighing = Weighing(result, measured_conditions(result), known)  # while the cells are read for the sizes

    def weigh(one: ConditionEffect) -> None:
        weighing.add(one.perturbation, one.context, one.effect)

    sizes, folds = effect_tables(result, on_progress=on_progress, each=weigh)
    _write({standing: weighing.table(), changes: folds, path: sizes})
    return path


def _write(tables: Mapping[Path, pd.DataFrame]) -> None:
    for path, table in tables.items():
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            table.to_parquet(beside, engine="pyarrow")


def has_effects(run_dir: Path) -> bool:
    """Return whether all that `effects_for` makes is there.

    Raises:
        RunError: the run has no result.
    """
    return all(path(run_dir).exists() for path in (effects_path, changes_path, standing_path))


def standing_path(run_dir: Path) -> Path:
    """Return where `effects_for` keeps the band and the standing of each condition; it may not be there yet.

    Raises:
        RunError: the run has no result.
    """
    table = de.table_path(run_dir, "", "")
    return table.with_name(f"standing-{_STANDING}{table.stem}.parquet")


def change_of_gene(path: Path, gene: str) -> pd.DataFrame:
    """Return perturbation, context and log2_fold_change of one gene from the file of changes; no other gene is read.

    Raises:
        RunError: the file is missing or damaged, or does not have the gene.
    """
    try:
        table = pd.read_parquet(path, engine="pyarrow", columns=["perturbation", "context", gene])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"The changes of '{gene}' cannot be read.", f"{path.name} is damaged, or has no such gene.") from error
    return table.set_axis(["perturbation", "context", "log2_fold_change"], axis=1)


def changes_path(run_dir: Path) -> Path:
    """Return where `effects_for` keeps the log2 fold change of each gene in each condition; it may not be there yet.

    Raises:
        RunError: the run has no result.
    """
    path = effects_path(run_dir)
    return path.with_name(f"changes-{path.name}")


def answer(
    run_dir: Path,
    perturbation: str,
    context: str,
    reference: de.Reference = "predicted control",
    expression: de.Expression = "corrected",
    on_progress: OnProgress = silent,
    result: Result | None = None,
) -> Path:
    """Make all that the page Genes shows of one condition: its table, and the comparison where it was measured.

    Args:
        result: the run's, where it is open already.

    Returns:
        The table's path.

    Raises:
        RequestError: as `differential.differential`.
        RunError: the run has no readable result.
    """
    path = de.table_for(run_dir, perturbation, context, reference, expression, on_progress=on_progress, result=result)
    if not comparison_path(run_dir, perturbation, context).exists():
        result = result or open_result(Path(run_dir) / "result.h5ad")
        if (perturbation, context) in result.conditions() and is_measured(result, perturbation, context):
            comparison_for(run_dir, perturbation, context, result)
    return path
