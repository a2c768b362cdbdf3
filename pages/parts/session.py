"""What a session remembers: the ids of a data set, a model and runs. They are in the address, so a reload or a shared link keeps them.

Pages hold ids, never matrices; what is opened from an id is cached for the whole server, with the file's change time in the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts.login import owner
from pages.parts.navigation import SHARED
from state_engine.config import LOCAL, Settings, load_settings
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.depth import notes_of_file
from state_engine.errors import RequestError, RunError, StateError
from state_engine.jobs import local
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry, get_dataset
from state_engine.library.foreign import call, limits_for, open_foreign
from state_engine.library.models import Entry, find, list_models
from state_engine.library.people import greet
from state_engine.library.shares import opened_by
from state_engine.library.trash import Item, item_of, restore
from state_engine.options import join_commas, split_commas

T = TypeVar("T")
N = TypeVar("N", int, float)
_YES, _NO = "yes", "no"  # of what is ticked, in the address
WATCHED = "watched_run"  # a short prediction that was asked for and is looked at since: its result opens by itself
# "share": token of a link to a run of somebody else's. "gone": what was deleted last, or what the address named in vain
THREAD = (
    "data", "model", "run", "embedding", "training", "finetuning", "annotation", "pretraining", "evaluation", "submission", "scoring",
    "screening", "comparison", "gone", "share",
)  # fmt: skip
BOUND = frozenset(("submit_tab",))  # names that a widget keeps in the address by itself
# what the address of a page holds besides: name there -> key in the session ("{run}", "{data}" …: the id that is chosen)
SHOWN: Mapping[str, Mapping[str, str]] = {
    "genes": {
        "perturbation": "perturbation", "context": "context", "gene": "gene", "cells": "de_cells", "reference": "de_reference",
        "tab": "gene_tabs", "fold": "fold", "set": "gene_set", "find": "gene_search", "show": "gene_show",
    },
    "explore": {
        "colour": "map_colour", "kinds": "map_kinds", "contexts": "map_contexts", "perturbations": "map_perturbations",
        "gene": "map_gene_{run}", "layer": "map_layer", "arrows": "map_arrows",
        "by": "heat_by", "moved": "heat_gene_{run}", "perturbation": "perturbation", "context": "context",
    },
    "compare": {"pair": "pair"},
    "attention": {
        "perturbation": "att_perturbation_{run}", "context": "att_context_{run}", "set": "att_set_{run}", "under": "att_view",
        "layer": "att_layer_{run}", "head": "att_head_{run}", "sort": "att_sort_{run}", "gene": "att_gene_{run}",
    },
    "screen": {
        "find": "screen_find", "within": "screen_in", "seen": "screen_seen_in", "sure": "screen_sure", "sort": "screen_sort",
        "rows": "screen_rows_{screening}", "of": "screen_gene_row",
        "ask": "screen_ask_{screening}", "goal": "screen_goal", "contexts": "screen_contexts_{data}", "opposite": "screen_opposite",
    },
    "embed": {"view": "embed_view", "colour": "embed_colour", "gene": "embed_gene"},
    "evaluate": {
        "over": "evaluation_context", "metrics": "evaluation_metrics", "metric": "evaluation_metric", "baseline": "evaluation_guess",
        "condition": "evaluation_condition", "method": "evaluation_method",
        "what": "evaluate_what", "by": "evaluate_profile", "part": "evaluate_part", "draws": "evaluate_seeds", "kind": "evaluate_kind",
        "predicted": "evaluate_predicted", "real": "evaluate_real",
    },
}  # fmt: skip


@st.cache_resource
def installation() -> Settings:
    """Return the settings of this installation, read once."""
    return load_settings().of(LOCAL)


def settings() -> Settings:
    """Return the settings as the owner of this session has them; every id, list and path is looked up through them.

    Raises:
        RequestError: people log in here and this one did not.
    """
    mine = installation().of(owner(installation()))
    if not chosen("share"):
        return mine
    found = opened_by(installation(), chosen("share"))
    if found is None:
        raise RequestError("This link leads nowhere.", "It was revoked, or it is not whole.", "Ask whoever gave it to you.")
    return found


def by_link() -> bool:
    """Return whether this session came by a link to one run of somebody else's."""
    return bool(chosen("share"))


