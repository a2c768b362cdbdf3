"""Label cells by hand: a selection on a map, or a group, gets a cell type by name. Shared by the maps of Explore and Embed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts import session
from pages.parts.cells import cell_names
from pages.parts.figures import csv_button
from pages.parts.format import age, code, md, plural, size
from pages.parts.jobs import job_of, job_panel, start_job
from pages.parts.navigation import names
from pages.parts.result import stamp
from pages.parts.widgets import errors_shown, go, show_error
from state_engine.data.cell_ontology import RELEASE, Term, find_terms, term_named, terms, wide_first
from state_engine.data.dataset import Dataset
from state_engine.errors import LabelError, RunError, StateError
from state_engine.jobs.requests import Labelled, LabelRequest
from state_engine.library import hand_labels as by_hand
from state_engine.library.datasets import DataEntry, get_dataset, list_datasets
from state_engine.plain import agreed, part_of

BY_HAND = "label by hand"
NOT_LABELLED = "not labelled"
SELECTED, GROUP = "Selection", "A group"
MOST_IN_BROWSER = 400_000_000  # bytes of a file that is handed over by the page


def entry_of(path: str) -> DataEntry | None:
    """Return the data set whose file this is; None when it is not one of this installation."""
    return next((e for e in list_datasets(session.settings()) if Path(e.path) == Path(path)), None)


def with_labels(entry: DataEntry | None, data: Dataset) -> Dataset:
    """Return a data set with the labels given by hand as one more column, where there are any."""
    column = given(entry, data)
    return data if column is None else replace(data, columns={BY_HAND: column, **data.columns})


def given(entry: DataEntry | None, data: Dataset) -> pd.Categorical | None:
    """Return the label that each cell got by hand, (n,); None when no cell has one, or they cannot be read (which `labelling` says)."""
    if entry is None:
        return None
    try:
        column = by_hand.labels_of(session.settings(), entry, data).column()
    except StateError:
        return None
    return column if len(column.categories) else None


def labelling(entry: DataEntry, data: Dataset, selected: NDArray[np.integer] | None, where: str, key: str) -> None:
    """Ask what some cells are, and list what was labelled.

    Args:
        entry, data: whose cells.
        selected: rows of the data set in the selection; None without a selection.
        where: how cells of a selection were chosen, for the list ("lasso on the map of …").
        key: unique on the page.
    """
    st.markdown("**Labels by hand**")
    with errors_shown():
        try:
            labels = by_hand.labels_of(session.settings(), entry, data)
            counts = labels.counts()
        except (LabelError, RunError) as error:
            show_error(error)
            st.button(
                "Discard the labels", key=f"label_discard_{key}", on_click=by_hand.discard, args=(session.settings(), entry)
            )
            return
        rows, words = _which(data, selected, where, key)
        _ask(entry, data, labels, rows, words, key)
        if len(counts) or labels.undone:
            _list(entry, data, labels, counts, key)


def _which(data: Dataset, selected: NDArray[np.integer] | None, where: str, key: str) -> tuple[NDArray[np.integer], str]:
    """Let cells be chosen: those of the selection, or of a label of the data set. Returns their rows, and words for the list."""
    columns = [name for name, column in data.columns.items() if name != BY_HAND and 1 <= len(column.categories) <= 200]
    ways = [SELECTED, GROUP] if columns else [SELECTED]
    first = SELECTED if selected is not None or not columns else GROUP
    # a key for each state, so that a new selection is taken and does not wait for a click
    way = st.segmented_control(
        "Cells to label",
        ways,
        default=first,
        key=f"label_way_{key}_{selected is None}",
        required=True,
        label_visibility="collapsed",
        wrap=True,
    )
    if way != GROUP:
        if selected is None:
            st.caption("Draw around cells with the lasso on the map, then say what they are.")
            return np.zeros(0, np.int64), ""
        if not len(selected):
            st.caption("None of the selected cells is a measured cell of the data set. Predicted cells get no label by hand.")
        return selected, where
    left, right = st.columns(2)
    column = str(left.selectbox("Column", columns, index=_first(data, columns), key=f"label_column_{key}"))
    groups = [str(name) for name in data.columns[column].categories]
    name = str(right.selectbox("Group", groups, key=f"label_group_{key}_{column}"))
    return np.flatnonzero(np.asarray(data.columns[column].astype(str)) == name), f"{column} {name}"


def _first(data: Dataset, columns: list[str]) -> int:
    key = data.labels.context_key
    return columns.index(key) if key in columns else 0


def _ask(entry: DataEntry, data: Dataset, labels: by_hand.HandLabels, rows: NDArray[np.integer], where: str, key: str) -> None:
    """The box with names of cell types, and the buttons."""
    used = [one.term or one.label for one in labels.rounds if one.label]
    options = list(dict.fromkeys([*used, *_near(data, rows), *_all_ids()]))
    st.selectbox(
        "What are these cells?",
        options,
        index=None,
        key=f"label_term_{key}",
        format_func=term_words,
        placeholder="Type a cell type, or a label of your own",
        accept_new_options=True,
        filter_mode="contains",
        help=f"{len(terms()):,} cell types of the Cell Ontology ({RELEASE}, CC BY 4.0), found by name or synonym. Anything else becomes a "
        "label of your own.",
    )
    problem = st.session_state.pop(f"label_problem_{key}", None)
    if problem is not None:
        show_error(problem)
    asked = st.session_state.get(f"label_term_{key}")
    with st.container(horizontal=True):
        st.button(
            f"Label {plural(len(rows), 'measured cell')}",
            key=f"label_give_{key}",
            type="primary",
            disabled=not len(rows) or not asked,
            help=None if asked else "Say first what they are.",
            on_click=_give,
            args=(entry, data, rows, where, key),
        )
        st.button(
            "Take their labels off",
            key=f"label_off_{key}",
            disabled=not len(rows) or not labels.rounds,
            on_click=_give,
            args=(entry, data, rows, where, key, ""),
        )


def _near(data: Dataset, rows: NDArray[np.integer]) -> list[str]:
    """Return ids of cell types that the context of the cells may mean, the most frequent context first."""
    context = data.columns.get(data.labels.context_key or "")
    if context is None or not len(rows):
        return []
    found = Counter(str(name) for name in context[rows] if isinstance(name, str))
    return [one.id for name, _ in found.most_common(3) for one in find_terms(name, most=3)]


@st.cache_resource(show_spinner=False)
def _all_ids() -> list[str]:
    return [one.id for one in wide_first()]


def term_words(option: str) -> str:
    """Return a cell type for the list: its name, synonyms and id; a label of one's own as it is."""
    one = terms().get(option)
    if one is None:
        return option
    other = f" ({', '.join(one.synonyms[:4])})" if one.synonyms else ""
    return f"{one.name}{other} · {one.id}"


