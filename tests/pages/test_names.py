"""Names of files, genes, labels, models and runs are shown as they are written: never as Markdown, HTML or formulas."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages.opened import ROOT

SOURCES = sorted((ROOT / "pages").rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "state_engine/analysis/export.py"], ids=lambda p: p.stem)
def test_tables_to_take_home_are_written_without_formulas(path: Path) -> None:
    assert not re.search(r"\.to_csv\(|csv\.writer", path.read_text()), "write it with csv_for_people"
