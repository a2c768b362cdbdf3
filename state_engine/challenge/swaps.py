"""Contexts in each other's place, which no packer sees: the mean of a context's predicted cells is most like the control cells of which context?

Profiles are natural means scaled to a million, on the log1p scale, less the mean profile of all control contexts: what is left is what tells
contexts apart. Notation: k contexts, g genes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from state_engine.challenge.contents import Plan
from state_engine.challenge.donors import control_cells, donors_at, gene_column
from state_engine.challenge.findings import ContextFit, Finding, found
from state_engine.challenge.source import open_controls
from state_engine.errors import StateError
from state_engine.plain import plural

CELLS = 400
"""Most control cells of a context."""


class ContextMeans:
    """Natural sums of the predicted cells of each context, block by block."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.labels = plan, plan.contexts
        self.sums = np.zeros((len(self.labels.names) if self.labels else 0, len(plan.genes)))

    def add(self, part: sp.csr_matrix, first: int) -> None:
        """Add cells from a place of the submission on."""
        if self.labels is None or len(self.labels.names) < 2:
            return
        codes = self.labels.codes[first : first + part.shape[0]]
        here = codes >= 0
        # (k, m) a 1 for each cell in the row of its context: a product sums the cells of each
        chosen = sp.csr_matrix(
            (np.ones(here.sum()), (codes[here], np.flatnonzero(here))), shape=(len(self.labels.names), len(codes))
        )
        natural = part.astype(np.float64)
        if self.plan.spec.rules.values == "log1p":
            natural.data = np.expm1(np.clip(natural.data, 0, 60))
        natural.data = np.nan_to_num(natural.data, nan=0, posinf=0)
        self.sums += (chosen @ natural).toarray()

    def findings(self) -> tuple[tuple[ContextFit, ...], list[Finding]]:
        """Return how each context fits, and a warning where control cells of another context fit better; nothing without two contexts."""
        if self.labels is None or len(self.labels.names) < 2:
            return (), []
        controls = control_profiles(self.plan)
        names = [n for n in self.labels.names if n in controls and self.sums[self.labels.names.index(n)].any()]
        if len(controls) < 2 or not names:
            return (), []
        base = np.mean([*controls.values()], axis=0)
        fits = []
        for name in names:
            mine = profile(self.sums[self.labels.names.index(name)]) - base
            r = {other: _correlation(mine, theirs - base) for other, theirs in controls.items()}
            best = max(r, key=lambda other: r[other])
            fits.append(ContextFit(name, best, r[name], r[best]))
        return tuple(fits), _findings(fits)


def control_profiles(plan: Plan) -> dict[str, NDArray[np.float64]]:
    """Return the profile (g,) of the control cells of each context of the control files; a file without contexts is one, by its name."""
    profiles: dict[str, NDArray[np.float64]] = {}
    for path in plan.source.cell_files:
        try:
            source = replace(plan.source, matrix="X", gene_column=gene_column(path, plan.genes))
            opened = open_controls(path, source, plan.spec.rules)
            keep = control_cells(opened, plan.spec.rules)
            groups = {path.stem: keep}
            if opened.contexts:
                groups = {name: keep & opened.contexts.where(name) for name in opened.contexts.names}
            for name, cells in groups.items():
                rows = np.random.default_rng(0).permutation(np.flatnonzero(cells))[:CELLS]
                donors = donors_at(path, plan.source, plan.spec.rules, np.sort(rows), plan.genes)
                if donors is not None and name not in profiles:
                    values = donors.read(0, len(rows))[0].astype(np.float64)
                    profiles[name] = profile(
                        np.asarray((values.expm1() if donors.scale == "log1p" else values).sum(axis=0)).ravel()
                    )
        except StateError:
            continue  # reported where library sizes are taken
    return profiles


def profile(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log1p of natural values scaled to a million, (g,)."""
    return np.log1p(total * (1e6 / max(total.sum(), 1e-12)))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def _findings(fits: list[ContextFit]) -> list[Finding]:
    swapped = [f for f in fits if f.best != f.context]
    words = [f"{f.context}: {f.r:.3f} with its own, {f.r_best:.3f} with {f.best}" for f in swapped]
    if not swapped:
        words = [f"{f.context}: {f.r:.3f}" for f in fits]
        return [found("contexts-fit", "note", "Each context is most like its own control cells (correlation).", names=words)]
    some = plural(len(swapped), "context is", "contexts are")
    title = f"{some} more like the control cells of another: are they in each other's place?"
    fix = "The official packer does not see it. Check which cells have which label."
    return [found("contexts-swapped", "warning", title, fix, names=words)]
