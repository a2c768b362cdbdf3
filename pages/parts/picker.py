"""Which run is shown: the runs of a kind with words that tell them apart, and the picker of another one."""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from pages.parts import session
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.run_folder import RunFolder, RunInfo, list_runs


def runs_for(choice: str, states: Collection[str] = ()) -> dict[str, RunInfo]:
    """Return the runs that a choice of the address can name, by id, newest first.

    Args:
        choice: "run", "embedding", "training", "evaluation" …
        states: only runs in these states; empty for any.
    """
    kinds = {kind.name for kind in KINDS.values() if kind.page and kind.choice == choice}
    infos = [i for i in list_runs(session.settings()) if i.manifest is not None and i.manifest.kind in kinds]
    return {i.id: i for i in infos if not states or i.state in states}


def run_words(infos: dict[str, RunInfo]) -> dict[str, str]:
    """Return what tells runs apart: title and time (UTC)."""
    manifests = [i.manifest for i in infos.values() if i.manifest is not None]
    return distinct({m.id: f"{m.title} · {m.created[:16].replace('T', ' ')}" for m in manifests})


def distinct(words: dict[str, str]) -> dict[str, str]:
    """Return words for ids, with the end of the id where two would read the same: the browser tells options apart by their words."""
    every = list(words.values())
    return {i: f"{text} · {i[-6:]}" if every.count(text) > 1 else text for i, text in words.items()}


def another_run(
    choice: str, run: RunFolder | None, label: str, *, states: Collection[str] = (), none: str = "", placeholder: str = ""
) -> None:
    """Let another run be chosen, where there is one; the page then shows it.

    Args:
        choice: name of the choice in the address.
        run: the run that is shown; None for none.
        label: of the picker.
        states: only runs in these states; empty for any.
        none: words of an option that takes the choice back; "" for no such option.
        placeholder: shown while nothing is chosen.
    """
    known = run_words(runs_for(choice, states))
    current = run.id if run is not None else ""
    if not known or set(known) == {current}:
        return
    options = ["", *known] if none else list(known)
    first = options.index(current) if current in options else None
    picked = st.selectbox(
        label,
        options,
        index=0 if first is None and none else first,
        format_func=lambda i: known.get(i, none),
        placeholder=placeholder or None,
        key=f"{choice}_pick_{current}",
    )
    if picked is not None and picked != current:
        session.choose(choice, picked)
        st.rerun()


def pick_run(known: dict[str, str], choice: str, label: str, key: str) -> str:
    """Let one of some runs be taken for a question; the one in the address comes first. Returns its id."""
    options, current = list(known), session.chosen(choice)
    first = options.index(current) if current in options else 0
    return str(st.selectbox(label, options, index=first, format_func=lambda i: known[i], key=key))
