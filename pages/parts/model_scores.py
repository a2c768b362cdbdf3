"""Show the scores of a trained model on held-out cells beside baselines, and its calibration."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.parts.format import minus, plural, sentences
from state_engine.checkpoints.card import Calibration, ModelCard, TrainingSummary
from state_engine.errors import listed
from state_engine.evaluation.card_verdict import CLOSER, WHICH_TELL, against_baselines
from state_engine.evaluation.raw_or_corrected import card_words

_METHODS = {"corrected": "Model, corrected", "raw": "Model, raw", "mean": "Mean of other contexts", "none": "No change"}
_R = {"corrected": "r_paired", "raw": "r_raw", "mean": "r_mean"}
_CALIBRATED = {
    "calibrated": "Calibrated", "corrected": "Model, corrected", "transfer": "Other contexts, weighted and shrunk",
    "likeness": "Likeness-weighted mean", "mean": "Mean of other contexts", "common": "Mean of the context",
    "features": "Regression on perturbation features", "none": "No change",
}  # fmt: skip
_ORIGINS = {
    "validation cells": "held out for validation and never test cells",
    "left-out blocks": "blocks of the training, predicted by a further model that was trained without them",
    "left-out perturbations": "perturbations of the training, predicted by a further model that was trained without them anywhere",
    "left-out contexts": "contexts of the training, each predicted by a further model that was trained without it",
}


def worth(card: ModelCard) -> None:
    """Show verdict, held-out conditions and calibration of a model that was trained here."""
    verdict(card)
    _conditions(card)
    _calibration(card)


def verdict(card: ModelCard) -> None:
    """Show the scores on held-out cells beside the baselines, and say where the model is worse."""
    scores = card.training.scores
    if "mae_corrected" not in scores:
        st.info("No cells were kept for testing, so nothing shows how good this model is.", icon=":material/info:")
        return
    st.markdown("#### How good is it on cells it has never seen?")
    st.markdown(verdict_words(card.training))
    table = pd.DataFrame(
        [
            (words, scores[f"mae_{name}"], scores.get(_R.get(name, ""), None))
            for name, words in _METHODS.items()
            if f"mae_{name}" in scores
        ],
        columns=["Prediction", "MAE", "r of effects"],
    )
    numbers = {
        "MAE": st.column_config.NumberColumn(format="%.4f", help="Mean absolute error of the mean cell, log1p; lower is better."),
        "r of effects": st.column_config.NumberColumn(
            format="%.3f",
            help="Pearson correlation of predicted and measured effect (perturbed minus control); higher is better.",
        ),
    }
    st.dataframe(table, hide_index=True, key="training_scores", placeholder="n/a", column_config=numbers)
    st.caption(
        f"Means over {plural(len(card.training.conditions), 'held-out condition')}. Corrected: each control cell plus its own predicted effect, "
        "the default of Predict. Raw: cells as they come out of the network."
    )
    if "mae_raw" in scores:
        st.caption(minus(card_words(card.training)))


def verdict_words(training: TrainingSummary) -> str:
    """Return a few sentences with numbers: is the model better than each baseline by error and by correlation, and in how many conditions?

    With fewer than `FEWEST` conditions, or where the two disagree, neither is better.
    """
    against, lines = against_baselines(training), []
    for one in against:
        colour = {"better": "green", "worse": "red"}.get(one.outcome)
        marked = f":{colour}[**{one.lead}**]" if colour else f"**{one.lead}**"
        lines.append(f"{marked}{one.after}: {one.numbers}")
    return "  \n".join([*lines, *([CLOSER] if any(one.closer for one in against) else []), *([WHICH_TELL] if against else [])])


def _conditions(card: ModelCard) -> None:
    by_block = {condition.name: condition.scores for condition in card.training.conditions}
    if len(by_block) < 2:
        return
    with st.expander(f"Each of the {len(by_block):,} held-out conditions"):
        table = pd.DataFrame.from_dict(by_block, orient="index")
        table = table[
            [c for c in ("mae_corrected", "mae_mean", "mae_likeness", "mae_none", "mae_raw", "r_paired", "r_mean") if c in table]
        ]
        table.insert(0, "Condition", table.index)
        heads = {
            "mae_corrected": "MAE corrected",
            "mae_mean": "MAE mean",
            "mae_likeness": "MAE likeness-weighted",
            "mae_none": "MAE no change",
            "mae_raw": "MAE raw",
        }
        table = table.rename(columns=heads | {"r_paired": "r model", "r_mean": "r mean"})
        formats = {c: st.column_config.NumberColumn(format="%.3f" if c.startswith("r ") else "%.4f") for c in table.columns[1:]}
        st.dataframe(table, hide_index=True, key="training_conditions", placeholder="n/a", column_config=formats)


def _calibration(card: ModelCard) -> None:
    found = card.calibration
    if found is None:
        return
    st.markdown("#### How far to believe it")
    st.markdown(calibration_words(found))
    table = pd.DataFrame(
        [
            (words, found.scores[f"mae_{name}"], found.scores.get(f"mse_{name}"))
            for name, words in _CALIBRATED.items()
            if f"mae_{name}" in found.scores
        ],
        columns=["On these conditions", "MAE", "MSE"],
    )
    numbers = {name: st.column_config.NumberColumn(format="%.4f") for name in ("MAE", "MSE")}
    st.dataframe(table, hide_index=True, key="calibration_scores", column_config=numbers)
    st.caption(fit_words(found))
    for kind in card.calibrations:
        for context in kind.own:
            st.caption(own_words(kind, context))


def calibration_words(found: Calibration) -> str:
    """Return the weights in words, and whether the mixture is closer to the measurement than its parts."""
    text = (
        f"The calibrated prediction takes **{found.paired:.2f}** of the model's own effect and **{found.mean:.2f}** of the perturbation's mean "
        "effect in the other contexts it was trained on"
        + (f", and **{found.common:.2f}** of the mean effect of the context's other perturbations" if found.common else "")
        + (f", and **{found.features:.2f}** of what a regression on perturbation features tells. " if found.features else ". ")
    )
    if found.correction:
        text += (
            "The noise of the mean control cell is taken out: each gene moves, by a standard error at most, towards the control cells of "
            "contexts like it. "
        )
    if found.chosen:
        return f"{text}{found.why} It is the default output of Predict."
    ours = found.scores.get("mae_calibrated")
    names = {"corrected": "the model alone", "mean": "the mean alone", "none": "no change"}
    others = {words: found.scores[f"mae_{name}"] for name, words in names.items() if f"mae_{name}" in found.scores}
    if ours is None or not others:
        return text + "It was fitted on one condition, so whether that helps elsewhere was not measured."
    closest = min(others, key=lambda words: others[words])
    best = others[closest]
    if ours <= best:
        return (
            text + "On conditions left out of the fit that is :green[**closer than either alone, and than no change**]: "
            f"MAE {ours:.4f} against {best:.4f}."
        )
    return text + f"On conditions left out of the fit :red[**{closest} is closer**]: MAE {best:.4f} against {ours:.4f}."


def own_words(found: Calibration, context: str) -> str:
    """Return the weights that a context has of its own, what they are for, and why."""
    own = found.of_context(context)
    what = (
        "perturbations that no other context trained"
        if own.kind == "perturbations"
        else "perturbations that other contexts trained"
    )
    weights = f"{own.paired:.2f} of the model's own effect, {own.mean:.2f} of the mean effect of the other contexts"
    weights += f", {own.common:.2f} of that of the context's other perturbations"
    more = f", {own.features:.2f} of what perturbation features tell" if own.features else ""
    return f"{own.why} For {what}: {weights}{more}."


def fit_words(found: Calibration) -> str:
    """Return what a calibration was fitted on, in a few sentences."""
    text = (
        f"Fitted by least squares on {plural(found.conditions, 'condition')} ({plural(found.cells, 'measured cell')}), {_ORIGINS[found.origin]}: "
        f"{sentences(listed(found.perturbations, 4))} in {sentences(listed(found.contexts, 4))}. "
        f"Each weight lies between {found.lowest:g} and {found.highest:g} "
        f"and is pulled a little towards {found.prior[0]:g} and {found.prior[1]:g}."
    )
    if found.crossed and found.paired_range and found.mean_range:
        text += (
            f" Leaving {found.crossed} out in turn ({found.folds} times), the weights were {found.paired_range[0]:.2f} to "
            f"{found.paired_range[1]:.2f} and {found.mean_range[0]:.2f} to {found.mean_range[1]:.2f}."
        )
    return text + " MAE and MSE are of the mean cell (log1p)."
