"""Cell types by name: the terms of the Cell Ontology, offline, from a table in the package.

Source: Cell Ontology (CC BY 4.0), release in the first line of `cell_ontology.tsv.gz`, which `docs/cell_ontology.py` makes. Boundary:
names only; what a cell is called is decided by people or by a model.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("cell_ontology.tsv.gz")
RELEASE = "v2026-03-26"
LICENCE = "CC BY 4.0"
_WORD = re.compile(r"[a-z0-9]+")
_OTHER_SPECIES = re.compile(r"\((?:Mmus|Primate)\)|, mouse$|\bsensu\b")


@dataclass(frozen=True)
class Term:
    """A cell type.

    Args:
        id: such as CL:0000236.
        name: as the ontology prefers it.
        synonyms: other names of the same type, or nearly.
        parents: ids of the next wider types.
    """

    id: str
    name: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]


@lru_cache(maxsize=1)
def terms() -> Mapping[str, Term]:
    """Return every term in use, by id, in the order of the ids."""
    found = {}
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("#"):
                continue
            number, name, synonyms, parents = line.rstrip("\n").split("\t")
            one = Term(_id(number), name, _parts(synonyms), tuple(map(_id, _parts(parents))))
            found[one.id] = one
    return found


@lru_cache(maxsize=1024)
def find_terms(text: str, most: int = 12) -> tuple[Term, ...]:
    """Return the terms that a text begins or names, best first: by id, by name or synonym, then by words; wide types before narrow ones.

    "CD14+ monocytes", "T-cell" and "nk" are found: signs, case and the plural do not count.

    Args:
        text: what somebody typed, or a label of a data set.
        most: how many to return.
    """
    wanted = terms().get(text.strip().upper())
    if wanted is not None:
        return (wanted,)
    asked = _words(text)
    if not asked:
        return ()
    ranked = []
    for one, names in _spelled():
        ranks = [rank for words in names if (rank := _rank(asked, words)) is not None]
        if ranks:
            other = _OTHER_SPECIES.search(one.name) is not None
            ranked.append((other and min(ranks) > 0, min(ranks), -_narrower()[one.id], len(one.name), one.name, one))
    return tuple(one for *_, one in sorted(ranked, key=lambda found: found[:5])[:most])


@lru_cache(maxsize=1)
def wide_first() -> tuple[Term, ...]:
    """Return every term for a list to choose from: those with most narrower types first."""
    return tuple(sorted(terms().values(), key=lambda one: (-_narrower()[one.id], one.name)))


def term_named(text: str) -> Term | None:
    """Return the term with this id, name or synonym; None without one, or where it is a synonym of several."""
    asked, found = _words(text), find_terms(text, most=len(terms()))
    if len(found) == 1 and found[0].id == text.strip().upper():
        return found[0]
    for exact in ([t for t in found if _words(t.name) == asked], [t for t in found if asked in map(_words, t.synonyms)]):
        if exact:
            return exact[0] if len(exact) == 1 else None
    return None


def _rank(asked: tuple[str, ...], words: tuple[str, ...]) -> int | None:
    """Return how well words are named by those that were asked for; None where they are not.

    0: they are the same, but for "cell"; 1: all are among the words; 2: each is the start of a word, and the first of the first; 3: of any.
    """
    if asked == words or (*asked, "cell") == words:
        return 0
    if {*asked} <= {*words}:
        return 1
    if not all(any(word.startswith(part) for word in words) for part in asked):
        return None
    return 2 if words[0].startswith(asked[0]) else 3


@lru_cache(maxsize=1)
def _narrower() -> Mapping[str, int]:
    """Return how many narrower types each term has: of types that a text fits equally, the widest is meant most often."""
    return Counter(wider.id for identity in terms() for wider in ancestors(identity))


@lru_cache(maxsize=1)
def _spelled() -> tuple[tuple[Term, tuple[tuple[str, ...], ...]], ...]:
    """Each term with the words of its name, then of each synonym."""
    return tuple((one, tuple(_words(name) for name in (one.name, *one.synonyms))) for one in terms().values())


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, the last in the singular."""
    found = _WORD.findall(text.lower())
    if found and len(found[-1]) > 3 and found[-1].endswith("s") and not found[-1].endswith("ss"):
        found[-1] = found[-1][:-1]
    return tuple(found)


def _id(number: str) -> str:
    return f"CL:{int(number):07d}"


def _parts(field: str) -> tuple[str, ...]:
    return tuple(field.split("|")) if field else ()


def ancestors(identity: str) -> Iterator[Term]:
    """Yield the wider types of a term, nearest first; nothing for an id that is not known."""
    seen, ahead = {identity}, [identity]
    while ahead:
        known = [terms()[i] for i in ahead if i in terms()]
        ahead = [p for p in dict.fromkeys(p for one in known for p in one.parents) if p not in seen and p in terms()]
        seen.update(ahead)
        yield from (terms()[i] for i in ahead)
