"""Run many cell sets through a model: the same numbers as one set at a time, in fewer and fuller forward passes.

Control cells are encoded once however often they are drawn, and each perturbation once; small sets share a pass. What happens when
memory runs out is in `state_engine.models.passes`.

Notation: n basal cells, b sets in a pass, s cells in a set, g input features, o output features, d hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from state_engine.models.compiled import Compiled
from state_engine.models.config import AttentionMode
from state_engine.models.passes import Passes, require_finite
from state_engine.models.transfer import Landing, transfer_of
from state_engine.models.transition import TransitionModel, TransitionOutput

# cells in a forward pass: enough to keep the matrix units of one core busy; a GPU wants many more
CELLS_A_PASS = {"cpu": 512, "cuda": 65536, "mps": 8192}
ROWS = 64  # passes on a CPU have a multiple of these
MOST_BYTES = 256 << 20  # of a pass's results on a device apart: a few passes of them are pinned at once


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
    """A predicted set.

    Args:
        predicted: (s, o) output features, float32.
        decoded: (s, genes) decoded expression, or None when the model has no gene decoder.
        confidence: the loss that the model predicts for the set, or NaN.
        tag: that of the task.
    """

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
        cells_a_pass: cells in one forward pass; None for the device's usual number, or fewer when their results are wide.
        on_remark: called when passes become smaller for lack of memory, and when the network is not compiled.
        compile: have torch compile the network, on a device apart.
    """

    def __init__(
        self,
        model: TransitionModel,
        perturbations: Tensor,
        attention: AttentionMode,
        cells_a_pass: int | None = None,
        on_remark: Callable[[str], None] = lambda text: None,
        compile: bool = False,
    ) -> None:
        parameter = next(model.parameters())
        self.model, self.attention = model.eval(), attention
        self.device, self.dtype = parameter.device, parameter.dtype
        self.transfer = transfer_of(self.device)
        apart = self.transfer.apart
        self._network = Compiled(model.transform, on_remark) if compile and apart else model.transform
        cells = cells_a_pass or self._usual_cells()
        self.encoding: Passes[Tensor] = Passes(cells, self.device, on_remark, apart=apart)
        self.passes: Passes[list[SetTask]] = Passes(
            cells,
            self.device,
            on_remark,
            one="One set of {cells} cells",
            fix="Choose a smaller set size, bf16, or another device.",
            size=lambda part: sum(len(task.cells) for task in part),
            apart=apart,
        )
        self._features = perturbations.to(self.device, self.dtype)
        self._encoded: dict[int, Tensor] = {}
        self._basal = torch.empty(0)
        self._basal_encoded = torch.empty(0)

    @property
    def mixes(self) -> bool:
        """Whether a pass is best filled with sets of several perturbations; on a CPU the sets of one fill it."""
        return self.transfer.apart

    def _usual_cells(self) -> int:
        cells = CELLS_A_PASS.get(self.device.type, 2048)
        if not self.transfer.apart:
            return cells
        config = self.model.config
        width = config.output_dim + (config.decoder.genes if config.decoder is not None else 0)
        return max(1, min(cells, MOST_BYTES // (4 * width)))

    def load_cells(self, blocks: Iterable[np.ndarray]) -> None:
        """Encode blocks of basal cells (n, g); tasks point at them by position until the next call.

        An iterator is read while cells are encoded.
        """
        kept: list[Tensor] = []

        def parts() -> Iterator[Tensor]:
            for values in blocks:
                basal = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
                if self.model.needs_basal:
                    kept.append(basal)
                yield from self.encoding.cut(basal)

        cells = sum(map(len, blocks)) if isinstance(blocks, Sequence) else None
        encoded = list(self.encoding.run(self._encode, parts(), cells))
        self._basal_encoded = torch.cat(encoded) if encoded else torch.empty(0)
        self._basal = torch.cat(kept) if kept else torch.empty(0)

    @torch.inference_mode()
    def _encode(self, basal: Tensor) -> Tensor:
        return self.model.encode_basal(self.transfer.put(basal, self.dtype))

    def run(self, tasks: Sequence[SetTask]) -> Iterator[SetResult]:
        """Predict sets, small ones first; each result carries its task's tag.

        Raises:
            DeviceError: not even one set fits into memory.
        """
        cells = sum(len(task.cells) for task in tasks)
        for results in self.passes.run_begun(self._forward, self._groups(tasks), cells):
            yield from results

    def _groups(self, tasks: Sequence[SetTask]) -> Iterator[list[SetTask]]:
        """The sets of each pass. A device apart gets sets of one size, whose attention is a single kernel."""
        same_size = self.transfer.apart
        cells, group = 0, list[SetTask]()
        # by size, so that sets of one size come together and passes fill up
        for task in sorted(tasks, key=lambda task: len(task.cells)):
            size = len(task.cells)
            if group and (cells + size > self.passes.cells or (same_size and size != len(group[0].cells))):
                yield group
                cells, group = 0, []
            cells += size
            group.append(task)
        if group:
            yield group

    @torch.inference_mode()
    def _forward(self, batch: list[SetTask]) -> Callable[[], list[SetResult]]:
        """Begin a pass; what is returned waits for its results."""
        asked, rest = len(batch), -sum(len(task.cells) for task in batch) % ROWS
        if rest and not self.transfer.apart and sum(len(task.cells) for task in batch) >= 4 * ROWS:
            # one more set, whose result is dropped: each new number of rows would have new matrix kernels generated, kept in memory
            first = batch[0]
            batches = None if first.batches is None else np.resize(first.batches, rest)
            batch = [*batch, replace(first, cells=np.resize(first.cells, rest), batches=batches)]
        sizes = [len(task.cells) for task in batch]
        output, decoded = self._transform(batch, sizes), None
        if self.model.gene_decoder is not None:
            decoded = self._fetch(self.model.decode(output.predicted))
        predicted = self._fetch(output.predicted)
        confidence = self._fetch(output.confidence) if output.confidence is not None else None

        def wait() -> list[SetResult]:
            expression = _split(decoded(), sizes) if decoded is not None else [None] * len(batch)
            features = _split(predicted(), sizes)
            losses = confidence().numpy() if confidence is not None else np.full(len(batch), np.nan)
            return [SetResult(features[i], expression[i], float(losses[i]), task.tag) for i, task in enumerate(batch[:asked])]

        return wait

    def _fetch(self, values: Tensor) -> Landing:
        return self.transfer.fetch(values.float())  # numpy has no bfloat16

    def _transform(self, batch: list[SetTask], sizes: list[int]) -> TransitionOutput:
        """Return (b, s, o) for sets of one size, (all their cells, o) for sets of several sizes."""
        put = self.transfer.put
        cells = torch.from_numpy(np.concatenate([task.cells for task in batch]))  # (n,)
        # (n, d): encoded once, gathered for each set that drew the cell
        encoded = self._basal_encoded[put(cells)]
        labels = self._perturbations([task.perturbation for task in batch])
        basal = put(self._basal[cells], self.dtype) if self.model.needs_basal else None
        batches = None
        if self.model.batch_encoder is not None:
            batches = put(torch.from_numpy(np.concatenate([t.batches for t in batch if t.batches is not None])))
        if len(set(sizes)) > 1:
            return self.model.transform_packed(encoded, labels, sizes, basal, batches, attention=self.attention)
        shape = (len(batch), sizes[0])
        return self._network(
            encoded.view(*shape, -1),
            labels,
            basal.view(*shape, -1) if basal is not None else None,
            batches.view(shape) if batches is not None else None,
            attention=self.attention,
        )

    def _perturbations(self, rows: list[int]) -> Tensor:
        """Return encoded perturbations (b, d); each is encoded when first used, then kept."""
        new = [row for row in dict.fromkeys(rows) if row not in self._encoded]
        # one by one on a CPU, where the last bits of a product depend on how many rows it has; together where a small product costs as much
        for some in [new] if self.transfer.apart and new else [[row] for row in new]:
            self._encoded.update(zip(some, self.model.encode_perturbation(self._features[some]), strict=True))
        return torch.stack([self._encoded[row] for row in rows])


def _split(values: Tensor, sizes: list[int]) -> list[np.ndarray]:
    """Split (b, s, o), or (all cells, o), into one float32 array for each set."""
    whole = require_finite(values.numpy().reshape(-1, values.shape[-1]), "predicts values")
    return np.split(whole, np.cumsum(sizes)[:-1])
