"""Parts of the Predict page: picking perturbations, the request, its cost, and a run's state."""

from __future__ import annotations

from dataclasses import dataclass, replace

import streamlit as st

from pages.parts import fields, session
from pages.parts.forecast import expected, time_words
from pages.parts.format import duration, md, plural, sentences, size
from pages.parts.jobs import job_panel, start_job
from pages.parts.widgets import finding, go
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.files.text import NameList, names_among
from state_engine.effects.store import has_effects
from state_engine.errors import listed, may_be
from state_engine.jobs.kinds import Lane
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.library.foreign import TEXT, call
from state_engine.library.models import Entry
from state_engine.options import option_of
from state_engine.prediction.cell_counts import COUNT, NAME, counts_of
from state_engine.prediction.compatibility import Compatibility
from state_engine.prediction.request import CellCount, Method, PredictionRequest, estimate

MOST_MB = 64  # of an uploaded list of names

SHORT_SECONDS = 30.0  # predictions below it do not wait behind long work
START_SECONDS = 3.0  # of a prediction beside its sets: reading cells and weights, writing the result


@dataclass(frozen=True)
class Cost:
    """Seconds that a prediction was guessed to take alone, and the lane that it would be done in."""

    alone: float
    lane: Lane


def contexts_to_choose(data: Dataset, card: ModelCard) -> tuple[list[str], list[str]]:
    """Return the contexts with control cells, and those that are chosen at first: those that the model has not seen."""
    contexts = [c for c in data.contexts if len(data.control_rows(c))]
    unseen = [c for c in contexts if card.contexts and c not in card.contexts]
    # those that the model has not seen are the question, so they are asked for first
    return contexts, unseen[:2] or contexts[:2]


def pick_perturbations(entry: DataEntry, data: Dataset, card: ModelCard) -> tuple[tuple[str, ...], tuple[CellCount, ...]]:
    """A searchable list of what the model knows, and a pasted or uploaded list whose unknown names are said and left out.

    Returns:
        The chosen perturbations, and the numbers of cells of those for which a table gave one.
    """
    options = [p for p in card.perturbations if p != card.control]
    contexts = st.session_state.get(f"contexts_{entry.id}", contexts_to_choose(data, card)[1]) or list(data.contexts)
    measured = data.table()[contexts].sum(axis=1)
    measured = measured[measured > 0]
    key = f"perturbations_{card.id}"
    wanted = st.session_state.pop(f"{key}_wanted", None)
    if wanted is not None:
        st.session_state[key] = wanted
    elif len(options) == 1 and key not in st.session_state:
        st.session_state[key] = list(options)
    chosen = st.multiselect(
        f"Perturbations ({len(options):,} known to this model)",
        options,
        key=key,
        format_func=lambda p: f"{p} · measured, {measured[p]:,} cells" if p in measured.index else p,
        placeholder="Type to search",
        help="Those that your data set measured in the contexts chosen below can be compared with the measurement afterwards.",
        persist_state="session",
        select_all=False,
    )
    # another key is another popover, which is shut: what was added and what was not is read below it
    times = st.session_state.get(f"{key}_added", 0)
    with st.popover("Paste or upload a list", icon=":material/playlist_add:", key=f"{key}_popover_{times}"):
        text = st.text_area("Names, one a line or separated by commas", key=f"{key}_text")
        file = st.file_uploader(
            "Or a text file", type=["txt", "csv", "tsv"], key=f"{key}_file", max_upload_size=MOST_MB,
            help=f"Names, or a table with the columns {NAME} and {COUNT}: how many cells of each, in each context.",
        )  # fmt: skip
        if st.button("Add these", key=f"{key}_add"):
            raw, name = (file.getvalue(), file.name) if file else (b"", "")
            counts: tuple[CellCount, ...] = call(counts_of, raw, name, name=name or "The list", limits=TEXT)
            if counts:
                raw = "\n".join(count.perturbation for count in counts).encode()
            found = add_names(chosen, options, text, raw, name)
            st.session_state[f"{key}_wanted"], st.session_state[f"{key}_unknown"] = list(found.names), found.unknown
            st.session_state[f"{key}_remarks"], st.session_state[f"{key}_near"] = found.remarks, found.near
            st.session_state[f"{key}_counts"], st.session_state[f"{key}_added"] = counts, times + 1
            st.rerun()
    unknown = st.session_state.get(f"{key}_unknown", ())
    for remark in st.session_state.get(f"{key}_remarks", ()):
        st.caption(sentences(remark))
    if unknown:
        words = f"{listed(unknown, 12)}. {may_be(st.session_state.get(f'{key}_near', ()))}"
        st.warning(
            f"**{plural(len(unknown), 'name')} not known to this model, left out:** {sentences(words)}",
            icon=":material/warning:",
        )
        _add_what_was_meant(key, chosen)
    counts = tuple(count for count in st.session_state.get(f"{key}_counts", ()) if count.perturbation in chosen)
    if counts:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                f"Your table says how many cells of {plural(len(counts), 'perturbation')}: {sentences(_count_words(counts))}."
            )
            if st.button("The same number of each", key=f"{key}_uncount", type="tertiary"):
                del st.session_state[f"{key}_counts"]
                st.rerun()
    return tuple(chosen), counts


