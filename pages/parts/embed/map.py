"""Parts of the Embed page: what was made, the map of embedded cells, and the files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts import palette, selection, session
from pages.parts.cellmap import Categories, CellMap, Values, show_map
from pages.parts.cells import cell_names, in_child
from pages.parts.figures import csv_button
from pages.parts.format import code, duration, md, plural, sentences, size
from pages.parts.jobs import derived_run, job_panel, start_job
from pages.parts.labelling import NOT_LABELLED, entry_of, labelling, with_labels
from pages.parts.picker import runs_for
from pages.parts.result import stamp, whole_projection
from pages.parts.widgets import go
from state_engine.analysis.projection import Projection
from state_engine.data import cell_values, gene_columns
from state_engine.data.dataset import Choices, Dataset
from state_engine.embedding.jobs import Embedding, EmbedJob
from state_engine.jobs.requests import GeneCacheRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry, list_datasets
from state_engine.library.foreign import read_file
from state_engine.library.gene_cache import find_columns, is_worth
from state_engine.plain import distinct, read_json_as

CHOICE = "embedding"
MOST_IN_BROWSER = 400_000_000  # bytes of a file that is handed over by the page; larger ones are copied from the server
MOST_LABELS = 60  # a column with more labels has no legend anyone could read
GENE = "A gene"


# What was made


def chosen_run(entry: DataEntry | None) -> RunFolder | None:
    """Return the run in the address; without one, the newest that embedded the chosen data set or made it."""
    chosen = session.chosen_run(CHOICE)
    if chosen is not None or entry is None:
        return chosen
    for info in runs_for(CHOICE, ("done",)).values():
        run = RunFolder(info.path)
        made = embedding_of(run)
        if made is not None and (made.data == entry.id or run.request_as(EmbedJob).request.data == entry.path):
            return run
    return None


def embedding_of(run: RunFolder) -> Embedding | None:
    """What a run made; None while it is not done."""
    path = run.file("embedding.json")
    return read_json_as(Embedding, path, "embedding", "Embed the cells again.")


def over(run: RunFolder, key: str) -> bool:
    """Shows the job of a run while it is not over, or how it failed; True when there is a result to show."""
    return job_panel(run.id, title=run.manifest.title, key=key) and run.state == "done"


def open_made(made: Embedding, run: RunFolder) -> Dataset | None:
    """The embedded data set; None, with a word why, when it was deleted."""
    if not Path(made.path).exists():
        st.warning("**The embedded data set was deleted.** Embed the cells again to see them.", icon=":material/delete:")
        return None
    choices = run.request_as(EmbedJob).request.choices
    return session.opened(Path(made.path), choices=choices)


def summary(run: RunFolder, made: Embedding) -> None:
    """The facts of an embedding in a line, and what to keep in mind."""
    st.markdown(
        f"**{md(run.manifest.title)}**: {plural(made.cells - made.empty, 'cell')} in {made.width:,} dimensions "
        f"({made.cell_width:,} describe the cell), from {made.scale}, {duration(made.seconds)} on {md(made.device)}."
    )
    for remark in made.remarks:
        st.caption(f":material/info: {sentences(remark)}")
    if made.simulated:
        st.caption(
            ":material/science: A demonstration: this model was not trained on real cells. Cells of like expression lie close; "
            "nothing more is meant."
        )


# The map


@st.fragment
def cell_map(run: RunFolder, made: Embedding, data: Dataset) -> None:
    """The map with its colours and what is selected on it. A fragment: a new colour does not run the page again."""
    entry = entry_of(made.path)
    data = with_labels(entry, data)
    projection = whole_projection(run)
    left, right = st.columns([3, 2], gap="medium")
    with right:
        colour, gene = _colour(run, data)
        if gene:
            _by_gene(run, made, data)
    polygon, chosen = selection.polygon_of(run), selection.chosen_of(run, projection.xy)
    if chosen is not None and not chosen.any():
        polygon, chosen = None, None
    shown = the_map(data, projection, colour, gene, chosen, polygon)
    with left:
        show_map(
            "embedding",
            shown,
            title=f"{plural(len(projection.rows), 'cell')}, coloured by {gene or colour}",
            caption=f"{projection.settings.note}. {made.model_name}. Distances on a UMAP are qualitative.",
            table=lambda: cell_table(data, projection, gene),
            height=540,
            on_pick=lambda pick: selection.keep(run, pick, shown),
        )
    with right:
        _selected(run, data, projection, colour, chosen, gene)
        if entry is not None:
            rows = None if chosen is None else projection.rows[chosen]
            labelling(entry, data, rows, f"lasso on the map of {run.manifest.title}", "embed")


def colours_of(data: Dataset) -> list[str]:
    """Columns of labels that can colour a map: the context first, then as they stand."""
    fit = [name for name, column in data.columns.items() if 1 <= len(column.categories) <= MOST_LABELS]
    first = [k for k in (data.labels.context_key, data.labels.perturbation_key, data.labels.batch_key) if k and k in fit]
    return list(dict.fromkeys([*first, *fit]))


def _colour(run: RunFolder, data: Dataset) -> tuple[str, str]:
    options = [*colours_of(data), *([GENE] if data.expression else [])]
    if not options:
        st.caption("The data set has no labels and no expression to colour by.")
        return "", ""
    session.recall("embed_colour", options, options[0], "colour")
    colour = st.pills("Colour by", options, format_func=md, key="embed_colour", required=True, wrap=True) or options[0]
    usual: dict[str, object] = {"colour": options[0], "gene": st.session_state.get("embed_gene")}
    if colour != GENE:
        session.show_in_address("embed", usual, tuple(usual))
        return colour, ""
    genes = distinct(data.genes.names, "gene")
    first = genes[most_variable(str(data.path), stamp(data.path), data.choices)]
    session.recall("embed_gene", genes, first, "gene")
    gene = st.selectbox(
        "Gene", genes, key="embed_gene", help="Type to search. First shown is the gene that varies most between these cells."
    )
    session.show_in_address("embed", usual | {"gene": first}, tuple(usual))
    return colour, str(gene)


def place_of(data: Dataset, gene: str) -> int:
    """Return the place of a gene that was chosen by a name that none other has."""
    return distinct(data.genes.names, "gene").index(gene)


def the_map(
    data: Dataset,
    projection: Projection,
    colour: str,
    gene: str,
    chosen: NDArray[np.bool_] | None = None,
    outline: NDArray[np.float32] | None = None,
) -> CellMap:
    """Return the map in one colouring; `chosen` (n,) are the cells within the selection, whose corners are `outline`."""
    if gene:
        by: Categories | Values = Values(gene, "log1p", values_of(data, gene, projection.rows))
    else:
        names, codes = label_codes(data, colour, projection.rows)
        colours = palette.categories([n for n in names if n]) | {NOT_LABELLED: palette.MISSING}
        by = Categories(colour or "Cells", [n or NOT_LABELLED for n in names], codes, colours)
    return CellMap(projection.xy, by, None, chosen, outline)


def label_codes(data: Dataset, column: str, rows: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int16]]:
    """Labels by name, "" (none) last, and the place of each row's label among them."""
    if column not in data.columns:
        return [""], np.zeros(len(rows), np.int16)
    values = data.columns[column]
    own = [str(c) for c in values.categories]
    names = [*sorted(own), ""]
    place = {name: i for i, name in enumerate(names)}
    # a missing label has the code -1, which takes the last place: that of none
    places = np.array([*(place[name] for name in own), len(names) - 1], np.int16)
    return names, places[np.asarray(values.codes)[rows]]


