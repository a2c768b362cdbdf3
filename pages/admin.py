"""Admin: who uses how much, what waits and runs, and whether the disk lasts. Nothing of what anybody has is shown."""

import streamlit as st

from pages.parts import session
from pages.parts.admin import disk_and_limits, may_see, people_table, queue_table, workers
from pages.parts.door import through_app
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head("Who uses what?", "People, their disk and jobs, the queue and the workers of this installation; no contents.")

if not may_see():
    st.info("This page is for those whom STATE_EXPLORER_ADMINS names.", icon=":material/lock:")
    st.stop()
with errors_shown():
    disk_and_limits(session.installation())
    people_table(session.installation())
    queue_table(session.installation())
    workers(session.installation())
