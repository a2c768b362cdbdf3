"""The part of the Evaluate page that places predictions between the best simple baseline and a replicate of the measurement."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.parts.evaluate.charts import skill_bars
from pages.parts.evaluate.conditions import title
from pages.parts.figures import show_figure
from pages.parts.format import md, minus, plural
from pages.parts.glossary import meaning
from state_engine.effects.exposure import TrainedOn
from state_engine.evaluation.judgement import ABOVE_1, SeenCell, tally, the_baseline
from state_engine.evaluation.report import Evaluation, skill_words


def skill_table(found: Evaluation) -> pd.DataFrame:
    """Return a row for each prediction and metric: skill, its interval, the baseline, and whether the metric can tell here."""
    titles = {m.name: m.title for m in found.scored}
    rows = [
        {
            "metric": titles.get(s.metric, s.metric),
            "method": title(s.method),
            "baseline": s.baseline,
            "skill": s.value,
            "low": s.low,
            "high": s.high,
            "conditions": s.n,
            "tells": bool(found.tells(s.metric)),
        }
        for s in found.ranked_skills
    ]
    return pd.DataFrame(rows)


def skills(found: Evaluation) -> None:
    """Show the skill of each prediction by each metric, and which metrics can tell a replicate from an average on these cells."""
    table = skill_table(found)
    if table.empty:
        return
    st.markdown(
        "#### How far does it get, from a baseline to a replicate?",
        help=f"Skill: {meaning('skill')} Replicate: {meaning('replicate')}",
    )
    st.caption(tally(found.discriminations))
    show_figure(
        skill_bars(table),
        key="evaluation_skill",
        title="Skill of each prediction",
        caption="0: the best simple baseline, 1: a replicate of the measurement, with 95 % intervals over conditions. Grey: this metric cannot "
        f"tell here.{f' {ABOVE_1}' if (table['tells'] & (table['skill'] > 1)).any() else ''}",
        table=lambda: table,
        height=130 + 46 * table["metric"].nunique(),
    )
    seen_table(found)


_COLUMNS = {
    (True, True): "This pair trained",
    (True, False): "Perturbation trained elsewhere",
    (False, False): "Perturbation never trained",
}


def seen_table(found: Evaluation) -> None:
    """Show the skill by what of the conditions was in the training: context by perturbation, and the pair itself."""
    if not found.seen:
        return
    st.markdown("#### Does it carry over to what it was not trained on?")
    telling = [m for m in found.ranked if any(s.metric == m.name for c in found.seen for s in c.skills) and found.tells(m.name)]
    methods = list(dict.fromkeys(s.method for s in found.skills))
    metric, method, titles = "", "", {m.name: m.title for m in telling}
    if telling:
        first, second = st.columns(2)
        metric = first.selectbox(
            "Skill by", [m.name for m in telling], format_func=lambda name: titles[name], key="evaluation_seen_metric"
        )
        method = second.selectbox("Of", methods, format_func=title, key="evaluation_seen_method")
    by = {cell.trained: cell for cell in found.seen}
    lines = ["| | " + " | ".join(_COLUMNS.values()) + " |", "|:--|" + ":--|" * len(_COLUMNS)]
    for context, words in ((True, "Context trained"), (False, "Context never trained")):
        parts = [TrainedOn(context, perturbation, pair) for perturbation, pair in _COLUMNS]
        lines.append(f"| **{words}** | " + " | ".join(_cell(by.get(part), metric, method) for part in parts) + " |")
    st.markdown("\n".join(lines))
    st.caption(
        "Skill with its 95 % interval: 0 is the best baseline on these conditions, 1 a replicate. A pair that was trained on is recall, not a test."
    )


def _cell(cell: SeenCell | None, metric: str, method: str) -> str:
    if cell is None:
        return "–"
    own = next((s for s in cell.skills if (s.metric, s.method) == (metric, method)), None)
    words = f"**{minus(skill_words(own))}**, 0 being {md(the_baseline(own.baseline))}" if own is not None else "no skill measured"
    return f"{words}, {plural(cell.n, 'condition')}"
