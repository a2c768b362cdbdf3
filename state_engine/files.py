"""Files that are whole or not there: written beside, flushed to disk, then renamed. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

from state_engine.config import Settings, load_settings
from state_engine.errors import RequestError, StateError, parser_words

T = TypeVar("T")
_FULL_BYTES = 16 * 1024**2
_MOST_DEPTH = 64  # objects in objects; a request has five
PART_PREFIX = ".part-"
_OWNED = re.compile(r"\.part-[0-9a-f]{8}-p(?P<pid>[0-9]+)\.(?P<host>[0-9a-f]{4})-(?P<name>.+)", re.DOTALL)
_PART_SECONDS = 86_400.0  # that a part of another machine, which cannot be asked, may stay untouched
_CLOCK_SECONDS = 5.0  # start times of processes are computed from the clock, which may be corrected
_open_parts = set[str]()  # of this process
_SCRATCH = ".unpacked-"
_SCRATCH_SECONDS = 7 * 86_400.0  # longer than any job takes


@contextmanager
def replacing(path: Path, final: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well and removed when it does not.

    The temporary name keeps the suffix, since some writers choose or append one ("x.npz").

    Args:
        path: of the file.
        final: gives its name in the same folder once it is written, where that depends on the content.
    """
    with part_beside(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path if final is None else final(temporary))
    _flush(path.parent)


@contextmanager
def part_beside(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, for a file or a folder; what is there when the block ends goes.

    Its name says which process writes there, so that `remove_parts` lets it be as long as that process lives.
    """
    part = path.with_name(f"{PART_PREFIX}{secrets.token_hex(4)}-p{os.getpid()}.{_host()}-{path.name}")
    _open_parts.add(part.name)
    try:
        yield part
    finally:
        _remove(part)
        _open_parts.discard(part.name)


def free_output(output: Path, *inputs: Path | str) -> None:
    """Make sure, before any work, that a file can be written: its folder is made and open, and it is no folder, no device and no input.

    Args:
        output: the file to write.
        inputs: files, and folders of which no file may be written over.

    Raises:
        RequestError: it cannot be written there.
    """
    try:
        is_folder = output.is_dir()
    except OSError as error:  # a name that is too long, for one
        raise _unwritable(output, error) from error
    if is_folder:
        raise RequestError(f"{output} is a folder.", "The result is one file.", "Give the file a name in that folder.")
    apart_from(output, *inputs)
    _make_folder(output.parent)
    _try_to_write(output, output)


def apart_from(output: Path, *inputs: Path | str) -> None:
    """Make sure that a file or folder to write is no input, lies in none, and is no device, pipe or socket.

    Args:
        output: the file or folder.
        inputs: files and folders; "" is one that was not given.

    Raises:
        RequestError: it is, and nothing may be written there.
    """
    try:
        special = output.exists() and not output.is_file() and not output.is_dir()
        over = [Path(given) for given in inputs if given and _is_or_lies_in(output, Path(given))]
    except OSError as error:
        raise _unwritable(output, error) from error
    if special:
        raise RequestError(
            f"{output} exists and is no regular file.", "It is a device, a pipe or a socket.", "Give the name of a file."
        )
    if over:
        raise RequestError(
            f"{output.name} would be written over an input.",
            f"It is read as, or lies in, {over[0].name}.",
            "Give another name.",
        )


def _is_or_lies_in(output: Path, given: Path) -> bool:
    """Return whether a file is an input under any name, or lies in an input that is a folder."""
    try:
        place, other = output.resolve(), given.resolve()
    except ValueError:  # a byte that is zero: there is no such file
        return False
    same = output.exists() and given.exists() and output.samefile(given)
    return same or place == other or (given.is_dir() and place.is_relative_to(other))


def _try_to_write(output: Path, asked: Path) -> None:
    """Make a file beside the output, as `replacing` does, and take it away; an error names what was asked for."""
    try:
        with part_beside(output) as probe:
            probe.open("xb").close()
    except (OSError, ValueError) as error:
        raise _unwritable(asked, error) from error


def _unwritable(output: Path, error: OSError | ValueError, what: str = "cannot be written") -> RequestError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RequestError(f"{output} {what}.", f"{why}.", "Choose another folder or name.")


def free_folder(folder: Path) -> None:
    """Make sure, before any work, that files can be written into a folder; it is made when it is not there.

    Raises:
        RequestError: there is a file of that name, or the folder cannot be made.
    """
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if is_file:
        raise RequestError(f"{folder} is a file.", "The results go into a folder.", "Give another name.")
    _make_folder(folder)
    _try_to_write(folder / "results", folder)


def is_empty(folder: Path) -> bool:
    """Return whether there is nothing: no file of that name, and no folder with something in it."""
    return not any(folder.iterdir()) if folder.is_dir() else not (folder.exists() or folder.is_symlink())


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make sure of a folder as `free_folder` does; take it away again when the work ends badly and nothing is in it."""
    new = not folder.exists()
    free_folder(folder)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty: what was completed stays
                folder.rmdir()
        raise


@contextmanager
def alone_in(folder: Path, name: str, what: str) -> Iterator[None]:
    """Let one process at a time work in a folder; the lock is free again when the process ends, whatever death it dies.

    Args:
        folder: it is there.
        name: of the lock's file, which is there as long as the lock.
        what: the process does there, in the error: "computes the shards in".

    Raises:
        RequestError: another process works there.
    """
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(handle).st_nlink == 0  # another had it and took its file away in between
        except BlockingIOError:
            taken = True
        if taken:
            raise RequestError(f"Another process {what} {folder}.", "Two would do the same work.", "Wait for it, or end it.")
        try:
            yield
        finally:
            (folder / name).unlink(missing_ok=True)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error, "cannot be made") from error


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is, or will be."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def disk_full(error: BaseException, folder: Path, kind: type[StateError]) -> StateError | None:
    """Return the error that tells people that the disk is full, when that is what this error or its cause comes from.

    HDF5 and SQLite say "I/O error" or "flush failure" where nothing fits any more; the free disk then tells.

    Args:
        error: as it was raised.
        folder: where it was written.
        kind: class of the answer.
    """
    there = _existing(folder)
    free = free_bytes(there)
    nameless = isinstance(error, RuntimeError | sqlite3.OperationalError) or (isinstance(error, OSError) and error.errno is None)
    vague = nameless and any(word in str(error) for word in ("write", "flush", "disk I/O", "extend"))
    if not (vague and free < _FULL_BYTES) and not any(map(_says_full, _causes(error))):
        return None
    return kind(
        f"The disk is full: {free / 1e6:,.0f} MB are free in {there}.",
        "What was being written there did not fit, and was removed.",
        "Delete runs or data sets that are not needed any more, or make room otherwise; then try again.",
    )


