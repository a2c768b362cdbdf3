"""Which shards are done: a folder that survives the process.

    FOLDER/plan.json                what is computed; the shards of another plan are removed
    FOLDER/00012-CHECKSUM.shard     a shard that is done: its file is renamed to this name when it is whole, and is not computed again
    FOLDER/log.jsonl                a line when a shard is begun and when it is done: by whom, when, and how long it took
    FOLDER/lock                     held by the process that works here

The checksum (sha256) is a part of the name, so that a file and the note of its being done cannot part. A file whose bytes are not those of its
name is computed again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.errors import RequestError
from state_engine.files import alone_in, full_disk_told, read_json, remove_parts, replacing, room_for, sha256_of, write_json
from state_engine.shards.plan import Plan, Shard, Write

PLAN, LOG, LOCK = "plan.json", "log.jsonl", "lock"
FORMAT: Final = 1
_FILE = re.compile(r"(?P<number>[0-9]{5,})-(?P<checksum>[0-9a-f]{64})\.shard")
MARGIN: Final = 8 << 20  # bytes that stay free: logs and the jobs database are on the same disk


@dataclass(frozen=True)
class ShardFile:
    """A shard that is done: its number, its file, and its size."""

    number: int
    path: Path
    size: int


class Ledger:
    """The folder of one plan, held by this process. Make it with `held`.

    Args:
        folder: see above.
        plan: that is worked off.
        threads: of one shard: those of the process that began the plan.
    """

    def __init__(self, folder: Path, plan: Plan, threads: int) -> None:
        self.folder, self.plan, self.threads = folder, plan, threads
        self.done = {file.number: file for file in _whole_files(folder) if file.number < len(plan.shards)}

    @property
    def todo(self) -> tuple[Shard, ...]:
        """The shards that are not done, in order."""
        return tuple(shard for shard in self.plan.shards if shard.number not in self.done)

    def check_room(self) -> None:
        """Make sure that what is left fits on the disk.

        Raises:
            RequestError: it does not.
        """
        room_for(self.folder, sum(shard.size for shard in self.todo) + self.plan.merged)

    def note(self, file: ShardFile) -> None:
        """Take up a shard that was computed."""
        self.done[file.number] = file

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard that is done."""
        return self.done[shard.number].path

    def forget(self, shard: Shard) -> None:
        """Have a shard computed again."""
        file = self.done.pop(shard.number, None)
        if file is not None:
            file.path.unlink(missing_ok=True)

    def remove_others(self) -> None:
        """Remove what is named like a shard and is none of those that are done: its bytes have changed."""
        whole = {file.path for file in self.done.values()}
        for path in self.folder.glob("*.shard"):
            if path not in whole:
                path.unlink(missing_ok=True)

    def take(self, other: Path) -> None:
        """Take over the shards of the same plan in another folder, as links where the disk allows it."""
        for file in _whole_files(other):
            if file.number not in self.done and file.number < len(self.plan.shards):
                target = self.folder / file.path.name
                _link(file.path, target)
                self.note(ShardFile(file.number, target, file.size))

    def clear(self) -> None:
        """Remove the files of the shards, once they are put together; the log stays."""
        for path in (*self.folder.glob("*.shard"), self.folder / PLAN):
            path.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, plan: Plan, *, temporary: bool = False) -> Iterator[Ledger]:
    """Hold the folder of a plan, made or gone on with; the shards of another plan that lie there are removed.

    Args:
        folder: of the shards.
        plan: to work off.
        temporary: the folder is removed when the block ends well, and when it ends badly with no shard done.

    Raises:
        RequestError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, LOCK, "computes the shards in"):
        remove_parts(folder)
        ledger = Ledger(folder, plan, _threads_of(folder, plan))
        ledger.remove_others()
        try:
            yield ledger
        except BaseException:
            if temporary and not ledger.done:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def save_shard(folder: Path, shard: Shard, write: Write) -> ShardFile:
    """Write the file of a shard, whole or not at all; return it under its final name.

    Raises:
        RequestError: the disk is full.
    """
    room_for(folder, shard.size + MARGIN)
    named: list[Path] = []

    def name(beside: Path) -> Path:
        named.append(folder / f"{shard.number:05d}-{sha256_of(beside)}.shard")
        return named[0]

    with full_disk_told(folder, RequestError), replacing(folder / f"{shard.number:05d}.shard", name) as beside:
        write(beside)
    return ShardFile(shard.number, named[0], named[0].stat().st_size)


def find_shard(folder: Path, number: int) -> ShardFile | None:
    """Return the file of a shard when it is there and whole."""
    return next(_whole_files(folder, f"{number:05d}-*.shard"), None)


def log_line(folder: Path, **facts: object) -> None:
    """Append a line to the log; lines of several processes do not mix."""
    line = json.dumps({"time": round(time.time(), 3), **facts}) + "\n"
    handle = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def log_lines(folder: Path) -> list[dict[str, object]]:
    """Return the lines of the log; what a killed process wrote half is left out."""
    found = []
    path = folder / LOG
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def plan_in(folder: Path) -> dict[str, object] | None:
    """Return the plan whose shards lie in a folder, see `Plan.identity`; None where there is none that can be read."""
    try:
        found = read_json(folder / PLAN)
    except (OSError, ValueError):
        return None
    plan = found.get("plan") if isinstance(found, dict) else None
    return plan if isinstance(plan, dict) else None


def _threads_of(folder: Path, plan: Plan) -> int:
    """Return the threads that the plan was begun with; a folder of another plan, or of none, is emptied and the plan noted there."""
    asked = {"format": FORMAT, **json.loads(json.dumps(plan.identity()))}
    try:
        found = read_json(folder / PLAN)
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.get("plan") == asked:
        return int(found.get("threads", 0))
    for path in (*folder.glob("*.shard"), folder / LOG):
        path.unlink(missing_ok=True)
    with full_disk_told(folder, RequestError):
        write_json(folder / PLAN, {"plan": asked, "threads": plan.threads})
    return plan.threads


def _whole_files(folder: Path, pattern: str = "*.shard") -> Iterator[ShardFile]:
    """Yield the shards whose bytes are those that were written."""
    for path in sorted(folder.glob(pattern)):
        match = _FILE.fullmatch(path.name)
        if match is not None and sha256_of(path) == match["checksum"]:
            yield ShardFile(int(match["number"]), path, path.stat().st_size)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        with replacing(target) as beside:
            shutil.copyfile(file, beside)
