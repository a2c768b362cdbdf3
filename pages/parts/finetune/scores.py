"""Part of the Fine-tune page: how well a head calls cells it was not fitted on, beside baselines, and the cells it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts import palette
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import drawn, duration, md, plural, sentences
from pages.parts.genes.charts import LEGEND
from state_engine.errors import listed
from state_engine.heads.report import HeadReport, Method, Score
from state_engine.plain import part_of

NAMES = {
    "accuracy": ("Accuracy", "Part of the test cells that is called rightly."),
    "balanced_accuracy": ("Balanced accuracy", "Mean over labels of the part called rightly: rare labels count as much as frequent ones."),
    "precision": ("Precision", "Of the cells called a label, the part that has it; mean over labels."),
    "recall": ("Recall", "Of the cells with a label, the part that is called it; mean over labels."),
    "f1": ("F1", "Harmonic mean of precision and recall; mean over labels."),
    "auroc": ("AUROC", "Chance that a cell with the label gets a higher probability than one without; mean over labels. 0.5 is chance."),
    "r2": ("R2", "Part of the spread that is explained; 0 is the mean, below 0 is worse than it."),
    "mae": ("MAE", "Mean absolute error, in the units of the column; lower is better."),
    "spearman": ("Spearman", "Rank correlation of called and true numbers."),
}  # fmt: skip
MAIN = {"classification": "balanced_accuracy", "multi-label": "f1", "regression": "r2"}
LOWER_IS_BETTER = {"mae"}
MOST_NUMBERS = 16  # labels up to which a confusion matrix has its numbers written in


def show_report(report: HeadReport) -> None:
    """Everything a fine-tuning found."""
    verdict(report)
    _facts(report)
    _metrics(report)
    left, right = st.columns(2, gap="medium")
    with left:
        if report.confusion:
            _confusion(report)
        else:
            _losses(report)
    with right:
        if report.reliability:
            _reliability(report)
    if report.confusion:
        with st.expander("How the fitting went"):
            _losses(report)
    _labels(report)


def verdict(report: HeadReport) -> None:
    """The answer in a sentence, with n, its interval and the best baseline."""
    metric = MAIN[report.task]
    own = report.own.score(metric)
    if own is None or own.value is None:
        st.info(f"{NAMES[metric][0]} is not defined on these {plural(report.split.test, 'test cell')}.", icon=":material/help:")
        return
    words = f"**{NAMES[metric][0]} {interval(own)}** on {plural(report.split.test, 'cell')} it was not fitted on"
    words += f" ({len(report.split.test_groups):,} held-out {md(report.split.column)})" if report.split.test_groups else ""
    best = _best(report.methods[1:], metric)
    if best is None:
        st.success(f"{words}.", icon=":material/check_circle:")
        return
    other, score = best
    apart = compared(own, score, metric)
    beside = f"{md(other.name)}: {interval(score)}"
    if apart > 0:
        st.success(f"{words}; better than {beside}.", icon=":material/check_circle:")
    elif apart < 0:
        st.warning(f"{words}; **worse than {beside}**. The simpler method is enough here.", icon=":material/balance:")
    else:
        st.info(f"{words}; cannot be told apart from {beside} (the intervals overlap).", icon=":material/balance:")


def _best(methods: Sequence[Method], metric: str) -> tuple[Method, Score] | None:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    there = [(m, s) for m in methods if (s := m.score(metric)) is not None and s.value is not None]
    return max(there, key=lambda pair: sign * (pair[1].value or 0.0), default=None)


def compared(one: Score, other: Score, metric: str) -> int:
    """Return 1 where one score is better beyond both intervals, -1 where it is worse, and 0 where that cannot be told."""
    bounds = (one.low, one.high, other.low, other.high)
    if any(b is None for b in bounds):
        return 0
    sign = -1 if metric in LOWER_IS_BETTER else 1
    if (one.low or 0.0) > (other.high or 0.0):
        return sign
    return -sign if (one.high or 0.0) < (other.low or 0.0) else 0


def interval(score: Score | None) -> str:
    """Return a score with its interval: "0.95 (0.93 to 0.97)"."""
    if score is None or score.value is None:
        return "n/a"
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _short(score: Score | None) -> str:
    """Return a score with its interval, short enough for a table: "0.951 (0.93–0.97)"."""
    if score is None or score.value is None or score.low is None or score.high is None:
        return interval(score)
    return f"{score.value:.3f} ({score.low:.2f}–{score.high:.2f})"


def _facts(report: HeadReport) -> None:
    split = report.split
    how = f"groups of {md(split.column)} kept whole" if split.kind == "groups" else "stratified by label"
    groups = f" Tested on {md(listed(list(split.test_groups), 6), 200)}." if split.test_groups else ""
    left_out = [
        f"{split.unlabelled:,} without a label" if split.unlabelled else "",
        f"{split.too_few:,} of labels with too few cells" if split.too_few else "",
    ]
    without = f" Left out: {' and '.join(filter(None, left_out))}." if any(left_out) else ""
    st.caption(
        f"{md(report.head).capitalize()} head on {md(report.vectors, 200)}; trained: {part_of(report.trained, report.weights, 'weight')}. "
        f"{plural(split.train, 'cell')} to fit, {split.validation:,} to stop and calibrate, {split.test:,} to test; {how}, "
        f"seed {split.seed}.{groups}{without} "
        f"{duration(report.seconds)} on {md(report.device)}."
    )
    for remark in report.remarks:
        st.caption(f":material/info: {sentences(remark)}")


def metric_table(report: HeadReport) -> pd.DataFrame:
    """Return a row for each method, a column for each metric with its interval, and what the method read."""
    metrics = [m for m in NAMES if any(method.score(m) for method in report.methods)]
    rows = [
        {"Method": m.name, **{NAMES[k][0]: _short(m.score(k)) for k in metrics}, "What it is": m.note} for m in report.methods
    ]
    return pd.DataFrame(rows)


def score_rows(report: HeadReport) -> pd.DataFrame:
    """Return the scores as numbers, a row for each method and metric, to take home."""
    rows = [(m.name, s.metric, s.value, s.low, s.high) for m in report.methods for s in m.scores]
    return pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high"])


def _metrics(report: HeadReport) -> None:
    table = metric_table(report)
    config = {
        words: st.column_config.TextColumn(words, help=f"{text} In brackets its 95 % bootstrap interval.")
        for words, text in NAMES.values()
    }
    st.markdown("#### Beside simple methods, on the same test cells")
    st.dataframe(table, hide_index=True, key="head_metrics", column_config=config)
    csv_button("Metrics (CSV)", lambda: score_rows(report), "metrics.csv", "head_metrics_csv")


def confusion_figure(report: HeadReport) -> go.Figure:
    """Rows: true labels; columns: called ones; colour: part of the row."""
    counts = np.array(report.confusion, float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [drawn(name, 40) for name in report.labels]
    few = len(names) <= MOST_NUMBERS
    figure = go.Figure(
        go.Heatmap(
            z=share.astype(np.float32),
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=palette.SEQUENTIAL,
            text=np.where(counts > 0, counts.astype(int).astype(str), "") if few else None,
            texttemplate="%{text}" if few else None,
            customdata=counts.astype(int),
            hovertemplate="true <b>%{y}</b>, called <b>%{x}</b><br>%{customdata:,} cells, %{z:.0%} of the row<extra></extra>",
            colorbar={"title": {"text": "part of the true label", "side": "right"}, "tickformat": ".0%", "thickness": 10},
            showscale=not few,  # numbers are written in: the width is theirs
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="called", type="category", showgrid=False, tickangle=-40 if len(names) > 4 else 0, automargin=True)
    figure.update_yaxes(title="true", type="category", autorange="reversed", showgrid=False, automargin=True)
    return figure


def _confusion(report: HeadReport) -> None:
    table = pd.DataFrame(report.confusion, index=list(report.labels), columns=list(report.labels))
    show_figure(
        confusion_figure(report),
        key="head_confusion",
        title="What is called what?",
        caption=f"{plural(report.split.test, 'test cell')}; a row is a true label and adds up to 100 %, numbers are cells.",
        table=lambda: table.reset_index(names="true"),
        height=440,
    )


def reliability_figure(report: HeadReport) -> go.Figure:
    """Part that is right over mean probability; the size of a point is the number of cells."""
    bins = [b for b in report.reliability if b.cells]
    cells = np.array([b.cells for b in bins], float)
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": palette.GREY, "dash": "dot"}, name="as said", hoverinfo="skip"
    )
    figure.add_scatter(
        x=[b.confidence for b in bins],
        y=[b.accuracy for b in bins],
        mode="lines+markers",
        name="this head",
        customdata=cells.astype(int),
        line={"color": palette.VERMILION, "width": 1.5},
        marker={"size": 6 + 16 * np.sqrt(cells / max(cells.max(initial=1), 1)), "color": palette.VERMILION, "opacity": 0.8},
        hovertemplate="said %{x:.0%}, right %{y:.0%}<br>%{customdata:,} cells<extra></extra>",
    )
    figure.update_xaxes(title="probability of what is called", range=[0, 1.03], tickformat=".0%")
    figure.update_yaxes(title="part that is right", range=[0, 1.03], tickformat=".0%")
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "title": {"text": ""}})
    return figure


def _reliability(report: HeadReport) -> None:
    error, before = report.calibration_error, report.error_before
    words = f"Mean gap {error:.1%}" if error is not None else ""
    words += f" ({before:.1%} before calibration)" if error is not None and before is not None else ""
    show_figure(
        reliability_figure(report),
        key="head_reliability",
        title="Can its probabilities be believed?",
        caption=f"{words}. On the dotted line, of cells called with 80 % probability 80 % are right. Temperature {report.temperature:.2f}.",
        table=lambda: pd.DataFrame([(b.lower, b.upper, b.cells, b.confidence, b.accuracy) for b in report.reliability],
                                   columns=["from", "to", "cells", "probability", "right"]),
        height=440,
    )  # fmt: skip


def _losses(report: HeadReport) -> None:
    if not report.epochs:
        return
    table = pd.DataFrame([(e.epoch, e.train, e.validation) for e in report.epochs], columns=["epoch", "training", "validation"])
    figure = go.Figure()
    for name, colour in (("training", palette.GREY), ("validation", palette.VERMILION)):
        figure.add_scatter(x=table["epoch"], y=table[name], mode="lines", name=name, line={"color": colour, "width": 2})
    figure.add_vline(x=report.best_epoch, line={"color": palette.GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(title="pass over the training cells")
    figure.update_yaxes(title="loss")
    figure.update_layout(legend=LEGEND)
    show_figure(
        figure,
        key="head_losses",
        title="Loss",
        caption=f"{plural(len(report.epochs), 'pass', 'passes')}; the weights of pass {report.best_epoch:,} (dotted) were taken.",
        table=lambda: table,
        height=300,
    )


def _labels(report: HeadReport) -> None:
    if not report.label_counts:
        return
    rows = [(c.label, c.train, c.validation, c.test, c.precision, c.recall, c.f1, c.auroc) for c in report.label_counts]
    table = pd.DataFrame(rows, columns=["label", "train", "validation", "test", "precision", "recall", "f1", "auroc"])
    number = st.column_config.NumberColumn
    with st.expander(f"Each of {plural(len(rows), 'label')}"):
        st.dataframe(
            table,
            hide_index=True,
            key="head_labels",
            column_config={
                "label": st.column_config.TextColumn("Label", pinned=True),
                "train": number("Cells to fit", format="localized"),
                "validation": number("To stop", format="localized"),
                "test": number("To test", format="localized"),
                **{
                    name: number(NAMES[name][0], format="%.3f", help=NAMES[name][1])
                    for name in ("precision", "recall", "f1", "auroc")
                },
            },
        )