def meant(text: str) -> tuple[str, str]:
    """Return label and ontology id of what was chosen or typed; the id is "" for a label of one's own."""
    one: Term | None = terms().get(text) or term_named(text)
    return (one.name, one.id) if one is not None else (text, "")


def _give(entry: DataEntry, data: Dataset, rows: NDArray[np.integer], where: str, key: str, text: str | None = None) -> None:
    """Label cells with what is in the box, or with "" take their labels off; a refusal is shown when the page is drawn."""
    label, term = meant(str(st.session_state.get(f"label_term_{key}") or "")) if text is None else (text, "")
    _kept(key, lambda: by_hand.add_round(session.settings(), entry, data, rows, label, term, where))


def _kept(key: str, change: Callable[[], object]) -> None:
    try:
        change()
    except StateError as error:
        st.session_state[f"label_problem_{key}"] = error


def _list(entry: DataEntry, data: Dataset, labels: by_hand.HandLabels, counts: pd.DataFrame, key: str) -> None:
    """What was labelled, the way back, and the files."""
    if len(counts):
        st.dataframe(
            counts.assign(term=counts["term"].where(counts["term"] != "", "own label")),
            hide_index=True,
            key=f"label_counts_{key}",
            height=min(38 + 35 * len(counts), 260),
            column_config={
                "label": st.column_config.TextColumn("Label"),
                "term": st.column_config.TextColumn("Cell Ontology"),
                "cells": st.column_config.NumberColumn("Cells", format="%d"),
            },
        )
    total = int(counts["cells"].sum())
    last = labels.rounds[-1] if labels.rounds else None
    of = part_of(total, data.n_cells, "cell")
    words = f"{of} of {md(entry.name)} {agreed(total, 'is', 'are')} labelled, in {plural(len(labels.rounds), 'round')}."
    if last is not None:
        what = f"labelled {md(last.label)}" if last.label else "labels taken off"
        words += f" Last: {plural(last.cells, 'cell')} {what}, {md(last.where)}, {age(last.created)}."
    st.caption(f"{words} Kept beside the data set; its file stays as it is.")
    with st.container(horizontal=True):
        _step("Undo", ":material/undo:", by_hand.undo, entry, data, key, not labels.rounds)
        _step("Redo", ":material/redo:", by_hand.redo, entry, data, key, not labels.undone)
        if total:
            csv_button(
                "Labels (CSV)",
                lambda: by_hand.table(cell_names(str(data.path), stamp(data.path), data.choices), labels),
                "labels_by_hand.csv",
                f"label_csv_{key}",
            )
            if "finetune" in names():
                st.button(
                    "Fine-tune on them",
                    key=f"label_to_tune_{key}",
                    type="primary",
                    icon=":material/tune:",
                    help="A copy of the data set gets the labels as a column, and the page Fine-tune opens with it.",
                    on_click=tune_on_labels,
                    args=(entry,),
                )
            with st.popover("Make a data set with them", icon=":material/table:"):
                column = st.text_input("Name of the column", by_hand.COLUMN, key=f"label_name_{key}")
                st.caption(
                    "A copy of the data set with the labels as a column of obs: to train a head on, and to take home as .h5ad."
                )
                if st.button("Make it", key=f"label_make_{key}", type="primary"):
                    _copy_with(entry, column.strip())
                    st.rerun()
    labelled_data(entry, key)


