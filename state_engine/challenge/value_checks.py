"""Checks of expression values, fed one block of cells at a time. What is kept is a few numbers a cell, never a matrix."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine.challenge.findings import Finding, found
from state_engine.challenge.spec import Rules
from state_engine.plain import agreed, part_of, plural

FRACTION_LOG1P = 1e-3
FRACTION_COUNTS = 1e-6
LARGEST_FLOAT32_INTEGER = 2**24
DEPTH_SPREAD = 3.0
DEPTH_RATIO = 2.0


@dataclass
class Tally:
    """Problem values seen: how many, and where the first are."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, bad: NDArray[np.bool_], part: csr_matrix, first: int, genes: Sequence[str]) -> None:
        """Add the entries of `part` where `bad`; `first` is the position of its first cell in the submission."""
        places = np.nonzero(bad)[0]
        self.count += places.size
        for place in places[: 5 - len(self.examples)]:
            # indptr[row] <= place < indptr[row + 1]; "right" passes over empty rows
            row = int(np.searchsorted(part.indptr, place, side="right")) - 1
            name = genes[part.indices[place]] if part.indices[place] < len(genes) else f"gene {part.indices[place]}"
            self.examples.append(f"cell {first + row:,}, {name}: {part.data[place]:g}")


class ValueChecks:
    """Sums over all blocks of a submission, and the findings they come to.

    Args:
        rules: the challenge.
        genes: names of the columns.
        codes: (n,) index of each cell's group (perturbation and context), -1 for none; None when labels are not known.
        names: the groups' names.
        controls: (n,) control cells; None when labels are not known.
    """

    def __init__(
        self,
        rules: Rules,
        genes: Sequence[str],
        codes: NDArray[np.int32] | None,
        names: Sequence[str],
        controls: NDArray[np.bool_] | None,
        n_cells: int,
    ) -> None:
        self.rules, self.genes, self.codes, self.names, self.controls = rules, genes, codes, names, controls
        self.n_entries = self.untidy = self.done = self.fractional_entries = 0
        self.largest = 0.0
        self.bad = {name: Tally() for name in ("nan", "inf", "negative", "fractional", "inexact")}
        self.totals = np.zeros(n_cells)
        self.alive = np.zeros(len(names), bool)
        # a checksum for each cell instead of its values: enough to tell whether all cells of a group are the same
        self.prints = np.zeros(n_cells, np.uint32)
        # whether a cell has fractions, and its largest value: what tells the scale of each perturbation for itself
        self.fractional = np.zeros(n_cells, bool)
        self.largest_of = np.zeros(n_cells, np.float32)

    def add(self, part: csr_matrix, untidy: int = 0) -> None:
        """Take the next cells. (m, genes) CSR without stored zeros."""
        first, stop = self.done, self.done + part.shape[0]
        data = part.data
        # integers are finite by their type
        finite = np.isfinite(data) if data.dtype.kind == "f" else np.ones(len(data), bool)
        if not finite.all():
            self.bad["nan"].add(np.isnan(data), part, first, self.genes)
            self.bad["inf"].add(np.isinf(data), part, first, self.genes)
        if data.size:
            if np.min(data, where=finite, initial=0) < 0:
                self.bad["negative"].add(finite & (data < 0), part, first, self.genes)
            self.largest = max(self.largest, float(np.max(data, where=finite, initial=0)))
        self._fractions(part, finite, first)
        self._sums(part, finite, first, stop)
        self.n_entries += part.nnz
        self.untidy += untidy
        self.done = stop

    def _fractions(self, part: csr_matrix, finite: NDArray[np.bool_], first: int) -> None:
        data = part.data
        if data.dtype.kind == "f":
            # inf - inf is NaN, which compares as False: infinite values are counted elsewhere
            with np.errstate(invalid="ignore"):
                off = np.abs(data - np.trunc(data))
            self.fractional_entries += int(np.count_nonzero(off > FRACTION_LOG1P))
            self.fractional[first + np.searchsorted(part.indptr, np.flatnonzero(off > FRACTION_LOG1P), side="right") - 1] = True
            if self.rules.values == "counts":
                self.bad["fractional"].add(off > FRACTION_COUNTS, part, first, self.genes)
        if self.rules.values == "counts" and data.size and float(np.max(data, where=finite, initial=0)) > LARGEST_FLOAT32_INTEGER:
            self.bad["inexact"].add(finite & (data > LARGEST_FLOAT32_INTEGER), part, first, self.genes)

    def _sums(self, part: csr_matrix, finite: NDArray[np.bool_], first: int, stop: int) -> None:
        clean = np.where(finite, part.data, 0) if not finite.all() else part.data
        # float64: sums of float32 lose whole counts above 2**24; 60 keeps a damaged value from overflowing
        sums = clean.astype(np.float64) if self.rules.values == "counts" else np.expm1(np.minimum(clean, 60, dtype=np.float64))
        # (nnz,) the row of each stored value: bincount sums cells without a loop
        rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        self.totals[first:stop] = np.bincount(rows, sums, part.shape[0])
        ends = part.indptr
        filled = np.flatnonzero(np.diff(ends))
        if filled.size:
            self.largest_of[first + filled] = np.maximum.reduceat(clean, ends[:-1][filled])
        for row in range(part.shape[0]):
            low, high = ends[row], ends[row + 1]
            self.prints[first + row] = zlib.crc32(part.data[low:high], zlib.crc32(part.indices[low:high]))
        if self.codes is not None:
            codes = self.codes[first:stop]
            self.alive[codes[(np.diff(ends) > 0) & (codes >= 0)]] = True

    def findings(self) -> list[Finding]:
        """Everything that is wrong with the values seen so far."""
        out = self._bad_entries()
        if not self.n_entries:
            return [*out, found("all-zero", "error", "Every value is zero.", "Is this the matrix with the predictions?")]
        out += self._log1p() if self.rules.values == "log1p" else self._counts()
        out += self._scales()
        if self.rules.max_entries and self.n_entries > self.rules.max_entries:
            title = f"{self.n_entries:,} values are not zero; the scorer accepts {self.rules.max_entries:,}."
            fix = "Predict counts with more zeros: the rounding of the counts step leaves few small values."
            out.append(found("too-many-entries", "error", title, fix, count=self.n_entries))
        out += self._groups()
        if self.untidy:
            title = plural(self.untidy, "stored value was", "stored values were") + " zero, repeated or out of order."
            out.append(found("not-sparse", "note", title, "They are put into order.", count=self.untidy, repair="sparsify"))
        return out

    def _bad_entries(self) -> list[Finding]:
        texts = {
            "nan": ("values-nan", ("is NaN", "are NaN"), "Every score over those cells would be NaN."),
            "inf": ("values-infinite", ("is infinite", "are infinite"), "Every score over those cells would be infinite."),
            "negative": ("values-negative", ("is negative", "are negative"), "Expression is never negative: clip at zero."),
            "fractional": (
                "values-fractional",
                ("is no whole number", "are not whole numbers"),
                "Counts are asked for: use the counts step (--to-counts).",
            ),
            "inexact": (
                "values-inexact",
                ("is above 16,777,216", "are above 16,777,216"),
                "No cell has so many, and 32-bit numbers cannot count them.",
            ),
        }
        return [
            found(
                code,
                "error",
                f"{plural(tally.count, 'value')} {agreed(tally.count, *what)}.",
                fix,
                names=tally.examples,
                count=tally.count,
            )
            for kind, (code, what, fix) in texts.items()
            if (tally := self.bad[kind]).count
        ]

    def _log1p(self) -> list[Finding]:
        out = []
        if not self.fractional_entries:
            title = "All values are whole numbers: these look like counts, not like log1p of normalised expression."
            out.append(found("values-counts", "error", title, "Normalise them.", repair="normalise"))
        elif self.rules.max_value and self.largest >= self.rules.max_value:
            title = f"The largest value is {self.largest:,.4g}; log1p values are below {self.rules.max_value:g}."
            out.append(
                found("values-too-large", "error", title, "The values are not logged, or were scaled after the logarithm.")
            )
        depths = self.totals[self.totals > 0]
        low, high = np.percentile(depths, [5, 95]) if depths.size else (1.0, 1.0)
        if self.fractional_entries and high > DEPTH_SPREAD * low:
            title = f"The depth of cells is far from constant: expm1 sums to {low:,.4g} at 5 % and {high:,.4g} at 95 % of cells."
            out.append(found("depth-varies", "warning", title, "Normalised cells sum to one number. Scaled after the logarithm?"))
        if self.fractional_entries and self.controls is not None and self.controls.any() and not self.controls.all():
            control = float(np.median(self.totals[self.controls]))
            other = float(np.median(self.totals[~self.controls]))
            if control and other and not 1 / DEPTH_RATIO < other / control < DEPTH_RATIO:
                title = f"Predicted cells have {other / control:.3g} times the depth of control cells ({other:,.4g} and {control:,.4g})."
                out.append(found("depth-shifted", "warning", title, "Were both normalised to the same depth?"))
        return out

    def _counts(self) -> list[Finding]:
        cap = self.rules.max_counts_per_cell
        over = np.nonzero(self.totals > cap)[0] if cap else np.empty(0, np.int64)
        if not over.size:
            return []
        examples = [f"cell {row:,} has {self.totals[row]:,.0f}" for row in over[:5]]
        title = f"{plural(over.size, 'cell has', 'cells have')} more than {cap:,} counts."
        return [found("counts-per-cell", "error", title, "Use a smaller library size.", names=examples, count=int(over.size))]

    def _scales(self) -> list[Finding]:
        """Perturbations on another scale than the challenge asks for, each looked at for itself: few among many show in no percentile."""
        if self.codes is None:
            return []
        known = (self.codes >= 0) & (self.totals > 0)
        cells = np.bincount(self.codes[known], minlength=len(self.names))
        fractional = np.bincount(self.codes[known & self.fractional], minlength=len(self.names))
        logged = self.rules.values == "log1p"
        odd = cells - fractional if logged else fractional
        there = odd > 0
        # where every cell is so, it is one finding of the whole file
        if not there.any() or int(odd.sum()) == int(cells.sum()):
            return self._depths(cells, known) if logged else []
        what, title = ("whole numbers alone", "counts among log1p values") if logged else ("fractions", "no counts")
        names = [
            f"{self.names[i]} ({part_of(odd[i], cells[i], 'cell')} {agreed(odd[i], 'has', 'have')} {what})"
            for i in np.flatnonzero(there).tolist()
        ]
        found_here = found(
            "perturbation-scale",
            "error",
            f"{plural(len(names), 'perturbation holds', 'perturbations hold')} {title}.",
            "Bring all of them to one scale.",
            names=names,
        )
        return [found_here, *(self._depths(cells, known & ~there[self.codes]) if logged else [])]

    def _depths(self, cells: NDArray[np.int64], known: NDArray[np.bool_]) -> list[Finding]:
        """Perturbations without a logarithm, or of another depth than the rest."""
        assert self.codes is not None
        groups = [(self.names[i], np.flatnonzero(known & (self.codes == i))) for i in np.flatnonzero(cells).tolist()]
        groups = [(name, rows) for name, rows in groups if rows.size]
        out, most = [], self.rules.max_value
        large = [
            f"{name} (up to {self.largest_of[rows].max():,.4g})" for name, rows in groups if self.largest_of[rows].max() >= most
        ]
        if most and large and len(large) < len(groups):
            title = f"{plural(len(large), 'perturbation has', 'perturbations have')} values of {most:g} or more; log1p values are below."
            out.append(found("perturbation-unlogged", "error", title, "Take the logarithm of theirs too.", names=large))
        depths = {
            name: float(np.median(self.totals[rows])) for name, rows in groups if self.largest_of[rows].max() < (most or np.inf)
        }
        usual = float(np.median(list(depths.values()))) if depths else 0.0
        apart = [f"{name} ({d:,.4g})" for name, d in depths.items() if not usual / DEPTH_RATIO <= d <= usual * DEPTH_RATIO]
        if apart:
            title = plural(len(apart), "perturbation has", "perturbations have")
            title += f" another depth than the rest (median {usual:,.4g} once the log1p is undone)."
            out.append(found("perturbation-depth", "warning", title, "Were all normalised to the same depth?", names=apart))
        return out

    def _groups(self) -> list[Finding]:
        if self.codes is None:
            return []
        out = []
        cells = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        dead = [n for n, k, alive in zip(self.names, cells, self.alive, strict=True) if k and not alive]
        if dead:
            title = plural(len(dead), "perturbation is", "perturbations are") + " zero in every gene and cell."
            out.append(found("perturbation-all-zero", "error", title, "The model most likely did not run for them.", names=dead))
        empty = int(np.count_nonzero(self.totals == 0))
        if empty:
            title = plural(empty, "cell has", "cells have") + " no expression at all."
            out.append(found("cells-empty", "warning", title, "Real cells have some.", count=empty))
        same = self._identical(cells)
        if same:
            title = f"In {plural(len(same), 'perturbation')} all cells are identical."
            fix = "Tests for differential expression need variation between cells: do not submit a mean many times over."
            out.append(found("cells-identical", "warning", title, fix, names=same))
        return out

    def _identical(self, cells: NDArray[np.int64]) -> list[str]:
        assert self.codes is not None
        codes, known = self.codes, self.codes >= 0
        low = np.full(len(self.names), np.iinfo(np.uint32).max, np.uint32)
        high = np.zeros(len(self.names), np.uint32)
        # smallest and largest checksum of each group; ufunc.at, as groups repeat among the codes
        np.minimum.at(low, codes[known], self.prints[known])
        np.maximum.at(high, codes[known], self.prints[known])
        return [
            n for n, k, a, b, alive in zip(self.names, cells, low, high, self.alive, strict=True) if k > 1 and a == b and alive
        ]
