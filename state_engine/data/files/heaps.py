"""Texts of variable length lie in heaps, whose damage sends libhdf5 round in a circle that nobody can stop: they are looked at first.

Source: the HDF5 file format specification 3.0, III.E "Global Heap". Each collection is "GCOL", a version, its size, then objects: number,
references, size, bytes; object 0 is what is free, with its own header. Size 0 there makes libhdf5 read the same object again, without end.
Boundary: files up to `MOST_BYTES`, which take a fraction of a second; larger ones are held by the deadline of whoever opens them.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from state_engine.errors import UnreadableFileError

MOST_BYTES = 128 << 20
START = b"GCOL\x01\0\0\0"  # the signature, version 1, three bytes that are zero
HEAD = struct.Struct("<QQ")  # the first eight bytes are START
OBJECT = struct.Struct("<HHIQ")


def check_heaps(path: Path, size: int) -> None:
    """Refuse a file with a heap that a reader would never leave.

    Raises:
        UnreadableFileError: with the place in the file.
    """
    if not 0 < size <= MOST_BYTES:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(START)
        while start >= 0:
            if not _ends(data, start):
                raise UnreadableFileError(
                    f"{path.name} is damaged.",
                    f"Texts of it lie in a heap at byte {start:,} whose objects have no end.",
                    "Download or export it again.",
                )
            start = data.find(START, start + len(START))


def _ends(data: mmap.mmap, start: int) -> bool:
    """Return whether walking over the objects of a collection comes to an end."""
    if start + HEAD.size > len(data):
        return True  # cut off: libhdf5 says so itself
    _, length = HEAD.unpack_from(data, start)
    place, end = start + HEAD.size, min(start + length, len(data))
    while place + OBJECT.size <= end:
        number, _, _, size = OBJECT.unpack_from(data, place)
        # free space counts its own header; a text does not, and is filled up to eight bytes
        step = size if number == 0 else OBJECT.size + (size + 7) // 8 * 8
        if step < OBJECT.size:
            return False
        place += step
    return True
