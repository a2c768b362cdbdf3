"""Values between the process that asks and the child that parses foreign bytes: data only, nothing that runs.

A message is a length, a JSON tree, and the raw bytes of the arrays that the tree refers to. Frozen dataclasses and errors of
STATE Explorer travel by name and fields; arrays by dtype of a simple kind, shape and bytes. A pickle would let a child that a file has
taken over run a program here.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from state_engine import errors
from state_engine.errors import StateError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

HEADER: Final = struct.Struct("<QQ")  # bytes of the tree, bytes of the arrays
MOST_BYTES: Final = 4 << 30  # of one message; labels of 20 million cells have about 0.5 GB
SIMPLE_KINDS: Final = "biufcSU"
PACKAGE: Final = "state_engine"


def encode(value: object) -> bytes:
    """Return a value as a message.

    Raises:
        TypeError: it holds something that is no data.
    """
    arrays: list[bytes] = []
    tree = json.dumps(_tree(value, arrays)).encode()
    return HEADER.pack(len(tree), sum(map(len, arrays))) + tree + b"".join(arrays)


def decode(tree: bytes, arrays: bytes) -> Any:
    """Return the value of a message's two parts.

    Raises:
        ValueError: it is not one that `encode` makes.
    """
    return _value(json.loads(tree), memoryview(arrays))


def send(connection: socket.socket, value: object) -> None:
    """Send a value over a socket."""
    connection.sendall(encode(value))


def receive(connection: socket.socket) -> Any:
    """Return the next value of a socket.

    Raises:
        EOFError: the other side is gone.
        ValueError: what came is no message, or larger than `MOST_BYTES`.
        TimeoutError: the socket's timeout passed.
    """
    tree, arrays = HEADER.unpack(_exactly(connection, HEADER.size))
    if tree + arrays > MOST_BYTES:
        raise ValueError(f"a message of {tree + arrays:,} bytes")
    return decode(_exactly(connection, tree), _exactly(connection, arrays))


def _exactly(connection: socket.socket, n: int) -> bytes:
    found = bytearray(n)
    view, done = memoryview(found), 0
    while done < n:
        came = connection.recv_into(view[done:], min(n - done, 1 << 20))
        if not came:
            raise EOFError
        done += came
    return bytes(found)


def _tree(value: Any, arrays: list[bytes]) -> Any:
    """Return the JSON tree of a value: plain values as they are, everything else as {"kind": …}."""
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, StateError):
        return {"kind": "error", "name": type(value).__name__, "parts": [value.what, value.why, value.fix]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _tree(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"kind": "dataclass", "module": type(value).__module__, "name": type(value).__qualname__, "fields": fields}
    if isinstance(value, list | tuple):
        return {"kind": type(value).__name__, "values": [_tree(v, arrays) for v in value]}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[_tree(k, arrays), _tree(v, arrays)] for k, v in value.items()]}
    if isinstance(value, Path):
        return {"kind": "path", "text": str(value)}
    if isinstance(value, bytes):
        return {"kind": "bytes", "length": len(value), "start": _append(value, arrays)}
    return _tree_of_numbers(value, arrays)


def _append(raw: bytes, arrays: list[bytes]) -> int:
    """Put bytes behind the others; return where they begin."""
    start = sum(map(len, arrays))
    arrays.append(raw)
    return start


def _tree_of_numbers(value: Any, arrays: list[bytes]) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.Categorical):
        names = [str(name) for name in value.categories]
        return {"kind": "categorical", "names": names, "codes": _tree(np.asarray(value.codes), arrays), "ordered": value.ordered}
    if isinstance(value, pd.DataFrame):
        columns = [[str(name), _tree(_column(value[name]), arrays)] for name in value.columns]
        name = None if value.index.name is None else str(value.index.name)
        return {
            "kind": "frame",
            "index": _tree(_column(value.index), arrays),
            "name": name,
            "columns": columns,
            "attrs": _tree(dict(value.attrs), arrays),
        }
    if isinstance(value, np.generic) and value.dtype.kind in SIMPLE_KINDS:
        return {"kind": "scalar", "array": _tree(np.asarray(value), arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O" and all(isinstance(v, str) for v in value.ravel()):
            return {"kind": "names", "shape": list(value.shape), "values": value.ravel().tolist()}
        if value.dtype.kind in SIMPLE_KINDS:
            start = _append(np.ascontiguousarray(value).tobytes(), arrays)
            return {"kind": "array", "dtype": value.dtype.str, "shape": list(value.shape), "start": start}
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} does not travel between processes")


def _column(column: pd.Series | pd.Index) -> pd.Categorical | np.ndarray:
    """Return the values of a column of a table: categories, numbers or text."""
    import numpy as np
    import pandas as pd

    values = column.array
    return values if isinstance(values, pd.Categorical) else np.asarray(values)


def _value(tree: Any, arrays: memoryview) -> Any:
    if not isinstance(tree, dict):
        return tree
    kind = tree.get("kind")
    if kind in ("list", "tuple"):
        values = [_value(v, arrays) for v in tree["values"]]
        return values if kind == "list" else tuple(values)
    if kind == "dict":
        return {_value(k, arrays): _value(v, arrays) for k, v in tree["items"]}
    if kind == "path":
        return Path(tree["text"])
    if kind == "bytes":
        return bytes(arrays[int(tree["start"]) : int(tree["start"]) + int(tree["length"])])
    if kind == "error":
        return _error(tree)
    if kind == "dataclass":
        return _dataclass(tree, arrays)
    return _numbers(tree, arrays)


def _error(tree: dict[str, Any]) -> StateError:
    cls = getattr(errors, str(tree["name"]), StateError)
    if not (isinstance(cls, type) and issubclass(cls, StateError)):
        cls = StateError
    return cls(*map(str, tree["parts"]))


def _dataclass(tree: dict[str, Any], arrays: memoryview) -> Any:
    module, name = str(tree["module"]), str(tree["name"])
    cls = getattr(import_module(module), name, None) if module.split(".")[0] == PACKAGE else None
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise ValueError(f"{module}.{name} is no value of STATE Explorer")
    given = {key: _value(inner, arrays) for key, inner in tree["fields"].items()}
    made = object.__new__(cls)  # checked when it was made on the other side
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, given[field.name])
    return made


def _numbers(tree: dict[str, Any], arrays: memoryview) -> Any:
    import numpy as np
    import pandas as pd

    kind = tree.get("kind")
    if kind == "categorical":
        codes = _value(tree["codes"], arrays)
        return pd.Categorical.from_codes(codes, pd.Index(tree["names"], dtype=object), ordered=bool(tree["ordered"]))
    if kind == "frame":
        index = pd.Index(_value(tree["index"], arrays), name=tree["name"])
        found = pd.DataFrame({str(name): _value(column, arrays) for name, column in tree["columns"]}, index=index)
        found.attrs.update(_value(tree["attrs"], arrays))
        return found
    if kind == "scalar":
        return _value(tree["array"], arrays)[()]
    if kind == "names":
        named = np.empty(len(tree["values"]), dtype=object)
        named[:] = [str(v) for v in tree["values"]]
        return named.reshape(tree["shape"])
    if kind == "array":
        dtype, shape, start = np.dtype(str(tree["dtype"])), tuple(map(int, tree["shape"])), int(tree["start"])
        if dtype.kind not in SIMPLE_KINDS:
            raise ValueError(f"an array of {dtype}")
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return _array(bytes(arrays[start : start + n]), dtype, shape)
    raise ValueError(f"an unknown kind of value: {kind!r}")


def _array(raw: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    return np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
