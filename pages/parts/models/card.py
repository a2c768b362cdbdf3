"""Parts of the Models page: the card, the report on data set and model, and the ways to add a model."""

from __future__ import annotations

import re
from functools import partial

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.format import md, plural, sentences, size
from pages.parts.jobs import job_of, job_panel, start_job
from pages.parts.model_scores import worth
from pages.parts.models.embedding import import_embedding
from pages.parts.models.heads import import_head
from pages.parts.upload_box import handed_over
from pages.parts.widgets import errors_shown, finding
from state_engine.attention.modes import measurable
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.recognise import run_of, what_is
from state_engine.config import Settings
from state_engine.data.dataset import Dataset
from state_engine.errors import StateError, listed
from state_engine.files import scratch_folder
from state_engine.jobs.requests import ConvertRequest, DownloadRequest, ModesCompared, ModesRequest
from state_engine.library import hub
from state_engine.library.allowed import readable
from state_engine.library.datasets import DataEntry
from state_engine.library.models import Entry, import_directory, remove
from state_engine.library.published import PUBLISHED
from state_engine.library.zips import export_zip, import_zip
from state_engine.plain import visible
from state_engine.prediction.compatibility import check_compatibility
from state_engine.prediction.request import PredictionRequest

ATTENTION_WORDS = {
    "full": "full: every cell of a set sees every other; a set has no order",
    "causal": "causal: a cell sees those before it in the set",
    "causal-rotary": "causal with rotary positions: a cell sees those before it, and how far before",
}


def fit_report(data: Dataset, card: ModelCard) -> bool:
    """Shows all findings on data set and model; True when nothing stops a prediction."""
    report = check_compatibility(data, card)
    counts = {s: sum(f.severity == s for f in report.findings) for s in ("blocking", "warning", "ok")}
    st.markdown("## Does it fit your data?")
    if counts["blocking"]:
        st.markdown(f":red[**No: {counts['blocking']} of {len(report.findings)} checks stop a prediction.**]")
    elif counts["warning"]:
        st.markdown(
            f":orange[**It can predict, with {counts['warning']} of {len(report.findings)} checks that speak against it.**] Read them first."
        )
    else:
        st.markdown(f":green[**Yes.**] All {counts['ok']} checks passed.")
    order = {"blocking": 0, "warning": 1, "ok": 2}
    for item in sorted(report.findings, key=lambda f: order[f.severity]):
        finding(item.severity, item.title, item.detail, item.fix)
    return not report.blocking


def card_view(entry: Entry, settings: Settings) -> None:
    """The model's card: facts, its perturbations, and what to do with the files."""
    card = entry.card
    if card is None:
        return
    st.markdown(f"## {md(card.name)}")
    backbone = card.config.backbone
    reads = f"{card.input_key}, {card.config.input_dim:,} features" + (", named" if card.input_genes else ", names not recorded")
    facts = {
        "Predicts": _predicts(card),
        "Trained on contexts": ", ".join(card.contexts) or "not recorded",
        "Held out in training": listed([str(held) for held in card.training.held_out], 12) or "not recorded",
        "Data": (card.training.data or "not recorded") + (" (simulated)" if card.simulated else ""),
        "Licence": card.licence,
    }
    details = {
        "Reads": reads + ("" if card.reads_embedding else f", {card.scale or 'scale not recorded'}"),
        "Network": f"{backbone.kind}, {backbone.layers} layers, width {backbone.hidden}, {backbone.heads} heads",
        "Cells in a set": f"{card.set_size}",
        "Attention": f"{ATTENTION_WORDS[card.attention]} ({card.attention_source})",
        "Perturbations": f"{len(card.offered):,} and the control, as {card.perturbation_encoding}",
        "Control label": card.control,
        "Batches": f"{len(card.batches):,}" + ("" if card.config.batch_encoder else ", not used by the model"),
        "Training": f"{card.training.steps:,} steps, loss {card.training.loss}" if card.training.steps else "not recorded",
        "Source": card.source or "not recorded",
        "Weights": f"sha256 {card.weights_hash[:16]}…, {size(entry.nbytes)}",
    }
    with st.container(border=True, key="card_facts"):
        _facts(facts)
        with st.expander("Details: what it reads, network, training, files"):
            _facts(details)
    for text in (*map(str, card.training.leaks), *card.limits, *card.notes):
        st.caption(f":material/info: {sentences(text)}")
    if card.attention_origin == "trained" or card.training.scores:
        worth(card)
    with st.expander(f"Its {plural(len(card.offered), 'perturbation')}"):
        st.dataframe(pd.DataFrame({"Perturbation": card.offered}), hide_index=True, key="card_perturbations", height=300)
    with st.container(horizontal=True):
        st.download_button(
            "Download (.zip)",
            data=partial(_zipped, session.settings(), entry),
            file_name=f"{card.name.replace(' ', '-')}.zip",
            key="export_model",
            icon=":material/download:",
            on_click="ignore",
        )
        if not entry.demo and st.button("Remove from the library", key="remove_model", type="tertiary"):
            remove(entry, settings)
            session.choose("model", "")
            st.rerun()


