"""Part of the page Screen: a screen while it runs, then its ranking with what it is worth, and what is alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.compare.form import ask_for
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import md, minus, plural, sentences
from pages.parts.jobs import job_of, live_panel
from pages.parts.model_scores import verdict_words
from pages.parts.result import command_of, stamp
from pages.parts.screen.charts import MOST_ALIKE, MOST_ROWS, alike_figure, size_figure
from pages.parts.screen.genes import genes_of_a_row, genes_of_the_goal
from pages.parts.widgets import go, show_error
from state_engine.errors import JobError, StateError
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import Job, JobFailure
from state_engine.jobs.train_job import resume
from state_engine.library.foreign import read_file
from state_engine.library.models import find
from state_engine.metrics.rules import BY_CHANGE, BY_FDR, change_words
from state_engine.screening.report import (
    RANKING,
    REPORT,
    SCORES,
    SIMILARITY,
    ScreenReport,
    Similarity,
    load_similarity,
    read_ranking,
    read_screen,
)
from state_engine.screening.request import ScreenRequest

MOST_IN_TABLE = 5_000
_SORTS = {"rank": "Rank", "effect_size": "Effect size", "genes": "Genes up and down", "perturbation": "Name"}
_Q = "False discovery rate: control cells against control cells. It says that this is no noise; it does not say that the model is right."


def show_screen(run: RunFolder) -> None:
    """A screen: live while it runs, then its answer."""
    job = job_of(run.id)
    if job is not None and job.active:
        live_panel(
            run.id, run.manifest.title or "Screen", "screen_job", stop="Stop",
            stop_help="What is predicted so far is kept; the screen can go on later.",
        )  # fmt: skip
        return
    if run.state != "done":
        _stopped(run, job)
        return
    report = _report(str(run.path), stamp(run.file(REPORT)))
    if report is None:
        st.info("This screen left no report. Run it again.", icon=":material/info:")
        return
    table = _ranking(str(run.file(RANKING)), stamp(run.file(RANKING)))
    st.markdown(f"### {sentences(report.words())}")
    st.caption(
        f"Ranked by {md(report.goal_words, 200)}. {md(report.model)} on {md(report.data)}; "
        f"{report.cells:,} cells of each of {plural(report.perturbations, 'perturbation')} in {md(', '.join(report.contexts), 120)}."
    )
    _worth(report, table)
    chosen = _table(run, report, table)
    _ways_on(run, table, chosen)
    genes_of_a_row(run, chosen)
    genes_of_the_goal(run, table, chosen)
    _alike(run, report, table)
    with st.expander("How to repeat this, and what to know"):
        for remark in report.remarks:
            st.markdown(f"- {sentences(remark)}")
        st.code(command_of(run), language="bash", wrap_lines=True)


def _stopped(run: RunFolder, job: Job | None) -> None:
    """How a screen ended that is not done, and the button that goes on with it."""
    if run.state == "cancelled":
        st.warning("Stopped. What was predicted so far is kept.", icon=":material/stop_circle:")
    else:
        error = job.error if job is not None and job.error is not None else JobFailure(run.manifest.error or "It is lost.")
        show_error(JobError(error.what, error.why, error.fix))
    if st.button("Go on with it", type="primary", key="screen_resume", icon=":material/play_arrow:"):
        resume(session.settings(), run)
        st.rerun()


@st.cache_data(max_entries=32, show_spinner=False)
def _report(folder: str, written: int) -> ScreenReport | None:
    return read_file(read_screen, Path(folder))


@st.cache_data(max_entries=16, show_spinner=False)
def _ranking(path: str, written: int) -> pd.DataFrame:
    return read_file(read_ranking, Path(path))


@st.cache_data(max_entries=16, show_spinner=False)
def _similarity(path: str, written: int) -> Similarity:
    return read_file(load_similarity, Path(path))


def _worth(report: ScreenReport, table: pd.DataFrame) -> None:
    """What the model's card says it is worth, what was trained on, and whether predictions can be told apart."""
    with st.container(key="halves_worth"):
        left, right = st.columns([3, 2], gap="medium")
    with left, st.container(border=True, key="screen_worth"):
        st.markdown("**What is this model worth?**")
        st.markdown(_verdict(report))
    with right, st.container(border=True, key="screen_seen"):
        counts = table.loc[table["made"] == "predicted", "seen"].value_counts()
        words = {
            "both": "context and perturbation in training",
            "context only": "only the context in training",
            "perturbation only": "only the perturbation in training",
            "neither": "neither in training",
            "not known": "not known whether in training",
        }
        st.markdown("**What has it seen?**")
        lines = [f"{int(counts[name]):,}: {text}" for name, text in words.items() if name in counts]
        recall = int((table["in_training"] == "yes").sum())
        lines += [f"{recall:,} of them were trained on as a pair: recall, no forecast"] if recall else []
        st.markdown("  \n".join(lines))
    alike = report.resemblance
    if alike is not None and alike.alike:
        st.warning(sentences(alike.words()), icon=":material/content_copy:")
    elif alike is not None:
        st.caption(sentences(alike.words()))


