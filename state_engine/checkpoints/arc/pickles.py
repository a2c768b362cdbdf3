"""Reading pickles that strangers wrote: numbers, names and containers, or nothing.

A pickle is a program. The two readers here, for archives of `torch.save` and for plain `.pkl` files, take it as data: the machine of
`pickle_machine` carries out the few instructions that build numbers and containers, and `stand_ins` says what may be built. Neither
torch's nor Python's own unpickler ever sees a foreign file.

Source: the layouts of `torch.save` (zip archive since 1.6, and the older stream), found by writing files with torch 2.13.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from zipfile import is_zipfile

import numpy as np
import torch

from state_engine.checkpoints.arc.pickle_machine import Machine, RefusedError
from state_engine.checkpoints.arc.stand_ins import ConfigNode, Foreign, ForeignArray, ForeignStorage, Named, known_names
from state_engine.errors import CheckpointError, UnsafePickleError, door

MOST_INFLATION = 4  # torch.save stores its records uncompressed; an archive that unfolds to more is not one of them
MOST_PICKLE_BYTES = 256 << 20  # of the instructions alone, without the numbers
MOST_DEPTH = 100  # containers inside containers
MOST_UNFOLDED = 20_000_000  # values, were shared containers written out each time: what prints or walks them sees that many
MOST_SHARING = 4  # tensors may view one storage several times (tied weights), not without end
OLD_MAGIC = 0x1950A86A20F9469CFC6C  # begins a stream of torch.save before 1.6
OLD_PROTOCOL = 1001
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: lengths of its name and of its extra field
UNTRUSTED = (
    "Such a file can run any program when it is read. If you trust where it comes from, export its weights and labels in the "
    "environment that made it, and import those."
)
KNOWN = known_names()


def load_torch(path: Path) -> Any:
    """Return what `torch.save` wrote: tensors, numpy scalars, containers; OmegaConf containers come out as dicts and lists.

    Tensors of an archive are mapped from the file: what nobody asks for (optimiser states, unused weights) is never read.

    Raises:
        UnsafePickleError: the file asks for another class or function; it is named, and was not run.
        CheckpointError: the file is missing, truncated or not of `torch.save`.
    """
    _check_regular(path)
    _check_archive(path)
    return _guarded(path, lambda: _read_archive(path) if is_zipfile(path) else _read_stream_file(path))


def load_pickle(path: Path) -> Any:
    """Return the value of a `.pkl` of numpy arrays and scalars, tensors, and containers; also of an archive of `torch.save`.

    Raises:
        UnsafePickleError: the file asks for another class or function; it is named, and was not run.
        CheckpointError: the file is missing, truncated or not a pickle.
    """
    _check_regular(path)
    if is_zipfile(path):
        return load_torch(path)
    return _guarded(path, lambda: _read_plain(path))


def _check_regular(path: Path) -> None:
    """Raises: CheckpointError: it is a pipe, which would be waited for, or a device, which has no end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{path.name} cannot be read.", "It is a pipe or a device, no regular file.", "Check the path.")


def _guarded(path: Path, read: Callable[[], object]) -> Any:
    """Run a reader; whatever it raises becomes an error that names the file."""
    with door(path.name, CheckpointError, "Download it again."):
        try:
            return read()
        except RefusedError as error:
            raise UnsafePickleError(
                f"{path.name} was not read: it asks for {error.name}.", "Only numbers and containers are.", UNTRUSTED
            ) from error


def _read_plain(path: Path) -> object:
    known = {**KNOWN, "torch.storage._load_from_bytes": Named("_load_from_bytes", _storage_in_bytes)}
    size = path.stat().st_size
    if size > MOST_PICKLE_BYTES:
        raise ValueError(f"it has {size:,} bytes of instructions")
    with path.open("rb") as file:
        return Values(size).resolve(Machine(known).load(file))


def _storage_in_bytes(raw: object = b"", *_: object) -> object:
    """A tensor's storage inside a plain pickle: a stream of torch.save of its own."""
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("a storage without bytes")
    return _read_stream(io.BytesIO(raw), len(raw))


def _read_stream_file(path: Path) -> object:
    size = path.stat().st_size
    with path.open("rb") as file:
        return Values(size).resolve(_read_stream(file, size))


def _read_stream(file: IO[bytes], size: int) -> object:
    """Read the older layout: magic, protocol, system, value, keys of the storages; then for each its length and numbers."""
    if Machine({}).load(file) != OLD_MAGIC or Machine({}).load(file) != OLD_PROTOCOL:
        raise ValueError("it is not a file of torch.save")
    system = Machine({}).load(file)
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise ValueError("it was written on a machine with another byte order")
    storages: dict[str, ForeignStorage] = {}

    def storage(given: object) -> ForeignStorage:
        dtype, key, count = _storage_of(given)
        if key not in storages:
            wanted = count * dtype.itemsize + sum(s.flat.nbytes for s in storages.values())
            if wanted > size:
                raise ValueError(f"{wanted:,} bytes of numbers in a file of {size:,}")
            storages[key] = ForeignStorage(torch.zeros(count, dtype=dtype))
        return storages[key]

    value = Machine(KNOWN, storage).load(file)
    keys = Machine({}).load(file)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise ValueError("it does not list its storages")
    for key in keys:
        flat = storages[str(key)].flat
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(flat.nbytes)
        if count != len(flat) or len(raw) != flat.nbytes:
            raise ValueError("a storage is cut off")
        if len(raw):
            flat.copy_(torch.frombuffer(bytearray(raw), dtype=flat.dtype))
    return value


