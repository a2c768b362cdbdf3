"""Beside the official packers, live: what `cell-eval prep` and `vcc prep` write, and what vcc's own validator says of ours."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import zstandard

from state_engine.challenge.archive import write_archive
from state_engine.challenge.verify import verify
from tests.challenge.conftest import Submission, log1p_values

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def h5ad_of(archive: Path) -> bytes:
    with tarfile.open(archive) as tar:
        packed = tar.extractfile("pred.h5ad.zst")
        assert packed is not None
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed.read())


def cell_eval_prep(python: Path, s: Submission) -> Path:
    output = s.folder / "theirs.vcc"
    command = [python.with_name("cell-eval"), "prep", "-i", s.path, "-g", s.gene_list, "-o", output]
    subprocess.run(command, check=True, capture_output=True)
    return output


def vcc_prep(python: Path, s: Submission) -> Path:
    output = s.folder / "theirs.vcc"
    command = [
        python.with_name("vcc"),
        "prep",
        s.path,
        "-g",
        s.gene_list,
        "--perts",
        s.target_list,
        "--contexts",
        "A,B,C",
        "-o",
        output,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return output


def larger(s: Submission, n: int) -> None:
    """n cells, so that X takes many HDF5 chunks."""
    s.obs = s.obs.iloc[np.arange(n) % len(s.obs)].reset_index(drop=True).rename(index=str)
    s.x = log1p_values(np.random.default_rng(1), n)


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("n", [72, 1, 20_000])
def test_h5ad_is_byte_identical_to_cell_eval(vcc2025: Submission, packer_python: Path, kind: str, n: int) -> None:
    vcc2025.kind = kind
    larger(vcc2025, n)
    source, output = vcc2025.source(), vcc2025.folder / "ours.vcc"
    report = write_archive(source, vcc2025.spec(), output)
    if n == 1:
        assert not report.ok  # perturbations are missing
        vcc2025.target_lines = ["target_gene"]
        spec = vcc2025.spec()
        report = write_archive(source, type(spec)(spec.rules, spec.genes), output)
    assert report.ok
    assert h5ad_of(output) == h5ad_of(cell_eval_prep(packer_python, vcc2025))


def test_their_archive_passes_our_checks_but_names_its_packer(vcc2025: Submission, packer_python: Path) -> None:
    vcc2025.write()
    report = verify(cell_eval_prep(packer_python, vcc2025), vcc2025.spec())
    assert report.ok
    assert "owner-named" in report.codes("warning")


def test_normalised_counts_equal_cell_evals(vcc2025: Submission, packer_python: Path) -> None:
    vcc2025.x = np.random.default_rng(0).poisson(3, vcc2025.x.shape).astype(np.float32)
    source, output = vcc2025.source(), vcc2025.folder / "ours.vcc"
    assert write_archive(source, vcc2025.spec(), output, repairs=("normalise",)).ok
    ours, theirs = vcc2025.folder / "ours.h5ad", vcc2025.folder / "theirs.h5ad"
    ours.write_bytes(h5ad_of(output))
    theirs.write_bytes(h5ad_of(cell_eval_prep(packer_python, vcc2025)))
    np.testing.assert_allclose(ad.read_h5ad(ours).X.toarray(), ad.read_h5ad(theirs).X.toarray(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_content_is_that_of_vcc_prep(vcc2026: Submission, packer_python: Path, kind: str) -> None:
    """h5ad byte for byte for rows; meta.json equal but for who wrote it; their validator accepts ours, ours theirs."""
    vcc2026.kind = kind
    order = np.random.default_rng(1).permutation(30)
    vcc2026.genes, vcc2026.x = [vcc2026.genes[i] for i in order], vcc2026.x[:, order]
    output = vcc2026.folder / "ours.vcc"
    assert write_archive(vcc2026.source(), vcc2026.spec(), output).ok
    theirs = vcc_prep(packer_python, vcc2026)
    a, b = vcc2026.folder / "ours.h5ad", vcc2026.folder / "theirs.h5ad"
    a.write_bytes(h5ad_of(output))
    b.write_bytes(h5ad_of(theirs))
    left, right = ad.read_h5ad(a), ad.read_h5ad(b)
    np.testing.assert_array_equal(left.X.toarray(), right.X.toarray())
    assert left.X.dtype == right.X.dtype
    assert left.obs.equals(right.obs)
    assert list(left.var_names) == list(right.var_names)
    assert verify(theirs, vcc2026.spec()).ok
    script = (
        "import json, sys; from vcc.vccfile import *; validate_vcc(sys.argv[1]);"
        "print(json.dumps([read_vcc_meta(p) for p in sys.argv[1:]]), nnz_from_vcc(sys.argv[1]), contexts_from_vcc(sys.argv[1]))"
    )
    said = subprocess.run([packer_python, "-c", script, output, theirs], check=True, capture_output=True, text=True).stdout
    metas, nnz, contexts = said.strip().rsplit("]", 1)[0] + "]", *said.strip().rsplit("]", 1)[1].split(" ", 2)[1:]
    ours_meta, theirs_meta = json.loads(metas)
    assert {**ours_meta, "cli_version": ""} == {**theirs_meta, "cli_version": ""}
    assert nnz == str(np.count_nonzero(vcc2026.x))
    assert contexts == "('A', 'B', 'C')"


def test_vcc_prep_accepts_our_prediction_again(vcc2026: Submission, packer_python: Path) -> None:
    """Our h5ad through their packer: byte for byte what went in."""
    output = vcc2026.folder / "ours.vcc"
    assert write_archive(vcc2026.source(), vcc2026.spec(), output).ok
    vcc2026.path.write_bytes(h5ad_of(output))
    assert h5ad_of(vcc_prep(packer_python, vcc2026)) == h5ad_of(output)
