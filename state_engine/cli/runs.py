"""The command `runs`: the runs of an installation, as the page Runs shows them: list, export, import, and requests from a file."""

from __future__ import annotations

import argparse
from functools import partial

from state_engine.cli.options import Write, path, takes, word, yes
from state_engine.config import Settings, load_settings
from state_engine.errors import RequestError
from state_engine.files import free_output
from state_engine.progress import OnProgress


@takes(
    {
        "--export": word("RUN", "write this run as a zip, to --output"),
        "--output": path("RUN.zip", "the zip, or with --request the JSON file"),
        "--import": path("RUN.zip", "take in a run that another installation exported"),
        "--request": word("RUN", "write what a run asked for, as a file that --submit takes, to --output"),
        "--submit": path(
            "REQUESTS.json", "queue the requests of a file: entries with kind, title and request, or a list of them"
        ),
        "--check": yes("with --submit: check the requests, queue none"),
        "--keep": word("RUN", "keep a run that would be deleted for its age (STATE_EXPLORER_RUN_DAYS)"),
    }
)
def run_runs(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """List runs, or take one out, one in, or several requests in. Returns 1 when a request is wrong."""
    settings = load_settings()
    given = {name: getattr(options, name) for name in ("export", "import", "request", "submit", "keep")}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) > 1:
        raise RequestError("Only one of these at a time.", f"--{' and --'.join(asked)} were given.")
    if asked in (["export"], ["request"]):
        if options.output is None:
            raise RequestError(f"--{asked[0]} needs --output.", "It says where the file goes.")
        free_output(options.output)
    verbs = {
        "export": partial(_export, settings, options, write), "import": partial(_import, settings, given["import"], write),
        "request": partial(_request, settings, options, write), "submit": partial(_submit, settings, options, write),
        "keep": partial(_keep, settings, given["keep"], write),
    }  # fmt: skip
    return verbs[asked[0]]() if asked else _list(settings, write)


def _list(settings: Settings, write: Write) -> int:
    from state_engine.jobs.ages import due, sweep
    from state_engine.jobs.kinds import KINDS
    from state_engine.jobs.run_folder import list_runs

    infos = [i for i in list_runs(settings) if i.manifest is None or (k := KINDS.get(i.manifest.kind)) is None or k.listed]
    gone, days = sweep(settings, infos), due(settings, infos)
    for info in infos:
        if info.id in gone:
            continue
        kind, title = (info.manifest.kind, info.manifest.title) if info.manifest else ("", info.problem)
        old = f"; will be deleted on {days[info.id]} (--keep {info.id})" if info.id in days else ""
        write(f"{info.id}  {info.state:9s}  {kind:9s}  {title}{old}")
    return 0


def _export(settings: Settings, options: argparse.Namespace, write: Write) -> int:
    from state_engine.jobs.packed import export_run

    write(f"{export_run(settings, options.export, options.output)}: {options.output.stat().st_size:,} bytes")
    return 0


def _import(settings: Settings, path: object, write: Write) -> int:
    from pathlib import Path

    from state_engine.jobs.packed import import_run

    write(import_run(settings, Path(str(path))).id)
    return 0


def _request(settings: Settings, options: argparse.Namespace, write: Write) -> int:
    from state_engine.jobs.many import entry_of
    from state_engine.jobs.run_folder import RunFolder

    options.output.write_bytes(entry_of(RunFolder.open(settings, options.request)))
    write(str(options.output))
    return 0


def _submit(settings: Settings, options: argparse.Namespace, write: Write) -> int:
    from state_engine.jobs import local
    from state_engine.jobs.checks import check
    from state_engine.jobs.many import checked, placed, requests_of

    entries = placed(settings, requests_of(options.submit.read_bytes()))
    found = [checked(asked, partial(check, settings)) for asked in entries]
    for number, asked in enumerate(found, 1):
        if asked.request is None:
            write(f"{number}: {asked.problem}")
        elif options.check:
            write(f"{number}: {asked.kind}, {asked.title}: well")
        else:
            write(f"{number}: {local.submit(settings, asked.request, asked.title)[1]}")
    return int(any(asked.request is None for asked in found))


def _keep(settings: Settings, run: str, write: Write) -> int:
    from state_engine.jobs.ages import keep
    from state_engine.jobs.run_folder import RunFolder

    keep(settings, RunFolder.open(settings, run).id)
    write(f"{run} stays.")
    return 0
