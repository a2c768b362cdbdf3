"""The options of a command, made from the dataclass of its request, and the request made from what was given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from state_engine.options import SET, Option, build, options_of, settings, split_commas

T = TypeVar("T")


def add(parser: argparse.ArgumentParser, request: type, settings_help: str = "any setting; repeatable") -> None:
    """Add an option for each field of a request; flags that the parser has already are left as they are."""
    for one in options_of(request):
        if one.flag == SET:
            if SET not in parser._option_string_actions:
                parser.add_argument(SET, action="append", default=[], metavar="KEY=VALUE", help=settings_help)
        elif one.flag is not None and one.flag not in parser._option_string_actions:
            _add(parser, one)


def _add(parser: argparse.ArgumentParser, one: Option) -> None:
    text, flag = _help(one), str(one.flag)
    if one.kind is bool:
        parser.add_argument(flag, dest=one.path, action="store_const", const=one.turns, default=argparse.SUPPRESS, help=text)
        return
    metavar = None if one.about.choices else one.about.metavar or flag.removeprefix("--").rpartition("-")[2].upper()
    takes: dict[str, Any] = {"dest": one.path, "default": argparse.SUPPRESS, "help": text, "metavar": metavar}
    if is_dataclass(one.kind):
        takes |= {"nargs": "+", "metavar": tuple(f.name.upper() for f in fields(one.kind))[:2]}
    else:
        takes["type"] = str if one.about.commas else one.kind
    if one.about.choices:
        takes["choices"] = (*filter(None, [one.about.none]), *one.about.choices)
    needed = one.needed and not one.many
    others = {other: sets for other, sets in one.about.also.items() if one.name not in sets}
    group: Any = parser.add_mutually_exclusive_group(required=needed) if others else parser
    if needed and not others:
        takes["required"] = True
    if one.many and not one.about.commas:
        takes["action"] = "append"
    group.add_argument(flag, **takes)
    for other, sets in one.about.also.items():
        where = one.path.removesuffix(one.name)
        if one.name in sets:
            parser.add_argument(
                other, dest=one.path, action="store_const", const=sets[one.name], default=argparse.SUPPRESS, help=text
            )
            continue
        named = {f"{where}{name}": value for name, value in sets.items()}
        group.add_argument(other, **takes, action=_also(named))


def _also(sets: dict[str, Any]) -> type[argparse.Action]:
    """An option that sets other fields too."""

    class Also(argparse.Action):
        def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
            for path, value in ({self.dest: values} | sets).items():
                setattr(namespace, path, value)

    return Also


def _help(one: Option) -> str:
    """The help of a field, with its default and whether it may be repeated."""
    default = one.default
    plain = default is not MISSING and default not in (None, "", ()) and one.kind is not bool and not one.many
    more = f" (default {default})" if plain and "default" not in one.about.help else ""
    return f"{one.about.help}{more}{'; repeatable' if one.many and not one.about.commas else ''}".replace("%", "%%")


def request(cls: type[T], namespace: argparse.Namespace, base: T | None = None) -> T:
    """Return the request that the given options make.

    Args:
        cls: class of the request.
        namespace: what the parser of `add` returned.
        base: where fields that were not given come from; by default their defaults.

    Raises:
        ConfigError: a value that is not admitted, or a setting that is not known.
    """
    given: Sequence[Option] = [one for one in options_of(cls) if hasattr(namespace, one.path)]
    values = {one.path: _value(one, getattr(namespace, one.path)) for one in given}
    if base is None:
        values |= {o.path: not o.turns for o in options_of(cls) if o.about.turns is not None and o.flag and o.path not in values}
    return build(cls, values | settings(cls, getattr(namespace, "set", ())), base)


def _value(one: Option, given: Any) -> Any:
    if one.about.none and given == one.about.none:
        return None
    if one.about.commas:
        return split_commas(given)
    if is_dataclass(one.kind):
        return tuple(one.kind(*item) for item in given)
    return tuple(given) if one.many and isinstance(given, list) else given
