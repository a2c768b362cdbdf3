"""STATE Explorer: page settings and navigation; nothing else.

Streamlit runs this file for every visitor. Before that, `streamlit run app.py` imports it once for the server itself, with its headers.
"""

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts.door import opened
from pages.parts.navigation import pages
from pages.parts.server import MIDDLEWARE
from pages.parts.session import keep_thread, start_worker
from pages.parts.sidebar import show_thread

if get_script_run_ctx(suppress_warning=True) is None:
    app = st.App(__file__, middleware=MIDDLEWARE)
else:
    page = st.navigation(pages(), expanded=True)
    st.set_page_config(page_title=f"{page.title} · STATE Explorer", page_icon="assets/icon.svg", layout="wide")
    st.logo("assets/logo.svg", size="large", icon_image="assets/icon.svg")
    keep_thread()
    show_thread()
    try:
        with opened():
            page.run()
    finally:  # also when a page stops early; last, so that the first page does not share the processor with the worker's start
        start_worker()
