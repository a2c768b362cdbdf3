"""STATE Explorer's engine: the verbs behind the pages, the command line and notebooks.

Public names are resolved on first use, so importing the package is quick and loads no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# public name -> module that has it
_PUBLIC: dict[str, str] = {
    "AttentionRequest": "state_engine.attention",
    "Choices": "state_engine.data.dataset",
    "Dataset": "state_engine.data.dataset",
    "DecodeRequest": "state_engine.decode",
    "EmbedRequest": "state_engine.embed_request",
    "EvaluationRequest": "state_engine.evaluate.evaluation_request",
    "HeldOutRequest": "state_engine.evaluate.held_out_request",
    "ModelCard": "state_engine.checkpoints.card",
    "PredictedFile": "state_engine.evaluate.evaluation_request",
    "PredictionRequest": "state_engine.request",
    "Progress": "state_engine.progress",
    "ReplayRequest": "state_engine.replay",
    "Settings": "state_engine.config",
    "StateError": "state_engine.errors",
    "TemplateRequest": "state_engine.challenge.template",
    "TrainRequest": "state_engine.train.request",
    "attention_of_set": "state_engine.attention",
    "card_of": "state_engine.checkpoints.either",
    "check_compatibility": "state_engine.compatibility",
    "cls_attention": "state_engine.cls_attention",
    "convert": "state_engine.checkpoints.arc",
    "convert_embedding": "state_engine.checkpoints.embedding",
    "decode": "state_engine.decode",
    "differential": "state_engine.analysis.differential",
    "embed": "state_engine.embed",
    "embedding_card_of": "state_engine.checkpoints.embedding",
    "estimate": "state_engine.request",
    "evaluate": "state_engine.evaluate.evaluation",
    "evaluate_held_out": "state_engine.evaluate.held_out",
    "fetch": "state_engine.public_data.fetch",
    "load_challenge": "state_engine.challenge.spec",
    "load_cls_attention": "state_engine.cls_attention_table",
    "load_embedding": "state_engine.checkpoints.embedding",
    "load_maps": "state_engine.attention_maps",
    "load_model": "state_engine.checkpoints.store",
    "load_settings": "state_engine.config",
    "open_dataset": "state_engine.data.dataset",
    "open_result": "state_engine.analysis.result",
    "open_split": "state_engine.data.splits",
    "plan_from_template": "state_engine.challenge.template",
    "predict": "state_engine.predict",
    "read_plan": "state_engine.data.split_plan",
    "replay": "state_engine.replay",
    "save_model": "state_engine.checkpoints.store",
    "submit": "state_engine.challenge.request",
    "train_transition": "state_engine.train.transition",
    "write_targets": "state_engine.challenge.template",
}

__all__ = sorted([*_PUBLIC, "__version__"])


class _Package(ModuleType):
    """A verb's name stands for the verb, also when something has imported the module of the same name before."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'state_engine' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
