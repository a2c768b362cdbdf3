"""Published perturbation data sets, as plain data: addresses, sizes, hashes, licences, whom to cite.

Each address stands in a public source, named in `found`. A hash is given with who says so: the host publishes md5 sums, sha256 sums
were noted by people who downloaded the file. What nobody states is None, and said so; the hash of what came is then recorded.

An installation adds entries of its own, or replaces these by a mirror's, in a TOML file named by STATE_EXPLORER_CATALOGUE:

    [[data]]
    name = "kang"
    title = "…"
    files = [{name = "kang_2018.h5ad", urls = ["https://mirror.example/kang_2018.h5ad"]}]
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from state_engine.data.files.text import parse_toml, read_text_file
from state_engine.download import RemoteFile, check_address
from state_engine.errors import ConfigError, RequestError, listed
from state_engine.plain import from_plain

CATALOGUE_VARIABLE = "STATE_EXPLORER_CATALOGUE"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,150}")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class PublicFile:
    """One file to download.

    Args:
        name: its name on this machine.
        urls: addresses of the same bytes, the best first; https, or http on this machine.
        size: bytes; None when nobody states it.
        sha256, md5: hex; None when nobody states it.
        hash_source: who states the hashes.
        unpacked: bytes of what is in an archive, None when it is none or not stated.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    hash_source: str = ""
    unpacked: int | None = None

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.name):
            raise ConfigError(f"'{self.name}' is not a plain file name.", "A file lands in the folder of its data set.")
        if not self.urls:
            raise ConfigError(f"{self.name} has no address.", "", "Give it at least one in `urls`.")
        for url in self.urls:
            check_address(url)
        for value, digits in ((self.sha256, 64), (self.md5, 32)):
            if value is not None and (len(value) != digits or not _HEX.fullmatch(value)):
                raise ConfigError(f"The hash of {self.name} is not {digits} hex digits.", f"It is '{value}'.")
        if self.size is not None and self.size <= 0:
            raise ConfigError(f"The size of {self.name} is {self.size}.", "It must be positive, or left out.")

    @property
    def remote(self) -> RemoteFile:
        """The file as the downloader takes it."""
        return RemoteFile(
            self.name, self.urls, self.size, self.sha256, self.md5, hash_source=self.hash_source, unpacked=self.unpacked
        )

    @property
    def is_archive(self) -> bool:
        return self.name.lower().endswith(".zip")


