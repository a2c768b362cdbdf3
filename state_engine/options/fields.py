"""What a field of a request means, and every field of a request wherever it lies in it.

Source: the metadata beside the fields. Boundary: descriptions; no values.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

SET: Final = "--set"
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
        path, (hint, optional) = where + one.name, without_none(hints[one.name])
        if is_part(hint):
            inner = one.metadata.get("part", Part())
            inner = replace(inner, prefix=outer.prefix + inner.prefix, flag=inner.flag or outer.flag, of=inner.of or outer.of)
            yield from _options(hint, f"{path}.", inner, path if optional else optional_part)
            continue
        text = one.metadata.get("about", About())
        alone, hint = _one_or_several(hint)
        many = get_origin(hint) is tuple
        kind = get_args(hint)[0] if many else hint
        if get_origin(kind) is Literal:
            text = replace(text, choices=text.choices or get_args(kind))
            kind = str
        flag = _flag(one.name, text, outer, "no-" if kind is bool and one.default is True and text.turns is None else "")
        if outer.of:
            text = replace(text, help=f"{outer.of}: {text.help}")
        default = MISSING if one.name in outer.needed else one.default
        switch, always = outer.switch == one.name, one.name in outer.always
        yield Option(path, text, flag, kind, many, optional, default, optional_part, switch, always, alone)


def _flag(name: str, text: About, outer: Part, negation: str) -> str | None:
    """Return a field's flag: that which its part gives it, else its own, else its name, the last two behind the part's prefix."""
    if name in outer.flags:
        flag = outer.flags[name]
    else:
        flag = None if text.flag is None else text.flag or outer.flag
    if flag == "":
        return f"--{outer.prefix}{negation}{name.replace('_', '-')}"
    if flag in (None, SET) or name in outer.flags:
        return flag
    return f"--{outer.prefix}{flag.removeprefix('--')}"


def option_of(request: type, path: str) -> Option:
    """Return one field of a request by its path."""
    return next(one for one in options_of(request) if one.path == path)


def is_part(hint: object) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def without_none(hint: Any) -> tuple[Any, bool]:
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
