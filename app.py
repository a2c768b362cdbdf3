"""STATE Explorer: page settings and navigation; nothing else."""

import streamlit as st

from pages.parts.door import opened
from pages.parts.navigation import pages
from pages.parts.session import keep_thread, start_worker
from pages.parts.sidebar import show_thread

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
