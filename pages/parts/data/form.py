"""Parts of the Data page: what was understood, and the form that corrects it."""

from __future__ import annotations

import streamlit as st

from pages.parts import fields, session
from pages.parts.format import code, md, plural, sentences, size
from pages.parts.jobs import job_of, job_panel, start_job
from state_engine.data.dataset import Choices, Dataset
from state_engine.errors import StateError
from state_engine.jobs.requests import Prepared, PrepareRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry, set_choices

SUGGESTED = "as suggested"
NONE = "none"


def understood(entry: DataEntry, data: Dataset) -> None:
    """Draw the facts of a data set, then its notes."""
    dense = data.n_cells * data.n_genes * 4
    columns = st.columns(4)
    columns[0].metric("Cells", f"{data.n_cells:,}", border=True)
    columns[1].metric("Genes", f"{data.n_genes:,}", border=True, help=f"Names: {sentences(data.genes.chosen.words)}")
    columns[2].metric("Scale", data.scale.scale or "unclear", border=True, help=sentences(" ".join(data.scale.evidence)))
    columns[3].metric(
        "On disk", size(data.file.nbytes), border=True, help=f"{size(dense)} if all values were held in memory; they are not."
    )
    labels = data.labels
    lines = [
        f"**Perturbation**: {_column(labels.perturbation_key)}, {data.perturbation_words}"
        + (f" **{md(labels.control)}**" if labels.control else "; control **not known**"),
        f"**Context** (cell type, line or donor): {_column(labels.context_key)}, {plural(len(data.contexts), 'label')}",
        f"**Batch**: {_column(labels.batch_key)}" + (f", {plural(len(data.batches), 'label')}" if data.batches else ""),
        f"**Genes**: {sentences(data.genes.chosen.words)}, such as {', '.join(map(md, data.genes.names[:4]))}",
        "**Representations**: "
        + (", ".join(f"{md(m.name)} ({m.width:,} features, {m.layout})" for m in data.representations) or "none"),
        f"**Scale**: {data.scale.scale or 'unclear'}. " + sentences(" ".join(data.scale.evidence)),
    ]
    st.markdown("  \n".join(lines))
    for note in (*session.depth_notes(entry), *data.notes):
        st.warning(sentences(note), icon=":material/info:")


def _column(key: str | None) -> str:
    if key == "":
        return "none, all cells are unperturbed"
    return f"column {code(key)}" if key else "no column"


def conditions(data: Dataset) -> None:
    """Draw how many cells each condition has."""
    table = data.table()
    frame = table.reset_index().rename(columns={table.index.name or "index": "Perturbation"})
    frame["All"] = table.sum(axis=1).to_numpy()
    st.markdown("## Cells per perturbation and context")
    counts = {name: st.column_config.NumberColumn(format="localized") for name in frame.columns[1:]}
    height = min(38 + 35 * len(frame), 320)
    st.dataframe(frame, hide_index=True, key="condition_table", height=height, column_config=counts)


