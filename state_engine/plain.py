"""Plain values and plain text: dataclasses to and from JSON values, and text of strangers made safe to show.

Unknown and missing fields of a dataclass are errors, never ignored. Names come from files that anybody may have written: what they hold
beside letters is shown, not obeyed by a terminal, a page that reads from right to left, or a spreadsheet.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from state_engine.errors import ConfigError, RunError
from state_engine.files import read_json

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

# categories of Unicode that are obeyed and not seen: control, format (also bidi), surrogates, ends of lines and paragraphs
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads a cell that begins so as a formula


def visible(text: object, most: int | None = 80, keep: str = "") -> str:
    """Return text with control, bidi and other unseen characters as escapes such as \\u001b, cut at a length.

    Args:
        text: a name, or anything with words of a file in it.
        most: characters to keep, the sign of a cut included; None for all.
        keep: characters that stay as they are, such as the line ends of a message.
    """
    given = str(text)
    shown = given if most is None else given[:most]  # escapes make it longer, so no more is looked at than is shown
    shown = "".join(c if c in keep or unicodedata.category(c) not in _OBEYED else _escape(c) for c in shown)
    if most is None or (len(shown) <= most and len(given) <= most):
        return shown
    return shown[: most - 1] + "…"


def writable(text: str) -> bool:
    """Return whether a file takes the text: no zero in it, and no half of a character."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: '1 cell', '1,204 cells'; with a verb too: plural(n, "cell has", "cells have")."""
    return f"{n:,} {agreed(n, one, many or one + 's')}"


def agreed(n: int, one: str, many: str) -> str:
    """Return the word that goes with a number: agreed(n, "is", "are")."""
    return one if n == 1 else many


def part_of(n: int, total: int, one: str, many: str | None = None) -> str:
    """Return a part of a whole: '1 of 3 cells', '1 of 1 cell'."""
    return f"{n:,} of {plural(total, one, many)}"


def distinct(names: Iterable[str], word: str) -> list[str]:
    """Return names of which none repeats: those that came before get their place behind, as 'TBCE (gene 812)'."""
    seen, found = set[str](), []
    for place, name in enumerate(names):
        found.append(f"{name} ({word} {place})" if name in seen else name)
        seen.add(name)
    return found


def first_places(names: Iterable[str]) -> dict[str, int]:
    """Return name -> its place, the first where a name repeats: the same that genes are matched by everywhere."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    return places


def cell_text(value: Any) -> Any:
    """Return a cell or heading of a table that people open in a spreadsheet: text that would be a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    shown = visible(value, most=None, keep="\n\t")  # a return inside would begin a row of its own
    return f"'{shown}" if value.startswith(_FORMULA) and not _is_number(value) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def csv_for_people(table: pd.DataFrame, index_label: str = "") -> str:
    """Return a table as CSV to take home: numbers as they are, and no text that a spreadsheet would run as a formula.

    Tables that programs read back are written with `to_csv`, unchanged.

    Args:
        index_label: heading of the row names; "" leaves them out.
    """
    safe = table.rename(columns=cell_text, index=cell_text)
    for place, kind in enumerate(safe.dtypes):
        if kind.kind == "O":  # text, also as categories: numbers keep their type and their minus sign
            safe.isetitem(place, safe.iloc[:, place].astype(object).map(cell_text))
    text: str = safe.to_csv(index=bool(index_label), index_label=cell_text(index_label) or None)
    return text


def to_plain(value: Any) -> Any:
    """A dataclass (nested, with tuples) as dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    return value


def minus(text: str) -> str:
    """Return text whose negative numbers have a minus sign; hyphens of names stay."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def csv_file_for_people(path: Path) -> bytes:
    """Return a CSV file that programs read back as `csv_for_people` would have written it; every number keeps its digits."""
    import pandas as pd

    return csv_for_people(pd.read_csv(path, dtype=str, keep_default_na=False)).encode()


def from_plain(cls: type[T], plain: Any, where: str = "") -> T:
    """The dataclass `cls` from what `to_plain` gave.

    A class whose layout has changed has a class method `upgrade`, which returns the fields of today from those that were written.

    Raises:
        ConfigError: a field is unknown, missing, or has a value its type or `__post_init__` does not admit.
    """
    where = where or cls.__name__
    if not isinstance(plain, dict):
        raise ConfigError(f"{where} is {type(plain).__name__}, not an object with fields.")
    upgrade = getattr(cls, "upgrade", None)
    plain = plain if upgrade is None else upgrade(plain)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - set(fields))
    if unknown:
        raise ConfigError(f"{where} has unknown fields: {', '.join(unknown)}.", f"Known: {', '.join(fields)}.")
    missing = [
        n
        for n, f in fields.items()
        if n not in plain and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks fields: {', '.join(missing)}.")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in plain.items()})


def read_json_as(cls: type[T], path: Path, what: str, fix: str) -> T | None:
    """Return the dataclass `cls` that a JSON file holds; None when there is no file.

    Args:
        what: the kind of file, for the message ("report").
        fix: how to get it again, a sentence.

    Raises:
        RunError: the file is damaged, or of another layout.
    """
    if not path.exists():
        return None
    try:
        return from_plain(cls, read_json(path))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise RunError(f"The {what} {path.name} cannot be read.", str(error), fix) from error


def _convert(hint: object, value: object, where: str) -> object:
    """Return a value as a type hint wants it; a value that it does not admit is a `ConfigError`."""
    convert = _GENERIC.get(get_origin(hint))
    return _one(hint, value, where) if convert is None else convert(get_args(hint), value, where)


def _one(hint: object, value: object, where: str) -> object:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, where)
    # to Python True is an int; to a reader of the file it is none
    is_bool = isinstance(value, bool)
    if hint is float and isinstance(value, int) and not is_bool:
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{where} is a number of {len(hex(value))} hexadecimal digits.", "It is too large.") from error
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and is_bool)):
        raise ConfigError(f"{where} is {repr(value)[:200]}.", f"It must be of type {hint.__name__}.")
    return value


def _union(kinds: tuple[object, ...], value: object, where: str) -> object:
    if value is None and type(None) in kinds:
        return None
    choices = [kind for kind in kinds if kind is not type(None)]
    if isinstance(value, list | tuple):  # of 'one, or several' the several
        choices = [kind for kind in choices if get_origin(kind) is tuple] or choices
    return _convert(choices[0], value, where) if len(choices) == 1 else value


def _literal(words: tuple[object, ...], value: object, where: str) -> object:
    if value not in words:
        raise ConfigError(f"{where} is {value!r}.", f"Known: {', '.join(map(str, words))}.")
    return value


def _tuple(kinds: tuple[object, ...], value: object, where: str) -> object:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {type(value).__name__}, not a list.")
    return tuple(_convert(kinds[0], item, where) for item in value)


def _dict(kinds: tuple[object, ...], value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {type(value).__name__}, not an object.")
    return {key: _convert(kinds[1], item, where) for key, item in value.items()}


_GENERIC: dict[object, Callable[[tuple[object, ...], object, str], object]] = {
    typing.Union: _union,
    types.UnionType: _union,
    typing.Literal: _literal,
    tuple: _tuple,
    dict: _dict,
}
