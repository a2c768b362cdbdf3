"""Parts of the Submit page that make a challenge file: what is asked for, which cells, the findings with their repairs, the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from pages.ui import session
from pages.ui.exportpage import file_button
from pages.ui.jobs import job_panel
from pages.ui.widgets import errors_shown, finding
from pages.ui.words import plural, size
from state_engine.challenge import request as submission
from state_engine.challenge.findings import REPAIRS, Finding, Report
from state_engine.challenge.request import SubmissionRequest
from state_engine.challenge.spec import Rules, load_rules, read_genes, read_targets
from state_engine.config import Settings
from state_engine.datasets import list_datasets
from state_engine.errors import StateError
from state_engine.files import write_bytes
from state_engine.jobs import local
from state_engine.runs import RunFolder
from state_engine.values import from_plain, to_plain

CHALLENGE = "vcc2025"
MOST_MB = 64
"""Largest list taken."""
_SEVERITY = {"error": "blocking", "warning": "warning", "note": "ok"}


@dataclass(frozen=True)
class Source:
    """A file that can be submitted. `columns` are those of obs that may hold the perturbation, the likeliest first."""

    name: str
    path: str
    is_run: bool
    columns: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


def challenge_file(run: RunFolder | None) -> None:
    """The whole part: what is asked for, the form, and the report of the last check."""
    rules = load_rules(CHALLENGE)
    earlier = _earlier()
    left, right = st.columns([3, 2], gap="large")
    with right, st.container(border=True, key="challenge_rules"):
        st.markdown(f"**What the {rules.title} asks for**")
        st.markdown("\n".join(f"- {line}" for line in rule_lines(rules)))
    with left:
        wanted = _form(run, rules, earlier)
        if st.button(
            "Check the cells",
            type="primary" if earlier is None else "secondary",
            key="check",
            icon=":material/fact_check:",
            disabled=wanted is None or not wanted.genes,
            help="Add the gene list first." if wanted is not None and not wanted.genes else None,
        ):
            assert wanted is not None
            _start(wanted)
    if earlier is not None:
        st.divider()
        _report(earlier, wanted, rules)


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


# ---- the form ----


def _form(run: RunFolder | None, rules: Rules, earlier: RunFolder | None) -> SubmissionRequest | None:
    before = _asked(earlier)
    sources = _sources(run)
    if not sources:
        st.info(
            "There is nothing to submit yet: predict something, or open a data set of predictions made elsewhere.",
            icon=":material/info:",
        )
        return None
    paths = [source.path for source in sources]
    start = paths.index(before.source) if before and before.source in paths else 0
    source = st.selectbox("Cells to submit", sources, index=start, format_func=lambda s: s.name, key="submit_source")
    column = ""
    if source.columns:
        column = st.selectbox(
            "Column with the perturbation", source.columns, key=f"submit_column_{source.path}", help="Of the cells' table (obs)."
        )
    if source.is_run and len(source.contexts) > 1 and not rules.context_key:
        st.caption(
            f":orange[:material/warning:] This challenge knows no contexts: cells of {', '.join(source.contexts)} would go in together."
        )
    genes = _list("genes", "Gene list (gene_names.csv)", before.genes if before else "", rules)
    counts = _list("counts", "Perturbations and cells (pert_counts.csv), optional", before.pert_counts if before else "", rules)
    repairs = st.session_state.get("submit_repairs")
    if repairs is None or st.session_state.get("submit_repairs_of") != source.path:
        repairs = before.repairs if before and before.source == source.path else ()
        st.session_state["submit_repairs"], st.session_state["submit_repairs_of"] = repairs, source.path
    return SubmissionRequest(CHALLENGE, source.path, source.is_run, column, genes, counts, tuple(repairs))


def _sources(run: RunFolder | None) -> list[Source]:
    found = []
    if run is not None and run.manifest.kind == "predict" and run.result.exists():
        contexts = tuple(run.request.get("contexts", ()))
        found.append(Source(f"This run: {run.manifest.title}", str(run.result), True, contexts=contexts))
    for entry in list_datasets(session.settings()):
        if entry.origin == "demo" or not Path(entry.path).exists():
            continue
        with errors_shown():
            labels = session.understand(entry).labels
            names = [labels.perturbation_key or "", *(column.name for column in labels.columns)]
            found.append(Source(f"Data set: {entry.name}", entry.path, False, tuple(dict.fromkeys(filter(None, names)))))
    return found


def _list(kind: str, label: str, before: str, rules: Rules) -> str:
    """Path of an uploaded list, kept on disk; what is in it is said."""
    key = f"submit_{kind}"
    if key not in st.session_state:
        st.session_state[key] = before if before and Path(before).exists() else ""
    path = str(st.session_state[key])
    if not path:
        file = st.file_uploader(
            label, type=["csv", "txt"], key=f"{key}_upload_{st.session_state.get(f'{key}_n', 0)}", max_upload_size=MOST_MB
        )
        if file is None:
            return ""
        st.session_state[key] = str(keep_list(session.settings(), file.name, file.getvalue()))
        st.session_state[f"{key}_n"] = st.session_state.get(f"{key}_n", 0) + 1
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":green[:material/check_circle:] **{Path(path).name}** :gray[{list_words(Path(path), kind, rules)}]")
        if st.button("Another", key=f"{key}_other", type="tertiary"):
            st.session_state[key] = ""
            st.rerun()
    return path


def list_words(path: Path, kind: str, rules: Rules) -> str:
    """How much an uploaded list holds."""
    if kind == "genes":
        return plural(len(read_genes(path, rules)[0]), "gene")
    targets = read_targets(path, rules)[0]
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


# ---- the job and its report ----


def _start(request: SubmissionRequest) -> None:
    verb = "Challenge file" if request.write else "Check"
    _, run_id = local.submit(session.settings(), "submit", to_plain(request), f"{verb}: {CHALLENGE}")
    st.session_state["submit_repairs"] = request.repairs
    st.session_state["submission"] = run_id
    st.query_params["submission"] = run_id
    st.rerun()


def _earlier() -> RunFolder | None:
    """The last check or file of this session, or the one in the address."""
    run_id = str(st.session_state.get("submission") or st.query_params.get("submission", ""))
    if not run_id:
        return None
    try:
        run = RunFolder.open(session.settings(), run_id)
        if run.manifest.kind != "submit":
            return None
    except StateError:
        st.session_state["submission"] = ""
        return None
    st.session_state["submission"] = st.query_params["submission"] = run_id
    return run


def _asked(run: RunFolder | None) -> SubmissionRequest | None:
    return from_plain(SubmissionRequest, run.request) if run is not None else None


def _report(run: RunFolder, wanted: SubmissionRequest | None, rules: Rules) -> None:
    asked = from_plain(SubmissionRequest, run.request)
    title = "Writing and verifying the file" if asked.write else "Checking the cells"
    if not job_panel(run.id, title=title, key="submit_job"):
        return
    report = submission.read_report(run.file(submission.REPORT))
    if report is None:
        st.info("This check left no report. Check again.", icon=":material/info:")
        return
    stale = wanted is not None and wanted != replace(asked, write=False)
    if stale:
        st.warning("**Out of date: check again.** The choices above were changed after this check.", icon=":material/update:")
    with st.container(key="stale" if stale else "report"):
        _verdict(report)
        written = report.archive is not None
        if written:
            _written(run, report, rules)
        _findings(report, asked)
        if report.ok and not written:
            _offer_to_write(report, asked)


def _verdict(report: Report) -> None:
    errors = len(report.errors)
    repaired = f", after {plural(len(report.repairs), 'repair')}" if report.repairs else ""
    size_words = (
        f"{plural(report.n_cells, 'cell')} x {plural(report.n_genes, 'gene')}, {report.n_entries:,} stored values, "
        f"{plural(report.n_perturbations, 'perturbation')}"
    )
    if errors:
        st.markdown(f"#### {plural(errors, 'problem')} to solve")
    else:
        st.markdown("#### Nothing stands against this submission")
    st.caption(f"{size_words}{repaired}.")


def _findings(report: Report, asked: SubmissionRequest) -> None:
    serious = [f for f in report.findings if f.severity != "note"]
    notes = [f for f in report.findings if f.severity == "note"]
    offered = [repair.name for repair in report.offered if not repair.automatic]
    for number, item in enumerate(serious):
        _finding(item, asked, number)
    with st.container(horizontal=True):
        if len(offered) > 1 and st.button(f"Make all {len(offered)} repairs", key="repair_all", icon=":material/build:"):
            _start(replace(asked, repairs=(*asked.repairs, *offered), write=False))
        if asked.repairs and st.button("Undo the repairs", key="repair_none", type="tertiary", icon=":material/undo:"):
            _start(replace(asked, repairs=(), write=False))
    if notes:
        with st.expander(f"{plural(len(notes), 'note')}: what was done, and what does not go in"):
            for item in notes:
                finding("ok", item.title, item.detail, "")


def _finding(item: Finding, asked: SubmissionRequest, number: int) -> None:
    with st.container(border=True, key=f"finding_{number}"):
        words, button = st.columns([3, 1], vertical_alignment="center")
        with words:
            finding(_SEVERITY[item.severity], item.title, item.detail, "")
        repair = REPAIRS.get(item.repair or "")
        if repair is None or repair.automatic or repair.name in asked.repairs:
            return
        if button.button(
            repair_words(repair.name), key=f"repair_{number}_{repair.name}", help=repair.title, icon=":material/build:"
        ):
            _start(replace(asked, repairs=(*asked.repairs, repair.name), write=False))


def repair_words(name: str) -> str:
    """What a repair's button says: 'Fill missing genes'."""
    return name.replace("-", " ").capitalize()