def _facts(facts: dict[str, str]) -> None:
    for name, value in facts.items():
        left, right = st.columns([1, 2], gap="small")
        left.markdown(f":gray[{name}]")
        right.markdown(sentences(value))


def _predicts(card: ModelCard) -> str:
    if card.config.decoder is not None:
        return f"an embedding ({card.config.output_dim:,} wide), decoded to expression (log1p) of {card.config.decoder.genes:,} genes"
    if card.reads_embedding:
        return f"an embedding ({card.config.output_dim:,} wide), no expression"
    return f"expression (log1p) of {card.config.output_dim:,} genes"


def _zipped(settings: Settings, entry: Entry) -> bytes:
    """Return a model as a zip. Called outside of the page's script, where nobody is logged in: so the settings are the caller's."""
    with scratch_folder(settings) as folder:
        return export_zip(entry, folder / "model.zip").read_bytes()


def add_models(settings: Settings, repo: str = "") -> None:
    """The ways to add a model: a folder on the server, a zip of our format, or the hub, which is shown first for a repository."""
    st.markdown("## Add a model")
    tabs = st.tabs(["Folder", "Zip", "Hugging Face"], default="Hugging Face" if repo else None)
    with tabs[0], errors_shown():
        _from_folder(settings)
    with tabs[1], errors_shown():
        _from_zip(settings)
    with tabs[2], errors_shown():
        _from_hub(settings)
    job = st.session_state.get("model_job")
    if job and job_panel(job, title="Adding a model", key="model_job_panel"):
        st.success("The model is in your library.", icon=":material/check_circle:")
        del st.session_state["model_job"]
        st.rerun()


def _from_folder(settings: Settings) -> None:
    st.caption(
        "An arc-state run directory (config.yaml, checkpoints/…), a State Embedding checkpoint, or a model or head in our own format, below an "
        "allowed folder."
    )
    text = st.text_input("Folder on this server", key="model_folder", placeholder="/models/ST-HVG-Replogle")
    checkpoint = _checkpoint(_checkpoints_at(text, settings), "folder_checkpoint") if text else None
    if not (st.button("Import", key="import_folder", disabled=not text) and text):
        return
    path = readable(text, settings)
    if import_head(path, settings) or import_embedding(path, settings):
        st.rerun()
    found = what_is(path)
    if found.kind == "store":
        session.choose("model", _id(import_directory(path, settings)))
        st.rerun()
    elif found.kind == "arc":
        chosen = path / checkpoint if checkpoint else path
        name = run_of(path)[0].name
        run = start_job(ConvertRequest(str(chosen), name), f"Convert {name}")
        st.session_state["model_job"] = run
        st.rerun()
    else:
        st.error(f"**{md(path.name)} cannot be imported.**  \n{sentences(found.reason)}", icon=":material/error:")
        for below in found.models[:20]:
            st.caption(f"A model is in {md(path / below, most=300)}")


def _checkpoints_at(text: str, settings: Settings) -> tuple[str, ...]:
    """Return the checkpoints of a run directory; none of what may not be read or is something else, which the import reports."""
    try:
        path = readable(text, settings)
    except StateError:
        return ()
    return what_is(path).checkpoints


def _checkpoint(names: tuple[str, ...], key: str) -> str | None:
    """Ask which checkpoint is meant where there are several; None takes the one that is meant by default."""
    if len(names) < 2:
        return None
    return st.selectbox("Checkpoint", names, key=key, help="Without a choice: final, best, last, else the latest step.")


