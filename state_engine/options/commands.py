"""The way back: from a request to the command that makes it again.

Boundary: words of the command line; they are read by `state_engine.cli.options`.
"""

from __future__ import annotations

import shlex
from dataclasses import MISSING, fields, is_dataclass
from typing import ClassVar, Protocol

from state_engine.errors import ConfigError
from state_engine.options.fields import SET, Option, options_of
from state_engine.options.values import items, join_commas


def words(request: object, base: object = None) -> list[str]:
    """Return the options of the command line that make a request again.

    Args:
        request: the request.
        base: what the command line starts from, such as the request of a preset; by default the defaults.

    Raises:
        ConfigError: a value that the command line cannot say.
    """
    found: list[str] = []
    silent: dict[str, list[Option]] = {}  # parts that may be None -> their options, until one of them was named
    named: set[str] = set()
    known = options_of(type(request))
    elsewhere = {f"{one.path.removesuffix(one.name)}{name}" for one in known for sets in one.about.also.values() for name in sets}
    # the model first, as people write it
    for one in sorted(known, key=lambda o: o.path != "model"):
        owner = _follow(request, one.path.rpartition(".")[0])
        if owner is None:
            continue
        if one.part and _follow(base, one.part) is None:
            silent.setdefault(one.part, []).append(one)
        value = getattr(owner, one.name)
        if _is_usual(one, value, base) or (one.flag is None and one.path in elsewhere):
            continue
        found += _words(one, value, owner)
        named.add(one.part)
    for name, options in silent.items():
        if name not in named:
            found += next(filter(None, (_default_words(one) for one in options)), [])
    return found


def _is_usual(one: Option, value: object, base: object) -> bool:
    """Return whether a command need not name a field: the command line starts from its value, and nothing else asks for it."""
    if one.needed or one.always or one.switch or (one.about.turns is not None and one.flag is not None):
        return False
    old = _follow(base, one.path.rpartition(".")[0])
    return bool(value == (one.default if old is None else getattr(old, one.name)))


class Repeatable(Protocol):
    """A request that a command of the command line makes; `VERB` names it."""

    VERB: ClassVar[str]


def command(request: Repeatable, *more: str, output: str = "", base: object = None) -> str:
    """Return the command line that makes a request again.

    Args:
        request: a request whose class names its `VERB`.
        more: further words.
        output: where the result goes; "" for no `--output`.
        base: see `words`.
    """
    start = ["python", "-m", "state_engine", *request.VERB.split()]
    return shlex.join([*start, *words(request, base), *more, *(["--output", output] if output else [])])


def _follow(request: object, path: str) -> object:
    """The part of a request at a path; None where there is none."""
    for name in filter(None, path.split(".")):
        request = None if request is None else getattr(request, name)
    return request


def _default_words(one: Option) -> list[str]:
    """The option with its default said, where words can say it."""
    if one.flag is None or one.bare or one.many or (one.default is None and not one.about.none):
        return []
    return [one.flag, one.about.none if one.default is None else str(one.default)]


def _words(one: Option, value: object, owner: object) -> list[str]:
    flag = one.flag
    for other, sets in one.about.also.items():
        if all(getattr(owner, name) == wanted for name, wanted in sets.items()):
            if one.name in sets:
                return [other]
            flag = other
    if flag == SET:
        return [SET, f"{one.path}={_text(value)}"]
    sayable = value in (one.turns, not one.default) if one.bare else value is not None or one.about.none != ""
    if flag is None or not sayable:
        raise ConfigError(f"The command line cannot say that {one.path} is {value!r}.", fix="Use the Python function.")
    if one.bare:
        return [flag] if value is one.turns else []
    if one.many and value is not None and not one.about.commas:
        return [word for item in items(value) for word in _item(flag, item)]
    return _item(flag, one.about.none if value is None else _text(value))


def _item(flag: str, value: object) -> list[str]:
    if is_dataclass(value):
        given = [str(getattr(value, f.name)) for f in fields(value)]
        usual = [str(f.default) for f in fields(value)]
        # words at their default are left out from the end
        last = max(i + 1 for i in range(len(given)) if given[i] != usual[i])
        needed = sum(f.default is MISSING for f in fields(value))
        if last == needed > 1 and any(word.startswith("-") for word in given):
            return [f"{flag}={'='.join(given)}"]  # as words of their own they would be read as options
        return [flag, *given[:last]]
    text = str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _text(value: object) -> str:
    """A value as `settings` reads it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return join_commas(value) if isinstance(value, tuple) else str(value)