@dataclass(frozen=True)
class PublicData:
    """A data set that anyone may download.

    Args:
        name: a short word for commands and addresses.
        title, what: for people; `what` says how many cells, genes and perturbations of which kind.
        files: what to download.
        licence, licence_url: its terms; "not stated" when its publisher does not say.
        citation: the paper.
        source: page to read about it.
        found: where the addresses, sizes and hashes were found.
    """

    name: str
    title: str
    files: tuple[PublicFile, ...]
    what: str = ""
    licence: str = "not stated"
    licence_url: str = ""
    citation: str = ""
    source: str = ""
    found: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"'{self.name}' cannot name a data set.", "Names have lower-case letters, digits and hyphens.")
        if not self.files or len({f.name for f in self.files}) != len(self.files):
            raise ConfigError(f"{self.name} needs files, each with a name of its own.")

    @property
    def size(self) -> int | None:
        """Bytes to download, None when the size of a file is not stated."""
        sizes = [f.size for f in self.files if f.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


_ZENODO = "https://zenodo.org/api/records/13350497/files/{}/content"
_ZENODO_PAGE = "https://zenodo.org/records/13350497"
_CC_BY = ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/")
_CC0 = ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
_ZENODO_HASHES = "md5 by Zenodo; sha256 noted by people who downloaded it"
_REPLOGLE = (
    "Replogle et al., Mapping information-rich genotype-phenotype landscapes with genome-scale Perturb-seq, Cell 185 (2022), "
    "doi:10.1016/j.cell.2022.05.013; harmonised by scPerturb, Peidli et al., Nature Methods 21 (2024), doi:10.1038/s41592-023-02144-y"
)
# Of most plates neither size nor hash is stated in a source; these two are the metadata of the storage objects.
_PLATE_SIZES = {6: 28_934_897_078, 14: 22_427_932_564}
_PLATE_MD5 = {6: "358bd012a5429738879b4a335a13b0d7", 14: "16b9d2b517a13f5eac891186df9a2efa"}
_PLATE_CELLS = {6: "7,545,393", 14: "6,518,806"}


def _replogle(line: str, file: str, cells: str, genes: str, size: int, md5: str, sha256: str) -> PublicData:
    return PublicData(
        name=f"replogle-{line.lower()}",
        title=f"Replogle 2022, {line} essential",
        what=f"{cells} {line} cells x {genes} genes, counts; CRISPRi of about 2,000 essential genes",
        files=(PublicFile(file, (_ZENODO.format(file),), size, sha256, md5, _ZENODO_HASHES),),
        licence=_CC_BY[0],
        licence_url=_CC_BY[1],
        citation=_REPLOGLE,
        source=_ZENODO_PAGE,
        found="scPerturb's record 13350497 (version 1.4) on Zenodo, as cited with size and both hashes in public repositories",
    )


def _plate(number: int) -> PublicData:
    name = f"plate{number}_filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad"
    cells = f"{_PLATE_CELLS[number]} cells" if number in _PLATE_CELLS else "about 7 million cells"
    return PublicData(
        name=f"tahoe-plate{number}",
        title=f"Tahoe-100M, plate {number}",
        what=f"{cells} of 50 cancer cell lines x 62,710 genes, counts; drugs at doses, control DMSO_TF",
        files=(
            PublicFile(
                name,
                (f"https://storage.googleapis.com/arc-institute-virtual-cell-atlas/tahoe100M/2025-02-25/h5ad/{name}",),
                _PLATE_SIZES.get(number),
                None,
                _PLATE_MD5.get(number),
                "md5 by Google Cloud Storage" if number in _PLATE_MD5 else "",
            ),
        ),
        licence=_CC0[0],
        licence_url=_CC0[1],
        citation="Zhang et al., Tahoe-100M, bioRxiv (2025), doi:10.1101/2025.02.20.639398",
        source="https://github.com/ArcInstitute/arc-virtual-cell-atlas/blob/main/tahoe-100M/README.md",
        found="bucket: github.com/ArcInstitute/arc-virtual-cell-atlas README.md (2026: the older bucket arc-ctc-tahoe100 is closed); "
        "licence: huggingface.co/datasets/tahoebio/Tahoe-100M",
    )


PUBLISHED: tuple[PublicData, ...] = (
    PublicData(
        name="kang",
        title="Kang 2018, IFN-beta PBMC",
        what="24,673 blood cells of 8 cell types and 8 donors x 15,706 genes, counts; control and IFN-beta",
        files=(
            PublicFile(
                "kang_2018.h5ad",
                ("https://exampledata.scverse.org/pertpy/kang_2018.h5ad", "https://ndownloader.figshare.com/files/34464122"),
                38_356_412,
                "e6a5adac64dcdeb36eaba27db49b63e0c64bb0ed4a64c6705971506b41c39830",
                None,
                "noted by people who downloaded it, the same from both addresses",
            ),
        ),
        citation="Kang et al., Multiplexed droplet single-cell RNA-sequencing using natural genetic variation, Nature Biotechnology 36 "
        "(2018), doi:10.1038/nbt.4042; GEO GSE96583",
        source="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE96583",
        found="loader kang_2018 of github.com/scverse/pertpy (figshare until 2025, exampledata.scverse.org since)",
    ),
    PublicData(
        name="norman",
        title="Norman 2019, CRISPRa pairs",
        what="111,445 K562 cells x 33,694 genes, counts; CRISPRa of 105 genes and 131 pairs of them",
        files=(
            PublicFile(
                "NormanWeissman2019_filtered.h5ad",
                (_ZENODO.format("NormanWeissman2019_filtered.h5ad"),),
                698_680_199,
                "efde6f5301fe256725dce1d980f37bd96a13481a9a16135515897368e631affc",
                "c870e6967d91c017d9da827bab183cd6",
                _ZENODO_HASHES,
            ),
        ),
        licence=_CC_BY[0],
        licence_url=_CC_BY[1],
        citation="Norman et al., Exploring genetic interaction manifolds constructed from rich single-cell phenotypes, Science 365 (2019), "
        "doi:10.1126/science.aax4438; harmonised by scPerturb, Peidli et al., Nature Methods 21 (2024), doi:10.1038/s41592-023-02144-y",
        source=_ZENODO_PAGE,
        found="scPerturb's record 13350497 (version 1.4) on Zenodo, as cited with size and both hashes in public repositories",
    ),
    _replogle(
        "K562", "ReplogleWeissman2022_K562_essential.h5ad", "310,385", "8,563", 1_546_729_675, "d8cba17576d1a8afc0f7d71b79cad0f7",
        "412fd0df8c4ccea9f4db91cd88033c49200838b29d40945e48574be588b48789",
    ),
    _replogle(
        "RPE1", "ReplogleWeissman2022_rpe1.h5ad", "247,914", "8,749", 1_236_886_900, "cc7f1ec50aeb3a3e1b4a6cfa713d80fa",
        "12d6a0cf9378c4f09411e27f0ce07b59f1d97731bd576d6fadf112f6f088d1a4",
    ),
    PublicData(
        name="vcc2025",
        title="Virtual Cell Challenge 2025, support set",
        what="H1 training cells, five CRISPRi screens of K562, RPE1, Jurkat and HepG2, ESM2 features of 19,790 genes, gene names, the "
        "validation template and starter.toml",
        files=(
            PublicFile(
                "competition_support_set.zip",
                ("https://storage.googleapis.com/vcc_data_prod/datasets/state/competition_support_set.zip",),
                8_716_992_349,
                "f1d5fd56a2eee240e5585fac52bb75b0b830a7be6a5f6de1bf773bff4f507f7c",
                None,
                "noted by people who downloaded it (object of 16 November 2025)",
                48_691_267_232,
            ),
        ),
        citation="Roohani et al., Virtual Cell Challenge: Toward a Turing test for the virtual cell, Cell (2025), "
        "doi:10.1016/j.cell.2025.06.008",
        source="https://virtualcellchallenge.org/datasets",
        found="Arc Institute's notebook 'Train STATE for the Virtual Cell Challenge', as cited in public repositories",
    ),
    *(_plate(number) for number in range(1, 15)),
)  # fmt: skip


def catalogue(environment: Mapping[str, str] | None = None) -> tuple[PublicData, ...]:
    """Every data set that can be fetched here: the published ones, and those of the installation's own file.

    Raises:
        ConfigError: that file cannot be read, or an entry of it is wrong.
    """
    own = (os.environ if environment is None else environment).get(CATALOGUE_VARIABLE, "")
    entries = {data.name: data for data in PUBLISHED}
    if own:
        entries |= {data.name: data for data in read_catalogue(Path(own))}
    return tuple(entries.values())


def read_catalogue(path: Path) -> tuple[PublicData, ...]:
    """The entries of a catalogue in TOML.

    Raises:
        ConfigError: it cannot be read, is not TOML, or an entry is wrong.
    """
    plain = parse_toml(read_text_file(path, ConfigError), f"The catalogue {path.name}", ConfigError)
    if set(plain) != {"data"} or not isinstance(plain["data"], list):
        raise ConfigError(f"The catalogue {path.name} has no list of data sets.", "", "Write each as [[data]].")
    return tuple(from_plain(PublicData, entry, f"{path.name} data[{i}]") for i, entry in enumerate(plain["data"]))


def find(name: str, environment: Mapping[str, str] | None = None) -> PublicData:
    """The data set of this name.

    Raises:
        RequestError: there is none.
    """
    entries = catalogue(environment)
    found = next((data for data in entries if data.name == name.strip().lower()), None)
    if found is None:
        names = [data.name for data in entries]
        raise RequestError(f"There is no public data set '{name[:80]}'.", f"There are: {listed(names, 12)}.", "See fetch --list.")
    return found


def terms(data: PublicData) -> list[str]:
    """Return licence and citation of a data set, one line each, to be shown before it is downloaded."""
    where = f" ({data.licence_url})" if data.licence_url else ""
    lines = [f"{data.title}: {size_words(data.size)}. Licence: {data.licence}{where}."]
    if data.licence == "not stated":
        lines.append(f"  Its publisher states no licence with the file: read {data.source or 'its source'} before you use it.")
    return [*lines, f"  Please cite: {data.citation}."] if data.citation else lines


def size_words(n: int | None) -> str:
    """Return a number of bytes in GB or MB."""
    if n is None:
        return "size not stated"
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