def _from_zip(settings: Settings) -> None:
    words = "Drop a model here that was exported from STATE Explorer (.zip)."
    entries = handed_over(words, "zip", (".zip",), lambda path, name: import_zip(path, settings, name))
    if entries:
        session.choose("model", _id(entries[-1]))
        st.rerun()


def _id(entry: Entry) -> str:
    return entry.card.id if entry.card else ""


def _from_hub(settings: Settings) -> None:
    known = [p.repo for p in PUBLISHED]
    repo = st.selectbox("Repository", known, index=None, accept_new_options=True, key="hub_repo", placeholder="owner/name")
    revision = st.text_input(
        "Revision",
        key="hub_revision",
        placeholder="the one that is known here, else the newest",
        help="Branch, tag or commit; it is pinned to a commit. Empty: the commit that the list of published models names, or that of your "
        "first download; else the newest.",
    )
    if st.button("Look it up", key="hub_info", disabled=not repo) and repo:
        with st.spinner("Asking the hub"):
            st.session_state["hub_facts"] = (repo, revision, hub.info(repo, revision, settings))
    if "hub_facts" not in st.session_state:
        return
    repo, revision, facts = st.session_state["hub_facts"]
    st.markdown(f"**{md(repo)}** at commit `{facts.commit[:12]}`")
    if not facts.models:
        st.error(
            "**There is no model in this repository.**  \nIt has no folder with a config.yaml and a checkpoint.",
            icon=":material/error:",
        )
        return
    folder = st.selectbox("Model", facts.models, format_func=lambda m: m or "top folder", key="hub_folder")
    if left_out := facts.unseen(folder):
        st.caption(f"**Left out of its training:** {md(left_out, most=None)}")
    checkpoint = _checkpoint(facts.checkpoints(folder), "hub_checkpoint")
    st.markdown(
        f"Download: {size(facts.size(folder, checkpoint))}. Licence: **{md(facts.licence)}**"
        + (f", [read it]({facts.licence_url})" if re.fullmatch(r"https://[\w./?=&%#~+-]+", facts.licence_url or "") else "")
    )
    if facts.limits:
        with st.expander("What its authors say about limits"):
            st.text(visible(facts.limits, most=None, keep="\n"))
    accepted = st.checkbox("I accept this licence. Arc Institute's weights may not be used commercially.", key="hub_accept")
    if st.button("Download", key="hub_download", type="primary", disabled=not accepted):
        request = DownloadRequest(repo, facts.commit, folder, accepted, checkpoint or "")
        run = start_job(request, f"Download {repo}")
        st.session_state["model_job"] = run
        del st.session_state["hub_facts"]
        st.rerun()


def attention_question(data: Dataset, entry: DataEntry, model: Entry) -> None:
    """Offers to measure which attention mode agrees with the data set's perturbed cells, and shows the answer."""
    card = model.card
    if card is None or card.attention_origin == "trained":
        return
    perturbations, contexts = measurable(data, card)
    if not perturbations or not contexts:
        return
    with st.expander("Which attention mode fits the measured cells?", icon=":material/quiz:"):
        st.caption(
            f"This model uses {md(card.attention)}. The same small prediction can be made in each mode and compared with "
            f"what your data set measured ({plural(len(perturbations), 'perturbation')}, {plural(len(contexts), 'context')})."
        )
        key = f"modes_{card.id}_{entry.id}"
        if st.button("Measure it", key="measure_modes"):
            asked = ModesRequest(PredictionRequest(entry.path, str(model.path), perturbations, contexts, choices=entry.choices))
            st.session_state[key] = start_job(asked, f"Attention modes of {card.name}")
            st.rerun()
        run_id = str(st.session_state.get(key, ""))
        if run_id and job_panel(run_id, title="Comparing attention modes", key="modes_job"):
            job = job_of(run_id)
            scores = job.summary_as(ModesCompared).modes if job else ()
            frame = pd.DataFrame(
                {
                    "Attention": [s.mode for s in scores],
                    "Pearson r of effects": [f"{s.pearson:.3f}" for s in scores],
                    "MAE (log1p)": [f"{s.mae:.4f}" for s in scores],
                    "Conditions": [s.conditions for s in scores],
                }
            )
            st.dataframe(frame, hide_index=True, key="modes_table")
            st.caption(
                "Smallest error first. Nearly equal scores mean that these cells cannot tell. Choose another mode under More settings on Predict."
            )
