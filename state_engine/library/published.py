"""Published State models, as plain data: where they are, what they read, what is known about their limits.

Names were checked against the publisher's collection on the hub and against programs that download them; nothing here asks the
network. Folders inside a repository are listed by `hub.info`, since they change more often than names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ARC_LICENCE = "Arc Research Institute State Model Non-Commercial License"
ARC_LICENCE_URL = "https://github.com/ArcInstitute/state/blob/main/MODEL_LICENSE.md"

LIMITS = (
    "Not tested for cell types that were not in the training data.",
    "Single genes are predicted less well than sets of genes.",
    "Predictions and attention depend on how mixed the cells of a set are.",
)
_NO_GENE_NAMES = "The names and the order of the 2,000 genes are not in the files: bring an X_hvg made as for its training data."
_NEEDS_EMBEDDING = "Reads embeddings of a State Embedding (SE) model: the data set needs them first."


@dataclass(frozen=True)
class Published:
    """A published model.

    Args:
        repo: name on the hub.
        kind: "transition" (ST) or "embedding" (SE).
        reads: what goes in, for people.
        data: the screen it was trained on.
        perturbed_by: what kind of perturbation it knows.
        limits: short facts, shown where they matter.
    """

    repo: str
    kind: Literal["transition", "embedding"]
    reads: str
    data: str = ""
    perturbed_by: str = ""
    limits: tuple[str, ...] = LIMITS
    licence: str = ARC_LICENCE
    licence_url: str = ARC_LICENCE_URL


def _transition(name: str, embedding: bool, data: str, perturbed_by: str) -> Published:
    reads = "SE embeddings (X_state)" if embedding else "2,000 highly variable genes (X_hvg)"
    extra = _NEEDS_EMBEDDING if embedding else _NO_GENE_NAMES
    return Published(f"arcinstitute/{name}", "transition", reads, data, perturbed_by, (*LIMITS, extra))


PUBLISHED: tuple[Published, ...] = (
    _transition("ST-HVG-Tahoe", False, "Tahoe-100M", "drugs at doses"),
    _transition("ST-HVG-Parse", False, "Parse PBMC", "cytokines"),
    _transition("ST-HVG-Replogle", False, "Replogle-Nadig", "CRISPR knock-downs"),
    _transition("ST-SE-Tahoe", True, "Tahoe-100M", "drugs at doses"),
    _transition("ST-SE-Parse", True, "Parse PBMC", "cytokines"),
    _transition("ST-SE-Replogle", True, "Replogle-Nadig", "CRISPR knock-downs"),
    Published(
        "arcinstitute/SE-600M", "embedding", "gene expression", limits=("Of its several checkpoints one is downloaded.",),
    ),
)  # fmt: skip


def by_repo(repo: str) -> Published | None:
    """The entry of a repository, case aside; None when it is not in the catalogue."""
    return next((p for p in PUBLISHED if p.repo.lower() == repo.lower()), None)
