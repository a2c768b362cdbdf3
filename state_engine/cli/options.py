"""The options of a command, made from the dataclass of its request, and the request made from what was given.

A command is a function `run_NAME(options, write, on_progress)`, declared with `@takes(Request, {"--output": path("Y.h5ad")})`: the
requests whose options it has, and options of its own. It returns its exit code (None is 0) and raises `StateError`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from state_engine.data.files.text import names_among, read_names, read_text_file
from state_engine.errors import ConfigError, RequestError
from state_engine.files import apart_from
from state_engine.options import MOST_COUNT, SET, Option, build, options_of, settings, split_commas
from state_engine.progress import OnProgress

T = TypeVar("T")
_COPIES: dict[str, str] = {}  # stem of a converted data set of this command -> name of what it was made from
ZARR: Final = ".zarr"
OUTPUTS: Final = ("output", "labels", "lancedb", "attention")  # where they are paths: --attention of `predict` is a word
TYPED: Final = "typed"  # every word of the command line
Arguments = dict[str, Any]  # of argparse's add_argument
Write = Callable[[str], None]
Run = Callable[[argparse.Namespace, Write, OnProgress], int | None]


def takes(*requests: type | dict[str, Arguments]) -> Callable[[Run], Run]:
    """Declare the options of a command: those of requests, and flag -> arguments of `add_argument` of others."""

    def declared(run: Run) -> Run:
        run.requests = requests  # type: ignore[attr-defined]
        return run

    return declared


def path(metavar: str, help: str = "", **more: object) -> Arguments:
    """An option that takes a path."""
    return {"type": Path, "metavar": metavar, "help": help, **more}


def word(metavar: str | None, help: str, **more: object) -> Arguments:
    """An option that takes a word."""
    return {"metavar": metavar, "help": help, **more}


def number(metavar: str, help: str, **more: object) -> Arguments:
    """An option that takes a whole number."""
    return {"type": _whole, "metavar": metavar, "help": help, **more}


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text[:80]!r}") from None
    if abs(value) > MOST_COUNT:
        raise argparse.ArgumentTypeError(f"{text[:80]} is more than {MOST_COUNT:,}")
    return value


def yes(help: str = "", **more: object) -> Arguments:
    """An option without a value."""
    return {"action": "store_true", "help": help, **more}


JSON = {"--json": yes("as JSON")}
EXECUTOR = {
    "--executor": word(
        "E", "where to compute: local, ray, or ray://HOST:PORT; default: STATE_EXPLORER_EXECUTOR, or local", default=""
    )
}
CHECKPOINT = {
    "--checkpoint": word("FILE", "which .ckpt of an arc-state run directory; default: final, best, last, else the latest step")
}


def add_command(parser: argparse.ArgumentParser, run: Run) -> None:
    """Add the options that a command declares."""
    for request in run.requests:  # type: ignore[attr-defined]
        if isinstance(request, type):
            add(parser, request)
            continue
        for flag, arguments in request.items():
            parser.add_argument(flag, **arguments)


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
    if one.bare:
        parser.add_argument(flag, dest=one.path, action="store_const", const=one.turns, default=argparse.SUPPRESS, help=text)
        return
    takes = _arguments(one)
    # flags that give this field a value of their own take none; of the others and this one, one may be given
    others = {other: sets for other, sets in one.about.also.items() if one.name not in sets}
    needed = one.needed and (one.alone or not one.many) and not one.part
    group: argparse._ActionsContainer = parser.add_mutually_exclusive_group(required=needed) if others else parser
    required: Arguments = {"required": True} if needed and not others else {}
    group.add_argument(flag, **takes, **required)
    where = one.path.removesuffix(one.name)
    for other, sets in one.about.also.items():
        if other in others:
            group.add_argument(other, **takes, action=_also({f"{where}{name}": value for name, value in sets.items()}))
        else:
            const, same = sets[one.name], f"the same as {flag} {sets[one.name]!r}"
            parser.add_argument(other, dest=one.path, action="store_const", const=const, default=argparse.SUPPRESS, help=same)


def _arguments(one: Option) -> Arguments:
    """Return the arguments of `add_argument` for a flag that takes a value."""
    takes: Arguments = {"dest": one.path, "default": argparse.SUPPRESS, "help": _help(one)}
    if one.many and not one.about.commas:
        takes["action"] = "append"
    if is_dataclass(one.kind):
        # a word for each of its fields, the later ones optional
        return takes | {"nargs": "+", "metavar": tuple(f.name.upper() for f in fields(one.kind))[:2]}
    if one.kind is bool:
        return takes | {"type": str, "choices": ("true", "false")}
    takes["type"] = str if one.about.commas else one.kind
    if one.about.choices:
        return takes | {"choices": (*filter(None, [one.about.none]), *one.about.choices)}
    return takes | {"metavar": one.about.metavar or str(one.flag).removeprefix("--").rpartition("-")[2].upper()}


def _also(sets: Mapping[str, object]) -> type[argparse.Action]:
    """An option that sets other fields too."""

    class Also(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option_string: str | None = None
        ) -> None:
            for path, value in {self.dest: values, **sets}.items():
                setattr(namespace, path, value)

    return Also


def _help(one: Option) -> str:
    """The help of a field, with its default and whether it may be repeated."""
    default = one.default
    plain = default is not MISSING and default not in (None, "", ()) and one.kind is not bool and not one.many and not one.part
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
    values = {o.path: _read(o, getattr(namespace, o.path)) for o in options_of(cls) if hasattr(namespace, o.path)}
    if base is None:
        values |= {o.path: not o.turns for o in options_of(cls) if o.about.turns is not None and o.flag and o.path not in values}
    if any(o.flag == SET for o in options_of(cls)):
        values |= settings(cls, namespace.set)
    return build(cls, values, base)


def _read(one: Option, given: object) -> object:
    """Return the value of a field; data sets in other formats are converted here, the one door of the command line."""
    if one.about.data and isinstance(given, str):
        return data_set(given)
    if one.about.data and isinstance(given, list):
        # of items of several words the first is the file
        given = [[data_set(item[0]), *item[1:]] if isinstance(item, list) else data_set(item) for item in given]
    return _value(one, given)


def data_set(path: str | Path) -> str:
    """Return where a data set lies as .h5ad, see `library.other_formats.as_h5ad`."""
    from state_engine.library.other_formats import as_h5ad

    if not str(path):
        return ""
    found = as_h5ad(Path(path))
    if found.name != Path(path).name:
        _COPIES[found.stem] = Path(path).resolve().name
    return str(found)


def as_typed(text: str) -> str:
    """Return text in which converted copies of data sets are called as what they were made from; places of files stay."""
    for stem, name in _COPIES.items():
        text = re.sub(rf"(?<![\w./\\-]){re.escape(stem)}(?:\.h5ad)?(?![\w-])", name.replace("\\", "\\\\"), text)
    return text


@contextmanager
def h5ad_of(output: Path, on_progress: OnProgress) -> Iterator[Path]:
    """Give the path of the .h5ad that a verb writes: the output itself, or one for a while beside an output that ends in .zarr.

    Raises:
        RequestError: the store is there already, or cannot be made.
    """
    if output.suffix.lower() != ZARR:
        yield output
        return
    from state_engine.data.files.zarr_copy import free_store, write_store

    free_store(output)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".writing-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "cells.h5ad"
        yield place
        write_store(place, output, on_progress)


def _value(one: Option, given: object) -> object:
    """Return the value of a field from what the parser gave: a word, a list of words, or a list of such lists."""
    if one.about.none and given == one.about.none:
        return None
    if isinstance(given, str) and one.kind is bool:
        return given == "true"
    if isinstance(given, str) and one.about.commas:
        return split_commas(given)
    if isinstance(given, list) and is_dataclass(one.kind):
        return tuple(_item(one, item) for item in given)
    if one.many and isinstance(given, list):
        return given[0] if one.alone and len(given) == 1 else tuple(given)
    return given


def _item(one: Option, words: list[str]) -> object:
    """Return an item of several words, such as a name and a number."""
    kinds = get_type_hints(one.kind)
    names = [f.name for f in fields(one.kind)]
    needed = sum(f.default is MISSING for f in fields(one.kind))
    if len(words) == 1 and needed > 1:  # --cells-of=NAME=9, for a name that begins with '-'
        words = words[0].rsplit("=", needed - 1)
    if len(words) > len(names) or len(words) < needed:
        raise ConfigError(
            f"{one.flag} has {len(words)} words.",
            f"They are: {' '.join(names)}.",
            f"Put names with blanks in quotes; where one begins with '-', write {one.flag}=-NAME=9.",
        )
    values = []
    for name, word in zip(names, words, strict=False):
        try:
            values.append(kinds[name](word))
        except ValueError as error:
            raise ConfigError(f"{name} of {one.flag} is '{word}'.", "It must be a number.") from error
    return one.kind(*values)


def add_names(
    options: argparse.Namespace, field: str, file: Path | None, known: tuple[str, ...] = (), write: Write = lambda line: None
) -> None:
    """Add names of a file, one per line, to those given by an option; each name once.

    Args:
        options, field: where those are.
        file: the list; None for none.
        known: names that can be meant, see `names_among`; none where that is for the verb to say.
        write: gets a sentence for what was not taken as it stands.
    """
    given = list(getattr(options, field, []))
    if file is not None and known:
        found = names_among("", read_text_file(file).encode(), file.name, known)
        given += found.names
        for remark in found.remarks:
            write(remark)
    elif file is not None:
        given += read_names(file)
    setattr(options, field, list(dict.fromkeys(given)))


def named_checkpoint(model: Path, checkpoint: str | None) -> Path:
    """The model's folder, or the checkpoint in it that was named."""
    if checkpoint is None:
        return model
    from state_engine.checkpoints.recognise import find_checkpoint

    return find_checkpoint(model, checkpoint)