def _add_what_was_meant(key: str, chosen: list[str]) -> None:
    """Offer the known names that unknown ones can only mean: those of which one alone is near."""
    near = dict[str, tuple[str, ...]](st.session_state.get(f"{key}_near", ()))
    meant = list(dict.fromkeys(close[0] for close in near.values() if len(close) == 1 and close[0] not in chosen))
    if meant and st.button(f"Add {listed(meant, 4)}", key=f"{key}_meant", icon=":material/add:"):
        st.session_state[f"{key}_wanted"] = [*chosen, *meant]
        left = {name: close for name, close in near.items() if close[0] not in meant}
        gone = near.keys() - left.keys()
        st.session_state[f"{key}_near"] = tuple(left.items())
        st.session_state[f"{key}_unknown"] = tuple(n for n in st.session_state[f"{key}_unknown"] if n not in gone)
        st.rerun()


def _count_words(counts: tuple[CellCount, ...]) -> str:
    return listed([f"{count.perturbation} {count.cells:,}" for count in counts], 8)


def add_names(chosen: list[str], options: list[str], text: str, raw: bytes = b"", name: str = "") -> NameList:
    """Return what is chosen with the known names of a text and a file added, and the unknown names; a child reads them."""
    read: NameList = call(names_among, text, raw, name, tuple(options), name=name or "The list", limits=TEXT)
    return replace(read, names=tuple(dict.fromkeys([*chosen, *read.found])))


def allow_other_embedding(card: ModelCard, data: Dataset) -> bool:
    """Asks, only where the embedding is of another model than the one this model was trained on, whether to go on all the same."""
    made = data.embeddings.get(card.input_key)
    if not card.embedding_model or made is None or made.model in ("", card.embedding_model):
        return False
    return fields.yes(st, PredictionRequest, "allow_other_embedding", f"allow_other_embedding_{card.id}")


METHOD_WORDS: dict[Method, str] = {
    "model": "The model",
    "paired": "The network's own effect alone",
    "no change": "Baseline: no change",
    "mean of other contexts": "Baseline: mean of other contexts",
    "likeness-weighted mean": "Baseline: mean of other contexts, weighted by likeness",
    "mean of the context": "Baseline: mean of the context",
    "additive": "Baseline: sum of single perturbations",
    "nearest neighbours": "Baseline: nearest neighbours by effect",
    "ridge": "Baseline: ridge on perturbation features",
}


def methods(model: Entry) -> list[Method]:
    """What can predict here: the model, and the baselines that its folder has what they need for."""
    found: list[Method] = ["model", "no change"]
    if model.card is not None and model.card.recommended == "calibrated":
        found.insert(1, "paired")  # elsewhere it is what the model gives
    if has_effects(model.path):
        found += ["mean of other contexts", "likeness-weighted mean", "mean of the context", "additive", "nearest neighbours"]
        if model.card is not None and model.card.perturbation_encoding == "features":
            found.append("ridge")
    return found


def request_form(
    entry: DataEntry, data: Dataset, model: Entry, perturbations: tuple[str, ...], counts: tuple[CellCount, ...] = ()
) -> PredictionRequest | None:
    """The rest of the request; None while something is missing."""
    card = model.card
    if card is None:
        return None
    contexts, first = contexts_to_choose(data, card)
    unseen = set(contexts) - set(card.contexts) if card.contexts else set()
    chosen = st.multiselect(
        option_of(PredictionRequest, "contexts").label,
        contexts,
        default=first,
        key=f"contexts_{entry.id}",
        format_func=lambda c: (
            f"{c} · {len(data.control_rows(c)):,} control cells" + (" · not in training" if c in unseen else "")
        ),
        help="Only contexts with control cells are listed.",
        persist_state="session",
        select_all=False,
    )
    left, middle, right = st.columns(3)
    cells = fields.number(left, PredictionRequest, "cells", "cells", help=None, persist_state="session")
    seed = fields.number(middle, PredictionRequest, "seed", "seed", persist_state="session")
    with right.container(), st.expander("More settings"):
        set_size = fields.number(st, PredictionRequest, "set_size", f"set_size_{card.id}", value=card.set_size)
        device = fields.choice(st, PredictionRequest, "device", "device")
        precision = fields.choice(st, PredictionRequest, "precision", "precision")
        compiled = fields.yes(st, PredictionRequest, "compile", "compile")
        method = fields.choice(
            st, PredictionRequest, "method", f"method_{card.id}", methods(model), format_func=METHOD_WORDS.__getitem__
        )
        own = "as the model's card says"
        modes = (own, *option_of(PredictionRequest, "attention").about.choices)
        attention = fields.choice(st, PredictionRequest, "attention", "attention", modes)
        unknown = fields.yes(st, PredictionRequest, "allow_unknown", "allow_unknown")
        observed = fields.number(st, PredictionRequest, "observed", "observed")
        raw = fields.yes(st, PredictionRequest, "keep_raw", "keep_raw", value=True, help=None)
        least = fields.number(st, PredictionRequest, "least_cells", "least_cells", placeholder="no limit")
        most = fields.number(st, PredictionRequest, "most_cells", "most_cells", placeholder="no limit")
    if not perturbations or not chosen:
        return None
    return PredictionRequest(
        data=entry.path,
        model=str(model.path),
        perturbations=perturbations,
        contexts=tuple(chosen),
        cells=int(cells),
        cells_of=counts,
        least_cells=least,
        most_cells=most,
        seed=int(seed),
        choices=entry.choices,
        set_size=None if set_size == card.set_size else int(set_size),
        device=device,
        precision=precision,
        attention=None if attention == own else attention,
        allow_unknown=unknown,
        observed=int(observed),
        keep_raw=raw,
        method=method,
        compile=compiled,
    )