def room_for(folder: Path, size: int) -> None:
    """Make sure, before a file is begun, that it fits: HDF5 may end the process where it cannot close what did not fit.

    Args:
        folder: an existing one.
        size: in bytes.

    Raises:
        RequestError: so much is not free.
    """
    free = free_bytes(folder)
    if size > free:
        raise RequestError(
            f"The disk is full: {free / 1e6:,.1f} MB are free in {folder}.",
            f"The result needs {size / 1e6:,.1f} MB.",
            "Make room, choose another folder, or ask for fewer cells.",
        )


@contextmanager
def full_disk_told(folder: Path, kind: type[StateError]) -> Iterator[None]:
    """Turn whatever a full disk raises inside the block into an error that says so (`disk_full`)."""
    try:
        yield
    except Exception as error:
        told = disk_full(error, folder, kind)
        if told is None:
            raise
        raise told from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left on device", "errno = 28", "database or disk is full"))


@contextmanager
def scratch_folder(settings: Settings | None = None, given: Path | None = None) -> Iterator[Path]:
    """Make a folder for what is needed for a while, removed afterwards whatever happens.

    It lies below the home of the installation, whose disk is meant for data; the system's own folder for such files is often memory.
    What a killed process left there goes after some days.

    Args:
        settings: of the installation; None: those of the environment.
        given: another folder to make it in.
    """
    base = given or (settings or load_settings()).home / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    for left in base.glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # another process may be faster
            if time.time() - left.stat().st_mtime > _SCRATCH_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=base, prefix=_SCRATCH, ignore_cleanup_errors=True) as name:
        yield Path(name)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a reader sees the old or the new content, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON.

    Raises:
        TypeError: a value JSON does not know. ValueError: a number that is not finite.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe would be waited for, a device has no end.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "It is a pipe or a device, no regular file", str(path))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, most: int = 64 << 20) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        most: bytes that are read; a file of a run or a card has thousands.

    Raises:
        OSError: it cannot be read. ValueError: it is no JSON, nested too deeply, or too long.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most >> 20} MB")
    return parse_json(content)


def parse_json(content: bytes | str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested deeper than what reads it later can follow.
    """
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(parser_words(error)) from None
    level, depth = [found], 0
    while level := [inner for value in level for inner in _inner(value)]:
        depth += 1
        if depth > _MOST_DEPTH:
            raise ValueError("it is nested too deeply")
    return found


def _inner(value: Any) -> list[Any]:
    """Return the lists and objects in a list or an object."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in within if isinstance(one, dict | list)]


def remove_parts(folder: Path, name: str = "") -> int:
    """Remove what killed processes left half-written in `folder` (not below it), not what others are writing. Returns how many went.

    Args:
        folder: to look into.
        name: of the files that were to be; "": any.
    """
    parts = [part for part in folder.glob(f"{PART_PREFIX}*") if _is_part_of(part, name) and not _is_being_written(part)]
    for part in parts:
        _remove(part)
    return len(parts)


def _is_part_of(part: Path, name: str) -> bool:
    owned = _OWNED.fullmatch(part.name)
    return not name or (owned is not None and owned["name"] == name)


def _is_being_written(part: Path) -> bool:
    """Return whether the process that made a part may still write it. A process that is younger than the part is another one."""
    owned = _OWNED.fullmatch(part.name)
    if owned is None:  # of an earlier version
        return False
    try:
        touched = part.stat().st_mtime
    except FileNotFoundError:
        return True  # renamed or removed by whoever wrote it
    if owned["host"] != _host():
        return time.time() - touched < _PART_SECONDS
    if int(owned["pid"]) == os.getpid():
        return part.name in _open_parts
    import psutil

    try:
        process = psutil.Process(int(owned["pid"]))
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= touched + _CLOCK_SECONDS
    except psutil.Error:
        return False


def _host() -> str:
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:4]


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in `folder` and below; links are not followed."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(base) / name).lstat().st_size
            except FileNotFoundError:  # a temporary file that was renamed meanwhile
                continue
    return total


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Unchanged(Generic[T]):
    """What was read of files, in this process, for as long as none of them changes. What it holds is shared: nobody may change it.

    Args:
        most: entries; with one more all are forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[tuple[Path, ...], tuple[object, T]] = {}

    def get(self, read: Callable[[], T], *files: Path) -> T:
        """Return what `read` returned for these files as they are now; where one is missing, it is read each time."""
        try:
            now = tuple((f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in map(os.stat, files))
        except OSError:
            return read()
        before, value = self._found.get(files, (None, None))
        if before == now:
            return cast(T, value)
        value = read()  # what changes meanwhile has another stamp, and is read again
        if len(self._found) >= self._most:
            self._found.clear()
        self._found[files] = now, value
        return value