def choices_form(entry: DataEntry, data: Dataset, wrong: tuple[str, ...] = (), problem: StateError | None = None) -> None:
    """Lets the user correct columns, control, scale and gene names; remembered with the data set.

    Args:
        entry: whose choices.
        data: what is in the file, without the choices that it does not allow.
        wrong: those, by field.
        problem: what was said of them.
    """
    said = entry.choices

    def beside(place: st.delta_generator.DeltaGenerator, field: str) -> None:
        """The problem, beside the field that it is about."""
        if field in wrong and problem is not None:
            place.error(sentences(problem.what))

    with (
        st.expander("Correct what was understood", icon=":material/edit:", expanded=data.labels.control is None or bool(wrong)),
        st.form("choices"),
    ):
        columns = [c.name for c in data.labels.columns]
        others = list(data.labels.other_columns)
        left, right = st.columns(2)
        perturbation = _pick(
            left, "Perturbation column", [NONE, *columns, *others], said.perturbation_key, "What was done to a cell."
        )
        beside(left, "perturbation_key")
        controls = list(dict.fromkeys([*data.labels.control_suggestions, *data.perturbations]))
        control = fields.several(
            right,
            Choices,
            "control",
            "choice_Control label",
            controls,
            said.controls,
            placeholder=data.labels.control or "Choose",
        )
        beside(right, "control")
        context = _pick(left, "Context column", [NONE, *columns, *others], said.context_key, "Cell type, line or donor.")
        beside(left, "context_key")
        batch = _pick(right, "Batch column", [NONE, *columns, *others], said.batch_key, "Plate, lane or replicate.")
        beside(right, "batch_key")
        scale = _pick(left, "Scale", ["counts", "log1p"], said.scale, "Raw counts, or log1p of depth-normalised counts.")
        beside(left, "scale")
        genes = _pick(
            right,
            "Gene names",
            [c.column or "var index" for c in data.genes.alternatives],
            said.gene_column,
            "Where gene names are.",
        )
        beside(right, "gene_column")
        text = "Which matrix holds the expression; raw has genes of its own."
        expression = _pick(left, "Expression", list(data.file.expressions), said.expression, text)
        beside(left, "expression")
        normalise = right.checkbox(
            "Bring counts to depth 10,000 and log1p before a model reads them", said.normalise, key="choice_normalise",
            help="The file stays as it is. Without it, only models that read counts can read counts.",
        )  # fmt: skip
        depth = right.number_input(
            "Depth",
            min_value=1.0,
            value=said.depth,
            placeholder="from the values",
            help="Of log1p values: what a cell's counts were brought to before the logarithm, such as 10,000.",
            key="choice_depth",
        )
        beside(right, "depth")
        renamed = fields.yes(right, Choices, "rename_combinations", "choice_rename", value=said.rename_combinations)
        stripped = fields.yes(right, Choices, "strip_labels", "choice_strip", value=said.strip_labels)
        if st.form_submit_button("Apply", type="primary", key="apply_choices"):
            chosen = Choices(
                perturbation_key=perturbation,
                control=tuple(control) or None,
                context_key=context,
                batch_key=batch,
                scale=scale,  # type: ignore[arg-type]
                depth=depth,
                gene_column="" if genes == "var index" else genes,
                expression=expression,
                normalise=normalise,
                rename_combinations=renamed,
                strip_labels=stripped,
            )
            set_choices(session.settings(), entry.id, chosen)
            st.rerun()


def _pick(place: st.delta_generator.DeltaGenerator, label: str, options: list[str], said: str | None, text: str) -> str | None:
    """A choice that starts with what the user said before; None stands for the suggestion, "" for none on purpose."""
    known = [SUGGESTED, *options]
    shown = SUGGESTED if said is None else (NONE if said == "" and NONE in known else said or "var index")
    index = known.index(shown) if shown in known else 0
    value = place.selectbox(label, known, index=index, help=text, key=f"choice_{label}")
    if value == SUGGESTED:
        return None
    return "" if value == NONE else value


def variable_genes(entry: DataEntry, data: Dataset) -> None:
    """Chooses the most variable genes in a job; the copy of the data set that has them can be opened then."""
    with st.expander("Choose highly variable genes", icon=":material/sort:"):
        st.caption(
            "Models trained here choose their own genes. Published models that read X_hvg do not name theirs, so bring the genes of "
            "their training data where you have them."
        )
        left, right = st.columns([1, 2], vertical_alignment="bottom")
        n = left.number_input("Genes", 10, max(10, data.n_genes), min(2000, data.n_genes), key="hvg_count")
        if right.button(
            "Choose them", key="make_hvgs", help="scanpy, flavor seurat; counts are normalised to 10,000 and log1p first."
        ):
            request = PrepareRequest(entry.id, int(n))
            st.session_state["hvg_run"] = start_job(request, f"{n:,} variable genes of {entry.name}")
            st.rerun()
        run_id = str(st.session_state.get("hvg_run", ""))
        if run_id and job_panel(run_id, title="Choosing variable genes", key="hvg_job"):
            job = job_of(run_id)
            if job is None:
                return
            summary = job.summary_as(Prepared)
            st.success(sentences(summary.method), icon=":material/check_circle:")
            with st.container(horizontal=True):
                if st.button("Open the data set with X_hvg", key="open_hvgs", type="primary"):
                    session.choose("data", summary.data)
                    session.choose("run", "")
                    del st.session_state["hvg_run"]
                    st.rerun()
                names = RunFolder.open(session.settings(), run_id).file("genes.csv").read_bytes()
                st.download_button(
                    "Genes (CSV)", names, "highly-variable-genes.csv", "text/csv", key="hvg_csv", on_click="ignore"
                )
