"""The first answer of Explore: every condition in one picture, and beside it the chosen one, its cells and its genes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts import palette, session
from pages.parts.cellmap import Categories, CellMap, show_map
from pages.parts.explore.effects import effects_of, standing_of
from pages.parts.explore.heat_chart import MOST_COLUMNS, MOST_ROWS, Condition, Sheet, condition_map, sheet_of
from pages.parts.exposure import WORDS
from pages.parts.figures import show_figure
from pages.parts.format import drawn, md, minus, plural
from pages.parts.genes import charts as genechart
from pages.parts.genes.answer import show_answer
from pages.parts.genes.compare import comparison_of
from pages.parts.genes.table import Question, first_condition, table_of
from pages.parts.result import open_projection, open_run, stamp
from pages.parts.widgets import go
from state_engine import keys
from state_engine.analysis import stored
from state_engine.analysis.standing import MARKS, MEANINGS, mark_of
from state_engine.effects.bands import NOT_CALIBRATED
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.prediction.result import Result

COLOURS = {"size": "Effect size", "gene": "One gene", "band": "Would it hold?"}
OF_ADDRESS = ("by", "moved", "perturbation", "context")
_TITLES = {
    "size": "Which perturbation does most, and where?",
    "gene": "Which perturbation moves {gene}, and where?",
    "band": "Where would the largest effects hold in a replicate?",
}
GENES = 10  # of the chosen condition
FEW = 10  # perturbations whose picture leaves room for these genes below it
HEIGHT = 380  # of its map, in pixels
_HELP = (
    "Effect size: length of the mean effect over all genes (log1p). One gene: its log2 fold change, to see which perturbation moves it. Would it "
    "hold: the band of doubt of the condition's largest effects."
)


@st.fragment
def conditions(run: RunFolder, result: Result) -> None:
    """Draw the map of conditions and the chosen one. A fragment: another choice does not run the page again."""
    chosen = _chosen(run, result)
    with st.container(key="halves"):
        left, right = st.columns([6, 5], gap="large")
    question = Question(*chosen, keys.PREDICTED_CONTROL, result.layers(*chosen)[0])
    with left:
        _picture(run, result, chosen)
    with right:
        table = _one(run, result, question)
    # few perturbations leave room below their picture
    few = len({p for p, _ in result.conditions()}) <= FEW
    with left if few else right:
        _genes(table, question)


def _chosen(run: RunFolder, result: Result) -> Condition:
    """Return the condition that is looked at; Genes opens with the same one."""
    there = result.conditions()
    first = first_condition(run, result)
    session.recall("perturbation", [p for p, _ in there], first[0])
    perturbation = str(st.session_state["perturbation"])
    contexts = [c for p, c in there if p == perturbation]
    session.recall("context", contexts, first[1] if first[1] in contexts else contexts[0])
    return perturbation, str(st.session_state["context"])


def _picture(run: RunFolder, result: Result, chosen: Condition) -> None:
    session.recall("heat_by", list(COLOURS), "size", "by")
    by = st.segmented_control(
        "Colour conditions by",
        list(COLOURS),
        key="heat_by",
        format_func=COLOURS.__getitem__,
        required=True,
        help=_HELP,
        wrap=True,
    )
    by, gene = by or "size", ""
    key = f"heat_gene_{run.id}"
    if by == "gene":
        session.recall(key, result.genes, leading_gene(run, result), "moved")
        gene = str(st.selectbox("Gene", result.genes, key=key, help="Which perturbation moves it? Type to search."))
    first = first_condition(run, result)
    usual: dict[str, object] = {"by": "size", "perturbation": first[0], "context": first[1]}
    # what was chosen for a gene is not shown
    usual["moved"] = st.session_state.get(key) if by != "gene" else None
    session.show_in_address("explore", usual, OF_ADDRESS)
    table = _table(str(run.path), stamp(run.result), stamp(stored.standing_path(run.path)), gene)
    row = max(24, min(40, 240 // (table["perturbation"].nunique() + 1)))  # pixels
    sheet, title = sheet_of(table), f"log2 fold change of {drawn(gene)}" if gene else "Effect size (log1p)"
    show_figure(
        condition_map(sheet, by, title, chosen),
        key="conditions",
        title=_TITLES[by].format(gene=gene),
        caption=_caption(table, sheet, by),
        table=lambda: table.drop(columns=["words"]),
        height=int(min(900, 190 + row * (len(sheet.values) + 1))),
        on_select=_pick,
        modes=("points",),
        chart=f"{by}_{gene}_{'_'.join(chosen)}",
    )


def _pick() -> None:
    """Choose the condition of the cell that was clicked."""
    for key, event in st.session_state.items():
        if not (str(key).startswith("conditions_") and str(key).endswith("_plot")):
            continue
        points = event["selection"]["points"]
        if points and points[0].get("customdata"):
            st.session_state["perturbation"], st.session_state["context"] = map(str, points[0]["customdata"][:2])


def leading_gene(run: RunFolder, result: Result) -> str:
    """Return the gene that the largest effect of a run changes most; the first gene where that is not kept, as in older runs."""
    table = effects_of(run) if stored.has_effects(run.path) else pd.DataFrame()
    leading = str(table["leading_gene"].iloc[0]) if "leading_gene" in table and len(table) else ""
    return leading if leading in result.genes else result.genes[0]


@st.cache_data(max_entries=64, show_spinner=False)
def _table(folder: str, written: int, weighed: int, gene: str) -> pd.DataFrame:
    """Return each condition with its value, band, mark and words."""
    run = RunFolder(Path(folder))
    table = effects_of(run).merge(standing_of(run), on=["perturbation", "context"])
    table = table.rename(columns={"effect_size": "value"})
    if gene:
        path = stored.changes_path(run.path)
        change = read_file(stored.change_of_gene, path, gene).astype({"perturbation": str, "context": str})
        table = table.drop(columns="value").merge(change, on=["perturbation", "context"])
        table = table.rename(columns={"log2_fold_change": "value"})
    pairs = list(zip(table["exposure"].astype(str), table["standing"].astype(str), strict=True))
    table["mark"] = [mark_of(*pair) for pair in pairs]
    table["words"] = [_words(row, gene) for row in table.to_dict("records")]
    return table[["perturbation", "context", "value", "band", "band_share", "exposure", "standing", "mark", "words"]]


def _words(row: dict[str, object], gene: str) -> str:
    """Return what the pointer says of a condition."""
    value = f"{drawn(gene)} log2 fold change {row['value']:+.2f}" if gene else f"effect size {row['value']:.2f}"
    lines = [f"<b>{drawn(row['perturbation'])} in {drawn(row['context'])}</b>", minus(value)]
    if row["band"] != NOT_CALIBRATED:
        lines.append(f"{row['band_share']:.0%} of its largest effects should hold ({row['band']})")
    if row["exposure"]:
        lines += [WORDS[row["exposure"]], MEANINGS[row["standing"]]]  # type: ignore[index]
    else:
        lines.append(MEANINGS["not measured"])
    return "<br>".join(lines)


def _caption(table: pd.DataFrame, sheet: Sheet, by: str) -> str:
    text = (
        f"{plural(len(table), 'predicted condition')}, perturbations ordered by likeness. Click one to see its cells and genes."
    )
    names = {"ring": "Ring", "hatch": "Hatched", "dot": "Dot"}
    told = "".join(f" {names[mark]}: {words}." for mark, words in MARKS.items() if (sheet.marks == mark).any(axis=None))
    text += f"{told} No mark: it cannot be told, or nobody measured it." if told and (sheet.marks == "").any(axis=None) else told
    left_out = table["perturbation"].nunique() - len(sheet.values), table["context"].nunique() - len(sheet.values.columns)
    if any(left_out):
        text += f" The {MOST_ROWS} perturbations and {MOST_COLUMNS} contexts with the largest values are drawn; the table below has all."
    return text + (" Last row and column: means." if by != "band" else "")


# ---- the chosen condition ----


def _one(run: RunFolder, result: Result, question: Question) -> pd.DataFrame | None:
    """Show what is known of a condition and its cells; return the table of its genes where it is there."""
    table = table_of(run, question)
    if table is not None:
        exposure = result.exposure(question.perturbation, question.context)
        show_answer(question, table, comparison_of(run, result, question), exposure)
    if run.file("projection.npz").exists():
        _cells(run, question.perturbation, question.context)
    return table


def _genes(table: pd.DataFrame | None, question: Question) -> None:
    """Show the genes of a condition that stand out, and the way to all of them."""
    if table is not None:
        st.markdown(f"**Genes that stand out: {md(question.perturbation)} in {md(question.context)}**")
        st.markdown(top_genes(table))
    if st.button("See all its genes", key="to_condition", icon=":material/genetics:"):
        go("genes")


def top_genes(table: pd.DataFrame, n: int = GENES) -> str:
    """Return the genes that stand out most as a Markdown table."""
    shown = table.iloc[np.argsort(-genechart.prominence(table), kind="stable")[:n]]
    bands = genechart.has_bands(table)
    lines = ["| Gene | log2 fold change |" + (" Would hold? |" if bands else ""), "|:--|--:|" + (":--|" if bands else "")]
    for row in shown.to_dict("records"):
        change = minus(f"{row['log2_fold_change']:+.2f}")
        lines.append(f"| {md(row['gene'])} | {change} |" + (f" {row['band']} |" if bands else ""))
    return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Part:
    """Cells of a condition on the map of the run: (n, 2) places, and (n,) the place of each one's kind in `keys.KINDS`."""

    xy: NDArray[np.float32]
    codes: NDArray[np.int16]