def _read_archive(path: Path) -> object:
    """Read a zip of torch.save: NAME/data.pkl holds the value, NAME/data/KEY the numbers of each storage."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        main = next((name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1), None)
        if main is None:
            raise ValueError("it has no data.pkl")
        folder = main.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was written on a machine with another byte order")
        if entries[main].file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"it has {entries[main].file_size:,} bytes of instructions")
        mapped = np.memmap(path, np.uint8, mode="c")  # private: a tensor that is written to does not reach the file
        storages: dict[str, ForeignStorage] = {}

        def storage(given: object) -> ForeignStorage:
            dtype, key, count = _storage_of(given)
            if key not in storages:
                flat = _numbers(archive, entries[f"{folder}data/{key}"], mapped, dtype)
                if len(flat) < count:
                    raise ValueError("a storage is cut off")
                storages[key] = ForeignStorage(flat[:count])
            return storages[key]

        value = Machine(KNOWN, storage).load(io.BytesIO(archive.read(main)))
    return Values(size).resolve(value)


def _numbers(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, mapped: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers of an entry, flat: mapped where they are stored as they are and aligned, else read."""
    if entry.file_size < dtype.itemsize:
        return torch.empty(0, dtype=dtype)
    header = mapped[entry.header_offset : entry.header_offset + LOCAL_HEADER.size].tobytes()
    start = entry.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
    count = entry.file_size // dtype.itemsize
    stored = entry.compress_type == zipfile.ZIP_STORED and start + entry.file_size <= len(mapped)
    if stored and start % dtype.itemsize == 0:
        return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start)
    return torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype, count=count)


def _storage_of(given: object) -> tuple[torch.dtype, str, int]:
    """Return type, key and length of a storage, from ("storage", class, key, device, length, …)."""
    if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage":
        raise ValueError("a reference to what is no storage")
    _, kind, key, _, count = given[:5]
    if not isinstance(kind, Named) or kind.dtype is None or type(count) is not int or not 0 <= count < 2**48:
        raise ValueError("a storage without type or length")
    return kind.dtype, str(key), count


@dataclass
class Values:
    """Turns stand-ins into values, each once, within limits.

    Args:
        size: bytes of the file; tensors that view one storage again and again may not add up to far more.
    """

    size: int
    known: dict[int, object] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)  # what `known` has the address of stays alive
    open_now: set[int] = field(default_factory=set)
    unfolded: dict[int, int] = field(default_factory=dict)
    bytes: int = 0

    def resolve(self, value: object, depth: int = 0) -> object:
        """Return a value with OmegaConf stand-ins as plain values and other stand-ins as None; shared parts stay shared.

        Raises:
            ValueError: a container lies in itself or is nested too deep; tensors that are one number repeated.
        """
        if isinstance(value, torch.Tensor):
            return self._counted(value)
        if isinstance(value, ForeignArray):
            return value.value
        if isinstance(value, Named | ForeignStorage):
            return None
        if not isinstance(value, Foreign | dict | list | tuple):
            return value
        if id(value) in self.known:
            return self.known[id(value)]
        if id(value) in self.open_now or depth > MOST_DEPTH:
            raise ValueError("a container lies in itself, or containers are nested too deep")
        self.open_now.add(id(value))
        found = self._inside(value, depth + 1)
        self._measure(value)
        self.open_now.discard(id(value))
        self.held.append(value)
        self.known[id(value)] = found
        return found

    def _measure(self, value: object) -> None:
        """Count the values of a container with all that lies in it, shared parts each time."""
        inner = value.content if isinstance(value, ConfigNode) else value
        parts = list(inner.values()) if isinstance(inner, dict) else inner
        if not isinstance(parts, list | tuple):
            return
        # a container among the parts was measured before; everything else counts as one
        n = 1 + sum(self.unfolded.get(id(part), 1) for part in parts)
        if n > MOST_UNFOLDED:
            raise ValueError(f"its containers share parts and would unfold to more than {MOST_UNFOLDED:,} values")
        self.unfolded[id(value)] = n

    def _inside(self, value: object, depth: int) -> object:
        if isinstance(value, ConfigNode):
            return self.resolve(value.content, depth)
        if isinstance(value, dict):
            found = type(value)() if not hasattr(value, "default_factory") else {}
            for key, inner in value.items():
                found[key] = self.resolve(inner, depth)
            return found
        if isinstance(value, list):
            return [self.resolve(inner, depth) for inner in value]
        if isinstance(value, tuple):
            return tuple(self.resolve(inner, depth) for inner in value)
        return None

    def _counted(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self.known:
            self.held.append(tensor)
            self.known[id(tensor)] = tensor
            self.bytes += tensor.nbytes
            if self.bytes > MOST_SHARING * self.size + (1 << 20):
                raise ValueError(f"its tensors have {self.bytes:,} bytes in a file of {self.size:,}")
        return tensor


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is not there.", fix="Download the model again: some of its files are missing.")
    if not is_zipfile(path):
        return
    with door(path.name, CheckpointError, "Download it again."), zipfile.ZipFile(path) as archive:
        unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > MOST_INFLATION * path.stat().st_size:
        raise CheckpointError(f"{path.name} unfolds to {unfolded:,} bytes.", "Files of torch.save are not compressed.", UNTRUSTED)
