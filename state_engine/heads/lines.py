"""A fine-tuning and an annotation as lines of text. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from state_engine.heads.report import CELLS, REPORT, Annotation, CalledGroup, HeadReport, Score, Share
from state_engine.plain import agreed, part_of, plural, visible


def report_lines(report: HeadReport, output: Path) -> Iterator[str]:
    """Yield what was fitted, its scores beside the baselines, the confusion matrix, and where it lies."""
    split = report.split
    yield f"{output}: '{visible(report.name)}' ({report.id}), a {report.head} head on {report.vectors}"
    parts = f"{plural(split.train, 'cell')} to train on, {split.validation:,} to validate on, {split.test:,} to test on"
    yield f"  {parts}{_groups(report)}; seed {report.seed}, {report.seconds:,.0f} s on {report.device}"
    for remark in report.remarks:
        yield f"  {remark}"
    names = [score.metric for score in report.own.scores]
    rows = [["test cells", *(name.replace("_", " ") for name in names)]]
    rows += [[method.name, *(_with_interval(method.score(name)) for name in names)] for method in report.methods]
    yield from _columns(rows)
    if report.calibration_error is not None:
        yield (
            f"Calibrated: temperature {report.temperature:.2f}, mean gap between probability and share right "
            f"{report.calibration_error:.3f} (before {report.error_before or 0.0:.3f})."
        )
    if report.confusion:
        yield "True label (rows) by called label (columns):"
        labels = list(map(visible, report.labels))
        yield from _columns(
            [["", *labels], *([name, *map(str, row)] for name, row in zip(labels, report.confusion, strict=True))]
        )
    yield (
        f"{part_of(report.n_wrong, split.test, 'test cell')} {agreed(report.n_wrong, 'is', 'are')} called wrongly: {CELLS}."
        if report.labels
        else f"Every test cell: {CELLS}."
    )
    yield f"Everything in numbers: {REPORT}."


def _groups(report: HeadReport) -> str:
    split = report.split
    return f" ({split.column}: {', '.join(map(visible, split.test_groups[:6]))})" if split.column else ""


def _with_interval(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.3f}" if score.low is None else f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def annotation_lines(annotation: Annotation, output: Path | None) -> Iterator[str]:
    """Yield what was called, and of a prediction what each kind of cells was called."""
    where = output if output is not None else annotation.data
    how = f"in {annotation.seconds:,.0f} s on {annotation.device}"
    yield f"{where}: {plural(annotation.cells, 'cell')} called by '{visible(annotation.head)}' ({annotation.head_id}), {how}"
    yield f"  reads {annotation.vectors}"
    for remark in annotation.remarks:
        yield f"  {remark}"
    if annotation.task == "regression":
        yield f"  mean {_number(annotation.value)}, standard deviation {_number(annotation.spread)}"
    for share in _worth_a_line(annotation):
        yield f"  {visible(share.label)}: {plural(share.cells, 'cell')} ({share.share:.1%})"
    if annotation.groups:
        yield from _columns(list(_group_rows(annotation)), 3)


def _worth_a_line(annotation: Annotation) -> list[Share]:
    """What is shown: each label, and unknown where any cell is."""
    unknown = annotation.unknown_share
    return [share for share in annotation.shares if share is not unknown or share.cells]


def _group_rows(annotation: Annotation) -> Iterator[list[str]]:
    labels = [share.label for share in _worth_a_line(annotation)]
    numbers = ["mean", "sd"] if annotation.task == "regression" else list(map(visible, labels))
    yield ["context", "perturbation", "cells", "n", *numbers]
    for group in annotation.groups:
        names = [visible(group.context), visible(group.perturbation), group.kind]
        yield [*names, f"{group.cells:,}", *_called(group, labels, annotation)]


def _called(group: CalledGroup, labels: list[str], annotation: Annotation) -> list[str]:
    if annotation.task == "regression":
        return [_number(group.value), _number(group.spread)]
    return [f"{group.share(label) or 0.0:.1%}" for label in labels]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _columns(rows: list[list[str]], names: int = 1) -> Iterator[str]:
    """Yield aligned text: the first columns are names, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [v.ljust(w) if i < names else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()
