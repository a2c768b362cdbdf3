"""The split plan that comes with a download: its paths are pointed to where the files lie.

The challenge's support set has a starter.toml whose [datasets] name files relative to wherever its authors stood. Only these values are
changed, so comments and the rest stay as written (tomlkit keeps them; tomllib cannot write). The original stays beside it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from state_engine.data.files.text import decode_text
from state_engine.data.splits.plan import expand_braces
from state_engine.errors import DataError, listed
from state_engine.files import write_bytes

ORIGINAL = ".original"


def point_to_files(plan: Path, folder: Path) -> tuple[Path, ...]:
    """Rewrites the [datasets] of `plan` to absolute paths in `folder`, and returns the files they stand for.

    A path is found by its last part (a file name, a pattern in braces, or a folder) anywhere below `folder`.

    Raises:
        DataError: not TOML, no [datasets], or a file that is not below `folder`; nothing is written then.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    before = plan.read_bytes()
    try:
        document = tomlkit.parse(decode_text(before, plan.name, DataError))
        datasets = document["datasets"]
        given = {str(name): datasets[name].unwrap() for name in datasets}
    except (TOMLKitError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{plan.name} is not a split plan.", f"{type(error).__name__}: {error}.", "Write one of your own."
        ) from error
    found: list[Path] = []
    for name, value in given.items():
        if not isinstance(value, str):
            raise DataError(f"[datasets] {name} in {plan.name} is not a path.", f"It is {value!r}.", "Write a plan of your own.")
        place, files = _located(value, folder, plan)
        datasets[name] = place
        found += files
    after = tomlkit.dumps(document).encode("utf-8")
    if after != before:
        write_bytes(plan.with_name(plan.name + ORIGINAL), before)
        write_bytes(plan, after)
    return tuple(dict.fromkeys(found))


def _located(value: str, folder: Path, plan: Path) -> tuple[str, tuple[Path, ...]]:
    """The path to write, and the files it stands for."""
    last = PurePosixPath(value.replace("\\", "/")).name
    names = expand_braces(last)
    places = {p.parent for p in folder.rglob(_literal(names[0]))} if last else set()
    whole = sorted(p for p in places if all((p / n).exists() for n in names))
    if not whole:
        there = {p.name for p in folder.rglob("*") if p.is_file()}
        missing = [n for n in names if n not in there]
        raise DataError(
            f"{plan.name} names files that did not come with it.",
            f"Not there: {listed(missing or list(names), 12)}.",
            "Download it again, or write a plan of your own.",
        )
    files = tuple(
        f for n in names for f in ([whole[0] / n] if (whole[0] / n).is_file() else sorted((whole[0] / n).glob("*.h5*")))
    )
    return str(whole[0] / last), files


def _literal(name: str) -> str:
    """A file name as a pattern that matches only itself."""
    return re.sub(r"([\[\]*?])", r"[\1]", name)
