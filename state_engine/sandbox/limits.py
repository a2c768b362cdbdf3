"""What a child that parses foreign bytes may use: memory, processor time, no other files, no network.

Source: setrlimit(2); the Landlock documentation of the Linux kernel, through the package py-landlock. Where the system has no Landlock
(macOS, old kernels), memory and time are limited and files are not: `confinement()` says which.
Boundary: TCP is refused from Landlock's version 4 on; UDP is not covered by it.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

MB: Final = 1 << 20
# what Python itself needs to read when a module is imported late; code and libraries, no data of anybody
LIBRARIES: Final = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/dev/null",
    "/dev/urandom",
)


@dataclass(frozen=True)
class Limits:
    """What one call may cost.

    Args:
        seconds: until the answer must be there; the child is killed then.
        memory_mb: memory beyond what the child has when it starts, MB.
        written_mb: largest file that it may write, MB; 0: it writes nothing.
    """

    seconds: float = 60.0
    memory_mb: int = 4096
    written_mb: int = 0


@cache
def confinement() -> str:
    """Return in words what keeps a child from other files on this system."""
    if not sys.platform.startswith("linux"):
        return "none: this system has no Landlock; a child has the rights of the server"
    try:
        from py_landlock import get_abi_version

        version = int(get_abi_version())
    except Exception as error:  # noqa: BLE001 - an old kernel, another processor, a package that is missing
        return f"none: {error}"
    return f"Landlock {version}: files" + (" and TCP" if version >= 4 else "")


def confine(limits: Limits, reads: Sequence[Path], writes: Sequence[Path] = ()) -> None:
    """Take this process's rights away, for good.

    Args:
        limits: memory, processor time, size of files.
        reads: files and folders that may be read besides Python and its libraries.
        writes: folders in which files may be made.
    """
    now = _address_space()
    _limit(resource.RLIMIT_AS, now + limits.memory_mb * MB)
    _limit(resource.RLIMIT_CPU, int(limits.seconds) + 2)
    _limit(resource.RLIMIT_FSIZE, limits.written_mb * MB)
    _limit(resource.RLIMIT_CORE, 0)
    if confinement().startswith("Landlock"):
        _landlock(reads, writes)


def _landlock(reads: Sequence[Path], writes: Sequence[Path]) -> None:
    from py_landlock import AccessFs, Landlock

    rules = Landlock(strict=False)
    code = [*map(Path, LIBRARIES), Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("purelib"))]
    for path in (*code, Path(__file__).resolve().parents[1], *reads):
        if path.is_dir():
            rules.allow_read(path)
        elif path.exists():
            rules.add_path_rule(path, access=AccessFs.READ_FILE)
    if writes:
        rules.allow_read_write(*writes)
    rules.apply()


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _address_space() -> int:
    """Bytes of address space that this process has now; libraries take much more than they use."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 4096 * MB
    return pages * os.sysconf("SC_PAGE_SIZE")
