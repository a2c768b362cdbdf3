"""A simulated PBMC perturbation data set with real gene symbols: the demo, and the ground truth of many tests.

Nothing in it is measured. Programs of genes, their rest levels and how five cell types answer to fourteen perturbations are
tables written from general immunological knowledge (`assets/demo/programs.tsv`, `responses.tsv`, `genes.txt`); this file only
draws cells from them.

Notation: c cell types, g genes, n cells. `rest` (c, g) is in transcripts per 10,000, effects (c, g) in log2 fold change. A
cell's counts are negative binomial: mean = depth x share of the gene, variance = mean + dispersion x mean^2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from state_engine import keys
from state_engine.config import DEMO
from state_engine.errors import ConfigError
from state_engine.files import replacing

if TYPE_CHECKING:
    import anndata
    import pandas as pd

TABLES = DEMO
TITLE = "Simulated PBMC perturbations (no measured cells)"
CONTROL = "control"
CRISPRI = "CRISPRi "
CELL_TYPE = "cell_type"

# share of the cells, and median depth in counts over the simulated genes
CELL_TYPES: dict[str, tuple[float, float]] = {
    "CD4 T": (0.28, 1900.0),
    "CD8 T": (0.18, 1800.0),
    "B": (0.16, 1900.0),
    "NK": (0.14, 1900.0),
    "CD14 monocyte": (0.24, 2900.0),
}
# what varies between the cells of one type: program that rises, program that falls
STATES: dict[str, tuple[str, str]] = {
    "CD4 T": ("memory T", "naive T"),
    "CD8 T": ("cytotoxicity", "naive T"),
    "B": ("memory B", "IRF8 program"),
    "NK": ("cytotoxicity", "naive T"),
    "CD14 monocyte": ("monocyte", "antigen presentation II"),
}
# (context, perturbation) that are in the file as truth and that the demo model never sees
HELD_OUT: tuple[tuple[str, str], ...] = (
    ("NK", "IFN-beta"),
    ("B", "TNF"),
    ("CD8 T", "Dexamethasone"),
    ("CD14 monocyte", "IFN-gamma"),
)
KNOCKDOWN = np.log2(0.15)  # what is left of a CRISPRi target's transcripts
ESCAPE = 0.12  # share of CRISPRi cells in which the guide does nothing
CYCLING = 0.03  # share of dividing cells


@dataclass(frozen=True)
class Design:
    """What to simulate.

    Args:
        n_cells: cells in all; each of the 15 labels needs at least one cell of every type.
        seed: of every random draw.
        control_share: part of the cells that are controls.
        batch_sd: standard deviation of a gene's shift between the two batches, log scale.
        held_out: (context, perturbation) blocks noted in `uns`; they are simulated like the others.
    """

    n_cells: int = 6000
    seed: int = 0
    control_share: float = 0.25
    batch_sd: float = 0.12
    held_out: tuple[tuple[str, str], ...] = HELD_OUT


@dataclass(frozen=True)
class Programs:
    """The tables, read: `members` are gene indices in order of strength."""

    genes: tuple[str, ...]
    members: dict[str, np.ndarray]
    level: dict[str, float]
    fold: dict[str, dict[str, float]]
    responses: dict[str, dict[str, tuple[float, ...]]] = field(repr=False)

    @property
    def perturbations(self) -> tuple[str, ...]:
        return tuple(self.responses)


def read_programs(folder: Path = TABLES) -> Programs:
    """Read the gene programs and responses of `folder`.

    Raises:
        ConfigError: a response names a program that is not in the table, or has not one value a cell type.
    """
    rows = [line.split("\t") for line in _lines(folder / "programs.tsv")][1:]
    named = {name: genes.split() for name, _, _, genes in rows}
    genes = tuple(dict.fromkeys([g for members in named.values() for g in members] + _lines(folder / "genes.txt")))
    index = {gene: i for i, gene in enumerate(genes)}
    return Programs(
        genes=genes,
        members={name: np.array([index[g] for g in members]) for name, members in named.items()},
        level={name: float(level) for name, level, _, _ in rows},
        fold={name: _folds(where) for name, _, where, _ in rows},
        responses=_responses(_lines(folder / "responses.tsv")[1:], set(named)),
    )


def _responses(lines: list[str], programs: set[str]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return perturbation -> program -> its strength in each cell type."""
    responses: dict[str, dict[str, tuple[float, ...]]] = {}
    for perturbation, program, *strengths in (line.split("\t") for line in lines):
        if program not in programs or len(strengths) != len(CELL_TYPES):
            raise ConfigError(f"The response of '{perturbation}' in '{program}' is not a program with {len(CELL_TYPES)} values.")
        responses.setdefault(perturbation, {})[program] = tuple(float(s) for s in strengths)
    return responses


