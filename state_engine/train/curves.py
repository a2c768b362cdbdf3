"""The curves of a training, as CSV files that grow while it runs: a reader sees whole lines, and a resumed training no gap.

    log.csv          step, loss, parts of the loss, learning_rate, gradient_norm, seconds
    validation.csv   step, loss, mae_...

Boundary: rows of numbers; which ones is decided elsewhere. `seconds` is computing time since the start, over all resumptions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from state_engine.errors import RunError
from state_engine.files import write_bytes

LOG, VALIDATION = "log.csv", "validation.csv"


def seconds_so_far(folder: Path) -> float:
    """Return the computing time that the log of a training's folder has noted; 0 without one."""
    return max(read_curve(folder / LOG).get("seconds", []), default=0.0)


def read_curve(path: Path) -> dict[str, list[float]]:
    """Return the columns of a curve, by name; empty when the file is not there. An unfinished last line is left out.

    Raises:
        RunError: it holds what is no number.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not lines:
        return {}
    rows = [line for line in lines[1:] if len(line) == len(lines[0])]
    try:
        return {name: [float(row[i]) for row in rows] for i, name in enumerate(lines[0])}
    except ValueError as error:
        raise RunError(f"{path.name} of this training cannot be read.", f"It holds more than numbers: {error}.") from error


class Curve:
    """A curve that is being written.

    Args:
        path: the file. Rows of steps after `keep` are removed, and all with `keep` 0.
        columns: names, "step" first.
        keep: the last step that stays.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], keep: int = 0) -> None:
        self.path, self.columns = path, columns
        old = read_curve(path) if keep else {}
        rows = (
            [dict(zip(old, values, strict=True)) for values in zip(*old.values(), strict=True)] if tuple(old) == columns else []
        )
        lines = [",".join(columns), *(self._line(row) for row in rows if row["step"] <= keep)]
        write_bytes(path, ("\n".join(lines) + "\n").encode())
        self.seconds = max((row.get("seconds", 0.0) for row in rows if row["step"] <= keep), default=0.0)

    def add(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Append rows, at once."""
        text = "".join(self._line(row) + "\n" for row in rows)
        if text:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)

    def _line(self, row: Mapping[str, float]) -> str:
        return ",".join(str(int(row[name])) if name == "step" else f"{row[name]:.6g}" for name in self.columns)
