"""State Embedding checkpoints of arc-state, read without running anything of theirs.

    *.ckpt                        Lightning checkpoint: weights; newer ones with configuration and gene vectors inside
    model.safetensors             weights alone, or
    *.pt                          weights alone (a bare state_dict)
    config.yaml                   configuration, beside
    protein_embeddings.pt         gene symbol -> vector, beside; it goes before the one inside a checkpoint, as there

The vocabulary is the order of the gene vectors. What was left out or decided is written in the card's notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.checkpoints.arc.plain_yaml import read_yaml
from state_engine.checkpoints.embedding_card import FORMAT, EmbeddingCard, vocabulary_hash
from state_engine.checkpoints.recognise import candidates, choice_notes, find_checkpoint
from state_engine.errors import CheckpointError, door, listed
from state_engine.models.embedding_config import DATASET_WIDTH, EmbeddingConfig

CONFIG = "config.yaml"
VECTORS = "protein_embeddings.pt"
SAFETENSORS = "model.safetensors"
COMPLETE = "Download the model again, or copy the file from where it was trained."

DEAD = {
    r"dataset_encoder\..*": "the classifier of data sets",
    r"gene_embedding_layer\..*": "the second name of the gene encoder",
    r"pe_embedding\.weight": "a copy of the gene vectors",
}
_T = r"transformer_encoder\.layers\.(\d+)\."
RENAMES: tuple[tuple[str, str], ...] = (
    (_T + r"qkv_proj\.", r"layers.\1.qkv."),
    (_T + r"out_proj\.", r"layers.\1.out."),
    (_T + r"norm1\.", r"layers.\1.norm_attention."),
    (_T + r"norm2\.", r"layers.\1.norm_feed."),
    (_T + r"linear1\.", r"layers.\1.up."),
    (_T + r"linear2\.", r"layers.\1.down."),
    (r"count_encoder\.0\.", "count_embedding.up."),
    (r"count_encoder\.2\.", "count_embedding.down."),
    (r"bin_encoder\.", "count_embedding.bins."),
    (r"binary_decoder\.", "expression_decoder."),
)
PARTS = (("intermediate_dense.", "up."), ("layer_norm.", "norm."), ("dense.", "down."))


@dataclass(frozen=True)
class _Files:
    """The checkpoint, and what lies beside it."""

    weights: Path
    config: Path | None
    vectors: Path | None


def read_arc_embedding(path: Path, checkpoint: str | Path | None = None) -> tuple[EmbeddingCard, dict[str, Tensor], Tensor]:
    """Read a checkpoint.

    Args:
        path: a folder, or the file with the weights.
        checkpoint: the file in the folder; None takes final, best or last, the latest step, else the only one.

    Returns:
        The card with empty hashes of weights, the weights for an `EmbeddingModel`, and the gene vectors (genes, token_dim).

    Raises:
        CheckpointError: a file is missing or damaged, or weights, configuration and gene vectors do not fit.
        UnsafePickleError: a file asks for more than numbers and containers.
    """
    files = _find(path, checkpoint)
    with door(f"The model {path.name}", CheckpointError, COMPLETE):
        return _read(path, files)


def _read(path: Path, files: _Files) -> tuple[EmbeddingCard, dict[str, Tensor], Tensor]:
    loaded = _read_safetensors(files.weights) if files.weights.suffix == ".safetensors" else load_torch(files.weights)
    weights = _weights(loaded, files.weights)
    inside: Mapping[str, object] = loaded if isinstance(loaded, dict) and "state_dict" in loaded else {}
    notes = choice_notes(files.weights.parent, files.weights)
    settings = _settings(inside, files, notes)
    names, vectors = _vectors(inside, files, notes)
    state_dict = _translate(weights, notes)
    config = _config(state_dict, settings, len(names), files.weights)
    if vectors.shape[1] != config.token_dim:
        raise CheckpointError(
            f"The gene vectors are {vectors.shape[1]:,} wide.", f"The network of {files.weights.name} reads {config.token_dim:,}."
        )
    if config.cls_gene is not None:
        notes.append(f"CLS carries the amount of gene number {config.cls_gene} of the data set, as the weights were trained.")
    folder = path if path.is_dir() else path.parent
    source = f"arc-state checkpoint {files.weights.name} of {folder.resolve().name}"
    card = EmbeddingCard(
        FORMAT, "", folder.resolve().name, config, names, vocabulary_hash(names), "", source=source, notes=tuple(notes)
    )
    return card, state_dict, vectors


def _find(path: Path, checkpoint: str | Path | None) -> _Files:
    if path.is_file():
        weights, folder = path, path.parent
    elif path.is_dir():
        weights, folder = _choose(path, checkpoint), path
    else:
        raise CheckpointError(f"There is no file or folder {path}.", fix="Check the path.")
    beside = [folder, weights.parent]
    config = next((f / CONFIG for f in beside if (f / CONFIG).is_file()), None)
    vectors = next((f / VECTORS for f in beside if (f / VECTORS).is_file()), None)
    return _Files(weights, config, vectors)


def _choose(folder: Path, wanted: str | Path | None) -> Path:
    if wanted is not None or candidates(folder):
        return find_checkpoint(folder, wanted)
    if (folder / SAFETENSORS).is_file():
        return folder / SAFETENSORS
    bare = sorted(p for p in folder.glob("*.pt") if p.name != VECTORS)
    if len(bare) == 1:
        return bare[0]
    found = (
        f"There are several: {listed([p.name for p in bare])}." if bare else "A .ckpt, model.safetensors or .pt file has them."
    )
    raise CheckpointError(f"It is not clear which file in {folder.name} has the weights.", found, "Name one file.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} is damaged or truncated.", f"{error}.", COMPLETE) from error


def _weights(loaded: object, path: Path) -> dict[str, Tensor]:
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{path.name} has no weights.", "It is no State Embedding checkpoint.", "Name another file.")
    return {re.sub(r"^(_orig_mod\.|module\.|model\.)+", "", str(name)): tensor for name, tensor in weights.items()}


def _settings(inside: Mapping[str, object], files: _Files, notes: list[str]) -> Mapping[str, object]:
    """The configuration: inside the checkpoint as text, else in its hyper-parameters, else beside it."""
    text = inside.get("cfg_yaml")
    if isinstance(text, str):
        return _yaml(text, f"the configuration in {files.weights.name}")
    hyper = inside.get("hyper_parameters")
    if isinstance(hyper, dict) and isinstance(hyper.get("cfg"), dict):
        return hyper["cfg"]
    if files.config is not None:
        notes.append(f"The configuration is that of {CONFIG} beside it.")
        return _yaml(files.config.read_text(encoding="utf-8"), files.config.name)
    raise CheckpointError(
        f"{CONFIG} is missing beside {files.weights.name}.", "It says how long a cell sentence is, among other things.", COMPLETE
    )


def _yaml(text: str, where: str) -> Mapping[str, object]:
    with door(where, CheckpointError, COMPLETE):
        loaded = read_yaml(text)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{where} is no configuration.", f"It holds {type(loaded).__name__}.", COMPLETE)
    return loaded


def _vectors(inside: Mapping[str, object], files: _Files, notes: list[str]) -> tuple[tuple[str, ...], Tensor]:
    """Gene names in the order of the vocabulary, and their vectors (genes, token_dim) float32."""
    if files.vectors is not None:
        found, where = load_torch(files.vectors), files.vectors.name
        notes.append(f"The gene vectors are those of {VECTORS} beside it.")
    else:
        found, where = inside.get("protein_embeds_dict"), files.weights.name
    if found is None:
        raise CheckpointError(
            f"{VECTORS} is missing beside {files.weights.name}.", "It says which genes the model knows, in their order.", COMPLETE
        )
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{where} has no gene vectors.", f"It holds {type(found).__name__}.", COMPLETE)
    names = tuple(str(name) for name in found)
    widths = sorted({tensor.numel() for tensor in found.values()})
    if len(widths) != 1 or len(set(names)) != len(names):
        why = f"Vectors have widths {widths}." if len(widths) > 1 else "Gene names repeat."
        raise CheckpointError(f"The gene vectors in {where} contradict themselves.", why, COMPLETE)
    table = torch.empty(len(names), widths[0])
    for row, tensor in zip(table, found.values(), strict=True):
        row.copy_(tensor.reshape(-1))
    if not torch.isfinite(table).all():
        raise CheckpointError(f"The gene vectors in {where} are not all numbers.", "Some are NaN or infinite.", COMPLETE)
    return names, table


def _translate(weights: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Their names as ours; float32; what has no influence left out."""
    _check_shared(weights)
    dropped, renamed = dict[str, None](), {}
    for name, tensor in weights.items():
        part = next((words for pattern, words in DEAD.items() if re.fullmatch(pattern, name)), None)
        if part is not None:
            dropped[part] = None
            continue
        plain = tensor.to(torch.float32, copy=True).contiguous()  # off the file
        renamed[_rename(name)] = plain.reshape(-1) if name in ("cls_token", "dataset_token") else plain
    if dropped:
        notes.append(f"Left out, without influence on embeddings: {', '.join(dropped)}.")
    return renamed


