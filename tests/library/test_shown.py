"""What a page shows of an error: data sets by their users' names, and no folder of the server."""

from __future__ import annotations

from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import LabelError
from state_engine.library.datasets import receive_upload
from state_engine.library.shown import for_people, without_places
from tests.small import write_cells


def test_an_upload_has_its_users_name_and_folders_are_left_out(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "my home", (tmp_path / "the data",))
    path = write_cells(tmp_path / "cells.h5ad")
    with path.open("rb") as stream:
        entry = receive_upload(settings, "Anna's screen.h5ad", stream, path.stat().st_size)
    text = f"{entry.path} and {Path(entry.path).name}: see {settings.home}/models/.incoming-ab12/model.json and {tmp_path}/the data/x.h5ad"
    assert without_places(text, settings) == "Anna's screen.h5ad and Anna's screen.h5ad: see models/model.json and x.h5ad"
    shown = for_people(LabelError(f"No control in {entry.path}.", "", "Write /tmp/x/.part-0a1b2c3d-y.h5ad again."), settings)
    assert type(shown) is LabelError and str(shown) == "No control in Anna's screen.h5ad. Write y.h5ad again."
    assert without_places("nothing to change", settings) == "nothing to change"
