"""Published State models, as plain data: where they are, what they read, what is known about their limits.

Names, commits and folders were found in the publisher's collection on the hub and in public programs that download them (`FOUND`); nothing
here asks the network. A model without a commit here is pinned by its first download (`hub.pinned`). Folders inside a repository are listed by
`hub.info`; what the training of each left out stands in `folds`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Final, Literal

ARC_LICENCE = "Arc Research Institute State Model Non-Commercial License"
ARC_LICENCE_URL = "https://github.com/ArcInstitute/state/blob/main/MODEL_LICENSE.md"

LIMITS = (
    "Not tested for cell types that were not in the training data.",
    "Single genes are predicted less well than sets of genes.",
    "Predictions and attention depend on how mixed the cells of a set are.",
)
FOUND: Final = (
    "commits: public audits that name them with the date (State 0.11.3 of July 2026 beside); folders and held-out lines: the paths of the "
    "split files in the configurations beside the weights"
)
# what a State Embedding model needs: its repositories hold further checkpoints of up to 11 GB
_EMBEDDING_FILES = ("config.yaml", "model.safetensors", "protein_embeddings.pt", "README.md", "*LICENSE*")
_PARSE = "Certain uses of models trained on Parse data may need a licence from Parse Biosciences."
_NO_GENE_NAMES = "The names and the order of the 2,000 genes are not in the files: bring an X_hvg made as for its training data."
_NEEDS_EMBEDDING = "Reads embeddings of a State Embedding (SE) model: the data set needs them first."


@dataclass(frozen=True)
class Fold:
    """Models of a repository that differ in what their training left out.

    Args:
        folder: pattern of their folders.
        unseen: what was left out, for people; "{line}" stands for the last part of the folder's name, up to "_".
        left_out: the same in a word: a context as a whole, part of the perturbations of one; "" where it is not known.
    """

    folder: str
    unseen: str
    left_out: Literal["context", "perturbations", ""] = ""


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
        revision: the commit that is meant, 40 hex digits; "" where no public source names one.
        writes: what comes out, for people.
        folds: of its folders.
        files: patterns of the files that are needed; empty for those of any model. Predictions and scores that lie beside are never fetched.
        genes: how many it reads, by name or as the most variable ones; None where it reads an embedding.
        gene_names: whether its files name these genes, so that they can be matched.
        perturbations: how many it knows; None where no public source counts them.
        contexts: cell lines it was trained on or tested in; empty where they are not listed here.
    """

    repo: str
    kind: Literal["transition", "embedding"]
    reads: str
    data: str = ""
    perturbed_by: str = ""
    limits: tuple[str, ...] = LIMITS
    licence: str = ARC_LICENCE
    licence_url: str = ARC_LICENCE_URL
    revision: str = ""
    writes: str = ""
    folds: tuple[Fold, ...] = ()
    files: tuple[str, ...] = ()
    genes: int | None = None
    gene_names: bool = False
    perturbations: int | None = None
    contexts: tuple[str, ...] = ()

    def seen(self, contexts: Iterable[str]) -> tuple[str, ...] | None:
        """Return those contexts that are cell lines of its data, spelling aside; None where its lines are not listed here."""
        lines = {_plainly(line) for line in self.contexts}
        return tuple(c for c in contexts if _plainly(c) in lines) if lines else None

    def unseen(self, folder: str) -> str:
        """Return what the training of the model in a folder left out; "" where that is not known."""
        line = PurePosixPath(folder).name.split("_")[0]
        return next((fold.unseen.format(line=line) for fold in self.folds if fnmatch(folder, fold.folder)), "")