def _offer_to_write(report: Report, asked: SubmissionRequest) -> None:
    warned = [f for f in report.findings if f.severity == "warning"]
    note = f" {plural(len(warned), 'warning')} above will go along." if warned else ""
    st.markdown(f"The file can be written; it is opened again afterwards and verified.{note}")
    if st.button("Write the file", type="primary", key="write", icon=":material/package_2:"):
        _start(replace(asked, write=True))


def _written(run: RunFolder, report: Report, rules: Rules) -> None:
    path = run.file(submission.ARCHIVE)
    if report.archive is None or not path.exists():
        st.info(
            "The file was written, but is not in the run folder any more. Check again and write it anew.", icon=":material/info:"
        )
        return
    verified = submission.read_report(run.file(submission.VERIFIED))
    good = verified is not None and verified.ok
    (st.success if good else st.error)(
        _written_words(report, verified), icon=":material/verified:" if good else ":material/error:"
    )
    file_button(path, "Challenge file", f"{rules.name}-{run.id}.vcc", "vcc", "application/octet-stream", primary=True)
    if rules.upload:
        st.caption(rules.upload.format(archive=path))
    with st.expander("Fingerprint and command"):
        st.code(f"sha256 {report.archive.sha256}\n{path}", language=None, wrap_lines=True)
        st.code(run.manifest.command, language="bash", wrap_lines=True)


def _written_words(report: Report, verified: Report | None) -> str:
    assert report.archive is not None
    words = f"**The file is written**: {size(report.archive.bytes)}"
    if verified is None:
        return f"{words}, but was not verified."
    problems: Sequence[Finding] = verified.errors
    if problems:
        return f"{words}, but opening it again found {plural(len(problems), 'problem')}: {problems[0].title}"
    return (
        f"{words}. Opened again and verified: {plural(verified.n_cells, 'cell')} x {plural(verified.n_genes, 'gene')}, "
        "no problem found."
    )
