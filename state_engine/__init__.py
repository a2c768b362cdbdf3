"""STATE Explorer's engine: the verbs behind the pages, the command line and notebooks.

Public names are resolved on first use, so importing the package is quick and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> module that has it
_PUBLIC: dict[str, str] = {
    "AttentionRequest": "state_engine.attention.cell_set",
    "Choices": "state_engine.data.dataset",
    "Dataset": "state_engine.data.dataset",
    "DecodeRequest": "state_engine.embedding.decode",
    "EmbedRequest": "state_engine.embedding.request",
    "EvaluationRequest": "state_engine.evaluation.request",
    "HeldOutRequest": "state_engine.evaluation.held_out_request",
    "ModelCard": "state_engine.checkpoints.card",
    "PredictedFile": "state_engine.evaluation.request",
    "PredictionRequest": "state_engine.prediction.request",
    "Progress": "state_engine.progress",
    "ReplayRequest": "state_engine.prediction.replay",
    "Settings": "state_engine.config",
    "StateError": "state_engine.errors",
    "TemplateRequest": "state_engine.challenge.template",
    "TrainRequest": "state_engine.train.request",
    "attention_of_set": "state_engine.attention.cell_set",
    "card_of": "state_engine.checkpoints.load",
    "check_compatibility": "state_engine.prediction.compatibility",
    "cls_attention": "state_engine.embedding.gene_attention",
    "convert": "state_engine.checkpoints.arc.read",
    "convert_embedding": "state_engine.checkpoints.embedding_store",
    "decode": "state_engine.embedding.decode",
    "differential": "state_engine.analysis.differential",
    "embed": "state_engine.embedding.embed",
    "embedding_card_of": "state_engine.checkpoints.embedding_store",
    "estimate": "state_engine.prediction.request",
    "evaluate": "state_engine.evaluation.evaluate",
    "evaluate_held_out": "state_engine.evaluation.held_out",
    "fetch": "state_engine.public_data.fetch",
    "load_challenge": "state_engine.challenge.spec",
    "load_cls_attention": "state_engine.embedding.gene_attention_table",
    "load_embedding": "state_engine.checkpoints.embedding_store",
    "load_maps": "state_engine.attention.maps",
    "load_model": "state_engine.checkpoints.load",
    "load_settings": "state_engine.config",
    "open_dataset": "state_engine.data.dataset",
    "open_result": "state_engine.prediction.result",
    "open_split": "state_engine.data.splits.apply",
    "plan_from_template": "state_engine.challenge.template",
    "predict": "state_engine.prediction.predict",
    "read_plan": "state_engine.data.splits.plan",
    "replay": "state_engine.prediction.replay",
    "save_model": "state_engine.checkpoints.store",
    "submit": "state_engine.challenge.submit",
    "train_transition": "state_engine.train.fit",
    "write_targets": "state_engine.challenge.template",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'state_engine' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
