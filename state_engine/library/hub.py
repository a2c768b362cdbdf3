"""Models from a Hugging Face hub: what a repository holds, its licence, and a download that can be stopped and resumed.

Boundary: files only. What the files mean is read by `recognise`, `store` and `arc`; nothing here opens a pickle.
The library `huggingface_hub` gives addresses, headers (a saved token) and typed errors; the bytes come by `state_engine.download`.
Its own download reports every 10 MiB and drops what has arrived when a callback stops it, so that it is not used.

A downloaded model lies in `settings.home/downloads/OWNER--NAME/COMMIT/SUBFOLDER`, with a `download.json` (`Provenance`).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import CARD as EMBEDDING_CARD
from state_engine.checkpoints.embedding_card import EmbeddingCard, is_embedding_store, read_embedding_card
from state_engine.checkpoints.store import read_card, write_card
from state_engine.config import Settings, gib
from state_engine.download import CONNECT_SECONDS, RemoteFile, read_text
from state_engine.download import download as download_file
from state_engine.errors import CheckpointError, ConfigError, DownloadError, LicenceError, listed
from state_engine.files import read_json, write_json
from state_engine.library import published as catalogue
from state_engine.library.hub_contents import HubFile, HubInfo, below, hub_file, licence_of, limits_section, model_folders
from state_engine.library.hub_errors import plain_errors, refusal
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent

RECORD = "download.json"
README_MOST_BYTES = 1 << 20
LIMITS_MOST_LINES = 12


@dataclass(frozen=True)
class Provenance:
    """Where downloaded files came from: `download.json`. `files` are path -> sha256."""

    repo: str
    revision: str
    commit: str
    subfolder: str
    licence: str
    licence_url: str
    licence_accepted_at: str
    limits: str
    files: dict[str, str]

    @property
    def source(self) -> str:
        """As recorded in a model's card: 'hub owner/name@commit subfolder'."""
        return f"hub {self.repo}@{self.commit}" + (f" {self.subfolder}" if self.subfolder else "")


def pinned(repo: str, settings: Settings) -> str:
    """Return the commit that is meant where nobody names one: the catalogue's, else that of the first download here, else the newest ("main")."""
    known = catalogue.by_repo(repo)
    if known and known.revision:
        return known.revision
    folder = settings.home / "downloads" / repo.replace("/", "--")
    records = [provenance(path.parent) for path in folder.rglob(RECORD)]
    kept = sorted((record for record in records if record is not None), key=lambda record: record.licence_accepted_at)
    return kept[0].commit if kept else "main"


def info(repo: str, revision: str, settings: Settings) -> HubInfo:
    """What `repo` ("owner/name") holds at `revision` (branch, tag or commit; "" for the one that is `pinned`). Downloads no weights.

    Raises:
        DownloadError: no network, no such repository or revision, no access.
    """
    from huggingface_hub import HfApi

    _check_repo(repo)
    revision = revision or pinned(repo, settings)
    api = HfApi(endpoint=settings.hub_endpoint)
    with plain_errors(repo, revision, settings):
        try:
            found = api.model_info(repo, revision=revision, files_metadata=True, timeout=CONNECT_SECONDS * 2)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DownloadError(
                f"{settings.hub_endpoint} did not answer as a model hub does.", repr(error), "Check HF_ENDPOINT."
            ) from error
    if not found.sha or not re.fullmatch(r"[0-9a-f]{40}", found.sha):
        raise DownloadError(f"The hub did not say which commit '{revision}' of {repo} is.", "It cannot be pinned.", "Try later.")
    files = tuple(hub_file(repo, sibling) for sibling in found.siblings or [])
    folders = model_folders(files)
    licence, url = licence_of(repo, found.card_data, files, settings)
    readme = next((f for f in files if f.path == "README.md" and f.size <= README_MOST_BYTES), None)
    limits = ""
    if readme is not None:
        remote = _remote(repo, found.sha, readme, readme.path, settings)
        limits = limits_section(read_text(remote, readme.size, refusal(repo, found.sha, settings)))
    return HubInfo(repo, found.sha, licence, url, bool(found.gated), files, folders, limits)


