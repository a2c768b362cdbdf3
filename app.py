"""STATE Explorer: page settings and navigation; nothing else."""

import streamlit as st

from pages.ui.navigation import pages
from pages.ui.session import keep_thread, start_worker
from pages.ui.thread import show_thread

st.set_page_config(page_title="STATE Explorer", page_icon="assets/logo.svg", layout="wide")
st.logo("assets/logo.svg", size="large")
page = st.navigation(pages(), expanded=True)
keep_thread()
start_worker()
show_thread()
page.run()