def keep_inputs(options: argparse.Namespace, *beside: Path) -> None:
    """Make sure, before any work, that no output of a command is one of its inputs or lies in a data set that is a folder.

    The verbs check too (`files.free_output`), but know a converted data set only by its copy; here are the paths as they were given.

    Args:
        options: of a command, as they were given.
        beside: further files that it writes.

    Raises:
        RequestError: one is, or two outputs are the same file, or one is a device, a pipe or a socket.
    """
    named = (getattr(options, name, None) for name in OUTPUTS)
    outputs = [*(path for path in named if isinstance(path, Path)), *beside]
    inputs = [*_data_sets(options), *_files(options)]
    for number, output in enumerate(outputs):
        apart_from(output, *inputs)
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise RequestError(f"{output.name} is named twice.", "Two results are two files.", "Give another name.")


def _data_sets(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the data sets of a command, which may be folders."""
    requests = [one for one in options.run_command.requests if isinstance(one, type)]
    fields = {one.path for request in requests for one in options_of(request) if one.about.data}
    for field in {"data", *fields}:
        yield from _paths(getattr(options, field, None))


def _files(options: argparse.Namespace) -> Iterator[Path]:
    """Yield every other value of the options that names a file: lists, tables, checkpoints, a split as '@FILE'."""
    for field, value in vars(options).items():
        if field == TYPED:  # outputs are among them
            continue
        if field not in OUTPUTS or not isinstance(value, Path):
            yield from filter(_is_file, _paths(value))


def _paths(value: object) -> Iterator[Path]:
    """Yield the words and paths of an option; its items may be lists of words."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, str | Path) and str(value):
        yield Path(str(value).removeprefix("@"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a word too long for a name
        return False
