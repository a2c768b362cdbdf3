"""Commands and options that the README, docs/ and PARITY.md name are those of today's command line."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from state_engine.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
STARTS = (["python", "-m", "state_engine"], ["state-explorer"])
OTHERS = ("python", "docker", "state", "make", "ssh", "pip")  # programs whose options are not ours


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return command -> its parser."""
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


PARSERS = commands_of(build_parser())
KNOWN = {flag for parser in PARSERS.values() for flag in parser._option_string_actions}


def lines_of(page: Path) -> list[str]:
    """Return the lines of a page's code blocks, those that go on joined, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in "\n".join(blocks).replace("\\\n", " ").splitlines()]


def command_of(line: str) -> list[str]:
    """Return the words behind the program's name; none where a line calls something else. What starts before it, such as a variable, goes."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    while (words and re.fullmatch(r"[A-Z_]+=\S*", words[0])) or words[:1] == ["exec"]:
        words = words[1:]
    words = [re.sub(r"^\.venv/bin/", "", words[0]), *words[1:]] if words else []
    return next((words[len(start) :] for start in STARTS if words[: len(start)] == start), [])


FULL = [(page.name, line) for page in PAGES for line in lines_of(page) if command_of(line)]


@pytest.mark.parametrize(("page", "line"), FULL)
def test_a_command_of_a_block_is_understood(page: str, line: str) -> None:
    assert build_parser(command_of(line)[:1]).parse_args(command_of(line)).run_command is not None


@pytest.mark.parametrize("page", [*PAGES, ROOT / "PARITY.md"], ids=lambda page: page.name)
def test_words_in_the_text_are_commands_and_options_of_today(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for piece in re.findall(r"`([^`\n]+)`", text):
        words = command_of(piece) or re.sub(r"^([A-Z_]+=\S+ )+", "", piece).split()
        if not words or words[0] in OTHERS:
            continue
        known = PARSERS[words[0]]._option_string_actions if words[0] in PARSERS else KNOWN
        wrong += [f"{flag} in `{' '.join(words)}`" for flag in words if flag.startswith("--") and flag.split("=")[0] not in known]
    assert not wrong


def test_every_command_is_in_the_docs() -> None:
    text = "".join(page.read_text() for page in PAGES)
    named = {command_of(line)[0] for _, line in FULL} | set(
        re.findall(r"`(?:python -m state_engine |state-explorer )?(\w+)[ `]", text)
    )
    assert set(COMMANDS) <= named, set(COMMANDS) - named
