"""Reading pickles that strangers wrote: numbers, names and containers, or nothing.

A pickle is a program. Two guarded readers run only what is named here, for `torch.save` archives and for plain `.pkl` files.
Classes that carry no numbers for us (loss modules, OmegaConf containers) are read into stand-ins, so that their code never runs.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import IO, Any
from zipfile import is_zipfile

import numpy as np
import torch

from state_engine.errors import CheckpointError, UnsafePickleError

LOSSES = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "CrossEntropyLoss", "BCEWithLogitsLoss")
CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")
NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode")
ATTRIBUTE_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
MOST_INFLATION = 4  # torch.save stores its records uncompressed; an archive that unfolds to more is not one of them
UNTRUSTED = (
    "Such a file can run any program when it is read. If you trust where it comes from, export its weights and labels in the "
    "environment that made it, and import those."
)


class StandIn:
    """Takes the place of an object whose class is not loaded; `state` is what was pickled of it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ConfigNode(StandIn):
    """Stand-in of an OmegaConf container or value."""


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numpy scalars, containers; OmegaConf containers come out as dicts and lists.

    Raises:
        UnsafePickleError: the file asks for another class or function; it is named, and was not run.
        CheckpointError: the file is missing, truncated or not of `torch.save`.
    """
    _check_archive(path)
    return without_stand_ins(_load_weights_only(path, path))


def load_pickle(path: Path) -> Any:
    """A `.pkl` of numpy arrays and scalars, tensors, and containers; also an archive of `torch.save` under that name.

    Raises:
        UnsafePickleError: the file asks for another class or function; it is named, and was not run.
        CheckpointError: the file is missing, truncated or not a pickle.
    """
    if is_zipfile(path):
        return load_torch(path)
    try:
        with path.open("rb") as file:
            return _Guarded(file, path).load()
    except (
        pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError,
        OverflowError, RuntimeError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from error


def without_stand_ins(value: Any) -> Any:
    """OmegaConf stand-ins as plain values, other stand-ins as None; containers are rebuilt, the rest is left as it is."""
    if isinstance(value, ConfigNode):
        state = value.state if isinstance(value.state, dict) else {}
        return without_stand_ins(state.get("_content", state.get("_val")))
    if isinstance(value, StandIn):
        return None
    if isinstance(value, dict):
        return {key: without_stand_ins(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(without_stand_ins(inner) for inner in value)
    return value


def _load_weights_only(source: Path | IO[bytes], path: Path) -> Any:
    with _torch_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pickle protocols torch itself does not write
        try:
            # mapped: what nobody asks for (optimiser states, dead weights) is never read
            return torch.load(source, map_location="cpu", weights_only=True, mmap=isinstance(source, Path) and is_zipfile(source))
        except pickle.UnpicklingError as error:
            raise _refused(path, str(error)) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise _damaged(path, error) from error


class _Guarded(pickle.Unpickler):
    """Admits numpy's array and scalar builders, tensors, and containers."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._storage
        known = _pickle_globals().get(f"{module}.{name}")
        if known is None and module == "numpy.dtypes" and isinstance(found := getattr(np.dtypes, name, None), type):
            known = found
        if known is None:
            raise _refused(self.path, f"GLOBAL {module}.{name}")
        return known

    def _storage(self, data: bytes) -> Any:
        """A tensor's storage inside a plain pickle; torch's own function would unpickle it without any guard."""
        return _load_weights_only(io.BytesIO(data), self.path)

    def persistent_load(self, pid: Any) -> Any:
        raise _refused(self.path, "GLOBAL pickle.persistent_load")


def _pickle_globals() -> dict[str, Any]:
    builtin = (dict, list, set, frozenset, tuple, int, float, complex, bool, str, bytes)
    # protocols 0 to 2 name the module of builtins as Python 2 did
    known: dict[str, Any] = {f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in builtin}
    known |= {"collections.OrderedDict": OrderedDict, "collections.defaultdict": defaultdict}
    known |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "_codecs.encode": _latin1}
    for package in ("numpy.core", "numpy._core"):
        known |= {f"{package}.multiarray.{name}": found for name, found in _NUMPY_BUILDERS.items()}
        known[f"{package}.numeric._frombuffer"] = _from_buffer
    known["torch._utils._rebuild_tensor_v2"] = torch._utils._rebuild_tensor_v2
    return known


def _numpy_builders() -> dict[str, Any]:
    scalar = np.float64(0).__reduce__()[0]
    reconstruct = np.zeros(1).__reduce__()[0]
    return {"scalar": scalar, "_reconstruct": reconstruct}


_NUMPY_BUILDERS = _numpy_builders()


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes bytes as text; only this one encoding is needed, so only this one is there."""
    if encoding != "latin1":
        raise ValueError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _torch_globals() -> Any:
    builders = {f"{p}.multiarray.{n}": f for p in ("numpy.core", "numpy._core") for n, f in _NUMPY_BUILDERS.items()}
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    inert = {f"torch.nn.modules.loss.{name}": StandIn for name in LOSSES}
    inert |= dict.fromkeys(CONTAINERS, ConfigNode) | {f"omegaconf.nodes.{name}": ConfigNode for name in NODES}
    inert |= {f"omegaconf.base.{name}": StandIn for name in ("ContainerMetadata", "Metadata")}
    same_name: list[Any] = [np.dtype, np.ndarray, defaultdict, dict, list, int, float, str, bool, *dtypes]
    named: list[tuple[Any, str]] = [(found, name) for name, found in (builders | inert).items()]
    named += [(dict, name) for name in ATTRIBUTE_DICTS] + [(object, "typing.Any")]
    return torch.serialization.safe_globals([*same_name, *named])


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is not there.", fix="Download the model again: some of its files are missing.")
    if not is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from error
    if unfolded > MOST_INFLATION * path.stat().st_size:
        raise CheckpointError(f"{path} unfolds to {unfolded:,} bytes.", "Files of torch.save are not compressed.", UNTRUSTED)


def _refused(path: Path, words: str) -> UnsafePickleError:
    found = re.search(r"GLOBAL ([\w.]+)", words) or re.search(r"(?:[Ff]unction|class) '?(\w+(?:\.\w+)+)", words)
    named = found.group(1) if found else "instructions that torch.save does not write"
    return UnsafePickleError(f"{path.name} was not read: it asks for {named}.", "Only numbers and containers are.", UNTRUSTED)


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    first = str(error).strip().split("\n")[0] or type(error).__name__
    return CheckpointError(f"{path} cannot be read.", f"It is damaged or not what its name says: {first}.", "Download it again.")
