"""Parts of the Evaluate page that ask: a training's held-out cells, a prediction that has measured cells, or two files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import streamlit as st

from pages.parts import fields, session
from pages.parts.format import plural
from pages.parts.jobs import start_job
from pages.parts.picker import pick_run, run_words, runs_for
from pages.parts.result import open_run
from pages.parts.upload_box import one_file, received
from pages.parts.uploads import keep_by_content
from state_engine import keys
from state_engine.analysis import stored
from state_engine.challenge.counts import Rounding
from state_engine.challenge.rehearsal import Seen, seen
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import Choices, Dataset
from state_engine.errors import StateError
from state_engine.evaluation.foreign_effects import size_of_effects_file
from state_engine.evaluation.profiles import find_profile, profiles
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest, PredictedFile, split_of_card
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import training_folder
from state_engine.library.datasets import DEMO_ID, DataEntry, get_dataset, list_datasets
from state_engine.library.foreign import call, limits_for
from state_engine.options import option_of
from state_engine.prediction.request import PredictionRequest

CHOICE = "evaluation"
PROFILE = "evaluate_profile"  # key of the metrics, the same in all three ways
DEMO_TITLE = "Demo model on its held-out cells"
_TRAINING, _PREDICTION, _FILES = "A training", "A prediction", "Two files"
PARTS: dict[Literal["test", "val"], str] = {"test": "Test cells", "val": "Validation cells (they flatter)"}


@dataclass(frozen=True)
class _Asked:
    """What both kinds of request share."""

    profile: str
    to_counts: Rounding | None


def evaluate_form() -> None:
    """What to evaluate, and the button that starts it."""
    options = [_TRAINING, _PREDICTION, _FILES]
    start = _TRAINING if session.chosen("training") or _done_trainings() else _PREDICTION if session.chosen("run") else _TRAINING
    session.recall("evaluate_what", options, start, "what")
    what = st.segmented_control(
        "What to evaluate", options, key="evaluate_what", label_visibility="collapsed", required=True, wrap=True
    )
    {_TRAINING: _training, _PREDICTION: _prediction, _FILES: _files}[what or start]()
    _keep_in_address(start)


def _keep_in_address(start: str) -> None:
    """Have the address hold what is chosen here, so that a reload and a link open the form as it was."""
    usual: dict[str, object] = {"what": start, "by": USUAL_PROFILE, "part": "test", "draws": 1, "kind": "cells"}
    session.show_in_address("evaluate", usual, (*usual, "predicted", "real"))


USUAL = "as the metrics say"
USUAL_PROFILE = str(option_of(EvaluationRequest, "profile").default)
MOST_SEEDS = 5


def evaluate_demo(key: str = "evaluate_demo", primary: bool = False) -> None:
    """The demo model on the blocks that it was not trained on, one click away."""
    model = session.demo_model_id()
    if model and st.button("Evaluate the demo", key=key, icon=":material/science:", type="primary" if primary else "secondary"):
        entry = get_dataset(session.settings(), DEMO_ID)
        path = Path(entry.path).parent / "model"
        split = split_of_card(read_card(path), session.understand(entry))
        request = HeldOutRequest(model=str(path), split=split, choices=entry.choices)
        _start(request, DEMO_TITLE)


def _start(request: EvaluationRequest | HeldOutRequest, title: str) -> None:
    run_id = start_job(request, title)
    session.choose(CHOICE, run_id)
    st.rerun()


def _metrics(key: str) -> _Asked:
    """The choice of metrics; for metrics on counts also how predictions become counts."""
    known = profiles()
    session.recall(PROFILE, list(known), USUAL_PROFILE, "by")
    profile = fields.choice(
        st, EvaluationRequest, "profile", PROFILE, list(known), index=0,
        format_func=lambda p: known[p].title + (" (counts)" if known[p].values == "counts" else ""),
    )  # fmt: skip
    rounding: Rounding | None = None
    if known[profile].values == "counts":
        rounding = fields.choice(st, EvaluationRequest, "to_counts", f"{key}_rounding")
        st.caption("The measured cells must be raw counts.")
    return _Asked(profile, rounding)


def _log1p_metrics() -> str:
    """The choice of metrics for cells that a prediction wrote: those that compare log1p expression."""
    known = {name: profile.title for name, profile in profiles().items() if profile.values == "log1p"}
    session.recall(PROFILE, list(known), USUAL_PROFILE, "by")
    return str(fields.choice(st, EvaluationRequest, "profile", PROFILE, list(known), index=0, format_func=lambda p: known[p]))


def _elsewhere(request: type, key: str) -> tuple[str, Choices | None]:
    """Return the data set whose effects are one more baseline, with its columns as they were chosen on the Data page; "" for none."""
    about = option_of(request, "measured_elsewhere")
    entry = st.selectbox(
        about.label, list_datasets(session.settings()), format_func=lambda e: e.name, key=f"evaluate_elsewhere_{key}", index=None,
        placeholder="none", help=fields.sentence(about),
    )  # fmt: skip
    return (entry.path, entry.choices) if entry is not None else ("", None)


# ---- a training ----


def _done_trainings() -> dict[str, str]:
    return run_words(runs_for("training", ("done",)))


def _training() -> None:
    known = _done_trainings()
    if not known:
        st.info(
            "No model was trained here yet. A training keeps its split, so that it can be tested on cells it has never seen. The demo model "
            "comes with such cells.",
            icon=":material/info:",
        )
        evaluate_demo(primary=True)
        return
    st.caption(
        "The held-out cells of its split are predicted from the control cells of their own contexts, and compared with the measured ones."
    )
    picked = pick_run(known, "training", "Training", "evaluate_training")
    left, right = st.columns(2)
    with left:
        profile = _log1p_metrics()
    seeds_option = option_of(HeldOutRequest, "seeds")
    session.recall_number("evaluate_seeds", "draws", 1, 1, MOST_SEEDS)
    seeds = int(right.number_input(seeds_option.label, 1, MOST_SEEDS, key="evaluate_seeds", help=fields.sentence(seeds_option)))
    session.recall("evaluate_part", list(PARTS), "test", "part")
    part = st.segmented_control(
        option_of(HeldOutRequest, "part").label,
        tuple(PARTS),
        key="evaluate_part",
        required=True,
        format_func=lambda p: PARTS[p],
        wrap=True,
    )
    with st.expander("More settings"):
        cells = fields.number(st, HeldOutRequest, "cells", "evaluate_cells", placeholder="as many as control cells")
        device = fields.choice(st, HeldOutRequest, "device", "evaluate_device")
        precision = fields.choice(st, HeldOutRequest, "precision", "evaluate_precision")
        other, there = _elsewhere(HeldOutRequest, "training")
    with st.container(horizontal=True):
        if st.button("Test on held-out cells", type="primary", key="evaluate_start_training", icon=":material/fact_check:"):
            run = RunFolder.open(session.settings(), picked)
            request = HeldOutRequest(
                run=str(training_folder(run)), part=part or "test", cells=cells, seeds=tuple(range(42, 42 + seeds)), profile=profile,
                device=device, precision=precision, measured_elsewhere=other, elsewhere_choices=there,
            )  # fmt: skip
            _start(request, f"{run.manifest.title} on its held-out cells")
        evaluate_demo()


# ---- a prediction ----


@st.cache_data(max_entries=256, show_spinner=False)
def _measured(path: str, written: int) -> int:
    """Conditions of a finished prediction that were measured too; 0 for an embedding alone."""
    result = open_run(RunFolder(Path(path)))
    if not result.has_expression:
        return 0
    return len(stored.measured_conditions(result) & set(result.conditions()))


def predictions() -> dict[str, str]:
    """Ids of finished predictions with measured cells, newest first, and what tells them apart."""
    found = {}
    done = runs_for("run", ("done",))
    words = run_words(done)
    for info in list(done.values())[:100]:
        result = info.path / "result.h5ad"
        try:
            n = _measured(str(info.path), result.stat().st_mtime_ns) if result.exists() else 0
        except StateError:
            continue
        if n:
            found[info.id] = f"{words[info.id]} · {plural(n, 'measured condition')}"
    return found


def _prediction() -> None:
    known = predictions()
    if not known:
        st.info(
            "No finished prediction has measured cells of what it predicts, so there is nothing to compare with. Predict conditions that your "
            "data set has measured, or evaluate the demo.",
            icon=":material/info:",
        )
        evaluate_demo(primary=True)
        return
    st.caption(
        "Predicted cells are compared with the measured cells of the same data set; baselines are made of everything that it measured."
    )
    picked = pick_run(known, "run", "Prediction", "evaluate_run")
    profile = _log1p_metrics()
    with st.expander("More settings"):
        other, there = _elsewhere(EvaluationRequest, "prediction")
    with st.container(horizontal=True):
        if st.button("Evaluate the prediction", type="primary", key="evaluate_start_run", icon=":material/fact_check:"):
            run = RunFolder.open(session.settings(), picked)
            _start(replace(request_of(run, profile), measured_elsewhere=other, elsewhere_choices=there), run.manifest.title)
        evaluate_demo()


def request_of(run: RunFolder, profile: str = "minimal") -> EvaluationRequest:
    """The evaluation of a finished prediction against the measured cells that its result holds."""
    result, path = open_run(run), str(run.result)
    # X is what the model's card recommends; each other kind lies in a layer of its own
    first = result.default_layer
    files = [PredictedFile(path, first if run.request_as(PredictionRequest).by_network else "prediction")]
    files += [PredictedFile(path, "raw", f"layers/{keys.RAW_LAYER}")] if result.has_raw else []
    if result.recommends_calibrated:
        files.append(PredictedFile(path, "corrected", f"layers/{keys.CORRECTED_LAYER}"))
    elif result.has_calibrated:
        files.append(PredictedFile(path, "calibrated", f"layers/{keys.CALIBRATED_LAYER}"))
    conditions = tuple(result.conditions())
    known = _seen(run, conditions, frozenset(pair for pair in conditions if result.exposure(*pair) == "in training"))
    return EvaluationRequest(
        predicted=tuple(files),
        real=path,
        choices=Choices(
            perturbation_key=keys.PERTURBATION,
            control=result.conditions(keys.OBSERVED_CONTROL)[0][0],
            context_key=keys.CONTEXT,
            scale="log1p",
        ),
        profile=profile,
        effects=str(run.path) if run.file("observed_means.npz").exists() else "",
        by_kind=True,
        held_out=known.words if known else "",
        flatters=known.flatters if known else None,
    )


def _seen(run: RunFolder, conditions: tuple[tuple[str, str], ...], trained: frozenset[tuple[str, str]]) -> Seen | None:
    """What the conditions are to the model, by its card and its prediction; None without a model, or when its card is gone."""
    asked = run.request_as(PredictionRequest)
    try:
        card = read_card(Path(asked.model))
    except StateError:
        return None
    return seen(card, conditions, trained=trained) if asked.method == "model" else None


# ---- two files ----


def _files() -> None:
    entries = list_datasets(session.settings())
    st.caption("Predicted and measured cells of the same perturbations, or a table of predicted effects from any program.")
    left, right = st.columns(2)
    session.recall("evaluate_kind", list(_KINDS), "cells", "kind")
    with left:
        kind = st.segmented_control(
            "What was predicted",
            list(_KINDS),
            required=True,
            key="evaluate_kind",
            format_func=lambda k: _KINDS[k],
            wrap=True,
        )
        predicted = _file(entries, "Predicted cells", "predicted") if kind == "cells" else None
        table = _effects_table() if kind == "effects" else None
    with right:
        real = _file(entries, "Measured cells, with controls", "real")
    if real is None or (predicted is None and table is None):
        return
    data = session.understand(real)
    own_choices = None
    if predicted is not None:
        with left:
            own_choices = _columns(session.understand(predicted), "predicted")
    with right:
        choices = _columns(data, "real")
    key = choices.perturbation_key or ""
    labels = list(data.columns[key].categories) if key in data.columns else []
    known = data.labels.control
    guess = [str(known)] if known in labels else [s for s in data.labels.control_suggestions if s in labels][:1]
    if key == data.labels.perturbation_key and data.choices.controls:
        guess = list(data.choices.controls)
    control = fields.several(right, EvaluationRequest, "choices.control", "evaluate_control", labels, guess)
    asked = _metrics("files")
    common = fields.yes(st, EvaluationRequest, "common_genes", "evaluate_common")
    with st.expander("More settings"):
        allowed = find_profile(asked.profile).controls
        sources = [USUAL, *(allowed if len(allowed) > 1 else ())]
        source = fields.choice(st, EvaluationRequest, "controls", f"evaluate_controls_{asked.profile}", sources)
        seed = fields.number(st, EvaluationRequest, "seed", "evaluate_seed")
        other, there = _elsewhere(EvaluationRequest, "files")
    with st.container(horizontal=True):
        if st.button(
            "Evaluate the files",
            type="primary",
            key="evaluate_start_files",
            icon=":material/fact_check:",
            disabled=not control or not key,
        ):
            request = EvaluationRequest(
                predicted=(PredictedFile(predicted.path if predicted is not None else str(table)),),
                real=real.path,
                choices=_with(choices, tuple(control)),
                predicted_choices=_with(own_choices, tuple(control)) if own_choices is not None else None,
                profile=asked.profile,
                controls=None if source == USUAL else source,
                seed=int(seed),
                common_genes=common,
                to_counts=asked.to_counts,
                measured_elsewhere=other,
                elsewhere_choices=there,
            )
            _start(request, f"{predicted.name if predicted is not None else 'Effects'} against {real.name}")
        evaluate_demo()


_KINDS = {"cells": "Cells (.h5ad)", "effects": "Effects (table)"}
MOST_TABLE_MB = 1024


def _effects_table() -> Path | None:
    """Return the uploaded table of effects; None without one."""
    return one_file(
        "evaluate_effects",
        "A .csv, .tsv or .parquet",
        ("csv", "tsv", "parquet"),
        MOST_TABLE_MB,
        _keep_effects,
        "Another one",
        "Columns perturbation, context (optional), gene, effect, p_de (optional); or perturbation, context (optional) and one for each gene. "
        "An effect is the mean log1p expression minus the control's.",
    )


def _keep_effects(path: Path, name: str) -> tuple[Path, str]:
    """Keep a table of effects that a child could read; return where it lies, and words for it."""
    conditions, genes = call(size_of_effects_file, path, path=path, name=name, limits=limits_for(path))
    return keep_by_content(path, "effects"), f"{name}: {plural(conditions, 'condition')}, {plural(genes, 'gene')}"


def _with(choices: Choices, control: tuple[str, ...]) -> Choices:
    return Choices(perturbation_key=choices.perturbation_key, control=control, context_key=choices.context_key)


def _file(entries: tuple[DataEntry, ...], label: str, key: str) -> DataEntry | None:
    """Return a data set of this installation, or an upload, which becomes one."""
    if f"evaluate_{key}_came" in st.session_state:
        st.session_state[f"evaluate_{key}"] = st.session_state.pop(f"evaluate_{key}_came")
    by_id = {entry.id: entry for entry in entries}
    session.recall(f"evaluate_{key}", [None, *by_id], None, key)
    chosen = st.selectbox(
        label,
        list(by_id),
        format_func=lambda i: by_id[i].name,
        key=f"evaluate_{key}",
        index=None,
        placeholder="Choose a data set",
    )
    name = f"evaluate_{key}_upload"
    came = received("or drop them here (.h5ad)", name)
    if came is not None:
        st.session_state[f"evaluate_{key}_came"] = came.id
        st.rerun()
    return by_id[chosen] if chosen is not None else None


def _columns(data: Dataset, key: str) -> Choices:
    """Columns of perturbation and context."""
    names = list(data.columns)
    guess = data.labels.perturbation_key
    perturbation = st.selectbox(
        "Column of the perturbation",
        names,
        index=names.index(guess) if guess in names else None,
        key=f"evaluate_{key}_perturbation",
    )
    options = ["", *names]
    here = data.labels.context_key or ""
    context = st.selectbox(
        "Column of the context",
        options,
        index=options.index(here) if here in options else 0,
        format_func=lambda c: c or "none: all cells are one context",
        key=f"evaluate_{key}_context",
    )
    return Choices(perturbation_key=perturbation, context_key=context)
