"""Part of the Embed page: the form that asks for an embedding, and what is known before it is made."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.parts import fields, session
from pages.parts.embed.map import CHOICE, embedding_of
from pages.parts.forecast import expected, time_words
from pages.parts.format import duration, md, plural, sentences
from pages.parts.jobs import job_panel, start_job
from pages.parts.picker import runs_for
from pages.parts.result import stamp
from pages.parts.widgets import finding, go
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.gene_vocabulary import LEAST_OVERLAP, GeneMap
from state_engine.embedding.cost import LONG, MUCH_SMALLER, embedding_cost, speeds_here
from state_engine.embedding.jobs import EmbedJob, SpeedJob
from state_engine.embedding.request import EmbedRequest, gene_map_of
from state_engine.errors import StateError
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.library.models import EMBEDDINGS, EmbeddingEntry
from state_engine.models.embedding_config import EmbeddingConfig

START_SECONDS = 5.0  # of an embedding beside its cells: reading them, their map, writing


def embed_form(entry: DataEntry, data: Dataset) -> None:
    """Model, what fits, and the button that starts the job."""
    models = [m for m in EMBEDDINGS.entries(session.settings()) if m.card is not None]
    if not models:
        st.info("No State Embedding model is in the library. Add one on the Models page.", icon=":material/deployed_code:")
        if st.button("Add a model", key="to_models"):
            go("models")
        return
    wanted = _wanted()
    first = next((i for i, m in enumerate(models) if wanted and m.card and m.card.weights_hash == wanted.embedding_model), 0)
    left, right = st.columns([3, 2], gap="medium")
    model = left.selectbox(
        "State Embedding (SE) model",
        models,
        index=first,
        format_func=lambda m: m.card.name,
        key=f"se_model_{wanted.id if wanted else ''}",
        help="It turns a cell's expressed genes into a point in a space where cells that it reads alike lie close.",
        persist_state="session",
    )
    key = fields.text(
        right, EmbedRequest, "key", f"se_key_{wanted.id if wanted else ''}", wanted.input_key if wanted else "X_state"
    )
    card = model.card
    if card is None:
        return
    if wanted:
        _for_the_model(wanted, card, key)
    fits = _fit(data, card)
    alone = _time(data, model, card, models)
    request, name, reference = _settings(entry, model, key, card)
    label = f"Embed {plural(data.n_cells, 'cell')}"
    if st.button(label, type="primary", key="embed", icon=":material/play_circle:", disabled=not fits or not request):
        if request is None:
            return
        run_id = start_job(EmbedJob(request, name, reference), f"{entry.name} with {card.name}", expected=alone)
        session.choose(CHOICE, run_id)
        st.rerun()


def _wanted() -> ModelCard | None:
    """The chosen State Transition model, when it reads an embedding."""
    entry = session.model_entry()
    return entry.card if entry and entry.card and entry.card.reads_embedding else None


def _for_the_model(wanted: ModelCard, card: EmbeddingCard, key: str) -> None:
    """Says whether what is made here is what the chosen State Transition model reads."""
    name, reads = wanted.name, f"'{wanted.input_key}' with {wanted.config.input_dim:,} features"
    if card.width != wanted.config.input_dim or key.strip() != wanted.input_key:
        made = f"'{key.strip()}' with {card.width:,}"
        finding("blocking", f"Not for {name}", f"It reads {reads}; this would make {made}.", "Choose another SE model, or name.")
    elif not wanted.embedding_model:
        detail = (
            f"It reads {reads}. Which SE model it was trained on is not recorded, and only embeddings of that one mean the same."
        )
        finding("warning", f"Fits {name} by its width only", detail, "")
    elif wanted.embedding_model != card.weights_hash:
        detail = f"It was trained on embeddings of {wanted.embedding_model[:12]}; features of another model mean something else."
        finding("blocking", f"Not the SE model of {name}", detail, "Choose the one it was trained on.")
    else:
        finding("ok", f"Made for {name}", f"It was trained on embeddings of this SE model and reads {reads}.", "")


def _time(data: Dataset, model: EmbeddingEntry, card: EmbeddingCard, models: list[EmbeddingEntry]) -> float:
    """Say how long it takes on a CPU, offer to measure a cell, and a smaller model where it is long; return the seconds guessed for all."""
    before = [*made_here(models), *speeds_here(session.settings().root)]
    cost = embedding_cost(card.config, before)
    whole = cost.seconds_a_cell * data.n_cells
    how = "measured here" if cost.same else "by what was measured here with another model" if cost.measured else "rough"
    each = f"{cost.seconds_a_cell * 1000:,.3g} ms" if cost.seconds_a_cell < 1 else duration(cost.seconds_a_cell)
    alone = whole + START_SECONDS
    st.caption(f"A cell takes about {each} on this machine's CPU ({how}). {plural(data.n_cells, 'cell')} and their map: "
               f"{time_words(expected('embed', alone))}")  # fmt: skip
    if not cost.same:
        _measure(model, card)
    others = [(embedding_cost(m.card.config, before).seconds_a_cell, m.card) for m in models if m.card is not None]
    quickest, smaller = min(others, key=lambda pair: pair[0])
    if whole > LONG and quickest * MUCH_SMALLER < cost.seconds_a_cell:
        st.info(
            f"Without a GPU {md(smaller.name)} takes {duration(quickest * data.n_cells)}. Embeddings of the two models cannot be compared "
            "with each other.",
            icon=":material/speed:",
        )
    return alone


def _measure(model: EmbeddingEntry, card: EmbeddingCard) -> None:
    """The button that measures how long a cell takes with a model, and the panel of the job while it does."""
    key = f"se_speed_{card.id}"
    asked = str(st.session_state.get(key, ""))
    if asked and not job_panel(asked, title="How long a cell takes", key="se_speed_job"):
        return
    if st.button(
        "Measure it", key="se_speed", icon=":material/timer:", help="Some seconds; it is remembered for this model and machine."
    ):
        st.session_state[key] = start_job(SpeedJob(str(model.path)), f"Speed of {card.name}")
        st.rerun()


def made_here(models: list[EmbeddingEntry]) -> list[tuple[EmbeddingConfig, float]]:
    """Return networks and seconds for a cell of the embeddings that were made here on a processor, the newest first."""
    configs = {m.card.weights_hash: m.card.config for m in models if m.card is not None}
    found = []
    for info in runs_for(CHOICE, ("done",)).values():
        made = embedding_of(RunFolder(info.path))
        if made is not None and made.model in configs and made.cells and made.device.lower().startswith("cpu"):
            found.append((configs[made.model], made.seconds / made.cells))
    return found


def _fit(data: Dataset, card: EmbeddingCard) -> bool:
    """Says which genes match and what the values are; True when the cells can be embedded."""
    genes = genes_matched(str(data.path), stamp(data.path), data.choices, card.weights_hash, card)
    scale, matched = (
        data.scale.scale,
        f"**{len(genes.rows):,} of {len(card.vocabulary):,}** genes of the model are in the data set",
    )
    if not len(genes.rows) or genes.overlap < LEAST_OVERLAP:
        st.error(
            f"**Too few genes match.** {matched}. {sentences(genes.how)} At least {LEAST_OVERLAP:.0%} of those that could are needed: choose "
            "another column of gene names on the Data page, or a model made for these genes.",
            icon=":material/block:",
        )
        return False
    if scale is None:
        st.error("**The values are neither counts nor log1p.** Say on the Data page what they are.", icon=":material/block:")
        return False
    words = f"{matched}, {genes.overlap:.0%} of those that could be. Values are {scale}. Each cell is read as its {card.config.tokens - 1:,}"
    words += " most expressed genes of these."
    if genes.warning:
        st.warning(f"**Few genes match.** {words}", icon=":material/warning:")
    else:
        st.caption(words)
    for limit in card.limits:
        st.caption(f":material/info: {sentences(limit)}")
    return True


@st.cache_data(max_entries=32, show_spinner=False)
def genes_matched(path: str, written: int, choices: Choices, model: str, _card: EmbeddingCard) -> GeneMap:
    """Which genes of a data set a model knows; computed once for both."""
    return gene_map_of(session.opened(Path(path), choices=choices), _card)


def _settings(entry: DataEntry, model: EmbeddingEntry, key: str, card: EmbeddingCard) -> tuple[EmbedRequest | None, str, bool]:
    with st.expander("More settings"):
        left, middle, right = st.columns(3)
        name = left.text_input("Name of the new data set", f"{_stem(entry.name)} · {key}", key=f"se_name_{entry.id}")
        device = fields.choice(middle, EmbedRequest, "device", "se_device")
        precision = fields.choice(right, EmbedRequest, "precision", "se_precision")
        seed = fields.number(left, EmbedRequest, "seed", "se_seed")
        compiled = fields.yes(right, EmbedRequest, "compile", "se_compile")
        reference = middle.checkbox(
            "Keep as reference cells",
            True,
            key="se_reference",
            help="Other cells can then be compared with these (Similar cells).",
        )
    try:
        request = EmbedRequest(
            entry.path, str(model.path), entry.choices, key.strip(), device, precision, None, int(seed), compile=compiled
        )  # fmt: skip
    except StateError as error:
        st.error(sentences(str(error)), icon=":material/error:")
        return None, name, reference
    return request, name or entry.name, reference


def _stem(name: str) -> str:
    return name.removesuffix(".h5ad")
