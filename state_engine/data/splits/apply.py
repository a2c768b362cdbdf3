"""Which cells are trained on, validated on and tested: a plan applied to opened data sets.

Source: the semantics of cell-load 0.10 (MIT). A context of [zeroshot] goes whole to its part, its controls too, which are the
basal cells there. Of a context of [fewshot] the listed perturbations go to their part; the rest of it and all its controls are
trained on, and the controls are the basal cells of every part. cell-load trains on the controls of [zeroshot] contexts as well
(`SplitSource.held_out_controls`): that is for a training to decide, and to say. What cell-load lets pass in silence is an error here: a clause
that selects nothing leaks what it should hold out.

Boundary: labels only; expression is read only to find held-out cells that another data set has too (`splits.leaks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from state_engine.config import Settings
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.scale import DEPTH, same_depth
from state_engine.data.splits.held import Leak
from state_engine.data.splits.leaks import leaks
from state_engine.data.splits.plan import PARTS, FewShot, Part, SplitPlan, ZeroShot, plan_files, read_plan
from state_engine.errors import SplitError, listed, near_each

UNUSED, TRAIN, VAL, TEST = range(4)
CODES: dict[Part, int] = {part: code for code, part in enumerate(PARTS, 1)}
_PART_WORDS = {"train": "training", "val": "validation", "test": "testing"}
COLUMNS = ("unused", *PARTS)  # of the table, by code


@dataclass(frozen=True, eq=False)
class SplitSource:
    """One file of a data set and the part of each of its cells.

    Args:
        name: of the data set in the plan; several files may share it.
        dataset: the opened file.
        parts: (n_cells,) uint8: 0 unused, 1 train, 2 val, 3 test.
    """

    name: str
    dataset: Dataset
    parts: np.ndarray = field(repr=False)

    def rows(self, part: Part) -> np.ndarray:
        """The cells of a part, controls included, (m,) in file order."""
        return np.flatnonzero(self.parts == CODES[part])

    def held_out_controls(self) -> np.ndarray:
        """Controls of the contexts that are held out whole, (m,) in file order."""
        rows = self.dataset.control_rows()
        return rows[self.parts[rows] > TRAIN]


@dataclass(frozen=True, eq=False)
class Split:
    """A plan applied: every cell of every file has a part.

    Args:
        plan: as written.
        sources: the files, in the order of the plan.
        warnings: what a person should know before training, sentences with numbers.
        leaks: what one data set holds out and another is trained on; the warnings tell of them too.
    """

    plan: SplitPlan
    sources: tuple[SplitSource, ...]
    warnings: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Genes that all files have, in the order of the first."""
        first = self.sources[0].dataset.genes.names
        shared = set(first).intersection(*(s.dataset.genes.names for s in self.sources[1:]))
        return tuple(g for g in first if g in shared)

    @property
    def control(self) -> str:
        """The control label, the same in all files."""
        return self.sources[0].dataset.require_control()

    def table(self) -> pd.DataFrame:
        """Cells of each dataset x context x perturbation: columns dataset, context, perturbation, train, val, test, unused.

        Sorted by data set as in the plan, context, control first, perturbation. Cells that lack a label are not counted.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        keys = ["dataset", "context", "perturbation"]
        found = pd.concat([_counts(source) for source in self.sources], ignore_index=True)
        found = found.groupby(keys, as_index=False, sort=False)[list(COLUMNS)].sum()
        order = {name: i for i, (name, _) in enumerate(self.plan.datasets)}
        found["place"], found["perturbed"] = found["dataset"].map(order), found["perturbation"] != self.control
        found = found.sort_values(["place", "context", "perturbed", "perturbation"], ignore_index=True)
        return found[[*keys, *PARTS, "unused"]]

    def cells(self) -> dict[Part, int]:
        """Cells of each part, controls included."""
        return dict(self._cells)

    @cached_property
    def _cells(self) -> dict[Part, int]:
        return {part: int(sum((s.parts == code).sum() for s in self.sources)) for part, code in CODES.items()}


def open_split(
    path: Path | str, choices: Choices | None = None, settings: Settings | None = None,
    as_h5ad: Callable[[Path], Path] | None = None,
) -> Split:  # fmt: skip
    """Read a TOML, open its files with the same choices, and apply it.

    Args:
        path: the TOML.
        choices: the user's word for all data sets.
        settings: limits; from the environment by default.
        as_h5ad: gives the .h5ad of a place that holds another format; the plan names that then.

    Raises:
        SplitError: see `read_plan`, `plan_files` and `apply_plan`.
        DataError: a file that cannot be read, or lacks a chosen column.
    """
    path = Path(path)
    plan, base = read_plan(path), path.resolve().parent
    if as_h5ad is not None:
        plan = replace(plan, datasets=tuple((name, _converted(where, base, as_h5ad)) for name, where in plan.datasets))
    files = plan_files(plan, base)
    return apply_plan(plan, [(name, open_dataset(file, choices, settings)) for name, file in files])


def _converted(where: str, base: Path, as_h5ad: Callable[[Path], Path]) -> str:
    """Return a place in [datasets], or that of its copy where one file or folder of another format lies there."""
    for place in (base / Path(where).expanduser(), Path.cwd() / Path(where).expanduser()):
        if place.exists():
            copy = as_h5ad(place)
            return where if copy == place else str(copy.resolve())
    return where


def apply_plan(plan: SplitPlan, sources: Sequence[tuple[str, Dataset]]) -> Split:
    """Give every cell its part.

    Args:
        plan: the split by name.
        sources: (data set's name in the plan, opened file); several files may have the same name.

    Raises:
        SplitError: a clause that matches no cell, a data set without files, the control held out, a held-out perturbation left in
            training under another spelling, files that share no genes or have other controls, nothing to train on.
        LabelError: the control of a file is not known.
    """
    _check_sources(plan, sources)
    control = sources[0][1].require_control()
    parts = [np.zeros(dataset.n_cells, dtype=np.uint8) for _, dataset in sources]
    for (name, dataset), part in zip(sources, parts, strict=True):
        if name in plan.training:
            part[_labelled(dataset)] = TRAIN
    for zero in plan.zeroshot:
        _apply_zeroshot(zero, sources, parts)
    for few in plan.fewshot:
        _apply_fewshot(few, sources, parts, control)
    made = tuple(SplitSource(n, d, p) for (n, d), p in zip(sources, parts, strict=True))
    split = Split(plan, made)
    table = split.table()
    _check_trained(table, control)
    _check_spelling(table)
    found = tuple(leaks([(s.name, s.dataset, s.parts) for s in made], table, control)) if len(made) > 1 else ()
    return replace(split, warnings=(*_warnings(split, table, control), *map(str, found)), leaks=found)


def _check_sources(plan: SplitPlan, sources: Sequence[tuple[str, Dataset]]) -> None:
    names = [name for name, _ in plan.datasets]
    absent = [n for n in names if n not in {name for name, _ in sources}]
    if absent or not sources:
        raise SplitError(f"The data set {listed(absent)} has no file.", "", "Correct its place in [datasets].")
    extra = [n for n, _ in sources if n not in names]
    if extra:
        raise SplitError(f"The plan has no data set {listed(extra)}.", f"It has: {listed(names, 10)}.", "Add it to [datasets].")
    first = sources[0][1]
    for name, dataset in sources[1:]:
        if dataset.require_control() != first.require_control():
            raise SplitError(
                f"The files have different controls: '{first.require_control()}' in {first.path.name}, "
                f"'{dataset.require_control()}' in {dataset.path.name}.",
                "All files of a training are read with one control label.",
                "Choose a label that all of them have, or rename it in the files.",
            )
        if not set(dataset.genes.names) & set(first.genes.names):
            raise SplitError(
                f"{dataset.path.name} of '{name}' shares no gene with {first.path.name}.",
                f"For example {listed(dataset.genes.names[:3])} and {listed(first.genes.names[:3])}.",
                "Choose the column of gene names that both have.",
            )


def _labelled(dataset: Dataset) -> np.ndarray:
    """True for cells that have a perturbation and a context, (n_cells,)."""
    return (dataset.coded(dataset.labels.perturbation_key)[1] > 0) & (dataset.coded(dataset.labels.context_key)[1] > 0)


def _apply_zeroshot(clause: ZeroShot, sources: Sequence[tuple[str, Dataset]], parts: list[np.ndarray]) -> None:
    n = 0
    for dataset, part, cells in _in_context(clause, sources, parts):
        chosen = cells & _labelled(dataset)
        part[chosen] = CODES[clause.part]
        n += int(chosen.sum())
    if not n:
        raise SplitError(f"{clause} matches no cell.", "None of its cells has a perturbation label.", "Remove the clause.")


def _apply_fewshot(clause: FewShot, sources: Sequence[tuple[str, Dataset]], parts: list[np.ndarray], control: str) -> None:
    if control in (*clause.val, *clause.test):
        raise SplitError(
            f"{clause} holds out the control '{control}'.",
            "Controls are what every prediction starts from; they are trained on in a fewshot context.",
            "Take it off the list.",
        )
    here = list(_in_context(clause, sources, parts))
    of = {label: [(d, p, d.rows(label, clause.context)) for d, p, _ in here] for label in (*clause.val, *clause.test)}
    empty = [label for label, found in of.items() if not any(len(rows) for _, _, rows in found)]
    if empty:
        raise SplitError(*_no_such_perturbation(clause, empty, sources, control))
    for dataset, part, cells in here:
        part[cells & _labelled(dataset)] = TRAIN
    for label, found in of.items():
        for _, part, rows in found:
            part[rows] = VAL if label in clause.val else TEST


def _in_context(
    clause: ZeroShot | FewShot, sources: Sequence[tuple[str, Dataset]], parts: list[np.ndarray]
) -> Iterator[tuple[Dataset, np.ndarray, np.ndarray]]:
    """For each file of the clause's data set that has the context: the file, its parts, and True for the context's cells."""
    mine = [(d, p) for (name, d), p in zip(sources, parts, strict=True) if name == clause.dataset]
    found = False
    for dataset, part in mine:
        names, codes = dataset.coded(dataset.labels.context_key)
        if clause.context in names[1:]:
            cells = codes == names.index(clause.context, 1)
            found |= bool(cells.any())
            yield dataset, part, cells
    if not found:
        there = sorted({c for d, _ in mine for c in d.contexts})
        keys = listed(sorted({str(d.labels.context_key or "no column") for d, _ in mine}))
        raise SplitError(
            f"{clause} matches no cell: '{clause.dataset}' has no context '{clause.context}'.",
            f"Its contexts ({keys}) are: {listed(there, 12) or 'none'}.{_close([clause.context], there)}",
            "Write the context as it is in the data, or choose another column of contexts.",
        )


def _no_such_perturbation(
    clause: FewShot, labels: list[str], sources: Sequence[tuple[str, Dataset]], control: str
) -> tuple[str, str, str]:
    mine = [d for name, d in sources if name == clause.dataset]
    here = sorted({p for d in mine for p in d.perturbations if p != control and len(d.rows(p, clause.context))})
    elsewhere = [label for label in labels if any(label in d.perturbations for d in mine)]
    where = f" Other contexts have {listed(elsewhere)}." if elsewhere else ""
    return (
        f"{clause} holds out {listed(labels)}, of which there is no cell.",
        f"Perturbations of '{clause.context}' are: {listed(here, 12) or 'none'}.{where}{_close(labels, here)}",
        "Write the labels as they are in the data, or take them off the list.",
    )


def _close(wanted: list[str], there: list[str]) -> str:
    close = near_each(wanted[:1], there)
    return f" Close to '{wanted[0]}': {listed(close[0][1])}." if close else ""


def _counts(source: SplitSource) -> pd.DataFrame:
    dataset = source.dataset
    names_p, p = dataset.coded(dataset.labels.perturbation_key)
    names_c, c = dataset.coded(dataset.labels.context_key)
    shape = (len(names_c), len(names_p), len(COLUMNS))
    flat = (c * len(names_p) + p) * len(COLUMNS) + source.parts
    counts = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)[1:, 1:]
    i, j = np.nonzero(counts.sum(axis=2))
    labels = {
        "dataset": source.name,
        "context": np.array(names_c[1:], object)[i],
        "perturbation": np.array(names_p[1:], object)[j],
    }
    return pd.DataFrame(labels | {name: counts[i, j, code] for code, name in enumerate(COLUMNS)})


def _check_trained(table: pd.DataFrame, control: str) -> None:
    is_control = table["perturbation"] == control
    with_controls = table[is_control & (table["train"] > 0)]
    places = set(zip(with_controls["dataset"], with_controls["context"], strict=True))
    trained = table[~is_control & (table["train"] > 0)]
    if not any(place in places for place in zip(trained["dataset"], trained["context"], strict=True)):
        raise SplitError(
            "Nothing is left to train on.",
            f"{trained['train'].sum():,} perturbed cells would be trained on, in no context with controls ('{control}').",
            "Hold out less, or add a data set to [training].",
        )


def _check_spelling(table: pd.DataFrame) -> None:
    """What is tested must not be trained or validated on in its context as 'tp53 ' or, for a pair, in the other order."""
    for (dataset, context), rows in table.groupby(["dataset", "context"], sort=False):
        for part, before in (("val", "train"), ("test", "train"), ("test", "val")):
            seen = {_plainly(label): label for label in rows[rows[before] > 0]["perturbation"]}
            for label in rows[(rows[part] > 0) & (rows[before] == 0)]["perturbation"]:
                twin = seen.get(_plainly(label))
                if twin is not None and twin != label:
                    raise SplitError(
                        f"The held-out perturbation '{label}' is left in {_PART_WORDS[before]} in {dataset}.{context}, as '{twin}'.",
                        "They are one perturbation in two spellings: what is tested would have been seen.",
                        f"List both in {part}, or write them alike in the data.",
                    )


def _plainly(label: str) -> tuple[str, ...]:
    return tuple(sorted(part.strip().casefold() for part in label.split("+")))


def _warnings(split: Split, table: pd.DataFrame, control: str) -> Iterator[str]:
    for name, why in (
        ("val", "there are no validation curves"),
        ("test", "nothing shows how good the model is"),
    ):
        if not (table[table["perturbation"] != control][name] > 0).any():
            yield f"No perturbed cells are kept for {_PART_WORDS[name]}: {why}."
    perturbed = table[table["perturbation"] != control]
    used = perturbed[perturbed[list(PARTS)].sum(axis=1) > 0]
    places = table[table["perturbation"] == control].set_index(["dataset", "context"])
    bare = sorted({f"{d}.{c}" for d, c in zip(used["dataset"], used["context"], strict=True) if (d, c) not in places.index})
    if bare:
        yield f"Without controls, so left out: {listed(bare)}."
    trained = set(perturbed[perturbed["train"] > 0]["perturbation"])
    held = perturbed[(perturbed["val"] > 0) | (perturbed["test"] > 0)]["perturbation"]
    unseen = sorted(set(held) - trained)
    if unseen:
        yield (
            f"{len(unseen):,} held-out {'perturbation is' if len(unseen) == 1 else 'perturbations are'} trained nowhere: "
            f"{listed(unseen)}. Only a model with perturbation features can predict them; where all perturbations are genes of the data, "
            "a training makes such features of the cells it trains on."
        )
    lacking = sum(int((~_labelled(source.dataset)).sum()) for source in split.sources)
    if lacking:
        yield f"{lacking:,} cells lack a perturbation or a context and are not used."
    for source in split.sources[1:]:
        first, here = split.sources[0].dataset, source.dataset
        if tuple(first.genes.names) != tuple(here.genes.names):
            shared = len(set(first.genes.names) & set(here.genes.names))
            yield (
                f"{here.path.name} has {here.n_genes:,} genes, of which {first.path.name} has {shared:,}; "
                "genes are matched by name, and only those of all files are used."
            )
    yield from _depths([source.dataset for source in split.sources])


def depths(datasets: Sequence[Dataset]) -> tuple[list[tuple[str, float]], list[str]]:
    """Return the depth that the expression of each file is read at by itself, by name and scale, and the files whose depth is not known."""
    known, unknown = list[tuple[str, float]](), list[str]()
    for dataset in datasets:
        scale = dataset.scale
        if scale.scale == "counts" and dataset.choices.normalise:
            known.append((f"{dataset.path.name} (counts)", DEPTH))
        elif scale.scale == "log1p" and scale.depth:
            known.append((f"{dataset.path.name} (log1p)", scale.depth))
        elif scale.scale == "log1p":
            unknown.append(dataset.path.name)
    return known, unknown


def _depths(datasets: Sequence[Dataset]) -> Iterator[str]:
    """Yield what to know where files were normalised to different depths: one gene's values mean different amounts in each."""
    known, unknown = depths(datasets)
    told = listed([f"{name} at {depth:,.0f} per cell" for name, depth in known], 6)
    amounts = [depth for _, depth in known]
    if amounts and not same_depth(max(amounts), min(amounts)):
        yield (
            f"The files are of different depths: {told}. A training brings them to one ({DEPTH:,.0f} per cell, or that of the model it "
            "starts from): the log1p is undone, the amounts are rescaled, and the log1p is taken again."
        )
    if known and unknown:
        yield (
            f"The depth of the log1p values of {listed(unknown, 6)} is not known (their cells share no sum), beside {told}. They are "
            "trained on as they are; give counts, or all genes."
        )
