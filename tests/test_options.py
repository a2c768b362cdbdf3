"""Options beside the fields of a request: names, bounds, parts, `--set`, and the way from a request to words and back."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from state_engine import options
from state_engine.cli.options import add
from state_engine.cli.options import request as from_words
from state_engine.errors import ConfigError
from state_engine.options import SET, about, option, part


@dataclass(frozen=True)
class Columns:
    key: str | None = option(None, "column")
    scale: Literal["counts", "log1p"] | None = option(None, "scale", none="auto")
    clean: bool = option(True, "clean them")

    def __post_init__(self) -> None:
        options.check(self)


@dataclass(frozen=True)
class Rounding:
    how: Literal["up", "down"] = option("up", "how", flag="--to-counts")
    seed: int = option(0, "seed")


@dataclass(frozen=True)
class Net:
    width: int = option(8, "width", above=0, old=("hidden",))
    depths: tuple[int, ...] = option((2, 3), "depths")
    drop: float = option(0.0, "drop", least=0, below=1)
    fast: bool = option(False, "fast")
    name: str | None = option("x", "name")

    def __post_init__(self) -> None:
        options.check(self)


@dataclass(frozen=True)
class File:
    path: str
    method: str = "prediction"


@dataclass(frozen=True)
class Asked:
    VERB: ClassVar[str] = "ask"
    data: str = field(metadata=about("cells", also={"--run": {"is_run": True}}))
    labels: tuple[str, ...] = field(metadata=about("labels", flag="--label"))
    files: tuple[File, ...] = option((), "files", flag="--file")
    is_run: bool = option(False, "of a run", flag=None)
    cells: int = option(256, "cells", least=1)
    write: bool = option(False, "check only", flag="--dry-run", turns=False)
    fdr: Literal["each", "pooled"] = option("each", "fdr", also={"--pooled": {"fdr": "pooled"}})
    contexts: tuple[str, ...] | None = option(None, "contexts", commas=True)
    columns: Columns = part(Columns())
    others: Columns | None = part(None, prefix="other-")
    counts: Rounding | None = part(None, switch="how")
    net: Net = part(Net(), flag=SET)
    steps: int = option(5, "steps", flag=SET)

    def __post_init__(self) -> None:
        options.check(self)


def read(words: list[str]) -> Asked:
    parser = argparse.ArgumentParser()
    add(parser, Asked)
    return from_words(Asked, parser.parse_args(words))


FULL = Asked(
    "a b.h5ad", ("p", "-x", "it's"), (File("f"), File("g", "raw")), True, 3, True, "pooled", ("A", "B,C", ""),
    Columns("", "log1p", False), Columns(clean=False), Rounding("down", 9), Net(4, (7,), 0.5, True, None), 6,
)  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        FULL,
        Asked("d", ()),
        Asked("d", ("p",), others=Columns(), counts=Rounding(), contexts=()),
        Asked("d", ("p",), net=Net(depths=(), name="a,b")),
    ],
)
def test_words_make_the_request_again(request_: Asked) -> None:
    words = shlex.split(options.command(request_))
    assert words[:4] == ["python", "-m", "state_engine", "ask"]
    assert read(words[4:]) == request_


def test_a_command_is_short_and_says_what_differs() -> None:
    short = Asked("d", ("p",), cells=9, write=True, net=Net(width=4))
    assert options.words(short) == ["--data", "d", "--label", "p", "--cells", "9", "--set", "net.width=4"]
    assert options.words(short, base=short) == ["--data", "d", "--label", "p"]
    assert options.command(short, "--more", output="o p").endswith("--more --output 'o p'")


def test_a_base_gives_what_is_not_named() -> None:
    parser = argparse.ArgumentParser()
    add(parser, Asked)
    given = parser.parse_args(["--run", "r", "--set", "width=5", "--no-clean"])
    made = from_words(Asked, given, FULL)
    assert (made.data, made.is_run, made.net.width, made.net.depths, made.columns.key) == ("r", True, 5, (7,), "")


def test_settings_by_path_by_name_and_by_an_old_name() -> None:
    read_ = options.settings(Asked, ["net.width=1", "depths=[4,5]", "name=none", "fast=True", "drop=1e-2"])
    assert read_ == {"net.width": 1, "net.depths": (4, 5), "net.name": None, "net.fast": True, "net.drop": 0.01}
    assert options.settings(Asked, ["hidden=3"]) == {"net.width": 3}
    for words, match in (("widht=1", "Near: width"), ("key=a", "may mean columns.key or others.key"), ("width", "no '='"),
                         ("width=a", "whole number"), ("fdr=b", "Known: each, pooled")):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            options.settings(Asked, [words])


def test_bounds_and_choices_are_checked_with_one_error() -> None:
    for make, match in (
        (lambda: Asked("d", (), cells=0), r"--cells must be at least 1\. --cells is 0\."),
        (
            lambda: Net(width=0, drop=1),
            r"width must be positive\. drop must be 0 or more and less than 1\. width is 0, drop is 1\.",
        ),
        (lambda: Net(drop=float("nan")), "drop must be finite"),
        (lambda: Asked("d", (), fdr="some"), r"--fdr is 'some'\. Known: each, pooled"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=match):
            make()


def test_what_a_form_reads() -> None:
    cells = options.option_of(Asked, "cells")
    assert (cells.label, cells.default, cells.about.least, cells.about.help) == ("Cells", 256, 1, "cells")
    assert options.option_of(Asked, "columns.scale").about.choices == ("counts", "log1p")


def test_what_the_command_line_cannot_say_is_an_error_not_another_request() -> None:
    with pytest.raises(ConfigError, match=r"cannot say that net\.fast"):
        options.words(_Said(_Bool(False)), base=_Said(_Bool(True)))


@dataclass(frozen=True)
class _Bool:
    fast: bool = option(False, "fast")


@dataclass(frozen=True)
class _Said:
    net: _Bool = part(_Bool())