@st.cache_resource(max_entries=32, show_spinner=False)
def _part(folder: str, written: int, perturbation: str, context: str) -> _Part:
    """Return the cells that belong to a condition: its context's controls, its predictions and its measured cells."""
    run = RunFolder(Path(folder))
    projection, obs = open_projection(run), open_run(run).obs
    labels = obs.iloc[projection.rows]
    here = (labels[keys.CONTEXT].astype(str) == context).to_numpy()
    control = (labels[keys.KIND] == keys.OBSERVED_CONTROL).to_numpy()
    here &= control | (labels[keys.PERTURBATION].astype(str) == perturbation).to_numpy()
    codes = pd.Categorical(labels[keys.KIND][here].astype(str), categories=list(keys.KINDS)).codes
    return _Part(np.ascontiguousarray(projection.xy[here]), codes.astype(np.int16))


def _cells(run: RunFolder, perturbation: str, context: str) -> None:
    """The map of one condition alone, cut to its cells: control grey, predicted vermilion, measured blue where there are any."""
    part = _part(str(run.path), stamp(run.file("projection.npz")), perturbation, context)
    names = [keys.KIND_WORDS[kind] for kind in keys.KINDS]
    measured = int((part.codes == keys.KINDS.index(keys.OBSERVED)).sum())

    def table() -> pd.DataFrame:
        return pd.DataFrame({"umap_1": part.xy[:, 0], "umap_2": part.xy[:, 1], "kind": np.array(names)[part.codes]})

    there = "control, predicted and measured" if measured else "control and predicted"
    why = "" if measured else " Your data set has no measured cells of it."
    show_map(
        "condition",
        CellMap(part.xy, Categories("Kind", names, part.codes, palette.KIND_BY_WORDS)),
        title=f"{perturbation} in {context}: {there} cells",
        caption=f"{plural(len(part.xy), 'cell')} of this condition and its controls, cut out of the map of all cells below.{why} "
        "Click a kind in the legend to hide it.",
        table=table,
        height=HEIGHT,
    )
