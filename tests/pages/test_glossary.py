"""The glossary of the documentation in the app: one file for both, which the wheel has too."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

from pages.parts import exposure, glossary
from tests.pages.opened import ROOT, app_on


def test_every_row_of_the_file_is_a_word() -> None:
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    assert len(glossary.words()) == len(rows) - 1 > 20  # without the head of the table
    assert glossary.meaning("skill").startswith("0 for the best") and all(glossary.words().values())
    assert all(glossary.meaning(word) for word in exposure._IN_GLOSSARY.values())


def test_the_wheel_takes_the_file_along() -> None:
    assert '"docs/glossary.md"' in (ROOT / "setup.py").read_text()


def _with_the_button() -> None:
    from pages.parts.glossary import glossary_button

    glossary_button()


def test_it_opens_and_finds_words(home: Path) -> None:
    assert app_on("home").button(key="glossary").label == "What do the words mean?"  # in the sidebar of the app
    page = AppTest.from_function(_with_the_button, default_timeout=30).run()
    assert not page.get("table")
    page.button(key="glossary").click().run()
    assert not page.exception and "cell set" in page.table[0].value.index and len(page.table[0].value) == len(glossary.words())
    assert [word for word, _ in glossary.found(" Mechanism")] == ["attention"] and not glossary.found("no such thing")
