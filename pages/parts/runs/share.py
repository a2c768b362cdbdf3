"""Sharing a run: links for looking only, made and revoked here."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

import streamlit as st

from pages.parts import session
from pages.parts.format import age
from pages.parts.navigation import SHARED, base, titles
from pages.parts.widgets import errors_shown
from state_engine.errors import listed
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.shares import revoke, share_run, shares_of


def share_button(run: RunFolder, page: str = "") -> None:
    """Draw the button that opens the links of a finished run; nothing for a kind that no link shows, and for who came by a link.

    Args:
        run: the run.
        page: the page that it stands on; the link opens it as it is now. "": the first page that shows the run.
    """
    settings, run_id, shown = session.settings(), run.id, SHARED.get(run.manifest.kind)
    if settings.shared or shown is None or run.state != "done":
        return
    fresh = f"share_link_{run_id}"
    with st.popover("Share", icon=":material/link:", key=f"share_{run_id}"), errors_shown():
        st.markdown(f"Whoever has a link sees this run on {listed(titles(shown))}, and can change nothing. Revoke it here.")
        if st.button("Make a link", key=f"make_link_{run_id}", type="primary"):
            address, token = urlsplit(st.context.url or ""), share_run(settings, run_id)
            view = {name: value for name, value in session.thread_params(page).items() if name not in session.THREAD}
            asked = urlencode({"share": token, **(view if page else {})})
            st.session_state[fresh] = f"{address.scheme}://{address.netloc}{base()}/{page}?{asked}"
        if fresh in st.session_state:
            st.caption(
                "The link opens what you see now. It is shown now and not again:"
                if page
                else "The link is shown now and not again:"
            )
            st.code(st.session_state[fresh], language=None, wrap_lines=True)
        for share in shares_of(settings, run_id):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"Link {share.id[:6]} :gray[made {age(share.created)}]")
                if st.button("Revoke", key=f"revoke_{share.id}", type="tertiary"):
                    revoke(settings, share.id)
                    st.session_state.pop(fresh, None)
                    st.rerun()
