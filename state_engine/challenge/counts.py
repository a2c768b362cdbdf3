"""Changes of the values on their way into an archive: log1p to counts, counts to log1p, genes filled from control cells.

log1p to counts follows the kind of prediction (`auto`). A corrected, calibrated or mixed prediction and a baseline are a control cell plus an
effect, and that cell's counts vary already: it keeps them and its depth, what the effect adds is drawn (Poisson), what it removes is thinned
(binomial). Poisson draws of all of it would add the noise of counting a second time and make thousands of genes significant where there is no
effect. A raw prediction is a smooth expression: expm1, a library size drawn from real control cells of the context, Poisson draws.
Every cell draws from its own generator, made of the seed and the cell's position: blocks and their sizes change nothing.

Notation: m cells of a block, g genes of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from state_engine.challenge.donors import Donors, control_cells
from state_engine.challenge.findings import Finding, found
from state_engine.challenge.source import Opened, SubmissionSource, open_controls
from state_engine.challenge.spec import Rules
from state_engine.data.embedding_record import ON_CONTROL_CELLS, PredictionKind
from state_engine.data.files.blocks import read_blocks
from state_engine.errors import ChallengeError, StateError
from state_engine.options import check, option

Rounding = Literal["auto", "poisson", "stochastic", "nearest"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
# how counts are made in fact: auto is one of these
Step = Literal["donor", "poisson", "stochastic", "nearest"]
STEPS: Final[dict[Step, str]] = {
    "donor": "each cell keeps the counts of the control cell that it starts from; what the effect adds is drawn (Poisson), what it removes is "
    "thinned (binomial)",
    "poisson": "drawn (Poisson), as counts of a smooth expression vary",
    "stochastic": "rounded up or down at random, the mean kept",
    "nearest": "rounded to the nearest number, which makes cells alike",
}


@dataclass(frozen=True)
class CountsOptions:
    """How log1p values become counts."""

    rounding: Rounding = option(
        "auto", "how log1p values become counts: auto (by the kind of prediction: control cells plus an effect keep the counts and depth of "
        "their control cell, raw predictions are drawn), poisson draws, stochastic (up or down, keeping the mean), nearest (makes cells alike)",
        flag="--to-counts", label="Rounding",
    )  # fmt: skip
    seed: int = option(0, "seed of the rounding", metavar="S", least=0, most=2**63 - 1, offered=2**31)
    library: float | None = option(
        None, "counts per cell; default: drawn from the real control cells of the cell's context", metavar="N", above=0, offered=1_000_000,
        label="Counts a cell",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self, ChallengeError)


def step_of(rounding: Rounding, kind: PredictionKind, donors: bool) -> Step:
    """Return how counts are made.

    Args:
        rounding: what was asked for.
        kind: of the prediction; where it is not known, it is taken for raw.
        donors: the counts of the control cells that the cells start from are at hand, and no other depth was asked for.
    """
    if rounding != "auto":
        return rounding
    if kind not in ON_CONTROL_CELLS:
        return "poisson"
    return "donor" if donors else "stochastic"


class Change(Protocol):
    """A change of values, block by block."""

    @property
    def expects(self) -> Literal["counts", "log1p"]:
        """Scale of the values that go in."""
        ...

    def apply(self, part: csr_matrix, first: int) -> csr_matrix:
        """(m, genes) float32 of the cells from position `first` of the submission on."""
        ...


@dataclass(frozen=True)
class ToCounts:
    """log1p to counts.

    Args:
        options: rounding and seed; auto is Poisson here (see `step_of`).
        codes: (n,) index into `libraries` of each cell of the submission.
        libraries: library sizes to draw from.
        cap: most counts a cell may have, 0 for no cap.
    """

    options: CountsOptions
    codes: NDArray[np.int32]
    libraries: tuple[NDArray[np.float64], ...]
    cap: int
    expects: Literal["counts", "log1p"] = "log1p"

    def apply(self, part: csr_matrix, first: int) -> csr_matrix:
        """Counts of a block, zeros dropped."""
        # only stored values: expm1(0) is 0, so zeros stay zeros; 60 keeps the sum of a damaged cell finite (e^60)
        rates = np.expm1(np.clip(np.nan_to_num(part.data, nan=0, posinf=0), 0, 60, dtype=np.float64))
        out = np.empty(len(rates), np.float32)
        # a cell at a time, because each has its own generator and library size
        for row in range(part.shape[0]):
            low, high = part.indptr[row], part.indptr[row + 1]
            out[low:high] = self._cell(rates[low:high], first + row)
        counts = csr_matrix((out, part.indices, part.indptr), shape=part.shape)
        counts.eliminate_zeros()
        return counts

    def _cell(self, rates: NDArray[np.float64], place: int) -> NDArray[np.float64]:
        rng = cell_generator(self.options.seed, place)
        sizes, total = self.libraries[self.codes[place]], rates.sum()
        # the size of one real control cell, each with the same chance: depth varies as it does among controls
        size = sizes[int(rng.random() * len(sizes))]
        if not total:
            return rates
        rates = rates * (size / total)
        if self.options.rounding == "stochastic":
            counts = np.floor(rates + rng.random(len(rates)))
        elif self.options.rounding == "nearest":
            counts = np.round(rates)
        else:
            counts = rng.poisson(rates).astype(np.float64)
        return _capped(counts, self.cap)


@dataclass(frozen=True, eq=False)
class OnDonors:
    """log1p to counts of cells that are a control cell plus an effect.

    Args:
        donors: their control cells, as counts.
        depth: what the counts of a cell summed to before the logarithm.
        seed: of the draws.
        cap: most counts a cell may have, 0 for no cap.
        filled: (g,) genes that are not predicted and keep the counts of the control cell; None for none.
    """

    donors: Donors
    depth: float
    seed: int
    cap: int = 0
    filled: NDArray[np.bool_] | None = None
    expects: Literal["counts", "log1p"] = "log1p"

    def apply(self, part: csr_matrix, first: int) -> csr_matrix:
        """Counts of a block, zeros dropped."""
        own, totals = self.donors.read(first, first + part.shape[0])
        rows = []
        for row in range(part.shape[0]):
            low, high = part.indptr[row], part.indptr[row + 1]
            counts, rates = np.zeros(part.shape[1]), np.zeros(part.shape[1])
            counts[own.indices[own.indptr[row] : own.indptr[row + 1]]] = own.data[own.indptr[row] : own.indptr[row + 1]]
            # back to the counts that the values were made of: without an effect these are the control cell's own
            values = np.nan_to_num(part.data[low:high], nan=0, posinf=0)
            rates[part.indices[low:high]] = np.expm1(np.clip(values, 0, 60, dtype=np.float64)) * (totals[row] / self.depth)
            if self.filled is not None:
                rates[self.filled] = counts[self.filled]
            moved = moved_counts(counts, rates, cell_generator(self.seed, first + row))
            rows.append(csr_matrix(_capped(moved, self.cap)[None].astype(np.float32)))
        return vstack(rows, format="csr") if rows else part


def moved_counts(own: NDArray[np.float64], rates: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return counts (g,) of a cell whose counts were `own` and are `rates` after an effect, at the depth that it had.

    What is added is drawn, what is removed is thinned: a gene that the effect leaves alone keeps its count.
    """
    total = rates.sum()
    if not total:
        return np.zeros(len(own))
    rates = rates * (own.sum() / total)
    there = own > 0
    counts = np.zeros(len(own))
    # the share of its counts that a gene keeps; all of them where it does not fall
    share = np.minimum(rates[there] / own[there], 1)
    counts[there] = rng.binomial(own[there].astype(np.int64), share)
    return counts + rng.poisson(np.maximum(rates - own, 0))


