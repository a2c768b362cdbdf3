"""Text that people hand in: lists of names, tables, TOML. UTF-8, or UTF-16 with its mark; all else is refused in a sentence.

Boundary: text and its shape. What names, columns and keys mean is for the caller to say.
"""

from __future__ import annotations

import codecs
import csv
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state_engine.errors import StateError, UnreadableFileError, door, near_each, parser_words
from state_engine.files import open_regular

MOST_BYTES = 64 << 20  # of a list or a table; the names of all human genes have half a megabyte
MOST_TOML_BYTES = 8 << 20
MOST_MEANT = 3  # known names that an unknown one may be a word of
MOST_DEPTH = 32  # tables inside tables
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode Text", Notepad's "Unicode"
HEADINGS = frozenset(  # over a column of names
    ("perturbation", "perturbations", "gene", "genes", "gene_name", "gene_names", "gene_symbol", "symbol", "target", "target_gene",
     "target_genes", "name", "names", "label", "labels", "condition", "conditions", "treatment", "drug", "compound", "guide")
)  # fmt: skip
SAVE = "Save it as UTF-8: in Excel 'CSV UTF-8', in an editor the encoding UTF-8."


def decode_text(raw: bytes, name: str, kind: type[StateError] = UnreadableFileError) -> str:
    """Return the text of a file's bytes, without a byte-order mark.

    Args:
        name: how the user calls the file.
        kind: class of the error.

    Raises:
        StateError: of that kind: another encoding, or no text at all.
    """
    if raw.startswith(MARKS):
        try:
            raw = raw.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise kind(
                f"{name} cannot be read: it begins like text in UTF-16 and is none.",
                f"Its bytes from {error.start:,} on are no characters: it may have been cut off.",
                SAVE,
            ) from error
    if b"\0" in raw:
        raise kind(
            f"{name} cannot be read: it is not text.",
            "It has bytes that are zero: a workbook, an image, or text in UTF-16 without its mark.",
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
        StateError: of the kind given: not there, a pipe or a device, too large for a list, another encoding.
    """
    name = path.name[:80]
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(most + 1) if size <= most else b""
        if max(size, len(raw)) > most:
            raise kind(f"{name} is too large for a text like this.", f"It has {size:,} bytes; up to {most:,} are read.")
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


@dataclass(frozen=True)
class NameList:
    """Names of a list, each once.

    Args:
        names: all, in order.
        unknown: those of them that are not known.
        remarks: sentences about lines that were not taken as they stand.
        near: unknown names and the known ones that are spelled nearly so.
    """

    names: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    near: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def found(self) -> tuple[str, ...]:
        """Names that are known."""
        return tuple(name for name in self.names if name not in self.unknown)


def names_among(text: str, raw: bytes, name: str, known: tuple[str, ...]) -> NameList:
    """Return the names of a pasted text and of a file's bytes, those that are known apart from those that are not.

    Names stand one per line or between commas, semicolons or tabs. A name may hold commas: a whole line is tried first, and one with
    nothing that is known stays whole where known names hold some. A heading
    ("gene", "perturbation") that is no known name is left out. A table, which is lines of equally many columns with known names in
    the first alone, gives its first column.

    Args:
        name: how the user calls the file.
        known: the names that can be meant.

    Raises:
        UnreadableFileError: see `decode_text`.
    """
    options, remarks = set(known), list[str]()
    with_commas = sum("," in name for name in known)
    found: list[str] = []
    for title, part in (("The text", text), (name or "The list", decode_text(raw, name))):
        with door(title, UnreadableFileError):
            rows = [[line] if line in options else _fields(line) for line in map(str.strip, part.splitlines()) if line]
        if rows and rows[0][0] not in options and rows[0][0].casefold() in HEADINGS:
            remarks.append(f"{title} begins with the heading '{rows[0][0][:80]}', which is no name that is known: left out.")
            table = len(rows.pop(0)) > 1
        else:
            table = len(rows) > 1
        if table and rows and _is_table(rows, options):
            remarks.append(f"{title} has {len(rows[0])} columns: the first is taken.")
            rows = [row[:1] for row in rows]
        for row in rows:  # a line of which nothing is known is one name, which may hold commas where known names do
            found += filter(None, row if with_commas == 0 or not options.isdisjoint(row) else [", ".join(row)])
    once = tuple(dict.fromkeys(found))
    unknown = tuple(name for name in once if name not in options)
    return NameList(once, unknown, tuple(remarks), _near(unknown, known))


def _near(unknown: tuple[str, ...], known: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return unknown names with the known ones that they may mean: those of which they are one word ('CRISPRi STAT1'), else the nearest."""
    with_word: dict[str, list[str]] = {}
    for one in known:
        words = one.casefold().split()
        for word in set(words) if len(words) > 1 else ():
            with_word.setdefault(word, []).append(one)
    as_word = {name: with_word.get(name.casefold(), []) for name in unknown}
    spelled = dict(near_each([name for name in unknown if not 1 <= len(as_word[name]) <= MOST_MEANT], known))
    found = ((name, spelled.get(name) or tuple(as_word[name][:MOST_MEANT])) for name in unknown)
    return tuple((name, close) for name, close in found if close)


def _is_table(rows: list[list[str]], options: set[str]) -> bool:
    """Return whether lines have equally many columns, and known names in the first alone."""
    width = len(rows[0])
    others = (field for row in rows for field in row[1:])
    return (
        width > 1 and all(len(row) == width for row in rows) and options.isdisjoint(others) and any(r[0] in options for r in rows)
    )


def _fields(line: str) -> list[str]:
    """Return what stands between tabs, semicolons or commas; a field in quotes may hold them."""
    delimiter = next((c for c in "\t;" if c in line), ",")
    return [part.strip().strip('"') for part in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


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
    found = list[list[str]]()
    with door(name, kind, "Export the table again as CSV."):
        reader = csv.reader([*lines, ""], delimiter=delimiter)  # a quote in the last line shows by taking the empty one in
        for row in reader:
            if reader.line_num > len(found) + 1:
                raise kind(
                    f"Line {len(found) + 1:,} of {name} opens a quote that does not close there.",
                    f"It would take in what follows, to line {min(reader.line_num, len(lines)):,}.",
                    "Take the quote away, or close it.",
                )
            found.append(row)
    return found[: len(lines)]


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
        raise kind(f"{name} cannot be read: it is not TOML.", f"{parser_words(error)[:200]}.", "Correct that line.") from error
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
