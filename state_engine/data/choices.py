"""What the user says of a data set, and the labels of its cells read so.

Source: the user's words, and the columns of obs. Boundary: labels only; no expression values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import h5py

from state_engine.data.controls import as_one, renamings, replaced, spaced
from state_engine.data.files.columns import ObsColumns, read_column
from state_engine.data.labels import Labels, as_labels, decide_labels, is_missing
from state_engine.data.scale import Scale
from state_engine.options import check, option


@dataclass(frozen=True)
class Choices:
    """What the user says of a data set. None takes the suggestion, and "" for a column means none on purpose."""

    perturbation_key: str | None = option(None, "obs column of the perturbation; '': all cells are controls", metavar="C")
    control: str | tuple[str, ...] | None = option(
        None,
        "label of the control cells, or a pattern such as 'neg_ctrl_*'; several are taken together as one control, called by the first",
        label="Control labels",
        metavar="L",
    )
    context_key: str | None = option(None, "obs column of the context (cell type, line); '' for none", metavar="C")
    batch_key: str | None = option(None, "obs column of the batch; '' for none", metavar="C")
    scale: Scale | None = option(None, "scale of the expression; default: from the values", none="auto")
    gene_column: str | None = option(
        None, "var column with the gene names, '' for the index; default: the best match", metavar="C"
    )
    expression: str | None = option(None, "matrix of the expression: X, raw or layers/NAME; default: X", metavar="PLACE")
    normalise: bool = option(True, "counts are not brought to depth 1e4 and log1p before a model reads them")
    depth: float | None = option(
        None, "what a cell's counts were brought to before the log1p; default: from the values", metavar="N", above=0
    )
    rename_combinations: bool = option(
        False, "labels 'A+ctrl' and 'ctrl+A' are read as the perturbation 'A', and 'B+A' as 'A+B'", label="Rename combinations"
    )
    strip_labels: bool = option(
        False,
        "blanks before and after labels of perturbations are no part of them: 'control ' is 'control'",
        label="Strip labels",
    )

    def __post_init__(self) -> None:
        check(self)
        words = dict.fromkeys(self.controls)
        if isinstance(self.control, tuple | list):  # one name for one choice, however it was given
            object.__setattr__(self, "control", tuple(words) if len(words) > 1 else next(iter(words), None))

    @property
    def controls(self) -> tuple[str, ...]:
        """The labels and patterns chosen as the control; none where it is suggested."""
        words = (self.control,) if isinstance(self.control, str) else self.control or ()
        return tuple(word for word in words if word)


def labels_as_chosen(frame: h5py.Group, obs: ObsColumns, choices: Choices, n_cells: int) -> Labels:
    """Decide what the labels mean. Labels that are taken together, or renamed, become one in the column of perturbations alone.

    Args:
        frame: obs in the file.
        obs: its columns of labels; the column of perturbations is replaced where its labels are read otherwise.
        choices: the user's word.
        n_cells: in the file.

    Raises:
        LabelError: a choice that the columns do not allow.
    """
    strip, rename = choices.strip_labels, choices.rename_combinations
    words = tuple(word.strip() for word in choices.controls) if strip else choices.controls
    first = next(iter(words), None)
    # each label is one of its own: no two are taken together, none is called otherwise, none reads as missing
    as_written = not strip and not rename and len(words) < 2 and not any(is_missing(w) or _is_pattern(w) for w in words)
    decided = partial(decide_labels, obs.labels, obs.others, context_key=choices.context_key, batch_key=choices.batch_key)
    given = choices.perturbation_key
    labels = decided(given, first if as_written or given == "" else None)
    key = labels.perturbation_key
    if not key:
        return labels
    column = obs.labels[key]
    blanks = spaced(column)
    if strip:
        column = replaced(column, blanks)
    found = renamings(column, first or labels.control)
    if as_written:
        return replace(labels, renamings=found, spaced=blanks)
    if any(map(is_missing, words)):  # 'None' is a label where the user says so
        column = as_labels(read_column(frame, key, n_cells), words)
        if strip:
            column = replaced(column, spaced(column))
    if rename:
        column = replaced(column, found)
    obs.labels[key], taken = as_one(column, words)
    return replace(
        decided(key, first),
        coarser=labels.coarser,
        controls=taken,
        renamings=found,
        renamed=rename,
        spaced=blanks,
        stripped=strip,
    )


def _is_pattern(word: str) -> bool:
    return bool(set(word) & set("*?["))
