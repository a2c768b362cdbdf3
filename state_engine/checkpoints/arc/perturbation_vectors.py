"""Files of perturbation vectors, whatever their kind: the one door for those that are pickles.

`.pt` files are `torch.save` of label -> vector, as arc-state and cell-load have them (ESM2 vectors of the challenge, for example);
labels can be numpy strings. Boundary: a path in, a `PerturbationFeatures` out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from state_engine.data.perturbation_features import PerturbationFeatures, from_vectors, read_features_csv
from state_engine.errors import UnreadableFileError, listed

TEXT = (".csv", ".tsv", ".txt")
TORCH = (".pt", ".pth", ".torch")


def read_features_file(path: Path) -> PerturbationFeatures:
    """The vectors of a file.

    Args:
        path: .pt (`torch.save` of a dictionary), or .csv, .tsv, .txt (label, number, number, ...).

    Raises:
        UnreadableFileError: not there, of another kind, or not a table of vectors.
        UnsafePickleError: the .pt file asks for more than numbers and containers.
        CheckpointError: the .pt file is truncated or damaged.
    """
    if not path.is_file():
        raise UnreadableFileError(
            f"There is no file {path}.", "It should hold a vector for each perturbation.", "Check the path."
        )
    ending = path.suffix.lower()
    if ending in TEXT:
        return read_features_csv(path)
    if ending in TORCH:
        return _read_torch(path)
    raise UnreadableFileError(
        f"{path.name} is not a file of perturbation vectors.",
        f"Known endings: {listed([*TORCH, *TEXT], 9)}.",
        "Convert it first.",
    )


def width_of_features_file(path: Path) -> int:
    """Return how many numbers a vector of a file has, once all of it could be read.

    Raises:
        UnreadableFileError, UnsafePickleError, CheckpointError: see `read_features_file`.
    """
    return read_features_file(path).width


def _read_torch(path: Path) -> PerturbationFeatures:
    from state_engine.checkpoints.arc.pickles import load_torch

    loaded = load_torch(path)
    if not isinstance(loaded, dict):
        raise UnreadableFileError(
            f"{path.name} holds {type(loaded).__name__}.", "It should be a dictionary from label to vector.", "Save it as one."
        )
    vectors: dict[str, np.ndarray] = {}
    for label, value in loaded.items():
        name = str(label)
        if name in vectors:
            raise UnreadableFileError(f"{path.name} has two labels that are '{name}' when written out.", fix="Keep one of them.")
        vectors[name] = _vector(value, name, path)
    return from_vectors(vectors, path.name)


def _vector(value: object, label: str, path: Path) -> np.ndarray:
    import torch

    try:
        return torch.as_tensor(value).detach().to(torch.float32).reshape(-1).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnreadableFileError(
            f"{path.name}: '{label}' has no vector but {type(value).__name__}.", "Each label needs a list of numbers."
        ) from error
