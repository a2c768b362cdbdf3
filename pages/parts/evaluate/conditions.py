"""Parts of the Evaluate page that look closer: each condition against a baseline, and each gene of a condition."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.evaluate import charts as evaluatechart
from pages.parts.figures import show_figure
from pages.parts.format import plural
from pages.parts.result import stamp
from state_engine import keys
from state_engine.evaluation.effects_file import ConditionEffects, read_condition
from state_engine.evaluation.report import EFFECTS, Evaluation, arrow
from state_engine.evaluation.verdict import apart
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.profile import Metric
from state_engine.options import join_commas

TITLES = {
    "corrected": "Prediction", "prediction": "Prediction", "raw": "Raw prediction", "calibrated": "Calibrated", "no change": "No change",
    "mean of other contexts": "Mean of other contexts", "likeness-weighted mean": "Likeness-weighted mean",
    "mean of the context": "Mean of the context",
    "additive": "Sum of single perturbations", "nearest neighbours": "Nearest neighbours", "ridge": "Ridge regression",
    "measured elsewhere": "Measured elsewhere",
}  # fmt: skip


def title(method: str) -> str:
    """A method as it is called on the page."""
    return TITLES.get(method, method[:1].upper() + method[1:])


# ---- conditions ----


def paired(table: pd.DataFrame, metric: str, method: str, other: str) -> pd.DataFrame:
    """A row a condition with numbers of both: perturbation, context, own, other (means over draws)."""
    part = table[(table["metric"] == metric) & (table["perturbation"] != "")]
    means = part.groupby(["method", "perturbation", "context"], sort=False)["value"].mean()
    own, guess = (means.get(name, pd.Series(dtype=float)) for name in (method, other))
    both = pd.concat([own.rename("own"), guess.rename("other")], axis=1, join="inner").dropna()
    return both.rename_axis(["perturbation", "context"]).reset_index()


def offered(found: Evaluation, table: pd.DataFrame, detail: bool) -> list[Metric]:
    """Return the metrics by which conditions can be compared: those of the table above that rank and have a number for each."""
    known = set(table.loc[table["perturbation"] != "", "metric"])
    return [m for m in found.ranked if m.name in known and not m.describes and (detail or not m.detail)]


def conditions(found: Evaluation, table: pd.DataFrame, detail: bool) -> None:
    """Show a point for each condition, the prediction against a baseline; a click shows its genes.

    Args:
        detail: offer the metrics too that the table above shows on request.
    """
    predictions = [m.name for m in found.methods if m.kind == "prediction"]
    baselines = [m.name for m in found.methods if m.kind == "baseline" and m.n_conditions]
    metrics = offered(found, table, detail)
    if not metrics:
        return
    st.markdown("#### Where is it better than a baseline?")
    first, second = st.columns(2)
    by_name = {m.name: m for m in metrics}
    session.recall("evaluation_metric", list(by_name), metrics[0].name, "metric")
    metric = by_name[
        first.selectbox(
            "Metric", list(by_name), format_func=lambda m: f"{by_name[m].title} {arrow(by_name[m])}", key="evaluation_metric"
        )
    ]
    ours = predictions[0]
    with_numbers = [b for b in baselines if len(paired(table, metric.name, ours, b))]
    if not with_numbers:
        st.caption(f"No baseline has a {metric.title}.")
        return
    usual = "mean of other contexts" if "mean of other contexts" in with_numbers else with_numbers[0]
    session.recall("evaluation_guess", with_numbers, usual, "baseline")
    other = second.selectbox("Baseline", with_numbers, format_func=title, key="evaluation_guess")
    session.show_in_address("evaluate", {"metric": metrics[0].name, "baseline": usual}, ("metric", "baseline"))
    rows = paired(table, metric.name, ours, other)
    better = int(((rows["own"] > rows["other"]) if metric.more_is_better else (rows["own"] < rows["other"])).sum())
    grey = found.tells(metric.name) is False
    doubt = " This metric cannot tell a replicate from an average on these cells, so a lead decides nothing." if grey else ""
    show_figure(
        evaluatechart.conditions(rows, title(ours), title(other), metric.title, metric.more_is_better, _condition(found)),
        key="evaluation_conditions",
        title=f"{metric.title} of each condition: {title(ours).lower()} against {title(other).lower()}",
        caption=f"{plural(len(rows), 'condition')}; the prediction is better in {better:,}.{doubt} Dashed: as good as the baseline. Choose a point "
        "to see its genes.",
        table=lambda: rows,
        height=420,
        on_select=partial(_picked, rows),
        modes=("points",),
    )


def _picked(rows: pd.DataFrame) -> None:
    points = st.session_state["evaluation_conditions_plot"]["selection"]["points"]
    if points and points[0].get("customdata") is not None:
        data = points[0]["customdata"]
        row = rows.iloc[int(data[0] if isinstance(data, list | tuple) else data)]
        st.session_state["evaluation_condition"] = join_commas((str(row["perturbation"]), str(row["context"])))


def _condition(found: Evaluation) -> tuple[str, str]:
    """Return the condition that is looked at: the one that was chosen, else the first."""
    known = _known(found)
    session.recall("evaluation_condition", list(known), next(iter(known)), "condition")
    return known[st.session_state["evaluation_condition"]]


def _known(found: Evaluation) -> dict[str, tuple[str, str]]:
    """Return each condition by its name in the address."""
    pairs = [(c.perturbation, c.context) for c in found.conditions]
    return {join_commas(pair): pair for pair in pairs}


# ---- genes ----


@st.cache_data(max_entries=64, show_spinner=False)
def _effects(path: str, written: int, perturbation: str, context: str) -> ConditionEffects | None:
    return read_file(read_condition, Path(path), perturbation, context)


def genes(run: RunFolder, found: Evaluation) -> None:
    """Predicted against measured effects of one condition."""
    st.markdown("#### Does it find the genes?")
    known = _known(found)
    _condition(found)
    first, second = st.columns(2)
    pair = known[first.selectbox("Condition", list(known), format_func=lambda c: _in_words(known[c]), key="evaluation_condition")]
    path = run.file(EFFECTS)
    kept = _effects(str(path), stamp(path), *pair)
    if kept is None:
        st.caption("The effects were not kept: there were too many genes and conditions.")
        return
    methods = [name for name, values in kept.methods.items() if not pd.isna(values).any()]
    session.recall("evaluation_method", methods, methods[0], "method")
    method = second.selectbox("By", methods, format_func=title, key="evaluation_method")
    session.show_in_address("evaluate", {"condition": next(iter(known)), "method": methods[0]}, ("condition", "method"))
    predicted = kept.methods[method]
    cells = next(c for c in found.conditions if (c.perturbation, c.context) == pair)
    show_figure(
        evaluatechart.effects(kept.genes, kept.measured, predicted, title(method).lower()),
        key="evaluation_effects",
        title=f"Predicted against measured effect of each gene: {_in_words(pair)}",
        caption=f"{_agreement_words(kept, method)} Effect: mean expression minus the control's. {cells.n_measured:,} measured cells, "
        f"{plural(len(kept.genes), 'gene')}. Dashed: perfect agreement.",
        table=lambda: effects_table(kept),
        height=420,
    )


def _in_words(pair: tuple[str, str]) -> str:
    return pair[0] if pair[1] == keys.ALL else f"{pair[0]} in {pair[1]}"


def _agreement_words(kept: ConditionEffects, method: str) -> str:
    """r of the method shown, beside that of the best other one."""
    own = evaluatechart.agreement(kept.measured, kept.methods[method])
    if own is None:
        return "It has no correlation: the effect is the same for every gene."
    others = {
        m: r for m, v in kept.methods.items() if m != method and (r := evaluatechart.agreement(kept.measured, v)) is not None
    }
    if not others:
        return f"r = {own:.3f}."
    best = max(others, key=lambda m: others[m])
    if f"{own:.3f}" == f"{others[best]:.3f}":
        return f"r = {own:.3f}; {title(best).lower()} has the same.".replace("= -", "= −")
    ours, theirs = apart(own, others[best])
    return f"r = {ours}; the best of the others is {title(best).lower()} with {theirs}.".replace("= -", "= −")


def effects_table(kept: ConditionEffects) -> pd.DataFrame:
    """Every gene, the measured effect and that of each method."""
    return pd.DataFrame({"gene": kept.genes, "measured": kept.measured, **kept.methods})