def keep_in_mind(report: Compatibility) -> None:
    """Say what speaks against a prediction where it is decided on: the facts in one line, their details folded."""
    if not report.warnings:
        return
    st.warning(
        "**Before you predict:** " + " · ".join(sentences(item.title) for item in report.warnings), icon=":material/warning:"
    )
    with st.expander("What this means"):
        for item in report.warnings:
            finding(item.severity, item.title, item.detail, item.fix)


def cost(request: PredictionRequest, data: Dataset, card: ModelCard) -> Cost:
    """Say what it will take, before it runs; return how it would be queued."""
    guess = estimate(request, data, card)
    alone = guess.seconds + START_SECONDS
    lane: Lane = "short" if expected("predict", alone, request.model).seconds < SHORT_SECONDS else "long"
    found = expected("predict", alone, request.model, lane)
    kinds = calibrated_words(request, card)
    st.caption(
        f"{plural(guess.conditions, 'condition')}, {plural(guess.cells, 'predicted cell')}; {size(guess.memory_bytes)} of memory, "
        f"{size(guess.disk_bytes)} on disk. It takes {time_words(found)}{kinds}"
    )
    return Cost(alone, lane)


def calibrated_words(request: PredictionRequest, card: ModelCard) -> str:
    """What is said of the calibrated prediction before it is made; nothing where there is none."""
    fitted = card.calibration
    if fitted is None or request.method != "model":
        return ""
    parts = f"{fitted.paired:.2f} of the model's effect and {fitted.mean:.2f} of the mean effect of the other contexts it was trained on"
    if fitted.common:
        parts += f", {fitted.common:.2f} of that of the context's other perturbations"
    if fitted.features:
        parts += f", {fitted.features:.2f} of what perturbation features tell"
    if fitted.correction:
        parts += ", the noise of the mean control cell taken out"
    if fitted.chosen:
        return f" The default output is the calibrated prediction ({parts}): {fitted.why} The corrected one is kept beside it."
    return f" Beside the prediction there will be a calibrated one: {parts}."


def submit(request: PredictionRequest, cost: Cost) -> None:
    """Start the job and put its run into the address; what takes few seconds does not wait behind long work."""
    name = listed(list(request.perturbations), 2)
    title = f"{name} in {listed(list(request.contexts), 2)}" + (f" · {request.method}" if request.method != "model" else "")
    run_id = start_job(request, title, lane=cost.lane, expected=cost.alone)
    session.choose("run", run_id)
    if cost.lane == "short":
        st.session_state[session.WATCHED] = run_id
    st.rerun()


def is_answered(run: RunFolder | None, request: PredictionRequest) -> bool:
    """Return whether the run that the page shows is done and was asked the same: then its result is the next step, not another prediction."""
    if run is None or run.manifest.kind != "predict" or run.state != "done":
        return False
    return run.request_as(PredictionRequest) == request


def _cells_words(request: PredictionRequest) -> str:
    counts = sorted({request.count(p) for p in request.perturbations})
    return f"{counts[0]:,} cells each" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} cells each"


def show_run(run: RunFolder) -> None:
    """A run's state; when it is done, the ways on."""
    with st.container(key="run_state"):
        done = job_panel(run.id, title=run.manifest.title, key="predict_job")
        if not done or run.state != "done":
            return
        if st.session_state.pop(session.WATCHED, "") == run.id:  # it ended while its page was open; Back leads to the form
            go("explore")
        request = run.request_as(PredictionRequest)
        st.success(
            f"**{md(run.manifest.title)}** is done: {plural(len(request.perturbations) * len(request.contexts), 'condition')}, "
            f"{_cells_words(request)}, in {duration(run.manifest.elapsed or 0)} on {md(run.manifest.device)}.",
            icon=":material/check_circle:",
        )
        with st.container(horizontal=True):
            for page, label, icon in (
                ("explore", "See the cells", ":material/scatter_plot:"),
                ("genes", "See the genes", ":material/genetics:"),
                ("attention", "See the attention", ":material/grid_on:"),
                ("submit", "Take it home", ":material/download:"),
            ):
                if st.button(label, key=f"go_{page}", icon=icon, type="primary" if page == "explore" else "secondary"):
                    go(page)
        with st.expander("How to repeat this"):
            st.code(run.manifest.command, language="bash", wrap_lines=True)
    st.divider()
