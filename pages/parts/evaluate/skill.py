"""The part of the Evaluate page that places predictions between the best simple baseline and a replicate of the measurement."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.parts.evaluate.charts import skill_bars
from pages.parts.evaluate.conditions import title
from pages.parts.figures import show_figure
from state_engine.evaluation.judgement import ability_words
from state_engine.evaluation.report import Evaluation


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
        for s in found.skills
    ]
    return pd.DataFrame(rows)


def skills(found: Evaluation) -> None:
    """Show the skill of each prediction by each metric, and which metrics can tell a replicate from an average on these cells."""
    table = skill_table(found)
    if table.empty:
        return
    st.markdown("#### Can this data set tell, and how far does the prediction get?")
    st.caption(ability_words(found.discriminations, found.scored).replace("-", "−"))
    show_figure(
        skill_bars(table),
        key="evaluation_skill",
        title="Skill of each prediction",
        caption="The bar runs from the best simple baseline (0) to a replicate of the measurement (1); lines are 95 % intervals over conditions. "
        "Grey: on these cells the metric cannot tell a replicate from an average, so it ranks nothing.",
        table=lambda: table,
        height=130 + 46 * table["metric"].nunique(),
    )
