"""The part of the Submit page that shows receipts of submissions: a table, and the anchors that two of them determine."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.submit.form import keep_list
from state_engine.challenge.receipts import METRICS, Receipt, anchor_words, read_receipts, solve_anchors
from state_engine.library.foreign import TEXT, call

_KEPT = "submit_receipts"


def receipts_section() -> None:
    """Paste or upload receipts; each is kept for the session, so that submissions can be compared."""
    with st.expander("Receipts of the challenge: compare submissions"):
        st.caption(
            "What `vcc status --json` prints, of one submission or several, or a scores.json of this page's runs. 0 is the mean baseline, 1 a "
            "replicate; negatives are normal. Fidelity and jac reward calling more genes: scores.json says how many were called, of how many "
            "in the measurement, and what share at effect zero."
        )
        text = st.text_area("Paste receipts", key="receipts_text", height=120)
        upload = st.file_uploader("Or upload them", type=["json", "txt"], key="receipts_upload", max_upload_size=1)
        data = upload.getvalue() if upload is not None else text.encode()
        if st.button("Add", key="receipts_add", disabled=not data.strip()):
            path = keep_list(session.settings(), "receipts.json", data)
            _read(path)  # what is no receipt is told here, and not kept
            st.session_state[_KEPT] = tuple(dict.fromkeys((*st.session_state.get(_KEPT, ()), str(path))))
        paths = st.session_state.get(_KEPT, ())
        if not paths:
            return
        # the same entry may have been pasted twice
        receipts = tuple({(r.group, r.name): r for path in paths for r in _read(Path(path))}.values())
        st.dataframe(_table(receipts), hide_index=True, key="receipts_table")
        for words in anchor_words(solve_anchors(receipts)):
            st.caption(words)
        if st.button("Forget them", key="receipts_forget", type="tertiary"):
            del st.session_state[_KEPT]
            st.rerun()


def _read(path: Path) -> tuple[Receipt, ...]:
    return tuple(call(read_receipts, path, path=path, limits=TEXT))


def _table(receipts: tuple[Receipt, ...]) -> pd.DataFrame:
    rows = []
    for receipt in receipts:
        numbers = {f"{name} {kind}": getattr(receipt, kind).get(name) for name in METRICS for kind in ("raw", "scaled")}
        called = {
            "Genes called": receipt.called, "Genes called, measured": receipt.called_measured, "Called at effect 0": receipt.null_rate,
        }  # fmt: skip
        rows.append({"Submission": receipt.name, "Overall": receipt.overall, **numbers, **called, "Panel": receipt.group})
    return pd.DataFrame(rows)
