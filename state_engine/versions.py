"""Versions of what the numbers depend on; recorded in every result and run."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from state_engine import __version__

PREDICTION: Final = (
    "numpy", "scipy", "pandas", "anndata", "h5py", "scanpy", "torch", "safetensors", "illico", "umap-learn", "numba",
)  # fmt: skip
SCORING: Final = ("cell-eval2", "illico", "pdex", "numpy", "scipy", "anndata", "polars")


def package_versions(names: tuple[str, ...] = PREDICTION) -> dict[str, str]:
    """Return package name -> version, STATE Explorer first; packages that are not installed are left out."""
    versions = {"state-explorer": __version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
