"""Parts of the Submit page that make a challenge file: what is asked for, the findings with their repairs, the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import plural, size
from pages.parts.jobs import job_panel, start_job
from pages.parts.submit.form import pick_challenge, rule_lines, submission_form
from pages.parts.submit.template import template_section
from pages.parts.take_home import file_button
from pages.parts.widgets import finding
from state_engine.challenge import submit as submission
from state_engine.challenge.findings import REPAIRS, Finding, Report
from state_engine.challenge.report import null_words
from state_engine.challenge.spec import Rules, load_rules
from state_engine.challenge.submit import SubmissionRequest
from state_engine.jobs.run_folder import RunFolder

QUICK_BYTES = 200_000_000  # cells of a file below it are checked in less than half a minute
_SEVERITY = {"error": "blocking", "warning": "warning", "note": "ok"}


def challenge_file(run: RunFolder | None) -> None:
    """The whole part: what is asked for, the form, and the report of the last check."""
    earlier = session.chosen_run("submission")
    before = _asked(earlier)
    rules = pick_challenge(before.challenge if before else "", "submit_challenge")
    if before is not None and before.challenge != rules.name:
        before = None
    left, right = st.columns([3, 2], gap="large")
    with right, st.container(border=True, key="challenge_rules"):
        st.markdown(f"**What the {rules.title} asks for**")
        st.markdown("\n".join(f"- {line}" for line in rule_lines(rules)))
    with left:
        wanted = submission_form(run, rules, before)
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
        template_section(rules)
    if earlier is not None:
        st.divider()
        _report(earlier, wanted)


def _start(request: SubmissionRequest) -> None:
    verb = "Challenge file" if request.write else "Check"
    # somebody waits for a check of few cells, which does not stand behind long work
    quick = not request.write and Path(request.source).stat().st_size < QUICK_BYTES
    run_id = start_job(request, f"{verb}: {load_rules(request.challenge).title}", lane="short" if quick else None)
    st.session_state["submit_repairs"] = request.repairs
    session.choose("submission", run_id)
    st.rerun()


def _asked(run: RunFolder | None) -> SubmissionRequest | None:
    return run.request_as(SubmissionRequest) if run is not None else None


def _report(run: RunFolder, wanted: SubmissionRequest | None) -> None:
    asked = run.request_as(SubmissionRequest)
    rules = load_rules(asked.challenge)
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
        st.markdown(f"#### {_good_words(report)}")
    st.caption(f"{size_words}{repaired}.")
    if report.null:
        kind = f"{report.options.get('kind', '')} predictions, rounding {report.options.get('rounding', '')}"
        st.caption(f"Null check ({kind}): {'; '.join(null_words(report))}.")


def _good_words(report: Report) -> str:
    """Return the headline of a submission that can be packed: what costs score, or was not checked, is in it."""
    known = next((f for f in report.findings if f.code == "targets-known"), None)
    if known is not None:
        return f"Can be packed. {known.title.rstrip('.')}"
    poor = next((f for f in report.findings if f.code in ("genes-zero", "genes-filled")), None)
    if poor is not None:
        zero = poor.code == "genes-zero"
        return poor.title.rstrip(".") if zero else f"Can be packed, but {poor.title[0].lower()}{poor.title[1:].rstrip('.')}"
    if "targets-unknown" in report.codes():
        return "Can be packed. Not checked: perturbations"
    return "Nothing stands against this submission"


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
        if repair is None or repair.automatic:
            return
        if repair.name not in asked.repairs and button.button(
            repair_words(repair.name), key=f"repair_{number}_{repair.name}", help=repair.title, icon=":material/build:"
        ):
            _start(replace(asked, repairs=(*asked.repairs, repair.name), write=False))
        # never among "all": zeros are large effects that nobody predicted
        zeros = REPAIRS["zero-missing-genes"]
        if item.code == "genes-missing" and button.button(
            "Zero instead", key=f"repair_{number}_zeros", type="tertiary", help=zeros.title
        ):
            _start(replace(asked, repairs=(*asked.repairs, zeros.name), write=False))


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
