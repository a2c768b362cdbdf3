"""How large each predicted effect is: a table of a run's conditions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts.exposure import WORDS
from pages.parts.format import sentences
from pages.parts.genes.table import made
from pages.parts.glossary import meaning
from pages.parts.jobs import derived_run
from pages.parts.result import stamp
from pages.parts.widgets import go
from state_engine.analysis import differential as de
from state_engine.analysis import stored
from state_engine.analysis.resemblance import RESEMBLANCE, Resemblance, read_resemblance
from state_engine.analysis.standing import MEANINGS, MOST_TESTED
from state_engine.effects.scores import TOP
from state_engine.jobs.requests import EffectsRequest, LookRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.rules import BY_CHANGE, BY_FDR, change_words
from state_engine.prediction.result import Result

_RULE = f"{change_words()}, as in predicted cells on the Genes page; Evaluate calls genes by {BY_FDR}."
_STANDING = " ".join(f"{name.capitalize()}: {meaning}." for name, meaning in MEANINGS.items())
_STANDING += f" With more than {MOST_TESTED} measured conditions genes are not counted: correlation and error decide."
_SHARE = f"Of its {TOP} largest effects, the share whose direction left-out conditions let one expect in a replicate."


def effects_ready(run: RunFolder) -> bool:
    """Return whether the effects of a run are measured; show the job that does it, unless the one that makes the map does."""
    if stored.has_effects(run.path):
        return True
    if derived_run(run, LookRequest(run.id), active=True) is not None:
        return False
    return made(run, EffectsRequest(run.id), "Measuring effects", key="effects") and stored.has_effects(run.path)


def effects_of(run: RunFolder) -> pd.DataFrame:
    """Return the stored `effect_sizes` of a run; labels are text."""
    return _stored(str(path := stored.effects_path(run.path)), stamp(path))


def standing_of(run: RunFolder) -> pd.DataFrame:
    """Return the stored `standings` of a run; labels are text."""
    return _stored(str(path := stored.standing_path(run.path)), stamp(path))


@st.cache_data(max_entries=64, show_spinner=False)
def _stored(path: str, written: int) -> pd.DataFrame:
    table: pd.DataFrame = read_file(de.read_table, Path(path))
    return table.astype({"perturbation": str, "context": str})


@st.cache_data(max_entries=64, show_spinner=False)
def _resemblance(folder: str, written: int) -> Resemblance | None:
    path = Path(folder) / RESEMBLANCE
    return read_file(read_resemblance, path.parent) if path.exists() else None


def look_alike(run: RunFolder) -> None:
    """Warn where the predictions of different perturbations are nearly the same."""
    found = _resemblance(str(run.path), stamp(run.file(RESEMBLANCE)))
    if found is not None and found.alike:
        st.warning(sentences(found.words()), icon=":material/content_copy:")


def effect_table(run: RunFolder, result: Result) -> None:
    """How large each predicted effect is."""
    st.markdown("#### How large is each effect?")
    if not result.has_expression:
        st.info(
            "The model predicts an embedding and has no gene decoder, so effects on genes cannot be measured.",
            icon=":material/info:",
        )
        return
    table = effects_of(run).merge(standing_of(run), on=["perturbation", "context"])
    # beside the context, where it is seen without scrolling
    table.insert(2, "measured", [WORDS[one] if one else "not measured" for one in table["exposure"]])
    shown = [
        "perturbation",
        "context",
        "measured",
        "standing",
        "effect_size",
        "band_share",
        "n_up",
        "n_down",
        "top_genes",
        "n_cells",
    ]
    if table["band_share"].isna().all():
        shown.remove("band_share")
    st.dataframe(
        table[shown],
        hide_index=True,
        key="effect_table",
        placeholder="not tested yet",
        height=min(38 + 35 * len(table), 400),
        column_config={
            "perturbation": st.column_config.TextColumn("Perturbation", pinned=True),
            "context": st.column_config.TextColumn("Context"),
            "n_cells": st.column_config.NumberColumn("Predicted cells", format="%d"),
            "effect_size": st.column_config.ProgressColumn(
                "Effect size (length, log1p)",
                format="%.2f",
                min_value=0.0,
                max_value=float(table["effect_size"].max()) or 1.0,
                help=f"Effect: {meaning('effect')} Here the Euclidean length of the mean effect over all genes. It grows with the number of genes, "
                "so compare it within this run.",
            ),
            "standing": st.column_config.TextColumn("Against the mean", help=_STANDING),
            "band_share": st.column_config.NumberColumn("Should hold", format="percent", help=_SHARE),
            "n_up": st.column_config.NumberColumn(f"Genes up ({BY_CHANGE})", format="%d", help=_RULE),
            "n_down": st.column_config.NumberColumn(f"Genes down ({BY_CHANGE})", format="%d", help=_RULE),
            "measured": st.column_config.TextColumn(
                "Measured", help="Whether your data set has measured cells of it, and whether the model was trained on them."
            ),
            "top_genes": st.column_config.TextColumn(
                "Largest effects", width="medium", help="Largest mean change, with its direction."
            ),
        },
    )
    st.caption(
        f"Mean corrected prediction minus mean paired predicted control over {result.n_genes:,} genes, log1p. Genes up and down: {_RULE} "
        "Effects are predicted, "
        "not measured; the Genes page compares them with measurements where there are any."
    )
    if st.button("See the genes", key="to_genes", icon=":material/genetics:"):
        go("genes")