def shared_pages() -> tuple[str, ...]:
    """Return the pages that show the run of the link that brought this session here, the first one first; () without a link."""
    if not by_link():
        return ()
    try:
        kind = RunFolder.open(settings(), settings().shared).manifest.kind
    except StateError:  # `enter_share` says so
        kind = "predict"
    return SHARED.get(kind, SHARED["predict"])


def enter_share() -> RunFolder:
    """Choose the run of the link that brought this session here, and nothing else; return it.

    Raises:
        RequestError: the link was revoked, or the run deleted.
    """
    identity = settings().shared
    try:
        run = RunFolder.open(settings(), identity)
        choice = KINDS[run.manifest.kind].choice
    except (RunError, KeyError) as error:
        raise RequestError("This link leads nowhere.", "The run was deleted.", "Ask whoever gave it to you.") from error
    for name in THREAD:
        if name not in (choice, "share"):
            choose(name, "")
    choose(choice, identity)
    return run


def start_worker() -> None:
    """Make sure that a worker waits for jobs, once per session."""
    if "worker_started" not in st.session_state:
        local.ensure_worker(installation())
        greet(installation().of(owner(installation())))
        st.session_state["worker_started"] = True


def keep_thread(page: str = "") -> None:
    """Address -> session after a reload and on the way back, session -> address after a change of page.

    Args:
        page: the address of the page that is drawn; another than Predict ends the watch on a short prediction.
    """
    if page != "predict":
        st.session_state.pop(WATCHED, None)
    for name in THREAD:
        given = st.query_params.get(name, "")
        if given or went_back():
            st.session_state[f"thread_{name}"] = given
    write_address(thread_params())


def recall(key: str, options: Sequence[T], default: T, name: str = "") -> None:
    """Before a widget: what the address says when it opens, then the user's choice, and the default when neither fits.

    Done by hand, since a widget bound to the address reads and writes the labels of its options, not the options.

    Args:
        key: of the widget. options: words or numbers. name: in the address; default: the key.
    """
    if went_back() or key not in st.session_state:
        given = st.query_params.get(name or key)
        # on the way back what is not in the address is as usual
        st.session_state[key] = next((option for option in options if str(option) == given), default)
    if st.session_state.get(key) not in options:
        st.session_state[key] = default


def recall_text(key: str, name: str) -> None:
    """The same for words that are typed."""
    if went_back() or key not in st.session_state:
        st.session_state[key] = st.query_params.get(name, "")


def recall_number(key: str, name: str, default: N, least: N, most: N) -> None:
    """The same for a number within bounds; what is no such number is left out."""
    if went_back() or key not in st.session_state:
        try:
            given = type(default)(st.query_params.get(name, default))
        except ValueError:
            given = default
        st.session_state[key] = given if least <= given <= most else default


def recall_tick(key: str, name: str, default: bool = False) -> None:
    """The same for what is ticked, or opened, or is not."""
    if went_back() or key not in st.session_state:
        st.session_state[key] = {_YES: True, _NO: False}.get(st.query_params.get(name, ""), default)


def recall_several(key: str, options: Sequence[str], default: Sequence[str], name: str) -> None:
    """The same for a widget with several of the options; those that are not among them are left out."""
    if key in st.session_state and not went_back():
        return
    given = split_commas(st.query_params[name]) if name in st.query_params else default
    st.session_state[key] = [item for item in given if item in options]


