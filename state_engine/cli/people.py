"""The command `people`: who logged in and what each uses, and what the local owner has given to one of them."""

from __future__ import annotations

import argparse

from state_engine.cli.options import Write, takes, word
from state_engine.config import load_settings
from state_engine.progress import OnProgress


@takes(
    {
        "--give": word(
            "OWNER", "move what the local owner has (data sets, models, runs …) into this person's home; the app must not run"
        )
    }
)
def run_people(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """List who logged in, with disk and runs; or give a person what was there before the first login."""
    from state_engine.jobs.handover import give
    from state_engine.jobs.run_folder import list_runs
    from state_engine.library.people import homes, people, used_bytes

    settings = load_settings()
    if options.give is not None:
        done = give(settings, options.give)
        for folder, n in done.moved.items():
            write(f"{folder}: {n:,} moved")
        for place in done.stayed:
            write(f"{place} stays: {options.give} has something of that name")
        if not done.moved:
            write("There was nothing to move.")
        return
    last = {person.owner: person.last for person in people(settings)}
    for home in homes(settings):
        seen = f", here last {last[home.owner][:10]}" if home.owner else ""
        write(f"{home.owner or 'local owner'}  {used_bytes(home) / 1e9:.2f} GB  {len(list_runs(home)):,} runs{seen}")
