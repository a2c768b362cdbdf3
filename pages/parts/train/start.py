"""Part of the Train page: which model a training starts from, what of it is trained, and what it knows of the data."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from pages.parts import fields, session
from pages.parts.format import sentences
from pages.parts.picker import distinct
from pages.parts.widgets import errors_shown
from state_engine.checkpoints.card import ModelCard
from state_engine.data.splits.apply import Split
from state_engine.library.models import Entry, list_models
from state_engine.options import option_of
from state_engine.train.adapt import Fit, adapting, fit_of
from state_engine.train.request import TrainRequest

LORA, LAST, FULL, WEIGHTS = "Adapters (LoRA)", "Last layers", "All weights", "Start only"


@dataclass(frozen=True)
class Start:
    """The model a training starts from, and what of it is trained; tune is "" where it is not adapted but gives its weights alone."""

    entry: Entry
    card: ModelCard
    tune: str
    compare: bool

    def request(self, base: TrainRequest) -> TrainRequest:
        """Return a training with the network of the model, where it is adapted."""
        if not self.tune:
            return base
        return adapting(base, self.card).with_settings(tune=self.tune, compare=self.compare)


def pick_start() -> Start | None:
    """Ask for a model of the library and what is trained of it; None for new weights."""
    entries = {e.card.id: e for e in list_models(session.settings()) if e.card is not None}
    words = distinct({i: e.card.name for i, e in entries.items() if e.card is not None})
    chosen = st.selectbox(
        "Start from",
        ["", *entries],
        format_func=lambda i: words.get(i, "new weights"),
        key="train_from",
        help="A model of the library is adapted to these data: its network stays, genes, perturbations and batches are matched by name, and "
        "what it knows stays known.",
    )
    entry = entries.get(chosen)
    if entry is None or entry.card is None:
        return None
    return Start(entry, entry.card, *_tune(entry.card))


def _tune(card: ModelCard) -> tuple[str, bool]:
    """Ask what is trained, and whether it is compared."""
    help_text = fields.sentence(option_of(TrainRequest, "optimiser.tune"))
    how = st.segmented_control(
        "What is trained", (LORA, LAST, FULL, WEIGHTS), default=LORA, key="train_tune", required=True,
        help=f"{help_text} Start only: its weights begin a training with the settings below, which must have its sizes.",
    wrap=True)  # fmt: skip
    if how == WEIGHTS:
        return "", False
    tune = {LORA: "lora", FULL: "full"}.get(str(how), "")
    if not tune:
        most = card.config.backbone.layers
        tune = f"last-{int(st.number_input('Layers', 1, most, min(2, most), key=f'train_last_{card.id}'))}"
    compare = option_of(TrainRequest, "run.compare")
    return tune, st.checkbox(compare.label, True, key="train_compare", help=fields.sentence(compare))


def show_fit(start: Start, split: Split) -> Fit | None:
    """Say what of the data the model knows; None where they do not fit together, which is said too."""
    fit = None
    with errors_shown():
        fit = fit_of(split, start.card)
        for sentence in fit.sentences():
            st.caption(f":material/link: {sentences(sentence)}")
    return fit
