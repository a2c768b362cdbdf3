"""Part of the Fine-tune page: what a head calls cells: shares, the cells of a prediction beside their paired controls, and the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts import palette, session
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import drawn, duration, md, plural, sentences, size
from pages.parts.jobs import job_panel
from pages.parts.result import stamp
from pages.parts.take_home import file_button, made_by_a_job
from state_engine.data.files.zarr_copy import STORE
from state_engine.errors import StateError
from state_engine.heads.report import ANNOTATED, ANNOTATION, LABELS, Annotation, CalledGroup, read_annotation
from state_engine.jobs.requests import StoreRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import get_dataset
from state_engine.library.foreign import read_file
from state_engine.plain import agreed, distinct, part_of

MOST_IN_BROWSER = 400_000_000  # bytes of a file that is handed over by the page
MOST_LABELS = 30  # that are drawn, most cells first; the others are drawn as one
KINDS = ("predicted", "predicted control", "measured", "measured control")
OTHERS = "all others"


@st.cache_data(max_entries=32, show_spinner=False)
def _read(folder: str, written: int) -> Annotation:
    return read_file(read_annotation, Path(folder))


def show_annotation(run: RunFolder) -> None:
    """An annotation: its job while it runs, then what the cells are called."""
    if (
        not job_panel(run.id, title=run.manifest.title or "Calling cells", key="annotate_job")
        or not run.file(ANNOTATION).exists()
    ):
        return
    found = _read(str(run.path), stamp(run.file(ANNOTATION)))
    st.markdown(f"#### What does the head {md(found.head)} call the cells of {md(_data_name(run, found))}?")
    n = found.cells - found.unknown
    if found.task == "regression":
        st.markdown(f"Mean {_number(found.value)}, standard deviation {_number(found.spread)}, over {plural(n, 'cell')}.")
    else:
        below = f"probability below {found.threshold:.2f}, or " if found.threshold else ""
        without = f" ({below}without a vector: {found.empty:,})" if found.unknown else ""
        of = part_of(n, found.cells, "cell")
        unknown = f"{found.unknown:,} {agreed(found.unknown, 'is', 'are')} {md(found.shares[-1].label)}"
        st.markdown(f"{of} {agreed(n, 'is', 'are')} called; {unknown}{without}.")
    for remark in found.remarks:
        st.caption(f":material/info: {sentences(remark)}")
    if found.groups:
        _prediction(found)
    elif found.shares:
        _shares(found)
    _files(run, found)


def _data_name(run: RunFolder, found: Annotation) -> str:
    return run.manifest.title.partition(" on ")[2] or found.data


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def _shares(found: Annotation) -> None:
    table = pd.DataFrame(
        [(s.label, s.cells, 100 * s.share, s.mean) for s in found.shares], columns=["label", "cells", "share", "mean"]
    )
    table = table.sort_values("cells", ascending=False, kind="stable")
    st.dataframe(
        table,
        hide_index=True,
        key="called_shares",
        height=min(38 + 35 * len(table), 420),
        column_config={
            "label": st.column_config.TextColumn("Called"),
            "cells": st.column_config.NumberColumn("Cells", format="localized"),
            "share": st.column_config.ProgressColumn("Share", format="%.1f%%", min_value=0, max_value=100),
            "mean": st.column_config.NumberColumn("Mean probability", format="%.2f", help="Of this label, over all cells."),
        },
    )


# ---- a prediction ----


def conditions(found: Annotation) -> dict[tuple[str, str], dict[str, CalledGroup]]:
    """Return the perturbed conditions of a prediction with what each kind of cells is called: (perturbation, context) -> kind -> group.

    Controls that are not of one perturbation stand beside each perturbation of their context.
    """
    perturbed = {(g.perturbation, g.context) for g in found.groups if not g.kind.endswith("control")}
    table: dict[tuple[str, str], dict[str, CalledGroup]] = {}
    for perturbation, context in sorted(perturbed):
        kinds: dict[str, CalledGroup] = {}
        for group in found.groups:
            own = group.perturbation == perturbation
            if group.context == context and (own or (group.kind.endswith("control") and group.kind not in kinds)):
                kinds[group.kind] = group
        table[perturbation, context] = kinds
    return table


def _prediction(found: Annotation) -> None:
    """Predicted perturbed cells, their paired predicted controls, and measured cells: what each is called."""
    every = conditions(found)
    if not every:
        return
    names = list(every)
    condition = st.selectbox("Condition", names, format_func=lambda c: f"{c[0]} in {c[1]}", key="called_condition")
    kinds = every[condition]
    st.markdown(sentence(condition, kinds))
    if found.shares:
        shown = [k for k in KINDS if k in kinds]
        show_figure(
            share_figure([kinds[k] for k in shown], shown),
            key="called_groups",
            title=f"What are cells of {condition[0]} in {condition[1]} called?",
            caption="Parts of the cells of each kind. Predicted controls are the same basal cells predicted under the control label: "
            "what differs between them and predicted cells is the model's effect; what differs between them and measured controls is its bias.",
            table=lambda: group_table(found),
            height=120 + 56 * len(shown),
        )
    else:
        st.dataframe(group_table(found), hide_index=True, key="called_numbers")


def sentence(condition: tuple[str, str], kinds: dict[str, CalledGroup]) -> str:
    """Say for each kind of cells what most of them are called."""
    parts = []
    for kind in KINDS:
        group = kinds.get(kind)
        if group is None:
            continue
        if group.shares:
            top = max(group.shares, key=lambda s: s.cells)
            parts.append(f"of {plural(group.cells, f'{kind} cell')} {top.share:.0%} are called **{md(top.label)}**")
        else:
            parts.append(f"{plural(group.cells, f'{kind} cell')} get {_number(group.value)} ± {_number(group.spread)}")
    text = "; ".join(parts)
    return f"{md(condition[0])} in {md(condition[1])}: {text}."


def share_figure(groups: Sequence[CalledGroup], kinds: Sequence[str]) -> go.Figure:
    """Bars of 100 %, one for each kind of cells, with a colour for each label."""
    totals: dict[str, int] = {}
    unknown = groups[0].shares[-1].label  # the last one; no label has its name
    for group in groups:
        for one in group.shares:
            totals[one.label] = totals.get(one.label, 0) + one.cells
    ranked = sorted((name for name in totals if totals[name] and name != unknown), key=lambda name: -totals[name])
    shown, rest = ranked[:MOST_LABELS], ranked[MOST_LABELS:]
    colours = palette.categories([n for n in totals if n != unknown]) | {unknown: palette.MISSING, OTHERS: palette.PALE}
    # the label of control cells is grey here as on every page
    colours |= {g.perturbation: palette.GREY for g in groups if g.kind.endswith("control") and g.perturbation in totals}
    figure = go.Figure()
    for name in [*sorted(shown), *([OTHERS] if rest else []), *([unknown] if totals.get(unknown) else [])]:
        parts = [
            sum(one.share for one in g.shares if one.label == name or (name == OTHERS and one.label in rest)) for g in groups
        ]
        figure.add_bar(
            y=list(kinds), x=np.array(parts, np.float32), orientation="h", name=drawn(name, 40), marker={"color": colours[name]},
            text=[f"{p:.0%}" if p >= 0.06 else "" for p in parts], textposition="inside", insidetextanchor="middle",
            hovertemplate=f"<b>{drawn(name)}</b> %{{x:.1%}} of %{{y}} cells<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        barmode="stack",
        legend={"orientation": "h", "y": -0.25, "x": 0, "traceorder": "normal", "title": {"text": ""}},
        bargap=0.25,
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1], title="")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return figure


def group_table(found: Annotation) -> pd.DataFrame:
    """Return a row for each condition and kind of cells: how many, and the part called each label (or the mean number)."""
    rows, own = [], ["context", "perturbation", "kind", "cells"]
    for group in found.groups:
        names = distinct([*own, *(one.label for one in group.shares)], "label")[len(own) :]
        row: dict[str, object] = {
            "context": group.context,
            "perturbation": group.perturbation,
            "kind": group.kind,
            "cells": group.cells,
        }
        row |= {name: one.share for name, one in zip(names, group.shares, strict=True)}
        row |= {"mean": group.value, "standard deviation": group.spread} if not group.shares else {}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- files ----


def _kept(found: Annotation) -> Path | None:
    """Where the annotated cells lie when they became a data set of the library; None without one."""
    if not found.dataset:
        return None
    try:
        return Path(get_dataset(session.settings(), found.dataset).path)
    except StateError:  # forgotten meanwhile
        return None


def _files(run: RunFolder, found: Annotation) -> None:
    labels, cells = run.file(LABELS), run.file(ANNOTATED)
    with st.container(horizontal=True):
        if labels.exists():
            st.download_button(
                "Labels (CSV)",
                data=labels.read_bytes,
                file_name="labels.csv",
                mime="text/csv",
                key="called_csv",
                icon=":material/download:",
                on_click="ignore",
            )
        if found.groups:
            csv_button("Shares (CSV)", lambda: group_table(found), "shares.csv", "called_shares_csv")
        path = _kept(found) or cells
        if path.exists() and path.stat().st_size <= MOST_IN_BROWSER:
            st.download_button(
                f"Cells with labels (.h5ad, {size(path.stat().st_size)})",
                data=path.read_bytes,
                file_name="annotated.h5ad",
                key="called_h5ad",
                icon=":material/download:",
                on_click="ignore",
            )
        store = run.file(STORE)
        if path.exists() and made_by_a_job(
            run, StoreRequest(run.id), store, "the zarr store", "The same as a zipped zarr store (version 2)"
        ):
            file_button(store, "Zarr", "annotated.zarr.zip", "called_zarr", "application/zip")
        if _kept(found) is not None and st.button("Use it as the data set", key="called_use", icon=":material/table:"):
            session.choose("data", found.dataset)
            st.rerun()
    st.caption(f"Read {md(found.vectors, 300)}; {duration(found.seconds)} on {md(found.device)}.")
    with st.expander("How to repeat this"):
        st.code(run.manifest.command or "", language="bash", wrap_lines=True)
