"""How a run was made: facts as fields, and from them the methods to paste, the citations, the manifest and the request to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from state_engine.reports.document import Attachment, Block, Lines, Points, Section, Table, Words, as_json, named_rows

STATE: Final = (
    "Adduri et al., Predicting cellular responses to perturbation across diverse contexts with State, bioRxiv (2025), "
    "doi:10.1101/2025.06.26.661135"
)
# package, as in the versions of a run -> what its authors ask to be cited
PACKAGES: Final = {
    "numpy": "Harris et al., Array programming with NumPy, Nature 585 (2020), doi:10.1038/s41586-020-2649-2",
    "scipy": "Virtanen et al., SciPy 1.0, Nature Methods 17 (2020), doi:10.1038/s41592-019-0686-2",
    "anndata": "Virshup et al., anndata: Access and store annotated data matrices, Journal of Open Source Software 9 (2024), "
    "doi:10.21105/joss.04371",
    "scanpy": "Wolf, Angerer and Theis, SCANPY: large-scale single-cell gene expression data analysis, Genome Biology 19 (2018), "
    "doi:10.1186/s13059-017-1382-0",
    "umap-learn": "McInnes, Healy and Melville, UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction (2018), "
    "arXiv:1802.03426",
    "torch": "Paszke et al., PyTorch: An Imperative Style, High-Performance Deep Learning Library, NeurIPS 32 (2019), arXiv:1912.01703",
}
# a statistic that a report names -> its source
STATISTICS: Final = {
    "mann-whitney": "Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other, Annals of "
    "Mathematical Statistics 18 (1947), doi:10.1214/aoms/1177730491",
    "benjamini-hochberg": "Benjamini and Hochberg, Controlling the false discovery rate, Journal of the Royal Statistical Society B 57 (1995), "
    "doi:10.1111/j.2517-6161.1995.tb02031.x",
    "energy distance": "Szekely and Rizzo, Energy statistics: A class of statistics based on distances, Journal of Statistical Planning and "
    "Inference 143 (2013), doi:10.1016/j.jspi.2013.03.018",
    "bootstrap": "Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979), doi:10.1214/aos/1176344552",
}


@dataclass(frozen=True)
class Provenance:
    """What is known of how a run was made; "" and None where nothing is.

    Args:
        kind, words: of the run, as programs and as people call it.
        run, title: its id and title.
        created, seconds: when it was asked for (ISO, UTC), and how long it took.
        python, system, versions, seed, device, precision: where and with what it was computed.
        data, data_hash, model, model_hash: names and sha256.
        command: that makes it again.
        settings: that shaped the numbers.
        entry: the request as a file that Predict and Runs take; empty for none.
        sources: whom to cite for the data.
    """

    kind: str
    words: str
    title: str
    run: str = ""
    created: str = ""
    seconds: float | None = None
    python: str = ""
    system: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    device: str = ""
    precision: str = ""
    data: str = ""
    data_hash: str = ""
    model: str = ""
    model_hash: str = ""
    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    entry: bytes = b""
    sources: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What it is and when it was made."""
        when = f", {self.created[:16].replace('T', ' ')} UTC" if self.created else ""
        version = f", STATE Explorer {self.versions['state-explorer']}" if "state-explorer" in self.versions else ""
        return f"{self.words[:1].upper()}{self.words[1:]}{f' {self.run}' if self.run else ''}{when}{version}"


@dataclass(frozen=True, eq=False)
class Found:
    """What a kind of run contributes to its report.

    Args:
        verdict: first sentences. sections: figures and tables.
        methods: sentences of the methods, from fields of the run.
        statistics: keys of `STATISTICS` that were used.
        versions: of packages, where the run's provenance has none.
        state: whether the STATE paper is cited.
    """

    verdict: tuple[str, ...]
    sections: tuple[Section, ...]
    methods: tuple[str, ...]
    statistics: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    state: bool = True


def closing(made: Provenance, found: Found) -> tuple[Section, ...]:
    """Return the last sections of every report: methods, citations, how to make it again, manifest."""
    versions = dict(made.versions or found.versions)
    return (
        Section("Methods", (Lines("To paste", methods_text(made, found, versions)),)),
        Section("Citations", (Points(citations(made, found, versions)),)),
        Section("Make it again", _again(made)),
        Section("Manifest", _manifest(made, versions)),
    )


def methods_text(made: Provenance, found: Found, versions: Mapping[str, str]) -> str:
    """Return a paragraph of methods."""
    program = f"STATE Explorer {versions['state-explorer']}" if "state-explorer" in versions else "STATE Explorer"
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "state-explorer")
    python = f" on Python {made.python}" if made.python else ""
    sentences = [f"Computations were done with {program}{python}{f' ({others})' if others else ''}."]
    if made.model:
        weights = f" (sha256 of the weights {made.model_hash})" if made.model_hash else ""
        sentences.append(f"Model: {made.model}{weights}.")
    if made.data:
        sentences.append(f"Data: {made.data}{f' (sha256 {made.data_hash})' if made.data_hash else ''}.")
    sentences += found.methods
    where = [f"seed {made.seed}" if made.seed is not None else "", made.device, made.precision]
    if any(where):
        sentences.append(f"Computed with {', '.join(filter(None, where))}.")
    return " ".join(sentences)


def citations(made: Provenance, found: Found, versions: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to cite: the method, the data where its source is known, statistics, libraries."""
    state = [STATE] if found.state else []
    libraries = [cited for name, cited in PACKAGES.items() if name in versions]
    return (*state, *made.sources, *(STATISTICS[name] for name in found.statistics), *libraries)


def _again(made: Provenance) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if made.command:
        blocks.append(Lines("The command", made.command))
    if made.entry:
        blocks.append(Attachment(f"{made.run or made.kind}.json", made.entry, "Save the request (JSON)"))
        blocks.append(
            Words("Predict and Runs take this file: each entry of it is checked before anything is computed.", quiet=True)
        )
        blocks.append(Lines("The request", made.entry.decode("utf-8", "replace")))
    return tuple(blocks) or (Words("The command that made this is not recorded.", quiet=True),)


# fields of `Provenance` in the table of the manifest, and what those are called that have another name there
_IN_TABLE = (
    "run", "created", "seconds", "python", "system", "device", "precision", "seed", "data", "data_hash", "model", "model_hash",
)  # fmt: skip
_NAMES = {"data_hash": "data, sha256", "model_hash": "model, sha256 of the weights"}


def _manifest(made: Provenance, versions: Mapping[str, str]) -> tuple[Block, ...]:
    plain = {f.name: getattr(made, f.name) for f in fields(made) if f.name not in ("words", "entry", "sources")}
    plain |= {"settings": dict(made.settings), "versions": dict(versions)}
    facts = [(_NAMES.get(name, name), plain[name]) for name in _IN_TABLE]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    table = Table("", named_rows([*facts, ("packages", packages), *made.settings.items()]))
    return table, Attachment("manifest.json", as_json(plain), "Save the manifest (JSON)")


def name_of(place: object) -> str:
    """Return the name of a file or folder, without the folders of this machine."""
    return Path(str(place).replace("\\", "/").rstrip("/")).name if place else ""
