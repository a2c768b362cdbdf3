"""Where a training or a pretraining writes: a folder apart from what it reads, free or begun by itself, one process at a time. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.errors import CheckpointError
from state_engine.files import alone_in, apart_from, is_empty, output_folder
from state_engine.train.trainer import CHECKPOINTS, is_first

AGAIN: Final = "It was stopped before its first checkpoint, so it begins again."


@dataclass(frozen=True)
class Work:
    """A kind of work that fills a folder.

    Args:
        record: file that says what was begun.
        before: files and folders that are there before the first step, beside the record.
        lock: file that is there while a process works.
        does: what such a process does there, for the error: "trains in".
    """

    record: str
    before: tuple[str, ...]
    lock: str
    does: str

    def is_free(self, folder: Path) -> bool:
        """Return whether nothing is lost when work begins there: nothing is in it, or work ended in it before its first step."""
        if not folder.is_dir():
            return is_empty(folder)
        there = {path.name for path in folder.iterdir()} - {self.lock}
        return not there or (self.record in there and not there - {self.record, *self.before})


@contextmanager
def begun(work: Work, output: Path, inputs: tuple[Path | str, ...]) -> Iterator[None]:
    """Begin work in a folder; one that was made for it and has nothing in it goes again when the work ends badly.

    Raises:
        CheckpointError: there is something in the folder.
        RequestError: the folder is an input or lies in one, cannot be written, or another process works in it.
    """
    apart_from(output, *inputs)
    if is_first():
        _require_free(work, output)
    with output_folder(output), alone(work, output):
        yield


def alone(work: Work, output: Path) -> AbstractContextManager[None]:
    """Let one process at a time work in a folder that is there; further processes of the same training belong to the first.

    Raises:
        RequestError: another process works there.
    """
    return alone_in(output, work.lock, work.does) if is_first() else nullcontext()


def begins_again(folder: Path, state: str) -> bool:
    """Return whether work that was killed or failed left no checkpoint, so that going on with it is to begin again; nothing is lost by that.

    Work that was cancelled saved one: where that is gone, somebody took it away.
    """
    return state in ("running", "failed") and not any((folder / CHECKPOINTS).glob("*.ckpt"))


def _require_free(work: Work, output: Path) -> None:
    if work.is_free(output):
        return
    ours = (output / work.record).is_file()
    fix = "Go on with it (resume), choose another folder, or remove it." if ours else "Choose another folder, or remove it first."
    raise CheckpointError(f"{output} is there already.", "", fix)
