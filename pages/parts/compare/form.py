"""The form of Compare: what each side is, which cells and conditions of it, and how it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import streamlit as st

from pages.parts import fields, session
from pages.parts.jobs import start_job
from pages.parts.labelling import entry_of
from pages.parts.picker import run_words, runs_for
from pages.parts.result import open_run, stamp
from pages.parts.upload_box import one_file
from pages.parts.uploads import keep_by_content
from pages.parts.widgets import errors_shown, start_demo
from state_engine.analysis import stored
from state_engine.comparison.request import CELL_WORDS, ComparedSide, CompareRequest
from state_engine.data.dataset import Choices
from state_engine.evaluation.foreign_effects import is_effects_file, size_of_effects_file
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import get_dataset, list_datasets
from state_engine.library.foreign import call, limits_for, read_file
from state_engine.prediction.result import Result
from state_engine.screening.report import RANKING, read_ranking

CHOICE = "comparison"
MOST_MB = 1024
ALL = ""
_FILE = "file"
_NAMES = "compare_names"  # of uploaded files, as their user calls them, by where they lie
Pair = tuple[str, str]


@dataclass(frozen=True)
class Chosen:
    """A side with what it is called.

    Args:
        side: as the request has it. source: the run, screen or file; "" for a data set itself. data: the data set; "" for a file.
    """

    side: ComparedSide
    source: str = ""
    data: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Everything that can tell it from the other side, the closest first; "" for what does not apply."""
        where = " in ".join(filter(None, (self.side.perturbation, self.side.context)))
        measured = "measured cells" if not self.source else ""
        return where, CELL_WORDS.get(self.side.cells, measured), self.source, self.data


@dataclass(frozen=True)
class Source:
    """What a side can be: a prediction ("run"), a screen, a data set, or an uploaded file; `key` is unique among them."""

    kind: str
    id: str
    words: str

    @property
    def key(self) -> str:
        """Kind and id."""
        return f"{self.kind}:{self.id}"


def compare_form() -> None:
    """Draw both sides and the button that compares them."""
    known = {one.key: one for one in _sources()}
    prefill = st.session_state.pop("compare_wanted", None)
    if prefill is not None:
        _fill(prefill)
    first, second = st.columns(2, gap="large")
    with first:
        one = _side("first", "First side", known, next(iter(known)))
    with second:
        other = _side("second", "Second side", known, next(iter(known)))
    with st.expander("More settings"):
        columns = st.columns(4)
        numbers = {
            name: int(fields.number(column, CompareRequest, name, f"compare_{name}"))
            for name, column in zip(("top", "cells", "draws", "seed"), columns, strict=True)
        }
        drawn = st.checkbox("Draw the cells of both on one map", value=True, key="compare_map")
    if one is None or other is None:
        st.button("Compare", key="compare_disabled", disabled=True, help="Choose what each side is.")
        return
    same = one.side == other.side
    if same:
        st.caption("Both sides are the same: choose other cells, another perturbation, context or run on one of them.")
    with st.container(horizontal=True):
        if st.button("Compare", key="compare", type="primary", icon=":material/compare_arrows:", disabled=same):
            with errors_shown():
                first_name, second_name, title = names(one, other)
                first_side, second_side = replace(one.side, name=first_name), replace(other.side, name=second_name)
                run_id = start_job(CompareRequest(first_side, second_side, **numbers, map=drawn), title)
                session.choose(CHOICE, run_id)
                st.rerun()
        if not runs_for("run", ("done",)) and st.button(
            "Predict with the demo first", key="compare_demo", icon=":material/science:"
        ):
            start_demo()


def names(one: Chosen, other: Chosen) -> tuple[str, str, str]:
    """Return what tells each side from the other, for figures and tables, and a title: what both share, and the two."""
    both = list(zip(one.parts, other.parts, strict=True))
    shared = [a for a, b in reversed(both) if a == b and a]  # the data set first
    found = [", ".join(pair[side] for pair in both if pair[0] != pair[1] and pair[side]) or "all conditions" for side in (0, 1)]
    title = f"{found[0]} and {found[1]}"
    return found[0], found[1], f"{', '.join(shared)}: {title}" if shared else title


