"""The check of a foreign zarr store before zarr reads it: a folder of plain files that stays inside itself and declares sane arrays.

Source: the zarr specifications, versions 2 and 3. Zarr runs whatever filter an array names, and one of numcodecs' unpickles; a link leads
wherever it likes. So links are refused, and only filters of numbers and of text are let through.
Boundary: reads the metadata files (JSON); no chunk is unpacked.
"""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from state_engine.config import Settings, gib
from state_engine.errors import UnreadableFileError, UnsafeFileError

METADATA: Final = (".zarray", "zarr.json")
MOST_FILES: Final = 2_000_000
MOST_JSON: Final = 1 << 20  # bytes of the metadata of one array; consolidated metadata are not read
MOST_DEPTH: Final = 32
MOST_CHUNK: Final = 1 << 30  # bytes of one chunk, which is unpacked whole
MOST_PARTS: Final = 1 << 22  # chunks in one shard: where each lies is 16 bytes of an index that is read whole
MOST_NESTED: Final = 4  # shards in shards
CODECS: Final = frozenset(
    {
        "zlib", "gzip", "zstd", "blosc", "lz4", "lzma", "bz2", "shuffle", "delta", "bitround", "crc32c", "crc32", "vlen-utf8",
        "vlen-bytes", "bytes", "transpose", "sharding_indexed", "endian",
    }
)  # fmt: skip
AGAIN: Final = "Write it again with anndata's write_h5ad or write_zarr."


def check_store(folder: Path, settings: Settings, name: str = "") -> None:
    """Refuse a store that leads out of its folder, holds what must be unpickled, or declares more than the limits.

    Args:
        name: how the user calls it, for messages; default: the name of the folder.

    Raises:
        UnsafeFileError: see above. UnreadableFileError: its metadata are no JSON.
    """
    name, declared, files = name or folder.name, 0, 0
    for place, folders, names in os.walk(folder, followlinks=False):
        files += len(names) + len(folders)
        depth = len(Path(place).relative_to(folder).parts)
        if files > MOST_FILES or depth > MOST_DEPTH:
            raise UnsafeFileError(
                f"{name} is no usual zarr store.", f"It has more than {MOST_FILES:,} files or {MOST_DEPTH} levels.", AGAIN
            )
        for entry in (*folders, *names):
            path = Path(place, entry)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise UnsafeFileError(f"{name} leads out of its folder.", f"'{entry}' in it is a link or a device.", AGAIN)
            if entry in METADATA:
                declared += _declared(path, name)
    if declared > settings.max_declared_bytes:
        most = f"The limit of this installation is {gib(settings.max_declared_bytes)}."
        raise UnsafeFileError(f"{name} declares {gib(declared)} of data.", most, "Take fewer cells or genes.")


def _declared(path: Path, name: str) -> int:
    """Return the bytes that the array of a metadata file declares, after a look at its filters."""
    where = f"'{path.parent.name}/{path.name}'"
    if path.stat().st_size > MOST_JSON:
        raise UnsafeFileError(f"{name} is no usual zarr store.", f"{where} has {path.stat().st_size:,} bytes.", AGAIN)
    try:
        found = json.loads(path.read_bytes())
        if path.name == "zarr.json" and found.get("node_type") == "group":
            return 0
        named = _codecs([found.get(key) for key in ("compressor", "filters", "codecs")])
        chunk = found["chunks"] if "chunks" in found else found["chunk_grid"]["configuration"]["chunk_shape"]
        size = _size(found.get("dtype", found.get("data_type")))
        pieces = _pieces(found.get("codecs"), [int(n) for n in chunk])
        numbers = [int(n) for n in found["shape"]] + [n for piece in pieces for n in piece]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{where} describes no array: {type(error).__name__} {str(error)[:100]}."
        raise UnreadableFileError(f"{name} is damaged.", why, AGAIN) from error
    if strange := sorted(named - CODECS):
        raise UnsafeFileError(f"{name} holds values that need '{strange[0][:40]}' to be read.", f"{where} says so.", AGAIN)
    parts = max((math.prod(outer) // max(math.prod(inner), 1) for outer, inner in pairwise(pieces)), default=1)
    if min(numbers, default=0) < 0 or math.prod(pieces[-1]) * size > MOST_CHUNK or parts > MOST_PARTS:
        raise UnsafeFileError(f"{name} is stored in pieces that are too large.", f"{where} declares them.", AGAIN)
    return math.prod(map(int, found["shape"])) * size


def _pieces(codecs: Any, chunk: list[int]) -> list[list[int]]:
    """Return the shape of a chunk and, where it is a shard, of the chunks in it, and so on: the last is what is unpacked whole."""
    found = [chunk]
    # a shard that is packed as a whole, by a further codec, must be unpacked whole
    while isinstance(codecs, list) and len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed" and len(found) <= MOST_NESTED:
        inner = codecs[0]["configuration"]
        found.append([int(n) for n in inner["chunk_shape"]])
        codecs = inner.get("codecs")
    return found


def _codecs(items: Any) -> set[str]:
    """Return the names of all filters, those within others (shards) too."""
    found: set[str] = set()
    ahead = [items]
    while ahead:
        item = ahead.pop()
        if isinstance(item, list):
            ahead += item
        elif isinstance(item, dict):
            found.add(str(item.get("id", item.get("name", ""))).removeprefix("numcodecs.") or "without a name")
            ahead += [part for part in (item.get("configuration") or {}).values() if isinstance(part, list)
                      and any(isinstance(one, dict) for one in part)]  # fmt: skip
    return found


def _size(dtype: Any) -> int:
    """Return the bytes of a value; of text of variable length those of its place."""
    if isinstance(dtype, list):
        return sum(_size(part[1]) for part in dtype)
    if isinstance(dtype, dict):
        return 8
    if dtype in ("string", "bytes", "variable_length_utf8", "variable_length_bytes"):
        return 8
    return max(int(np.dtype(dtype).itemsize), 1)
