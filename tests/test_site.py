"""The site made of docs/: it builds without a warning, and no page of it asks for anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from state_engine.metrics.profiles import HOUSE

ROOT = Path(__file__).resolve().parents[1]
LOADED = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(https?:[^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    made = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 20
    for page in pages:
        assert not LOADED.findall(page.read_text()), page.name
    assert (site / "site" / "iframe-worker.js").is_file(), "the search of pages that are opened from a folder"


def test_the_reference_and_the_metrics_come_from_the_code(site: Path) -> None:
    numbers, reference = (site / "numbers.html").read_text(), (site / "reference.html").read_text()
    assert all(metric.name in numbers for metric in HOUSE["full"].metrics)
    assert "PredictionRequest" in reference and "perturbations" in reference and "Raises" in reference


def test_every_document_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}" in menu, page.name


def test_a_tutorial_is_short_and_has_a_picture_and_the_same_on_the_command_line() -> None:
    folder = ROOT / "docs" / "tutorials"
    pages = [page for page in folder.glob("*.md") if page.name != "index.md"]
    assert len(pages) >= 9
    for page in pages:
        text = page.read_text()
        assert len(text.splitlines()) < 80 and "## On the command line" in text and "\npython -m state_engine " in text, page.name
        pictures = re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", text)
        assert pictures and all((folder / picture).is_file() for picture in pictures), page.name
        assert f"({page.name})" in (folder / "index.md").read_text()
    images = [*(ROOT / "docs" / "images").iterdir()]
    assert sum(image.stat().st_size for image in images) < 3_000_000
