"""What is known about a head without loading its weights. Plain JSON; read by pages, so no torch.

`head.json` in a folder of our store is a `HeadCard` written by `state_engine.plain.to_plain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from state_engine.checkpoints.folder import AGAIN, id_with_names, read_card_file
from state_engine.checkpoints.folder import FORMAT as FORMAT
from state_engine.errors import CheckpointError
from state_engine.models.head_config import HeadConfig
from state_engine.plain import writable

CARD = "head.json"
FITTED = "fitted.safetensors"  # codes of the names of the cells it was fitted on
MOST_LABELS = 100_000
Kind = Literal["obsm", "embedding", "hidden", "prediction", "expression"]


@dataclass(frozen=True)
class VectorSource:
    """Which vectors a head reads; others mean nothing to it.

    Args:
        kind: a matrix of the file whose maker is not recorded; the embedding of an SE; hidden states or output of an ST for each cell
            under the control label; log1p expression of named genes.
        width: features.
        key: of obsm, where they were in the file; "" where they were made.
        model: sha256 of the weights of the model that made them; "" for none.
        model_name: for people.
        vocabulary: sha256 of an SE's gene names.
        genes: of expression, in order.
        depth: of log1p expression; None where it is not known.
        attention: of an ST.
        simulated: the model was not trained on real cells.
    """

    kind: Kind
    width: int
    key: str = ""
    model: str = ""
    model_name: str = ""
    vocabulary: str = ""
    genes: tuple[str, ...] = ()
    depth: float | None = None
    attention: str = ""
    simulated: bool = False

    @property
    def words(self) -> str:
        """For people: "the embedding of 'SE-600M' (1a2b3c…), 2,048 features"."""
        who = f"'{self.model_name}' ({self.model[:12]})"
        genes = f", gene vocabulary {self.vocabulary[:12]}" if self.vocabulary else ""
        what = {
            "obsm": f"obsm['{self.key}'], whose maker is not recorded",
            "embedding": f"the embedding of {who}{genes}",
            "hidden": f"the hidden states of {who}",
            "prediction": f"the output under the control label of {who}",
            "expression": "log1p expression of genes by name",
        }
        return f"{what[self.kind]}, {self.width:,} features"


@dataclass(frozen=True)
class HeadCard:
    """A head's card.

    Args:
        format: version of the store's layout (`FORMAT`).
        id: 12 hex digits that tell it from others, see `head_id`; of heads of before the first of `weights_hash`.
        name: for people.
        task: what it calls.
        columns: of obs that it learnt.
        labels: that it calls, in the order of its outputs; empty for a regression.
        config: the network.
        source: the vectors that it reads.
        weights_hash: sha256 of its weights, hex.
        temperature: its outputs are divided by this before they become probabilities.
        centre, spread: of a regression: the number is centre + spread x output.
        place: where the model behind it lay when it was fitted; a hint, checked by its hash.
        tune: what was trained.
        data: name of the file it was fitted on; `data_hash` its sha256.
        groups: column whose groups were kept in one part; "" for none.
        test_groups: it was not fitted on.
        cells: it was fitted on.
        scores: metric -> value on the test cells.
        licence, limits, notes: for people.
    """

    format: int
    id: str
    name: str
    task: Literal["classification", "multi-label", "regression"]
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    config: HeadConfig
    source: VectorSource
    weights_hash: str
    temperature: float = 1.0
    centre: float = 0.0
    spread: float = 1.0
    place: str = ""
    tune: str = "head"
    data: str = ""
    data_hash: str = ""
    groups: str = ""
    test_groups: tuple[str, ...] = ()
    cells: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    licence: str = "unknown"
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """The model behind it was not trained on real cells."""
        return self.source.simulated


def is_head_store(folder: Path) -> bool:
    """The folder holds a head in our format."""
    return (folder / CARD).is_file()


def read_head_card(folder: Path) -> HeadCard:
    """The card of a head in our format, without torch.

    Raises:
        CheckpointError: no card there, or one that is damaged, from another version, or contradicts itself.
    """
    path = folder / CARD
    if not path.is_file():
        raise CheckpointError(
            f"There is no {CARD} in {folder}.", "The folder of a head has one.", "Fit a head first, with finetune."
        )
    card = read_card_file(path, HeadCard, "a card of a head")
    check_head_card(card)
    return card


def head_id(card: HeadCard) -> str:
    """Return the id of a head: of its weights and of what their outputs mean, labels and unit included."""
    says = (card.task, card.columns, card.labels, card.source, card.temperature, card.centre, card.spread)
    return id_with_names(card.weights_hash, says)


def check_head_card(card: HeadCard) -> None:
    """Labels, vectors and network belong together.

    Raises:
        CheckpointError: they do not; all that is wrong, in one message.
    """
    source, config = card.source, card.config
    outputs = 1 if card.task == "regression" else len(card.labels)
    numbers = (card.temperature, card.centre, card.spread)
    # what is wrong where the test behind it fails
    checks = {
        f"{len(card.labels):,} labels, but {config.outputs:,} outputs": outputs == config.outputs,
        "labels repeat": len(set(card.labels)) == len(card.labels),
        "labels that cannot be written": all(map(writable, card.labels)),
        f"more than {MOST_LABELS:,} labels": len(card.labels) <= MOST_LABELS,
        f"vectors of {source.width:,} features, but {config.inputs:,} inputs": source.width == config.inputs,
        f"{len(source.genes):,} genes for {source.width:,} features": source.kind != "expression"
        or len(source.genes) == source.width,
        "no model is named that makes its vectors": source.kind in ("obsm", "expression") or bool(source.model),
        "numbers that are not finite": all(map(math.isfinite, numbers)),
        "a temperature that is not positive": card.temperature > 0,
    }
    wrong = [text for text, right in checks.items() if not right]
    if wrong:
        raise CheckpointError(f"The card of '{card.name}' contradicts itself.", f"{'; '.join(wrong)}.", AGAIN)
