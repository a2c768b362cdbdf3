"""Public data sets on the Data page: what there is, under which licence, and a download that goes on without the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.format import code, md, sentences, size
from pages.parts.jobs import job_panel, start_job
from state_engine.config import Settings
from state_engine.download import waiting
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.requests import FetchRequest
from state_engine.jobs.store import Job, JobStore
from state_engine.library.datasets import list_datasets
from state_engine.public_data.catalogue import PublicData, catalogue
from state_engine.public_data.fetch import Fetched, fetched_here, home_of, remove_fetched

KIND = "fetch"


def public_data(settings: Settings) -> None:
    """The table of all, then the chosen one: its terms, and the button that downloads it or opens what is here."""
    entries, here = catalogue(), fetched_here(settings)
    frame = pd.DataFrame(
        {
            "Data set": [d.title for d in entries],
            "What": [d.what for d in entries],
            "Download": ["here" if d.name in here else _size(d) for d in entries],
            "Licence": [d.licence for d in entries],
            "Source": [d.source or None for d in entries],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        key="public_table",
        height=38 + 35 * min(len(frame), 7),
        column_config={
            "Source": st.column_config.LinkColumn(display_text="page"),
            "What": st.column_config.TextColumn(width="large"),
        },
    )
    st.caption("Their publishers' files, from their publishers' servers. Nothing is sent but the request.")
    names = {d.name: d for d in entries}
    job = _latest(settings)
    shown = str(job.request.get("name", "")) if job else ""
    name = st.selectbox(
        "Data set to download",
        list(names),
        format_func=lambda n: names[n].title,
        index=list(names).index(shown) if shown in names else None,
        key="public_name",
        placeholder="Choose one to see its terms",
    )
    if job is not None and job.active:
        job_panel(job.run_id, title=f"Downloading {names[shown].title}" if shown in names else "Downloading", key="fetch_job")
        st.caption(
            "Other jobs wait until it is done. When you cancel, what has arrived is kept, and the next try continues there."
        )
    if name is None:
        return
    _terms(names[name])
    if name in here:
        _opened(here[name], settings)
    elif job is None or not job.active:
        _offer(names[name], job if job is not None and shown == name else None, settings)


def _latest(settings: Settings) -> Job | None:
    """The newest download, whoever asked for it: the page finds it again after a reload."""
    return next((job for job in asked_of_store(settings, JobStore.list) if job.kind == KIND), None)


def _size(data: PublicData) -> str:
    return size(data.size) if data.size is not None else "not stated"


def _terms(data: PublicData) -> None:
    licence = f"[{data.licence}]({data.licence_url})" if data.licence_url else data.licence
    lines = [data.what, f"**Licence**: {licence}"] if data.what else [f"**Licence**: {licence}"]
    if data.licence == "not stated":
        lines[-1] += f". Its publisher states none with the file: read [its page]({data.source}) before you use it."
    if data.citation:
        lines.append(f"**Please cite**: {data.citation}")
    hashes = [f for f in data.files if f.sha256 or f.md5]
    checked = (
        f"its hash is compared ({hashes[0].hash_source})" if hashes else "no hash is published; that of what comes is recorded"
    )
    lines.append(f"**Download**: {_size(data)}; {checked}")
    if data.found:
        lines.append(f":gray[Where these addresses stand: {data.found}]")
    st.markdown("  \n".join(lines))


def _offer(data: PublicData, ended: Job | None, settings: Settings) -> None:
    if ended is not None and ended.state in ("failed", "lost"):
        job_panel(ended.run_id, title=f"Downloading {data.title}", key="fetch_job")
    kept = sum(waiting(f.remote, home_of(data.name, settings)) for f in data.files)
    if kept:
        st.caption(f"{size(kept)} have arrived already; the download continues there.")
    unpacked = sum(f.unpacked or 0 for f in data.files)
    if unpacked:
        st.caption(f"Unpacked it has {size(unpacked)}; the archive is removed then.")
    words = f"Download {size(data.size)}" if data.size is not None else "Download"
    if st.button("Continue" if kept else words, key="fetch", type="primary", icon=":material/download:"):
        start_job(FetchRequest(data.name), f"Download {data.title}")
        st.rerun()


def _opened(record: Fetched, settings: Settings) -> None:
    folder = home_of(record.name, settings)
    for entry in list_datasets(settings):
        if not Path(entry.path).is_relative_to(folder.resolve()):
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":green[:material/check:] **{md(entry.name)}** :gray[{md(Path(entry.path).name)}]")
            if st.button("Open", key=f"open_public_{entry.id}"):
                session.choose("data", entry.id)
                session.choose("run", "")
                st.rerun()
    for plan in record.plans:
        st.markdown(f"Its split plan, which leads to these files: {code(folder / plan, most=300)}")
    for arrived in record.arrived:
        st.caption(f"{md(arrived.name)}, {size(arrived.size)}, sha256 {arrived.sha256}. {sentences(arrived.checked)}")
    if st.button("Delete from this machine", key="remove_public", type="tertiary"):
        remove_fetched(record.name, settings)
        if session.data_entry() is None:
            session.choose("data", "")
        st.rerun()
