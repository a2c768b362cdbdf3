"""The folder of a pretraining: its request, its state, and how it goes on. No torch: pages read it.

RUN/pretraining.json       `PretrainRecord`
RUN/genes.safetensors      tensor "vectors", the gene vectors in the order of the record's vocabulary
RUN/log.csv                step, loss, decoding, dataset (several data sets), learning_rate, gradient_norm, seconds
RUN/validation.csv         step, loss, dataset, seconds
RUN/checkpoints/           step=N.ckpt, last.ckpt: what `--resume` goes on from
RUN/model/                 the model in our format
RUN/arc/                   the same for `state emb transform --model-folder`
RUN/report.json            `PretrainReport`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from state_engine.errors import ConfigError, RunError
from state_engine.files import read_json, write_json
from state_engine.plain import from_plain, to_plain
from state_engine.pretrain.order import Position
from state_engine.pretrain.request import PretrainRequest
from state_engine.train.place import Work
from state_engine.train.run_folder import State

RECORD, REPORT, GENES, MODEL, ARC = "pretraining.json", "report.json", "genes.safetensors", "model", "arc"
FORMAT = 1
PRETRAINING = Work(RECORD, (GENES,), "pretraining.lock", "pretrains in")
# settings that may change when a pretraining goes on; those of WHERE also when it is finished, where they change nothing
WHERE = ("devices", "nodes", "device", "validate_every", "checkpoint_every")
FREE = (*WHERE, "name", "licence", "evaluate")
Measure = Literal[
    "label transfer", "balanced label transfer", "transfer across data sets", "batch mixing", "perturbation separability"
]


@dataclass(frozen=True)
class PretrainRecord:
    """What is known of a pretraining.

    Args:
        format: of this file.
        request: the pretraining.
        data: place of each file -> sha256.
        vocabulary: genes in the order of the model's table.
        vectors: where the gene vectors come from, for people.
        state: as last written; a process that was killed leaves "running".
        versions: of packages.
        device: where it was computed.
        parameters: of the network.
        cells: trained on, for each file.
        steps: that were done; `position` is where the stream of cells then stood.
        seconds: computing time of the steps.
        waited: part of it, 0 to 1, that the device waited for cells, since it was begun or last went on.
        notes: what a person should know.
    """

    format: int
    request: PretrainRequest
    data: dict[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    vectors: str = ""
    state: State = "running"
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    parameters: int = 0
    cells: tuple[int, ...] = ()
    steps: int = 0
    position: Position | None = None
    seconds: float = 0.0
    waited: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tested:
    """One test of the embedding.

    Args:
        measure: which.
        data: name of the file, or of all ("all").
        column: obs column of the labels.
        groups, cells: how many.
        value: of the embedding; larger is better, 1 the most.
        components: of the first 50 principal components of the same cells, counts at one depth and log1p.
        chance: what no information gives.
    """

    measure: Measure
    data: str
    column: str
    groups: int
    cells: int
    value: float
    components: float
    chance: float


@dataclass(frozen=True)
class PretrainReport:
    """What came out: tests of the embedding, and the validation loss at the end (None without validation cells)."""

    tests: tuple[Tested, ...] = ()
    validation_loss: float | None = None
    notes: tuple[str, ...] = ()


def is_pretraining(folder: Path) -> bool:
    """Return whether a pretraining was begun there."""
    return (folder / RECORD).is_file()


def read_pretraining(folder: Path) -> PretrainRecord:
    """Read what is known of the pretraining of a folder.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        return from_plain(PretrainRecord, read_json(folder / RECORD))
    except FileNotFoundError as error:
        raise RunError(
            f"No pretraining was begun in {folder}.", f"It has no {RECORD}.", "Choose the output of `pretrain`."
        ) from error
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"{folder / RECORD} cannot be read.", f"{error}", "Pretrain again.") from error


def read_report(folder: Path) -> PretrainReport:
    """Read what came out of a finished pretraining.

    Raises:
        RunError: it is not finished, or the file cannot be read.
    """
    try:
        return from_plain(PretrainReport, read_json(folder / REPORT))
    except FileNotFoundError as error:
        raise RunError(f"There is no report in {folder}.", "The pretraining is not finished.", "Wait, or resume it.") from error
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"{folder / REPORT} cannot be read.", f"{error}", "Pretrain again.") from error


def write_pretraining(folder: Path, record: PretrainRecord) -> None:
    """Write the record in place of the one before."""
    write_json(folder / RECORD, to_plain(record))


def is_finished(folder: Path, record: PretrainRecord) -> bool:
    """Return whether a pretraining is done and its model and report are there: nothing is left to compute."""
    return record.state == "done" and (folder / MODEL).is_dir() and (folder / REPORT).is_file()


def check_same(folder: Path, old: PretrainRecord, new: PretrainRequest, hashes: Mapping[str, str]) -> None:
    """Check that a pretraining goes on as it was begun.

    Args:
        folder: of it.
        old: what is known of it.
        new: what is asked for now.
        hashes: place of each file -> sha256 now; none of a finished one, which reads no cells again.

    Raises:
        ConfigError: a setting differs that shapes what comes out, or a file has changed.
    """
    free = WHERE if is_finished(folder, old) else FREE
    before, now = to_plain(old.request), to_plain(new)
    differ = []
    for part in before:
        pairs = before[part].items() if isinstance(before[part], dict) else ((part, before[part]),)
        for name, value in pairs:
            other = now[part][name] if isinstance(now[part], dict) else now[part]
            if name not in free and value != other:
                differ.append(f"{name} was {value!r} and is {other!r}")
    changed = [Path(path).name for path in hashes if old.data.get(path) != hashes[path]]
    if changed:
        differ.append(f"not as they were: {', '.join(changed)}")
    if not differ:
        return
    what = "The pretraining is finished and stays as it is." if is_finished(folder, old) else ""
    fix = "Leave them out, or pretrain in a new folder."
    if old.request.schedule.steps != new.schedule.steps:
        # the learning rate has come down for the last step: to raise it again is a schedule of its own
        fix = f"The learning rate falls to its lowest at the last step. For more steps: {more_steps(folder)}"
    raise ConfigError(what or "The pretraining cannot go on with other settings or cells.", f"{'; '.join(differ)}.", fix)


def more_steps(folder: Path) -> str:
    """Say how a finished pretraining is gone on from: the command's options."""
    return f"pretrain another from its model (--init-from {folder / MODEL} --output NEW --steps N)."