def _check_shared(weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        twin = weights.get(name.replace("gene_embedding_layer.", "encoder."))
        if name.startswith("gene_embedding_layer.") and (twin is None or not torch.equal(twin, tensor)):
            raise CheckpointError(
                f"{name} is not the gene encoder of this checkpoint.",
                "Both names stand for one part in the models that are known here.",
                "It was made by another version, or is damaged.",
            )


def _rename(name: str) -> str:
    for pattern, ours in RENAMES:
        if re.match(pattern, name):
            name = re.sub("^" + pattern, ours, name)
            break
    if name.startswith(("decoder.", "expression_decoder.")):
        for theirs, ours in PARTS:
            if f".{theirs}" in name:
                return name.replace(f".{theirs}", f".{ours}")
    return name


def _config(weights: Mapping[str, Tensor], settings: Mapping[str, object], genes: int, path: Path) -> EmbeddingConfig:
    """Sizes from the weights' shapes; from the configuration only what shapes do not say."""
    shape = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    needed = ("encoder.0.weight", "layers.0.up.weight", "decoder.1.weight", "expression_decoder.2.weight")
    missing = [name for name in needed if len(shape.get(name, ())) != 2]
    if missing:
        raise CheckpointError(f"{path} is no State Embedding checkpoint.", f"It lacks {listed(missing)}.", "Name another file.")
    hidden, token_dim = shape["encoder.0.weight"]
    output, token = shape["decoder.1.weight"][0], "dataset_token" in shape
    extra = shape["expression_decoder.2.weight"][1] - hidden - output - (DATASET_WIDTH if token else 0)
    if extra not in (0, 1):
        raise CheckpointError(
            f"The expression decoder of {path.name} reads {extra} numbers that are not known here.", "One, the read depth, is."
        )
    cls_gene = _number(settings, "dataset", "cls_token_idx")
    return EmbeddingConfig(
        genes=genes,
        token_dim=token_dim,
        hidden=hidden,
        layers=1 + max(int(found.group(1)) for name in shape if (found := re.match(r"layers\.(\d+)\.", name))),
        heads=_number(settings, "model", "nhead"),
        feed_forward=shape["layers.0.up.weight"][0],
        output_dim=output,
        tokens=_number(settings, "dataset", "pad_length"),
        dataset_token=token,
        counts=any(name.startswith("count_embedding.") for name in shape),
        read_depth=bool(extra),
        cls_gene=cls_gene if cls_gene >= 0 else None,
    )


def _number(settings: Mapping[str, object], part: str, name: str) -> int:
    inner = settings.get(part)
    value = inner.get(name) if isinstance(inner, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(
            f"The configuration has no number {part}.{name}.", f"It has {value!r}." if value is not None else "", COMPLETE
        )
    return value
