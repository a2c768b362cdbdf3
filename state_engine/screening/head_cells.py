"""What a head says of the cells of a screen: its probability of one label for each, or its number."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from state_engine.checkpoints.head_store import LoadedHead, load_head
from state_engine.data.dataset import open_dataset
from state_engine.device import Device, choose_device
from state_engine.errors import RequestError, listed, may_be, near_each
from state_engine.files import scratch_folder
from state_engine.heads.annotate import find_backbone, head_values
from state_engine.heads.backbones import Loaded, load_backbone
from state_engine.heads.request import AnnotateRequest
from state_engine.heads.vectors import same_source
from state_engine.screening.request import ScreenRequest


@dataclass(frozen=True, eq=False)
class HeadReader:
    """A head, the model behind it, and one of its labels.

    Args:
        head: the head.
        request: what is asked of it.
        loaded: the model that makes its vectors; None where files hold them.
        device: where that is.
        column: of the label among the head's values.
        label: its name, "" for a number.
        remarks: gets sentences worth showing.
    """

    head: LoadedHead
    request: AnnotateRequest
    loaded: Loaded | None
    device: Device
    column: int
    label: str
    remarks: dict[str, None] = field(default_factory=dict)

    def values(self, path: Path) -> NDArray[np.float64]:
        """Return (n, 1) values of the cells of a file in the layout of a result; NaN for a cell without a vector.

        Raises:
            IncompatibleError, RepresentationError: the cells have no vectors that the head reads; both models are named.
        """
        dataset = open_dataset(path)
        source, loaded = same_source(self.head.card, self.request, dataset, self.loaded)
        found, remarks = head_values(self.head, source, dataset, loaded, self.device)
        self.remarks.update(dict.fromkeys(r.replace(path.name, "the prediction") for r in remarks))
        return found[:, self.column : self.column + 1]

    def values_of(self, cells: ad.AnnData) -> NDArray[np.float64]:
        """Return the same of cells in memory."""
        with scratch_folder() as folder:
            path = folder / "cells.h5ad"
            cells.write_h5ad(path)
            return self.values(path)


def head_reader(request: ScreenRequest, places: tuple[Path, ...] | None = None) -> HeadReader:
    """Return the reader of a request's head.

    Args:
        request: the screen.
        places: where the model behind the head may lie; by default where it was when the head was fitted.

    Raises:
        RequestError: it has no such label. CheckpointError: it is no head.
    """
    head, device = load_head(Path(request.head)), choose_device(request.device)
    labels = head.card.labels
    if request.label and request.label not in labels:
        raise RequestError(
            f"The head '{head.card.name}' has no label '{request.label}'.",
            f"Its labels: {listed(labels, 12) or 'none, it gives a number'}.",
            may_be(near_each([request.label], labels)),
        )
    label = request.label or (labels[-1] if labels else "")
    asked = AnnotateRequest(
        request.head, request.data, backbone=request.backbone, device=request.device, precision=request.precision
    )
    found = find_backbone(head.card, Path(request.head), asked, places)
    loaded = load_backbone(found, device, request.precision) if found is not None else None
    return HeadReader(head, asked, loaded, device, labels.index(label) if label else 0, label)
