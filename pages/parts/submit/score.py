"""Parts of the Submit page that score: a submission against measured cells, and a rehearsal on perturbations set aside."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.figures import csv_button
from pages.parts.format import md, plural, sentences
from pages.parts.jobs import job_panel, start_job
from pages.parts.submit.form import Source, counts_step, pick_challenge, pick_columns, pick_contexts, sources
from pages.parts.submit.receipts import receipts_section
from pages.parts.upload_box import received
from pages.parts.widgets import go
from state_engine.challenge import submit as submission
from state_engine.challenge.score_request import RehearsalRequest, ScoreRequest
from state_engine.challenge.scores import SCORES, TABLE, ContextScores, Scores, beside_rows, number_text, read_scores
from state_engine.challenge.spec import Rules
from state_engine.challenge.submit import SubmissionRequest
from state_engine.data.dataset import Dataset
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry, list_datasets
from state_engine.metrics.profile import Fdr
from state_engine.prediction.request import PredictionRequest

_SCORE, _REHEARSE = "A submission", "A rehearsal"
_FDR: dict[Fdr, str] = {
    "per perturbation": "Within each perturbation (cell-eval 0.8)",
    "pooled": "Over all perturbations (cell-eval 0.6.6)",
}


def score_tab(run: RunFolder | None) -> None:
    """The whole part: what to score, and the scores of the last time."""
    earlier = session.chosen_run("scoring")
    start = _REHEARSE if earlier is not None and earlier.manifest.kind == "rehearse" else _SCORE
    what = st.segmented_control(
        "What to score",
        (_SCORE, _REHEARSE),
        default=start,
        key="score_what",
        label_visibility="collapsed",
        required=True,
        wrap=True,
    )
    if what == _REHEARSE:
        _rehearsal_form()
    else:
        _score_form(run)
    if earlier is not None and (earlier.manifest.kind == "rehearse") == (what == _REHEARSE):
        st.divider()
        _shown(earlier)
    receipts_section()


# ---- a submission ----


def _score_form(run: RunFolder | None) -> None:
    st.caption("Predicted cells are compared with measured cells of the same perturbations, which no model may have seen.")
    rules = pick_challenge("", "score_challenge")
    found = [*_archives(), *sources(run)]
    if not found:
        st.info("There is nothing to score yet: predict something, or open a data set of predictions.", icon=":material/info:")
        return
    source = st.selectbox("Predicted cells", found, format_func=lambda s: s.name, key="score_source")
    perturbation, context = pick_columns(source, rules, "score")
    contexts = pick_contexts(source, rules, (), "score")
    counts, controls = counts_step(source, rules, None, "score") if not source.path.endswith(".vcc") else (None, ())
    truth = _truth()
    training, fdr = _options(rules)
    repairs = ("rename-control",) if rules.controls == "required" else ("drop-controls",)
    asked = SubmissionRequest(
        rules.name, source.path, source.is_run, perturbation, repairs=repairs, context_key=context, contexts=contexts,
        controls=controls, counts=counts,
    )  # fmt: skip
    if (
        st.button("Score", type="primary", key="score", icon=":material/scoreboard:", disabled=truth is None)
        and truth is not None
    ):
        request = ScoreRequest(asked, truth.path, truth.choices, fdr=fdr)
        if training is not None:
            request = ScoreRequest(asked, truth.path, truth.choices, training.path, training.choices, fdr)
        _start(request, f"Scores: {source.name} ({rules.title})")


def _archives() -> list[Source]:
    """The challenge file of this session, when one was written."""
    run = session.chosen_run("submission")
    path = run.file(submission.ARCHIVE) if run else None
    return [Source("The challenge file", str(path), False)] if path is not None and path.exists() else []


def _truth() -> DataEntry | None:
    entries = list_datasets(session.settings())
    if "score_came" in st.session_state:
        st.session_state["score_truth"] = st.session_state.pop("score_came")
    left, right = st.columns([3, 2])
    entry = left.selectbox("Measured cells", entries, format_func=lambda e: e.name, key="score_truth")
    with right:
        came = received("Or drop them here (.h5ad)", "score_upload")
    if came is not None:
        st.session_state["score_came"] = came
        st.rerun()
    return entry


def _options(rules: Rules) -> tuple[DataEntry | None, Fdr]:
    """The training cells whose mean is the baseline, and the scope of the false discovery rate, where the challenge asks."""
    with_mean = rules.profile.baseline == "perturbation mean"
    if not with_mean and not rules.profile.pooled_fdr:
        return None, "per perturbation"
    with st.expander("Baseline and significance"):
        training = _training() if with_mean else None
        fdr: Fdr = "per perturbation"
        if rules.profile.pooled_fdr:
            fdr = st.selectbox("False discovery rate", tuple(_FDR), format_func=lambda f: _FDR[f], key="score_fdr")
    return training, fdr


def _training() -> DataEntry | None:
    options: list[DataEntry | None] = [None, *list_datasets(session.settings())]
    return st.selectbox(
        "The mean baseline is the mean of",
        options,
        format_func=lambda e: e.name if e else "the measured cells themselves (sees the answer: hard to beat)",
        key="score_training",
        help="In a challenge it is the mean of the training cells.",
    )


# ---- a rehearsal ----


def _rehearsal_form() -> None:
    st.caption(
        "Part of the measured perturbations is set aside, predicted from control cells, and scored by the same steps as a submission, "
        "context by context. The baseline is the mean of those that were not set aside."
    )
    entry, model = session.data_entry(), session.model_entry()
    if entry is None or model is None or model.card is None:
        st.info("A rehearsal needs a data set with measured perturbations, and a model.", icon=":material/info:")
        with st.container(horizontal=True):
            if entry is None and st.button("Open a data set", key="rehearse_data"):
                go("data")
            if (model is None or model.card is None) and st.button("Choose a model", key="rehearse_model"):
                go("models")
        return
    rules = pick_challenge("", "rehearse_challenge")
    data = session.understand(entry)
    there = [c for c in data.contexts if len(data.control_rows(c))]
    contexts = st.multiselect("Contexts", there, default=there[:1], key="rehearse_contexts", select_all=False)
    first, second, third = st.columns(3)
    share = first.slider("Perturbations set aside", 10, 90, 25, step=5, format="%d %%", key="rehearse_share")
    cells = int(second.number_input("Cells each", 8, 2000, _usual_cells(data, contexts), key="rehearse_cells"))
    seed = int(third.number_input("Seed", 0, 2**31, 0, key="rehearse_seed", help="Of the draw of perturbations."))
    st.caption(
        ":orange[:material/warning:] A model cannot forget: conditions that it was trained on flatter its scores. The result says what is known."
    )
    if st.button("Rehearse", type="primary", key="rehearse", icon=":material/theater_comedy:", disabled=not contexts):
        prediction = PredictionRequest(entry.path, str(model.path), (), tuple(contexts), cells=cells, choices=entry.choices)
        request = RehearsalRequest(rules.name, prediction, share / 100, seed)
        _start(request, f"Rehearsal: {model.card.name} ({rules.title})")


def _usual_cells(data: Dataset, contexts: list[str]) -> int:
    """About as many as were measured of a perturbation."""
    table = data.table().drop(index=data.labels.control or "", errors="ignore")
    counts = table[[c for c in contexts if c in table]].to_numpy()
    return int(min(max(8, counts[counts > 0].mean() if (counts > 0).any() else 64), 2000))


# ---- the scores ----


def _start(request: ScoreRequest | RehearsalRequest, title: str) -> None:
    run_id = start_job(request, title)
    session.choose("scoring", run_id)
    st.rerun()


def _shown(run: RunFolder) -> None:
    if not job_panel(run.id, title=run.manifest.title or "Scoring", key="score_job"):
        return
    scores = read_scores(run.file(SCORES))
    if scores is None:
        st.info("This scoring left no scores. Score again.", icon=":material/info:")
        return
    if scores.held_out:
        st.warning(sentences(scores.held_out), icon=":material/balance:") if scores.doubtful else st.info(
            sentences(scores.held_out)
        )
    for context in scores.contexts:
        _context(scores, context)
    _overall(scores, _name_of_source(run))
    _definitions(scores)
    for remark in scores.remarks:
        st.caption(f"– {sentences(remark)}")
    st.caption(sentences(provenance(scores)))
    csv_button("By perturbation (CSV)", run.file(TABLE), f"{scores.challenge}-scores.csv", "scores_csv")


def _name_of_source(run: RunFolder) -> str:
    if run.manifest.kind == "rehearse":
        return "the rehearsal"
    asked = run.request_as(ScoreRequest).submission
    return "the run" if asked.is_run else Path(asked.source).name


def _overall(scores: Scores, name: str) -> None:
    profile = scores.profile
    baseline = "mean-response baseline" if profile.baseline == "mean response" else "mean baseline"
    if scores.overall is None:
        st.markdown("#### No overall score: a metric is missing")
        return
    if profile.anchor == "replicate":
        st.markdown(f"#### Overall {scores.overall:.3f} of {md(name)}".replace("-", "−"))
        st.caption(
            f"Mean of the scores. 0: the {baseline}, {profile.points:g}: a replicate of the measurement. Not a percentage."
        )
    else:
        st.markdown(f"#### Overall {scores.overall:.2f} of {profile.points:g} for {md(name)}")
        lowest = f", where a score below {profile.lowest:g} counts as {profile.lowest:g}" if profile.lowest is not None else ""
        st.caption(f"{profile.points:g} x mean of the scores{lowest}. 0: the {baseline}.")


def score_table(scores: Scores, context: ContextScores) -> pd.DataFrame:
    """A row a metric, its numbers as text; what does not exist is a dash."""
    titles = {m.name: f"{m.title} {'↑' if m.more_is_better else '↓'}" for m in scores.profile.metrics}
    rows = []
    for m in context.metrics:
        row = {
            "Metric": titles.get(m.metric, m.metric),
            "Submission": number_text(m.value),
            "Mean baseline": number_text(m.baseline),
        }
        if scores.profile.anchor == "replicate":
            row["Replicate"] = number_text(m.replicate)
        rows.append(row | {"Score": number_text(m.scaled, 3)})
    for title, own, baseline, again in beside_rows(context):
        row = {"Metric": title, "Submission": own, "Mean baseline": baseline}
        if scores.profile.anchor == "replicate":
            row["Replicate"] = again
        rows.append(row | {"Score": ""})
    return pd.DataFrame(rows)


def _context(scores: Scores, context: ContextScores) -> None:
    words = (
        f"{plural(context.n_perturbations, 'perturbation')}, {plural(context.n_predicted, 'predicted cell')}, "
        f"{plural(context.n_measured, 'measured cell')}, {plural(scores.n_genes, 'gene')}"
    )
    overall = f" · overall {number_text(context.overall, 2)}" if len(scores.contexts) > 1 else ""
    st.markdown(f"**{md(context.context or 'All cells')}**{overall} :gray[{words}]")
    table = score_table(scores, context)
    lines = ["|" + "|".join(f" {c} " for c in table.columns) + "|", "|:--|" + "--:|" * (len(table.columns) - 1)]
    rows = [[f" −{v[1:]} " if v.startswith("-") else f" {v} " for v in row] for row in table.itertuples(index=False)]
    st.markdown("\n".join([*lines, *(f"|{'|'.join(row)}|" for row in rows)]))
    for m in context.metrics:
        if m.reason:
            st.caption(f"– {next(x.title for x in scores.profile.metrics if x.name == m.metric)}: {sentences(m.reason)}")


def _definitions(scores: Scores) -> None:
    with st.popover("What these numbers mean", icon=":material/help:"):
        for metric in scores.profile.metrics:
            st.markdown(f"**{metric.title}** `{metric.name}`  \n{metric.meaning}")
        if any(context.called is not None for context in scores.contexts):
            st.markdown(
                "**Genes called, called at effect 0**  \nHow many genes respond significantly, the mean over perturbations, of those that do in the "
                "measurement; and the share of genes that predicted control cells call when they are sent through the same steps: all of them "
                "false. Fidelity and responding genes reward calling more genes, so read them beside these two."
            )
        if scores.profile.anchor == "replicate":
            st.markdown(
                "**Score**  \n(submission - baseline) / (replicate - baseline). The replicate is one half of the measured cells against "
                "the other. More than 1 and less than 0 are possible."
            )
        else:
            st.markdown(
                "**Score**  \n(submission - baseline) / (1 - baseline) where 1 is best; 1 - submission / baseline where 0 is best."
            )


def provenance(scores: Scores) -> str:
    """What made the numbers, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in scores.versions.items())
    return (
        f"Metrics: {scores.engine}. Control cells: {scores.control_source}. Differential expression: {scores.de_engine}. "
        f"Baseline: {scores.baseline}. Versions: {versions}."
    )
