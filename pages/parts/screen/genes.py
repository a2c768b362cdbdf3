"""Parts of the page Screen that look at genes: all of one ranked condition, and those of the goal in several."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.figures import show_figure
from pages.parts.format import md, plural
from pages.parts.result import stamp
from pages.parts.screen.charts import MOST_ROWS, goal_figure
from state_engine.errors import listed
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.screening.report import EFFECTS, read_changes, read_condition
from state_engine.screening.request import ScreenRequest

MOST_GENES = 60  # of a goal, in its map
BEST = 10  # rows of the ranking that are shown while none is ticked


def genes_of_a_row(run: RunFolder, chosen: pd.DataFrame) -> None:
    """Which genes one of the chosen rows moves, if any is chosen."""
    rows = [f"{r.perturbation} in {r.context}" for r in chosen.itertuples() if r.made == "predicted"]
    pairs = {
        f"{r.perturbation} in {r.context}": (r.perturbation, r.context) for r in chosen.itertuples() if r.made == "predicted"
    }
    if not rows:
        session.show_in_address("screen", {"of": st.session_state.get("screen_gene_row")}, ("of",))
        if len(chosen):
            st.caption("The sums of two effects have no genes of their own here: tick the two by themselves.")
        return
    st.markdown("#### Which genes does it move?")
    session.recall("screen_gene_row", rows, rows[0], "of")
    session.show_in_address("screen", {"of": rows[0]}, ("of",))
    which = rows[0] if len(rows) == 1 else st.selectbox("Of", rows, key="screen_gene_row")
    path = run.file(EFFECTS)
    genes = _condition(str(path), stamp(path), *pairs[which])
    st.dataframe(
        genes, hide_index=True, key="screen_genes", height=300,
        column_config={
            "gene": st.column_config.TextColumn("Gene", pinned=True),
            "effect": st.column_config.NumberColumn("Effect (log1p)", format="%.3f", help="Difference of mean log1p expression."),
            "log2_fold_change": st.column_config.NumberColumn("log2FC", format="%.2f", help="Of the natural means, 0.1 added to both."),
        },
    )  # fmt: skip
    st.caption(f"All {len(genes):,} genes of {md(which, 120)}, predicted; the largest fold change first.")


def genes_of_the_goal(run: RunFolder, table: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Draw the genes of a signature in the ticked rows, or in the best ones while none is ticked; nothing for other goals.

    Args:
        run: of the screen. table: its ranking. chosen: the ticked rows of it.
    """
    request = run.request_as(ScreenRequest)
    asked = [*request.up_genes, *request.down_genes]
    if request.goal != "signature" or not asked:
        return
    predicted = table["made"] == "predicted"
    ticked = chosen[chosen["made"] == "predicted"].head(MOST_ROWS)
    rows = ticked if len(ticked) else table[predicted].head(BEST)
    pairs = tuple((str(p), str(c)) for p, c in rows[["perturbation", "context"]].itertuples(index=False))
    path = run.file(EFFECTS)
    changes = _changes(str(path), stamp(path), pairs, tuple(asked))
    missing = [gene for gene in asked if gene not in changes.columns]
    part = changes.iloc[:, :MOST_GENES]
    which = "the ticked rows" if len(ticked) else f"the best {plural(len(rows), 'row')}; tick rows to see others"
    more = f" The first {MOST_GENES} of {changes.shape[1]:,} genes." if changes.shape[1] > MOST_GENES else ""
    opposite = " What does the opposite is ranked first." if request.opposite else ""
    gone = f" Not predicted by the model: {listed(missing)}." if missing else ""
    show_figure(
        goal_figure(part, request.up_genes), key="screen_goal_genes", title="Your genes",
        caption=f"Predicted log2 fold change (of the natural means, 0.1 added to both) of the genes of the goal in {which}. Vermilion: up, blue: "
        f"down. The arrow of a gene is the way that it is to go.{opposite}{more}{gone}",
        table=lambda: changes.reset_index(), height=int(min(900, 170 + 24 * len(part))),
    )  # fmt: skip


@st.cache_data(max_entries=64, show_spinner=False)
def _condition(path: str, written: int, perturbation: str, context: str) -> pd.DataFrame:
    return read_file(read_condition, Path(path), perturbation, context)


@st.cache_data(max_entries=16, show_spinner=False)
def _changes(path: str, written: int, pairs: tuple[tuple[str, str], ...], genes: tuple[str, ...]) -> pd.DataFrame:
    table = read_file(read_changes, Path(path), pairs, genes)
    return table.set_index(list(table.columns[:2]))