def ask_for(pairs: list[Pair], kind: str, run_id: str) -> None:
    """Have the form filled with the first two conditions of a shortlist, when the page opens next."""
    sides = [*pairs[:2], *pairs[:1]][:2]
    st.session_state["compare_wanted"] = [(f"{kind}:{run_id}", pair) for pair in sides]
    session.choose(CHOICE, "")


def _fill(wanted: list[tuple[str, Pair]]) -> None:
    for side, (source, (perturbation, context)) in zip(("first", "second"), wanted, strict=True):
        state = st.session_state
        state[f"compare_{side}_source"] = source
        state[f"compare_{side}_perturbation_{source}"], state[f"compare_{side}_context_{source}"] = perturbation, context


def _sources() -> list[Source]:
    """Return everything that can be a side: finished predictions, screens, data sets, then a file."""
    found = []
    for choice in ("run", "screening"):
        for identity, words in run_words(runs_for(choice, ("done",))).items():
            found.append(Source(choice, identity, f"{words}{' (screen)' if choice == 'screening' else ''}"))
    found += [Source("data", entry.id, f"{entry.name} (data set)") for entry in list_datasets(session.settings())]
    chosen = session.chosen("run")
    found.sort(key=lambda one: one.id != chosen)  # the run that is looked at comes first
    return [*found, Source(_FILE, "", "A file of another program")]


def _side(side: str, title: str, known: Mapping[str, Source], default: str) -> Chosen | None:
    """Draw one side; return it, or None while it is not whole."""
    st.markdown(f"**{title}**")
    key = f"compare_{side}_source"
    if st.session_state.get(key) not in known:
        st.session_state[key] = default
    source = known[st.selectbox("What it is", list(known), key=key, format_func=lambda k: known[k].words)]
    if source.kind == _FILE:
        return _file(side)
    if source.kind == "data":
        return _data(side, source)
    run = RunFolder.open(session.settings(), source.id)
    if source.kind == "screening":
        path = run.file(RANKING)
        perturbation, context = _condition(side, source.key, _ranked(str(path), stamp(path)))
        screened = ComparedSide((str(run.path),), perturbation=perturbation, context=context)
        return Chosen(screened, run.manifest.title, _data_name(run))
    result = open_run(run)
    if not result.has_expression:
        st.caption("This run predicts an embedding, not genes.")
        return None
    which = _cells(side, source.key, result)
    perturbation, context = _condition(side, source.key, _conditions(result, which))
    seeds = _more_seeds(side, run)
    chosen = ComparedSide((str(run.result), *seeds), which, perturbation, context)  # type: ignore[arg-type]
    return Chosen(chosen, run.manifest.title, _data_name(run))


def _data_name(run: RunFolder) -> str:
    """Return the name of the data set that a run was made on."""
    path = str(run.request.get("data", ""))
    entry = entry_of(path)
    return entry.name if entry is not None else Path(path).name


def _cells(side: str, source: str, result: Result) -> str:
    measured = ["observed"] if stored.measured_conditions(result) else []
    options = [*result.layers(), *measured]
    # of two sides the second is the measurement, where there is one: that is what is asked most
    first = options.index("observed") if side == "second" and measured else 0
    return str(
        st.selectbox("Cells", options, index=first, format_func=CELL_WORDS.__getitem__, key=f"compare_{side}_cells_{source}")
    )


def _conditions(result: Result, which: str) -> list[Pair]:
    return sorted(stored.measured_conditions(result)) if which == "observed" else result.conditions()


