"""Which scale the expression values are on: one decision for a data set, with its evidence.

Source: what normalisation leaves behind. Counts are whole numbers; in log1p of depth-normalised counts all rows have the same sum
once the logarithm is undone. The sample is runs of neighbouring cells, spread from the first to the last.
Boundary: reads a sample and decides; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import h5py
import numpy as np
import scipy.sparse as sp

from state_engine.data.files.hdf5 import open_h5
from state_engine.data.files.matrices import BLOCK, line_starts, read_rows
from state_engine.data.files.safety import FileFacts
from state_engine.errors import ScaleError

Scale = Literal["counts", "log1p"]
LOG1P_MAX = 15.0  # e^15 is 3 million: no cell has a gene that high after normalisation to a usual depth
DEPTH = 1e4  # what models usually expect a cell's counts to be normalised to
MOST_COUNT: Final = 1e12  # of a gene in a cell, summed cells included: more molecules than were ever sequenced together
SAMPLE_CELLS = 2_000  # most cells looked at to decide the scale
SAMPLE_VALUES = 10_000_000
SAMPLE_PIECES = 20
SAME_DEPTH = 0.05  # relative difference up to which two depths are one
ALIKE = 0.01  # coefficient of variation of row sums that count as one depth
STEP_CELLS = 200  # cells whose values are compared with multiples of their smallest
STEP_VALUES = 8  # distinct values a cell needs for that
MULTIPLES = 100  # larger multiples are within rounding of a whole number anyway
STEPPED = 0.95  # share of a cell's values that must be whole multiples
LEAST_DEPTH = 10.0  # sums below are those of fractions, for which a logarithm makes no difference
UNDONE_LOG1P = "In each cell, the values are whole multiples of the smallest once the log1p is undone, as of counts."
NEARLY_WHOLE = 0.9  # share of values next to a whole number that speaks of corrected counts


@dataclass(frozen=True)
class ScaleDecision:
    """The scale of a data set's expression.

    Args:
        scale: counts, log1p, or None when the values are neither.
        evidence: what was seen, sentences.
        by: decided from the evidence, or by the user.
        depth: the sum that normalised cells share before the log1p; None when unknown or not shared.
        fix: what to do when `scale` is None.
        cell_sum: of log1p values, the median over the sampled cells of their sum once the log1p is undone: a depth is at least that.
    """

    scale: Scale | None
    evidence: tuple[str, ...]
    by: Literal["evidence", "user"] = "evidence"
    depth: float | None = None
    fix: str = ""
    cell_sum: float | None = None

    @property
    def notes(self) -> list[str]:
        """What a person may want to correct, or to know before trusting a result."""
        if self.scale is None:
            return [" ".join(["The expression values are neither counts nor log1p.", *self.evidence, self.fix])]
        if self.scale == "log1p" and self.depth and not same_depth(self.depth, DEPTH):
            return [f"The log1p values were normalised to {self.depth:,.0f} per cell; models usually expect {DEPTH:,.0f}."]
        return []

    def require(self, *allowed: Scale) -> Scale:
        """The scale, when it is one of those allowed (default: any).

        Raises:
            ScaleError: it is not, or it could not be told.
        """
        if self.scale is None:
            raise ScaleError("The expression values are neither counts nor log1p.", " ".join(self.evidence), self.fix)
        if allowed and self.scale not in allowed:
            raise ScaleError(
                f"The expression values are {self.scale}, {' or '.join(allowed)} is needed.",
                " ".join(self.evidence),
                "Correct the scale on the Data page if this is a mistake.",
            )
        return self.scale

    def at(self, depth: float | None, why: str) -> ScaleDecision:
        """Return the decision with a depth that is known otherwise than from the values; None, and counts, change nothing."""
        if depth is None or self.scale == "counts":
            return self
        seen = "" if self.depth is None or same_depth(depth, self.depth) else f"; the values look like {self.depth:,.0f}"
        return replace(self, depth=depth, evidence=(f"{why} {depth:,.0f} per cell{seen}.", *self.evidence))

    def excludes(self, depth: float) -> bool:
        """Return whether log1p values whose depth is not known cannot be of this one: some genes of a cell sum to more."""
        return self.scale == "log1p" and self.depth is None and (self.cell_sum or 0) > depth * (1 + SAME_DEPTH)


def same_depth(one: float, other: float) -> bool:
    """Return whether two depths are one but for rounding and a few genes that were left out."""
    return abs(one / other - 1) <= SAME_DEPTH


def log_base(mark: h5py.Group | h5py.Dataset) -> float | None:
    """Return the base that scanpy's log1p mark records; None for the natural logarithm, and where it records none."""
    item = mark.get("base") if isinstance(mark, h5py.Group) else None
    if not isinstance(item, h5py.Dataset) or item.shape != () or item.dtype.kind not in "iuf":
        return None
    base = float(item[()])
    return base if 1 < base < np.inf and abs(base - np.e) > 1e-3 else None


