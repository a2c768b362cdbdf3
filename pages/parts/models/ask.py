"""Parts of Data and Models: what can be asked of the open data set, as rows with one button each; the best one is the primary."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.forecast import expected, span
from pages.parts.format import md, plural, sentences
from pages.parts.result import stamp
from pages.parts.train.split import NAME, applied
from pages.parts.widgets import go
from state_engine.checkpoints.card import ModelCard
from state_engine.config import Settings
from state_engine.data.dataset import Dataset
from state_engine.data.splits.choices import suggest_plan
from state_engine.errors import StateError, listed
from state_engine.evaluation.card_verdict import against_baselines
from state_engine.library.datasets import DataEntry
from state_engine.library.models import Entry, list_models
from state_engine.library.published import CRISPRI, PUBLISHED, Published
from state_engine.plain import agreed, part_of
from state_engine.prediction.overlap import Overlap, naming_genes, overlap_of, perturbations_of
from state_engine.train.cost import estimate_for
from state_engine.train.request import resolve, with_steps

WANTED = "hub_wanted"  # the repository that is to be got
UNKNOWN = "not known"
ANOTHER = "from a folder, a zip or the model hub (needs the network); their cards, and what each knows of your cells"
_VERDICTS = {
    "better": ("green", "better than the mean"),
    "worse": ("red", "loses to the mean"),
    "no better": ("gray", "no better than the mean"),
    "mixed": ("orange", "mixed beside the mean"),
    "too few": ("gray", "cannot be told from the mean"),
}
_MOST = 4  # models shown before the rest are folded away
_LEFT_OUT = {"context": "a whole context", "perturbations": "part of the perturbations of one"}


def what_to_ask(entry: DataEntry, data: Dataset, settings: Settings, *, published: bool = True) -> None:
    """Draw the rows: predict with a model that is here, train one on these cells, get another one.

    Args:
        entry: the data set. data: what is in it. settings: as the owner has them.
        published: whether the published models are shown, else a row leads to the page that shows them.
    """
    st.markdown("## What can you ask of these cells?")
    found = _found(data, settings)
    best = _best(found)
    st.markdown(_headline(found, data))
    for model, overlap in found[:_MOST]:
        _model_row(model, overlap, primary=best is model)
    if found[_MOST:]:
        with st.expander(f"{plural(len(found) - _MOST, 'more model')}"):
            for model, overlap in found[_MOST:]:
                _model_row(model, overlap, primary=best is model)
    _train_row(entry, data, primary=best is None)
    if published:
        _published(data)
    elif _row(
        "ask_more", "**Another model**", f":gray[{ANOTHER}]", "Models", ":material/arrow_forward:", False, button="to_models"
    ):
        go("models")


def _found(data: Dataset, settings: Settings) -> list[tuple[Entry, Overlap]]:
    """Return the models of the library with what they have in common with the data set, the one that knows most first."""
    found = [(entry, overlap_of(data, entry.card)) for entry in list_models(settings) if entry.card is not None]
    return sorted(found, key=lambda one: (not one[1].useful, -len(one[1].known), -(one[1].genes_found or 0)))


def _best(found: list[tuple[Entry, Overlap]]) -> Entry | None:
    """Return the model to go on with: the chosen one where it is of use, else the one that knows most."""
    useful = [entry for entry, overlap in found if overlap.useful]
    chosen = [entry for entry in useful if entry.card is not None and entry.card.id == session.chosen("model")]
    return next(iter([*chosen, *useful]), None)


def _headline(found: list[tuple[Entry, Overlap]], data: Dataset) -> str:
    own = perturbations_of(data)
    if not own:
        return "These are control cells alone: any model that reads them can predict, and nothing measured says how well."
    known = {p for _, overlap in found if not overlap.blocking for p in overlap.known}
    words = (
        f"**{part_of(len(known), len(own), 'perturbation')} of your data {agreed(len(own), 'is', 'are')} known to a model here.**"
    )
    return words if known else f"{words} Train one on these cells, or get one that knows them."


def _row(key: str, title: str, facts: str, label: str, icon: str, primary: bool, why_not: str = "", *, button: str = "") -> bool:
    with st.container(border=True, key=key):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"{title}  \n{facts}" + (f"  \n:red[{why_not}]" if why_not else ""))
        return right.button(
            label, key=button or f"{key}_go", icon=icon, type="primary" if primary else "secondary", disabled=bool(why_not)
        )


def _model_row(entry: Entry, overlap: Overlap, primary: bool) -> None:
    if entry.card is None:
        return
    knows = f"knows {part_of(len(overlap.known), overlap.perturbations, 'perturbation')} of your data, {overlap.offered:,} in all"
    facts = list[str]()
    if overlap.genes is not None:
        facts.append(f"{overlap.genes_found:,} of its {overlap.genes:,} genes are in your data")
    seen = UNKNOWN if overlap.seen is None else f"{len(overlap.seen):,} of {overlap.contexts:,}"
    facts.append(f"contexts seen in training: {seen}")
    facts.append("trained on simulated data" if entry.card.simulated else f"licence {md(entry.card.licence)}")
    why_not = sentences(listed(list(overlap.blocking), 3)) if overlap.blocking else ""
    title = f"**Predict with {md(entry.card.name)}** &ensp;{_verdict(entry.card)}"
    none_known = bool(overlap.perturbations) and not overlap.known
    words = f":{'orange' if none_known else 'gray'}[{knows}]:gray[; {'; '.join(facts)}]"
    if _row(f"ask_{entry.card.id}", title, words, "Predict", ":material/play_circle:", primary, why_not):
        session.choose("model", entry.card.id)
        go("predict")


def _verdict(card: ModelCard) -> str:
    """Return a badge of a few words: what held-out conditions say of a model beside the mean of the other contexts."""
    mean = next((one for one in against_baselines(card.training) if one.baseline == "mean"), None)
    if mean is None:
        return ":gray-badge[not tested on held-out cells]"
    colour, words = _VERDICTS[mean.outcome]
    return f":{colour}-badge[{words} ({plural(len(card.training.conditions), 'held-out condition')})]"


def _train_row(entry: DataEntry, data: Dataset, primary: bool) -> None:
    own = perturbations_of(data)
    if not own:
        return
    facts, why_not = _training(entry, data)
    if _row(
        "ask_train", "**Train a model on these cells**", f":gray[{facts}]", "Train", ":material/model_training:", primary, why_not
    ):
        session.choose("training", "")
        go("train")


def _training(entry: DataEntry, data: Dataset) -> tuple[str, str]:
    """Return what a training with all defaults would be and take, and what stops it."""
    words = f"{plural(len(perturbations_of(data)), 'perturbation')} in {plural(len(data.contexts), 'context')}"
    try:
        seconds, tested = _training_time(entry.path, stamp(Path(entry.path)), entry, data)
    except StateError as error:
        return words, sentences(error.what)
    tested_on = f"tested on {md(listed(list(tested), 3))}" if tested else "nothing is left out to test on"
    return f"{words}; {tested_on}; {span(expected('train', seconds))}", ""


@st.cache_data(max_entries=64, show_spinner="Looking at what a training would take")
def _training_time(path: str, stamped: int, _entry: DataEntry, _data: Dataset) -> tuple[float, tuple[str, ...]]:
    split = applied(suggest_plan(_data, NAME), _entry)
    request = with_steps(resolve("default"), split)
    width = min(request.network.hvgs or _data.n_genes, _data.n_genes)
    tested = [one.context for one in split.plan.zeroshot if one.part == "test"]
    tested += [f"{plural(len(few.test), 'perturbation')} of {few.context}" for few in split.plan.fewshot if few.test]
    return estimate_for(request, split, width, _data.n_genes)[0].seconds, tuple(tested)


def _published(data: Dataset) -> None:
    """The published models as a table, and the button that gets one."""
    st.markdown("### Published models")
    models = [p for p in PUBLISHED if p.kind == "transition"]
    named = naming_genes(data)
    frame = pd.DataFrame([_facts(one, data, len(named)) for one in models])
    st.dataframe(frame, hide_index=True, key="ask_published", height=38 + 35 * len(frame))
    st.caption(
        "From what is written down here about them; nothing was asked of the network. A size is known when the model is looked up, and which "
        "perturbations and genes it knows when it is here."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        repo = st.selectbox(
            "Published model", [p.repo for p in models], index=None, key="ask_repo", placeholder="Choose one", width=380
        )
        if st.button("Get it", key="ask_get", icon=":material/download:", disabled=repo is None) and repo:
            st.session_state[WANTED] = repo
            st.session_state["hub_repo"] = repo
            st.rerun()


def _facts(model: Published, data: Dataset, named: int) -> dict[str, str]:
    """Return a row of the table: the model beside the data set."""
    own = len(perturbations_of(data))
    known = UNKNOWN
    if model.perturbed_by == CRISPRI and own:
        known = f"at most {named:,} of {own:,}" if named else f"0 of {own:,}: none names a gene"
    seen = model.seen(data.contexts)
    lines = UNKNOWN if seen is None else f"yes: {listed(list(seen), 4)}" if seen else "no"
    genes = (
        "an embedding" if model.genes is None else f"{model.genes:,}, {'named' if model.gene_names else 'names not in its files'}"
    )
    return {
        "Model": model.repo.partition("/")[2],
        "Knows": f"{model.perturbations:,} {model.perturbed_by}" if model.perturbations else model.perturbed_by,
        "Of your perturbations": known,
        "Your contexts seen": lines,
        "Reads genes": genes,
        "Left out of its training": ", or ".join(_LEFT_OUT[f.left_out] for f in model.folds if f.left_out) or UNKNOWN,
        "Trained on": model.data,
        "Licence": model.licence,
    }