def values_of(data: Dataset, gene: str, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the log1p expression of a gene in some cells, (n,): from what is kept by gene, else by way of the cells."""
    place, kept = place_of(data, gene), find_columns(session.settings(), data)
    if kept is not None:
        return column_of(str(kept), stamp(kept), place)[rows]
    return gene_values(str(data.path), stamp(data.path), data.choices, place, rows)


def _by_gene(run: RunFolder, made: Embedding, data: Dataset) -> None:
    """Offer the job that keeps the values of a large data set by gene, and show it."""
    if not is_worth(data) or find_columns(session.settings(), data) is not None:
        return
    request = GeneCacheRequest(made.data)
    asked = derived_run(run, request)
    if asked is not None and not job_panel(asked.id, title="Ordering the values by gene", key="by_gene_job") and asked.active:
        return
    help = "A gene of all cells is then read in less than a second. It takes about as much disk as the data set; it goes when that is deleted."
    if st.button("Keep the values by gene", key="by_gene", icon=":material/speed:", help=help):
        start_job(request, f"Values by gene of {run.manifest.title}", parent=run.id)
        st.rerun(scope="app")


@st.cache_data(max_entries=32, show_spinner="Reading the gene")
def column_of(path: str, written: int, gene: int) -> NDArray[np.float32]:
    """Return the log1p expression of a gene, by its place, in all cells, (n,)."""
    return read_file(gene_columns.read_column, Path(path), gene)


@st.cache_data(max_entries=32, show_spinner="Reading the gene")
def gene_values(path: str, written: int, choices: Choices, gene: int, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the log1p expression of a gene, by its place, in some cells, (n,)."""
    return in_child(cell_values.gene_values, Path(path), choices, gene, np.array(rows))


@st.cache_data(max_entries=32, show_spinner="Reading the genes")
def most_variable(path: str, written: int, choices: Choices) -> int:
    """Return the number of the gene whose log1p expression varies most in a sample of cells."""
    return in_child(cell_values.most_variable, Path(path), choices)


def _selected(
    run: RunFolder, data: Dataset, projection: Projection, colour: str, chosen: NDArray[np.bool_] | None, gene: str
) -> None:
    st.markdown("**Selection**")
    if chosen is None:
        st.caption("Draw around cells with the lasso on the map to see what they are, and to find cells like them.")
        return
    st.markdown(f"{plural(int(chosen.sum()), 'cell')} of {len(chosen):,} shown")
    columns = colours_of(data)
    if columns:
        by = colour if colour in columns else columns[0]
        names, codes = label_codes(data, by, projection.rows)
        counts = np.bincount(codes[chosen], minlength=len(names))
        table = pd.DataFrame({by: [n or NOT_LABELLED for n in names], "cells": counts, "share": 100 * counts / counts.sum()})
        table = table[table["cells"] > 0].sort_values("cells", ascending=False)
        st.dataframe(
            table,
            hide_index=True,
            key="embed_composition",
            height=min(38 + 35 * len(table), 260),
            column_config={"share": st.column_config.NumberColumn("Share", format="%.1f%%", help="Of the selected cells.")},
        )
    with st.container(horizontal=True):
        csv_button("Cells (CSV)", lambda: cell_table(data, projection, gene)[chosen], "selected_cells.csv", "embed_selection_csv")
        st.button("Clear selection", key="embed_clear", icon=":material/close:", on_click=selection.forget, args=(run,))


def cell_table(data: Dataset, projection: Projection, gene: str = "") -> pd.DataFrame:
    """The cells of the map: name, place, labels, and the gene's expression when one is shown."""
    rows = projection.rows
    table = pd.DataFrame(
        {
            "cell": cell_names(str(data.path), stamp(data.path), data.choices)[rows],
            "umap_1": projection.xy[:, 0],
            "umap_2": projection.xy[:, 1],
        }
    )
    for column in data.columns:
        names, codes = label_codes(data, column, rows)
        table[column] = np.array(names, object)[codes]
    if gene:
        table[f"{gene} (log1p)"] = values_of(data, gene, rows)
    return table


# Files


def files(run: RunFolder, made: Embedding, data: Dataset) -> None:
    """The embedding to take home, as a data set here, and the command that repeats it."""
    path, place = Path(made.path), f"obsm['{made.key}']"
    st.markdown(f"The new data set **{md(_name(made))}** has all cells, labels and genes, and the embedding in {code(place)}.")
    with st.container(horizontal=True):
        model = session.model_entry()
        reads = model is not None and model.card is not None and model.card.input_key == made.key
        if made.data == session.chosen("data") and reads and st.button("Predict with it", key="embed_predict", type="primary"):
            go("predict")
        if made.data != session.chosen("data") and st.button("Use it as the data set", key="embed_use", type="primary"):
            session.choose("data", made.data)
            session.choose("run", "")
            st.rerun()
        if data.file.nbytes <= MOST_IN_BROWSER:
            st.download_button(
                f"Cells with embedding (.h5ad, {size(data.file.nbytes)})",
                data=path.read_bytes,
                file_name="embedded.h5ad",
                key="embed_h5ad",
                icon=":material/download:",
                on_click="ignore",
            )
        if data.n_cells * made.width * 4 <= MOST_IN_BROWSER:
            st.download_button(
                f"Embedding (.npy, {size(data.n_cells * made.width * 4)})",
                data=lambda: matrix_bytes(data, made.key),
                file_name="embedding.npy",
                key="embed_npy",
                icon=":material/download:",
                on_click="ignore",
            )
    if data.file.nbytes > MOST_IN_BROWSER:
        st.caption(f"The file has {size(data.file.nbytes)}: copy it from the server, {md(path, most=300)}")
    st.caption(f"Model {md(made.model_name)}, weights sha256 {made.model[:16]}…, recorded in the file. {sentences(made.genes)}")
    with st.expander("How to repeat this"):
        st.code(run.manifest.command, language="bash", wrap_lines=True)


def matrix_bytes(data: Dataset, key: str) -> bytes:
    """The embedding of all cells as a .npy file."""
    out = io.BytesIO()
    np.save(out, in_child(cell_values.matrix, data.path, data.choices, f"obsm/{key}"))
    return out.getvalue()


def _name(made: Embedding) -> str:
    return next((e.name for e in list_datasets(session.settings()) if e.id == made.data), "(forgotten)")
