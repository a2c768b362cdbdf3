"""Part of the Fine-tune page: which labels, which vectors, which head, how it is tested, and the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import streamlit as st

from pages.parts import fields, session
from pages.parts.cells import in_child
from pages.parts.forecast import expected, time_words
from pages.parts.format import md, plural, sentences, size
from pages.parts.jobs import start_job
from pages.parts.labelling import given, labelled_data, tune_on_labels
from pages.parts.result import stamp
from pages.parts.widgets import show_error
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.data import cell_values
from state_engine.data.dataset import Choices, Dataset
from state_engine.errors import StateError
from state_engine.heads.cost import cost
from state_engine.heads.request import Features, FinetuneRequest, Task
from state_engine.library.datasets import DataEntry
from state_engine.library.models import EMBEDDINGS, list_models

CHOICE = "finetuning"
TASKS: dict[Task, str] = {
    "classification": "one label for each cell",
    "multi-label": "several labels for each cell",
    "regression": "a number",
}
TUNES = {
    "head": "the head alone",
    "lora": "the head and small adapters of the model (LoRA)",
    "last": "the head and the last layers of the model",
    "full": "the head and the whole model",
}
MOST_COLUMN = 5_000  # labels that a column may have to be offered


@dataclass(frozen=True)
class Vectors:
    """What a head can sit on.

    Args:
        words: for people.
        key: of obsm; "" where a model makes them.
        model: folder of the model; "" for none.
        features: which vectors of the model.
        card: of the model.
    """

    words: str
    key: str = ""
    model: str = ""
    features: Features = "auto"
    card: ModelCard | EmbeddingCard | None = field(default=None, compare=False, repr=False)


def finetune_form(entry: DataEntry, data: Dataset) -> None:
    """The whole form."""
    st.markdown("#### What is to be called?")
    task = cast(Task, fields.choice(st, FinetuneRequest, "task", "head_task", format_func=lambda t: f"{t}: {TASKS[t]}"))
    labels = _labels(entry, data, task)
    st.markdown("#### What does the head read?")
    vectors = st.selectbox(
        "Vectors of the cells",
        vectors_of(data),
        format_func=lambda v: v.words,
        key=f"head_vectors_{entry.id}",
        help="An embedding that the data set has, a model's vectors of each cell, or expression. A head applies only to vectors of the "
        "same kind.",
    )
    genes_of = _genes_of(vectors)
    left, right = st.columns(2)
    head = fields.choice(left, FinetuneRequest, "head", "head_kind")
    tune = _tune(right, vectors)
    group, test_groups = _split(data, labels)
    more = _more(head)
    name = fields.text(
        st, FinetuneRequest, "name", f"head_name_{entry.id}", f"{labels[0] if labels else 'labels'} of {_stem(entry.name)}"
    )
    try:
        request = FinetuneRequest(
            data=entry.path, labels=labels, embedding_key=vectors.key, model=vectors.model, features=vectors.features, genes_of=genes_of,
            choices=entry.choices, task=task, head=head, group=group, test_groups=test_groups, tune=tune, name=name.strip(),
            test_share=more["test_share"], validation_share=more["validation_share"], seed=more["seed"], least_cells=more["least_cells"],
            max_epochs=more["max_epochs"], patience=more["patience"], learning_rate=more["learning_rate"],
            weight_decay=more["weight_decay"], batch_size=more["batch_size"], hidden=more["hidden"], rank=more["rank"],
            variable_genes=more["variable_genes"], components=more["components"], neighbours=more["neighbours"],
            resamples=more["resamples"], device=more["device"], precision=more["precision"], class_weights=more["class_weights"],
            separator=more["separator"],
        )  # fmt: skip
    except StateError as error:
        if labels:
            st.error(sentences(str(error)), icon=":material/error:")
        request = None
    alone = None
    if request is not None and vectors.card is not None:
        alone = _cost(request, vectors.card, data.n_cells)
    what = "the cells" if not labels else " and ".join(md(one) for one in labels[:3])
    if st.button(f"Fit a head to {what}", type="primary", key="finetune", icon=":material/tune:", disabled=request is None):
        if request is None:
            return
        try:
            run = start_job(request, f"Head: {name or labels[0]}", expected=alone)
        except StateError as error:
            show_error(error)
            return
        session.choose(CHOICE, run)
        st.rerun()


def _cost(request: FinetuneRequest, card: ModelCard | EmbeddingCard, cells: int) -> float:
    """Say what a head takes; return the seconds that are guessed for it."""
    guess = cost(request, card, cells)
    tuned = ""
    if guess.pass_seconds:  # the time of a pass is told where it is measured: by the panel of the job
        passes = plural(request.max_epochs, "pass", "passes")
        tuned = f" Counted in: {passes} over the cells, in {size(guess.memory_bytes)} of memory; fitting ends earlier where nothing gets better."
    st.caption(f"It takes {time_words(expected('finetune', guess.seconds, request.model))}{tuned}")
    return guess.seconds


def _labels(entry: DataEntry, data: Dataset, task: Task) -> tuple[str, ...]:
    """The columns with the labels, and how many cells have which."""
    _labels_by_hand(entry, data)
    if task == "regression":
        names = number_columns(str(data.path), stamp(data.path), data.choices)
        if not names:
            st.info("No column of obs holds numbers.", icon=":material/info:")
            return ()
        return (str(st.selectbox("Column of numbers", names, key=f"head_number_{entry.id}")),)
    columns = [n for n, column in data.columns.items() if 1 <= len(column.categories) <= MOST_COLUMN]
    if not columns:
        st.info("The data set has no column of labels. Label cells by hand on the Explore or Embed page.", icon=":material/info:")
        return ()
    wanted = st.session_state.pop("finetune_column", "")
    key = f"head_label_{entry.id}"
    if wanted in columns:
        st.session_state[key] = wanted
    if task == "multi-label":
        found = st.multiselect(
            "Columns with the labels",
            columns,
            key=f"head_labels_{entry.id}",
            placeholder="One column of lists, or several of yes and no",
            select_all=False,
        )
        if len(found) == 1:
            fields.text(st, FinetuneRequest, "separator", "head_separator", ";")
        return tuple(found)
    first = data.labels.context_key if data.labels.context_key in columns else columns[0]
    column = str(st.selectbox("Column with the labels", columns, index=columns.index(first), key=key))
    counts = data.columns[column].value_counts().sort_values(ascending=False)
    counts = counts[counts > 0]
    missing = data.n_cells - int(counts.sum())
    shown = ", ".join(f"{md(name)} {n:,}" for name, n in list(counts.items())[:8])
    rest = f" and {len(counts) - 8:,} more" if len(counts) > 8 else ""
    without = f" {plural(missing, 'cell has none and is', 'cells have none and are')} left out." if missing else ""
    st.caption(f"{plural(len(counts), 'label')}: {shown}{rest}.{without}")
    return (column,)


def _labels_by_hand(entry: DataEntry, data: Dataset) -> None:
    """Offer labels that were given by hand to this data set: they become a column of a copy."""
    column = given(entry, data)
    if column is None:
        return
    n = int((column.codes >= 0).sum())
    with st.container(border=True, key="head_by_hand"):
        st.markdown(
            f"**{plural(n, 'cell')} of {md(entry.name)} are labelled by hand** ({md(', '.join(map(str, column.categories[:6])), 200)})."
        )
        st.button(
            "Fit to the labels by hand",
            key="head_use_hand",
            icon=":material/edit:",
            help="A copy of the data set gets them as a column, and is chosen here.",
            on_click=tune_on_labels,
            args=(entry,),
        )
        labelled_data(entry, "finetune")


def vectors_of(data: Dataset) -> list[Vectors]:
    """Return what a head can sit on: embeddings of the file, models of the library, expression."""
    settings = session.settings()
    found = [
        Vectors(
            f"{m.name.removeprefix('obsm/')} in the data set, {m.width:,} wide{_maker(data, m.name)}",
            key=m.name.removeprefix("obsm/"),
        )
        for m in data.representations
        if m.name.startswith("obsm/")
    ]
    if data.expression is not None:
        for embedding in EMBEDDINGS.entries(settings):
            if embedding.card is not None:
                found.append(
                    Vectors(
                        f"{embedding.card.name} (State Embedding): its embedding",
                        model=str(embedding.path),
                        features="embedding",
                        card=embedding.card,
                    )
                )
    for entry in list_models(settings):
        if entry.card is not None:
            path, name = str(entry.path), entry.card.name
            found.append(Vectors(f"{name} (State Transition): its hidden states", model=path, features="hidden", card=entry.card))
            found.append(
                Vectors(
                    f"{name} (State Transition): what it predicts under control",
                    model=path,
                    features="prediction",
                    card=entry.card,
                )
            )
    if data.expression is not None:
        found.append(Vectors("Expression of the most variable genes, without a model", features="expression"))
    return found


def _genes_of(vectors: Vectors) -> str:
    """Folder of the model whose predicted genes a head on expression reads; "" for any genes."""
    if vectors.features != "expression":
        return ""
    models = {"": "any genes"} | {str(e.path): e.card.name for e in list_models(session.settings()) if e.card is not None}
    place = fields.choice(st, FinetuneRequest, "genes_of", "head_genes_of", list(models), format_func=models.__getitem__)
    return str(place)


def _maker(data: Dataset, name: str) -> str:
    facts = data.embeddings.get(name.removeprefix("obsm/"))
    return f", made by {facts.model_name}" if facts is not None else ""


def _tune(place: Any, vectors: Vectors) -> str:
    ways = list(TUNES) if vectors.model else ["head"]
    way = place.selectbox(
        "What is trained",
        ways,
        format_func=TUNES.__getitem__,
        key=f"head_tune_{bool(vectors.model)}",
        help="The head alone takes seconds once the vectors are there. Training the model too needs many cells, and a GPU for all but small models.",
    )
    if way != "last":
        return str(way)
    return f"last-{int(place.number_input('How many layers', 1, 96, 2, key='head_last'))}"


def _split(data: Dataset, labels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """How it is tested: cells drawn within each label, or whole groups."""
    st.markdown("#### What is it tested on?")
    columns = [n for n, column in data.columns.items() if n not in labels and 2 <= len(column.categories) <= MOST_COLUMN]
    ways = ["Some cells of each label", "Whole groups"] if columns else ["Some cells of each label"]
    way = st.segmented_control(
        "Tested on", ways, default=ways[0], key="head_split", required=True, label_visibility="collapsed",
        help="Cells of one donor or batch resemble each other. Where the head is to call cells of new donors, test it on whole donors.",
    wrap=True)  # fmt: skip
    if way == ways[0]:
        return "", ()
    left, right = st.columns(2)
    first = data.labels.batch_key if data.labels.batch_key in columns else columns[0]
    group = str(
        left.selectbox("Groups", columns, index=columns.index(first), key="head_group", help="Each group is in one part alone.")
    )
    names = [str(name) for name in data.columns[group].categories]
    chosen = right.multiselect("Test on", names, key=f"head_test_{group}", placeholder="drawn by the seed", select_all=False)
    return group, tuple(map(str, chosen))


def _more(head: str) -> dict[str, Any]:
    """The options that are changed seldom."""
    with st.expander("More options", icon=":material/tune:"):
        one, two, three, four = st.columns(4)
        found: dict[str, Any] = {
            "test_share": _number(one, "test_share", step=0.05),
            "validation_share": _number(two, "validation_share", step=0.05),
            "seed": _number(three, "seed"),
            "least_cells": _number(four, "least_cells", placeholder="an error"),
            "max_epochs": _number(one, "max_epochs"),
            "patience": _number(two, "patience"),
            "learning_rate": _number(three, "learning_rate", format="%.1e", step=1e-4, placeholder="by what is trained"),
            "weight_decay": _number(four, "weight_decay", format="%.3f"),
            "batch_size": _number(one, "batch_size"),
            "hidden": _number(two, "hidden", disabled=head != "mlp"),
            "rank": _number(three, "rank"),
            "variable_genes": _number(four, "variable_genes"),
            "components": _number(one, "components"),
            "neighbours": _number(two, "neighbours"),
            "resamples": _number(three, "resamples"),
            "device": fields.choice(four, FinetuneRequest, "device", "head_device"),
            "precision": fields.choice(one, FinetuneRequest, "precision", "head_precision"),
        }
        found["class_weights"] = not st.checkbox(
            "Frequent labels count more", key="head_class_weights", help="Off: a rare label counts as much as a frequent one."
        )
    found["separator"] = str(st.session_state.get("head_separator") or ";")
    return found


def _number(place: Any, path: str, **more: Any) -> Any:
    return fields.number(place, FinetuneRequest, path, f"head_{path}", **more)


@st.cache_data(max_entries=16, show_spinner=False)
def number_columns(path: str, written: int, choices: Choices) -> tuple[str, ...]:
    """Return the columns of obs that hold numbers, read by a child process."""
    return in_child(cell_values.number_columns, Path(path), choices)


def _stem(name: str) -> str:
    return name.removesuffix(".h5ad")
