"""Every error the engine raises on purpose.

    StateError
    ├── DataError            the data set
    │   ├── UnreadableFileError    truncated, not HDF5, not AnnData
    │   ├── UnsafeFileError        links to other files, absurd declared sizes, inconsistent indices
    │   ├── EmptyDataError         no cells or no genes
    │   ├── LabelError             a column or a label that is not there; no control
    │   ├── ScaleError             neither counts nor log1p, or not the one needed
    │   ├── GeneError              gene names that do not match or repeat
    │   ├── SplitError             a split that selects nothing, contradicts itself, or leaks
    │   └── RepresentationError    a matrix (X, layer, obsm) that is not there or has another width
    ├── ModelError           the model
    │   ├── CheckpointError        missing files, missing or unexpected weights
    │   ├── UnsafePickleError      a pickle that asks for more than numbers and containers
    │   ├── ConfigError            unknown or contradictory fields
    │   ├── DownloadError          no network, no such repository or revision, hash differs
    │   └── LicenceError           weights whose licence was not accepted
    ├── RequestError         what was asked
    │   ├── UnknownLabelError      perturbations, batches or contexts the model or data set does not know
    │   └── IncompatibleError      data set and model do not fit; carries the findings
    ├── DeviceError          a device that is not there, or has too little memory
    ├── RunError             a run folder that is missing or damaged
    ├── JobError             jobs
    │   └── JobCancelled           raised inside a verb by its progress callback
    └── ChallengeError       a submission that cannot be made

Each error says what happened, why, and what to do; `str(error)` is the three as sentences, ready to be shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# at least two names below the root; no part of an address, a relative path or a fraction
_PATH = re.compile(r"(?<![\w.:/~])/(?:[^\s/'\"`,;()<>]+/)*(?P<folder>[^\s/'\"`,;()<>]+)/(?P<name>[^\s/'\"`,;()<>]*)")

MOST_NAME = 200  # characters of a name in a message
MOST_LOOKED = 5  # names that near ones are sought for


class StateError(Exception):
    """Base of all errors meant for the user.

    Args:
        what: what happened, a sentence.
        why: the reason, a sentence, with numbers where there are any.
        fix: what to do about it, a sentence.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(" ".join(part for part in (what, why, fix) if part))

    def __reduce__(self) -> tuple[type[StateError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.fix)


class DataError(StateError):
    """Something is wrong with the data set."""


class UnreadableFileError(DataError):
    """The file is truncated, not HDF5, or not an AnnData file."""


class UnsafeFileError(DataError):
    """The file points outside itself, declares absurd sizes, or contradicts itself."""


class EmptyDataError(DataError):
    """The data set has no cells or no genes."""


class LabelError(DataError):
    """A column or a label is not in the data set."""


class ScaleError(DataError):
    """The expression values are not on the scale that is needed."""


class GeneError(DataError):
    """Gene names do not match, or repeat."""


class SplitError(DataError):
    """A split into training, validation and test selects nothing, contradicts itself, or leaks."""


class RepresentationError(DataError):
    """A matrix is not in the data set, or has another width than the model's."""


class ModelError(StateError):
    """Something is wrong with the model."""


class CheckpointError(ModelError):
    """Files or weights of a model are missing, unexpected or damaged."""


class UnsafePickleError(ModelError):
    """A pickle asks for a class or function that is not on the allow-list."""


class ConfigError(ModelError):
    """A configuration has unknown, missing or contradictory fields."""


class DownloadError(ModelError):
    """A download did not work: no network, no such repository, another hash."""


class LicenceError(ModelError):
    """The licence of the weights was not accepted."""


class RequestError(StateError):
    """What was asked cannot be done."""


class UnknownLabelError(RequestError):
    """Perturbations, batches or contexts that the model or the data set does not know."""


class IncompatibleError(RequestError):
    """Data set and model do not fit together."""


class QuotaError(RequestError):
    """An owner asks for more than the installation allows each."""


class DeviceError(StateError):
    """A device is not there, or has too little memory."""


class RunError(StateError):
    """A run folder is missing or damaged."""


class JobError(StateError):
    """A job could not be done."""


class JobCancelled(JobError):  # noqa: N818 - the user's wish, not an error
    """Raised by a progress callback to stop a verb."""


class ChallengeError(StateError):
    """A challenge submission cannot be made or read."""


@contextmanager
def door(name: str, kind: type[StateError] = DataError, fix: str = "Download or export it again.") -> Iterator[None]:
    """Turn whatever foreign bytes raise inside the block into an error that names the user's file.

    The lists of exceptions that parsers raise on damaged bytes are never complete, so all are taken; errors of ours pass. What the
    parser says goes into the error without the places of files.

    Raises:
        StateError: of the given kind.
    """
    try:
        yield
    except StateError:
        raise
    except Exception as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else parser_words(error)
        first = without_folders(" ".join(words.split()))[:200] or type(error).__name__
        raise kind(f"{name} cannot be read.", f"It is damaged or not what its name says: {first}.", fix) from error


def parser_words(error: Exception) -> str:
    """Return what a parser says about bytes; Python's advice on numbers without end is for programmers."""
    words = str(error)
    return "A number has thousands of digits" if "set_int_max_str_digits" in words else words


def without_folders(text: str) -> str:
    """Return a text in which absolute paths are shortened to their last name."""
    return _PATH.sub(lambda found: found["name"] or found["folder"], text)


def cut(name: str) -> str:
    """Return a name, or the beginning of one that would fill a page."""
    return name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}…"


def listed(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """The first few names for a message: 'A, B, C and 12 more'; one that is longer than any name is cut."""
    shown = ", ".join([cut(name) for name in names[:most]])
    rest = len(names) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def near_each(names: Iterable[str], known: Iterable[str], cutoff: float = 0.7) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return those of the first names that are spelled nearly like known ones, each with up to three of these, nearest first.

    One that differs in case, spaces, dashes and underscores only is the one meant.

    Args:
        names: that are not known.
        known: the names that can be meant.
        cutoff: how alike, 0 to 1; at 1 only those of the same letters, and all names are looked at.
    """
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(_letters(one), one)
    found = dict[str, tuple[str, ...]]()
    looked = 0
    for name in names:
        letters = _letters(name)
        if letters in folded:
            found[name] = (folded[letters],)
        elif cutoff < 1 and looked < MOST_LOOKED:  # each takes about 50 ms among 18,000 genes
            looked += 1
            found[name] = tuple(folded[one] for one in difflib.get_close_matches(letters, folded, 3, cutoff))
    return tuple((name, close) for name, close in found.items() if close)


def may_be(near: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    """Return a sentence about names and what they may be; "" for none. See `near_each`."""
    pairs = [f"'{name}' may be " + " or ".join(f"'{one}'" for one in close) for name, close in near]
    return f"{listed(pairs)}." if pairs else ""


def _letters(name: str) -> str:
    return name.casefold().replace(" ", "").replace("-", "").replace("_", "")
