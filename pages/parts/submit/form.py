"""The form of a challenge submission: which challenge, which cells, which lists, how log1p becomes counts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import streamlit as st

from pages.parts import fields, session
from pages.parts.format import md, plural
from pages.parts.widgets import errors_shown
from state_engine.challenge.counts import CountsOptions, Rounding
from state_engine.challenge.spec import Rules, known_challenges, load_rules, read_genes, read_targets
from state_engine.challenge.submit import SubmissionRequest
from state_engine.config import Settings
from state_engine.errors import StateError
from state_engine.files import write_bytes
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import list_datasets
from state_engine.library.foreign import TEXT, call
from state_engine.options import option_of
from state_engine.prediction.request import PredictionRequest

MOST_MB = 64
"""Largest list taken."""
_ROUNDINGS: dict[Rounding, str] = {
    "auto": "By the kind of prediction",
    "poisson": "Poisson draws, as measured cells vary",
    "stochastic": "up or down at random, the mean kept",
    "nearest": "to the nearest number (makes cells alike)",
}


@dataclass(frozen=True)
class Source:
    """A file that can be submitted.

    Args:
        name, path: for people; on disk.
        is_run: the result of a run.
        columns: of a data set: obs columns that may hold the perturbation, the likeliest first.
        contexts: of a run: its contexts; of a data set: the obs column that its user called the context.
        data: of a run: the data set that it started from.
    """

    name: str
    path: str
    is_run: bool
    columns: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    data: str = ""


def pick_challenge(before: str, key: str) -> Rules:
    """The challenge to make something for; that of `before` at first."""
    known = known_challenges()
    start = before if before in known else known[0]
    name = st.segmented_control(
        "Challenge", known, default=start, key=key, required=True, format_func=lambda n: load_rules(n).title, wrap=True
    )
    return load_rules(name or start)


def rule_lines(rules: Rules) -> list[str]:
    """The rules of a challenge as sentences."""
    values = {
        "log1p": "Expression: log1p of depth-normalised counts" + (f", below {rules.max_value:g}." if rules.max_value else "."),
        "counts": "Expression: raw whole counts.",
    }
    controls = {
        "required": f"Control cells must be in the file, labelled `{rules.control}`.",
        "forbidden": "Control cells must not be in the file.",
        "optional": f"Control cells may be in the file, labelled `{rules.control}`.",
    }
    lines = [values[rules.values], controls[rules.controls]]
    lines.append(f"{rules.n_genes:,} genes in the order of the official list; the label in `{rules.perturbation_key}`.")
    if rules.cells_per_perturbation:
        lines.append(f"Exactly {rules.cells_per_perturbation:,} cells of each perturbation.")
    if rules.usual_cells:
        lines.append(f"At most {rules.usual_cells:,} cells by the rules (the packer stops at {rules.max_cells:,}).")
    lines.append("Gene names and labels are put right here; nothing is changed without being said.")
    return lines


def submission_form(run: RunFolder | None, rules: Rules, before: SubmissionRequest | None) -> SubmissionRequest | None:
    """What to submit; None when there is nothing."""
    source = pick_source(run, before.source if before else "", "submit")
    if source is None:
        st.info(
            "There is nothing to submit yet: predict something, or open a data set of predictions made elsewhere.",
            icon=":material/info:",
        )
        return None
    perturbation, context = pick_columns(source, rules, "submit")
    contexts = pick_contexts(source, rules, before.contexts if before and before.source == source.path else (), "submit")
    genes = pick_list("genes", before.genes if before else "", rules)
    counts = pick_list("pert_counts", before.pert_counts if before else "", rules)
    step, controls = counts_step(source, rules, before.counts if before else None, "submit")
    repairs = st.session_state.get("submit_repairs")
    if repairs is None or st.session_state.get("submit_repairs_of") != source.path:
        repairs = before.repairs if before and before.source == source.path else ()
        st.session_state["submit_repairs"], st.session_state["submit_repairs_of"] = repairs, source.path
    if "add-controls" in repairs and rules.controls == "required" and source.data:
        controls = (source.data,)
    return SubmissionRequest(
        rules.name,
        source.path,
        source.is_run,
        perturbation,
        genes,
        counts,
        tuple(repairs),
        context_key=context,
        contexts=contexts,
        controls=controls,
        counts=step,
        # a run's own data set: its control cells fill genes that are not predicted, and keep their counts
        donors=source.data if source.data and Path(source.data).exists() else "",
    )


def pick_source(run: RunFolder | None, before: str, key: str) -> Source | None:
    """A run or data set; None when there is neither."""
    found = sources(run)
    if not found:
        return None
    paths = [source.path for source in found]
    start = paths.index(before) if before in paths else 0
    return st.selectbox("Cells to submit", found, index=start, format_func=lambda s: s.name, key=f"{key}_source")


def pick_columns(source: Source, rules: Rules, key: str) -> tuple[str, str]:
    """The obs columns of perturbation and context of a data set; ("", "") for a run, which names its own."""
    if not source.columns:
        return "", ""
    perturbation = fields.choice(st, SubmissionRequest, "perturbation_key", f"{key}_column_{source.path}", source.columns)
    if not rules.context_key:
        return perturbation, ""
    named = [rules.context_key, *source.contexts, *source.columns]
    likely = tuple(dict.fromkeys(name for name in named if name and name in source.columns))
    return perturbation, fields.choice(st, SubmissionRequest, "context_key", f"{key}_context_{source.path}", likely)


def pick_contexts(source: Source, rules: Rules, before: tuple[str, ...], key: str) -> tuple[str, ...]:
    """Contexts of a run to take; () for all, where the challenge knows none."""
    if not source.is_run or not source.contexts:
        return ()
    chosen = source.contexts
    if len(chosen) > 1:
        default = [c for c in before if c in chosen] or list(chosen)
        label = option_of(SubmissionRequest, "contexts").label
        picked = st.multiselect(
            label, chosen, default=default, key=f"{key}_contexts_{source.path}_{rules.name}", select_all=False
        )
        chosen = tuple(c for c in chosen if c in picked) or chosen
    if len(chosen) > 1 and not rules.context_key:
        st.caption(
            f":orange[:material/warning:] This challenge knows no contexts: cells of {', '.join(chosen)} would go in together."
        )
    return () if chosen == source.contexts and not rules.context_key else chosen


def counts_step(
    source: Source, rules: Rules, before: CountsOptions | None, key: str
) -> tuple[CountsOptions | None, tuple[str, ...]]:
    """How log1p becomes counts, and the file whose control cells give the library sizes; (None, ()) where values stay."""
    if rules.values != "counts":
        return None, ()
    wanted = st.toggle(
        "Turn log1p values into counts",
        value=source.is_run or before is not None,
        key=f"{key}_to_counts_{source.path}",
        help="This challenge wants raw whole counts. Predictions are log1p of normalised expression: they are scaled to a library "
        "size and rounded at random. How one rounds changes which genes come out as significant: control cells plus an effect vary as counts "
        "already and keep those of their own control cell; raw predictions are drawn.",
    )
    if not wanted:
        return None, ()
    left, middle, right = st.columns([2, 2, 1])
    names = tuple(_ROUNDINGS)
    start = names.index(before.rounding) if before else 0
    rounding = fields.choice(
        left, CountsOptions, "rounding", f"{key}_rounding", names, index=start, format_func=lambda r: _ROUNDINGS[r]
    )
    drawn = "Drawn from the measured control cells of each context"
    fixed = "The same for every cell"
    options = [drawn, fixed] if source.data else [fixed]
    how = middle.selectbox("Library size", options, key=f"{key}_library_how_{source.path}")
    library = None
    if how == fixed:
        library = float(
            fields.number(middle, CountsOptions, "library", f"{key}_library", value=10_000.0, step=1000.0, format="%.0f")
        )
    seed = int(fields.number(right, CountsOptions, "seed", f"{key}_seed", value=before.seed if before else 0))
    return CountsOptions(rounding, seed, library), (() if library else (source.data,))


def sources(run: RunFolder | None) -> list[Source]:
    """The chosen run and the data sets of this installation; the demo's cells are measurements, not predictions."""
    found = []
    if run is not None and run.manifest.kind == "predict" and run.result.exists():
        asked = run.request_as(PredictionRequest)
        found.append(Source(f"This run: {run.manifest.title}", str(run.result), True, (), asked.contexts, asked.data))
    for entry in list_datasets(session.settings()):
        if entry.origin == "demo" or not Path(entry.path).exists():
            continue
        with errors_shown():
            labels = session.understand(entry).labels
            names = [labels.perturbation_key or "", *(column.name for column in labels.columns)]
            columns = tuple(dict.fromkeys(filter(None, names)))
            found.append(Source(f"Data set: {entry.name}", entry.path, False, columns, (labels.context_key or "",)))
    return found


