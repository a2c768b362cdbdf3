"""Frozen dataclasses to and from plain JSON values: unknown and missing fields are errors, never ignored."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from state_engine.errors import ConfigError, RunError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass (nested, with tuples) as dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    return value


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
        return from_plain(cls, json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise RunError(f"The {what} {path.name} cannot be read.", str(error), fix) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [a for a in args if a is not type(None)]
        return _convert(choices[0], value, where) if len(choices) == 1 else value
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}.", f"Known: {', '.join(map(str, args))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {type(value).__name__}, not a list.")
        return tuple(_convert(args[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {type(value).__name__}, not an object.")
        return {k: _convert(args[1], v, where) for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{where} is {value!r}.", f"It must be of type {hint.__name__}.")
    return value
