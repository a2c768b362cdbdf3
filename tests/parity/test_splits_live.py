"""The part of every cell beside the assignment of cell-load, run in its own environment on the same TOML."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from state_engine.data.splits.apply import CODES, open_split
from tests.data.splits.test_apply import CHOICES, write

pytestmark = [pytest.mark.parity, pytest.mark.slow]

SCRIPT = """
import json, sys
from cell_load.data_modules import PerturbationDataModule
found = PerturbationDataModule(
    toml_config_path=sys.argv[1], pert_col="gene", batch_col="batch", cell_type_key="line", control_pert="ctrl",
    embed_key=None, output_space="all", num_workers=0,
)
found.setup()
parts = {}
for part in ("train", "val", "test"):
    for subset in getattr(found, f"{part}_datasets"):
        parts.setdefault(str(subset.dataset.h5_path), {}).setdefault(part, []).extend(int(i) for i in subset.indices)
json.dump(parts, open(sys.argv[2], "w"))
"""
PLAN = """
[datasets]
screen = "{folder}/a/{{one,two}}.h5ad"
other = "{folder}/b"

[training]
screen = "train"

[zeroshot]
"screen.NK 2.1" = "val"
"other.X" = "test"

[fewshot."screen.B"]
val = ["TNF"]
test = ["IL6", "A+B"]

[fewshot."other.Y"]
test = ["IL6"]
"""
SCREEN = {
    ("ctrl", "B"): 5, ("TNF", "B"): 4, ("IL6", "B"): 3, ("A+B", "B"): 2, ("JUN", "B"): 6, ("ctrl", "NK 2.1"): 3,
    ("TNF", "NK 2.1"): 2, ("ctrl", "T"): 4, ("TNF", "T"): 1, ("IL6", "T"): 2,
}  # fmt: skip
OTHER = {(p, c): 3 for p in ("ctrl", "TNF", "IL6") for c in ("X", "Y", "Z")}


def test_every_cell_goes_where_cell_load_puts_it(peer_python: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a" / "one.h5ad", SCREEN)
    write(tmp_path / "a" / "two.h5ad", {k: 2 for k in SCREEN if k[1] != "T"})
    write(tmp_path / "b" / "three.h5ad", OTHER)
    (tmp_path / "split.toml").write_text(PLAN.format(folder=tmp_path))
    command = [str(peer_python), "-c", SCRIPT, str(tmp_path / "split.toml"), str(tmp_path / "parts.json")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    theirs = json.loads((tmp_path / "parts.json").read_text())
    split = open_split(tmp_path / "split.toml", CHOICES)
    assert len(split.sources) == len(theirs) == 3
    for source in split.sources:
        rows = {part: set(theirs[str(source.dataset.path)].get(part, [])) for part in CODES}
        control = source.dataset.perturbation_labels() == "ctrl"
        for part, code in CODES.items():
            ours = set(np.flatnonzero(source.parts == code).tolist())
            assert {i for i in ours if not control[i]} == {i for i in rows[part] if not control[i]}, (source.dataset.path, part)
            # cell-load yields controls in every part of their context; ours are in one of those
            assert {i for i in ours if control[i]} <= rows[part], (source.dataset.path, part)
        assert set(source.held_out_controls().tolist()) <= rows["train"]  # PARITY.md: there they are trained on too
        unused = set(np.flatnonzero(source.parts == 0).tolist())
        assert unused == set(range(len(control))) - set.union(*rows.values())
