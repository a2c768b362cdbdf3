"""A run as one zip: taken to another installation and opened there, read as what it is, a foreign file.

Request, manifest, result and what was derived from it travel; data set and model do not. Where the other installation has the same ones (by
the hashes in the manifest) the run points at them and can be made again there; elsewhere it can be looked at alone.
"""

from __future__ import annotations

import re
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from state_engine.analysis import projection
from state_engine.analysis.differential import read_table
from state_engine.config import Settings
from state_engine.errors import RunError, StateError, door, listed
from state_engine.files import read_json, room_for, scratch_folder, sha256_of, size_on_disk, write_json
from state_engine.jobs.kinds import KINDS, find_kind, request_class
from state_engine.jobs.run_folder import Manifest, RunFolder
from state_engine.library.datasets import list_datasets
from state_engine.library.foreign import SLOWEST, call, read_file
from state_engine.library.models import places_of
from state_engine.library.zips import Contents, pack, unpack_contents
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.result import open_result
from state_engine.sandbox import Limits
from state_engine.sandbox.limits import MB

PACKED: Final = ("predict",)  # kinds that travel: their folders hold tables and numbers only, which a child process reads
AGAIN: Final = "Export the run again."
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,199}")
_ENDINGS = (".json", ".txt", ".h5ad", ".npz", ".parquet", ".csv")


def _inside(path: PurePosixPath) -> str:
    """Return the place of a file in the folder of a run; "" for what no run has."""
    plain = len(path.parts) <= 2 and all(_PART.fullmatch(part) for part in path.parts)
    return str(path) if plain and path.suffix in _ENDINGS else ""


RUN = Contents(
    "A run", _inside, ("manifest.json", "request.json", "result.h5ad"),
    f"A run has files that end in {listed(_ENDINGS, 9)}, and one level of folders.",
    20_000, ("manifest.json", "request.json", "summary.json"), RunError, AGAIN,
)  # fmt: skip


def export_run(settings: Settings, run_id: str, out: Path) -> Path:
    """Write a run as a zip that `import_run` reads.

    Raises:
        RunError: there is no such run, it is not done, or of a kind that does not travel.
    """
    run = RunFolder.open(settings, run_id)
    kind = KINDS.get(run.manifest.kind)
    if run.manifest.kind not in PACKED:
        words = kind.title if kind is not None else run.manifest.kind
        raise RunError(
            f"Run {run_id} cannot be exported as a zip.", f"It is a {words}.", "Predictions can; take the files of others home."
        )
    if run.state != "done" or not run.result.is_file():
        raise RunError(f"Run {run_id} cannot be exported.", f"It is {run.state}.", "Only a run that is done has a result.")
    room_for(out.parent, size_on_disk(run.path))
    files = (path.relative_to(run.path) for path in sorted(run.path.rglob("*")) if path.is_file() and not path.is_symlink())
    return pack(out, run.path, [str(path) for path in files if _inside(PurePosixPath(path))], zipfile.ZIP_DEFLATED)


