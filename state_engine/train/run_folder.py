"""The folder of a training: its request, its state, and how it goes on. No torch: pages read it.

RUN/training.json    `TrainingRecord`
RUN/split.toml       the split; places of files are absolute
RUN/split.csv        cells of each data set x context x perturbation x part
RUN/lock             empty; held by the process that trains here
RUN/log.csv, validation.csv, checkpoints/, model/, and the files that arc-state reads
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from zipfile import is_zipfile

from state_engine.data.dataset import Choices
from state_engine.data.depth_record import EqualDepth
from state_engine.data.splits.apply import Split, open_split
from state_engine.data.splits.equal_depth import with_equal_depth
from state_engine.data.splits.plan import plan_text
from state_engine.errors import CheckpointError, ConfigError, RunError, listed
from state_engine.files import read_json, write_bytes, write_json
from state_engine.plain import from_plain, to_plain
from state_engine.train.place import Work
from state_engine.train.request import TrainRequest

RECORD, SPLIT, TABLE, MODEL, CACHE, LOCK = "training.json", "split.toml", "split.csv", "model", "cache", "lock"
RECORD_FORMAT = 1
TRAINING = Work(RECORD, (SPLIT, TABLE, f"{CACHE}-0"), LOCK, "trains in")
State = Literal["running", "cancelled", "failed", "done"]
FIXED_OF_RUN = (
    "preset",
    "seed",
)  # of the part `run`; the others may change when a training goes on: they do not shape the numbers


@dataclass(frozen=True)
class TrainingRecord:
    """What is known of a training.

    Args:
        format: of this file.
        request: the training, resolved.
        choices: the user's word on the data, as for `open_dataset`.
        data: name of each file -> sha256.
        init_from: where its first weights came from; "" for none.
        genes: that were chosen; empty for an embedding.
        depth: that log1p expression was brought to; None for values as they are.
        equal_depth: contexts whose counts are thinned whenever the training reads them.
        state: as last written; a process that was killed leaves "running".
        versions: of packages.
        device: where it was computed.
        parameters: of the network.
        features: where the cells' features were kept.
        steps: that were done.
        seconds: computing time of the steps.
        waited: part of it, 0 to 1, that the device waited for cells, since the training was begun or last went on.
        notes: what a person should know.
    """

    format: int
    request: TrainRequest
    choices: Choices = Choices()
    data: dict[str, str] = field(default_factory=dict)
    init_from: str = ""
    genes: tuple[str, ...] = ()
    depth: float | None = None
    equal_depth: EqualDepth = EqualDepth()
    state: State = "running"
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    parameters: int = 0
    features: str = ""
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    notes: tuple[str, ...] = ()


def is_training(folder: Path) -> bool:
    """Return whether a training was begun there."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> TrainingRecord:
    """Read what is known of the training of a folder.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        plain = read_json(folder / RECORD)
        return from_plain(TrainingRecord, plain)
    except FileNotFoundError as error:
        raise RunError(f"No training was begun in {folder}.", f"It has no {RECORD}.", "Choose the output of `train`.") from error
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"{folder / RECORD} cannot be read.", f"{error}", "Train again.") from error


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record in place of the one before."""
    write_json(folder / RECORD, to_plain(record))


def open_training_split(folder: Path) -> Split:
    """Open the split of a training, its files opened as they were, their counts thinned as they were.

    Raises:
        RunError, SplitError, DataError, ConfigError: see `read_record`, `open_split` and `check_same_cells`.
    """
    record = read_record(folder)
    split = open_split(folder / SPLIT, record.choices)
    check_same_cells(folder, record, split)
    return with_equal_depth(split, record.equal_depth)


def write_split(folder: Path, split: Split) -> None:
    """Write split.toml, with absolute places, and split.csv."""
    places = []
    for name, _ in split.plan.datasets:
        files = [str(s.dataset.path) for s in split.sources if s.name == name]
        places.append((name, files[0] if len(files) == 1 else "{" + ",".join(files) + "}"))
    write_bytes(folder / SPLIT, plan_text(replace(split.plan, datasets=tuple(places))).encode())
    write_bytes(folder / TABLE, split.table().to_csv(index=False).encode())


def check_same(old: TrainRequest, new: TrainRequest) -> None:
    """Check that a training goes on as it was begun.

    Raises:
        ConfigError: a setting differs that shapes the numbers.
    """
    before, now = to_plain(old), to_plain(new)
    differ: list[str] = []
    for part, values in before.items():
        for name, value in values.items():
            free = name not in FIXED_OF_RUN if part == "run" else (part, name) == ("optimiser", "steps")
            if not free and value != now[part][name]:
                differ.append(f"{name} was {value!r} and is {now[part][name]!r}")
    if old.optimiser.schedule == "cosine" and old.optimiser.steps != new.optimiser.steps:
        differ.append(
            f"steps was {old.optimiser.steps} and is {new.optimiser.steps}, and the learning rate falls to 0 at the last step"
        )
    if differ:
        raise ConfigError(
            "The training cannot go on with other settings.", f"{'; '.join(differ)}.", "Leave them out, or train in a new folder."
        )


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint is whole.

    Raises:
        CheckpointError: it is cut off; those before it are named.
    """
    if is_zipfile(path):
        return
    others = sorted((p.name for p in path.parent.glob("step=*.ckpt") if is_zipfile(p)), key=lambda n: int(n[5:-5]))
    fix = f"Copy {others[-1]} over it." if others else "Train anew."
    raise CheckpointError(f"{path.name} is damaged.", f"{path} is cut off, or no checkpoint.", fix)


def check_same_cells(folder: Path, record: TrainingRecord, split: Split) -> None:
    """Check that the cells are those that the training was begun with, each in its part.

    Raises:
        ConfigError: a file has changed, or the split is another: what was held out may have been trained on.
    """
    hashes = {str(s.dataset.path): s.dataset.hash() for s in split.sources}
    changed = [Path(p).name for p in {**record.data, **hashes} if record.data.get(p) != hashes.get(p)]
    table = folder / TABLE
    if not changed and table.is_file() and table.read_bytes() == split.table().to_csv(index=False).encode():
        return
    raise ConfigError(
        "These are not the cells of the training.",
        f"Not as they were: {listed(changed)}." if changed else f"The split is not the one in {table}.",
        "Give the files and the split that it was begun with, or train in a new folder.",
    )


def choices_of(split: Split) -> Choices:
    """Return how the files of a split were opened."""
    return split.sources[0].dataset.choices
