"""The tables of genes of all conditions of a run, a shard for each condition: its tables lie in the run as ever (`analysis.stored`), and the shard
notes that they are complete."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.analysis import differential as de
from state_engine.analysis import stored
from state_engine.errors import RequestError
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress
from state_engine.shards.executors import Executor, Local
from state_engine.shards.ledger import held
from state_engine.shards.plan import Plan, Recipe, Shard, Tick, Write
from state_engine.shards.run import complete

STAGE: Final = "Comparing genes"
FOLDER: Final = "shards"  # below that of the tables


@dataclass(frozen=True)
class Compared:
    """A run whose conditions are compared."""

    run: str


class TablesBench:
    """Makes the tables of conditions of one run. See `state_engine.shards.plan.Bench`."""

    def __init__(self, asked: Compared) -> None:
        self.run = Path(asked.run)

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """See `Bench`. A condition with too few cells has no table; whoever collects them says so."""
        tick(0)
        note: dict[str, str] = {}
        with suppress(RequestError):
            condition = str(shard.what["perturbation"]), str(shard.what["context"])
            note["table"] = stored.answer(self.run, *condition, on_progress=lambda progress: tick(0)).name

        def write(path: Path) -> None:
            path.write_text(json.dumps(note))

        return write


def make_tables(run: Path, on_progress: OnProgress, executor: Executor | None = None) -> None:
    """Make the tables of all conditions, where they are not there.

    Args:
        run: its folder, with result.h5ad.
        on_progress: told for each condition; may raise `JobCancelled`, what is done then stays.
        executor: computes them; None: this process.

    Raises:
        RunError: the run has no readable result. RequestError: another process makes them, or the disk is full.
    """
    result, folder = open_result(run / "result.h5ad"), run / de.FOLDER / FOLDER
    plan, executor = _plan(run, result), executor or Local()
    missing = [shard for shard in plan.shards if not _is_there(run, shard)]
    if not missing:
        return
    with held(folder, plan, temporary=True) as ledger:
        for shard in missing:  # a note without its table says nothing
            ledger.forget(shard)
        complete(ledger, executor, on_progress, TablesBench(Compared(str(run))) if isinstance(executor, Local) else None, missing)


def _plan(run: Path, result: Result) -> Plan:
    shards = tuple(
        Shard(number, {"perturbation": perturbation, "context": context}, size=8 * result.n_genes * len(de.COLUMNS))
        for number, (perturbation, context) in enumerate(result.conditions())
    )
    facts = {"tables": de.table_path(run, "", "").name, "comparisons": stored.comparison_path(run, "", "").name}
    return Plan("tables", STAGE, Recipe(TablesBench, Compared(str(run))), shards, facts)


def _is_there(run: Path, shard: Shard) -> bool:
    return de.table_path(run, str(shard.what["perturbation"]), str(shard.what["context"])).exists()
