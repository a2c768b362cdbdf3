"""The gene sets that come with the program: a small collection of human sets, each with its source.

Lists of papers and gene groups are facts; those "compiled here" are ours. The file is under the licence of the program, and HGNC's groups and
Reactome's pathways are CC0. Larger collections (MSigDB, CC BY 4.0; Gene Ontology, CC BY 4.0) are read as GMT.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from state_engine.gene_sets.sets import GeneSet
from state_engine.gene_sets.text import read_sets

PLACE: Final = Path(__file__).with_name("collection.gmt")


@cache
def built_in() -> tuple[GeneSet, ...]:
    """Return the sets that come with the program."""
    return read_sets(PLACE)