def _verdict(report: ScreenReport) -> str:
    try:
        card = find(session.settings(), report.model_id).card
    except StateError:
        return "The model is not in the library any more, so its card cannot be read."
    simulated = " It was trained on simulated cells." if report.simulated else ""
    if card is None or "mae_corrected" not in card.training.scores:
        return f"Its card has no scores on held-out cells: nothing shows how good it is.{simulated}"
    return f"{verdict_words(card.training)}{simulated}"


def _table(run: RunFolder, report: ScreenReport, table: pd.DataFrame) -> pd.DataFrame:
    """The ranking, filtered and sorted; return the rows that are ticked in it, also those that a filter hides."""
    shown = _sorted(_filtered(report, table)).head(MOST_IN_TABLE)
    rest = f", the first {MOST_IN_TABLE:,} of them shown" if len(table) > MOST_IN_TABLE else ""
    # above the table: its tools appear there, and would cover the filters
    score = minus(f"Score: {SCORES[report.goal]}.")
    st.caption(
        f"{score}  \n{plural(len(shown), 'row')} of {len(table):,}{rest}. Tick rows to see their genes and to take them along."
    )
    ticked, ranks = _ticked(run, len(table)), shown["rank"].tolist()
    key = table_key(run.id, ranks)
    if key not in st.session_state or session.went_back():
        places = [place for place, rank in enumerate(ranks) if rank in ticked]
        st.session_state[key] = {"selection": {"rows": places, "columns": [], "cells": []}}
    with st.container(key="screen_ranking"):
        event: Any = st.dataframe(
            shown, hide_index=True, key=key, on_select="rerun", selection_mode="multi-row", height=min(38 + 35 * len(shown), 420),
            placeholder="n/a", column_order=_columns(shown), column_config=_config(report),
        )  # fmt: skip
    hidden = ticked.difference(ranks)
    chosen = sorted(hidden | {ranks[i] for i in event.selection.rows if i < len(ranks)})
    st.session_state[f"screen_rows_{run.id}"] = ranges(chosen)
    session.show_in_address(
        "screen", {"find": "", "sure": False, "sort": "rank"}, ("find", "within", "seen", "sure", "sort", "rows")
    )
    if hidden:
        st.caption(f"{plural(len(hidden), 'ticked row')} not among those shown above.")
    return table[table["rank"].isin(chosen)]


