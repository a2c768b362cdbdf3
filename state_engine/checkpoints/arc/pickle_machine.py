"""A pickle read as data: a small machine that calls nothing of the file's choice and none of Python's own unpickler.

The bytes are cut into instructions by `pickletools.genops`; each instruction that a checkpoint needs is carried out here, on plain
containers and on the stand-ins of `stand_ins`. Everything else is refused by name.

Source: the opcode descriptions of `pickletools` (protocols 0 to 5).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

from state_engine.checkpoints.arc.stand_ins import Foreign, Named

MOST_INSTRUCTIONS = 10_000_000  # about 20 s; the largest known label map (20,000 vectors) has 0.7 million
KEYS = (str, int, float, bool, bytes, type(None), np.generic)  # hashing a nested tuple can take for ever, and cannot be stopped


class RefusedError(Exception):
    """The pickle asks for something that is not carried out; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class MalformedError(Exception):
    """The instructions contradict each other."""


@dataclass(frozen=True)
class _Mark:
    """Where a group of values begins on the stack."""


MARK = _Mark()


class Machine:
    """Reads one pickle.

    Args:
        known: dotted name -> what stands for it. Other names are refused.
        storage: gives the value of a persistent id (the storages of torch); None refuses them.
        most: instructions at most, and values copied by them.
    """

    def __init__(
        self, known: Mapping[str, Named], storage: Callable[[object], object] | None = None, most: int = MOST_INSTRUCTIONS
    ) -> None:
        self.known, self.storage, self.left = known, storage, most
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def load(self, file: IO[bytes]) -> object:
        """Return the value of the pickle that begins here; the file then stands behind it.

        Raises:
            RefusedError: a name or an instruction that is not carried out.
            MalformedError, ValueError, IndexError, KeyError, TypeError: the bytes are damaged.
        """
        for opcode, argument, _ in pickletools.genops(file):
            self.spend(1)
            action = ACTIONS.get(opcode.name)
            if action is None:
                raise MalformedError(f"it has an instruction that no checkpoint has ({opcode.name})")
            if opcode.name == "STOP":
                return self.stack.pop()
            action(self, argument)
        raise MalformedError("it has no end")

    def spend(self, n: int) -> None:
        """Count work; a file that asks for more than any checkpoint needs is refused."""
        self.left -= n
        if self.left < 0:
            raise MalformedError(f"it has more than {MOST_INSTRUCTIONS:,} instructions")

    def since_mark(self) -> list[object]:
        """Take the values above the last mark off the stack, and the mark."""
        place = len(self.stack) - 1
        while not isinstance(self.stack[place], _Mark):
            place -= 1
            if place < 0:
                raise MalformedError("a group has no beginning")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def find(self, name: str) -> Named:
        """Return what stands for a dotted name."""
        if name not in self.known:
            raise RefusedError(name)
        return self.known[name]

    def call(self, function: object, arguments: object) -> object:
        """Build the value of a known name from its arguments."""
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise MalformedError("it calls what is no class")
        self.spend(sum(len(a) for a in arguments if isinstance(a, list | tuple | dict | set)))
        return function.build(*arguments)


def _put_items(target: object, pairs: list[object]) -> None:
    if not isinstance(target, dict) or len(pairs) % 2:
        raise MalformedError("items are put into what is no dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        target[checked_key(key)] = value


def checked_key(key: object) -> object:
    """Return a key of a dictionary or member of a set when it is text, a number or None.

    Raises:
        MalformedError: it is anything else.
    """
    if not isinstance(key, KEYS):
        raise MalformedError(f"a {type(key).__name__} is used as a key")
    return key


def _push(machine: Machine, value: object) -> None:
    machine.stack.append(value)


def _append(machine: Machine, values: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise MalformedError("values are appended to what is no list")
    target.extend(values)


def _add(machine: Machine, values: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, set):
        raise MalformedError("members are added to what is no set")
    target.update(checked_key(value) for value in values)


def _pop_append(machine: Machine, _: object) -> None:
    value = machine.stack.pop()
    _append(machine, [value])


def _set_item(machine: Machine, _: object) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put_items(machine.stack[-1], [key, value])


def _set_items(machine: Machine, _: object) -> None:
    pairs = machine.since_mark()
    _put_items(machine.stack[-1], pairs)


def _dict(machine: Machine, _: object) -> None:
    made: dict[object, object] = {}
    _put_items(made, machine.since_mark())
    machine.stack.append(made)


def _take(machine: Machine, n: int) -> None:
    values = tuple(machine.stack[-n:])
    if len(values) != n or any(value is MARK for value in values):
        raise MalformedError("a tuple lacks values")
    del machine.stack[-n:]
    machine.stack.append(values)


def _remember(machine: Machine, place: object) -> None:
    number = len(machine.memo) if place is None else place
    if not isinstance(number, int):
        raise MalformedError("a memo has no number")
    machine.memo[number] = machine.stack[-1]


def _recall(machine: Machine, place: object) -> None:
    if not isinstance(place, int):
        raise MalformedError("a memo has no number")
    machine.stack.append(machine.memo[place])


def _global(machine: Machine, argument: object) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(machine.find(f"{module}.{name}"))


def _stack_global(machine: Machine, _: object) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedError("a class has no name")
    machine.stack.append(machine.find(f"{module}.{name}"))


def _reduce(machine: Machine, _: object) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, arguments))


def _new_with_names(machine: Machine, _: object) -> None:
    named, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if named:
        raise RefusedError("pickle.NEWOBJ_EX")
    machine.stack.append(machine.call(kind, arguments))


def _build(machine: Machine, _: object) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Foreign):
        target.take(state)
    elif not (isinstance(target, dict) and isinstance(state, dict)):  # attributes of a dictionary's class carry no numbers
        raise RefusedError(f"pickle.BUILD of {type(target).__name__}")


def _persistent(machine: Machine, _: object) -> None:
    if machine.storage is None:
        raise RefusedError("pickle.persistent_load")
    machine.stack.append(machine.storage(machine.stack.pop()))


def _pop(machine: Machine, _: object) -> None:
    machine.stack.pop()


def _pop_group(machine: Machine, _: object) -> None:
    machine.since_mark()


def _nothing(machine: Machine, _: object) -> None:
    """An instruction without effect on the value."""


PLAIN = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
)  # fmt: skip
Action = Callable[[Machine, object], None]
ACTIONS: dict[str, Action] = {
    **dict.fromkeys(PLAIN, _push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.stack.append(MARK),
    "POP_MARK": _pop_group,
    "POP": _pop,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: _take(machine, 1),
    "TUPLE2": lambda machine, _: _take(machine, 2),
    "TUPLE3": lambda machine, _: _take(machine, 3),
    "FROZENSET": lambda machine, _: machine.stack.append(frozenset(map(checked_key, machine.since_mark()))),
    "APPEND": _pop_append,
    "APPENDS": lambda machine, _: _append(machine, machine.since_mark()),
    "ADDITEMS": lambda machine, _: _add(machine, machine.since_mark()),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "DICT": _dict,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _recall),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_names,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
