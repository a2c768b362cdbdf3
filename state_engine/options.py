"""Options: what each field of a request means, its bounds and its name on the command line, written once beside the field.

A request is a frozen dataclass. Its fields say `option(default, "help", least=1)` (with a default), `field(metadata=about("help"))`
(needed) or `part(Choices())` (a dataclass within). Four things are derived from that: the command line (`state_engine.cli.options`),
the labels, help and bounds of forms (`option_of`), the check of values (`check`), and the command that repeats a run (`command`).

Notation: a path names a field from the request down, as "choices.scale".
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from state_engine.errors import ConfigError, StateError, near_each

SET: Final = "--set"
MOST_COUNT: Final = 2**31 - 1  # of a whole number that names no bound of its own
MOST_SEED: Final = 2**63 - 1
T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """What a field means.

    Args:
        help: a clause for people, without a full stop.
        label: of the widget in a form; "" for the name of the field.
        flag: on the command line; "" for the name of the field, SET for `--set path=value`, None for no option.
        metavar: stands for the value in the help.
        least, most: smallest and largest value.
        above, below: bounds that are not admitted themselves.
        offered: largest value that a form offers; None for `most`.
        choices: the values admitted; by default those of a Literal.
        none: the word for None on the command line; "" when None cannot be written.
        commas: a tuple is one word, its items separated by commas, instead of an option for each.
        turns: of a bool: the value that the flag gives; by default the opposite of the field's default.
        also: further flags -> fields beside this one and what they become. A flag that names its own field takes no value.
        old: names the field once had, still accepted by SET.
        data: it names a data set, which may come in any format that can be converted.
    """

    help: str = ""
    label: str = ""
    flag: str | None = ""
    metavar: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    offered: float | None = None
    choices: tuple[str, ...] = ()
    none: str = ""
    commas: bool = False
    turns: bool | None = None
    also: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    old: tuple[str, ...] = ()
    data: bool = False


@dataclass(frozen=True)
class Part:
    """A dataclass within a request.

    Args:
        prefix: before the names of its options, as "truth-".
        of: whose they are, for their help, as "of the measured cells".
        flag: of those of its fields that name none: SET, or "" for their own names.
        flags: field -> flag, in place of its own; None for no option.
        switch: of a part that may be None: the field whose option makes it present; "": any of them does.
        always: fields that a command names even at their default.
        needed: fields that the command line asks for though they have a default.
    """

    prefix: str = ""
    of: str = ""
    flag: str = ""
    flags: Mapping[str, str | None] = field(default_factory=dict)
    switch: str = ""
    always: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


def about(help: str = "", **more: Any) -> dict[str, About]:
    """Return the metadata of a needed field; `more` are fields of `About`."""
    return {"about": About(help, **more)}


def option(default: T, help: str = "", **more: Any) -> T:
    """Return a dataclass field with a default; `more` are fields of `About`. Its type is that of the default, as with `field`."""
    return field(default=default, metadata=about(help, **more))


def within(**more: Any) -> dict[str, Part]:
    """Return the metadata of a needed field that holds a dataclass; `more` are fields of `Part`."""
    return {"part": Part(**more)}


def part(default: T, **more: Any) -> T:
    """Return a field that holds a dataclass, with a default; `more` are fields of `Part`."""
    return field(default=default, metadata=within(**more))


@dataclass(frozen=True)
class Option:
    """One field of a request, wherever it lies in it.

    Args:
        path: from the request down.
        about: what it means.
        flag: on the command line; None when it has no option of its own.
        kind: type of the value, or of each item; a dataclass for items of several words.
        many, optional: a tuple of them; None is a value too.
        alone: of a tuple: one item stands by itself, not as a tuple of one.
        default: MISSING when it is needed.
        part: path of the part that may be None, where it lies in one; `switch` says that this option makes it present.
        always: a command names it even at its default.
    """

    path: str
    about: About
    flag: str | None
    kind: type
    many: bool
    optional: bool
    default: object
    part: str
    switch: bool
    always: bool
    alone: bool = False

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.path.rpartition(".")[2]

    @property
    def label(self) -> str:
        """For a widget."""
        return self.about.label or self.name.replace("_", " ").capitalize()

    @property
    def needed(self) -> bool:
        """It has no default."""
        return self.default is MISSING

    @property
    def bare(self) -> bool:
        """Its flag takes no value."""
        return self.kind is bool and not self.optional

    @property
    def turns(self) -> bool:
        """The value that the flag of a bool gives."""
        return not self.default if self.about.turns is None else self.about.turns


_READ: dict[type, tuple[Option, ...]] = {}


def options_of(request: type) -> tuple[Option, ...]:
    """Return every field of a request, those of its parts among them, in the order in which they are declared."""
    if request not in _READ:
        _READ[request] = tuple(_options(request, "", Part(), ""))
    return _READ[request]


def _options(cls: type, where: str, outer: Part, optional_part: str) -> Iterator[Option]:
    hints = get_type_hints(cls)
    for one in fields(cls):
        path, (hint, optional) = where + one.name, _without_none(hints[one.name])
        if _is_part(hint):
            inner = one.metadata.get("part", Part())
            inner = replace(inner, prefix=outer.prefix + inner.prefix, flag=inner.flag or outer.flag, of=inner.of or outer.of)
            yield from _options(hint, f"{path}.", inner, path if optional else optional_part)
            continue
        text = one.metadata.get("about", About())
        text = replace(text, help=f"{outer.of}: {text.help}") if outer.of else text
        alone, hint = _one_or_several(hint)
        many = get_origin(hint) is tuple
        kind = get_args(hint)[0] if many else hint
        if get_origin(kind) is Literal:
            text = replace(text, choices=text.choices or get_args(kind))
            kind = str
        flag = outer.flags.get(one.name, text.flag or outer.flag if text.flag is not None else None)
        if flag == "":
            off = kind is bool and one.default is True and text.turns is None
            flag = f"--{outer.prefix}{'no-' * off}{one.name.replace('_', '-')}"
        elif flag not in (None, SET) and one.name not in outer.flags:
            flag = f"--{outer.prefix}{flag.removeprefix('--')}"
        default = MISSING if one.name in outer.needed else one.default
        switch, always = outer.switch == one.name, one.name in outer.always
        yield Option(path, text, flag, kind, many, optional, default, optional_part, switch, always, alone)


def option_of(request: type, path: str) -> Option:
    """Return one field of a request by its path."""
    return next(one for one in options_of(request) if one.path == path)


def _is_part(hint: object) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was admitted."""
    if get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [a for a in get_args(hint) if a is not type(None)]
    # a union of Literals is one Literal
    words = tuple(w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind))
    return (Literal[words] if words else reduce(or_, kinds)), len(kinds) < len(get_args(hint))