def pick_list(kind: Literal["genes", "pert_counts"], before: str, rules: Rules) -> str:
    """Return the path of an uploaded list, kept on disk, and show what is in it."""
    key, label = f"submit_{kind.removeprefix('pert_')}", option_of(SubmissionRequest, kind).label
    if key not in st.session_state:
        st.session_state[key] = before if before and Path(before).exists() else ""
    path = str(st.session_state[key])
    if not path:
        file = st.file_uploader(
            label, type=["csv", "txt"], key=f"{key}_upload_{st.session_state.get(f'{key}_n', 0)}", max_upload_size=MOST_MB
        )
        if file is None:
            return ""
        kept = keep_list(session.settings(), file.name, file.getvalue())
        try:
            list_words(kept, kind, rules)
        except StateError:
            kept.unlink()
            raise
        st.session_state[key] = str(kept)
        st.session_state[f"{key}_n"] = st.session_state.get(f"{key}_n", 0) + 1
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":green[:material/check_circle:] **{md(Path(path).name)}** :gray[{list_words(Path(path), kind, rules)}]")
        if st.button("Another", key=f"{key}_other", type="tertiary"):
            st.session_state[key] = ""
            st.rerun()
    return path


@st.cache_data(max_entries=32, show_spinner=False)
def list_words(path: Path, kind: str, rules: Rules) -> str:
    """Return how much an uploaded list holds; a child reads it. Its folder is named by its content, so the answer is kept."""
    if kind == "genes":
        return plural(len(call(read_genes, path, rules, path=path, limits=TEXT)[0]), "gene")
    targets = call(read_targets, path, rules, path=path, limits=TEXT)[0]
    return plural(len(set(targets.names)), "perturbation") if targets else "no perturbation could be read"


def keep_list(settings: Settings, name: str, data: bytes) -> Path:
    """Writes an uploaded list to disk, under its own name in a folder named by its content, and returns its path."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).name).strip("._")[:80] or "list.csv"
    folder = settings.home / "challenge" / hashlib.sha256(data).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / plain
    if not path.exists():
        write_bytes(path, data)
    return path
