"""STATE Explorer's engine: the verbs behind the pages, the command line and notebooks.

Public names are listed in `__init__.pyi` and resolved on first use, so importing the package is quick and loads no torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])
