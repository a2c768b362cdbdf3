"""The script that measures the code counts a small tree as one counts it by hand, and reads this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import house

FILES = {
    "app.py": "import pages.home\n",
    "pages/__init__.py": "",
    "pages/home.py": "from state_engine.data import read\nfrom state_engine.data.read import table\n",
    "state_engine/__init__.py": "",
    "state_engine/errors.py": '"""Errors."""\n',
    "state_engine/data/__init__.py": "",
    "state_engine/data/read.py": '''"""What was made, once a cell."""
from typing import Any

from state_engine import errors


# a comment of its own
def table(x: Any) -> Any:  # noqa: D103
    """Return the table."""
    return _once(_twice(_twice(x)))  # at the end


def _once(x: int, settings: object) -> int:
    if not x.is_relative_to(settings):
        raise errors.Wrong
    return x + 1


def _twice(x: int) -> int:
    return x
''',
}


def write(root: Path) -> Path:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_small_tree_is_counted_as_by_hand(tmp_path: Path) -> None:
    numbers = house.measure(write(tmp_path))
    assert numbers["files at the root of state_engine"] == "2"
    assert numbers["rooms / arrows of the import graph"] == "4 / 3"  # app -> pages -> data -> errors
    assert numbers["private functions named once, of all functions"] == "33.3 % (1 of 3)"
    assert numbers["comments per 100 lines of code: on lines of their own (all)"] == "7.7 (15.4)"  # 13 lines of code
    assert numbers["functions with complexity > 10"] == "0.0 % (0), max 2"
    assert (numbers["`Any`"], numbers["median lines of a function"]) == ("2", "2")
    assert house.path_deciders(house.sources(tmp_path)) == ["state_engine/data/read.py:_once"]
    kinds = house.words_by_package(house.sources(tmp_path))["state_engine/data"]
    assert kinds == {"what was made / done": 1, "a step (per step)": 1}


def test_the_table_has_a_column_for_each_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path))
    assert house.main(["--at", folder, "--at", folder]) == 0
    assert f"| | {folder} |" in capsys.readouterr().out
    assert house.main(["--words", "--at", folder]) == 0
    assert "state_engine/data" in capsys.readouterr().out


def test_the_results_have_a_place_for_the_table_and_this_tree_is_read() -> None:
    results = house.RESULTS.read_text()
    assert results.index(house.BEGIN) < results.index(house.END)
    files = house.sources(house.ROOT)
    assert len(files) > 200 and {"app", "pages/parts", "state_engine/models"} <= {source.room for source in files}