def rest_levels(programs: Programs, rng: np.random.Generator) -> np.ndarray:
    """Draw the expression at rest (c, g), in transcripts per 10,000 before scaling to the simulated genes.

    The first program that names a gene sets its level; the other genes get log-normal levels. Cell types differ a little in
    every third gene.
    """
    types, g = list(CELL_TYPES), len(programs.genes)
    rest = np.tile(0.8 * np.exp(rng.normal(0, 0.9, g)), (len(types), 1))
    spread = rng.normal(0, 0.6, g)
    for name in reversed(programs.members):
        members = programs.members[name]
        for c, cell_type in enumerate(types):
            rest[c, members] = programs.level[name] * programs.fold[name].get(cell_type, 1.0) * np.exp(spread[members])
    own = rng.normal(0, 0.3, (len(types), g)) * (rng.random((len(types), g)) < 0.3)
    return rest * np.exp(own)


def true_effects(programs: Programs, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the effect of every perturbation on a cell that answers in full: (c, g) in log2 fold change.

    Where two programs move one gene, the stronger counts. Each gene deviates a little by cell type, and a few genes outside the
    programs answer in one cell type only (not for the last perturbation of the table, the negative control).
    """
    shape = (len(CELL_TYPES), len(programs.genes))
    null = programs.perturbations[-1]
    effects = {}
    for perturbation, answer in programs.responses.items():
        effect = np.zeros(shape)
        for name, strengths in answer.items():
            members = programs.members[name]
            moved = np.outer(strengths, np.linspace(1.0, 0.4, len(members)))
            now = effect[:, members]
            effect[:, members] = np.where(np.abs(moved) > np.abs(now), moved, now)
        effect *= np.exp(rng.normal(0, 0.15, shape))
        private = rng.normal(0, 0.5, shape) * (rng.random(shape) < 0.02)
        if perturbation != null:
            effect += np.where(effect == 0, private, 0.0)
        target = perturbation.removeprefix(CRISPRI)
        if target != perturbation:
            effect[:, programs.genes.index(target)] = KNOCKDOWN
        effects[perturbation] = effect
    return effects


def simulate(design: Design | None = None, folder: Path = TABLES) -> anndata.AnnData:
    """Draw the data set: n cells x g genes, X CSR counts in float32; obs perturbation, cell_type, batch.

    Raises:
        ConfigError: too few cells for a design with every label in every cell type.
    """
    import anndata as ad
    import scipy.sparse as sp

    design = design or Design()
    programs = read_programs(folder)
    # a generator for each kind of number: a change in how one is drawn leaves the others as they were
    of_tables, of_cells, of_counts = (np.random.default_rng([design.seed, k]) for k in range(3))
    rest, effects = rest_levels(programs, of_tables), true_effects(programs, of_tables)
    batch_shift = of_tables.normal(0, design.batch_sd, len(programs.genes))
    dispersion = 0.15 * np.exp(of_tables.normal(0, 0.5, len(programs.genes)))
    obs = _obs(design, programs.perturbations, of_cells)
    blocks = []
    for start in range(0, len(obs), 500):  # bounds the memory
        part = obs.iloc[start : start + 500]
        share = _shares(part, programs, rest, effects, batch_shift, of_cells)
        depth = np.array([CELL_TYPES[t][1] for t in part[CELL_TYPE]]) * np.where(part[keys.BATCH] == "batch 2", 1.2, 1.0)
        mean = (depth * np.exp(of_cells.normal(0, 0.3, len(part))))[:, None] * share
        # Poisson counts with a gamma mean are negative binomial
        blocks.append(sp.csr_matrix(of_counts.poisson(of_counts.gamma(1 / dispersion, mean * dispersion)).astype(np.float32)))
    data = ad.AnnData(X=sp.vstack(blocks, format="csr"), obs=obs)
    data.var_names = list(programs.genes)
    data.uns = {
        "simulated": True,
        "title": TITLE,
        "seed": design.seed,
        "held_out": [f"{context} x {perturbation}" for context, perturbation in design.held_out],
    }
    return data


def write_simulated(path: Path, design: Design | None = None) -> Path:
    """Simulate and write an .h5ad file (gzip). The same design gives the same bytes with the same versions of numpy and h5py."""
    with replacing(path) as part:
        simulate(design).write_h5ad(part, compression="gzip", compression_opts=9)
    return path


def _obs(design: Design, perturbations: tuple[str, ...], rng: np.random.Generator) -> pd.DataFrame:
    import pandas as pd

    labels = (CONTROL, *perturbations)
    each = (1 - design.control_share) / len(perturbations)
    shares = np.outer([design.control_share] + [each] * len(perturbations), [share for share, _ in CELL_TYPES.values()])
    counts = _largest_remainder(shares.ravel(), design.n_cells).reshape(shares.shape)
    if counts.min() < 1:
        raise ConfigError(f"{design.n_cells} cells are too few.", f"{counts.size} groups need a cell each.", "Ask for more.")
    rows = [(label, t) for i, label in enumerate(labels) for j, t in enumerate(CELL_TYPES) for _ in range(counts[i, j])]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    batch = np.where(rng.random(len(rows)) < 0.5, "batch 1", "batch 2")
    table = {
        keys.PERTURBATION: pd.Categorical([label for label, _ in rows], categories=labels),
        CELL_TYPE: pd.Categorical([t for _, t in rows], categories=list(CELL_TYPES)),
        keys.BATCH: pd.Categorical(batch, categories=["batch 1", "batch 2"]),
    }
    return pd.DataFrame(table, index=[f"simulated-{i:05d}" for i in range(len(rows))])


def _shares(
    obs: pd.DataFrame,
    programs: Programs,
    rest: np.ndarray,
    effects: dict[str, np.ndarray],
    batch_shift: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Share of each gene in the transcripts of each cell (n, g): rows sum to 1."""
    n = len(obs)
    state, size = rng.normal(0, 1, n), rng.gamma(12, 1 / 12, n)
    escaped, cycling = rng.random(n) < ESCAPE, rng.random(n) < CYCLING
    types = list(CELL_TYPES)
    log2 = np.zeros((n, len(programs.genes)))
    level = np.zeros_like(log2)
    for i, (label, cell_type) in enumerate(zip(obs[keys.PERTURBATION], obs[CELL_TYPE], strict=True)):
        c = types.index(cell_type)
        up, down = STATES[cell_type]
        level[i] = rest[c]
        log2[i, programs.members[up]] += 0.7 * state[i]
        log2[i, programs.members[down]] -= 0.7 * state[i]
        if cycling[i]:
            log2[i, programs.members["proliferation"]] += 4.0
        if label != CONTROL and not (escaped[i] and label.startswith(CRISPRI)):
            # cells further along their type's axis answer more strongly
            log2[i] += effects[label][c] * min(size[i] * 2 ** (0.2 * state[i]), 1.8)
    log2 += np.outer(obs[keys.BATCH] == "batch 2", batch_shift / np.log(2))
    amount = level * np.exp2(log2)
    return amount / amount.sum(axis=1, keepdims=True)


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in the proportions of `shares` that add up to `total`."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    # those that lost most by rounding down get one more; stable, so that ties fall the same way everywhere
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def _folds(text: str) -> dict[str, float]:
    return {name: float(fold) for name, fold in (pair.split("=") for pair in text.split("; ") if pair)}


def _lines(path: Path) -> list[str]:
    text: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    return [line for line in text if line and not line.startswith("#")]
