"""Make `state_engine/data/cell_ontology.tsv.gz`, the table of cell types, from the Cell Ontology as a package brings it.

    pip download --no-deps cellxgene-ontology-guide==1.11.1
    python docs/cell_ontology.py cellxgene_ontology_guide-1.11.1-py3-none-any.whl

The package (MIT License, Chan Zuckerberg Initiative Foundation) holds Cell Ontology releases as JSON; the newest one is taken. The ontology
itself is CC BY 4.0. Terms that the ontology has withdrawn are left out.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import zstandard

TABLE = Path(__file__).resolve().parents[1] / "state_engine" / "data" / "cell_ontology.tsv.gz"
START = "cellxgene_ontology_guide/data/CL-ontology-"
HEAD = """# Cell Ontology release {release} (CC BY 4.0, https://obofoundry.org/ontology/cl.html), as in cellxgene-ontology-guide: terms that
# are in use. Changed: only number, name, synonyms and parents are kept. CL:0000084 is written 84; lists are parted by "|".
"""


def main(wheel: Path) -> None:
    """Write the table from the newest release in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        newest = max(name for name in archive.namelist() if name.startswith(START))
        terms = json.loads(zstandard.ZstdDecompressor().stream_reader(archive.open(newest)).read())
    release = newest.removeprefix(START).removesuffix(".json.zst")
    lines = [HEAD.format(release=release)]
    for identity, term in sorted(terms.items()):
        if term["deprecated"]:
            continue
        # an ancestor one step up is a parent
        parents = [_number(name) for name, steps in sorted(term["ancestors"].items()) if steps == 1]
        fields = (_number(identity), term["label"], "|".join(term.get("synonyms", ())), "|".join(parents))
        lines.append("\t".join(fields) + "\n")
    # without the time of day in its head, so that the same release gives the same bytes
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        file.write("".join(lines).encode())
    TABLE.write_bytes(packed.getvalue())


def _number(identity: str) -> str:
    return str(int(identity.removeprefix("CL:")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
