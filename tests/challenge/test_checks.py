"""Every check has a bad file: it is reported, with its severity, together with another problem of the same file, and nothing raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from state_engine.challenge.check import check
from state_engine.challenge.counts import CountsOptions, cell_totals
from state_engine.challenge.findings import Report, found
from state_engine.challenge.source import SubmissionSource, open_source
from state_engine.challenge.spec import load_challenge
from state_engine.errors import ChallengeError
from tests.challenge.conftest import Submission

Spoil = Callable[[Submission], None]


def run(submission: Submission, **options: object) -> Report:
    return check(submission.source(), submission.spec(), **options)  # type: ignore[arg-type]


def relabel(submission: Submission, old: str, new: str | None, column: str = "target_gene") -> None:
    labels = submission.obs[column].astype(object)
    labels[labels == old] = new
    submission.obs[column] = labels


def set_values(rows: slice, columns: slice, value: float) -> Spoil:
    def spoil(s: Submission) -> None:
        s.x[rows, columns] = value

    return spoil


def scale(factor: float, rows: slice = slice(None)) -> Spoil:
    def spoil(s: Submission) -> None:
        s.x[rows] *= factor

    return spoil


def drop_gene(s: Submission) -> None:
    s.genes.pop(3)
    s.x = np.delete(s.x, 3, 1)


def add_gene(s: Submission) -> None:
    s.genes.append("EXTRA")
    s.x = np.hstack([s.x, s.x[:, :1]])


def keep_rows(s: Submission, keep: np.ndarray) -> None:
    s.x, s.obs = s.x[keep], s.obs[keep]


def damage_h5(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def rewrite(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            values = change(file[key][:])
            attrs = dict(file[key].attrs)
            del file[key]
            file.create_dataset(key, data=values).attrs.update(attrs)

    return lambda s: s.after.append(rewrite)


def truncate(s: Submission) -> None:
    s.after.append(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))


def external_link(s: Submission) -> None:
    def rewrite(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = h5py.ExternalLink("elsewhere.h5", "X")

    s.after.append(rewrite)


def lose_x(s: Submission) -> None:
    def rewrite(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["X"]

    s.after.append(rewrite)


def text_values(s: Submission) -> None:
    def rewrite(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = np.full((len(s.obs), len(s.genes)), b"many")

    s.after.append(rewrite)


def identical_cells(s: Submission) -> None:
    s.x[12:24] = s.x[12]


BAD_2025: dict[str, tuple[Spoil, str, str]] = {
    "column missing": (lambda s: s.obs.rename(columns={"target_gene": "gene"}, inplace=True), "perturbation-column", "error"),
    "control missing": (lambda s: keep_rows(s, (s.obs.target_gene != "non-targeting").to_numpy()), "control-missing", "error"),
    "control renamed": (lambda s: relabel(s, "non-targeting", "control"), "control-renamed", "error"),
    "control in other letters": (lambda s: relabel(s, "non-targeting", "Non_Targeting"), "control-renamed", "error"),
    "NaN labels": (lambda s: relabel(s, "BRD4", None), "labels-missing", "error"),
    "label called nan": (lambda s: relabel(s, "BRD4", "nan"), "labels-missing", "error"),
    "genes missing": (drop_gene, "genes-missing", "error"),
    "genes extra": (add_gene, "genes-extra", "error"),
    "genes in other order": (lambda s: s.genes.reverse(), "genes-order", "note"),
    "genes twice": (lambda s: s.genes.__setitem__(1, s.genes[0]), "genes-duplicated", "error"),
    "other identifiers": (
        lambda s: s.genes.__setitem__(slice(None), [f"ENSG{i:011d}" for i in range(30)]),
        "genes-missing",
        "error",
    ),
    "header in the gene list": (lambda s: s.gene_lines.insert(0, "gene_name"), "gene-list-header", "warning"),
    "gene list with repeats": (lambda s: s.gene_lines.append(s.gene_lines[0]), "gene-list-duplicates", "error"),
    "gene list empty": (lambda s: s.gene_lines.clear(), "gene-list-empty", "error"),
    "gene list of another length": (lambda s: None, "gene-list-length", "warning"),
    "list of perturbations empty": (lambda s: s.target_lines.__delitem__(slice(1, None)), "targets-empty", "error"),
    "list of perturbations without column": (lambda s: s.target_lines.__setitem__(0, "a,b,c"), "targets-column", "error"),
    "NaN": (set_values(slice(3, 5), slice(2, 3), np.nan), "values-nan", "error"),
    "infinite": (set_values(slice(3, 5), slice(2, 3), np.inf), "values-infinite", "error"),
    "negative": (set_values(slice(3, 5), slice(2, 3), -0.5), "values-negative", "error"),
    "five times": (scale(5), "values-too-large", "error"),
    "one and a half times": (scale(1.5, slice(0, 36)), "depth-varies", "warning"),
    "predictions at another depth": (
        lambda s: s.x.__setitem__(slice(12, None), np.log1p(np.expm1(s.x[12:]) / 4)),
        "depth-shifted",
        "warning",
    ),
    "not logged": (lambda s: s.x.__setitem__(slice(None), np.expm1(s.x)), "values-too-large", "error"),
    "counts": (lambda s: s.x.__setitem__(slice(None), np.round(s.x)), "values-counts", "error"),
    "unknown perturbation": (lambda s: relabel(s, "BRD4", "BRD4-1"), "perturbations-unknown", "error"),
    "missing perturbation": (lambda s: keep_rows(s, (s.obs.target_gene != "KLF2").to_numpy()), "perturbations-missing", "error"),
    "cells per perturbation": (lambda s: keep_rows(s, np.arange(len(s.x)) != 20), "cells-per-perturbation", "warning"),
    "one perturbation zero": (set_values(slice(12, 24), slice(None), 0), "perturbation-all-zero", "error"),
    "one cell zero": (set_values(slice(13, 14), slice(None), 0), "cells-empty", "warning"),
    "all zero": (scale(0), "all-zero", "error"),
    "a mean many times over": (identical_cells, "cells-identical", "warning"),
    "no cells": (lambda s: keep_rows(s, np.zeros(len(s.x), bool)), "no-cells", "error"),
    "truncated": (truncate, "file-unreadable", "error"),
    "not HDF5": (lambda s: s.after.append(lambda path: path.write_text("label,value")), "file-unreadable", "error"),
    "no file": (lambda s: s.after.append(Path.unlink), "file-unreadable", "error"),
    "no X": (lose_x, "file-unreadable", "error"),
    "link to another file": (external_link, "file-unreadable", "error"),
    "X is text": (text_values, "file-unreadable", "error"),
    "pointers go back": (damage_h5("X/indptr", lambda v: v[::-1].copy()), "file-unreadable", "error"),
    "pointers past the end": (
        damage_h5("X/indptr", lambda v: v + (np.arange(len(v)) == len(v) - 1) * 9),
        "file-unreadable",
        "error",
    ),
    "too few pointers": (damage_h5("X/indptr", lambda v: v[:-1]), "file-unreadable", "error"),
    "lost indices": (damage_h5("X/indices", lambda v: v[:-1]), "file-unreadable", "error"),
    "index out of range": (damage_h5("X/indices", lambda v: v + 1), "file-unreadable", "error"),
    "codes without a name": (damage_h5("obs/target_gene/codes", lambda v: v + 9), "file-unreadable", "error"),
    "labels of another length": (damage_h5("obs/target_gene/codes", lambda v: v[:-1]), "file-unreadable", "error"),
}


def with_contexts(contexts: tuple[str, ...] | None) -> Spoil:
    def spoil(s: Submission) -> None:
        s.contexts = contexts

    return spoil


def control_rows(s: Submission) -> None:
    relabel(s, "ADNP", "non-targeting")


def too_many_counts(s: Submission) -> None:
    s.x[7, 3] = 1_000_001


BAD_2026: dict[str, tuple[Spoil, str, str]] = {
    "fractions": (set_values(slice(2, 4), slice(1, 2), 0.5), "values-fractional", "error"),
    "log1p": (lambda s: s.x.__setitem__(slice(None), np.log1p(s.x)), "values-fractional", "error"),
    "negative counts": (set_values(slice(2, 4), slice(1, 2), -1), "values-negative", "error"),
    "more than a float can count": (set_values(slice(2, 3), slice(1, 2), 2**25), "values-inexact", "error"),
    "controls": (control_rows, "control-present", "error"),
    "controls under another name": (lambda s: relabel(s, "ADNP", "NTC"), "control-present", "error"),
    "too many counts": (too_many_counts, "counts-per-cell", "error"),
    "no context column": (lambda s: s.obs.drop(columns="context", inplace=True), "context-column", "error"),
    "context missing": (lambda s: keep_rows(s, (s.obs.context != "B").to_numpy()), "contexts-missing", "error"),
    "context unknown": (lambda s: relabel(s, "B", "HeLa", "context"), "contexts-unknown", "error"),
    "another phase's contexts": (lambda s: relabel(s, "B", "E", "context"), "contexts-other-phase", "error"),
    "cells without a context": (lambda s: relabel(s, "B", None, "context"), "context-missing-label", "error"),
    "contexts of two phases": (
        lambda s: (relabel(s, "B", "E", "context"), with_contexts(None)(s))[1],
        "contexts-not-known",
        "error",
    ),
    "contexts not given": (with_contexts(None), "contexts-assumed", "note"),
    "one cell too few": (lambda s: keep_rows(s, np.arange(60) != 22), "cells-per-perturbation", "error"),
    "perturbation zero in one context": (set_values(slice(24, 28), slice(None), 0), "perturbation-all-zero", "error"),
    "no header": (lambda s: s.gene_lines.pop(0), "gene-list-header", "note"),
}


@pytest.mark.parametrize("name", BAD_2025)
def test_bad_2025(vcc2025: Submission, name: str) -> None:
    spoil, code, severity = BAD_2025[name]
    assert (code, severity) not in {(f.code, f.severity) for f in run(vcc2025).findings} or name == "gene list of another length"
    spoil(vcc2025)
    report = run(vcc2025)
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}
    assert report.ok is (severity != "error")
    assert all(f.title for f in report.findings)


@pytest.mark.parametrize("name", BAD_2026)
def test_bad_2026(vcc2026: Submission, name: str) -> None:
    spoil, code, severity = BAD_2026[name]
    assert (code, severity) not in {(f.code, f.severity) for f in run(vcc2026).findings}
    spoil(vcc2026)
    report = run(vcc2026)
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}
    assert report.ok is (severity != "error")


def test_good_files_are_good(vcc2025: Submission, vcc2026: Submission) -> None:
    assert run(vcc2025).codes() == {"gene-list-length"}
    vcc2026.folder = vcc2026.folder / "2026"
    vcc2026.folder.mkdir()
    assert run(vcc2026).codes() == {"gene-list-length"}


def test_all_problems_of_a_file_come_at_once(vcc2025: Submission) -> None:
    """Nine problems in one file: lists, genes, labels and values."""
    s = vcc2025
    s.x[3, 2], s.x[4, 2], s.x[5, 2] = np.nan, np.inf, -1
    drop_gene(s)
    add_gene(s)
    relabel(s, "non-targeting", "DMSO")
    relabel(s, "BRD4", None)
    s.gene_lines.insert(0, "genes")
    report = run(s)
    wanted = {
        "values-nan",
        "values-infinite",
        "values-negative",
        "genes-missing",
        "genes-extra",
        "control-renamed",
        "labels-missing",
    }
    assert wanted <= report.codes("error")
    assert {"gene-list-header", "gene-list-length"} <= report.codes("warning")
    assert [f.severity for f in report.findings] == sorted(
        (f.severity for f in report.findings), key=("error", "warning", "note").index
    )


def test_findings_have_numbers_examples_and_a_way_out(vcc2025: Submission) -> None:
    vcc2025.x[3:9, 2] = np.nan
    vcc2025.genes[:7] = [f"other{i}" for i in range(7)]
    findings = {f.code: f for f in run(vcc2025).findings}
    assert findings["values-nan"].count == 6
    assert findings["values-nan"].examples[0] == "cell 3, other2: nan"
    assert findings["genes-missing"].count == 7
    assert findings["genes-missing"].examples == ("GENE0", "GENE1", "GENE2", "GENE3", "GENE4")
    assert "and 2 more" in findings["genes-missing"].detail
    assert findings["genes-missing"].repair == "fill-missing-genes"


def test_too_many_cells_and_entries(vcc2026: Submission) -> None:
    from dataclasses import replace

    spec = vcc2026.spec()
    spec = replace(spec, rules=replace(spec.rules, max_cells=59, max_entries=1000, usual_cells=10))
    assert {"too-many-cells", "too-many-entries"} <= check(vcc2026.source(), spec).codes("error")
    spec = replace(spec, rules=replace(spec.rules, max_cells=60))
    assert "many-cells" in check(vcc2026.source(), spec).codes("warning")


def test_without_a_list_the_number_of_perturbations_is_checked(vcc2026: Submission) -> None:
    spec = load_challenge("vcc2026", genes=vcc2026.gene_list, contexts=("A", "B", "C"))
    report = check(vcc2026.source(), spec)
    assert "targets-unknown" in report.codes("warning")
    examples = [f.examples for f in report.findings if f.code == "perturbations-number"]
    assert examples == [tuple(f"5 in {c} instead of 300" for c in "ABC")]
    assert "cells-per-perturbation" in report.codes("error")


def test_output_over_the_input(vcc2025: Submission) -> None:
    """Also by another name of the same file."""
    source = vcc2025.source()
    other = source.path.with_name("other.vcc")
    other.hardlink_to(source.path)
    assert "output-is-input" in check(source, vcc2025.spec(), output=source.path).codes("error")
    assert "output-is-input" in check(source, vcc2025.spec(), output=other).codes("error")


def test_output_that_cannot_be_written(vcc2025: Submission) -> None:
    folder = vcc2025.folder
    for output in (folder / "missing" / "s.vcc", folder, Path("/proc/s.vcc")):
        assert "output-unwritable" in check(vcc2025.source(), vcc2025.spec(), output=output).codes("error")


def test_damage_that_shows_only_when_cells_are_read(vcc2025: Submission) -> None:
    """A compressed chunk whose bytes were overwritten: what was read before it is still reported."""
    path = vcc2025.write()
    with h5py.File(path, "r+") as file:
        data = file["X/data"][:]
        data[0] = np.nan
        del file["X/data"]
        place = file.create_dataset("X/data", data=data, compression="gzip", chunks=(256,))
        start = place.id.get_chunk_info(place.id.get_num_chunks() - 1).byte_offset
    content = bytearray(path.read_bytes())
    content[start + 8 : start + 40] = b"\xff" * 32
    path.write_bytes(content)
    report = check(SubmissionSource(path), vcc2025.spec())
    assert "file-damaged" in report.codes("error")


def test_run_without_kinds(vcc2025: Submission) -> None:
    source = SubmissionSource(vcc2025.write(), kinds=("predicted",))
    assert "kind-column" in check(source, vcc2025.spec()).codes("error")


def test_lists_that_cannot_be_read(vcc2025: Submission, tmp_path: Path) -> None:
    binary = tmp_path / "list.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, code in (
        (tmp_path / "none.csv", "gene-list-unreadable"),
        (binary, "gene-list-unreadable"),
        (None, "gene-list-missing"),
    ):
        assert code in check(vcc2025.source(), load_challenge("vcc2025", genes=path)).codes("error")
    assert "targets-unreadable" in check(vcc2025.source(), load_challenge("vcc2025", pert_counts=binary)).codes("error")


def test_wrong_requests_raise(vcc2025: Submission, tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match="no repair 'fix-all'"):
        run(vcc2025, repairs=("fix-all",))
    with pytest.raises(ChallengeError, match="cannot be read"):
        load_challenge(tmp_path / "none.toml")


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_storage_does_not_matter(vcc2025: Submission, kind: str) -> None:
    vcc2025.kind = kind
    vcc2025.x[3, 2] = np.nan
    report = run(vcc2025)
    assert report.codes("error") == {"values-nan"}
    assert report.n_entries == np.count_nonzero(vcc2025.x)


def test_labels_of_every_kind_of_column(vcc2025: Submission) -> None:
    """Categories, plain strings, nullable strings and numbers are read the same way."""
    labels = vcc2025.obs["target_gene"].astype(str)
    for column in (labels.astype("category"), labels.to_numpy(object), pd.array(labels, "string")):
        vcc2025.obs["target_gene"] = column
        with ad.settings.override(allow_write_nullable_strings=True):
            vcc2025.write()
        assert check(SubmissionSource(vcc2025.path), vcc2025.spec()).ok
    vcc2025.obs["target_gene"] = np.arange(len(labels))
    assert "perturbations-unknown" in run(vcc2025).codes("error")


def test_a_finding_counts_cells_and_names_labels() -> None:
    assert found("c", "error", "t", names=["control"], count=936).detail.startswith("control")
    assert ", ," not in found("c", "error", "t", names=["control"], count=936).detail
    assert "and 2 more" in found("c", "error", "t", names=list("abcdefg")).detail


# ---- the scale of each perturbation for itself ----


def counts_in(rows: slice) -> Spoil:
    def spoil(s: Submission) -> None:
        s.x[rows] = np.rint(np.expm1(s.x[rows]) / 700)

    return spoil


def unlogged(rows: slice) -> Spoil:
    def spoil(s: Submission) -> None:
        s.x[rows] = np.expm1(s.x[rows])

    return spoil


def shallow(rows: slice) -> Spoil:
    def spoil(s: Submission) -> None:
        s.x[rows] = np.log1p(np.expm1(s.x[rows]) / 4)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code", "severity", "example"),
    [
        (counts_in(slice(12, 24)), "perturbation-scale", "error", "ADNP (12 of 12 cells have whole numbers alone)"),
        (counts_in(slice(15, 17)), "perturbation-scale", "error", "ADNP (2 of 12 cells have whole numbers alone)"),
        (unlogged(slice(24, 36)), "perturbation-unlogged", "error", "BRD4 (up to "),
        (shallow(slice(24, 36)), "perturbation-depth", "warning", "BRD4 (2,500)"),
    ],
)
def test_one_perturbation_of_another_scale_is_named(
    vcc2025: Submission, spoil: Spoil, code: str, severity: str, example: str
) -> None:
    assert not {f.code for f in run(vcc2025).findings if f.code.startswith("perturbation-")}
    spoil(vcc2025)
    found_codes = {f.code: f for f in run(vcc2025).findings}
    assert found_codes[code].severity == severity and found_codes[code].count == 1
    assert found_codes[code].examples[0].startswith(example)


def test_log_values_of_one_perturbation_among_counts_are_named(vcc2026: Submission) -> None:
    vcc2026.x[24:28] = np.log1p(vcc2026.x[24:28])
    scale_of = next(f for f in run(vcc2026).findings if f.code == "perturbation-scale")
    assert scale_of.examples == ("BRD4 in B (4 of 4 cells have fractions)",)


def test_the_counts_step_looks_at_what_comes_in(vcc2026: Submission) -> None:
    vcc2026.x = np.log1p(vcc2026.x / vcc2026.x.sum(1, keepdims=True) * 1e4)
    good = run(vcc2026, counts=CountsOptions(library=2000.0))
    assert good.ok, good.findings
    vcc2026.x[24:28] = np.rint(vcc2026.x[24:28])
    report = run(vcc2026, counts=CountsOptions(library=2000.0))
    assert [f.examples for f in report.findings if f.code == "perturbation-scale"] == [
        ("BRD4 in B (4 of 4 cells have whole numbers alone)",)
    ]


# ---- rows of var that are no genes ----


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_guides_and_antibodies_are_left_out_and_told(vcc2025: Submission, kind: str) -> None:
    vcc2025.kind = kind
    alone = run(vcc2025)
    guides = np.full((len(vcc2025.x), 3), np.nan, np.float32)
    vcc2025.x = np.hstack([vcc2025.x[:, :10], guides, vcc2025.x[:, 10:]])
    vcc2025.genes[10:10] = ["sgA", "sgB", "CD3"]
    kinds = ["Gene Expression"] * 33
    kinds[10:13] = ["CRISPR Guide Capture", "CRISPR Guide Capture", "Antibody Capture"]

    def name_kinds(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            ad.io.write_elem(file["var"], "feature_types", np.array(kinds, dtype=object))
            file["var"].attrs["column-order"] = ["feature_types"]

    vcc2025.after.append(name_kinds)
    report = run(vcc2025)
    assert report.ok and (report.n_genes, report.n_entries) == (30, alone.n_entries)
    told = next(f for f in report.findings if f.code == "not-genes")
    words = "3 of the 33 rows of var are no genes and are left out: 2 CRISPR Guide Capture, 1 Antibody Capture."
    assert told.severity == "note" and told.title == words
    opened = open_source(vcc2025.source(), vcc2025.spec().rules)
    assert np.isfinite(cell_totals(opened)[0]).all() and opened.genes == tuple(vcc2025.gene_lines)
