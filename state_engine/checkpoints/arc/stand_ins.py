"""What stands for the classes that a checkpoint names: numbers and containers are built here, everything else carries no value.

No foreign class is ever made, and no `__setstate__` but those below is called. A dtype is one of a few simple kinds, an array has
exactly the bytes that its shape asks for, and a tensor lies inside its storage.

Notation: `state` is what a pickle hands to an object after it was made; numpy's is (version, shape, dtype, fortran order, bytes).
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

KINDS = "biufcUSO"  # "O" for arrays of names; fields, subarrays, void and times have no place in a checkpoint
LARGEST_CHARACTER = 0x10FFFF
SIMPLE = (str, int, float, bool, bytes, type(None), np.generic)


class Foreign:
    """Base of the stand-ins of objects: takes the state that a pickle gives it."""

    def take(self, state: object) -> None:
        """Accept the state of an object; a stand-in without a value forgets it."""


class Nothing(Foreign):
    """An object that carries no number (a loss module); its value is None."""


class ConfigNode(Foreign):
    """A container or value of OmegaConf; its value is its content."""

    content: object = None

    def take(self, state: object) -> None:
        """Keep the content of a container, or the value of a leaf."""
        given = state if isinstance(state, dict) else {}
        self.content = given.get("_content", given.get("_val"))


@dataclass
class ForeignDtype(Foreign):
    """A dtype by its text, such as "f4"; byte order follows with the state."""

    text: str
    order: str = "<"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not re.fullmatch(rf"[<>|=]?[{KINDS}?]\d{{0,6}}", self.text):
            raise ValueError(f"a dtype of kind {str(self.text)[:20]!r}")
        if self.text.lstrip("<>|=")[0] == "?":
            self.text = "b1"

    def take(self, state: object) -> None:
        """Accept numpy's state of a simple dtype: (version, byte order, None, None, None, size, alignment, flags)."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("a dtype with fields")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype without byte order")
        self.order = state[1]

    @property
    def value(self) -> np.dtype:
        """The dtype."""
        text = self.text.lstrip("<>|=")
        return np.dtype(object) if text[0] == "O" else np.dtype(self.order.replace("|", "=") + text)


class ForeignArray(Foreign):
    """An array; empty until its state comes."""

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = np.empty(0) if value is None else value

    def take(self, state: object) -> None:
        """Accept numpy's state: (version, shape, dtype, fortran order, bytes or list of objects)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array without values")
        _, shape, dtype, fortran, values = state
        self.value = array_of(values, dtype, shape, "F" if fortran else "C")


def array_of(values: object, dtype: object, shape: object, order: object = "C") -> np.ndarray:
    """Return an array of exactly these bytes, or of these names.

    Raises:
        ValueError: bytes, shape and dtype contradict each other.
    """
    if not isinstance(dtype, ForeignDtype) or not isinstance(shape, tuple):
        raise ValueError("an array without dtype or shape")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("an array of odd shape")
    kind, count = dtype.value, math.prod(shape)
    direction: Literal["C", "F"] = "F" if order == "F" else "C"
    if kind.hasobject:
        if not isinstance(values, list) or len(values) != count or not all(isinstance(v, SIMPLE) for v in values):
            raise ValueError("an array of objects that are no names or numbers")
        named = np.empty(count, dtype=object)
        named[:] = values
        return named.reshape(shape, order=direction)
    raw = values.encode("latin1") if isinstance(values, str) else values
    if not isinstance(raw, bytes | bytearray) or len(raw) != count * kind.itemsize:
        raise ValueError("an array whose bytes do not fit its shape")
    flat = np.frombuffer(bytearray(raw), dtype=kind) if len(raw) else np.empty(count, dtype=kind)
    if kind.kind == "U" and len(raw) and flat.view(np.dtype("u4").newbyteorder(kind.byteorder)).max() > LARGEST_CHARACTER:
        raise ValueError("text with characters that do not exist")
    return flat.reshape(shape, order=direction)


@dataclass
class ForeignStorage(Foreign):
    """Numbers in the file: `flat` (n,) of the storage's type."""

    flat: torch.Tensor


@dataclass(frozen=True)
class Named:
    """What stands for a dotted name.

    Args:
        name: as the pickle writes it.
        build: makes a value from the arguments of a call.
        dtype: of a torch storage class or torch dtype; None for everything else.
    """

    name: str
    build: Callable[..., object]
    dtype: torch.dtype | None = None


def tensor_of(storage: object, offset: object, size: object, stride: object, *rest: object) -> torch.Tensor:
    """Return the view of a storage that a pickle describes.

    Raises:
        ValueError: it does not lie in its storage, or has more elements than it (one number repeated).
    """
    if not isinstance(storage, ForeignStorage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise ValueError("a tensor of odd shape")
    flat = storage.flat
    dtype = next((r.dtype for r in rest if isinstance(r, Named) and r.dtype is not None), flat.dtype)
    if dtype != flat.dtype:
        flat = flat.view(dtype)  # a storage of bytes (torch's _rebuild_tensor_v3)
    count = math.prod(size)
    last = int(str(offset)) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (count > len(flat) or last >= len(flat)):
        raise ValueError(f"a tensor of {count:,} numbers in a storage of {len(flat):,}")
    if not count:
        return torch.empty(size, dtype=dtype)
    return flat.as_strided(size, stride, int(str(offset)))


def _pairs(kind: type[dict], *arguments: object) -> dict[object, object]:
    made = kind()
    given = arguments[-1] if arguments else ()
    items = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(items, list | tuple):
        raise ValueError("a dictionary without items")
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[0], SIMPLE):
            raise ValueError("a dictionary with an odd key")
        made[item[0]] = item[1]
    return made


