"""The blocks of docs/python.md run, in order, on the demo and on a small support set from a local server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from state_engine.library.datasets import DEMO_PATH
from state_engine.public_data.catalogue import find
from tests.public_data.challenge_set import challenge_set
from tests.public_data.server import FileServer, serving
from tests.public_data.support_set import entry, own_catalogue

ROOT = Path(__file__).resolve().parents[1]
DOCS = (ROOT / "docs" / "python.md").read_text()
ZIP = "competition_support_set.zip"
# numbers that make a block long, and what stands in for them here; nothing else of the text is changed
SHORTER = {
    '"steps": 1500': '"steps": 4, "layers": 1, "validation_sets": 4',
    '"steps": 40_000': '"steps": 3, "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "intermediate": 32, '
    '"set_size": 8, "sets_a_step": 2, "validation_sets": 2',
    'data="assets/demo/demo.h5ad", model="assets/demo/embedding"': 'data="few.h5ad", model="assets/demo/embedding"',
}


def code() -> str:
    """All Python blocks, joined."""
    return "\n".join(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL))


def test_the_numbers_that_are_made_smaller_are_there() -> None:
    for long in SHORTER:
        assert DOCS.count(long) == 1, long
    assert find("vcc2025").files[0].name == ZIP and find("vcc2025").size == 8_716_992_349 and "8.7 GB" in DOCS


def test_names_that_the_blocks_take_from_the_package_are_public() -> None:
    import state_engine

    for words in re.findall(r"^from state_engine import (.+)$", code(), re.MULTILINE):
        assert set(words.split(", ")) <= set(state_engine.__all__), words


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_blocks_run(tmp_path: Path) -> None:
    import anndata

    short = code()
    for long, less in SHORTER.items():
        short = short.replace(long, less)
    anndata.read_h5ad(DEMO_PATH)[:200].copy().write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "blocks.py").write_text(short)
    content = challenge_set(tmp_path / "support")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STATE_EXPLORER_HOME": str(tmp_path / "home")}
    with serving(FileServer({ZIP: content})) as server:
        environment |= own_catalogue(tmp_path / "own.toml", entry(server, ZIP, content))
        done = subprocess.run(
            [sys.executable, "blocks.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert done.stdout.splitlines()[-1].startswith("True Archive("), done.stdout[-2000:]
    for name in (
        "embedded.h5ad",
        "predicted.h5ad",
        "run/training.json",
        "nk.h5ad",
        "run/test/summary.csv",
        "evaluation/metrics.csv",
        "submission/submission.vcc",
    ):
        assert (tmp_path / name).exists(), name
