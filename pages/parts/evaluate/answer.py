"""Parts of the Evaluate page that answer: a verdict in words, metrics beside simple baselines, conditions, genes, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.evaluate.conditions import conditions, genes, title
from pages.parts.evaluate.skill import skills
from pages.parts.format import md, minus, plural, sentences
from pages.parts.jobs import job_panel
from pages.parts.result import command_of, stamp
from state_engine import keys
from state_engine.errors import listed
from state_engine.evaluation.judgement import ability_words
from state_engine.evaluation.raw_or_corrected import evaluation_words
from state_engine.evaluation.report import (
    EVALUATION,
    METRICS,
    SUMMARY,
    EvaluatedMethod,
    Evaluation,
    amplitude_words,
    arrow,
    number_words,
    provenance,
    read_evaluation,
    read_metrics,
    telling_lines,
)
from state_engine.evaluation.verdict import Statement, SummaryRow
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.profile import Metric
from state_engine.plain import csv_file_for_people


@st.cache_data(max_entries=32, show_spinner=False)
def _read(folder: str, written: int) -> Evaluation | None:
    return read_file(read_evaluation, Path(folder))


@st.cache_data(max_entries=32, show_spinner=False)
def _table(path: str, written: int) -> pd.DataFrame:
    return read_file(read_metrics, Path(path))


def show_evaluation(run: RunFolder) -> None:
    """An evaluation: its job while it runs, then what it found."""
    if not job_panel(run.id, title=run.manifest.title or "Evaluation", key="evaluate_job"):
        return
    found = _read(str(run.path), stamp(run.file(EVALUATION)))
    if found is None:
        st.info("This evaluation left no numbers. Evaluate again.", icon=":material/info:")
        return
    table = _table(str(run.file(METRICS)), stamp(run.file(METRICS)))
    _head(run, found)
    _verdict(found)
    detail = _metrics(found)
    left, right = st.columns(2, gap="large")
    with left:
        conditions(found, table, detail)
    with right:
        genes(run, found)
    _take_home(run, found)


# ---- words ----


def _head(run: RunFolder, found: Evaluation) -> None:
    st.subheader(md(run.manifest.title), anchor=False)
    contexts = {c.context for c in found.conditions}
    measured = sum(c.n_measured for c in found.conditions)
    predicted = sum(c.n_predicted for c in found.conditions)
    where = f" in {plural(len(contexts), 'context')}" if contexts != {keys.ALL} else ""
    st.markdown(
        f"{plural(len(found.conditions), 'condition')}{where}: {predicted:,} predicted and {measured:,} measured cells, "
        f"{plural(found.n_genes, 'gene')}."
    )
    tested, trained = found.exposed("test"), found.exposed("in training")
    if trained:
        st.markdown(
            f":gray-badge[:material/history: in training] {plural(trained, 'condition')} of these, whose agreement is recall; "
            f":green-badge[:material/verified: test: held out] {tested:,}. The verdict is of conditions that the model was not trained on."
        )
    if found.held_out:
        show = st.warning if found.doubtful else st.info
        show(sentences(found.held_out), icon=":material/visibility:" if found.doubtful else ":material/visibility_off:")


# outcome -> how the verdict is shown
_SHOWN: dict[str, tuple[Callable[..., object], str]] = {
    "better": (st.success, ":material/check_circle:"),
    "worse": (st.warning, ":material/balance:"),
    "mixed": (st.warning, ":material/balance:"),
    "undecided": (st.info, ":material/balance:"),
    "too few": (st.info, ":material/help:"),
    "recall": (st.info, ":material/history:"),
    "cannot tell": (st.info, ":material/visibility_off:"),
}


def _verdict(found: Evaluation) -> None:
    predictions = [m.name for m in found.methods if m.kind == "prediction"]
    made = {j.method: j for j in found.judgements}
    first = made.get(predictions[0])
    if first is None:
        _against_each(found, predictions[0])
        predictions = predictions[1:]
    else:
        show, icon = _SHOWN[first.outcome]
        lines = telling_lines(found, first.method)
        by = f", by {_first_title(found, first.method)}," if lines else ""
        worst = [f"Furthest behind{by} in {listed(first.worst, 3)}."] if first.worst else []
        told = "  \n".join(map(sentences, [*lines, *worst]))
        show(minus(f"**{sentences(first.short or first.text)}**  \n{told}"), icon=icon)
    if predictions:
        heading = (
            "The numbers behind it" if first is not None else f"The same for {' and '.join(map(title, predictions)).lower()}"
        )
        with st.expander(heading):
            for name in predictions:
                texts = [made[name].text] if name in made else []
                texts += [*_doubt(found), *(s.text for s in found.said_of(name))]
                shown = map(sentences, texts) if texts else ["Nothing to compare it with."]
                st.markdown(f"**{md(title(name))}**  \n" + minus("  \n".join(shown)))
            st.markdown(minus(sentences(ability_words(found.discriminations, found.scored))))
    skills(found)


def _doubt(found: Evaluation) -> list[str]:
    """Return which of the metrics of the statements below decide nothing here."""
    grey = [m.title for m in found.scored if m.in_verdict and found.tells(m.name) is False]
    return (
        [f"Means beside each baseline; {listed(grey)} cannot tell on these cells, so a lead by it decides nothing:"]
        if grey
        else []
    )


def _first_title(found: Evaluation, method: str) -> str:
    """Return the metric by which the worst conditions of a verdict are chosen: the first that can tell."""
    titles = {m.name: m.title for m in found.scored}
    return next((titles[s.metric] for s in found.skills if s.method == method and found.tells(s.metric)), "")


def _against_each(found: Evaluation, method: str) -> None:
    """Statements of an evaluation that has no verdict over all metrics."""
    statements = found.said_of(method)
    worse, better = [s for s in statements if s.worse], [s for s in statements if not s.worse]
    if worse:
        st.warning("  \n".join(map(_strong, worse)), icon=":material/balance:")
    if better:
        st.success("  \n".join(map(_strong, better)), icon=":material/check_circle:")


def _strong(statement: Statement) -> str:
    """The first part, up to the colon, in bold."""
    head, colon, rest = statement.text.partition(":")
    return minus(f"**{sentences(head)}{colon}** {sentences(rest)}") if colon else sentences(statement.text)


# ---- metrics ----


def metric_table(found: Evaluation, context: str = "", detail: bool = False) -> tuple[str, list[str]]:
    """The means as a Markdown table, a row a metric, the best of each in bold; and the columns' methods.

    What does not exist is a dash, never a zero. A method with fewer conditions than the others says how many. A metric that cannot tell a
    replicate from an average on these cells is grey.
    """
    methods = [m for m in found.methods if any(r.method == m.name and r.context == context for r in found.summary)]
    heads = [_head_of(m, found, context) for m in methods]
    lines = ["| | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(methods)]
    lines += _rows_of(found, [m for m in found.ranked if detail or not m.detail], methods, context)
    return "\n".join(lines), [m.name for m in methods]


def _head_of(method: EvaluatedMethod, found: Evaluation, context: str) -> str:
    n = max((r.n for r in found.summary if r.method == method.name and r.context == context), default=0)
    whole = len([c for c in found.conditions if context in ("", c.context)])
    return f"{md(title(method.name))} (n {n:,})" if n < whole else md(title(method.name))


def _rows_of(found: Evaluation, metrics: Sequence[Metric], methods: Sequence[EvaluatedMethod], context: str) -> list[str]:
    """A row of the table for each metric that has a number."""
    lines = []
    for metric in metrics:
        rows = {r.method: r for r in found.summary if (r.metric, r.context) == (metric.name, context) and r.value is not None}
        if not rows:
            continue
        values = [r.value for r in rows.values() if r.value is not None]
        best = max(values) if metric.more_is_better else min(values)
        # a metric that cannot tell here ranks nothing, a description neither
        ranked = len(values) if found.tells(metric.name) is not False and not metric.describes else 0
        cells = [_cell(rows[m.name], metric, best, ranked) if m.name in rows else "–" for m in methods]
        name = f"{metric.title} {arrow(metric)}".strip()
        if found.tells(metric.name) is False:
            name, cells = f":gray[{name}]", [f":gray[{cell}]" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: SummaryRow, metric: Metric, best: float, n: int) -> str:
    text = minus(number_words(row, metric))
    return f"**{text}**" if row.value == best and n > 1 else text


_METRICS = {"main": "Main metrics", "all": "All metrics"}


def _metrics(found: Evaluation) -> bool:
    """Show the table of metrics; return whether it has those that are shown on request."""
    st.markdown("#### How far off is it, beside simple baselines?")
    contexts = list(dict.fromkeys(c.context for c in found.conditions))
    context = ""
    if len(contexts) > 1:
        session.recall("evaluation_context", ["", *contexts], "", "over")
        context = st.selectbox(
            "Mean over", ["", *contexts], format_func=lambda c: c or f"all {len(contexts):,} contexts", key="evaluation_context"
        )
    detail = False
    if any(m.detail for m in found.scored):
        session.recall("evaluation_metrics", list(_METRICS), "main", "metrics")
        chosen = st.segmented_control(
            "Metrics", list(_METRICS), key="evaluation_metrics", format_func=_METRICS.__getitem__, required=True, wrap=True
        )
        detail = chosen == "all"
    session.show_in_address("evaluate", {"over": "", "metrics": "main"}, ("over", "metrics"))
    text, _ = metric_table(found, context or "", detail)
    with st.container(key="evaluation_table"):
        st.markdown(text)
    if found.noise_floor is not None:
        st.caption(
            f"A perfect prediction would have an MAE of {found.noise_floor:.4f} here, since the measured means are of finitely many cells."
        )
    if words := evaluation_words(found):
        st.markdown(minus(words))
    for words in amplitude_words(found):
        st.caption(sentences(words))
    spread = (
        " ± is the standard deviation over draws of control cells." if any(r.spread is not None for r in found.summary) else ""
    )
    st.caption(
        f"Means over conditions; the best of each row in bold. ↑: higher is better, ↓: lower is better. A dash: the number does not exist. "
        f"Metrics that can tell a replicate from an average on these cells come first, those that cannot are grey.{spread}"
    )
    missing = list(_missing(found))
    if missing:
        with st.expander("What is missing, and why"):
            st.markdown("  \n".join(missing))
    with st.popover("What these numbers mean", icon=":material/help:"):
        for metric in found.scored:
            st.markdown(f"**{metric.title}** {arrow(metric)} `{metric.name}`  \n{metric.meaning}")
        st.markdown(
            "**Baselines**  \n*No change*: the control. *Mean of other contexts*: the mean effect of this perturbation elsewhere. *Mean of the "
            "context*: the mean effect of the other perturbations here. *Ridge regression*: from features of the perturbations. *Measured "
            "elsewhere*: the mean effect in another data set that was chosen. Each effect is added to measured control cells, so that their mean "
            "moves by it, not below 0."
        )
    return detail


def _missing(found: Evaluation) -> Iterator[str]:
    """Yield why a metric or a method has no numbers, or not all; sentences."""
    for metric in found.scored:
        if not any(r.metric == metric.name for r in found.summary):
            why = "it compares the perturbations of a context, and none has two" if metric.needs_two else "no condition has it"
            yield f"{metric.title}: {why}."
    for method in found.methods:
        if method.reason:
            yield f"{md(title(method.name))}: {sentences(method.reason)}"


# ---- how it was made ----


def _take_home(run: RunFolder, found: Evaluation) -> None:
    st.divider()
    for line in provenance(found):
        st.caption(sentences(line))
    for remark in found.remarks:
        st.caption(f"– {sentences(remark)}")
    with st.container(horizontal=True):
        taken = [(METRICS, "Every condition (CSV)"), (SUMMARY, "Means (CSV)")]
        if not session.by_link():  # it names the places of files
            taken.append((EVALUATION, "What was compared (JSON)"))
        for name, words in taken:
            st.download_button(
                words,
                data=partial(_to_take_home, run.file(name)),
                file_name=name,
                key=f"evaluation_{name.replace('.', '_')}",
                icon=":material/download:",
                on_click="ignore",
            )
    if run.manifest.command:
        with st.expander("How to repeat this"):
            st.code(command_of(run), language="bash", wrap_lines=True)


def _to_take_home(path: Path) -> bytes:
    return csv_file_for_people(path) if path.suffix == ".csv" else path.read_bytes()
