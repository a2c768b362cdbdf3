"""Try spoilt files: `python -m tests.fuzz --kind h5ad --n 1000 --seed 0`. The exit code is 1 when one was neither accepted nor refused."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

# a child is a fork: with threads of numerical libraries around it could wait for one that it does not have
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


def main() -> int:
    """Try the files and write what came of them."""
    from tests.fuzz.subjects import SUBJECTS
    from tests.fuzz.trial import GOOD, summary, trials

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--kind", choices=sorted(SUBJECTS), required=True)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep what is not well there; default: nothing is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcomes = trials(options.kind, options.n, options.seed, options.folder or Path(name))
    bad = [outcome for outcome in outcomes if outcome.verdict not in GOOD]
    for outcome in bad:
        print(f"{outcome.seed} {outcome.verdict}: {outcome.words}")
    print(f"{options.kind}, seed {options.seed}: {summary(outcomes)}")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