def shortlist(table: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen rows of a ranking without the columns that its goal leaves empty."""
    return chosen[[name for name in table.columns if table[name].notna().any()]]


def table_key(run: str, ranks: list[int]) -> str:
    """Return the key of the table of some rows: one for each choice of rows, since ticks belong to places, and other rows have other places."""
    return f"screen_table_{run}_{hashlib.sha256(str(ranks).encode()).hexdigest()[:12]}"


def _filtered(report: ScreenReport, table: pd.DataFrame) -> pd.DataFrame:
    seen, keys = list(dict.fromkeys(table["seen"])), ("screen_find", "screen_in", "screen_seen_in", "screen_sure", "screen_sort")
    session.recall_text(keys[0], "find")
    session.recall_several(keys[1], report.contexts, (), "within")
    session.recall_several(keys[2], seen, (), "seen")
    session.recall_tick(keys[3], "sure")
    session.recall(keys[4], list(_SORTS), "rank", "sort")
    with st.container(horizontal=True, vertical_alignment="bottom", key="screen_filters"):
        words = st.text_input("Find a perturbation", key=keys[0], placeholder="part of its name", width=190)
        contexts = st.multiselect("Contexts", list(report.contexts), key=keys[1], placeholder="all", width=210, select_all=False)
        chosen = st.multiselect("Seen", seen, key=keys[2], placeholder="any", width=210, select_all=False)
        st.selectbox("Sort by", list(_SORTS), key=keys[4], format_func=_SORTS.__getitem__, width=190)
        sure = st.checkbox("q < 0.05", key=keys[3], disabled=bool(table["q"].isna().all()))
    if words.strip():
        table = table[table["perturbation"].str.contains(words.strip(), case=False, regex=False)]
    if contexts:
        table = table[table["context"].isin(contexts)]
    if chosen:
        table = table[table["seen"].isin(chosen)]
    return table[table["q"] < 0.05] if sure else table


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in the chosen order; what has no number of the kind comes last."""
    by = st.session_state["screen_sort"]
    if by == "genes":
        return table.assign(genes=table["genes_up"] + table["genes_down"]).sort_values("genes", ascending=False, kind="stable")
    return table.sort_values(by, ascending=by in ("rank", "perturbation"), kind="stable")


def _ticked(run: RunFolder, n: int) -> set[int]:
    """Return the ranks that are ticked, of n."""
    key = f"screen_rows_{run.id}"
    session.recall_text(key, "rows")
    return in_ranges(st.session_state[key], n)


def ranges(ranks: list[int]) -> str:
    """Return sorted whole numbers as text, neighbours as a range: "1-3,7"."""
    there = set(ranks)
    starts, ends = [n for n in ranks if n - 1 not in there], [n for n in ranks if n + 1 not in there]
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in zip(starts, ends, strict=True))


def in_ranges(text: str, n: int) -> set[int]:
    """Return the whole numbers from 1 to n that such a text names; what is none is left out."""
    found = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found |= {*range(max(1, int(first)), min(n, int(last or first)) + 1)}
    return found


def _columns(table: pd.DataFrame) -> list[str]:
    found = [
        "rank",
        "perturbation",
        "context",
        "score",
        "p",
        "q",
        "seen",
        "in_training",
        "effect_size",
        "genes_up",
        "genes_down",
        "before",
        "after",
    ]
    found += ["made"] if (table["made"] != "predicted").any() else []
    return [name for name in found if name not in ("before", "after") or table[name].notna().any()]


def _config(report: ScreenReport) -> dict[str, Any]:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rule = f"{change_words()}, as in predicted cells on the Genes page; Evaluate calls genes by {BY_FDR}."
    kind = "Distance to the target cells" if report.goal == "target cells" else "Mean probability of the label"
    return {
        "rank": number("Rank", format="%d", pinned=True, width="small"),
        "perturbation": text("Perturbation", pinned=True),
        "context": text("Context"),
        "score": number("Score", format="%.3f", help=minus(f"{SCORES[report.goal]}.")),
        "p": number("p", format="%.1e", help="Share of comparisons of control cells with control cells that score as high."),
        "q": number("q", format="%.1e", help=_Q),
        "seen": text("Seen", help="Whether context and perturbation were in the training, each by itself."),
        "in_training": text("In training", help="Whether the model was trained on this pair: then it is recall, no forecast."),
        "effect_size": number("Effect size", format="%.2f", help=f"{SCORES['effect size']}."),
        "genes_up": number(f"Genes up ({BY_CHANGE})", format="%d", help=rule),
        "genes_down": number(f"Genes down ({BY_CHANGE})", format="%d", help=rule),
        "before": number("Before", format="%.3f", help=kind),
        "after": number("After", format="%.3f", help=kind),
        "made": text("From", help="Predicted, or the sum of two predicted effects: an assumption."),
    }


