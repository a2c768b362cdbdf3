"""The effects that baselines are made of, saved beside a model: numbers in safetensors, labels as JSON in its metadata.

    baselines.safetensors   "effects" (n, g) float32, "cells" (n,) int64, "controls" (c, g) float32; and "errors" (n, g) float32,
                            squared standard errors of the effects, where the layout says "with errors"; "control_errors" (c, g) float32,
                            those of the controls, where it says "and errors of controls" (files without are read as ever)

Read strictly: another layout, a label too many, or a number that is not finite is an error, never repaired. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from state_engine.errors import CheckpointError, listed
from state_engine.files import parse_json, replacing, sha256_of

if TYPE_CHECKING:
    from state_engine.effects.table import Condition, EffectTable

EFFECTS = "baselines.safetensors"
LAYOUT, WITH_ERRORS, WITH_ALL = "effects 1", "effects 1 with errors", "effects 1 with errors and errors of controls"
LAYOUTS = {LAYOUT: (), WITH_ERRORS: ("errors",), WITH_ALL: ("errors", "control_errors")}  # and the tensors that each adds
LABELS = ("perturbations", "contexts", "controls", "features")
TENSORS = {"effects": np.dtype(np.float32), "cells": np.dtype(np.int64), "controls": np.dtype(np.float32)}
AGAIN = "Remove the file, or make it again by training."


def save_effects(folder: Path, table: EffectTable) -> Path:
    """Write the table into a model's folder, whole or not at all. Returns the file."""
    from safetensors.numpy import save_file

    controls = list(table.controls)
    rows = [table.controls[name] for name in controls]
    tensors: dict[str, np.ndarray] = {
        "effects": np.ascontiguousarray(table.effects, dtype=np.float32),
        "cells": np.ascontiguousarray(table.cells, dtype=np.int64),
        "controls": np.array(rows, dtype=np.float32).reshape(len(rows), table.width),
    }
    labels = {
        "perturbations": table.perturbations,
        "contexts": table.contexts,
        "controls": controls,
        "features": table.features,
    }
    if table.errors is not None:
        tensors["errors"] = np.ascontiguousarray(table.errors, dtype=np.float32)
    layout = LAYOUT if table.errors is None else WITH_ERRORS
    if table.errors is not None and set(table.control_errors) == set(controls):
        noise = [table.control_errors[name] for name in controls]
        tensors["control_errors"] = np.array(noise, dtype=np.float32).reshape(len(noise), table.width)
        layout = WITH_ALL
    metadata = {"layout": layout, **{name: json.dumps(list(values), ensure_ascii=False) for name, values in labels.items()}}
    with replacing(folder / EFFECTS) as beside:
        save_file(tensors, beside, metadata=metadata)
    return folder / EFFECTS


def load_effects(folder: Path) -> EffectTable | None:
    """Read the table of a model's folder, or of a training's run folder; None when there is none.

    Raises:
        CheckpointError: the file is damaged, has another layout, or contradicts itself.
    """
    from safetensors import SafetensorError, safe_open

    from state_engine.effects.table import EffectTable

    path = _path(folder)
    if path is None:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or truncated.", f"{error}.", AGAIN) from error
    labels = _labels(path, metadata)
    _check_tensors(path, tensors, len(labels["controls"]), LAYOUTS[metadata["layout"]])
    controls = dict(zip(labels["controls"], tensors["controls"], strict=True))
    noise = dict(zip(labels["controls"], tensors["control_errors"], strict=True)) if "control_errors" in tensors else {}
    try:
        return EffectTable(
            labels["perturbations"], labels["contexts"], tensors["cells"], tensors["effects"], controls, labels["features"],
            tensors.get("errors"), noise,
        )  # fmt: skip
    except CheckpointError as error:
        raise CheckpointError(f"{path} contradicts itself.", error.why, AGAIN) from error


def stored_conditions(folder: Path) -> frozenset[Condition] | None:
    """Return the (perturbation, context) pairs of a model's table, from the head of its file; None when there is none.

    Raises:
        CheckpointError: the file is damaged or of another layout.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(folder)
    if path is None:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or truncated.", f"{error}.", AGAIN) from error
    labels = _labels(path, metadata)
    return frozenset(zip(labels["perturbations"], labels["contexts"], strict=True))


def has_effects(folder: Path) -> bool:
    """Return whether the model has a table; it is not read."""
    return _path(folder) is not None


def effects_hash(folder: Path) -> str:
    """Return the sha256 of the table's file, hex; "" when there is none."""
    path = _path(folder)
    if path is None:
        return ""
    return sha256_of(path)


def _path(folder: Path) -> Path | None:
    """In a model's folder, or in the model of a training's run folder."""
    return next((p for p in (folder / EFFECTS, folder / "model" / EFFECTS) if p.is_file()), None)


def check_features(table: EffectTable, features: tuple[str, ...], width: int) -> None:
    """Check that the effects are of the features that a model predicts.

    Args:
        table: the effects.
        features: names of what is predicted, empty where they have none.
        width: how many there are.

    Raises:
        CheckpointError: there are more or fewer, or their names differ.
    """
    named = bool(table.features) and bool(features)
    if table.width != width or (named and table.features != features):
        raise CheckpointError(
            "The effects saved with the model are not of the features it predicts.",
            f"They have {table.width:,} features, the prediction {width:,}, or their names differ.",
            f"Train the model again, or remove its {EFFECTS}.",
        )


def _labels(path: Path, metadata: dict[str, str]) -> dict[str, tuple[str, ...]]:
    if metadata.get("layout") not in LAYOUTS or set(metadata) != {"layout", *LABELS}:
        layout = metadata.get("layout")
        why = f"Its metadata are {listed(sorted(metadata)) or 'empty'}, layout {layout!r}; known is '{LAYOUT}', with errors or without."
        raise CheckpointError(f"{path} is not a table of effects.", why, AGAIN)
    found = {}
    for name in LABELS:
        try:
            values: object = parse_json(metadata[name])
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged.", f"Its {name} are not JSON: {error}.", AGAIN) from error
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise CheckpointError(f"{path} is damaged.", f"Its {name} are not a list of labels.", AGAIN)
        found[name] = tuple(values)
    if len(set(found["controls"])) != len(found["controls"]):
        raise CheckpointError(f"{path} contradicts itself.", "A context has two controls.", AGAIN)
    return found


def _check_tensors(path: Path, tensors: dict[str, np.ndarray], controls: int, more: tuple[str, ...]) -> None:
    known = {**TENSORS, **dict.fromkeys(more, np.dtype(np.float32))}
    if set(tensors) != set(known):
        raise CheckpointError(f"{path} holds {listed(sorted(tensors))}.", f"It must hold {listed(list(known))}.", AGAIN)
    types = [f"{name} is {tensors[name].dtype}" for name, wanted in known.items() if tensors[name].dtype != wanted]
    of_controls = [tensors[name] for name in ("controls", "control_errors") if name in tensors]
    if types or any(values.ndim != 2 or len(values) != controls for values in of_controls):
        why = "; ".join(types) or f"{controls} controls by name, an array of shape {tensors['controls'].shape}"
        raise CheckpointError(f"{path} contradicts itself.", f"{why}.", AGAIN)
