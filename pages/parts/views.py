"""Named views: save what is shown, in the sidebar, and come back to it from Home."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.format import age, md
from pages.parts.navigation import names, script
from pages.parts.widgets import errors_shown
from state_engine.library.views import View, forget_view, keep_view, views_of


def save_view(page: str) -> None:
    """Draw the button that keeps the page with its address under a name.

    Args:
        page: the name of the page that is shown.
    """
    with st.sidebar, st.popover("Save this view", icon=":material/bookmark_add:", key="save_view"), errors_shown():
        st.caption("Page, data set, model, run and what is chosen on the page. Home lists what was saved.")
        name = st.text_input("Name", key="view_name", max_chars=120)
        if st.button("Save", key="view_save", type="primary", disabled=not name.strip()):
            keep_view(session.settings(), name, page, st.query_params.to_dict())
            st.toast("Saved. It is on Home.", icon=":material/bookmark_added:")


def saved_views() -> None:
    """Draw the owner's views, each with a button that opens it and one that forgets it; nothing without any."""
    with errors_shown():
        known = [view for view in views_of(session.settings()) if view.page in names()]
        if not known:
            return
        st.markdown("#### Saved views")
        for view in known[:20]:
            with st.container(horizontal=True, vertical_alignment="center"):
                if st.button(md(view.name), key=f"view_{view.id}", icon=":material/bookmark:", type="tertiary"):
                    open_view(view)
                st.caption(f"{view.page}, {age(view.created)}")
                if st.button("Forget", key=f"view_forget_{view.id}", type="tertiary"):
                    forget_view(session.settings(), view.id)
                    st.rerun()


def open_view(view: View) -> None:
    """Show a view as it was saved: what this session chose meanwhile gives way to its address."""
    session.forget_shown(view.page, view.address)
    st.switch_page(script(view.page), query_params=view.address)
