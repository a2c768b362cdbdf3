"""What a repository of a model hub holds at one commit: its models, the files that each needs, its licence and limits.

Source: the hub's list of files, and the README. Boundary: names and sizes; nothing is asked of the hub here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from state_engine.checkpoints.recognise import ordered_checkpoints, preferred_checkpoint
from state_engine.config import Settings
from state_engine.errors import DownloadError, listed
from state_engine.library import published as catalogue

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
        inside = (below(f.path, subfolder) for f in self.files)
        return tuple(ordered_checkpoints(name for name in inside if name and _is_wanted(name)))

    def needed(self, subfolder: str = "", checkpoint: str | None = None) -> tuple[HubFile, ...]:
        """The files that the model in `subfolder` needs: those that the catalogue names, or of several .ckpt only `checkpoint`.

        By default the final one. Predictions, scores and cells that lie beside are never among them.

        Raises:
            DownloadError: there is no such model or checkpoint.
        """
        if subfolder not in self.models:
            raise self._no_model(subfolder)
        wanted = {name: f for f in self.files if (name := below(f.path, subfolder)) and _is_wanted(name)}
        if self._named_files and checkpoint is None:
            return tuple(f for name, f in sorted(wanted.items()) if any(fnmatch(name, w) for w in self._named_files))
        chosen = _choose_checkpoint([name for name in wanted if name.endswith(".ckpt")], checkpoint)
        return tuple(f for name, f in sorted(wanted.items()) if name == chosen or not name.endswith(".ckpt"))

    def _no_model(self, subfolder: str) -> DownloadError:
        return DownloadError(
            f"{self.repo} has no model in '{subfolder or 'its top folder'}'.",
            f"Models are in: {listed([m or 'the top folder' for m in self.models], 12) or 'none of its folders'}.",
            "Choose one of them.",
        )

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


def hub_file(repo: str, sibling: Any) -> HubFile:
    path = str(sibling.rfilename)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise DownloadError(f"{repo} lists a file outside its own folder: {path!r}.", "Such a repository is not safe.")
    return HubFile(path, int(sibling.size or 0), sibling.lfs.sha256 if sibling.lfs else "", str(sibling.blob_id or ""))


def model_folders(files: tuple[HubFile, ...]) -> tuple[str, ...]:
    """Folders that hold a mark of a model and, there or in `checkpoints`, weights."""
    paths = {f.path for f in files}
    folders = {str(PurePosixPath(p).parent).removeprefix(".") for p in paths if PurePosixPath(p).name in MODEL_MARKS}

    def has_weights(folder: str) -> bool:
        names = [below(p, folder) for p in paths]
        return any(n and n.endswith((".ckpt", ".safetensors")) and not any(fnmatch(n, u) for u in UNWANTED) for n in names)

    return tuple(sorted(folder for folder in folders if has_weights(folder)))


def below(path: str, folder: str) -> str | None:
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


def licence_of(repo: str, card: Any, files: tuple[HubFile, ...], settings: Settings) -> tuple[str, str]:
    """Name and address: what the repository says, then a licence file in it, then what the catalogue knows of it."""
    stated = card.to_dict() if card is not None else {}
    name, link = stated.get("license"), stated.get("license_link")
    if name == "other":
        name = stated.get("license_name") or name
    if not str(link or "").startswith("http"):
        there = [f.path for f in files if fnmatch(f.path.upper(), "*LICEN[SC]E*") and "/" not in f.path]
        link = f"{settings.hub_endpoint}/{repo}/blob/main/{there[0]}" if there else link
    known = catalogue.by_repo(repo)
    if known and name in (None, "", "other"):
        name, link = known.licence, link or known.licence_url
    return str(name or "unknown"), str(link or "")


def limits_section(readme: str, most: int = 3000) -> str:
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
