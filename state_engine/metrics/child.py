"""cell-eval in an environment and a process of its own: it changes matrices in place and settings for a whole process.

The user names the interpreter on the command line; a page never does.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import anndata as ad

from state_engine.errors import ChallengeError
from state_engine.files import scratch_folder
from state_engine.metrics.engine import Values
from state_engine.metrics.profile import TARGET

_SCRIPT = """
import json, sys
from importlib.metadata import version
import anndata as ad
import numba
from cell_eval import MetricsEvaluator

folder, control, column, profile = sys.argv[1:5]
out = {"versions": {name: version(name) for name in ("cell-eval", "pdex")}}
out["values"] = {}
for side in sys.argv[5:]:
    evaluator = MetricsEvaluator(
        ad.read_h5ad(f"{folder}/{side}.h5ad"), ad.read_h5ad(f"{folder}/measured.h5ad"),
        control_pert=control, pert_col=column, outdir=f"{folder}/{side}",
        num_threads=numba.get_num_threads(),
    )
    frame, _ = evaluator.compute(profile=profile, write_csv=False)
    names = frame["perturbation"].to_list()
    out["values"][side] = {m: dict(zip(names, frame[m].to_list())) for m in frame.columns if m != "perturbation"}
with open(f"{folder}/out.json", "w") as file:
    json.dump(out, file)
"""


def run_cell_eval(
    python: Path, profile: str, sides: Mapping[str, ad.AnnData], measured: ad.AnnData, control: str
) -> tuple[dict[str, Values], dict[str, str]]:
    """Return the metrics of each side by perturbation, and the versions of the packages that computed them.

    Args:
        python: interpreter of an environment with cell-eval.
        profile: cell-eval's name of the metrics.
        sides: cells by a name that can be a file's.

    Raises:
        ChallengeError: no such interpreter, or cell-eval failed there.
    """
    with scratch_folder() as folder:
        for side, cells in (*sides.items(), ("measured", measured)):
            cells.write_h5ad(folder / f"{side}.h5ad")
        try:
            done = subprocess.run(
                [python, "-c", _SCRIPT, folder, control, TARGET, profile, *sides],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except OSError as error:
            raise ChallengeError(f"{python} cannot be started.", f"{error.strerror}.", "Give the Python of cell-eval.") from error
        if done.returncode or not (folder / "out.json").exists():
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ChallengeError("cell-eval failed.", f"It says: {last[:400]}", "Score without it.")
        out = json.loads((folder / "out.json").read_text())
    return out["values"], out["versions"]
