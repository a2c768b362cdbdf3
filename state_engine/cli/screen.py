"""The command `screen`: rank every perturbation of a model by what it does to the cells."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from state_engine.cli.options import CHECKPOINT, EXECUTOR, JSON, Write, add_names, named_checkpoint, path, request, takes, word
from state_engine.plain import to_plain
from state_engine.progress import OnProgress
from state_engine.screening.request import ScreenRequest

SHOWN = 10  # rows of the ranking


@takes(
    ScreenRequest,
    JSON,
    CHECKPOINT,
    EXECUTOR,
    {
        "--output": path("DIR", "folder of the screen; one that was stopped is gone on with", required=True),
        "--up": path("FILE", "genes that are to go up: a list, a CSV or a GMT"),
        "--down": path("FILE", "genes that are to go down"),
        "--up-set": word("NAME", "the gene set that is to go up, where --up is a GMT with several"),
        "--down-set": word("NAME", "the gene set that is to go down, where --down is a GMT with several"),
        "--explain": path("FILE", "a measured effect, as a table with columns gene and log2_fold_change (as `de` writes it)"),
        "--perturbations-file": path("F", "file with labels to screen, one per line, or in the first column of a table"),
    },
)
def run_screen(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Screen, and show the best of the ranking."""
    from state_engine.checkpoints.load import card_of
    from state_engine.gene_sets.text import read_genes
    from state_engine.screening.genes_text import read_changes
    from state_engine.screening.report import RANKING, read_ranking
    from state_engine.screening.run import screen
    from state_engine.shards.run import in_run

    options.model = str(named_checkpoint(Path(options.model), options.checkpoint))
    known = card_of(Path(options.model)).perturbations if options.perturbations_file else ()
    add_names(options, "perturbations", options.perturbations_file, known, write)
    for field, file, name in (("up_genes", options.up, options.up_set), ("down_genes", options.down, options.down_set)):
        given = list(getattr(options, field, []))
        setattr(options, field, [*given, *(read_genes(file, name or "") if file else ())])
    if options.explain:
        more = [[c.gene, str(c.log2_fold_change)] for c in read_changes(options.explain)]
        options.changes = [*getattr(options, "changes", []), *more]
    asked = request(ScreenRequest, options)
    executor = in_run(options.output, options.executor).executor
    report = screen(asked, options.output, on_progress, places=_places(asked), executor=executor)
    if options.json:
        write(json.dumps(to_plain(report), indent=2))
        return
    write(f"{options.output}: {report.words()}")
    table = read_ranking(options.output / RANKING).head(SHOWN)
    for row in table.itertuples(index=False):
        chance = f"q {row.q:.2g}" if row.q == row.q else "no q"
        added = "  (added effects)" if row.made != "predicted" else ""
        write(f"{row.rank:>4}  {row.perturbation} in {row.context}  score {row.score:.3g}  {chance}  seen: {row.seen}{added}")
    alike = report.resemblance
    for remark in (*report.remarks, *([alike.words()] if alike is not None and alike.alike else [])):
        write(remark)


def _places(asked: ScreenRequest) -> tuple[Path, ...] | None:
    """Return where the model behind a head may lie: where it was, and the library."""
    if not asked.head:
        return None
    from state_engine.checkpoints.head_card import read_head_card
    from state_engine.config import load_settings
    from state_engine.library.models import places_of

    card = read_head_card(Path(asked.head))
    hinted = [Path(card.place)] if card.place else []
    return (*hinted, *places_of(load_settings(), card.source.model))
