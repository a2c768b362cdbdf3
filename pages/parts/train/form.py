"""Part of the Train page: what model is trained, every setting of it, what it will take, and the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pages.parts import fields, session
from pages.parts.forecast import expected, time_words
from pages.parts.format import code, md, plural, sentences, size
from pages.parts.train.run import CHOICE
from pages.parts.train.split import applied, pick_plan, show_split
from pages.parts.train.start import Start, pick_start, show_fit
from pages.parts.upload_box import one_file
from pages.parts.uploads import keep_by_content
from pages.parts.widgets import errors_shown
from state_engine.checkpoints.arc.perturbation_vectors import width_of_features_file
from state_engine.data.dataset import Dataset
from state_engine.data.splits.apply import Split
from state_engine.data.splits.plan import plan_text
from state_engine.errors import ConfigError
from state_engine.jobs.train_job import TrainJob, start
from state_engine.library.datasets import DataEntry
from state_engine.library.foreign import call, limits_for
from state_engine.options import option_of, options_of, settings
from state_engine.prediction.overlap import perturbations_of
from state_engine.train.adapt import Fit
from state_engine.train.cost import estimate_for
from state_engine.train.presets import PRESETS
from state_engine.train.request import TrainRequest, resolve, with_steps

HVGS, GENES = "Most variable genes", "All genes"
MOST_FEATURES_MB = 512  # of an uploaded table of perturbation vectors
_PRESET_WORDS = {
    "default": "for data sets of some thousand cells; minutes on a processor",
    "state": "Arc's State model; needs a GPU",
    "state_sm": "Arc's small State model; hours on a processor",
    "state_lg": "Arc's large State model; needs a GPU",
    "tahoe": "as the published Tahoe model; needs a GPU",
    "replogle": "as the published Replogle model; needs a GPU",
}


def train_form(entry: DataEntry, data: Dataset) -> None:
    """The whole form: split, model, estimate, start."""
    st.markdown(f"**{md(entry.name)}**: {plural(data.n_cells, 'cell')}, {plural(len(perturbations_of(data)), 'perturbation')}, "
                f"{plural(len(data.contexts), 'context')}, control {code(data.require_control())}.")  # fmt: skip
    st.markdown("#### What is it tested on?")
    split, request = None, None
    with errors_shown():  # what is wrong is said where it was chosen; the rest of the form stays as it is
        plan = pick_plan(entry, data)
        if plan is not None:
            split = applied(plan, entry)
            show_split(split)
            for note in session.depth_notes(entry):
                st.warning(sentences(note))
    st.markdown("#### What is trained?")
    start_from = pick_start()
    adapted = start_from if start_from is not None and start_from.tune else None
    fit = show_fit(adapted, split) if adapted is not None and split is not None else None
    with errors_shown():
        request = request_form(entry, data, adapted)
        if split is not None:
            request = with_steps(request, split)
    alone = None
    with errors_shown():
        if split is not None and request is not None:
            alone = _estimate(request, split, data, fit)
    label = f"Train for {request.optimiser.steps:,} steps" if request is not None and request.optimiser.steps else "Train"
    ready = split is not None and request is not None and (adapted is None or fit is not None)
    pressed = st.button(label, type="primary", key="train", icon=":material/model_training:", disabled=not ready)
    if pressed and split is not None and request is not None:
        job = TrainJob(plan_text(split.plan), request, entry.choices, str(start_from.entry.path) if start_from else "", entry.id)
        session.choose(CHOICE, start(session.settings(), job, request.run.name, alone))
        st.rerun()


def request_form(entry: DataEntry, data: Dataset, start: Start | None = None) -> TrainRequest:
    """The request that was chosen; `start` is a model that is adapted, whose network is kept.

    Raises:
        ConfigError: settings that are not known, or contradict each other.
    """
    left, right = st.columns([2, 3])
    preset = left.selectbox(
        "Preset",
        list(PRESETS),
        key="train_preset",
        format_func=lambda p: f"{p} · {_PRESET_WORDS.get(p, '')}".rstrip(" ·"),
        help="Values for all settings; each can be changed below.",
        persist_state="session",
    )
    base = resolve(preset) if start is None else start.request(resolve(preset))
    key = preset if start is None else f"{preset}_{start.card.id}"
    usual = preset if start is None else f"{start.card.name}, adapted"
    name = right.text_input(
        "Name of the model", f"{entry.name.removesuffix('.h5ad')} · {usual}", key=f"train_name_{entry.id}_{key}"
    )
    given: dict[str, Any] = {"name": name or base.run.name, "data_name": entry.name, "simulated": entry.origin == "demo"}
    given |= _representation(entry, data, base) if start is None else {}
    features = _features(entry)
    given |= {"features": features} if features else {}
    with st.expander("More settings", icon=":material/tune:"):
        given |= {name: value for name, value in _usual(key, base).items() if start is None or not name.startswith("network.")}
        words = st.text_area(
            "Any other setting, one a line: name=value",
            key="train_settings",
            placeholder="loss=combined\ndropout=0.1",
            help="The names are in the table below. A name that is not known is refused.",
        )
        given |= settings(TrainRequest, [line for line in words.splitlines() if line.strip()])
        request = base.with_settings(given)
        _all_settings(request, base)
    return request


def _representation(entry: DataEntry, data: Dataset, base: TrainRequest) -> dict[str, Any]:
    embeddings = {m.name.removeprefix("obsm/"): m.width for m in data.representations if m.name.startswith("obsm/")}
    options = [*([HVGS, GENES] if data.expression else []), *embeddings]
    if not options:
        raise ConfigError(f"{entry.name} has nothing to train on.", "It has no expression and no embedding.", "Choose another.")
    left, right = st.columns([2, 3])
    chosen = left.selectbox(
        "What the model reads",
        options,
        index=options.index(base.network.embedding) if base.network.embedding in embeddings else 0,
        key=f"train_reads_{entry.id}",
        format_func=lambda o: (
            f"{o} ({data.n_genes:,})" if o == GENES else f"{o}, {embeddings[o]:,} wide" if o in embeddings else o
        ),
        help="Expression of genes (log1p), or an embedding that is in the data set: then no gene comes out, unless a gene decoder is "
        "trained (gene_decoder=true).",
    )
    if chosen in embeddings:
        return {"embedding": chosen, "output_space": None}
    if chosen == GENES:
        return {"embedding": None, "hvgs": 0}
    most = data.n_genes
    n = right.number_input("How many genes", 1, most, min(base.network.hvgs or most, most), key=f"train_hvgs_{entry.id}")
    return {"embedding": None, "hvgs": int(n)}


def _features(entry: DataEntry) -> str:
    """Path of the uploaded perturbation vectors; empty for one-hot vectors."""
    key = f"train_features_{entry.id}"
    with st.expander("Perturbation features (optional)", icon=":material/fingerprint:"):
        st.caption(
            "A vector for each perturbation, such as ESM2 of its gene: the model can then predict perturbations that it has not seen. "
            "Without, each perturbation is its own, and only trained ones can be predicted."
        )
        found = one_file(
            key,
            "A .pt dict of vectors, or a CSV with a name first",
            ("pt", "csv"),
            MOST_FEATURES_MB,
            keep_features,
            "Without them",
        )
    return str(found) if found is not None else ""


def keep_features(path: Path, name: str) -> tuple[Path, str]:
    """Keep a file of perturbation vectors that a child could read; return where it lies, named by its content, and words for it."""
    width = call(width_of_features_file, path, path=path, name=name, limits=limits_for(path))
    return keep_by_content(path, "features"), f"{name}: vectors of {width:,}"


def _usual(preset: str, base: TrainRequest) -> dict[str, Any]:
    """The settings that are changed most, as widgets; new ones for each preset, with its values."""
    one, two, three, four = st.columns(4)
    steps = _number(one, "optimiser.steps", preset, base.optimiser.steps or None, placeholder="by the data")
    return {
        "optimiser.steps": steps or 0,  # 0: it follows from the data
        "sets.set_size": _number(two, "sets.set_size", preset, base.sets.set_size),
        "sets.sets_per_step": _number(three, "sets.sets_per_step", preset, base.sets.sets_per_step),
        "run.seed": _number(four, "run.seed", preset, base.run.seed),
        "network.hidden": _number(one, "network.hidden", preset, base.network.hidden),
        "network.layers": _number(two, "network.layers", preset, base.network.layers),
        "optimiser.learning_rate": _number(
            three, "optimiser.learning_rate", preset, base.optimiser.learning_rate, format="%.1e", step=1e-4
        ),
        "run.device": _choice(four, "run.device", preset, base.run.device),
        "run.precision": _choice(one, "run.precision", preset, base.run.precision),
        "sets.equalise_depth": _choice(two, "sets.equalise_depth", preset, base.sets.equalise_depth),
    }


def _number(column: Any, path: str, preset: str, value: float | None, **more: Any) -> Any:
    """Show a setting that is a number."""
    return fields.number(column, TrainRequest, path, f"train_{path.rpartition('.')[2]}_{preset}", value=value, **more)


def _choice(column: Any, path: str, preset: str, value: str) -> Any:
    """Show a setting that is one of several words."""
    index = option_of(TrainRequest, path).about.choices.index(value)
    return fields.choice(column, TrainRequest, path, f"train_{path.rpartition('.')[2]}_{preset}", index=index)


def _all_settings(request: TrainRequest, base: TrainRequest) -> None:
    """A table of every setting: its value, that of the preset where it differs, and what it means."""
    rows = []
    for one in options_of(TrainRequest):
        value, usual = (_text(getattr(getattr(r, one.path.split(".")[0]), one.name)) for r in (request, base))
        rows.append((one.name, one.path.split(".")[0], value, "" if value == usual else usual, fields.sentence(one)))
    table = pd.DataFrame(rows, columns=["Setting", "Part", "Value", "Preset's", "What it is"])
    st.dataframe(table, hide_index=True, key="train_all_settings", height=260)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if value is None else str(value)


def _estimate(request: TrainRequest, split: Split, data: Dataset, fit: Fit | None = None) -> float:
    asked, run = request.network, request.run
    read = len(fit.genes) if fit is not None and fit.genes else asked.hvgs or data.n_genes
    width = data.representation(f"obsm/{asked.embedding}").width if asked.embedding else read
    guess, folds = estimate_for(request, split, width, data.n_genes)
    note = " With perturbation features the network is a little wider." if asked.features else ""
    sets = f"{request.sets.sets_per_step} x {request.sets.set_size}"
    found = expected("train", guess.seconds)
    st.caption(
        f"{guess.parameters:,} parameters; {request.optimiser.steps:,} steps of {sets} cells; {size(guess.memory_bytes)} of memory. It takes "
        f"{time_words(found, 'when nothing else runs (rough; a GPU is many times faster)')}{note}"
    )
    if request.optimiser.tune and run.compare and split.cells()["test"]:
        st.caption("A training from scratch for as many steps follows, to compare: about as much time again.")
    if folds:
        st.caption(
            f"Counted in: {folds} shorter trainings, each without one context, or one without some blocks or perturbations. They decide "
            "how much of the model's effect is taken beside the mean of the other contexts (calibration)."
        )
    return guess.seconds
