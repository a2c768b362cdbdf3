"""What comes out of an archive is bounded while it is written: by what is declared, by the archive's own size, by the free disk.

Source: measured archives. The challenge's support set unfolds 5.6-fold, predictions of cells 6.5-fold; a .vcc of 30 kB that held zeros
unfolded 33,000-fold. Cells that are all alike (a mean as the prediction) unfold 1,600- to 2,560-fold: their ratio is a wider one.
Boundary: bytes and numbers. Which members may come out, and under which names, is for the caller to say.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from state_engine.config import GB
from state_engine.errors import StateError, UnsafeFileError

RATIO = 200.0  # bytes unpacked for each byte of an archive of real data
ALIKE_RATIO = 5_000.0  # the same where all cells may be alike
RESERVE = GB // 2  # bytes of the disk that no archive may take: jobs and their database need them
BLOCK = 1 << 20


@dataclass
class Unpacking:
    """Counts the bytes that come out of one archive and refuses the next ones before they are written.

    Args:
        name: how the user calls the archive, for messages.
        packed: its bytes.
        folder: where its content goes; its disk is looked at.
        most: most bytes that may come out.
        ratio: most bytes for each byte of the archive.
        kind: class of the errors.
        fix: what to do about a refusal.
    """

    name: str
    packed: int
    folder: Path
    most: int
    ratio: float = RATIO
    kind: type[StateError] = UnsafeFileError
    fix: str = "Unpack it yourself if you trust it, and open the files you need."
    done: int = field(default=0, init=False)

    def expect(self, declared: int) -> None:
        """Refuse, before anything is written, an archive whose declared content is too large.

        Raises:
            StateError: of the kind given, with the numbers.
        """
        self._check(declared, declared, "")

    def write(self, piece: bytes, target: IO[bytes]) -> None:
        """Write the next bytes of the content.

        Raises:
            StateError: of the kind given: more than allowed, or the disk is full.
        """
        self._check(self.done + len(piece), len(piece), "at least ")
        try:
            target.write(piece)
        except OSError as error:
            raise self.kind(
                f"{self.name} could not be unpacked.", f"{error.strerror or error}.", "Check space and permissions."
            ) from error
        self.done += len(piece)

    def _check(self, total: int, coming: int, least: str) -> None:
        times = total / max(self.packed, 1)
        why = ""
        if total > self.most:
            why = f"Its content has {least}{size_words(total)}; up to {size_words(self.most)} are accepted."
        elif times > self.ratio:
            real = f"real data come to less than {self.ratio:,.0f} times"
            why = f"Its content is {least}{times:,.0f} times as large as the archive ({size_words(self.packed)}); {real}."
        if why:
            raise self.kind(f"{self.name} is not unpacked.", why, self.fix)
        free = shutil.disk_usage(self.folder).free
        if coming > free - RESERVE:
            raise self.kind(
                f"{self.name} needs {least}{size_words(total)} unpacked.",
                f"{size_words(free)} are free, of which {size_words(RESERVE)} stay free.",
                "Make room first.",
            )


def size_words(n: int) -> str:
    """Return a number of bytes in words."""
    if n >= 1e9:
        return f"{n / 1e9:,.1f} GB"
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB"
