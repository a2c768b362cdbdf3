"""Part of the Train page: what is held out, from clicks or from a TOML, and the table of what follows from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.figures import csv_button
from pages.parts.format import md, plural, sentences
from pages.parts.result import stamp
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.choices import candidates, everything, hold_out_contexts, hold_out_perturbations, suggest_plan
from state_engine.data.splits.plan import SplitPlan, plan_files, plan_of_bytes, plan_text
from state_engine.errors import listed
from state_engine.jobs.train_job import check_places, placed
from state_engine.library.datasets import DataEntry
from state_engine.library.foreign import TEXT, call

SUGGESTED, CONTEXTS, PERTURBATIONS, TOML = "Suggested", "Contexts", "Perturbations", "A TOML file"
NAME = "data"
MOST_MB = 8  # of an uploaded split
_HELP = (
    "Cells that are held out are never trained on. Test cells show how good the model is; validation cells show when it stops getting "
    "better, and how far it can be trusted beside a simple mean."
)


def pick_plan(entry: DataEntry, data: Dataset) -> SplitPlan | None:
    """Asks what is held out; None while something is missing.

    Raises:
        SplitError, LabelError: what was chosen cannot be held out, or the control is not known.
    """
    data.require_control()
    way = st.segmented_control(
        "What is held out", (SUGGESTED, CONTEXTS, PERTURBATIONS, TOML), default=SUGGESTED, key=f"split_way_{entry.id}",
        required=True, help=_HELP,
    wrap=True)  # fmt: skip
    if way == CONTEXTS:
        return _contexts(entry, data)
    if way == PERTURBATIONS:
        return _perturbations(entry, data)
    if way == TOML:
        return _uploaded(entry)
    return suggest_plan(data, NAME)


def _contexts(entry: DataEntry, data: Dataset) -> SplitPlan | None:
    suggested = suggest_plan(data, NAME).zeroshot
    left, right = st.columns(2)
    test = left.multiselect(
        "Contexts to test on",
        data.contexts,
        default=[c.context for c in suggested if c.part == "test"],
        key=f"split_test_{entry.id}",
        help="Held out whole; their own control cells are what the predictions start from.",
        select_all=False,
    )
    free = [c for c in data.contexts if c not in test]
    val = right.multiselect(
        "Contexts to validate on",
        free,
        default=[c.context for c in suggested if c.part == "val" and c.context in free],
        key=f"split_val_{entry.id}_{'|'.join(test)}",
        select_all=False,
    )
    if not test and not val:
        st.caption("Choose at least one context.")
        return None
    return hold_out_contexts(hold_out_contexts(everything(data, NAME), tuple(test), "test"), tuple(val), "val")


def _perturbations(entry: DataEntry, data: Dataset) -> SplitPlan | None:
    control = data.require_control()
    usable = [c for c in data.contexts if len(data.control_rows(c)) and any(len(data.rows(p, c)) for p in data.perturbations[1:])]
    contexts = tuple(
        st.multiselect(
            "In which contexts",
            usable,
            default=usable[-1:],
            key=f"split_in_{entry.id}",
            help="Perturbations that another context still teaches can be predicted by any model; held out in all contexts they "
            "need perturbation features.",
            select_all=False,
        )
    )
    if not contexts:
        st.caption("Choose at least one context.")
        return None
    taught, unseen = candidates(data, contexts)
    names = [p for p in (*taught, *unseen) if p != control]
    one, two, three = st.columns(3)
    most = len(names)
    test = one.number_input("Perturbations to test on", 0, most, min(max(1, most // 5), most), key=f"split_n_test_{entry.id}")
    val = two.number_input("To validate on", 0, most, min(max(1, most // 10), most), key=f"split_n_val_{entry.id}")
    seed = three.number_input("Drawn by seed", 0, 2**31 - 1, 42, key=f"split_seed_{entry.id}")
    chosen = st.multiselect(
        "Or these, to test on",
        names,
        key=f"split_named_{entry.id}_{'|'.join(contexts)}",
        placeholder="Type to search",
        select_all=False,
    )
    plan = everything(data, NAME)
    plan = hold_out_perturbations(plan, data, tuple(chosen) if chosen else int(test), contexts, "test", int(seed))
    return hold_out_perturbations(plan, data, int(val), contexts, "val", int(seed))


def _uploaded(entry: DataEntry) -> SplitPlan | None:
    file = st.file_uploader(
        "Arc's split TOML",
        type=["toml"],
        max_upload_size=MOST_MB,
        key=f"split_toml_{entry.id}",
        help='[datasets] with files, [training], [zeroshot] "dataset.context" = "val" or "test", [fewshot."dataset.context"] with lists.',
    )
    if file is None:
        return None
    plan, said = placed(_parsed(file.getvalue(), file.name), session.settings(), (entry.name, entry.path))
    for sentence in said:
        st.caption(f":material/info: {sentences(sentence)}")
    return plan


@st.cache_resource(max_entries=16, show_spinner=False)
def _parsed(raw: bytes, name: str) -> SplitPlan:
    return call(plan_of_bytes, raw, name, name=name, limits=TEXT)


def applied(plan: SplitPlan, entry: DataEntry) -> Split:
    """The plan applied to its files, once for all sessions while neither changes.

    Raises:
        SplitError: it selects nothing or leaks. RequestError: files that may not be read. DataError: files that cannot be read.
    """
    check_places(plan, session.settings())
    files = plan_files(plan, session.settings().home)
    return _applied(plan_text(plan), tuple(stamp(file) for _, file in files), entry.choices, plan)


@st.cache_resource(max_entries=16, show_spinner="Reading labels")
def _applied(text: str, stamps: tuple[int, ...], choices: Choices, _plan: SplitPlan) -> Split:
    files = plan_files(_plan, session.settings().home)
    return apply_plan(_plan, [(name, session.opened(Path(file), choices=choices)) for name, file in files])


def show_split(split: Split) -> None:
    """What follows from a plan: a sentence, cells of each part, warnings, the table and the TOML."""
    st.markdown(split_words(split))
    cells = split.cells()
    columns = st.columns(3)
    for column, part, words in zip(columns, ("train", "val", "test"), ("Trained on", "Validated on", "Tested on"), strict=True):
        column.metric(words, plural(cells[part], "cell"))  # type: ignore[index]
    for warning in split.warnings:
        st.caption(f":material/warning: {sentences(warning)}")
    table = shown_table(split)
    with st.expander(f"Cells of each part, {plural(len(table), 'group')}", icon=":material/table:"):
        st.dataframe(table, hide_index=True, key="split_table", height=min(38 + 35 * len(table), 320))
        csv_button("Table (CSV)", lambda: split.table(), "split.csv", "split_csv")
    with st.expander("The split as TOML", icon=":material/description:"):
        st.code(plan_text(split.plan), language="toml", wrap_lines=True)
        st.download_button(
            "split.toml",
            data=plan_text(split.plan).encode(),
            file_name="split.toml",
            key="split_toml_download",
            icon=":material/download:",
            on_click="ignore",
        )


def split_words(split: Split) -> str:
    """What is tested and validated on, a sentence."""
    plan, several = split.plan, len(split.plan.datasets) > 1
    found = {}
    for part in ("test", "val"):
        contexts = [f"{c.dataset}.{c.context}" if several else c.context for c in plan.zeroshot if c.part == part]
        words = [f"**{sentences(listed(contexts, 4))}** (held out whole)"] if contexts else []
        for few in plan.fewshot:
            labels = few.test if part == "test" else few.val
            place = f"{few.dataset}.{few.context}" if several else few.context
            words += [f"**{sentences(listed(labels, 4))}** in {md(place)}"] if labels else []
        found[part] = "; ".join(words[:4]) + (f" and {len(words) - 4:,} more" if len(words) > 4 else "")
    tested = f"Tested on {found['test']}." if found["test"] else "Nothing is kept for testing."
    return tested + (f" Validated on {found['val']}." if found["val"] else " Nothing is kept for validation.")


def shown_table(split: Split) -> pd.DataFrame:
    """The table of cells with a biologist's column names; columns that say nothing are left out."""
    table = split.table()
    if table["dataset"].nunique() == 1:
        table = table.drop(columns="dataset")
    if not table["unused"].any():
        table = table.drop(columns="unused")
    names = {"dataset": "Data set", "context": "Context", "perturbation": "Perturbation", "train": "Trained", "val": "Validated"}
    return table.rename(columns=names | {"test": "Tested", "unused": "Unused"})
