"""Can the energy distance tell a replicate from an average on this data set? As `replicates`, of clouds of cells in place of means.

Truth and replicate are the halves of a condition's measured cells; the average is a cloud of cells of the other perturbations of the context,
equally many of each. The formulas are those of `metrics.replicate` and `metrics.population`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from state_engine.evaluation.compared import ComparedFiles, Condition, sparse_cells
from state_engine.evaluation.replicates import SEED, Halves, groups_of, tried_by
from state_engine.metrics.population import MOST_CELLS, Cloud, Components, energy_distance
from state_engine.metrics.profile import Metric
from state_engine.metrics.replicate import Discrimination

METRIC: Final = "energy_pca50"


@dataclass(frozen=True, eq=False)
class ReplicateClouds:
    """The measured cells of a context in principal components.

    Args:
        files: what is compared.
        halves: of the measured cells.
        context: whose.
        components: of its measured cells.
        others: (n, k) cells of all perturbations, `labels` (n,) whose.
    """

    files: ComparedFiles
    halves: Halves
    context: str
    components: Components
    others: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, files: ComparedFiles, halves: Halves, context: str, components: Components) -> ReplicateClouds:
        """Draw the cells of all perturbations of a context."""
        names = halves.enough.get(context, ())
        rng, each = np.random.default_rng(SEED), max(1, MOST_CELLS // max(1, len(names)))
        rows = [files.real.rows(p, context) for p in names]
        drawn = [np.sort(rng.choice(own, min(each, len(own)), replace=False)) for own in rows]
        labels = np.repeat(np.array(names, dtype=object), [len(own) for own in drawn])
        if not names:
            return cls(files, halves, context, components, np.zeros((0, 0)), labels)
        points = components.points(sparse_cells(files.real, np.concatenate(drawn)))
        return cls(files, halves, context, components, points, labels)

    def energies(self, perturbation: str) -> tuple[float, float] | None:
        """Return the energy distances of replicate and average to the truth; None without halves, or without other perturbations."""
        condition, other = (perturbation, self.context), self.others[self.labels != perturbation]
        if condition not in self.halves.conditions or len(other) < 2:
            return None
        truth, replicate = (
            self.components.cloud(sparse_cells(self.files.real, self.halves.rows(condition, number))) for number in (0, 1)
        )
        return energy_distance(replicate, truth), energy_distance(Cloud.of(other), truth)


def energy_discriminations(metric: Metric, energies: Mapping[Condition, tuple[float, float]]) -> tuple[Discrimination, ...]:
    """Return how well the energy distance tells, over all conditions and, where there are several contexts, for each.

    Args:
        metric: the energy distance; 0 is best.
        energies: of replicate and average to the truth.
    """
    if not energies:
        return ()
    groups = groups_of(np.array([context for _, context in energies]))
    positive, negative = np.array(list(energies.values())).T
    return tuple(tried_by(metric, positive, negative, groups).values())
