"""Models with their weights, from the worker's cache when the same files were loaded for the same device and precision."""

from __future__ import annotations

from pathlib import Path

from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.checkpoints.recognise import stamp
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.request import EmbedRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.prediction.request import PredictionRequest


def transition_model(request: PredictionRequest, warm: WarmCache) -> LoadedModel:
    """Return the State Transition model of a prediction."""
    path, device = Path(request.model), choose_device(request.device).kind
    key = ("model", str(path), stamp(path), device, request.precision, request.attention)
    return warm.get_or_load(key, lambda: load_model(path, device, dtype_of(request.precision), request.attention))


def embedding_model(request: EmbedRequest, warm: WarmCache) -> LoadedEmbedding:
    """Return the State Embedding model of a request."""
    path, device = Path(request.model), choose_device(request.device).kind
    key = ("embedding", str(path), stamp(path), device, request.precision, request.checkpoint)
    return warm.get_or_load(key, lambda: load_embedding(path, device, dtype_of(request.precision), request.checkpoint))
