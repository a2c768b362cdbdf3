"""What was deleted lately, at the place in the list where it was: a row with Undo, on every visit of the page until it is had back or time is up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import streamlit as st

from pages.parts import session
from pages.parts.format import age, md
from pages.parts.widgets import errors_shown
from state_engine.library.trash import item_of

SHOWN = timedelta(minutes=10)  # afterwards it is among "Deleted lately" on Runs alone
_KEPT = "deleted_rows"


def remember(name: str, identity: str, order: str) -> None:
    """Note that a row was deleted.

    Args:
        name: of the list.
        identity: of the data set or run.
        order: by which the list is sorted, the largest first.
    """
    st.session_state[_KEPT] = {**st.session_state.get(_KEPT, {}), identity: (name, order)}


class DeletedRows:
    """The rows of a list that are there no more. Call `above` before each row that is, and `rest` behind them.

    Args:
        name: of the list.
    """

    def __init__(self, name: str) -> None:
        kept = st.session_state.get(_KEPT, {})
        self._left = sorted(((order, i) for i, (of, order) in kept.items() if of == name), reverse=True)

    def above(self, order: str) -> None:
        """Draw those that stood above the row of this order."""
        while self._left and self._left[0][0] > order:
            _row(self._left.pop(0)[1])

    def rest(self) -> None:
        """Draw those that stood below all others."""
        self.above("")


def _row(identity: str) -> None:
    item = item_of(session.settings(), identity)
    if item is None or datetime.now(UTC) - datetime.fromisoformat(item.deleted) > SHOWN:
        st.session_state[_KEPT] = {i: row for i, row in st.session_state[_KEPT].items() if i != identity}
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"deleted_{identity}"):
        st.markdown(f":gray[:material/delete: **{md(item.title)}** was deleted, {age(item.deleted)}.]")
        if st.button("Undo", key=f"undo_row_{identity}", icon=":material/undo:"):
            with errors_shown():
                session.have_back(item, identity)
                st.rerun()
