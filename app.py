"""STATE Explorer: page settings and navigation; nothing else.

Streamlit runs this file for every visitor. Before that, `streamlit run app.py` imports it once for the server itself, with its headers.
"""

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts.admin import may_see
from pages.parts.door import opened
from pages.parts.glossary import glossary_button
from pages.parts.login import account, ask_for_login, logged_in
from pages.parts.navigation import menu, pages
from pages.parts.server import MIDDLEWARE, ROUTES
from pages.parts.session import by_link, keep_thread, shared_pages, start_worker, thread_params
from pages.parts.sidebar import show_shared, show_thread
from pages.parts.views import save_view
from state_engine.config import APP

if get_script_run_ctx(suppress_warning=True) is None:
    app = st.App(__file__, routes=ROUTES, middleware=MIDDLEWARE)
else:
    page = st.navigation(pages(shared_pages()), position="hidden")
    st.set_page_config(page_title=f"{page.title} · STATE Explorer", page_icon=str(APP / "assets" / "icon.svg"), layout="wide")
    st.logo(str(APP / "assets" / "logo.svg"), size="large", icon_image=str(APP / "assets" / "icon.svg"))
    if not logged_in():
        ask_for_login()
        st.stop()
    keep_thread(page.url_path)
    menu(thread_params, shared_pages(), may_see())
    if by_link():
        show_shared()
    else:
        show_thread()
        save_view(page.url_path or "home")
    glossary_button()
    account()
    try:
        with opened():
            page.run()
    finally:  # also when a page stops early; last, so that the first page does not share the processor with the worker's start
        start_worker()
