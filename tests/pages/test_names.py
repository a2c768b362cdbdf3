"""Names of files, genes, labels, models and runs are shown as they are written: never as Markdown, HTML or formulas."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from pages.parts import door, session
from pages.parts.format import md, sentences
from state_engine.config import Settings
from state_engine.library.datasets import receive_upload
from tests.pages.opened import ROOT, VIEWS, app_on, text
from tests.small import write_cells, write_model

IS_OPEN = door.is_open  # as it is outside of tests: a click runs the page that is shown, through app.py
KINDS = (OverflowError, RecursionError, MemoryError, AttributeError)
PAGES = sorted(p.stem for p in VIEWS.glob("*.py") if p.stem != "__init__")
SOURCES = sorted((ROOT / "pages").rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "state_engine/analysis/export.py"], ids=lambda p: p.stem)
def test_tables_to_take_home_are_written_without_formulas(path: Path) -> None:
    assert not re.search(r"\.to_csv\(|csv\.writer", path.read_text()), "write it with csv_for_people"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("![x](http://127.0.0.2:9/a)", r"\!\[x\](http:{}//127.0.0.2:9/a)".replace("{}", "\u2060")),
        (":red[x]", r"\:red\[x\]"),
        (":smile:", ":\u2060smile\\:"),
        ("$a_b$", r"\$a_b\$"),
        ("<b>x</b>", r"\<b>x\</b>"),
        ("**x** `y` ~z~", r"\*\*x\*\* \`y\` \~z\~"),
        ("&#47;&amp;", r"\&#47;\&amp;"),
        ("_x_ __y cell_type", r"\_x\_ \_\_y cell_type"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("a\nb\x1b\u202e", r"a\\u000ab\\u001b\\u202e"),
        ("www.x.org a@b.org", "www\u2060.x.org a@\u2060b.org"),
        ("HLA-A+TNF (x:1), 5 < 6", "HLA-A+TNF (x:1), 5 < 6"),
    ],
)
def test_a_name_stays_as_it_is_written(name: str, shown: str) -> None:
    assert md(name) == shown


def test_names_are_cut_and_messages_are_not() -> None:
    assert len(md("x" * 500)) == 80 and sentences("x\n y " * 100).startswith("x y x y") and len(sentences("xy " * 300)) == 899


@pytest.mark.parametrize(("page", "kind"), list(zip(PAGES, itertools.cycle(KINDS))), ids=str)
def test_a_data_set_that_raises_anything_leaves_every_page_and_can_be_let_go(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, kind: type[Exception]
) -> None:
    def raises(*arguments: object) -> None:
        raise kind

    path = write_cells(tmp_path / "cells.h5ad")
    with path.open("rb") as stream:
        identity = receive_upload(Settings(home), path.name, stream, path.stat().st_size).id
    card = write_model(home / "models" / "tiny")
    monkeypatch.setattr(session, "open_dataset", raises)
    monkeypatch.setattr(door, "is_open", IS_OPEN)
    app = app_on(page, data=identity, model=card.id)
    assert "cannot be read" in text(app) and app.title
    app.button(key="let_go_data").click().run()
    assert not app.exception and not app.session_state["thread_data"] and "cannot be read" not in text(app)
