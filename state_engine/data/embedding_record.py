"""What this program left in a file about how it was made, read back without values: embeddings, and the depth of a result.

`uns[EMBEDDINGS]` is a JSON object in a string: key of obsm -> `EmbeddingFacts`. Embeddings of other programs have none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import h5py

from state_engine import keys
from state_engine.data.files.hdf5 import open_h5, text

EMBEDDINGS: Final = "state_explorer_embeddings"
MOST_BYTES = 1 << 20

# of predicted expression: control cells plus an effect, by what made it; the network's own output; not recorded
PredictionKind = Literal["corrected", "calibrated", "mixture", "baseline", "raw", "unknown"]
ON_CONTROL_CELLS: Final = ("corrected", "calibrated", "mixture", "baseline")


@dataclass(frozen=True)
class EmbeddingFacts:
    """How an embedding was made. Everything empty when nothing is recorded.

    Args:
        model: sha256 of the model's weights, hex.
        model_name: for people.
        vocabulary: sha256 of its gene vocabulary.
        data_hash: sha256 of the file that was embedded.
        cell_width: columns that describe the cell; what follows describes its data set. 0: not known.
        scale: counts or log1p, as it was decided.
        seed: of ties and of filling.
        simulated: the model was not trained on real cells.
    """

    model: str = ""
    model_name: str = ""
    vocabulary: str = ""
    data_hash: str = ""
    cell_width: int = 0
    scale: str = ""
    seed: int = 0
    simulated: bool = False


@dataclass(frozen=True)
class UnknownLabels:
    """Labels of a result that its model does not know, and what its cells have in their place.

    Args:
        labels: that the model does not know.
        instead: "control" (no change), "mean" (of the effects that it knows) or "transfer" (of measured effects).
        screens: of a transfer, the data sets that measured them.
        lacking: of a transfer, labels that none of these measured: no change.
        genes: of a transfer, how many of the predicted genes were measured; the others do not change.
        of: predicted genes.
    """

    labels: tuple[str, ...] = ()
    instead: str = ""
    screens: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    genes: int = 0
    of: int = 0


def embeddings_of(path: Path) -> dict[str, EmbeddingFacts]:
    """The recorded embeddings of a file, by their key in obsm; a damaged record counts as none."""
    records = stored_records(path)
    try:
        return {key: _facts(dict(value)) for key, value in records.items()}
    except Exception:  # noqa: BLE001 - a record that anybody may have written fails in ways that no list of types covers
        return {}


def stored_records(path: Path) -> dict[str, Any]:
    """The records as they stand in the file, with whatever else they say; a damaged one counts as none."""
    with open_h5(path) as file:
        return _record(file, EMBEDDINGS)


def result_depth(file: h5py.File, of: Literal["depth", "depth_of_data"] = "depth") -> float | None:
    """Return the depth of the log1p values of a result, or of its data set, as its manifest records it; None for any other file."""
    depth = _record(file, keys.MANIFEST).get(of)
    return float(depth) if isinstance(depth, int | float) and 0 < depth < math.inf else None


def prediction_kind(file: h5py.File, matrix: str) -> PredictionKind:
    """Return what kind of prediction a matrix of a result holds ("X", "layers/NAME"), as its manifest records it.

    Results of before the manifest named the kind of X: a model's X was corrected, a baseline's is the baseline.
    """
    record = _record(file, keys.MANIFEST)
    if "request" not in record:
        return "unknown"
    kind = record.get(keys.X_KIND, "corrected" if record.get("method", "model") in ("model", "paired") else "baseline")
    if matrix != keys.X:
        # layers are called by their kind
        kind = matrix.removeprefix("layers/")
    return next((known for known in get_args(PredictionKind) if known == kind), "unknown")


def unknown_labels(file: h5py.File) -> UnknownLabels:
    """Return the labels of a result that its model does not know, and what stands in their place; none where a file does not say."""
    said = _record(file, keys.MANIFEST).get(keys.UNKNOWN)
    if not isinstance(said, dict) or not isinstance(said.get("labels"), list):
        return UnknownLabels()
    genes, of = (n if isinstance(n, int) else 0 for n in (said.get("genes"), said.get("of")))
    names = (_words(said.get(name)) for name in ("labels", "screens", "lacking"))
    labels, screens, lacking = names
    return UnknownLabels(labels, str(said.get("instead", "")), screens, lacking, genes, of)


def _words(items: object) -> tuple[str, ...]:
    return tuple(item for item in items if isinstance(item, str)) if isinstance(items, list) else ()


def _record(file: h5py.File, name: str) -> dict[str, Any]:
    """Return the JSON object of a string in uns; a damaged one counts as none."""
    item = file.get(f"uns/{name}")
    if not isinstance(item, h5py.Dataset) or item.shape != () or item.id.get_storage_size() > MOST_BYTES:
        return {}
    try:
        plain = json.loads(text(item[()]))
    except (ValueError, TypeError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def embedding_facts(path: Path, key: str) -> EmbeddingFacts | None:
    """How `obsm/KEY` of a file was made; None when that is not recorded."""
    return embeddings_of(path).get(key)


def _facts(value: dict[str, Any]) -> EmbeddingFacts:
    """Fields that are not known here are left out: the record may be of a later version."""
    kinds = {f.name: {"int": int, "bool": bool}.get(str(f.type), str) for f in fields(EmbeddingFacts)}
    return EmbeddingFacts(**{name: kinds[name](value[name]) for name in kinds if name in value})