def _one_or_several(hint: Any) -> tuple[bool, Any]:
    """Whether a type is 'one, or a tuple of them', and then the type of the tuple; of any other union the first type."""
    if get_origin(hint) not in (typing.Union, types.UnionType):
        return False, hint
    tuples = [kind for kind in get_args(hint) if get_origin(kind) is tuple]
    return bool(tuples), (tuples or get_args(hint))[0]


def _items(value: object) -> tuple[object, ...]:
    """The items of a value of a field that may hold several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)


# ---- values ----


def check(request: object, error: type[StateError] = ConfigError) -> None:
    """Raise `error` where fields of a request lie outside their bounds or choices; for `__post_init__`. Parts check themselves."""
    wrong: dict[str, list[str]] = {}  # what the value must do -> the fields that do not
    values, known = [], []
    for one in options_of(type(request)):
        value = getattr(request, one.name) if "." not in one.path else None
        for item in _items(value) if one.many else (value,):
            if item is None or item in one.about.choices:
                continue
            if one.about.choices:
                known.append(f"{one.name} is {item!r}. Known: {', '.join(one.about.choices)}.")
            elif rule := _broken(one.about, item) or _broken(_usual_bound(one), item):
                wrong.setdefault(rule, []).append(one.name)
                values.append(f"{one.name} is {item!r}")
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
        path, (hint, _) = where + one.name, _without_none(hints[one.name])
        if not _is_part(hint):
            if path in values:
                found[one.name] = values[path]
            elif base is None and one.default is MISSING and get_origin(hint) is tuple:
                found[one.name] = ()
            continue
        old = getattr(base, one.name) if base is not None else None if one.default is MISSING else one.default
        switch = one.metadata.get("part", Part()).switch
        absent = old is None and switch and f"{path}.{switch}" not in values
        named = any(name.startswith(f"{path}.") for name in values)
        if (named and not absent) or (base is None and one.default is MISSING):
            found[one.name] = build(hint, values, old, f"{path}.")
    return cls(**found) if base is None else replace(base, **found)  # type: ignore[type-var]


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


# ---- the way back: from a request to the command that makes it ----


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
    elsewhere = {f"{o.path.removesuffix(o.name)}{n}" for o in options_of(type(request)) for s in o.about.also.values() for n in s}
    # the model first, as people write it
    for one in sorted(options_of(type(request)), key=lambda o: o.path != "model"):
        owner = _follow(request, one.path.rpartition(".")[0])
        if owner is None:
            continue
        value, old = getattr(owner, one.name), _follow(base, one.path.rpartition(".")[0])
        usual = one.default if old is None else getattr(old, one.name)
        if one.part and _follow(base, one.part) is None:
            silent.setdefault(one.part, []).append(one)
        if (
            value == usual
            and not one.needed
            and not one.always
            and not one.switch
            and (one.about.turns is None or one.flag is None)
        ):
            continue
        if one.flag is None and one.path in elsewhere:
            continue
        found += _words(one, value, owner)
        named.add(one.part)
    for name, options in silent.items():
        if name not in named:
            found += next(filter(None, (_default_words(one) for one in options)), [])
    return found


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
    if flag is not None and one.bare and value in (one.turns, not one.default):
        return [flag] if value is one.turns else []
    if flag is None or one.bare or (value is None and not one.about.none):
        raise ConfigError(f"The command line cannot say that {one.path} is {value!r}.", fix="Use the Python function.")
    if one.many and value is not None and not one.about.commas:
        return [word for item in _items(value) for word in _item(flag, item)]
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
