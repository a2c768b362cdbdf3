"""The README is right: its commands and options exist, its Python runs, its tree and its pictures are there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from state_engine.cli.main import build_parser
from state_engine.library.datasets import DEMO_PATH

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in joined.splitlines() if line.startswith("python -m state_engine")]


def test_the_first_commands_are_make_run_and_make_test() -> None:
    first = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert first == ["make run", "make test"]
    targets = (ROOT / "Makefile").read_text()
    assert "\nrun:" in targets and "\ntest:" in targets


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    assert build_parser().parse_args(shlex.split(command)[3:]).run_command is not None


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_python_runs(tmp_path: Path) -> None:
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for code in blocks("python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "predicted.h5ad").exists()


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_first_predict_command_runs_on_the_demo(tmp_path: Path) -> None:
    command = next(c for c in commands() if " predict " in c and "--replay" not in c)
    shutil.copy(DEMO_PATH, tmp_path / "cells.h5ad")
    (tmp_path / "model").symlink_to(DEMO_PATH.parent / "model")
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_folders_of_the_tree_are_there() -> None:
    tree = next(block for block in README.split("```") if "\npages/" in block)
    named = set(re.findall(r"^(\S+/)", tree, re.MULTILINE))
    for name in named:
        assert (ROOT / name).is_dir(), name
    packages = {f"state_engine/{p.parent.name}/" for p in (ROOT / "state_engine").glob("*/__init__.py")}
    assert packages <= named, f"not in the tree: {packages - named}"


def test_it_is_short_and_its_pictures_and_pages_are_there() -> None:
    assert len(README.splitlines()) < 150
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2 and README.index(pictures[0]) < README.index("## Start")
    for name in pictures:
        assert 10_000 < (ROOT / name).stat().st_size < 200_000, name
    for name in re.findall(r"`((?:docs|benchmarks)/\w+\.md|PARITY\.md)`", README):
        assert (ROOT / name).is_file(), name


def test_the_files_named_in_the_guide_are_there() -> None:
    guide = (ROOT / "docs" / "contributing.md").read_text()
    names = [n for n in re.findall(r"`([\w./]+/[\w.]*)`", guide) if "NAME" not in n]
    assert len(names) > 15
    for name in names:
        assert any((ROOT / start / name).exists() for start in ("", "state_engine", "pages", "pages/parts")), name
