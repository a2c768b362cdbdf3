"""For a link opened first on a fresh server; see `pages.ui.entry`."""

from pages.ui.entry import run_app

run_app()
