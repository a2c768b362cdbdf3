"""Values of a request: checked against their bounds, read from words, and put together.

Boundary: what a field admits is said by `fields`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Final, TypeVar, get_origin, get_type_hints

from state_engine.errors import ConfigError, StateError, near_each
from state_engine.options.fields import SET, About, Option, Part, is_part, options_of, without_none

MOST_COUNT: Final = 2**31 - 1  # of a whole number that names no bound of its own
MOST_SEED: Final = 2**63 - 1
T = TypeVar("T")


def items(value: object) -> tuple[object, ...]:
    """The items of a value of a field that may hold several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)


def check(request: object, error: type[StateError] = ConfigError) -> None:
    """Raise `error` where fields of a request lie outside their bounds or choices; for `__post_init__`. Parts check themselves.

    A field is called as on the command line, where it has an option there.
    """
    verb = hasattr(request, "VERB")  # a part does not know by which options a verb names its fields
    wrong: dict[str, list[str]] = {}  # what the value must do -> the fields that do not
    values, known = [], []
    for one in options_of(type(request)):
        value = getattr(request, one.name) if "." not in one.path else None
        said = one.flag if verb and one.flag not in (None, SET) else one.name
        for item in items(value) if one.many else (value,):
            if item is None or item in one.about.choices:
                continue
            if one.about.choices:
                known.append(f"{said} is {item!r}. Known: {', '.join(one.about.choices)}.")
            elif rule := _broken(one.about, item) or _broken(_usual_bound(one), item):
                wrong.setdefault(rule, []).append(said)
                values.append(f"{said} is {item!r}")
    if known or wrong:
        rules = [f"{', '.join(names)} must {rule}." for rule, names in wrong.items()]
        raise error(" ".join([*known, *rules]), f"{', '.join(values)}." if values else "")


def _broken(a: About, value: object) -> str:
    """The rule that a value breaks; "" for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "be finite"
    low = (a.least is not None and value < a.least) or (a.above is not None and value <= a.above)
    high = (a.most is not None and value > a.most) or (a.below is not None and value >= a.below)
    return bounds_words(a) if low or high else ""


def _usual_bound(one: Option) -> About:
    """The largest whole number, where a field says none: arrays and generators take no larger ones."""
    if one.kind is not int or one.about.most is not None or one.about.below is not None:
        return About()
    return About(most=MOST_SEED if one.name in ("seed", "seeds") else MOST_COUNT)


def bounds_words(a: About) -> str:
    """The bounds of a number, to follow "must"."""
    upper = "" if a.below is None else f"less than {a.below:g}"
    upper = upper if a.most is None else f"at most {_number(a.most)}"
    if not upper and (a.least == 0 or a.above == 0):
        return "not be negative" if a.least == 0 else "be positive"
    lower = "" if a.above is None else f"more than {a.above:g}"
    if a.least is not None:
        lower = f"{a.least:g} or more" if upper else f"at least {a.least:g}"
    return "be " + " and ".join(filter(None, (lower, upper)))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"


def build(cls: type[T], values: Mapping[str, object], base: T | None = None, where: str = "") -> T:
    """Return the request that has these values.

    Args:
        cls: the dataclass.
        values: path -> value; fields that are not named take their default.
        base: they take its values instead.
        where: path of `cls` in the request that `values` tells of.
    """
    hints, found = get_type_hints(cls), dict[str, Any]()
    for one in fields(cls):  # type: ignore[arg-type]
        path, (hint, _) = where + one.name, without_none(hints[one.name])
        needed = base is None and one.default is MISSING
        if is_part(hint):
            old = None if needed else one.default if base is None else getattr(base, one.name)
            if needed or _tell_of(values, path, one.metadata.get("part", Part()), old):
                found[one.name] = build(hint, values, old, f"{path}.")
        elif path in values:
            found[one.name] = values[path]
        elif needed and get_origin(hint) is tuple:
            found[one.name] = ()
    return cls(**found) if base is None else replace(base, **found)  # type: ignore[type-var]


def _tell_of(values: Mapping[str, object], path: str, part: Part, old: object) -> bool:
    """Return whether values say anything of a part; one that is not there yet is made present by its switch, where it has one."""
    if old is None and part.switch:
        return f"{path}.{part.switch}" in values
    return any(name.startswith(f"{path}.") for name in values)


def settings(request: type, words: Iterable[str]) -> dict[str, object]:
    """Return path -> value of words `path=value`, as `--set` takes them.

    A field of a part may be named alone where no other is called so. Text is taken as it is, numbers and true/false as such, `none` where
    None is admitted, and tuples as a,b,c.

    Raises:
        ConfigError: no '=' in a word, a field that is not known, or a value that is not of its type.
    """
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not a setting.", "It has no '='.", "Write --set key=value.")
        one = setting(request, name.strip())
        found[one.path] = _read(one, text.strip())
    return found


def setting(request: type, name: str) -> Option:
    """Return the field that a name means: its path, its own name or an old one.

    Raises:
        ConfigError: there is none, or several; near names are told.
    """
    known = options_of(request)
    for group in ([o for o in known if o.path == name], [o for o in known if o.name == name or name in o.about.old]):
        if len(group) == 1:
            return group[0]
        if group:
            raise ConfigError(f"'{name}' may mean {' or '.join(o.path for o in group)}.", fix="Write the whole name.")
    names = [o.path for o in known]
    raise ConfigError(
        f"There is no setting '{name}'.", near(name, {*names, *(o.name for o in known)}), f"Settings: {', '.join(names)}."
    )


def near(name: str, known: Iterable[str]) -> str:
    """A sentence about the names that are spelled nearly so."""
    close = near_each([name], sorted(known))
    return f"Near: {', '.join(close[0][1])}." if close else "Nothing is called nearly so."


def _read(one: Option, text: str) -> object:
    if one.optional and text.lower() in ("none", "null"):
        return None
    if one.many:
        found = tuple(_read_one(one, item.strip()) for item in split_commas(text if one.kind is str else text.strip("[]()")))
        return found[0] if one.alone and len(found) == 1 else found
    return _read_one(one, text)


def _read_one(one: Option, text: str) -> object:
    if one.about.choices and text not in one.about.choices:
        raise ConfigError(f"{one.name} is '{text}'.", f"Known: {', '.join(one.about.choices)}.", "Choose one of them.")
    if one.kind is str:
        return text
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        value = json.loads(text.lower()) if one.kind is bool else one.kind(text)
    except ValueError:
        value = None
    if not isinstance(value, one.kind):
        raise ConfigError(f"{one.name} is '{text}'.", f"It must be {words[one.kind]}.")
    return value


def split_commas(text: str) -> tuple[str, ...]:
    """The items of a,b,c; those that hold commas are in double quotes."""
    return tuple(next(csv.reader([text], skipinitialspace=True), ()))


def join_commas(items: Iterable[object]) -> str:
    """Items as `split_commas` reads them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(items)
    return line.getvalue()