def cell_generator(seed: int, place: int) -> np.random.Generator:
    """Return the random numbers of the cell at a place."""
    # Philox is counter-based: the key alone gives an independent stream, so no state passes between cells
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))


def _capped(counts: NDArray[np.float64], cap: int) -> NDArray[np.float64]:
    # rounded down, as rounding up may exceed the cap again
    return np.floor(counts * (cap / counts.sum())) if cap and counts.sum() > cap else counts


@dataclass(frozen=True, eq=False)
class FillGenes:
    """Genes that are not predicted get the values of the control cell that each cell starts from: no effect.

    Args:
        inner: the change of the predicted genes; None where their values stay.
        donors: the control cells, for the first cells of a submission; those behind them stay.
        lacking: (g,) the genes.
        depth: where counts of control cells become log1p values: what they are scaled to; None where values are taken as they are.
    """

    inner: Change | None
    donors: Donors
    lacking: NDArray[np.bool_]
    depth: float | None = None

    @property
    def expects(self) -> Literal["counts", "log1p"]:
        """Scale of the values that go in."""
        if self.inner is not None:
            return self.inner.expects
        return "log1p" if self.depth or self.donors.scale == "log1p" else "counts"

    def apply(self, part: csr_matrix, first: int) -> csr_matrix:
        """A block with all genes."""
        changed = self.inner.apply(part, first) if self.inner else part.astype(np.float32)
        m = min(part.shape[0], max(0, len(self.donors.rows) - first))
        if not m:
            return changed
        own, totals = self.donors.read(first, first + m)
        data = own.data.astype(np.float64) * self.lacking[own.indices]
        if self.depth:
            scale = self.depth / np.where(totals > 0, totals, 1)
            data = np.log1p(data * np.repeat(scale, np.diff(own.indptr)))
        filled = csr_matrix((data.astype(np.float32), own.indices, own.indptr), shape=own.shape)
        filled.resize(part.shape)
        filled.eliminate_zeros()
        # no gene is in both, so a sum puts them side by side
        return csr_matrix(changed + filled)


