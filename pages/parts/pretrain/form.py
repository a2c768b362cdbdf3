"""Part of the Pretrain page: which cells, which gene vectors, how large, how long, what it will take, and the start."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pages.parts import fields, session
from pages.parts.forecast import expected, time_words
from pages.parts.format import md, plural
from pages.parts.jobs import start_job
from pages.parts.picker import distinct, runs_for
from pages.parts.result import stamp
from pages.parts.upload_box import one_file
from pages.parts.uploads import keep_by_content
from pages.parts.widgets import errors_shown, show_error
from state_engine.checkpoints.arc.perturbation_vectors import width_of_features_file
from state_engine.data.dataset import Choices
from state_engine.errors import StateError
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry, list_datasets
from state_engine.library.foreign import call, limits_for, read_file
from state_engine.library.models import EMBEDDINGS
from state_engine.options import options_of, settings
from state_engine.pretrain.cost import Pace, estimate_pretraining, pace_of
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task
from state_engine.pretrain.run_folder import is_pretraining
from state_engine.train.curves import LOG

CHOICE = "pretraining"
FOLDER = "pretraining"  # of a run
MOST_LOOKED_AT = 10  # runs, for the pace of this machine
MOST_VECTORS_MB = 2048  # of an uploaded table of gene vectors
LEARNT, OWN, MODEL = "Learnt from these cells", "A file of gene vectors", "Those of a model, whose weights are the start"


@dataclass(frozen=True)
class Preset:
    """A size of the network.

    Args:
        words: for people.
        sizes: of the network; cells of a step in `cells`.
    """

    words: str
    sizes: Sizes
    cells: int = 32


PRESETS = {
    "small": Preset("some thousand cells, on a processor", Sizes()),
    "tiny": Preset("to try it out", Sizes(hidden=64, layers=2, feed_forward=128, output_dim=32, tokens=128, gene_width=64), 16),
    "medium": Preset("tens of thousands of cells; a GPU helps", Sizes(hidden=256, layers=6, heads=8, feed_forward=512, output_dim=128, tokens=512)),
    "large": Preset("hundreds of thousands of cells; needs a GPU", Sizes(hidden=512, layers=8, heads=8, feed_forward=1024, output_dim=512,
                                                                        tokens=1024, gene_width=512), 64),
    "SE-600M": Preset("as the published model; needs GPUs and gene vectors (ESM2)", Sizes(hidden=2048, layers=16, heads=16, feed_forward=3072,
                                                                                       output_dim=2048, tokens=2048, gene_width=5120), 128),
}  # fmt: skip


def pretrain_form(entry: DataEntry | None) -> None:
    """The whole form."""
    st.markdown("#### Which cells?")
    entries = _data(entry)
    st.markdown("#### Which genes, and how large?")
    genes, start, width = _genes()
    left, middle, right = st.columns([3, 2, 2])
    preset = left.selectbox(
        "Size", list(PRESETS), key="pretrain_preset", format_func=lambda p: f"{p}: {PRESETS[p].words}", disabled=bool(start),
        help="The network's widths and layers; each can be changed under More options. A model that is the start has its own.",
    )  # fmt: skip
    variable = fields.number(middle, PretrainRequest, "variable_genes", "pretrain_variable", step=500, disabled=bool(start))
    steps = fields.number(right, PretrainRequest, "schedule.steps", f"pretrain_steps_{preset}", step=100)
    name = fields.text(st, PretrainRequest, "running.name", "pretrain_name", _name(entries))
    try:
        request = _request(entries, genes, start, preset, int(steps), name)
        request = replace(request, variable_genes=0 if start else int(variable))
    except StateError as error:
        show_error(error)
        return
    alone = _estimate(request, width)
    if st.button(
        f"Pretrain for {request.schedule.steps:,} steps",
        type="primary",
        key="pretrain",
        icon=":material/network_node:",
        disabled=not entries,
    ):
        try:
            run = start_job(request, f"Pretrain {request.running.name}", expected=alone)
        except StateError as error:
            show_error(error)
            return
        session.choose(CHOICE, run)
        st.rerun()


def _data(entry: DataEntry | None) -> list[DataEntry]:
    known = {e.id: e for e in list_datasets(session.settings())}
    words = distinct({i: e.name for i, e in known.items()})
    chosen = st.multiselect(
        "Data sets",
        list(known),
        default=[entry.id] if entry is not None else [],
        key="pretrain_data",
        format_func=lambda i: words[i],
        placeholder="One or several",
        help="Cells of several files come as one stream from disk. With several, the model also learns which data set a cell is from, to tell "
        "that apart from what the cell is.",
        select_all=False,
    )
    entries = [known[i] for i in chosen]
    if not entries:
        st.caption("Choose at least one data set. More are opened on the Data page.")
    rows = []
    for one in entries:
        with errors_shown():
            data = session.understand(one)
            rows.append((one.name, data.n_cells, data.n_genes, data.scale.scale or "unknown"))
    if rows:
        table = pd.DataFrame(rows, columns=["Data set", "Cells", "Genes", "Values"])
        number = st.column_config.NumberColumn
        config = {name: number(name, format="localized") for name in ("Cells", "Genes")}
        st.dataframe(table, hide_index=True, key="pretrain_table", column_config=config)
    return entries


def _genes() -> tuple[str, str, int | None]:
    """Path of gene vectors, folder of a model to start from, and the width of the vectors: of the first two at most one is given."""
    models = {str(m.path): m.card.name for m in EMBEDDINGS.entries(session.settings()) if m.card is not None}
    way = st.segmented_control(
        "Gene vectors", [LEARNT, OWN, *([MODEL] if models else [])], default=LEARNT, key="pretrain_genes", required=True,
        help="A vector tells the model what a gene is. Vectors of proteins (ESM2) let it read genes that it was not trained on.",
    wrap=True)  # fmt: skip
    if way == OWN:
        found = one_file(
            "pretrain_vectors",
            "Gene vectors: a .pt dict, or a CSV or TSV with a gene first",
            ("pt", "csv", "tsv"),
            MOST_VECTORS_MB,
            keep_vectors,
            "Another file",
        )
        width = None if found is None else int(st.session_state.get("pretrain_vectors_width", 0)) or None
        if found is None:
            st.caption("Until a file is there, vectors are learnt from the cells.")
        return (str(found) if found else ""), "", width
    if way == MODEL:
        words = distinct(models)
        start = st.selectbox("Model", list(words), format_func=words.__getitem__, key="pretrain_from")
        return "", str(start), None
    return "", "", None


def keep_vectors(path: Path, name: str) -> tuple[Path, str]:
    """Keep a file of gene vectors that a child could read; return where it lies, named by its content, and words for it."""
    width = call(width_of_features_file, path, path=path, name=name, limits=limits_for(path))
    st.session_state["pretrain_vectors_width"] = width
    return keep_by_content(path, "features"), f"{name}: vectors of {width:,}"


def _name(entries: list[DataEntry]) -> str:
    return f"SE of {entries[0].name.removesuffix('.h5ad')}" if entries else "SE"


def _request(entries: list[DataEntry], genes: str, start: str, preset: str, steps: int, name: str) -> PretrainRequest:
    """The request that was chosen.

    Raises:
        StateError: settings that are not known, or contradict each other.
    """
    base = PRESETS[preset]
    first = entries[0].choices if entries else Choices()
    if any(e.choices != first for e in entries[1:]):
        st.caption(
            ":material/info: What is noted about the data sets (columns, scale, genes) differs; that of the first is taken for all."
        )
    request = PretrainRequest(
        tuple(e.path for e in entries),
        first,
        genes,
        start,
        (),
        base.sizes,
        Task(),
        replace(Schedule(), steps=steps, cells_per_step=base.cells),
        replace(Running(), name=name.strip() or "SE", simulated=bool(entries) and all(e.origin == "demo" for e in entries)),
    )
    with st.expander("More options", icon=":material/tune:"):
        request = _more(request, preset)
        text = st.text_area("Any other setting, one a line: name=value", key="pretrain_settings", placeholder="loss=mse\nwarmup=0.1",
                            help="The names are in the table below. A name that is not known is refused.")  # fmt: skip
        lines = [line for line in text.splitlines() if line.strip()]
        if lines:
            request = _with(request, settings(PretrainRequest, lines))
        _all(request)
    return request


# the settings that are changed most: path -> arguments of its widget
_USUAL: dict[str, dict[str, Any]] = {
    "sizes.hidden": {}, "sizes.layers": {}, "sizes.heads": {}, "sizes.feed_forward": {}, "sizes.output_dim": {}, "sizes.tokens": {},
    "sizes.gene_width": {}, "schedule.cells_per_step": {}, "schedule.learning_rate": {"format": "%.1e", "step": 1e-4},
    "running.validation": {"step": 0.01}, "running.validate_every": {}, "running.checkpoint_every": {}, "running.seed": {},
}  # fmt: skip


def _more(request: PretrainRequest, preset: str) -> PretrainRequest:
    columns = st.columns(4)
    given: dict[str, Any] = {}
    for place, (path, more) in enumerate(_USUAL.items()):
        part, _, name = path.partition(".")
        value = getattr(getattr(request, part), name)
        given[path] = fields.number(columns[place % 4], PretrainRequest, path, f"pretrain_{name}_{preset}", value=value, **more)
    for place, path in enumerate(("task.loss", "running.device", "running.precision")):
        given[path] = fields.choice(columns[(len(_USUAL) + place) % 4], PretrainRequest, path, f"pretrain_{path}")
    names = [n for e in request.data[:1] for n in _columns(e)]
    request = replace(request, evaluate=tuple(fields.several(st, PretrainRequest, "evaluate", "pretrain_evaluate", names)))
    return _with(request, given)


def _columns(path: str) -> list[str]:
    entry = next((e for e in list_datasets(session.settings()) if e.path == path), None)
    return list(session.understand(entry).columns) if entry is not None else []


def _with(request: PretrainRequest, given: dict[str, Any]) -> PretrainRequest:
    """Return a request with settings by path, part by part, so that each part is checked once with all its values."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in given.items():
        part, _, name = path.rpartition(".")
        parts.setdefault(part, {})[name] = value
    changed = {part: replace(getattr(request, part), **values) for part, values in parts.items() if part}
    return replace(request, **changed, **parts.get("", {}))


