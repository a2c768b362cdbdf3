"""The report of a run of this installation, or of a folder that the command line made: how it was made, without folders of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from state_engine.config import Settings
from state_engine.files import read_json
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import training_folder
from state_engine.library.datasets import DEMO_PATH, list_datasets
from state_engine.library.shown import without_places
from state_engine.progress import OnProgress, silent
from state_engine.public_data.fetch import read_record
from state_engine.reports.provenance import Provenance, name_of
from state_engine.reports.write import FINDERS, kind_in, write_report

REPORT: Final = "report.html"
REPORTED: Final = tuple(FINDERS)  # kinds of runs that have a report
MOST_OF_NAME: Final = 50  # characters of each part of a report's name
_DEMO: Final = "The data are simulated, and come with STATE Explorer."
_DATA, _MODEL = ("data", "real"), ("model", "run")  # fields of requests that name the cells and the model


def report_of_run(settings: Settings, run: RunFolder, output: Path, on_progress: OnProgress = silent) -> Path:
    """Write the report of a run.

    Raises:
        RequestError: there is none of such a kind. RunError: the run is not done, or damaged.
    """
    folder = training_folder(run) if run.manifest.kind == "train" else run.path
    return write_report(provenance_of(settings, run), folder, output, on_progress)


def report_of_folder(settings: Settings, folder: Path, output: Path, on_progress: OnProgress = silent) -> Path:
    """Write the report of what a command wrote: a folder, or a result file.

    Raises:
        RequestError, RunError: see `write_report`.
    """
    if (folder / "manifest.json").is_file() and (folder / "request.json").is_file():
        return report_of_run(settings, RunFolder(folder), output, on_progress)
    kind = kind_in(folder)
    return write_report(Provenance(kind, KINDS[kind].title, folder.stem), folder, output, on_progress)


def report_name(settings: Settings, run: RunFolder) -> str:
    """Return a name for the file of a report: the data set, the model, what was asked, and the end of the run's id."""
    made = provenance_of(settings, run)
    parts = [
        re.sub(r"[^A-Za-z0-9+.]+", "-", part).strip("-.")[:MOST_OF_NAME]
        for part in (Path(made.data).stem, made.model, made.title)
    ]
    return "_".join([*filter(None, parts), run.id[-6:]]) + ".html"


def provenance_of(settings: Settings, run: RunFolder) -> Provenance:
    """Return how a run was made, with names in the place of paths."""
    manifest, request = run.manifest, run.request
    data, model = _first(request, _DATA), _first(request, _MODEL)
    names = {entry.path: entry.name for entry in list_datasets(settings)}
    asked = {"kind": manifest.kind, "title": manifest.title, "request": _shareable(settings, request, names)}
    kind = KINDS.get(manifest.kind)
    return Provenance(
        manifest.kind,
        kind.title if kind is not None else manifest.kind,
        manifest.title,
        run.id,
        manifest.created,
        manifest.elapsed,
        manifest.python,
        manifest.system,
        manifest.versions,
        manifest.seed,
        manifest.device,
        manifest.precision,
        names.get(data, name_of(data)),
        manifest.data_hash,
        _model_name(model),
        manifest.model_hash,
        without_places(manifest.command, settings),
        {name: _shareable(settings, value, names) for name, value in manifest.settings.items()},
        json.dumps([asked], indent=1, ensure_ascii=False).encode(),
        _sources(data),
    )


def _shareable(settings: Settings, value: object, names: Mapping[str, str]) -> object:
    """Return plain values in which paths are names: of data sets as their users call them, of other files their last part."""
    if isinstance(value, Mapping):
        return {name: _shareable(settings, inner, names) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(settings, inner, names) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute() and "\n" not in value:
        return names.get(value, name_of(value))
    return without_places(value, settings) if isinstance(value, str) else value


def _first(request: Mapping[str, object], names: tuple[str, ...]) -> str:
    return next((str(request[name]) for name in names if request.get(name)), "")


def _model_name(path: str) -> str:
    """Return the name on a model's card, else that of its folder."""
    card = Path(path) / "model.json"
    try:
        found = read_json(card) if path and card.is_file() else {}
    except (OSError, ValueError):
        found = {}
    return str(found.get("name") or name_of(path)) if isinstance(found, dict) else name_of(path)


def _sources(path: str) -> tuple[str, ...]:
    """Return whom to cite for a data set: of a fetched one its catalogue says so."""
    if path and Path(path).resolve() == DEMO_PATH.resolve():
        return (_DEMO,)
    records = (read_record(parent) for parent in list(Path(path).parents)[:3]) if path else ()
    found = next((record for record in records if record is not None), None)
    return (found.citation,) if found is not None and found.citation else ()