def _ways_on(run: RunFolder, table: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Take the shortlist home, or into Predict."""
    request = run.request_as(ScreenRequest)
    with st.container(horizontal=True):
        csv_button(
            f"Shortlist of {plural(len(chosen), 'row')} (CSV)",
            lambda: shortlist(table, chosen),
            "shortlist.csv",
            "screen_shortlist",
            disabled=not len(chosen),
        )
        csv_button("Whole ranking (CSV)", run.file(RANKING), "ranking.csv", "screen_whole")
        if session.by_link():
            return
        names = list(dict.fromkeys(chosen.loc[chosen["made"] == "predicted", "perturbation"]))
        label = f"Predict {plural(len(names), 'perturbation')} in full" if names else "Predict the ticked rows in full"
        if st.button(label, key="screen_predict", icon=":material/play_circle:", disabled=not names):
            _to_predict(request, names, list(dict.fromkeys(chosen["context"])))
        pairs = [
            (str(p), str(c))
            for p, c in chosen.loc[chosen["made"] == "predicted", ["perturbation", "context"]].itertuples(index=False)
        ]
        help_ = "The mean effects of two ticked rows, gene by gene." if len(pairs) == 2 else "Tick two predicted rows."
        if st.button(
            "Compare the two", key="screen_compare", icon=":material/compare_arrows:", disabled=len(pairs) != 2, help=help_
        ):
            ask_for(pairs, "screening", run.id)
            go("compare")


def _to_predict(request: ScreenRequest, names: list[str], contexts: list[str]) -> None:
    """Open Predict with the chosen perturbations and contexts, on the same data set and model."""
    entry, model = session.data_entry(), session.model_entry()
    if model is not None and model.card is not None and str(model.path) == request.model:
        st.session_state[f"perturbations_{model.card.id}_wanted"] = names
    if entry is not None and entry.path == request.data:
        st.session_state[f"contexts_{entry.id}"] = contexts
    session.choose("run", "")
    go("predict")


def _alike(run: RunFolder, report: ScreenReport, table: pd.DataFrame) -> None:
    """How large effects are in each context, and which perturbations do the same."""
    ranked = table[table["made"] == "predicted"]
    names = list(dict.fromkeys(ranked["perturbation"]))
    with st.container(key="halves_screen"):
        left, right = st.columns(2, gap="medium")
    with left:
        figure, sizes = size_figure(table, names[:MOST_ROWS])
        show_figure(
            figure, key="screen_sizes", title=f"Effect size of the best {min(len(names), MOST_ROWS)} perturbations",
            caption="Euclidean length of the mean effect over all genes, log1p; in the order of the ranking.", table=lambda: sizes, height=560,
        )  # fmt: skip
    with right:
        similarity = _similarity(str(run.file(SIMILARITY)), stamp(run.file(SIMILARITY)))
        figure, r = alike_figure(similarity, names[:MOST_ALIKE])
        show_figure(
            figure, key="screen_alike", title=f"Which of the best {min(len(names), MOST_ALIKE)} do the same?",
            caption=f"Correlation of mean effects over {plural(len(report.contexts), 'context')} and {report.genes:,} genes, clustered (average "
            "linkage).", table=lambda: r, height=560,
        )  # fmt: skip