def import_run(settings: Settings, path: Path, name: str = "") -> RunFolder:
    """Unpack a run into this installation; one that is here already is returned as it is.

    Args:
        settings: as the owner has them.
        path: the zip.
        name: how the user calls it; default: its name.

    Raises:
        RunError: it is no zip of a run, damaged, or holds what no run has. RequestError: the settings are for looking only.
    """
    settings.check_changes()
    name = name or path.name
    settings.runs.mkdir(parents=True, exist_ok=True)
    with scratch_folder(settings) as scratch, door(name, RunError, AGAIN):
        folder = scratch / "run"
        folder.mkdir()
        limits = Limits(60 + settings.max_file_bytes / SLOWEST, written_mb=settings.max_file_bytes // MB + 1)
        call(unpack_run, path, folder, settings, name, path=path, name=name, limits=limits, writes=(folder,))
        manifest, request = _checked(folder, name)
        here = settings.runs / manifest.id
        if here.is_dir() and RunFolder(here).manifest.created == manifest.created:
            return RunFolder(here)
        if here.exists() or (settings.home / "trash" / "deleted" / manifest.id).exists():
            manifest = replace(manifest, id=f"{manifest.id[:16]}{secrets.token_hex(3)}")
        placed = _placed(settings, manifest, request)
        write_json(folder / "request.json", placed)
        write_json(folder / "manifest.json", to_plain(_as_ours(settings, manifest)))
        return RunFolder(folder.rename(settings.runs / manifest.id))


def unpack_run(path: Path, folder: Path, settings: Settings, name: str) -> None:
    """Write the files of a run from a zip into a folder; runs in a child that may write nowhere else.

    Raises:
        RunError: see `import_run`.
    """
    with door(name, RunError, AGAIN):
        unpack_contents(path, folder, settings, name, RUN)


def _checked(folder: Path, name: str) -> tuple[Manifest, dict[str, object]]:
    """Return manifest and request of an unpacked run, once everything in it could be read, in a child where it is no JSON."""
    run = RunFolder(folder)
    try:
        manifest, request = run.manifest, run.request
        if manifest.kind not in PACKED or manifest.state != "done" or not re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", manifest.id):
            raise RunError(f"{name} holds no prediction that is done.", f"It is a {manifest.kind}, {manifest.state}.", AGAIN)
        from_plain(request_class(find_kind(manifest.kind)), request)
        for path in folder.glob("*.json"):
            read_json(path)
        read_file(open_result, run.result)
        if run.file("projection.npz").exists():
            read_file(projection.load, run.file("projection.npz"))
        for table in sorted(folder.glob("*/*.parquet"))[:3]:
            read_file(read_table, table)
    except (StateError, OSError, ValueError) as error:
        words = str(error).replace(str(folder), name).replace(folder.name, name)
        raise RunError(f"{name} is no whole run.", words, AGAIN) from error
    return manifest, request


def _as_ours(settings: Settings, manifest: Manifest) -> Manifest:
    """Return the manifest of a run that came from elsewhere: its owner is who brought it, and no job or process here made it."""
    came = {**manifest.settings, "imported": True}
    return replace(manifest, owner=settings.owner, job="", process="", parent="", settings=came)


def _placed(settings: Settings, manifest: Manifest, request: Mapping[str, object]) -> dict[str, object]:
    """Return a request whose data set and model are those of this installation, or names in the run's folder where it has none.

    Nothing of the other machine's paths stays: a path that happens to exist here is none that its owner may read.
    """
    folder = settings.runs / manifest.id
    data_name, model_name = _name_of(request["data"]), _name_of(request["model"])
    data = next((e.path for e in list_datasets(settings) if _is_same(Path(e.path), manifest.data_hash, data_name)), "")
    # several may have these weights, by other names: the one whose folder is called like that of the run is meant
    places = sorted(places_of(settings, manifest.model_hash), key=lambda place: place.name != model_name)
    model = str(places[0]) if places else ""
    placed = {**request, "data": data or str(folder / data_name), "model": model or str(folder / model_name)}
    screens = request.get("measured")
    if isinstance(screens, list):  # further screens are not known by a hash
        placed["measured"] = [{**screen, "data": str(folder / _name_of(screen["data"]))} for screen in screens]
    return placed


def _name_of(path: object) -> str:
    """Return the name of a file or folder of the other machine, whose separators may be others."""
    return re.split(r"[/\\]", str(path).rstrip("/\\"))[-1] or "unnamed"


def _is_same(path: Path, sha256: str, name: str) -> bool:
    """Return whether a data set of this installation is the one of a run; only one of that name, or an upload, is read."""
    if not sha256 or not path.is_file():
        return False
    likely = path.name == name or re.fullmatch(r"[0-9a-f]{12}\.h5ad", path.name)
    if not likely:
        return False
    return sha256_of(path) == sha256
