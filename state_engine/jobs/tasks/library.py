"""What the worker does to bring a public data set here: fetched into the installation's folder, its files known as data sets."""

from __future__ import annotations

from typing import Any

from state_engine.config import load_settings
from state_engine.data.files.file_kind import check_signature
from state_engine.errors import DataError
from state_engine.files import write_json
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import register_public
from state_engine.plain import to_plain
from state_engine.progress import OnProgress
from state_engine.public_data.catalogue import find
from state_engine.public_data.fetch import RECORD, home_of
from state_engine.public_data.fetch import fetch as fetch_data


def fetch(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A public data set of the catalogue: {"name"}. What has arrived stays when it is stopped, and is used the next time."""
    settings, data = load_settings(), find(str(request["name"]))
    folder = home_of(data.name, settings)
    run.log(f"Licence: {data.licence} {data.licence_url}".rstrip())
    made = fetch_data(data, folder, on_progress, settings)
    write_json(run.file(RECORD), to_plain(made))
    hashes = {arrived.name: arrived.sha256 for arrived in made.arrived}
    run.record(
        data_hash=made.arrived[0].sha256 if len(hashes) == 1 else None,
        command=f"python -m state_engine fetch {data.name}",
        settings={"sha256": hashes, "checked": [a.checked for a in made.arrived], "licence": made.licence},
    )
    known = []
    for name in made.data:
        try:
            check_signature(folder / name, settings.max_file_bytes)
        except DataError as error:
            run.log(f"{name} is not among the data sets: {error}")
            continue
        title = data.title if len(made.data) == 1 else f"{data.title}: {name.rpartition('/')[2]}"
        known.append(register_public(settings, folder / name, title).id)
    return {"name": data.name, "data": known, "plans": [str(folder / name) for name in made.plans]}