def _plainly(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_LINES = (
    Fold("zeroshot/*", "{line} as a whole: no perturbed cell of this line was in training, by its split file.", "context"),
    Fold(
        "fewshot/*",
        "Part of the perturbations of {line}: the others of this line were in training, by its split file.",
        "perturbations",
    ),
)
_TAHOE_LINES = (
    Fold(
        "zeroshot/*",
        "C32, HOP62, HepG2/C3A, Hs 766T and PANC-1: no treated cell of these lines was in training, by its split file.",
        "context",
    ),
    Fold(
        "fewshot/*",
        "Part of the drugs in some lines: the others of these lines were in training, by its split file.",
        "perturbations",
    ),
)
_PARTS = (
    Fold("*zeroshot/*", "A whole context: which, its split file says.", "context"),
    Fold("*fewshot/*", "Part of the cytokines in a context: which, its split file says.", "perturbations"),
)
_FULL = (
    Fold(
        "*_0.99",
        "Not known. 0.99 is the share of counts that training kept of each cell, not a share of cells: take every cell of the four lines, "
        "{line} among them, as trained on.",
    ),
)


def _transition(
    name: str, reads: str, data: str, perturbed_by: str, revision: str, folds: tuple[Fold, ...], more: tuple[str, ...] = ()
) -> Published:
    extra = {_EMBEDDING: _NEEDS_EMBEDDING, _HVG: _NO_GENE_NAMES}.get(reads)
    limits = (*LIMITS, *([extra] if extra else []), *more)
    writes = "6,546 genes (output space all)" if name.endswith("-full") else "2,000 highly variable genes"
    nadig = data == _NADIG
    return Published(
        f"arcinstitute/{name}", "transition", reads, data, perturbed_by, limits, revision=revision, writes=writes, folds=folds,
        genes={_HVG: 2000, _ALL: 6546}.get(reads), gene_names=reads == _ALL, perturbations=2023 if nadig else None,
        contexts=("K562", "RPE1", "HepG2", "Jurkat") if nadig else (),
    )  # fmt: skip


_EMBEDDING = "SE embeddings (X_state)"
_HVG = "2,000 highly variable genes (X_hvg)"
_ALL = "6,546 genes, by name"
_ONLY_TRAINED = "Knows 2,023 essential genes by one-hot vectors, and no other: of the 300 targets of the challenge of 2026, none."
CRISPRI = "CRISPRi knock-downs"
_NADIG = "Replogle-Nadig (K562, RPE1, HepG2, Jurkat)"


def _se(name: str, revision: str, *limits: str) -> Published:
    return Published(
        f"arcinstitute/{name}", "embedding", "gene expression", limits=limits, revision=revision, files=_EMBEDDING_FILES
    )


PUBLISHED: tuple[Published, ...] = (
    _transition("ST-HVG-Tahoe", _HVG, "Tahoe-100M", "drugs at doses", "ca6b751972493f8448e3256d1340ae70ad43e1e7", _TAHOE_LINES),
    _transition("ST-HVG-Parse", _HVG, "Parse PBMC", "cytokines", "827df657cd87063026d2abefd73e99036755ac1b", _PARTS, (_PARSE,)),
    _transition("ST-HVG-Replogle", _HVG, _NADIG, CRISPRI, "bb6a9562cbbf1fd152df14cc53b4cc7517c77175", _LINES, (_ONLY_TRAINED,)),
    _transition("ST-SE-Tahoe", _EMBEDDING, "Tahoe-100M", "drugs at doses", "03b1971d7cc93a7535fd2e957c6948dba267378b", _TAHOE_LINES),
    _transition("ST-SE-Parse", _EMBEDDING, "Parse PBMC", "cytokines", "", _PARTS, (_PARSE,)),
    _transition("ST-SE-Replogle", _EMBEDDING, _NADIG, CRISPRI, "e324967ff4cea5ec199e29bcbb5c1f00e5b9d69c", _LINES, (_ONLY_TRAINED,)),
    _transition("st-x-replogle-full", _ALL, _NADIG, CRISPRI, "48ad5f70215ab4c58caa5a68e77d837601d29d35", _FULL, (_ONLY_TRAINED,)),
    _transition("st-se-replogle-full", _EMBEDDING, _NADIG, CRISPRI, "d1441f5587ace12c46247b3703c7d25f24f8abb6", _FULL, (_ONLY_TRAINED,)),
    _se(
        "SE-600M", "5a9a80f44f7ce32ce57059933ef0d735d7c10ce5", "Of its several checkpoints model.safetensors is downloaded.",
    ),
    _se("SE-100M", "bc72702320639217128df42673e94a9658f67d24", "Its embeddings are not those of SE-600M: no published ST model reads them."),
)  # fmt: skip


def by_repo(repo: str) -> Published | None:
    """The entry of a repository, case aside; None when it is not in the catalogue."""
    return next((p for p in PUBLISHED if p.repo.lower() == repo.lower()), None)
