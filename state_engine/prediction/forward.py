"""Many sets through a model at once: the same numbers as one by one, faster, and with an answer to "out of memory".

Control cells are encoded once however often they are drawn, a perturbation once a set; sets of one size share a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from state_engine.models.config import AttentionMode
from state_engine.models.pass_size import PassSize
from state_engine.models.transition import TransitionModel, TransitionOutput

# cells a forward pass: where the matrix units of a CPU are busy; a GPU wants many more
CELLS_A_PASS = {"cpu": 1024, "cuda": 65536, "mps": 8192}


@dataclass(frozen=True)
class SetTask:
    """One set to predict.

    Args:
        cells: (s,) positions in the encoded basal cells.
        perturbation: row of the perturbation features.
        batches: (s,) batch indices of the cells, or None.
        tag: whatever the caller wants back with the result.
    """

    cells: np.ndarray
    perturbation: int
    batches: np.ndarray | None
    tag: int


@dataclass(frozen=True)
class SetResult:
    """A predicted set: (s, o) output features, (s, genes) decoded expression or None, the predicted loss or NaN, the task's tag."""

    predicted: np.ndarray
    decoded: np.ndarray | None
    confidence: float
    tag: int


class SetRunner:
    """Runs sets through a loaded model.

    Args:
        model: in eval mode, on its device, in its precision.
        perturbations: (labels, p) feature rows.
        attention: which cells of a set see which.
        cells_a_pass: cells in one forward pass; None for the device's usual number.
        on_remark: told when a pass had to be made smaller.
    """

    def __init__(
        self,
        model: TransitionModel,
        perturbations: Tensor,
        attention: AttentionMode,
        cells_a_pass: int | None = None,
        on_remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        parameter = next(model.parameters())
        self.model, self.attention = model.eval(), attention
        self.device, self.dtype = parameter.device, parameter.dtype
        self.passes = PassSize(cells_a_pass or CELLS_A_PASS.get(self.device.type, 2048), self.device, on_remark)
        self._features = perturbations.to(self.device, self.dtype)
        self._encoded: dict[int, Tensor] = {}
        self._basal = torch.empty(0)
        self._basal_encoded = torch.empty(0)

    @torch.inference_mode()
    def load_cells(self, blocks: Iterable[np.ndarray]) -> None:
        """Encodes blocks of basal cells (n, g); tasks point at them by position until the next call."""
        encoded, kept = [], []
        for values in blocks:
            basal = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
            for part in basal.split(self.passes.cells):
                encoded.append(self.model.encode_basal(part.to(self.device, self.dtype)))
            if self.model.needs_basal:
                kept.append(basal)
        self._basal_encoded = torch.cat(encoded)
        self._basal = torch.cat(kept) if kept else torch.empty(0)

    def run(self, tasks: Sequence[SetTask]) -> Iterator[SetResult]:
        """Predicts sets, small ones first; each result carries its task's tag.

        Raises:
            DeviceError: not even one set fits into memory.
        """
        pending = sorted(tasks, key=lambda task: len(task.cells))
        while pending:
            batch = self._next(pending)
            cells = sum(len(task.cells) for task in batch)
            whole = f"One set of {cells} cells" if len(batch) == 1 else ""
            fix = "Choose a smaller set size, bf16, or another device."
            results = self.passes.attempt(partial(self._forward, batch), cells, whole, fix)
            if results is not None:
                pending = pending[len(batch) :]
                yield from results

    def _next(self, pending: list[SetTask]) -> list[SetTask]:
        """The next sets for one pass. A GPU gets sets of one size, whose attention is a single kernel."""
        same_size = self.device.type != "cpu"
        cells, batch = 0, list[SetTask]()
        for task in pending:
            cells += len(task.cells)
            if batch and (cells > self.passes.cells or (same_size and len(task.cells) != len(batch[0].cells))):
                break
            batch.append(task)
        return batch

    @torch.inference_mode()
    def _forward(self, batch: list[SetTask]) -> list[SetResult]:
        sizes = [len(task.cells) for task in batch]
        output = self._transform(batch, sizes)
        decoded: Sequence[np.ndarray | None] = [None] * len(batch)
        if self.model.gene_decoder is not None:
            decoded = _split(self.model.decode(output.predicted), sizes)
        predicted = _split(output.predicted, sizes)
        confidence = output.confidence.float().cpu().numpy() if output.confidence is not None else np.full(len(batch), np.nan)
        return [SetResult(predicted[i], decoded[i], float(confidence[i]), task.tag) for i, task in enumerate(batch)]

    def _transform(self, batch: list[SetTask], sizes: list[int]) -> TransitionOutput:
        """(b, s, o) for sets of one size, (n, o) for sets of several."""
        cells = torch.from_numpy(np.concatenate([task.cells for task in batch]))  # (n,)
        encoded = self._basal_encoded[cells.to(self._basal_encoded.device)]
        labels = torch.stack([self._perturbation(task.perturbation) for task in batch])
        basal = self._basal[cells].to(self.device, self.dtype) if self.model.needs_basal else None
        batches = None
        if self.model.batch_encoder is not None:
            batches = torch.from_numpy(np.concatenate([t.batches for t in batch if t.batches is not None])).to(self.device)
        if len(set(sizes)) > 1:
            return self.model.transform_packed(encoded, labels, sizes, basal, batches, attention=self.attention)
        shape = (len(batch), sizes[0])
        return self.model.transform(
            encoded.view(*shape, -1),
            labels,
            basal.view(*shape, -1) if basal is not None else None,
            batches.view(shape) if batches is not None else None,
            attention=self.attention,
        )

    def _perturbation(self, row: int) -> Tensor:
        """(d,): encoded when first used, then kept."""
        if row not in self._encoded:
            self._encoded[row] = self.model.encode_perturbation(self._features[row : row + 1])[0]
        return self._encoded[row]


def _split(values: Tensor, sizes: list[int]) -> list[np.ndarray]:
    """(b, s, o) or (n, o) as one float32 array a set."""
    whole = values.float().cpu().numpy().reshape(-1, values.shape[-1])
    return np.split(whole, np.cumsum(sizes)[:-1])