def _all(request: PretrainRequest) -> None:
    """A table of every setting: its value, and what it means."""
    rows = []
    for one in options_of(PretrainRequest):
        part = one.path.split(".")[0]
        if part in ("sizes", "task", "schedule", "running"):
            rows.append((one.name, part, str(getattr(getattr(request, part), one.name)).lower(), fields.sentence(one)))
    table = pd.DataFrame(rows, columns=["Setting", "Part", "Value", "What it is"])
    st.dataframe(table, hide_index=True, key="pretrain_all_settings", height=260)


def _estimate(request: PretrainRequest, width: int | None) -> float:
    guess = estimate_pretraining(request, before=made_here(), gene_width=width)
    how = "(by pretrainings that ran here)" if guess.measured else "when nothing else runs (rough; a GPU is many times faster)"
    size = (
        "The model that is the start has its own size. "
        if request.init_from
        else f"About {round(guess.parameters, -4):,} parameters. "
    )
    each = request.schedule.cells_per_step
    st.caption(
        f"{size}{plural(request.schedule.steps, 'step')} of {each:,} cells. "
        f"It takes {time_words(expected('pretrain', guess.seconds), how)} "
        f"Licence of the model: {md(request.running.licence)}."
    )
    return guess.seconds


def made_here() -> list[Pace]:
    """Return the paces of the pretrainings that ran here on a processor, finished or not, the newest first."""
    found = []
    for info in list(runs_for(CHOICE, ("running", "done", "cancelled", "failed", "lost")).values())[:MOST_LOOKED_AT]:
        folder = RunFolder(info.path).path / FOLDER
        with suppress(StateError):  # a run that cannot be read says so where it is shown
            pace = _pace(str(folder), stamp(folder / LOG)) if is_pretraining(folder) else None
            found += [pace] if pace is not None else []
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def _pace(folder: str, written: int) -> Pace | None:
    return read_file(pace_of, Path(folder))
