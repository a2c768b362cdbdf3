"""Parts of the Genes page that compare: predicted with measured beside baselines, and one gene over all conditions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts.figures import csv_button, show_figure
from pages.parts.format import md, plural
from pages.parts.genes import charts as genechart
from pages.parts.genes.table import Question, picked_point
from pages.parts.result import open_run, stamp
from state_engine.analysis import stored
from state_engine.analysis.effects import (
    CALIBRATED,
    CORRECTED,
    LIKENESS,
    NO_CHANGE,
    OTHER_CONTEXTS,
    OTHER_PERTURBATIONS,
    RAW,
    EffectComparison,
    Score,
    gene_ranking,
)
from state_engine.analysis.recall import moved_genes
from state_engine.effects.exposure import Exposure
from state_engine.effects.scores import TOP
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.rules import BY_FDR
from state_engine.prediction.result import Layer, Result

NAMES = {
    CORRECTED: "**Prediction**",
    CALIBRATED: "Calibrated prediction",
    RAW: "Raw prediction",
    NO_CHANGE: "No change",
    OTHER_CONTEXTS: "Mean of other contexts",
    LIKENESS: "Likeness-weighted mean of other contexts",
    OTHER_PERTURBATIONS: "Mean of other perturbations",
}
_BASELINES = {
    NO_CHANGE: "No change at all",
    OTHER_CONTEXTS: "The mean of the other contexts",
    LIKENESS: "The mean of the other contexts, weighted by how alike they are,",
    OTHER_PERTURBATIONS: "The mean of the other perturbations",
}


@st.cache_data(max_entries=64, show_spinner=False)
def comparison_at(path: str, written: int) -> EffectComparison:
    return read_file(stored.read_comparison, Path(path), within=Path(path).parent)


def comparison_of(run: RunFolder, result: Result, question: Question) -> EffectComparison | None:
    """Return the comparison of a condition with its measured cells; None where it was not measured."""
    condition = question.perturbation, question.context
    path = stored.comparison_path(run.path, *condition)
    if not stored.is_measured(result, *condition) or not path.exists():
        return None
    return comparison_at(str(path), stamp(path))


def against_measured(run: RunFolder, result: Result, question: Question, gene: str) -> None:
    """Predicted against measured fold changes, the scores beside simple baselines, and what they say."""
    condition = question.perturbation, question.context
    found = comparison_of(run, result, question)
    if found is None:
        st.info(
            f"Your data set has no measured cells of **{md(condition[0])}** in **{md(condition[1])}**, so this prediction cannot be checked "
            "here. Contexts where it was measured are marked in the list above.",
            icon=":material/info:",
        )
        return
    exposure = result.exposure(*condition)
    lines = verdict(found.scores, result.layers(*condition)[0])
    if lines:
        st.warning("  \n".join(lines), icon=":material/balance:")  # our words and numbers only, no name of a file
    with st.container(key="halves_agreement"):
        left, right = st.columns([1, 1], gap="large")
    with left:
        _scatter(found, question, gene)
    with right:
        _scores(found, exposure)


def _scatter(found: EffectComparison, question: Question, gene: str) -> None:
    layer = question.layer
    show_figure(
        genechart.agreement(found.genes, f"{layer}_log2_fold_change", chosen=gene),
        key="agreement",
        title="Predicted against measured change of each gene",
        caption=f"{plural(found.n_predicted, 'predicted cell')} ({layer}) and {plural(found.n_observed, 'measured cell')}, each against "
        f"its control. Coloured: {plural(found.n_significant, 'gene')} with {BY_FDR} in the measurement. Dashed: perfect agreement.",
        table=lambda: found.genes,
        height=460,
        on_select=partial(picked_point, "agreement_plot"),
        modes=("points",),
    )


def _scores(found: EffectComparison, exposure: Exposure) -> None:
    st.markdown("**How well it agrees, beside simple baselines**")
    # what was trained on is not ranked: its numbers are recall
    st.markdown(score_table(found, ranked=exposure != "in training"))
    for line in missing_scores(found.scores):
        st.caption(f"– {md(line, most=300)}")
    st.caption(
        f"Pearson: correlation of predicted and measured effects (log1p) over all {len(found.genes):,} genes, 1 is best. MAE: mean absolute "
        f"error of mean expression (log1p), 0 is best. Sign: share of the {plural(found.n_significant, 'gene')} significant in the "
        f"measurement with the measured direction. Moved: of the {min(found.top, TOP)} genes that it moves most, those that did, significantly and "
        f"in that direction, as in the sentence above. Top {found.top} shared: of the {found.top} largest measured effects, significant or not, the "
        f"share that is also among its {found.top} largest. "
        + ("Bold numbers lead their column." if exposure != "in training" else "Nothing is ranked here.")
    )
    csv_button("Scores (CSV)", lambda: found.table(), "scores.csv", "scores_csv")


def score_table(found: EffectComparison, ranked: bool = True) -> str:
    """The scores as a Markdown table; what does not exist is a dash, never a zero. `ranked`: the best of each column is bold."""
    columns = {"pearson": max, "mae": min, "direction": max, "overlap": max}
    best = {}
    for name, choose in columns.items():
        values = [getattr(score, name) for score in found.scores if getattr(score, name) is not None]
        best[name] = choose(values) if ranked and len(values) > 1 else None
    moved = {score.method: moved_genes(found, score.method) for score in found.scores}
    most = max((n for n in moved.values() if n is not None), default=None) if ranked else None
    lines = [f"| | Pearson | MAE | Sign | Moved | Top {found.top} shared |", "|:--|--:|--:|--:|--:|--:|"]
    for score in found.scores:
        cells = [_score_text(getattr(score, name), name, best[name]) for name in columns]
        n, count = f" (n {score.n_conditions})" if score.n_conditions else "", moved[score.method]
        cells.insert(3, "–" if count is None else f"**{count:,}**" if count == most else f"{count:,}")
        lines.append(f"| {NAMES[score.method]}{n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _score_text(value: float | None, name: str, best: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:.3f}" if name == "mae" else f"{value:.0%}" if name in ("direction", "overlap") else f"{value:.2f}"
    return f"**{text}**" if value == best else text.replace("-", "−")


def missing_scores(scores: Sequence[Score]) -> list[str]:
    """Why numbers are missing, a line a reason, with the methods it concerns."""
    reasons: dict[str, list[str]] = {}
    for score in scores:
        if score.reason:
            reasons.setdefault(score.reason, []).append(NAMES[score.method].strip("*"))
    return [
        reason if len(names) > 2 else f"{', '.join(names)}: {reason[:1].lower()}{reason[1:]}" for reason, names in reasons.items()
    ]


def verdict(scores: Sequence[Score], default: str = CORRECTED) -> list[str]:
    """In words: which baseline predicts this better than the default output (corrected or calibrated), by which numbers."""
    by_method = {score.method: score for score in scores}
    model = by_method.get(default, by_method[CORRECTED])
    lines = []
    for method, words in _BASELINES.items():
        other = by_method.get(method)
        if other is None:
            continue
        better = []
        if other.pearson is not None and model.pearson is not None and other.pearson > model.pearson:
            better.append(f"Pearson {_against(other.pearson, model.pearson)}")
        if other.mae is not None and model.mae is not None and other.mae < model.mae:
            better.append(f"mean absolute error {_against(other.mae, model.mae)}")
        comparable = 2 if other.pearson is not None and model.pearson is not None else 1
        if better:
            how = "predicts this better" if len(better) == comparable else "is better in one respect"
            if method == NO_CHANGE:
                how = "is closer to the measurement"
            lines.append(f"**{words} {how}:** {', '.join(better)}.")
    return lines


def _against(one: float, other: float) -> str:
    """'0.692 against 0.686', with as many digits as it takes to tell them apart."""
    digits = next((d for d in range(2, 6) if f"{one:.{d}f}" != f"{other:.{d}f}"), 6)
    return f"{one:.{digits}f} against {other:.{digits}f}".replace("-", "−")


BAND_WORDS = "Colours: how likely the direction holds in a replicate, as left-out conditions say of effects of this size."


@st.cache_data(max_entries=64, show_spinner="Looking at every condition")
def _ranking(path: str, written: int, gene: str, layer: Layer) -> pd.DataFrame:
    return gene_ranking(open_run(RunFolder(Path(path).parent)), gene, layer)


def which_perturbation(run: RunFolder, question: Question, gene: str) -> None:
    """Every predicted condition by its effect on one gene."""
    ranking = _ranking(str(run.result), stamp(run.result), gene, question.layer)
    current = question.perturbation, question.context
    left, right = st.columns([1, 1], gap="large")
    with left:
        drawn = min(len(ranking), 20)
        show_figure(
            genechart.ranking_bars(ranking, current),
            key="ranking",
            title=f"Which perturbation moves {gene}?",
            caption=f"Predicted ({question.layer}) against paired predicted control, {plural(drawn, 'condition')} of {len(ranking):,} "
            "with the largest effect. In bold: the condition above." + (" " + BAND_WORDS if genechart.has_bands(ranking) else ""),
            table=lambda: ranking,
            height=max(170, 60 + 26 * drawn),
        )
    with right:
        st.dataframe(
            ranking[["perturbation", "context", "log2_fold_change", "band", "effect", "n_cells"]],
            hide_index=True,
            key="ranking_table",
            height=min(38 + 35 * len(ranking), 480),
            on_select=partial(_open_condition, ranking),
            selection_mode="single-cell",
            column_config={
                "perturbation": st.column_config.TextColumn("Perturbation", pinned=True),
                "context": st.column_config.TextColumn("Context"),
                "log2_fold_change": st.column_config.NumberColumn("log2 fold change", format="%+.2f", help="Of natural means."),
                "band": st.column_config.TextColumn(
                    "Would hold?", help="Whether this gene's direction would hold in a replicate."
                ),
                "effect": st.column_config.NumberColumn("Effect", format="%+.3f", help="Difference of the means, log1p."),
                "n_cells": st.column_config.NumberColumn("Cells", format="%d"),
            },
        )
        st.caption("Choose a row to open that condition.")


def _open_condition(ranking: pd.DataFrame) -> None:
    cells = st.session_state["ranking_table"]["selection"]["cells"]
    if cells:
        row = ranking.iloc[cells[0][0]]
        st.session_state["perturbation"], st.session_state["context"] = str(row["perturbation"]), str(row["context"])