@dataclass(frozen=True)
class Normalise:
    """Counts to log1p of counts scaled to `depth` a cell. Cells without counts stay empty."""

    depth: float
    expects: Literal["counts", "log1p"] = "counts"

    def apply(self, part: csr_matrix, first: int) -> csr_matrix:
        """log1p of the scaled counts of a block."""
        totals = np.asarray(part.sum(axis=1), np.float64).ravel()
        # (m,) one factor for each cell, repeated for its stored values below
        scale = self.depth / np.where(totals > 0, totals, 1)
        values = np.log1p(np.maximum(part.data * np.repeat(scale, np.diff(part.indptr)), 0))
        return csr_matrix((values.astype(np.float32), part.indices, part.indptr), shape=part.shape)


def cell_totals(
    opened: Opened, keep: NDArray[np.bool_] | None = None, scratch: Path | None = None, genes: frozenset[str] | None = None
) -> tuple[NDArray[np.float64], bool]:
    """(kept cells,) sum of each cell's values, and whether all values are whole and not negative.

    Args:
        opened: the file.
        keep: its cells to take.
        scratch: folder for temporary files.
        genes: to sum over; None for all of the file.
    """
    chosen = None if genes is None else np.isin(np.array(opened.genes, object), list(genes)).astype(np.float64)
    totals, whole = [], True
    for block in read_blocks(opened.matrix, keep, scratch):
        data = block.values.data
        whole = whole and bool(np.isfinite(data).all() and (data >= 0).all() and (data == np.trunc(data)).all())
        summed = block.values.sum(axis=1) if chosen is None else block.values @ chosen
        totals.append(np.asarray(summed, np.float64).ravel())
    return (np.concatenate(totals) if totals else np.empty(0)), whole


def control_libraries(
    source: SubmissionSource, rules: Rules, contexts: tuple[str, ...], genes: frozenset[str] | None = None
) -> tuple[dict[str, NDArray[np.float64]], list[Finding]]:
    """Library sizes of the real control cells by context ("" without contexts), and what is wrong with the control files.

    A control file without a perturbation column is taken to be all controls. `genes`: to sum over, where the others are filled; None for all.
    """
    sizes: dict[str, list[NDArray[np.float64]]] = {}
    findings: list[Finding] = []
    for path in source.control_files:
        try:
            opened = open_controls(path, replace(source, matrix="X", gene_column=""), rules)
            keep = control_cells(opened, rules)
            totals, whole = cell_totals(opened, keep, genes=genes)
        except StateError as error:
            findings.append(found("controls-unreadable", "error", f"The control file {path.name} cannot be read.", str(error)))
            continue
        if not whole:
            fix = "Library sizes are sums of raw counts: give the raw counts of the control cells."
            findings.append(found("controls-not-counts", "error", f"The values of {path.name} are not counts.", fix))
            continue
        labels = opened.contexts.take(keep) if opened.contexts else None
        for context in contexts or ("",):
            here = totals if not context else totals[labels.where(context)] if labels else np.empty(0)
            sizes.setdefault(context, []).append(here[here > 0])
    merged = {context: np.concatenate(parts) for context, parts in sizes.items()}
    lacking = [context or "any" for context in contexts or ("",) if not merged.get(context, np.empty(0)).size]
    if lacking:
        title = "Contexts have no control cells to take library sizes from."
        findings.append(found("libraries-missing", "error", title, "Give control files, or one library size.", names=lacking))
    return merged, findings
