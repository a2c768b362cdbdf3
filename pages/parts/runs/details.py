"""What a row of Runs shows when it is opened: parameters, log and files, and asking again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import md, sentences, size
from pages.parts.jobs import start_job
from pages.parts.runs.report import report_button
from pages.parts.runs.share import share_button
from pages.parts.widgets import errors_shown, go
from state_engine.config import Settings
from state_engine.files import scratch_folder
from state_engine.jobs.kinds import KINDS, find_kind, request_class
from state_engine.jobs.many import entry_of
from state_engine.jobs.packed import PACKED, export_run
from state_engine.jobs.run_folder import Manifest, RunFolder, RunInfo
from state_engine.library.shown import without_places

LOG_BYTES = 20_000  # of the end of a log


def show_details(info: RunInfo, manifest: Manifest) -> None:
    """Draw them."""
    run = RunFolder(info.path)
    with st.container(horizontal=True):
        _again(run, manifest)
        share_button(run)
        report_button(run)
        if manifest.kind in PACKED and info.state == "done":
            st.download_button(
                "Run (zip)", data=partial(_zip, session.settings(), run.id), file_name=f"{run.id}.zip", mime="application/zip",
                key=f"export_{run.id}", icon=":material/folder_zip:", on_click="ignore",
                help="Request, result and tables, for Runs of another installation. Data set and model do not travel.",
            )  # fmt: skip
        st.download_button(
            "Request (JSON)", data=lambda: entry_of(run), file_name=f"{run.id}.json", mime="application/json",
            key=f"request_{run.id}", icon=":material/data_object:", on_click="ignore",
            help="What was asked. Runs takes a file of one or several of these.",
        )  # fmt: skip
    st.code(manifest.command or "This kind of run has no command line.", language="bash", wrap_lines=True)
    facts = {"seed": manifest.seed, "device": manifest.device, "settings": manifest.settings, "versions": manifest.versions}
    st.json({"request": run.request, **facts}, expanded=False)
    log = _log(info.path / "log.txt")
    if log:
        st.markdown("**Log**")
        st.code(without_places(log, session.settings()), language=None, height=200)
    files = sorted((path for path in info.path.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
    largest = ", ".join(f"{path.relative_to(info.path)} {size(path.stat().st_size)}" for path in files[:6])
    more = f" and {len(files) - 6} more" if len(files) > 6 else ""
    st.caption(f"{len(files)} files: {sentences(largest)}{more}")


def _again(run: RunFolder, manifest: Manifest) -> None:
    """Ask the same again: a prediction with the form filled, another kind as it was."""
    kind = KINDS.get(manifest.kind)
    if kind is None or not kind.page:
        return
    if manifest.kind == "predict":
        if st.button(
            "Again with changes", key=f"again_{run.id}", icon=":material/edit:", help="Opens Predict, filled with this."
        ):
            st.session_state["predict_again"] = run.id
            go("predict")
        return
    if st.button("Run again", key=f"again_{run.id}", icon=":material/refresh:", help=f"The same {md(kind.title)} once more."):
        with errors_shown():
            request = run.request_as(request_class(find_kind(kind.name)))
            start_job(request, manifest.title)
            st.rerun()


def _zip(settings: Settings, run_id: str) -> bytes:
    """Return a run as a zip. Called outside of the page's script, where nobody is logged in: so the settings are the caller's."""
    with scratch_folder(settings) as scratch:
        return export_run(settings, run_id, scratch / "run.zip").read_bytes()


def _log(path: Path) -> str:
    """Return the end of a log; "" without one."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode("utf-8", "replace")