def download(
    repo: str,
    revision: str,
    settings: Settings,
    accept_licence: bool,
    subfolder: str | None = None,
    on_progress: OnProgress = silent,
    checkpoint: str | None = None,
) -> Path:
    """Downloads one model and returns its folder. What is already there, whole or in part, is not fetched again.

    Args:
        subfolder: the model's folder in the repository; None when it holds only one.
        checkpoint: which .ckpt ("checkpoints/best.ckpt"); None takes the final one.
        on_progress: told of bytes; may raise to stop. What has arrived stays and is used the next time.

    Raises:
        LicenceError: `accept_licence` is False.
        DownloadError: no network, no access, several models and none chosen, another hash, no space.
    """
    facts = info(repo, revision, settings)
    if not accept_licence:
        raise LicenceError(
            f"The weights of {repo} come under a licence: {facts.licence}.",
            "They are downloaded only after you accept it.",
            f"Read it at {facts.licence_url}." if facts.licence_url else "Ask its authors for the terms.",
        )
    subfolder = _only_model(facts) if subfolder is None else subfolder.strip("/")
    needed = facts.needed(subfolder, checkpoint)
    total = sum(f.size for f in needed)
    folder = settings.home / "downloads" / repo.replace("/", "--") / facts.commit / subfolder
    _check_space(repo, total, settings)
    folder.mkdir(parents=True, exist_ok=True)
    on_progress(Progress(f"Downloading {repo}", 0, total, f"{repo} is at commit {facts.commit}", "bytes"))
    hashes, before = {}, 0
    for file in needed:
        name = str(below(file.path, subfolder))

        def report(done: int, size: int, before: int = before, name: str = name) -> None:
            on_progress(Progress(f"Downloading {repo}", before + done, total, name, "bytes"))

        remote = _remote(repo, facts.commit, file, name, settings)
        refused = refusal(repo, facts.commit, settings)
        hashes[name] = download_file(remote, folder, settings, report, refused=refused).sha256
        before += file.size
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = Provenance(repo, revision, facts.commit, subfolder, facts.licence, facts.licence_url, now, facts.limits, hashes)
    write_json(folder / RECORD, to_plain(record))
    return folder


def provenance(folder: Path) -> Provenance | None:
    """Where the files of a folder came from; None when they were not downloaded by `download`.

    Raises:
        CheckpointError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return from_plain(Provenance, read_json(path))
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{RECORD} in {folder.name} is damaged.", str(error), "Download the model again.") from error


def credit(model: Path, downloaded: Path) -> ModelCard | EmbeddingCard | None:
    """Writes into the card of `model` (our format) where it came from, its licence and its limits, from `downloaded`'s record.

    A known model's limits are the catalogue's short facts; another's are the lines of its own README. What the card says of
    licence and limits already is kept. None, and nothing written, when `downloaded` has no record.

    Raises:
        CheckpointError: the record or the card is damaged.
    """
    record = provenance(downloaded)
    if record is None:
        return None
    known, embeds = catalogue.by_repo(record.repo), is_embedding_store(model)
    card: ModelCard | EmbeddingCard = read_embedding_card(model) if embeds else read_card(model)
    lines = (line.strip(" -*") for line in record.limits.splitlines())
    limits = known.limits if known else tuple(line for line in lines if line)[:LIMITS_MOST_LINES]
    left_out = known.unseen(record.subfolder) if known else ""
    limits = (*limits, *([f"Left out of training: {left_out}"] if left_out else []))
    licence = record.licence if card.licence == "unknown" else card.licence
    card = dataclasses.replace(card, source=record.source, licence=licence, limits=card.limits or limits)
    if isinstance(card, ModelCard):
        write_card(model, card)
    else:
        write_json(model / EMBEDDING_CARD, to_plain(card))
    write_json(model / RECORD, to_plain(record))
    return card


# Asking the hub


def _remote(repo: str, commit: str, file: HubFile, name: str, settings: Settings) -> RemoteFile:
    """Return a file of a repository as the downloader takes it: pinned to a commit, with the user's saved token."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    return RemoteFile(
        name,
        (hf_hub_url(repo, file.path, revision=commit, endpoint=settings.hub_endpoint),),
        file.size,
        file.sha256 or None,
        git_sha1=None if file.sha256 else file.git_sha1 or None,
        hash_source="by the hub",
        headers=build_hf_headers(),
        fixed=True,
        piece=1 << 20,
        advice="Download it elsewhere and import the folder.",
    )


def _only_model(facts: HubInfo) -> str:
    if len(facts.models) == 1:
        return facts.models[0]
    if not facts.models:
        raise DownloadError(
            f"{facts.repo} holds no model that STATE Explorer reads.",
            "No folder has a config.yaml with a checkpoint, or a model.json with weights.",
            "Check the name of the repository.",
        )
    raise DownloadError(
        f"{facts.repo} holds {len(facts.models)} models.", f"In: {listed(facts.models, 12)}.", "Choose one folder."
    )


def _check_repo(repo: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or ".." in repo or "--" in repo:
        raise DownloadError(
            f"'{repo}' is not the name of a repository.", "Names look like owner/name.", "Check it on the hub's page."
        )


def _check_space(repo: str, total: int, settings: Settings) -> None:
    if total > settings.max_file_bytes:
        raise DownloadError(
            f"The model in {repo} has {gib(total)}.",
            f"This installation accepts {gib(settings.max_file_bytes)}.",
            "Raise STATE_EXPLORER_MAX_FILE_GB, or choose a smaller one.",
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if total > free:
        raise DownloadError(f"The model in {repo} has {gib(total)}.", f"Only {free / 1e9:.1f} GB are free.", "Make space first.")
