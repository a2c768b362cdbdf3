"""How long a cell takes with a model on this machine's CPU: sentences of random genes through the network, timed.

The first forward pass does not count (memory is fetched, kernels are chosen). What is found is remembered by `embedding.cost`.
"""

from __future__ import annotations

import time

import numpy as np

from state_engine.data.cell_sentences import Sentences
from state_engine.embedding.forward import EmbeddingRunner
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.progress import OnProgress, Progress, silent

SECONDS = 2.0  # of passes that are timed; one at least
MOST_PASSES = 50
STAGE = "Measuring how long a cell takes"


def measure_speed(model: EmbeddingModel, on_progress: OnProgress = silent, seconds: float = SECONDS) -> float:
    """Return the seconds for a cell: the median over forward passes.

    Args:
        model: prepared, on the CPU.
        on_progress: told each pass; may raise `JobCancelled`.
        seconds: how long passes are timed.
    """
    runner = EmbeddingRunner(model)
    sentences, times = _sentences(model.config, runner.batch_size), list[float]()
    start = time.perf_counter()
    for number in range(MOST_PASSES + 1):
        on_progress(Progress(STAGE, number, MOST_PASSES + 1))
        began = time.perf_counter()
        for _ in runner.run([sentences]):
            pass
        ended = time.perf_counter()
        if number:
            times.append(ended - began)
        else:
            start = ended
        if times and ended - start >= seconds:
            break
    return float(np.median(times)) / len(sentences)


def _sentences(config: EmbeddingConfig, cells: int) -> Sentences:
    """Full sentences of random genes; how long they take does not depend on which genes."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, config.genes, (cells, config.tokens)).astype(np.int32)
    rows[:, 0] = config.genes  # CLS
    counts = rng.uniform(0, 5, rows.shape).astype(np.float32)
    numbers = np.arange(cells)
    expressed = np.full(cells, config.tokens - 1, np.int32)
    return Sentences(numbers, rows, counts, expressed, np.empty(0, np.int64), np.ones(cells, np.float32))
