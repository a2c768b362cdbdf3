"""Run directories of arc-state 0.9.14 to 0.11.1: read without running anything of theirs, and turned into our format.

    checkpoints/*.ckpt                     weights and hyper_parameters, which decide the architecture
    pert_onehot_map.pt                     perturbation label -> vector
    batch_onehot_map.torch | .pt | .pkl    batch label -> one-hot; needed when the model has a batch encoder
    cell_type_onehot_map.torch | .pt | .pkl   optional
    config.yaml                            names of the obs columns, control label
    var_dims.pkl                           gene names

What had to be decided or was not there is written in the card's notes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from state_engine.checkpoints import store
from state_engine.checkpoints.arc.architecture import GENE_KEYS, ArcArchitecture, Hyper, read_architecture
from state_engine.checkpoints.arc.names_in import translate
from state_engine.checkpoints.arc.pickles import load_pickle, load_torch
from state_engine.checkpoints.arc.plain_yaml import read_yaml
from state_engine.checkpoints.card import FORMAT, ModelCard
from state_engine.checkpoints.folder import weights_hash
from state_engine.checkpoints.recognise import COMPLETE, PERTURBATIONS, choice_notes, find_checkpoint, run_of
from state_engine.errors import CheckpointError, door, listed

ENDINGS = (".torch", ".pt", ".pkl")
DRUG_COLUMN, DRUG_CONTROL = "drugname_drugconc", "[('DMSO_TF', 0.0, 'uM')]"
OFTEN_CONTROL = "non-targeting"


@dataclass(frozen=True)
class Labels:
    """Labels in the order of the vectors, and the vectors unless they are the one-hot ones of that order."""

    names: tuple[str, ...]
    features: Tensor | None


def read_arc(folder: Path, checkpoint: str | Path | None = None) -> tuple[ModelCard, dict[str, Tensor], Tensor | None]:
    """Read a run directory.

    Args:
        folder: the run directory, or a .ckpt file of it.
        checkpoint: a .ckpt file, as a path or as a name in `checkpoints/`; None takes final, best, last, or the latest step.

    Returns:
        The card, the weights for a `TransitionModel`, and the perturbation features (labels, p) or None when one-hot.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and hyper-parameters do not fit.
        UnsafePickleError: a file asks for more than numbers and containers.
    """
    folder, named = run_of(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.", fix="Check the path.")
    with door(f"The model {folder.name}", CheckpointError, COMPLETE):
        return _read(folder, find_checkpoint(folder, checkpoint or named))


def _read(folder: Path, path: Path) -> tuple[ModelCard, dict[str, Tensor], Tensor | None]:
    loaded = load_torch(path)
    weights, hyper = _parts(loaded, path)
    architecture = read_architecture(hyper, list(weights))
    notes = [*choice_notes(folder, path), *architecture.notes]
    facts = _Facts(folder, hyper, notes)
    labels = _perturbations(folder, architecture.config.perturbation_dim)
    config, scale = architecture.config, architecture.lora[0] if architecture.lora else None
    depth = len(config.decoder.hidden) if config.decoder else None
    state_dict, dropped = translate(weights, scale, depth, config.predict_residual)
    if architecture.lora:
        notes.append(f"LoRA adapters of rank {architecture.lora[1]} were merged into the weights.")
    if dropped:
        notes.append(f"Left out, without influence on predictions: {listed(dropped, 4)}.")
    hashed = weights_hash(state_dict, labels.features)
    card = _card(folder, architecture, facts, labels, hashed)
    store.check_card(card)
    store.check_weights(card, state_dict)
    store.check_features(card, labels.features)
    return card, state_dict, labels.features


def convert(arc_dir: Path, out_dir: Path, name: str | None = None, checkpoint: str | Path | None = None) -> ModelCard:
    """Write a run directory in our format.

    Args:
        arc_dir: the run directory, or a .ckpt file of it.
        out_dir: folder to make; it must not be there yet.
        name: the model's name for people; None takes the directory's.
        checkpoint: which .ckpt file, see `read_arc`.

    Raises:
        CheckpointError: see `read_arc`, or `out_dir` is there already.
        UnsafePickleError: see `read_arc`.
    """
    card, state_dict, features = read_arc(arc_dir, checkpoint)
    return store.save_model(out_dir, dataclasses.replace(card, name=name or card.name), state_dict, features)


class _Facts:
    """What config.yaml and var_dims.pkl add to the hyper-parameters; a file that is not there becomes a note."""

    def __init__(self, folder: Path, hyper: Hyper, notes: list[str]) -> None:
        self.hyper, self.notes = hyper, notes
        self.columns = self._columns(folder / "config.yaml")
        self.dims = self._dims(folder / "var_dims.pkl")
        self.batches = _label_map(folder, "batch_onehot_map", int(hyper.get("batch_dim") or 0))
        contexts = _label_map(folder, "cell_type_onehot_map", None)
        self.contexts = contexts or ()

    def _columns(self, path: Path) -> Hyper:
        if not path.is_file():
            self.notes.append("config.yaml was missing: the columns of the training data are not known.")
            return {}
        with door(path.name, CheckpointError, COMPLETE):
            whole = read_yaml(path.read_text(encoding="utf-8"))
        for part in ("data", "kwargs"):
            whole = whole.get(part) if isinstance(whole, dict) else None
        return whole if isinstance(whole, dict) else {}

    def _dims(self, path: Path) -> Hyper:
        if not path.is_file():
            self.notes.append("var_dims.pkl was missing: gene names are those of the checkpoint, if any.")
            return {}
        dims = load_pickle(path)
        if not isinstance(dims, dict):
            raise CheckpointError(f"{path.name} holds {type(dims).__name__}, not a dictionary.", fix=COMPLETE)
        return dims

    def column(self, name: str) -> str | None:
        """A column name of the training data."""
        value = self.columns.get(name)
        return value if isinstance(value, str) and value else None

    def genes(self, width: int, use: str) -> tuple[str, ...] | None:
        """Gene names, when there are `width` of them: a list of another length names something else."""
        lists = [self.hyper.get("gene_names"), self.dims.get("gene_names")]
        counts = []
        for names in lists:
            if names is None or len(names) == 0:
                continue
            if len(names) == width:
                return tuple(str(name) for name in names)
            counts.append(len(names))
        known = f"{counts[0]:,} gene names for {width:,} {use} features, so they were not used" if counts else "no gene names"
        self.notes.append(f"The checkpoint has {known}: the {use} features have no names.")
        return None

    def control(self, labels: tuple[str, ...]) -> str:
        """The control label: the first candidate that the model knows."""
        declared = [self.column("control_pert"), self.hyper.get("control_pert")]
        implied = DRUG_CONTROL if self.column("pert_col") == DRUG_COLUMN else OFTEN_CONTROL
        candidates = [str(label) for label in [*declared, implied] if label]
        for label in candidates:
            if label in labels:
                if label != candidates[0]:
                    self.notes.append(f"The control '{candidates[0]}' is not among the perturbations; '{label}' was taken.")
                return label
        raise CheckpointError(
            f"None of the control labels ({', '.join(dict.fromkeys(candidates))}) is among the model's perturbations.",
            f"It knows {listed(labels)}.",
            "Set control_pert in config.yaml to one of them.",
        )


def _card(folder: Path, architecture: ArcArchitecture, facts: _Facts, labels: Labels, hashed: str) -> ModelCard:
    config, key = architecture.config, architecture.input_key
    in_genes = key in ("X", *GENE_KEYS)
    input_genes = facts.genes(config.input_dim, "input") if in_genes else None
    output_genes = input_genes
    if not in_genes:
        output_genes = facts.genes(config.decoder.genes, "output") if config.decoder else None
    batches = facts.batches
    if batches is None:
        if config.batch_encoder:
            raise CheckpointError(
                f"batch_onehot_map.torch is missing in {folder.name}.",
                "The model has a batch encoder and needs its labels.",
                COMPLETE,
            )
        facts.notes.append("The map of batches was missing: the batches of the training data are not known.")
    control = facts.control(labels.names)
    return ModelCard(
        format=FORMAT,
        id=hashed[:12],
        name=folder.resolve().name,
        config=config,
        input_key=key,
        input_genes=input_genes,
        output_genes=output_genes,
        scale="log1p" if in_genes else None,
        control=control,
        perturbations=labels.names,
        perturbation_encoding="one-hot" if labels.features is None else "features",
        batches=batches or (),
        contexts=facts.contexts,
        perturbation_key=facts.column("pert_col"),
        context_key=facts.column("cell_type_key"),
        batch_key=facts.column("batch_col"),
        attention=architecture.attention,
        attention_source=architecture.attention_source,
        attention_origin=architecture.attention_origin,
        weights_hash=hashed,
        source=f"arc-state run directory {folder.resolve().name}",
        notes=tuple(facts.notes),
    )


def _parts(loaded: object, path: Path) -> tuple[dict[str, Tensor], Hyper]:
    whole = loaded if isinstance(loaded, dict) else {}
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(whole.get(part), dict):
            raise CheckpointError(f"{path.name} has no {part}.", "It is not a Lightning checkpoint.", "Name another checkpoint.")
    weights = whole["state_dict"]
    strange = [str(name)[:80] for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange:
        raise CheckpointError(f"{path.name} has weights that are not numbers: {listed(strange)}.")
    return weights, whole["hyper_parameters"]


def _perturbations(folder: Path, width: int) -> Labels:
    path = folder / PERTURBATIONS
    if not path.is_file():
        raise CheckpointError(
            f"{PERTURBATIONS} is missing in {folder.name}.", "It says which vector a perturbation has.", COMPLETE
        )
    vectors = _vectors(load_torch(path), path)
    widths = sorted({len(vector) for vector in vectors.values()})
    if widths != [width]:
        raise CheckpointError(
            f"{PERTURBATIONS} has vectors of width {', '.join(map(str, widths))}.",
            f"The model's perturbations have {width}.",
            COMPLETE,
        )
    names = tuple(vectors)
    table = torch.stack(list(vectors.values()))
    order = _one_hot_order(table)
    if order is None or len(names) != width:
        return Labels(names, table.contiguous())
    return Labels(tuple(names[i] for i in order), None)


def _label_map(folder: Path, stem: str, width: int | None) -> tuple[str, ...] | None:
    """Labels of a one-hot map in the order of their index, or None when there is no such file."""
    path = next((folder / (stem + ending) for ending in ENDINGS if (folder / (stem + ending)).is_file()), None)
    if path is None:
        return None
    vectors = _vectors(load_pickle(path) if path.suffix == ".pkl" else load_torch(path), path)
    order = _one_hot_order(torch.stack(list(vectors.values())))
    if order is None or (width and len(order) != width):
        raise CheckpointError(f"{path.name} is not a map of one-hot vectors, one for each label.", fix=COMPLETE)
    names = tuple(vectors)
    return tuple(names[i] for i in order)


def _vectors(loaded: object, path: Path) -> dict[str, Tensor]:
    """label -> float32 vector; labels are made plain strings."""
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path.name} is not a map of labels to vectors.", f"It holds {type(loaded).__name__}.", COMPLETE)
    vectors = {}
    for label, vector in loaded.items():
        if not isinstance(vector, Tensor | np.ndarray):
            raise CheckpointError(
                f"{path.name}: the vector of '{label}' is not one.", f"It is {type(vector).__name__}.", COMPLETE
            )
        try:
            vectors[str(label)] = torch.as_tensor(vector, dtype=torch.float32).reshape(-1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path.name}: the vector of '{label}' is not one.", f"{error}.", COMPLETE) from error
    widths = sorted({len(vector) for vector in vectors.values()})
    if len(widths) > 1:
        raise CheckpointError(
            f"{path.name} has vectors of different widths ({', '.join(map(str, widths[:5]))}).", "All need the same.", COMPLETE
        )
    if len(vectors) != len(loaded):
        raise CheckpointError(f"{path.name} has labels that are the same when written out.", fix=COMPLETE)
    return vectors


def _one_hot_order(table: Tensor) -> list[int] | None:
    """Row of each column when every row has one 1 in a column of its own, else None. table: (labels, p)."""
    rows, columns = table.shape
    if rows != columns or not bool(((table == 0) | (table == 1)).all()):
        return None
    if not bool((table.sum(0) == 1).all() and (table.sum(1) == 1).all()):
        return None
    order: list[int] = table.argmax(0).tolist()
    return order