def _step(
    label: str,
    icon: str,
    change: Callable[..., object],
    entry: DataEntry,
    data: Dataset,
    key: str,
    disabled: bool,
) -> None:
    st.button(
        label,
        icon=icon,
        key=f"label_{label.lower()}_{key}",
        disabled=disabled,
        on_click=_kept,
        args=(key, lambda: change(session.settings(), entry, data)),
    )


def tune_on_labels(entry: DataEntry) -> None:
    """Start the job that makes a data set with the labels; the page Fine-tune opens with it when it is done (`labelled_data`)."""
    try:
        st.session_state[f"label_go_{entry.id}"] = _copy_with(entry, by_hand.COLUMN)
    except StateError as error:
        st.session_state[f"label_refused_{entry.id}"] = error


def _copy_with(entry: DataEntry, column: str) -> str:
    """Return the run that makes a data set with the labels as a column; with the same labels as before it is the same run."""
    settings, asked = session.settings(), f"label_asked_{entry.id}"
    wanted = (column, by_hand.version_of(settings, entry))
    run = str(st.session_state.get(f"label_run_{entry.id}", ""))
    if st.session_state.get(asked) != wanted or not _stands(run):
        run = start_job(LabelRequest(entry.id, *wanted), f"Labels by hand of {entry.name}")
        st.session_state[f"label_run_{entry.id}"], st.session_state[asked] = run, wanted
    return run


def _stands(run: str) -> bool:
    """Return whether a run makes its data set, or has made one that is there."""
    job = job_of(run)
    if job is None or job.state != "done":
        return job is not None and job.state in ("queued", "running")
    made = job.summary_as(Labelled).data
    return any(one.id == made for one in list_datasets(session.settings()))


def _to_finetune(made: Labelled) -> None:
    session.choose("data", made.data)
    session.choose("finetuning", "")
    st.session_state["finetune_column"] = made.column
    st.session_state["finetune_view_wanted"] = False
    go("finetune")


def labelled_data(entry: DataEntry, key: str) -> None:
    """The job that makes a data set with the labels, and the ways on when it is done."""
    refused = st.session_state.pop(f"label_refused_{entry.id}", None)
    if refused is not None:
        show_error(refused)
    run = str(st.session_state.get(f"label_run_{entry.id}", ""))
    if not run or not job_panel(run, title="Writing the labels", key=f"label_job_{key}"):
        return
    job = job_of(run)
    if job is None:
        return
    made = job.summary_as(Labelled)
    try:
        copy = get_dataset(session.settings(), made.data)
    except StateError:  # forgotten meanwhile
        del st.session_state[f"label_run_{entry.id}"]
        return
    if st.session_state.pop(f"label_go_{entry.id}", "") == run:
        _to_finetune(made)
    st.success(f"{md(copy.name)}: {plural(made.cells, 'cell')} labelled in {code(made.column)}.", icon=":material/check_circle:")
    path = Path(copy.path)
    with st.container(horizontal=True):
        if "finetune" in names() and st.button(
            "Fine-tune on it", key=f"label_tune_{key}", type="primary", icon=":material/tune:"
        ):
            _to_finetune(made)
        if path.stat().st_size <= MOST_IN_BROWSER:
            st.download_button(
                f"Cells with labels (.h5ad, {size(path.stat().st_size)})",
                data=path.read_bytes,
                file_name="labelled.h5ad",
                key=f"label_h5ad_{key}",
                icon=":material/download:",
                on_click="ignore",
            )
