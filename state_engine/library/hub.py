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
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import CARD as EMBEDDING_CARD
from state_engine.checkpoints.embedding_card import EmbeddingCard, is_embedding_store, read_embedding_card
from state_engine.checkpoints.recognise import ordered_checkpoints, preferred_checkpoint
from state_engine.checkpoints.store import read_card, write_card
from state_engine.config import Settings
from state_engine.download import CONNECT_SECONDS, RemoteFile, read_text
from state_engine.download import download as download_file
from state_engine.errors import CheckpointError, ConfigError, DownloadError, LicenceError, listed
from state_engine.files import read_json, write_json
from state_engine.library import published as catalogue
from state_engine.library.hub_errors import plain_errors, refusal
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent

RECORD = "download.json"
README_MOST_BYTES = 1 << 20
LIMITS_MOST_LINES = 12

WANTED = (
    "config.yaml", "hparams.yaml", "model.json", "*.ckpt", "*.safetensors", "*.pkl", "*.pt", "*.torch", "*.csv",
    "README.md", "*LICENSE*",
)  # fmt: skip
# Predictions and scores of the published evaluation (gigabytes), and a pickle of the trainer's data loader: no model needs them.
UNWANTED = ("eval*/*", "*/eval*/*", "data_module.torch", "*/data_module.torch", "wandb*", "*/wandb*")
MODEL_MARKS = ("model.json", "config.yaml")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256` is declared for large files, `git_sha1` (hash of the git blob) for the others."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class HubInfo:
    """What a repository holds at one commit.

    Args:
        repo, commit: "owner/name" and the 40 hex digits that the asked revision stands for.
        licence, licence_url: name ("unknown" when the repository does not say) and where to read it.
        gated: the owner must grant access first.
        files: everything in the repository.
        models: folders that hold a model; "" is the repository itself.
        limits: what its README says about limits, as written there; "" when it says nothing.
    """

    repo: str
    commit: str
    licence: str
    licence_url: str
    gated: bool
    files: tuple[HubFile, ...]
    models: tuple[str, ...]
    limits: str = ""

    def checkpoints(self, subfolder: str = "") -> tuple[str, ...]:
        """The .ckpt files of the model in `subfolder`, relative to it, the one that is meant first; none where the catalogue names its files."""
        if self._named_files:
            return ()
        inside = (_below(f.path, subfolder) for f in self.files)
        return tuple(ordered_checkpoints(name for name in inside if name and _is_wanted(name)))

    def needed(self, subfolder: str = "", checkpoint: str | None = None) -> tuple[HubFile, ...]:
        """The files that the model in `subfolder` needs: those that the catalogue names, or of several .ckpt only `checkpoint`.

        By default the final one. Predictions, scores and cells that lie beside are never among them.

        Raises:
            DownloadError: there is no such model or checkpoint.
        """
        if subfolder not in self.models:
            raise DownloadError(
                f"{self.repo} has no model in '{subfolder or 'its top folder'}'.",
                f"Models are in: {listed([m or 'the top folder' for m in self.models], 12) or 'none of its folders'}.",
                "Choose one of them.",
            )
        inside = [f for f in self.files if _below(f.path, subfolder) is not None]
        wanted = {str(_below(f.path, subfolder)): f for f in inside if _is_wanted(str(_below(f.path, subfolder)))}
        if self._named_files and checkpoint is None:
            return tuple(f for name, f in sorted(wanted.items()) if any(fnmatch(name, w) for w in self._named_files))
        checkpoints = [name for name in wanted if name.endswith(".ckpt")]
        chosen = _choose_checkpoint(checkpoints, checkpoint)
        return tuple(f for name, f in sorted(wanted.items()) if name == chosen or not name.endswith(".ckpt"))

    def size(self, subfolder: str = "", checkpoint: str | None = None) -> int:
        """Bytes to download for that model."""
        return sum(f.size for f in self.needed(subfolder, checkpoint))

    def unseen(self, subfolder: str = "") -> str:
        """What the training of that model left out, for people; "" where that is not known."""
        known = catalogue.by_repo(self.repo)
        return known.unseen(subfolder) if known else ""

    @property
    def _named_files(self) -> tuple[str, ...]:
        known = catalogue.by_repo(self.repo)
        return known.files if known else ()


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
    files = tuple(_hub_file(repo, sibling) for sibling in found.siblings or [])
    folders = _model_folders(files)
    licence, url = _licence(repo, found.card_data, files, settings)
    readme = next((f for f in files if f.path == "README.md" and f.size <= README_MOST_BYTES), None)
    limits = ""
    if readme is not None:
        remote = _remote(repo, found.sha, readme, readme.path, settings)
        limits = _limits_section(read_text(remote, readme.size, refusal(repo, found.sha, settings)))
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
        name = str(_below(file.path, subfolder))

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


# Reading the repository


def _hub_file(repo: str, sibling: Any) -> HubFile:
    path = str(sibling.rfilename)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise DownloadError(f"{repo} lists a file outside its own folder: {path!r}.", "Such a repository is not safe.")
    return HubFile(path, int(sibling.size or 0), sibling.lfs.sha256 if sibling.lfs else "", str(sibling.blob_id or ""))


def _model_folders(files: tuple[HubFile, ...]) -> tuple[str, ...]:
    """Folders that hold a mark of a model and, there or in `checkpoints`, weights."""
    paths = {f.path for f in files}
    folders = {str(PurePosixPath(p).parent).removeprefix(".") for p in paths if PurePosixPath(p).name in MODEL_MARKS}

    def has_weights(folder: str) -> bool:
        names = [_below(p, folder) for p in paths]
        return any(n and n.endswith((".ckpt", ".safetensors")) and not any(fnmatch(n, u) for u in UNWANTED) for n in names)

    return tuple(sorted(folder for folder in folders if has_weights(folder)))


def _below(path: str, folder: str) -> str | None:
    """`path` relative to `folder` ("" is the top), or None when it is not in it."""
    if not folder:
        return path
    return path.removeprefix(folder + "/") if path.startswith(folder + "/") else None


def _is_wanted(name: str) -> bool:
    base = PurePosixPath(name).name
    return any(fnmatch(base, w) for w in WANTED) and not any(fnmatch(name, u) for u in UNWANTED)


def _choose_checkpoint(names: list[str], wanted: str | None) -> str | None:
    if wanted is None:
        return preferred_checkpoint(names)
    matching = [n for n in names if wanted in (n, PurePosixPath(n).name)]
    if not matching:
        raise DownloadError(
            f"There is no checkpoint '{wanted}'.", f"There are: {listed(sorted(names), 12) or 'none'}.", "Choose one."
        )
    return matching[0]


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


def _licence(repo: str, card: Any, files: tuple[HubFile, ...], settings: Settings) -> tuple[str, str]:
    """Name and address: what the repository says, then a licence file in it, then what the catalogue knows of it."""
    said = card.to_dict() if card is not None else {}
    name, link = said.get("license"), said.get("license_link")
    if name == "other":
        name = said.get("license_name") or name
    file = next((f.path for f in files if fnmatch(f.path.upper(), "*LICEN[SC]E*") and "/" not in f.path), None)
    if file and (not link or not str(link).startswith("http")):
        link = f"{settings.hub_endpoint}/{repo}/blob/main/{file}"
    known = catalogue.by_repo(repo)
    if known and not (name and name != "other"):
        name, link = known.licence, link or known.licence_url
    return str(name or "unknown"), str(link or "")


def _limits_section(readme: str, most: int = 3000) -> str:
    """The sections of a README whose heading speaks of limits, risks or use out of scope."""
    kept: list[str] = []
    depth = 0
    for line in readme.splitlines():
        heading = re.match(r"(#+)\s*(.*)", line)
        if heading and depth and len(heading[1]) <= depth:
            depth = 0
        if heading and not depth and re.search(r"limit|out[- ]of[- ]scope|risk|bias|caution", heading[2], re.IGNORECASE):
            depth = len(heading[1])
        elif depth and not heading:
            kept.append(line)
    return "\n".join(kept).strip()[:most]


def _check_repo(repo: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or ".." in repo or "--" in repo:
        raise DownloadError(
            f"'{repo}' is not the name of a repository.", "Names look like owner/name.", "Check it on the hub's page."
        )


def _check_space(repo: str, total: int, settings: Settings) -> None:
    if total > settings.max_file_bytes:
        raise DownloadError(
            f"The model in {repo} is {total / 1e9:.1f} GB.",
            f"This installation accepts {settings.max_file_bytes / 1e9:.1f} GB.",
            "Raise STATE_EXPLORER_MAX_FILE_GB, or choose a smaller one.",
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if total > free:
        raise DownloadError(
            f"The model in {repo} is {total / 1e9:.1f} GB.", f"Only {free / 1e9:.1f} GB are free.", "Make space first."
        )