def show_in_address(page: str, usual: Mapping[str, object], names: Sequence[str] = ()) -> None:
    """Have the address hold what a page shows: one entry of the browser's history, and nothing for what is as usual.

    Args:
        page: one of `SHOWN`.
        usual: name in the address -> the value that is not written down.
        names: of a part of the page that runs by itself; none: all of the page.
    """
    there = {name: value for name, value in _shown(page).items() if name in (names or SHOWN[page])}
    st.session_state.setdefault(_usual(page), {}).update({name: usual.get(name) for name in there})
    write_address({name: "" if value == usual.get(name) else _in_address(value) for name, value in there.items()})


def forget_shown(page: str, address: Mapping[str, str]) -> None:
    """Choose the thread of an address, and let go of what this session shows on its page, so that the page opens as the address says."""
    for name in THREAD:
        st.session_state[f"thread_{name}"] = address.get(name, "")
    for key in SHOWN.get(page, {}).values():
        st.session_state.pop(key.format(**{each: address.get(each, "") for each in THREAD}), None)


def _shown(page: str) -> dict[str, object]:
    """Return what this session shows on a page besides the thread: name in the address -> value."""
    ids = {each: chosen(each) for each in THREAD}
    return {name: st.session_state.get(key.format(**ids)) for name, key in SHOWN.get(page, {}).items()}


def _usual(page: str) -> str:
    """Return the key of what a page did not write into its address when it was drawn last, since it is as usual."""
    return f"usual_{page}"


def _in_address(value: object) -> str:
    """Return a value as the address has it: items of a list with commas between; "" for none."""
    if isinstance(value, bool):
        return _YES if value else _NO
    if isinstance(value, list | tuple):
        return join_commas(value) if value else ""
    return str(value or "")


def went_back() -> bool:
    """Return whether the browser's Back or Forward led here: then the address says what is shown, and is not written again."""
    context = get_script_run_ctx(suppress_warning=True)
    return context is not None and context.is_history_navigation


def write_address(wanted: Mapping[str, str]) -> None:
    """Have the address hold these values too, "" for none; one entry of the browser's history, and none where it holds them already."""
    there = st.query_params.to_dict()
    after = {name: value for name, value in {**there, **wanted}.items() if value}
    if after == there or went_back():
        return
    lost = there.keys() - after.keys()
    if lost and BOUND.isdisjoint(there):  # all at once: each name that is deleted would be an entry of its own
        st.query_params.from_dict(after)
        return
    # only what changes: a name that belongs to a widget may be set by it alone
    changed = {name: value for name, value in after.items() if there.get(name) != value}
    if changed:
        st.query_params.update(changed)
    for name in lost:
        del st.query_params[name]


def chosen(name: str) -> str:
    """Return the id of the chosen data set, model or run, from the session or the address; empty when none is chosen."""
    return str(st.session_state.get(f"thread_{name}") or st.query_params.get(name, ""))


def choose(name: str, identity: str) -> None:
    """Choose a data set, model or run; an empty id takes the choice back."""
    wanted = {name: identity}
    if identity and name not in ("gone", "share"):
        wanted["gone"] = ""
    for each, value in wanted.items():
        st.session_state[f"thread_{each}"] = value
    write_address(wanted)


def have_back(item: Item, identity: str) -> None:
    """Bring back what was deleted, and choose it."""
    restore(settings(), item)
    choice = "data"
    if identity in item.runs:
        kind = KINDS.get(RunFolder.open(settings(), identity).manifest.kind)
        choice = kind.choice if kind is not None else ""
    choose("gone", "")
    if choice:
        choose(choice, identity)


def data_entry() -> DataEntry | None:
    """Return the chosen data set's entry, or None when none is chosen or it is gone."""
    if not chosen("data"):
        return None
    try:
        return get_dataset(settings(), chosen("data"))
    except StateError:
        if item_of(settings(), chosen("data")) is not None:
            choose("gone", chosen("data"))
        choose("data", "")
        return None


