"""A support set like the challenge's, small: the same names and folders, a few simulated cells, served by a local server."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import anndata

from state_engine.public_data.catalogue import CATALOGUE_VARIABLE, PublicData, PublicFile
from tests.public_data.server import FileServer
from tests.small import write_cells

# the text of the challenge's file, but for fewer data sets
STARTER = """# Dataset paths - maps dataset names to their directories
[datasets]
replogle_h1 = "competition_support_set/{competition_train,hepg2}.h5"

# Training specifications
[training]
replogle_h1 = "train"

# Zeroshot specifications - entire cell types go to val or test
[zeroshot]
"replogle_h1.NK" = "test"

# Fewshot specifications - explicit perturbation lists
[fewshot]
"""


def support_set(folder: Path, starter: str = STARTER) -> bytes:
    """The zip: competition_support_set/ with two .h5 files of one context each, gene names and starter.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = anndata.read_h5ad(write_cells(folder / "cells.h5ad"))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, context in (("competition_train", "B"), ("hepg2", "NK")):
            path = folder / f"{name}.h5"
            cells[cells.obs["cell_type"] == context].copy().write_h5ad(path)
            archive.write(path, f"competition_support_set/{name}.h5")
        archive.writestr("competition_support_set/starter.toml", starter)
        archive.writestr("competition_support_set/gene_names.csv", "\n".join(cells.var_names) + "\n")
    return stream.getvalue()


def entry(server: FileServer, path: str, content: bytes, name: str = "vcc2025") -> PublicData:
    """An entry of the catalogue for a file on `server`."""
    file = PublicFile(
        path, (server.url(path),), len(content), hashlib.sha256(content).hexdigest(), None, "the test", len(content)
    )
    return PublicData(
        name, "A small support set", (file,), "160 cells", "CC0 1.0", "https://example.org/cc0", "A test", "https://example.org"
    )


def own_catalogue(path: Path, data: PublicData) -> dict[str, str]:
    """Writes a catalogue with one entry, and returns the environment that makes it count."""
    file = data.files[0]
    path.write_text(
        f'[[data]]\nname = "{data.name}"\ntitle = "{data.title}"\nwhat = "{data.what}"\nlicence = "{data.licence}"\n'
        f'licence_url = "{data.licence_url}"\nsource = "{data.source}"\ncitation = "{data.citation}"\n'
        f'files = [{{name = "{file.name}", urls = ["{file.urls[0]}"], size = {file.size}, sha256 = "{file.sha256}", '
        'hash_source = "the test"}]\n'
    )
    return {CATALOGUE_VARIABLE: str(path)}