def _members(kind: type[set] | type[frozenset], given: object = ()) -> object:
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(v, SIMPLE) for v in given):
        raise ValueError("a set with an odd member")
    return kind(given)


def _sequence(kind: type[list] | type[tuple], given: object = ()) -> object:
    if not isinstance(given, list | tuple):
        raise ValueError("a sequence without values")
    return kind(given)


def _number(kind: type, *given: object) -> object:
    if not all(isinstance(v, bool | int | float | np.generic) for v in given):
        raise ValueError("a number that is none")
    return kind(*given)


def _text(given: object = "") -> str:
    if not isinstance(given, str):
        raise ValueError("text that is none")
    return str(given)


def _raw(given: object = b"", *_: object) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, list) and all(isinstance(v, int) and 0 <= v < 256 for v in given):
        return bytes(given)
    raise ValueError("bytes that are none")


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Protocol 2 writes bytes as text; only this one encoding is needed, so only this one is there."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError("an unexpected encoding")
    return text.encode("latin1")


def _scalar(dtype: object, raw: object = b"") -> object:
    return array_of(raw, dtype, (1,))[0]


def _reconstruct(kind: object, *_: object) -> ForeignArray:
    if not isinstance(kind, Named) or kind.name != "numpy.ndarray":
        raise ValueError("an array of another class")
    return ForeignArray()


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> ForeignArray:
    return ForeignArray(array_of(raw, dtype, shape, order))


def _dtype(text: object, *_: object) -> ForeignDtype:
    return ForeignDtype(str(text))


def _cannot(name: str) -> Callable[..., object]:
    def build(*_: object) -> object:
        raise ValueError(f"{name} is called")

    return build


LOSSES = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "CrossEntropyLoss", "BCEWithLogitsLoss")
CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")
NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode")
ATTRIBUTE_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def _builtins() -> dict[str, Callable[..., object]]:
    return {
        "dict": lambda *a: _pairs(dict, *a), "list": lambda *a: _sequence(list, *a), "tuple": lambda *a: _sequence(tuple, *a),
        "set": lambda *a: _members(set, *a), "frozenset": lambda *a: _members(frozenset, *a), "int": lambda *a: _number(int, *a),
        "float": lambda *a: _number(float, *a), "complex": lambda *a: _number(complex, *a), "bool": lambda *a: _number(bool, *a),
        "str": _text, "bytes": _raw,
    }  # fmt: skip


def known_names() -> dict[str, Named]:
    """Return dotted name -> what stands for it, for pickles of numpy, torch, Lightning and OmegaConf."""
    # protocols 0 to 2 name the module of builtins as Python 2 did
    builders = {f"{module}.{name}": build for module in ("builtins", "__builtin__") for name, build in _builtins().items()}
    builders |= {
        "collections.OrderedDict": lambda *a: _pairs(OrderedDict, *a),
        "collections.Counter": lambda *a: _pairs(Counter, *a),
        "collections.defaultdict": lambda *a: defaultdict(),  # its factory would be called by a later look-up
        "_codecs.encode": _latin1,
        "numpy.dtype": _dtype,
        "numpy.ndarray": _cannot("numpy.ndarray"),
        "torch._utils._rebuild_tensor_v2": tensor_of,
        "torch._utils._rebuild_tensor_v3": tensor_of,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.Size": lambda *a: _sequence(tuple, *a),
        "torch.device": lambda *_: Nothing(),
        "typing.Any": _cannot("typing.Any"),
    }
    for package in ("numpy.core", "numpy._core"):
        builders |= {f"{package}.multiarray.scalar": _scalar, f"{package}.multiarray._reconstruct": _reconstruct}
        builders[f"{package}.numeric._frombuffer"] = _from_buffer
    builders |= dict.fromkeys([f"torch.nn.modules.loss.{name}" for name in LOSSES], lambda *_: Nothing())
    builders |= dict.fromkeys([f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")], lambda *_: Nothing())
    builders |= dict.fromkeys([*CONTAINERS, *(f"omegaconf.nodes.{name}" for name in NODES)], lambda *_: ConfigNode())
    builders |= dict.fromkeys(ATTRIBUTE_DICTS, lambda *a: _pairs(dict, *a))
    known = {name: Named(name, build) for name, build in builders.items()}
    known["__builtin__.long"] = known["builtins.int"]
    for name, dtype in STORAGES.items():
        known[f"torch.{name}"] = Named(name, _cannot(name), dtype)
    known["torch.storage.UntypedStorage"] = Named("UntypedStorage", _cannot("UntypedStorage"), torch.uint8)
    for name in DTYPES:
        known[f"torch.{name}"] = Named(name, _cannot(name), getattr(torch, name))
    return known