def name_of(choice: str) -> str:
    """Return a name for what is chosen, even where it cannot be opened: that of the data set, else the id."""
    entry = data_entry() if choice == "data" else None
    return entry.name if entry is not None else chosen(choice)


def dataset() -> Dataset | None:
    """Return the chosen data set, understood with its user's choices.

    Raises:
        DataError: the file cannot be read; pages show its text.
    """
    entry = data_entry()
    return understand(entry) if entry else None


def understand(entry: DataEntry) -> Dataset:
    """Return what is in the file of an entry, cached until the file or the choices change."""
    return opened(Path(entry.path), entry.name, entry.choices)


def understand_without(entry: DataEntry) -> tuple[Dataset, tuple[str, ...]]:
    """Return what is in a file whose choices cannot be followed, and the fields of the choices that stand in the way.

    Raises:
        DataError: the file itself cannot be read.
    """
    usual, path = Choices(), Path(entry.path)
    given = [f.name for f in fields(Choices) if getattr(entry.choices, f.name) != getattr(usual, f.name)]
    for name in given:  # one of them alone, else all
        try:
            return opened(path, entry.name, replace(entry.choices, **{name: getattr(usual, name)})), (name,)
        except StateError:
            continue
    return opened(path, entry.name), tuple(given)


def opened(path: Path, name: str = "", choices: Choices | None = None) -> Dataset:
    """Return what is in a file, which a child process reads; cached until the file or the choices change.

    Args:
        path: the file.
        name: how its user calls it, for messages.
        choices: the user's word.
    """
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return _opened(str(path), stamp, choices or Choices(), name)


def depth_notes(entry: DataEntry) -> list[str]:
    """Return what to know of the sequencing depths of a data set, which a child process reads; cached as `opened`."""
    path = Path(entry.path)
    return _depth_notes(entry.path, path.stat().st_mtime_ns if path.exists() else 0, entry.choices, entry.name)


@st.cache_resource(max_entries=64, show_spinner="Comparing depths")
def _depth_notes(path: str, stamp: int, choices: Choices, _name: str) -> list[str]:
    file = Path(path)
    return call(notes_of_file, file, choices, path=file, name=_name, limits=limits_for(file))


@st.cache_resource(max_entries=16, show_spinner="Reading the data set")
def _opened(path: str, stamp: int, choices: Choices, _name: str) -> Dataset:
    return open_foreign(Path(path), choices, settings(), _name)


def model_entry() -> Entry | None:
    """Return the chosen model's entry in the library, or None."""
    if not chosen("model"):
        return None
    try:
        return find(settings(), chosen("model"))
    except StateError:
        choose("model", "")
        return None


def demo_model_id() -> str:
    """Return the id of the bundled demo model; empty when the installation came without it."""
    return next((e.card.id for e in list_models(settings()) if e.demo and e.card), "")


def thread_params(page: str = "") -> dict[str, str]:
    """Return the thread as address parameters, for links to other pages, with what one of them shows besides."""
    usual = st.session_state.get(_usual(page), {})
    shown = {n: _in_address(value) for n, value in _shown(page).items() if n not in usual or value != usual[n]}
    return {name: value for name, value in {**{each: chosen(each) for each in THREAD}, **shown}.items() if value}


def run_folder() -> RunFolder | None:
    """Return the chosen prediction, or None when none is chosen or it is gone."""
    return chosen_run("run")


def chosen_run(choice: str) -> RunFolder | None:
    """Return the run that a choice names ("run", "embedding", "training" …), or None when none is chosen, or it is gone or of another kind."""
    if not chosen(choice):
        return None
    try:
        run = RunFolder.open(settings(), chosen(choice))
    except StateError:
        run = None
        choose("gone", chosen(choice))  # shown in the sidebar
    kind = KINDS.get(run.manifest.kind) if run is not None else None
    if kind is None or kind.choice != choice:
        choose(choice, "")
        return None
    return run
