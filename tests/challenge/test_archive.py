"""Archives: what is in them, the same bytes every time, nothing of whoever made them, and no half-written file."""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zstandard
from scipy import sparse

from state_engine.challenge.archive import write_archive
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Report
from state_engine.challenge.source import SubmissionSource, source_of_run
from state_engine.data.files import blocks as matrix
from state_engine.errors import JobCancelled
from state_engine.progress import Progress
from tests.challenge.conftest import Submission


def pack(submission: Submission, name: str = "s.vcc", **options: object) -> Report:
    return write_archive(submission.source(), submission.spec(), submission.folder / name, **options)  # type: ignore[arg-type]


def unpack(archive: Path) -> ad.AnnData:
    with tarfile.open(archive) as tar:
        packed = tar.extractfile("pred.h5ad.zst")
        assert packed is not None
        h5ad = archive.with_suffix(".h5ad")
        h5ad.write_bytes(zstandard.ZstdDecompressor().decompress(packed.read()))
    return ad.read_h5ad(h5ad)


def left_over(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"predictions.h5ad", "gene_names.csv", "pert_counts.csv"}


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_2025_content(vcc2025: Submission, kind: str) -> None:
    vcc2025.kind = kind
    vcc2025.obs["extra"] = 1
    vcc2025.layers["raw"] = vcc2025.x
    report = pack(vcc2025)
    assert report.ok
    assert report.archive is not None
    assert "dropped" in report.codes("note")
    got = unpack(Path(report.archive.path))
    assert isinstance(got.X, sparse.csr_matrix)
    assert (got.X.data.dtype, got.X.indices.dtype, got.X.indptr.dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(got.X.toarray(), vcc2025.x)
    assert list(got.obs.columns) == ["target_gene"]
    assert list(got.obs.target_gene) == list(vcc2025.obs.target_gene)
    assert list(got.obs_names) == [str(i) for i in range(72)]
    assert list(got.var_names) == vcc2025.genes
    assert not got.layers
    assert not got.uns
    with tarfile.open(report.archive.path) as tar:
        assert tar.getnames() == ["pred.h5ad.zst", "watermark.txt"]
        watermark = tar.extractfile("watermark.txt")
        assert watermark is not None
        assert watermark.read() == b"vcc-prep"


def test_2026_content(vcc2026: Submission) -> None:
    report = pack(vcc2026)
    assert report.archive is not None
    got = unpack(Path(report.archive.path))
    np.testing.assert_array_equal(got.X.toarray(), vcc2026.x)
    assert list(got.obs.context) == list(vcc2026.obs.context)
    with tarfile.open(report.archive.path) as tar:
        assert tar.getnames() == ["meta.json", "pred.h5ad.zst"]
        content = tar.extractfile("meta.json")
        assert content is not None
        text = content.read().decode()
    meta = json.loads(text)
    assert text == json.dumps(meta, sort_keys=True)
    assert (meta["n_obs"], meta["n_vars"], meta["nnz"]) == (60, 30, np.count_nonzero(vcc2026.x))
    assert (meta["schema"], meta["contexts"]) == (1, ["A", "B", "C"])
    assert meta["perts_fingerprint"] == "sha256:" + hashlib.sha256(b"ADNP\nBRD4\nCTCF\nKLF10\nKLF2").hexdigest()


def test_the_manifest_beside_the_lists_says_contexts_and_panel(vcc2026: Submission) -> None:
    (vcc2026.folder / "manifest.json").write_text(json.dumps({"contexts": ["A", "B", "C"], "panel_id": "p1"}))
    vcc2026.contexts = None
    report = pack(vcc2026)
    assert "contexts-assumed" not in report.codes()
    assert report.archive is not None
    with tarfile.open(report.archive.path) as tar:
        content = tar.extractfile("meta.json")
        assert content is not None
        assert json.loads(content.read())["panel_id"] == "p1"


def test_same_input_same_bytes(vcc2025: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again, with other blocks, from other storage."""
    first = pack(vcc2025).archive
    again = pack(vcc2025, "again.vcc").archive
    monkeypatch.setattr(matrix, "BLOCK_VALUES", 50)
    small = pack(vcc2025, "small.vcc").archive
    vcc2025.kind = "csc"
    columns = pack(vcc2025, "columns.vcc").archive
    vcc2025.kind = "dense"
    dense = pack(vcc2025, "dense.vcc").archive
    assert first is not None
    for other in (again, small, columns, dense):
        assert other is not None
        assert (other.sha256, other.bytes) == (first.sha256, first.bytes)
        assert Path(other.path).read_bytes() == Path(first.path).read_bytes()
    assert hashlib.sha256(Path(first.path).read_bytes()).hexdigest() == first.sha256


def test_nothing_of_the_machine_goes_in(vcc2025: Submission) -> None:
    report = pack(vcc2025)
    assert report.archive is not None
    with tarfile.open(report.archive.path) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
        packed = tar.extractfile("pred.h5ad.zst")
        assert packed is not None
        content = packed.read()
    frame = zstandard.get_frame_parameters(content)
    assert frame.content_size == report.archive.h5ad_bytes
    assert frame.has_checksum
    assert hashlib.sha256(zstandard.ZstdDecompressor().decompress(content)).hexdigest() == report.archive.h5ad_sha256


def test_nothing_is_compressed_inside_hdf5(vcc2025: Submission) -> None:
    report = pack(vcc2025)
    assert report.archive is not None
    unpack(Path(report.archive.path))
    with h5py.File(Path(report.archive.path).with_suffix(".h5ad")) as file:
        assert all(file[f"X/{name}"].compression is None for name in ("data", "indices", "indptr"))


def test_very_many_entries_get_wide_indices(vcc2025: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2**31 - 1 entries (here: 100) both index arrays are int64, as SciPy needs them."""
    monkeypatch.setattr("state_engine.data.files.csr_writer.MOST_INT32", 100)
    report = pack(vcc2025)
    assert report.archive is not None
    got = unpack(Path(report.archive.path)).X
    with h5py.File(Path(report.archive.path).with_suffix(".h5ad")) as file:
        assert (file["X/indices"].dtype, file["X/indptr"].dtype) == (np.int64, np.int64)
    got.sum_duplicates()
    np.testing.assert_array_equal(got.toarray(), vcc2025.x)


def test_errors_write_nothing_and_keep_what_is_there(vcc2025: Submission) -> None:
    output = vcc2025.folder / "s.vcc"
    output.write_text("the one before")
    vcc2025.x[70, 3] = np.nan
    report = pack(vcc2025)
    assert not report.ok
    assert report.archive is None
    assert output.read_text() == "the one before"
    assert left_over(vcc2025.folder) == {"s.vcc"}


def test_an_old_archive_is_replaced_with_a_note(vcc2025: Submission) -> None:
    pack(vcc2025)
    assert "output-exists" in pack(vcc2025).codes("note")


def test_input_is_never_overwritten(vcc2025: Submission) -> None:
    source, spec = vcc2025.source(), vcc2025.spec()
    before = source.path.read_bytes()
    report = write_archive(source, spec, source.path)
    assert "output-is-input" in report.codes("error")
    assert source.path.read_bytes() == before


def test_unwritable_output_is_an_error_with_the_others(vcc2025: Submission) -> None:
    vcc2025.x[3, 3] = np.nan
    report = write_archive(vcc2025.source(), vcc2025.spec(), vcc2025.folder / "no" / "s.vcc")
    assert {"output-unwritable", "values-nan"} <= report.codes("error")
    assert report.archive is None


@pytest.mark.parametrize("stage", ["Checking cells", "Writing the matrix", "Compressing", "Packing"])
def test_cancelled_leaves_nothing(vcc2025: Submission, stage: str) -> None:
    seen = []

    def stop(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage == stage:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        pack(vcc2025, on_progress=stop)
    assert seen[-1] == stage
    assert left_over(vcc2025.folder) == set()


def test_a_full_disk_is_a_finding(vcc2025: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("state_engine.challenge.archive.write_h5ad", full)
    report = pack(vcc2025)
    assert report.archive is None
    assert "No space left" in next(f.detail for f in report.findings if f.code == "output-unwritable")
    assert left_over(vcc2025.folder) == set()


def test_repair_genes(vcc2025: Submission) -> None:
    """Another order, one missing, one too many."""
    s = vcc2025
    truth = s.x.copy()
    order = np.random.default_rng(1).permutation(30)
    s.genes, s.x = [s.genes[i] for i in order], s.x[:, order]
    s.genes[4] = "EXTRA"
    truth[:, order[4]] = 0
    assert not pack(s).ok
    assert "genes-unfilled" in pack(s, repairs=("drop-extra-genes", "fill-missing-genes")).codes("error")
    assert "genes-unfilled" in pack(s, repairs=("all",)).codes("error")  # zeros only by name
    report = pack(s, repairs=("drop-extra-genes", "zero-missing-genes"))
    assert report.ok
    assert {"reorder-genes", "drop-extra-genes", "zero-missing-genes"} == set(report.repairs)
    assert {"genes-order", "genes-extra", "genes-missing"} <= report.codes("note")
    assert report.archive is not None
    got = unpack(Path(report.archive.path))
    np.testing.assert_array_equal(got.X.toarray(), truth)
    assert list(got.var_names) == s.gene_lines


def test_repair_offered_then_made(vcc2025: Submission) -> None:
    vcc2025.obs["target_gene"] = vcc2025.obs["target_gene"].astype(str).replace("non-targeting", "NT")
    report = pack(vcc2025)
    assert [r.name for r in report.offered] == ["rename-control"]
    report = pack(vcc2025, repairs=("rename-control",))
    assert report.ok
    assert report.repairs == ("rename-control",)
    assert report.archive is not None
    assert (unpack(Path(report.archive.path)).obs.target_gene == "non-targeting").sum() == 12


def test_repair_drop_controls(vcc2026: Submission) -> None:
    more = vcc2026.obs.iloc[:8].assign(target_gene="NTC")
    vcc2026.obs = pd.concat([more, vcc2026.obs]).reset_index(drop=True).rename(index=str)
    truth = vcc2026.x
    vcc2026.x = np.vstack([np.full((8, 30), 5, np.float32), truth])
    assert "control-present" in pack(vcc2026).codes("error")
    report = pack(vcc2026, repairs=("drop-controls",))
    assert report.ok
    assert report.archive is not None
    np.testing.assert_array_equal(unpack(Path(report.archive.path)).X.toarray(), truth)


def test_repair_add_controls(vcc2025: Submission) -> None:
    """Controls come from another file, with its genes in another order, behind the predictions."""
    s = vcc2025
    controls, s.x = s.x[:12], s.x[12:]
    s.obs = s.obs.iloc[12:]
    path = s.folder / "controls.h5ad"
    obs = pd.DataFrame({"target_gene": ["control"] * 12}, index=[f"k{i}" for i in range(12)])
    ad.AnnData(sparse.csr_matrix(controls[:, ::-1]), obs=obs, var=pd.DataFrame(index=s.genes[::-1])).write_h5ad(path)
    s.control_files = (path,)
    assert "control-missing" in pack(s).codes("error")
    report = pack(s, repairs=("add-controls",))
    assert report.ok
    assert report.n_cells == 72
    assert report.archive is not None
    got = unpack(Path(report.archive.path))
    np.testing.assert_array_equal(got.X.toarray(), np.vstack([s.x, controls]))
    assert list(got.obs.target_gene[-12:]) == ["non-targeting"] * 12


def test_repair_normalise(vcc2025: Submission) -> None:
    rng = np.random.default_rng(0)
    vcc2025.x = rng.poisson(3, vcc2025.x.shape).astype(np.float32)
    totals = vcc2025.x.sum(1)
    assert "values-counts" in pack(vcc2025).codes("error")
    report = pack(vcc2025, repairs=("normalise",))
    assert report.ok
    assert report.archive is not None
    truth = np.log1p(vcc2025.x / totals[:, None] * np.median(totals))
    np.testing.assert_allclose(unpack(Path(report.archive.path)).X.toarray(), truth, rtol=1e-6)


def test_normalise_leaves_log1p_alone(vcc2025: Submission) -> None:
    report = pack(vcc2025, repairs=("all",))
    assert report.repairs == ()
    assert report.archive is not None
    np.testing.assert_array_equal(unpack(Path(report.archive.path)).X.toarray(), vcc2025.x)


def test_untidy_storage_is_tidied(vcc2025: Submission) -> None:
    """Stored zeros, columns out of order and an entry in two parts."""
    path = vcc2025.write()
    with h5py.File(path, "r+") as file:
        group = file["X"]
        data, indices, pointers = group["data"][:], group["indices"][:], group["indptr"][:]
        for low, high in itertools.pairwise(pointers):
            data[low:high], indices[low:high] = data[low:high][::-1].copy(), indices[low:high][::-1].copy()
        data = np.concatenate([data, np.float32([0.5, 0.25, 0])])
        indices = np.concatenate([indices, np.int32([7, 7, 3])])
        pointers[-1] += 3
        for name, values in (("data", data), ("indices", indices), ("indptr", pointers)):
            del group[name]
            group[name] = values
    vcc2025.x[-1, 7] += 0.75
    report = write_archive(SubmissionSource(path), vcc2025.spec(), vcc2025.folder / "s.vcc")
    assert report.ok
    assert report.repairs == ("sparsify",)
    assert report.archive is not None
    got = unpack(Path(report.archive.path)).X
    np.testing.assert_array_equal(got.toarray(), vcc2025.x)
    assert got.has_canonical_format
    assert (got.data != 0).all()


def test_a_run_becomes_a_submission(vcc2025: Submission, vcc2026: Submission) -> None:
    """2025 takes predicted rows and observed controls, 2026 predicted rows alone; both in the order of the result."""
    s = vcc2025
    kinds = np.array(["observed control"] * 12 + ["predicted"] * 60)
    s.kind, s.obs["kind"] = "dense", kinds
    s.obs = s.obs.rename(columns={"target_gene": "perturbation"}).assign(context="all cells")
    more = s.obs.iloc[:4].assign(kind=["predicted control", "observed"] * 2)
    s.x, s.obs = np.vstack([s.x[:4] + 1, s.x]), pd.concat([more, s.obs]).reset_index(drop=True).rename(index=str)
    s.layers["raw"] = s.x
    source = source_of_run(s.write(), s.spec().rules)
    report = write_archive(source, s.spec(), s.folder / "s.vcc")
    assert report.ok
    assert report.archive is not None
    np.testing.assert_array_equal(unpack(Path(report.archive.path)).X.toarray(), s.x[4:])
    assert source_of_run(s.path, vcc2026.spec().rules).kinds == ("predicted",)


def test_counts_step_into_an_archive(vcc2025: Submission, vcc2026: Submission) -> None:
    """Fractions are refused without the step and whole with it; the same seed gives the same bytes."""
    s = vcc2026
    s.x = np.log1p(s.x / s.x.sum(1, keepdims=True) * 1e4).astype(np.float32)
    assert "values-fractional" in pack(s).codes("error")
    report = pack(s, counts=CountsOptions(library=500, seed=3))
    assert report.ok
    asked = {"asked": "auto", "kind": "unknown"}
    assert report.options == {"rounding": "poisson", "seed": 3, "library": 500, "control_files": [], **asked}
    assert report.archive is not None
    got = unpack(Path(report.archive.path)).X.toarray()
    assert (got == np.trunc(got)).all()
    again, other = pack(s, counts=CountsOptions(library=500, seed=3)), pack(s, counts=CountsOptions(library=500, seed=4))
    assert again.archive == report.archive
    assert other.archive != report.archive
    assert "counts-not-asked" in pack(vcc2025, counts=CountsOptions()).codes("error")
