"""What chance does to a good file: to its bytes, to the objects of an HDF5 file, to the instructions of a pickle."""

from __future__ import annotations

import io
import pickletools
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

ODD_NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
MOST_ROWS = 1_000_000  # of what is put in: an earlier edit may declare more rows than memory holds


def spoil_bytes(raw: bytes, chance: random.Random) -> bytes:
    """Flip, zero, cut, splice or overwrite a few stretches."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if len(data) < 16:
            break
        # the first bytes say most about the rest, so they are met more often
        at = chance.randrange(min(len(data), 512) if chance.random() < 0.3 else len(data))
        length = chance.choice((1, 2, 4, 8, 16, 64, 512))
        kind = chance.choice(("flip", "flip", "zero", "ones", "cut", "splice", "number", "insert", "remove"))
        if kind == "flip":
            for place in range(at, min(at + min(length, 8), len(data))):
                data[place] ^= 1 << chance.randrange(8)
        elif kind in ("zero", "ones"):
            end = min(at + length, len(data))
            data[at:end] = (b"\0" if kind == "zero" else b"\xff") * (end - at)
        elif kind == "cut":
            del data[max(at, 16) :]
        elif kind == "splice":
            start = chance.randrange(len(data))
            part = data[start : start + length]
            data[at : at + len(part)] = part
        elif kind == "number":
            width = chance.choice((2, 4, 8))
            data[at : at + width] = (chance.choice(ODD_NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == "insert":
            data[at:at] = chance.randbytes(min(length, 64))
        else:
            del data[at : at + length]
    return bytes(data)


def spoil_hdf5(path: Path, chance: random.Random, outside: Path) -> None:
    """Edit attributes, shapes, types, values, links and storage of an HDF5 file in place.

    Args:
        outside: a file that nobody who opens this one may read.
    """
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(chance.choice((1, 1, 2, 3))):
            name = chance.choice(names)
            edit = chance.choice((_attribute, _attribute, _value, _value, _value, _replace, _replace, _remove, _link, _storage))
            with suppress(
                KeyError, ValueError, TypeError, OSError, RuntimeError, MemoryError
            ):  # an earlier edit made this one impossible
                edit(file, name, chance, outside)


def _attribute(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    attributes = file[name].attrs
    key = chance.choice([*attributes, "encoding-type", "_index", "column-order", "shape", "categories"])
    odd = (
        "", "x" * 60_000, 7, -1, 1e300, np.nan, "csr_matrix", "categorical", "dataframe", "array", "null", "\udcff", "obs",
        np.array([2**62, 2**62]), np.array([-1, 3]), np.array(["perturbation"] * 2_000, dtype="S12"), np.zeros((2, 2)),
        np.array(["nothing", "perturbation"], dtype=object), file["obs"].ref, h5py.Empty("f4"), True,
    )  # fmt: skip
    value = chance.choice(odd)
    if isinstance(value, str) and "\udcff" in value:
        value = np.bytes_(b"\xff\xfe")
    attributes[key] = value


def _value(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    item = file[name]
    if not isinstance(item, h5py.Dataset) or not item.size:
        return
    values = item[()]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        return
    flat = values.reshape(-1)
    for _ in range(chance.choice((1, 1, 5))):
        odd = (np.nan, np.inf, -1.0, 1e30, 0.5) if values.dtype.kind == "f" else ODD_NUMBERS
        number = np.array(chance.choice(odd), dtype=np.float64 if values.dtype.kind == "f" else np.int64)
        flat[chance.randrange(len(flat))] = number.astype(values.dtype)
    item[...] = values


def _replace(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    item = file[name]
    length = min(item.shape[0], MOST_ROWS) if isinstance(item, h5py.Dataset) and item.shape else 10
    kept = dict(item.attrs)
    del file[name]
    kind = chance.choice(
        ("empty", "longer", "shorter", "words", "scalar", "complex", "group", "huge", "wide", "null", "compound")
    )
    if kind == "huge":
        made = file.create_dataset(name, (2**40,), "f8", chunks=(1024,), compression="gzip")
    elif kind == "wide":
        made = file.create_dataset(name, (length, 2**20), "f4", chunks=(1, 1024), compression="gzip")
    elif kind == "group":
        made = file.create_group(name)
    else:
        values = {
            "empty": np.zeros(0), "longer": np.zeros(length + 3, np.int32), "shorter": np.zeros(max(length - 1, 1), np.int8),
            "words": np.array(["word"] * length, dtype="S8"), "scalar": 3, "complex": np.zeros(length, np.complex64),
            "null": h5py.Empty("f4"), "compound": np.zeros(length, [("a", "f4"), ("b", "i8")]),
        }[kind]  # fmt: skip
        made = file.create_dataset(name, data=values)
    if chance.random() < 0.7:
        for key, value in kept.items():
            made.attrs[key] = value


def _remove(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    del file[name]


def _link(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    del file[name]
    target = chance.choice([*file["obs"], "_index"])
    links = (
        h5py.ExternalLink(str(outside), "/X"), h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/nowhere"),
        h5py.SoftLink("/"), h5py.SoftLink(f"/obs/{target}"),
    )  # fmt: skip
    file[name] = chance.choice((*links, file["obs"]))


def _storage(file: h5py.File, name: str, chance: random.Random, outside: Path) -> None:
    """Let values lie in another file, with or without a name that leads to them."""
    hidden = chance.random() < 0.4
    where = "stray" if hidden else name
    if where in file:
        del file[where]
    if chance.random() < 0.5:
        made = file.create_dataset(where, (8,), "S1", external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout((8,), "S1")
        layout[:] = h5py.VirtualSource(str(outside), "X", (8,))
        made = file.create_virtual_dataset(where, layout)
    column = f"obs/{chance.choice(list(file['obs']))}" if "obs" in file and len(file["obs"]) else None
    if hidden and column in file and isinstance(file[column], h5py.Dataset):
        file[column].attrs["categories"] = made.ref
        h5py.h5o.link(made.id, file.id, b"stray2")
        del file["stray2"], file["stray"]


def spoil_pickle(raw: bytes, chance: random.Random, marker: Path) -> bytes:
    """Drop, repeat, swap or replace instructions of a pickle, or put in some that would run a program.

    Args:
        marker: a file that the program would make.
    """
    starts = [place for _, _, place in pickletools.genops(raw) if place is not None]
    parts = [raw[a:b] for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    run = f"cos\nsystem\n(S'touch {marker}'\ntR0".encode()
    build = f"cbuiltins\nopen\n(S'{marker}'\nS'w'\ntR0".encode()
    odd = (
        run, build, b"N", b"]", b"}", b"(", b"t", b"l", b"0", b"2", b"\x88", b"K\xff", b"J\xff\xff\xff\x7f", b"h\x00", b"a", b"u",
        b"s", b"R", b"b", b"\x81", b"cnumpy\ndtype\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"\x8c\x01x", b"Q", b".",
        b"\x8a\xff" + b"\x01" * 255, b"G\x7f\xf0\0\0\0\0\0\0", b"U\x04nope",
    )  # fmt: skip
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(parts))
        kind = chance.choice(("drop", "repeat", "swap", "put", "put", "other"))
        if kind == "drop" and len(parts) > 4:
            del parts[at]
        elif kind == "repeat":
            parts[at:at] = parts[at : at + chance.choice((1, 3, 10))]
        elif kind == "swap":
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == "put":
            parts.insert(at, chance.choice(odd))
        else:
            parts[at] = chance.choice(odd)
    return b"".join(parts)


def spoil_torch_zip(raw: bytes, chance: random.Random, marker: Path) -> bytes:
    """Spoil the pickle, or a record, inside an archive of torch.save; the archive itself stays whole."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = chance.choice(names) if chance.random() < 0.15 else next(n for n in names if n.endswith("data.pkl"))
        for name in names:
            content = old.read(name)
            if name == chosen:
                if name.endswith(".pkl"):
                    content = spoil_pickle(content, chance, marker)
                else:
                    content = spoil_bytes(content, chance)
            new.writestr(name, content)
    return out.getvalue()