def _condition(side: str, source: str, pairs: list[Pair]) -> Pair:
    """Return a perturbation and a context, "" for all."""
    left, right = st.columns(2)
    found = []
    for place, (column, label) in enumerate(((left, "perturbation"), (right, "context"))):
        options = [ALL, *sorted({pair[place] for pair in pairs})]
        key = f"compare_{side}_{label}_{source}"
        if st.session_state.get(key) not in options:
            st.session_state[key] = ALL
        every = f"all {len(options) - 1:,}, by name"
        found.append(str(column.selectbox(label.capitalize(), options, key=key, format_func=partial(_or_all, every))))
    return found[0], found[1]


def _or_all(every: str, value: str) -> str:
    return value or every


def _more_seeds(side: str, run: RunFolder) -> list[str]:
    """Return results of runs that asked the same with another seed, where they are chosen too."""
    known, same = runs_for("run", ("done",)), _but_seed(run)
    others = [i for i, info in known.items() if i != run.id and _but_seed(RunFolder(info.path)) == same]
    if not others:
        return []
    words = run_words(known)
    picked = st.multiselect(
        "Further seeds of the same request", others, key=f"compare_{side}_seeds_{run.id}", format_func=lambda i: words[i],
        help="Intervals are then over the seeds, instead of over draws of cells.", select_all=False,
    )  # fmt: skip
    return [str(RunFolder.open(session.settings(), i).result) for i in picked]


def _but_seed(run: RunFolder) -> dict[str, object]:
    return {name: value for name, value in run.request.items() if name != "seed"}


def _data(side: str, source: Source) -> Chosen | None:
    entry = get_dataset(session.settings(), source.id)
    data = session.understand(entry)
    if data.labels.perturbation_key is None or data.labels.control is None:
        st.caption("The column of the perturbation, or the control, is not known: say so on the page Data.")
        return None
    control = data.labels.control
    st.caption(f"Column {data.labels.perturbation_key}, control {control}, as on the page Data.")
    pairs = [
        (str(p), str(c)) for p, c in _labelled(entry.path, stamp(Path(entry.path)), entry.choices, source.id) if p != control
    ]
    perturbation, context = _condition(side, source.key, pairs)
    return Chosen(ComparedSide((entry.path,), "", perturbation, context, choices=entry.choices), "", entry.name)


@st.cache_data(max_entries=16, show_spinner=False)
def _ranked(path: str, written: int) -> list[Pair]:
    """Return the conditions of a screen."""
    table = read_file(read_ranking, Path(path))
    return [(str(p), str(c)) for p, c in table[["perturbation", "context"]].itertuples(index=False)]


@st.cache_data(max_entries=16, show_spinner=False)
def _labelled(path: str, written: int, choices: Choices, identity: str) -> list[Pair]:
    data = session.understand(get_dataset(session.settings(), identity))
    return [(str(p), str(c)) for p in data.perturbations for c in data.contexts if len(data.rows(str(p), str(c)))]


def _file(side: str) -> Chosen | None:
    path = one_file(
        f"compare_{side}_file", "A .csv, .tsv or .parquet of effects, or a .vcc", ("csv", "tsv", "parquet", "vcc"), MOST_MB, _keep, "Another one",
        "Effects: columns perturbation, context (optional), gene, effect, p_de (optional). Cells in an .h5ad: open them on the page Data.",
    )  # fmt: skip
    if path is None:
        return None
    return Chosen(ComparedSide((str(path),)), st.session_state.get(_NAMES, {}).get(str(path), path.name))


def _keep(path: Path, name: str) -> tuple[Path, str]:
    """Keep an uploaded file; a table is read by a child first, an archive by the job."""
    words = name
    if is_effects_file(name):
        conditions, genes = call(size_of_effects_file, path, path=path, name=name, limits=limits_for(path))
        words = f"{name}: {conditions:,} conditions, {genes:,} genes"
    place = keep_by_content(path, "effects")
    st.session_state.setdefault(_NAMES, {})[str(place)] = name
    return place, words
