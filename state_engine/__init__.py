"""STATE Explorer's engine: the verbs behind the pages, the command line and notebooks.

Public names are resolved on first use, so importing the package is quick and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> module that has it
_PUBLIC: dict[str, str] = {
    "Progress": "state_engine.progress",
    "Settings": "state_engine.config",
    "load_settings": "state_engine.config",
    "ModelCard": "state_engine.checkpoints.card",
    "Choices": "state_engine.data.dataset",
    "Dataset": "state_engine.data.dataset",
    "open_dataset": "state_engine.data.dataset",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'state_engine' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
