"""What a model hub, its library and the HTTP client raise, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from state_engine.config import Settings
from state_engine.errors import DownloadError


def refusal(repo: str, commit: str, settings: Settings) -> Callable[[Any], None]:
    """Return what turns a refusal of the hub into plain words."""

    def check(response: Any) -> None:
        from huggingface_hub.utils import hf_raise_for_status

        with plain_errors(repo, commit, settings):
            hf_raise_for_status(response)

    return check


@contextmanager
def plain_errors(repo: str, revision: str, settings: Settings) -> Iterator[None]:
    """What the HTTP client and the hub's library raise, in plain words."""
    import httpx2
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated.",
            "Its owner must grant you access, and this installation needs your token.",
            f"Ask for access at {settings.hub_endpoint}/{repo}, then set HF_TOKEN to a token of yours.",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise DownloadError(f"{repo} has no revision '{revision}'.", "", "Try 'main', or a commit from its history.") from error
    except hub.RepositoryNotFoundError as error:
        raise DownloadError(
            f"There is no model repository '{repo}' on {settings.hub_endpoint}, or it is private.",
            "",
            "Check the name; for a private one set HF_TOKEN to a token with access.",
        ) from error
    except hub.EntryNotFoundError as error:
        raise DownloadError(f"{repo} lists a file that it does not have.", str(error).splitlines()[0], "Try later.") from error
    except hub.HfHubHTTPError as error:
        raise _http_error(error, repo, settings) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, hub.OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{settings.hub_endpoint} cannot be reached.",
            f"{type(error).__name__}: {str(error) or 'no answer in time'}.",
            "Check this machine's network, or download elsewhere and import the folder.",
        ) from error
    except OSError as error:
        raise DownloadError("A file of the model could not be written.", str(error), "Check space and permissions.") from error


def _http_error(error: Any, repo: str, settings: Settings) -> DownloadError:
    code = error.response.status_code
    if code in (401, 403):
        fix = "Check the name, and set HF_TOKEN to a valid token with access, or unset it for public models."
        why = "Hubs answer so for private repositories, for expired tokens, and some for names that do not exist."
        return DownloadError(f"{settings.hub_endpoint} refused access to {repo} ({code}).", why, fix)
    if code == 429:
        return DownloadError(
            f"{settings.hub_endpoint} asks to wait ({code}).", "Too many requests in a short time.", "Try later."
        )
    return DownloadError(f"{settings.hub_endpoint} answered with error {code} for {repo}.", "", "Try later.")
