"""A report of a submission as lines and as JSON."""

from __future__ import annotations

from state_engine.challenge.findings import REPAIRS, Report
from state_engine.challenge.spec import ChallengeSpec
from state_engine.plain import part_of, plural, to_plain


def report_plain(report: Report) -> dict[str, object]:
    """Return a report as JSON values, with `ok` and the repairs on offer."""
    return {"ok": report.ok, **to_plain(report), "offered": [repair.name for repair in report.offered]}


def report_lines(report: Report, spec: ChallengeSpec) -> list[str]:
    """Return a report for people, one line each."""
    cells, genes = plural(report.n_cells, "cell"), plural(report.n_genes, "gene")
    size = f"{cells} x {genes}, {plural(report.n_entries, 'value')}, {plural(report.n_perturbations, 'perturbation')}"
    lines = [f"{spec.rules.title}: {report.source}", f"  {size}"]
    if spec.rules.context_key and report.cells:
        lines.append("  " + ", ".join(f"{context or 'no context'}: {plural(n, 'cell')}" for context, n in report.cells.items()))
    for finding in report.findings:
        lines.append(f"{finding.severity.upper():8}{finding.title} [{finding.code}]")
        lines += [f"        {finding.detail}"] if finding.detail else []
        if finding.severity != "note" and finding.repair:
            lines.append(f"        --repair {finding.repair}: {REPAIRS[finding.repair].title}.")
    lines += [f"REPAIRED {REPAIRS[name].title}." for name in report.repairs]
    if report.options:
        lines.append("COUNTS  " + ", ".join(f"{key} {value}" for key, value in report.options.items()))
    lines += [f"NULL    {words}" for words in null_words(report)]
    if report.archive:
        lines.append(f"{report.archive.path}: {report.archive.bytes:,} bytes, sha256 {report.archive.sha256}")
    errors = len(report.errors)
    lines.append(f"{plural(errors, 'error')}." if errors else "No errors.")
    return lines


def null_words(report: Report) -> list[str]:
    """Return what the null check gave, a sentence for each context."""
    return [
        f"{f'{check.context}: ' if check.context else ''}effect zero through the same steps calls "
        f"{part_of(check.called, check.genes, 'gene')} ({check.cells:,} {check.of} against {plural(check.controls, 'other')})"
        for check in report.null
    ]
