"""cell-eval in an environment and a process of its own: it changes matrices in place and settings for a whole process.

The interpreter is the user's word on the command line; a page never gives one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anndata as ad

from state_engine.errors import ChallengeError

Values = dict[str, dict[str, float]]

_SCRIPT = """
import json, sys
from importlib.metadata import version
import anndata as ad
from cell_eval import MetricsEvaluator

folder, control, column = sys.argv[1:4]
out = {"versions": {name: version(name) for name in ("cell-eval", "pdex")}}
out["values"] = {}
for side in sys.argv[4:]:
    evaluator = MetricsEvaluator(
        ad.read_h5ad(f"{folder}/{side}.h5ad"), ad.read_h5ad(f"{folder}/measured.h5ad"),
        control_pert=control, pert_col=column, outdir=f"{folder}/{side}",
    )
    frame, _ = evaluator.compute(profile="vcc", write_csv=False)
    names = frame["perturbation"].to_list()
    out["values"][side] = {m: dict(zip(names, frame[m].to_list())) for m in frame.columns if m != "perturbation"}
with open(f"{folder}/out.json", "w") as file:
    json.dump(out, file)
"""


def run_cell_eval(
    python: Path, sides: Mapping[str, ad.AnnData], measured: ad.AnnData, control: str, column: str
) -> tuple[dict[str, Values], dict[str, str]]:
    """The 2025 metrics by perturbation of each side (a name that can be a file's, and its cells), and the versions that made them.

    Raises:
        ChallengeError: no such interpreter, or cell-eval failed there.
    """
    with tempfile.TemporaryDirectory(prefix="cell-eval-") as name:
        folder = Path(name)
        for side, cells in (*sides.items(), ("measured", measured)):
            cells.write_h5ad(folder / f"{side}.h5ad")
        try:
            done = subprocess.run(
                [python, "-c", _SCRIPT, folder, control, column, *sides], cwd=folder, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise ChallengeError(f"{python} cannot be started.", f"{error.strerror}.", "Give the Python of cell-eval.") from error
        if done.returncode or not (folder / "out.json").exists():
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ChallengeError("cell-eval failed.", f"It says: {last[:400]}", "Score without it.")
        out = json.loads((folder / "out.json").read_text())
    return out["values"], out["versions"]