def sample_rows(n_cells: int, n_genes: int) -> np.ndarray:
    """Return the cells to look at: up to `SAMPLE_PIECES` runs of neighbours, evenly spread from the first cell to the last."""
    most = int(np.clip(SAMPLE_VALUES // max(n_genes, 1), 100, SAMPLE_CELLS))
    if n_cells <= most:
        return np.arange(n_cells)
    length = most // SAMPLE_PIECES
    starts = np.linspace(0, n_cells - length, SAMPLE_PIECES).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(length))


def scale_of_file(
    facts: FileFacts,
    expression: str | None,
    marked: bool,
    wanted: Scale | None,
    whole: int = BLOCK,
    columns: np.ndarray | None = None,
    base: float | None = None,
) -> ScaleDecision:
    """Decide the scale from complete cells; of a large matrix stored by gene, from values alone.

    Args:
        facts: the file.
        expression: the matrix; None when there is none.
        marked: the file carries scanpy's mark that log1p was applied to X.
        wanted: the user's word.
        whole: stored values up to which a matrix stored by gene is read whole.
        columns: that are genes; None for all.
        base: of the logarithm, where the mark records one that is not the natural.

    Raises:
        ScaleError: the user's word contradicts the values.
    """
    if expression is None:
        fix = "Embeddings can still be used."
        if facts.raw is not None:
            fix = f"Its 'raw' part has a matrix: choose it as the expression (--expression raw). {fix}"
        return ScaleDecision(None, ("The file has no expression matrix (no X and no layers).",), fix=fix)
    matrix = next(m for m in facts.matrices if m.name == expression)
    marked = marked and expression == "X"
    base = base if marked else None
    if matrix.layout == "csc" and matrix.stored > whole:
        piece = whole // SAMPLE_PIECES
        starts = np.linspace(0, matrix.stored - piece, SAMPLE_PIECES).astype(np.int64)
        with open_h5(facts.path) as file:
            pointers = line_starts(facts.path, matrix)
            values = np.concatenate([_piece(file[expression], pointers, s, s + piece) for s in starts.tolist()])
        return decide_scale(values, None, 0, marked, wanted, base)
    rows = sample_rows(facts.n_cells, facts.n_genes)
    sample = read_rows(facts.path, matrix, rows)
    stored = sp.coo_matrix(sample if columns is None else sample[:, columns])
    return decide_scale(stored.data, stored.row, len(rows), marked, wanted, base)


def _piece(group: h5py.Group, pointers: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return stored values of a matrix by gene as float64; those of one cell and gene, stored apart, are added up."""
    values = group["data"][start:stop].astype(np.float64)
    cells = group["indices"][start:stop].astype(np.int64)
    genes = np.searchsorted(pointers, np.arange(start, start + len(values)), side="right")
    if bool(((np.diff(genes) > 0) | (np.diff(cells) > 0)).all()):
        return values
    # one number for each cell and gene
    unique, place = np.unique(genes * (cells.max() + 1) + cells, return_inverse=True)
    return np.bincount(place, weights=values, minlength=len(unique))


def decide_scale(
    values: np.ndarray, row_of: np.ndarray | None, n_rows: int, marked_log1p: bool = False, wanted: Scale | None = None,
    base: float | None = None,
) -> ScaleDecision:  # fmt: skip
    """Decide from a sample of the stored values.

    Args:
        values: (s,) the values of the sampled cells; zeros may be left out.
        row_of: (s,) the sampled cell that each value belongs to, or None when the sample has no complete cells.
        n_rows: cells in the sample.
        marked_log1p: the file carries scanpy's mark that log1p was applied (uns["log1p"]).
        wanted: the user's word; it decides unless the values make it impossible.
        base: of the logarithm, where the mark records one that is not the natural; values that show their own say more.

    Raises:
        ScaleError: the user's word contradicts the values (negative or not numbers).
    """
    with np.errstate(invalid="ignore"):  # NaN is told below
        values = np.asarray(values, dtype=np.float64)
    decision = _from_evidence(values, row_of, n_rows, marked_log1p)
    if base is not None and decision.scale == "log1p" and decision.depth is None and UNDONE_LOG1P not in decision.evidence:
        why = f"The file's log1p mark records base {base:g}: not the natural logarithm."
        decision = _neither((*decision.evidence, why), f"Multiply by ln({base:g}) = {np.log(base):.4f} and save again.")
    if wanted is None:
        return decision
    if len(values) and not (np.isfinite(values).all() and values.min() >= 0):
        raise ScaleError(f"The values cannot be {wanted}.", " ".join(decision.evidence), decision.fix)
    agrees = decision.scale == wanted
    said = f"You set the scale to {wanted}" + ("." if agrees else f"; the values look like {decision.scale or 'neither'}.")
    return ScaleDecision(wanted, (said, *decision.evidence), "user", decision.depth if agrees else None)


def _from_evidence(values: np.ndarray, row_of: np.ndarray | None, n_rows: int, marked: bool) -> ScaleDecision:
    where = f"in {n_rows:,} sampled cells" if row_of is not None else f"in {len(values):,} sampled values"
    unfit = _unfit(values, where)
    if unfit is not None:
        return unfit
    top = f"The largest value {where} is {values.max():,.4g}."
    if (values == np.rint(values)).all():
        binary = ("All of them are 0 or 1: presence, not amounts.",) if values.max() == 1 else ()
        mark = ("The file is marked as log1p, but whole numbers are not.",) if marked else ()
        return ScaleDecision("counts", (f"All values {where} are whole numbers.", top, *binary, *mark))
    evidence = ["Some values are fractions.", top]
    if marked:
        evidence.append("The file carries scanpy's log1p mark.")
    sums = _depths(values, row_of, n_rows)
    depth = sums.get("expm1", 0.0)
    if depth >= LEAST_DEPTH:
        evidence.append(f"Every cell sums to about {depth:,.0f} once the log1p is undone.")
        return ScaleDecision("log1p", tuple(evidence), depth=depth, cell_sum=depth)
    for way, sentence in _ONE_DEPTH.items():
        if way in sums:
            return _neither((*evidence, sentence.format(sums[way])), UNDONE[way][1])
    other = _other_transformation(values, row_of, n_rows)
    if other is not None:
        return _neither((*evidence, other[0]), other[1])
    if values.max() < LOG1P_MAX:
        evidence.append(f"Fractions below {LOG1P_MAX:g} are what log1p gives; the cells share no depth.")
        evidence += _steps_of_log1p(values, row_of, n_rows)
        cell_sum = None
        if row_of is not None:
            cell_sum = float(np.median(np.bincount(row_of, weights=np.expm1(values), minlength=n_rows)))
        return ScaleDecision("log1p", tuple(evidence), cell_sum=cell_sum)
    evidence.append("That is too large for log1p and not whole as counts are (corrected counts, CPM, or TPM?).")
    return _neither(tuple(evidence), "Use a matrix of counts or log1p values, or set the scale yourself if you know it.")


def _unfit(values: np.ndarray, where: str) -> ScaleDecision | None:
    """Return why values can be no expression at all; None where they can."""
    if not len(values) or not np.any(values):
        return _neither((f"All values {where} are zero.",), "Choose another matrix for the expression.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        return _neither((f"{bad:,} values {where} are not numbers (NaN or infinite).",), "Remove or repair them and save again.")
    if values.min() < 0:
        return _neither(
            (f"Values {where} go down to {values.min():.2f}: they were centred or scaled (z-scores).",),
            "Use counts or log1p values: choose a layer that holds them, or the file's raw part (--expression raw).",
        )
    if values.max() > MOST_COUNT:
        return _neither(
            (f"Values {where} go up to {values.max():.4g}: no gene of a cell has so many.",),
            "Remove or repair them and save again.",
        )
    return None


# how values may be undone so that all cells have one depth -> what that says, the surest first
_ONE_DEPTH: dict[str, str] = {
    "plain": "Every cell sums to about {:,.0f}: normalised, but no logarithm was taken.",
    "expm1 twice": "Every cell sums to about {:,.0f} once two logarithms are undone: log1p was taken twice.",
    "log2": "Every cell sums to about {:,.0f} once a log2(x + 1) is undone: not the natural logarithm.",
    "log10": "Every cell sums to about {:,.0f} once a log10(x + 1) is undone: not the natural logarithm.",
}

# how values may be undone -> what they then were, and the way back
UNDONE: dict[str, tuple[str, str]] = {
    "expm1": ("log1p of normalised counts", ""),
    "plain": ("normalised, but no logarithm was taken", "Apply scanpy.pp.log1p and save again."),
    "expm1 twice": ("log1p was taken twice", "Apply numpy.expm1 once and save again."),
    "square": ("square roots of counts", "Square them, then normalise and apply scanpy.pp.log1p, and save again."),
    "log2": ("log2(x + 1), not the natural logarithm", f"Multiply by ln(2) = {np.log(2):.4f} and save again."),
    "log10": ("log10(x + 1), not the natural logarithm", f"Multiply by ln(10) = {np.log(10):.4f} and save again."),
}


def _other_transformation(values: np.ndarray, row_of: np.ndarray | None, n_rows: int) -> tuple[str, str] | None:
    """Return what the values are instead of log1p, and the way back, where there is evidence; None where there is none.

    Counts have a smallest step, and what was made of them keeps it: in each cell, the undone values are whole multiples of the smallest.
    Only the right way of undoing shows it, whatever the depth and however few genes there are.
    """
    if values.max() <= 1:
        return "All values lie between 0 and 1: fractions, or scaled to that range.", "Use counts or log1p values."
    near = float(np.mean(np.abs(values - np.rint(values)) < 1e-3))
    if near > NEARLY_WHOLE:
        return f"{near:.0%} of the values are nearly whole: corrected counts.", "Round them to counts, or use the counts."
    if row_of is None:
        return None
    shares = _step_shares(values, row_of, n_rows)
    if not shares or shares["expm1"] >= STEPPED:
        return None
    best = max(shares, key=lambda way: shares[way])
    if shares[best] < STEPPED:
        return None
    what, fix = UNDONE[best]
    return f"In each cell, the values are whole multiples of the smallest once they are undone so: {what}.", fix


def _steps_of_log1p(values: np.ndarray, row_of: np.ndarray | None, n_rows: int) -> list[str]:
    """Return what the steps of counts say for log1p, where the cells share no depth."""
    if row_of is None or not steps_are_whole(values, row_of, n_rows):
        return []
    amounts = np.expm1(values)
    if float(np.mean(np.abs(amounts - np.rint(amounts)) < 1e-3 * np.maximum(amounts, 1))) > NEARLY_WHOLE:
        return ["Once the log1p is undone, the values are whole numbers: counts that were not normalised before."]
    return [UNDONE_LOG1P]


def steps_are_whole(values: np.ndarray, row_of: np.ndarray, n_rows: int) -> bool:
    """Return whether log1p values (s,) are those of counts: whole multiples of the smallest of their cell once the logarithm is undone."""
    return _step_shares(values, row_of, n_rows).get("expm1", 0) >= STEPPED


def _undone(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values under each way of undoing; those that would overflow are left out."""
    found = {"plain": values, "expm1": np.expm1(values), "square": values**2}
    found |= {"log2": np.exp2(values) - 1, "log10": 10.0**values - 1}
    if values.max() < 4:
        found["expm1 twice"] = np.expm1(np.expm1(values))
    return found


def _step_shares(values: np.ndarray, row_of: np.ndarray, n_rows: int) -> dict[str, float]:
    """Return, for each way of undoing, the median over cells of the share of values that are whole multiples of the smallest."""
    if values.max() > 50:
        return {}
    shares: dict[str, list[float]] = {way: [] for way in UNDONE}
    order = np.argsort(row_of, kind="stable")
    edges = np.searchsorted(row_of[order], np.arange(n_rows + 1))
    for cell in np.linspace(0, n_rows - 1, min(n_rows, STEP_CELLS)).astype(int).tolist():
        own = values[order[edges[cell] : edges[cell + 1]]]
        own = own[own > 0]
        if len(np.unique(own)) < STEP_VALUES:
            continue
        for way, plain in _undone(own).items():
            multiples = plain / plain.min()
            small = multiples[multiples < MULTIPLES]
            # float32 keeps seven digits; the tolerance grows with the multiple
            shares[way].append(float(np.mean(np.abs(small - np.rint(small)) < 2e-3 * np.maximum(small, 1))))
    return {way: float(np.median(found)) for way, found in shares.items() if len(found) >= 5}


def _neither(evidence: tuple[str, ...], fix: str) -> ScaleDecision:
    return ScaleDecision(None, evidence, fix=fix)


# ways of undoing a logarithm, the most likely first
UNDO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "expm1": np.expm1,
    "plain": lambda values: values,
    "log2": lambda values: np.exp2(values) - 1,
    "log10": lambda values: 10.0**values - 1,
}


def _depths(values: np.ndarray, row_of: np.ndarray | None, n_rows: int) -> dict[str, float]:
    """Return the median sum of the cells for each way of undoing a logarithm under which the sums are alike."""
    if row_of is None:
        return {}
    undone = {"plain": values}
    if values.max() < 50:
        undone |= {"expm1": np.expm1(values), "log2": np.exp2(values) - 1, "log10": 10.0**values - 1}
    if values.max() < 4:
        undone["expm1 twice"] = np.expm1(np.expm1(values))
    found = {}
    for name, plain in undone.items():
        sums = np.bincount(row_of, weights=plain, minlength=n_rows)
        sums = sums[sums > 0]
        if len(sums) > 1 and sums.std() / sums.mean() < ALIKE:
            found[name] = float(np.median(sums))
    return found
