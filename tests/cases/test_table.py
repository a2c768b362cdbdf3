"""Each case has tests, and each of these tests is there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.cases.table import CASES
from tests.conftest import ROOT, SHARED


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test"))


@pytest.mark.parametrize("case", CASES)
def test_each_test_of_a_case_is_there(case: str) -> None:
    assert CASES[case]
    for name in CASES[case]:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file() and function in functions_of(ROOT / path), name


def test_each_case_has_its_tests() -> None:
    folder = SHARED / "cases"
    if not folder.is_dir():
        pytest.skip("the cases (../shared/cases) are not here")
    there = {f"{part}/{path.name}" for part in ("hostile", "public") for path in (folder / part).iterdir() if path.is_dir()}
    assert there == set(CASES)
