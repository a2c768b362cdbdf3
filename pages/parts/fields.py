"""Widgets of a form made from the options of a request: label, help and bounds are those beside the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any

from state_engine.options import Option, option_of


def sentence(one: Option) -> str:
    """Return the help of an option as a sentence."""
    return f"{one.about.help[:1].upper()}{one.about.help[1:]}."


def number(place: Any, request: type, path: str, key: str, **more: Any) -> Any:
    """Show a number and return it. `place` is `st` or a column; `more` may give `value`, another help, or arguments of the widget."""
    one = option_of(request, path)
    least = one.about.least if one.about.above is None else one.about.above + (1 if one.kind is int else 1e-7)
    most = one.about.most if one.about.offered is None else one.about.offered
    bounds = [None if bound is None else one.kind(bound) for bound in (least, most)]
    value = more.pop("value", None if one.default is MISSING else one.default)
    return place.number_input(one.label, *bounds, value, key=key, help=more.pop("help", sentence(one)), **more)


def choice(place: Any, request: type, path: str, key: str, options: Sequence[Any] = (), **more: Any) -> Any:
    """Show the words that an option admits, or some of them, and return the chosen one."""
    one = option_of(request, path)
    known = list(options or one.about.choices)
    more.setdefault("index", known.index(one.default) if one.default in known else 0)
    return place.selectbox(one.label, known, key=key, help=more.pop("help", sentence(one)), **more)


def several(
    place: Any, request: type, path: str, key: str, options: Sequence[str], chosen: Sequence[str] = (), **more: Any
) -> list[str]:
    """Show words of which several may be chosen, and patterns typed, and return them in the order in which they were chosen."""
    one = option_of(request, path)
    known = list(dict.fromkeys([*options, *chosen]))
    text = more.pop("help", sentence(one))
    found: list[str] = place.multiselect(
        one.label, known, list(chosen), key=key, help=text, accept_new_options=True, **more, select_all=False
    )
    return found


def yes(place: Any, request: type, path: str, key: str, **more: Any) -> bool:
    """Show a checkbox and return whether it is ticked."""
    one = option_of(request, path)
    return bool(place.checkbox(one.label, key=key, help=more.pop("help", sentence(one)), **more))


def text(place: Any, request: type, path: str, key: str, value: str = "", **more: Any) -> str:
    """Show a line of text and return it."""
    one = option_of(request, path)
    return str(place.text_input(one.label, value, key=key, help=more.pop("help", sentence(one)), **more))
