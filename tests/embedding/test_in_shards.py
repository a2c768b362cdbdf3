"""An embedding in shards has the numbers of one in one piece, interrupted or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.embedding import forward
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.errors import JobCancelled
from state_engine.progress import Progress
from state_engine.shards.ledger import log_lines
from state_engine.shards.run import InShards
from tests.small import write_cells
from tests.small_embedding import write_embedding_model


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbedRequest:
    monkeypatch.setattr(forward, "VALUES_A_BLOCK", 0)  # blocks of 64 cells
    write_embedding_model(tmp_path / "se")
    data = write_cells(tmp_path / "cells.h5ad", n=300)
    return EmbedRequest(str(data), str(tmp_path / "se"), device="cpu")


def test_shards_change_no_number(request_: EmbedRequest, tmp_path: Path) -> None:
    whole = embed(request_, tmp_path / "whole.npy")
    found = embed(request_, tmp_path / "parts.npy", shards=InShards(tmp_path / "shards", size=1))
    assert np.array_equal(np.load(tmp_path / "whole.npy"), np.load(tmp_path / "parts.npy"))
    assert (tmp_path / "whole.json").read_text() == (tmp_path / "parts.json").read_text()
    assert replace(found, seconds=0, sentence_seconds=0, waited_seconds=0) == replace(
        whole, seconds=0, sentence_seconds=0, waited_seconds=0
    )
    assert len([line for line in log_lines(tmp_path / "shards") if "done" in line]) == 5


def test_an_interrupted_embedding_goes_on(request_: EmbedRequest, tmp_path: Path) -> None:
    shards = InShards(tmp_path / "shards", size=1)
    embed(request_, tmp_path / "whole.npy")

    def stop(progress: Progress) -> None:
        if progress.stage == "Embedding cells" and progress.done >= 200:
            raise JobCancelled("Stopped by the test.")

    with pytest.raises(JobCancelled):
        embed(request_, tmp_path / "parts.npy", stop, shards=shards)
    embed(request_, tmp_path / "parts.npy", shards=shards)
    assert np.array_equal(np.load(tmp_path / "whole.npy"), np.load(tmp_path / "parts.npy"))
    done = Counter(line["done"] for line in log_lines(shards.folder) if "done" in line)
    assert done == Counter(range(5))
