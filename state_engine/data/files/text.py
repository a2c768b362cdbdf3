"""Text that people hand in: lists of names, tables, TOML. UTF-8 with or without a byte-order mark; all else is refused in a sentence.

Boundary: text and its shape. What names, columns and keys mean is for the caller to say.
"""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path
from typing import Any

from state_engine.errors import StateError, UnreadableFileError, door

MOST_BYTES = 64 << 20  # of a list or a table; the names of all human genes have half a megabyte
MOST_TOML_BYTES = 8 << 20
MOST_DEPTH = 32  # tables inside tables
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SAVE = "Save it as UTF-8: in Excel 'CSV UTF-8', in an editor the encoding UTF-8."


def decode_text(raw: bytes, name: str, kind: type[StateError] = UnreadableFileError) -> str:
    """Return the text of a file's bytes, without a byte-order mark.

    Args:
        name: how the user calls the file.
        kind: class of the error.

    Raises:
        StateError: of that kind: another encoding, or no text at all.
    """
    marked = MARKS.get(raw[:2])
    if marked:
        raise kind(f"{name} cannot be read: it is text in {marked}.", "Only UTF-8 is read here.", SAVE)
    if b"\0" in raw:
        raise kind(
            f"{name} cannot be read: it is not text.",
            "It has bytes that are zero: a workbook, an image, or text in UTF-16.",
            SAVE,
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        near = raw[max(0, error.start - 20) : error.start + 20].decode("latin-1").strip()
        raise kind(
            f"{name} cannot be read: it is not text in UTF-8.",
            f"Line {line:,} has another encoding, such as Latin-1, near {near!r}.",
            SAVE,
        ) from error


def read_text_file(path: Path, kind: type[StateError] = UnreadableFileError, most: int = MOST_BYTES) -> str:
    """Return the text of a file.

    Raises:
        StateError: of the kind given: not there, too large for a list, another encoding.
    """
    name = path.name[:80]
    try:
        size = path.stat().st_size
        if size > most:
            raise kind(f"{name} is too large for a text like this.", f"It has {size:,} bytes; up to {most:,} are read.")
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise kind(f"{name} cannot be read.", "There is no such file.", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise kind(f"{name} cannot be read.", f"{getattr(error, 'strerror', None) or error}.", "Check the path.") from error
    return decode_text(raw, name, kind)


def read_names(path: Path, kind: type[StateError] = UnreadableFileError) -> tuple[str, ...]:
    """Return the names of a list, one per line, each once; quotes around a name and separators behind it are no part of it.

    Raises:
        StateError: of the kind given, see `read_text_file`.
    """
    with door(path.name, kind):
        found = [_name(line) for line in read_text_file(path, kind).splitlines()]
    return tuple(dict.fromkeys(name for name in found if name))


def names_among(text: str, raw: bytes, name: str, known: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a pasted text and of a file's bytes that are known, and those that are not, each once.

    Names stand one per line or between commas, semicolons or tabs. A name may hold commas: a whole line is tried first.

    Args:
        name: how the user calls the file.

    Raises:
        UnreadableFileError: see `decode_text`.
    """
    options = set(known)
    found: list[str] = []
    unknown: list[str] = []
    for line in filter(None, (line.strip() for line in f"{text}\n{decode_text(raw, name)}".splitlines())):
        parts = [line] if line in options else [part.strip().strip('"') for part in re.split(r"[,;\t]", line)]
        for part in filter(None, parts):
            (found if part in options else unknown).append(part)
    return tuple(dict.fromkeys(found)), tuple(dict.fromkeys(unknown))


def _name(line: str) -> str:
    line = line.strip().rstrip(",;\t").strip()
    # a name may hold commas, so a line is split only where it begins with a quote
    return next(csv.reader([line]))[0].strip() if line.startswith('"') else line


def read_rows(path: Path, delimiter: str = ",", kind: type[StateError] = UnreadableFileError) -> list[list[str]]:
    """Return the rows of a table of text.

    Args:
        delimiter: the separator; "" takes the tab or semicolon where the first line has one, else the comma.

    Raises:
        StateError: of the kind given: see `read_text_file`; a field that is far too long, a quote that never ends.
    """
    return rows_of(read_text_file(path, kind), path.name, delimiter, kind)


def rows_of(text: str, name: str, delimiter: str = "", kind: type[StateError] = UnreadableFileError) -> list[list[str]]:
    """Return the rows of a table that is at hand as text; see `read_rows`."""
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = delimiter or next((c for c in "\t;" if c in first), ",")
    with door(name, kind, "Export the table again as CSV."):
        return list(csv.reader(lines, delimiter=delimiter))


def parse_toml(text: str, name: str, kind: type[StateError]) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Args:
        name: what the text is, for the message ("The split").

    Raises:
        StateError: of the kind given: not TOML, too long, or nested too deep.
    """
    if len(text) > MOST_TOML_BYTES:
        raise kind(f"{name} is too long.", f"It has {len(text):,} characters; up to {MOST_TOML_BYTES:,} are read.")
    try:
        found = tomllib.loads(text)
    except RecursionError as error:
        raise _too_deep(name, kind) from error
    except Exception as error:  # tomllib raises more kinds than its own, as for a number of 5,000 digits
        raise kind(f"{name} cannot be read: it is not TOML.", f"{str(error)[:200]}.", "Correct that line.") from error
    open_now: list[tuple[Any, int]] = [(found, 0)]
    while open_now:
        value, depth = open_now.pop()
        if depth > MOST_DEPTH:
            raise _too_deep(name, kind)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        open_now += [(one, depth + 1) for one in inner]
    return found


def _too_deep(name: str, kind: type[StateError]) -> StateError:
    return kind(f"{name} is nested too deep.", f"Tables or lists lie in more than {MOST_DEPTH} others.", "Correct it.")
