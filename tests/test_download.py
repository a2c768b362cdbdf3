"""A file from a local server: whole, resumed, refused; nothing half-done is ever called by its name."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from state_engine import download as module
from state_engine.config import Settings
from state_engine.download import RemoteFile
from state_engine.download import remote as http
from state_engine.errors import ConfigError, DownloadError, JobCancelled
from state_engine.progress import Progress, silent
from state_engine.public_data.catalogue import PublicFile
from state_engine.public_data.fetch import bring as download
from tests.public_data.server import FileServer, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(http, "MOST_WAIT_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({"cells": CONTENT})) as data:
        yield data


def file(server: FileServer, **changes: object) -> PublicFile:
    fields: dict = {"name": "cells.h5ad", "urls": (server.url("cells"),), "size": len(CONTENT), "sha256": SHA256}
    return PublicFile(**(fields | changes))


def settings(tmp_path: Path, **changes: int) -> Settings:
    return Settings(tmp_path / "home", **changes)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_comes_whole_with_bytes_reported(server: FileServer, tmp_path: Path) -> None:
    seen: list[Progress] = []
    got = download(file(server), tmp_path / "out", settings(tmp_path), seen.append)
    assert (tmp_path / "out" / "cells.h5ad").read_bytes() == CONTENT and names(tmp_path / "out") == ["cells.h5ad"]
    assert (got.size, got.sha256, got.url) == (len(CONTENT), SHA256, server.url("cells")) and "as known" in got.checked
    loading = [p for p in seen if p.stage == "Downloading cells.h5ad"]
    assert loading[0].done == 0 and loading[-1].done == loading[-1].total == len(CONTENT)
    assert [p.done for p in loading] == sorted(p.done for p in loading)
    assert seen[-1].stage == "Verifying cells.h5ad" and seen[-1].done == len(CONTENT)


def test_what_is_there_is_checked_and_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    download(file(server), tmp_path, settings(tmp_path))
    again = download(file(server), tmp_path, settings(tmp_path))
    assert again.sha256 == SHA256 and again.url == "" and len(server.asked) == 1


def test_a_broken_connection_is_continued(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = {"cells": 1_000_000}
    download(file(server), tmp_path, settings(tmp_path))
    assert (tmp_path / "cells.h5ad").read_bytes() == CONTENT
    path, wanted, condition = server.asked[1]
    assert path == "cells" and 0 < int(wanted.removeprefix("bytes=").rstrip("-")) <= 1_000_000 and condition == '"v1"'


def test_cancelling_keeps_the_part_and_the_next_try_continues(server: FileServer, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done > 1_500_000:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        download(file(server), tmp_path, settings(tmp_path), stop)
    assert names(tmp_path) == ["cells.h5ad.part", "cells.h5ad.part.json"]
    kept = module.waiting(file(server).remote, tmp_path)
    assert kept > 1_000_000
    download(file(server), tmp_path, settings(tmp_path))
    assert server.asked[-1][1] == f"bytes={kept}-" and (tmp_path / "cells.h5ad").read_bytes() == CONTENT
    assert module.waiting(file(server).remote, tmp_path) == 0


def half(server: FileServer, tmp_path: Path) -> int:
    """Leaves a part behind, and says how long it is."""
    server.cut_after, server.always_cut = {"cells": 1_000_000}, True
    server.ranges = False
    with pytest.raises(DownloadError, match="broke several times"):
        download(file(server), tmp_path, settings(tmp_path))
    server.cut_after, server.always_cut, server.ranges = {}, False, True
    return module.waiting(file(server).remote, tmp_path)


def test_a_changed_file_starts_anew(server: FileServer, tmp_path: Path) -> None:
    assert half(server, tmp_path)
    other = CONTENT[::-1]
    server.files["cells"], server.etag = other, '"v2"'
    changed = file(server, sha256=hashlib.sha256(other).hexdigest())
    download(changed, tmp_path, settings(tmp_path))
    assert server.asked[-1][2] == '"v1"' and (tmp_path / "cells.h5ad").read_bytes() == other


@pytest.mark.parametrize("changes", [{"ranges": False}, {"etag": ""}, {"etag": 'W/"weak"'}, {"etag": "", "ranges": False}])
def test_a_server_that_cannot_continue_starts_anew(server: FileServer, tmp_path: Path, changes: dict) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    server.cut_after = {"cells": 1_000_000}
    download(file(server), tmp_path, settings(tmp_path))
    assert (tmp_path / "cells.h5ad").read_bytes() == CONTENT and len(server.asked) == 2


def test_a_date_serves_when_there_is_no_strong_etag(server: FileServer, tmp_path: Path) -> None:
    server.etag, server.modified = 'W/"weak"', "Sun, 16 Nov 2025 21:49:12 GMT"
    server.cut_after = {"cells": 1_000_000}
    download(file(server), tmp_path, settings(tmp_path))
    assert server.asked[1][1:] == (f"bytes={server.asked[1][1].removeprefix('bytes=').rstrip('-')}-", server.modified)
    assert server.asked[1][1] and (tmp_path / "cells.h5ad").read_bytes() == CONTENT


def test_a_part_without_its_note_is_worth_nothing(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad.part").write_bytes(b"who knows what")
    download(file(server), tmp_path, settings(tmp_path))
    assert server.asked[0][1] == "" and (tmp_path / "cells.h5ad").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    half(server, tmp_path)
    (tmp_path / "cells.h5ad.part").write_bytes(CONTENT)
    asked = len(server.asked)
    download(file(server), tmp_path, settings(tmp_path))
    assert len(server.asked) == asked and (tmp_path / "cells.h5ad").read_bytes() == CONTENT


def test_another_piece_than_asked_for_is_refused(server: FileServer, tmp_path: Path) -> None:
    half(server, tmp_path)
    server.wrong_piece = True
    with pytest.raises(DownloadError, match="another piece"):
        download(file(server), tmp_path, settings(tmp_path))
    assert not (tmp_path / "cells.h5ad").exists()


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}])
def test_another_hash_is_set_aside(server: FileServer, tmp_path: Path, changes: dict) -> None:
    with pytest.raises(DownloadError, match="not the file that is known") as caught:
        download(file(server, hash_source="its publisher", **changes), tmp_path, settings(tmp_path))
    assert "its publisher" in caught.value.what and "0000" in caught.value.why and "refused" in caught.value.fix
    assert names(tmp_path) == ["cells.h5ad.refused"]


def test_another_size_is_said_before_it_is_downloaded(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="another size"):
        download(file(server, size=len(CONTENT) + 1), tmp_path, settings(tmp_path))
    assert not (tmp_path / "cells.h5ad").exists() and (tmp_path / "cells.h5ad.part").stat().st_size == 0


def test_md5_of_a_publisher_is_enough(server: FileServer, tmp_path: Path) -> None:
    known = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    got = download(file(server, sha256=None, md5=known, hash_source="md5 by the host"), tmp_path, settings(tmp_path))
    assert got.sha256 == SHA256 and "md5 by the host" in got.checked


def test_what_nobody_publishes_is_recorded_and_said(server: FileServer, tmp_path: Path) -> None:
    server.lengths = False
    got = download(file(server, size=None, sha256=None), tmp_path, settings(tmp_path))
    assert got.sha256 == SHA256 and got.size == len(CONTENT) and "Neither its size nor a hash is published" in got.checked


def test_the_next_address_is_tried(server: FileServer, tmp_path: Path) -> None:
    seen: list[Progress] = []
    urls = (server.url("gone"), "http://127.0.0.1:9/nobody", server.url("cells"))
    got = download(file(server, urls=urls), tmp_path, settings(tmp_path), seen.append)
    assert got.url == urls[2]
    messages = [p.message for p in seen if p.message]
    assert len(messages) == 2 and "not at 127.0.0.1 any more" in messages[0] and "cannot be reached" in messages[1]


@pytest.mark.parametrize(
    ("status", "words"), [(404, "any more"), (403, "wants a login"), (202, "does not serve programs"), (418, "Asked for")]
)
def test_refusals_are_said_at_once(server: FileServer, tmp_path: Path, status: int, words: str) -> None:
    server.status = {"cells": [status] * 9}
    with pytest.raises(DownloadError) as caught:
        download(file(server), tmp_path, settings(tmp_path))
    assert words in str(caught.value) and caught.value.fix and len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status, server.headers = {"cells": [503, 429]}, {"Retry-After": "1"}
    download(file(server), tmp_path, settings(tmp_path))
    assert len(server.asked) == 3
    server.status = {"other": [503] * 9}
    with pytest.raises(DownloadError, match="too busy"):
        download(file(server, name="other.h5ad", urls=(server.url("other"),)), tmp_path, settings(tmp_path))


def test_redirects_are_followed_to_allowed_addresses_only(server: FileServer, tmp_path: Path) -> None:
    server.redirects = {"here": "/cells", "away": "http://example.com/cells", "file": "file:///etc/passwd", "round": "/round"}
    download(file(server, urls=(server.url("here"),)), tmp_path, settings(tmp_path))
    assert (tmp_path / "cells.h5ad").read_bytes() == CONTENT
    for name, words in (("away", "not followed"), ("file", "not followed"), ("round", "without end")):
        with pytest.raises(DownloadError, match=words):
            download(file(server, urls=(server.url(name),)), tmp_path / name, settings(tmp_path))


@pytest.mark.parametrize(
    "url", ["http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "https://", "x", "http://[::1"]
)
def test_addresses_are_https(url: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        PublicFile("x.h5ad", (url,))


@pytest.mark.parametrize("name", ["../x.h5ad", "/x", "a/b", "", ".hidden", "x\0y"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="plain file name"):
        PublicFile(name, ("https://example.com/x",))


def test_limits_of_the_installation_and_the_disk(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match="STATE_EXPLORER_MAX_FILE_GB"):
        download(file(server), tmp_path, settings(tmp_path, max_file_bytes=1_000_000))
    server.lengths = False
    with pytest.raises(DownloadError, match="longer than"):
        download(file(server, size=None), tmp_path, settings(tmp_path, max_file_bytes=1_000_000))
    with pytest.raises(DownloadError, match="Make room"):
        download(file(server, unpacked=10**18), tmp_path, settings(tmp_path))
    assert not (tmp_path / "cells.h5ad").exists()


def test_one_download_of_a_file_at_a_time(server: FileServer, tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(progress: Progress) -> None:
        inside.set()
        assert go_on.wait(5)

    first = threading.Thread(target=download, args=(file(server), tmp_path, settings(tmp_path), slow))
    first.start()
    assert inside.wait(5)
    try:
        with pytest.raises(DownloadError, match="already"):
            download(file(server), tmp_path, settings(tmp_path), silent)
    finally:
        go_on.set()
        first.join()
    assert (tmp_path / "cells.h5ad").read_bytes() == CONTENT


def test_the_note_of_a_part_says_which_bytes_it_holds(server: FileServer, tmp_path: Path) -> None:
    half(server, tmp_path)
    note = json.loads((tmp_path / "cells.h5ad.part.json").read_text())
    assert note == {"url": server.url("cells"), "validator": '"v1"', "size": len(CONTENT)}


def test_a_token_goes_to_its_own_host_only(server: FileServer, tmp_path: Path) -> None:
    """A hub sends large files from another host, which must not learn the user's token."""
    with serving(FileServer({"cells": CONTENT})) as other:
        server.redirects = {"weights": other.url("cells"), "here": "/cells"}
        token = {"Authorization": "Bearer secret"}
        for path in ("weights", "here"):
            remote = RemoteFile(path, (server.url(path),), headers=token)
            module.download(remote, tmp_path, settings(tmp_path))
        assert other.tokens == [""] and server.tokens == ["Bearer secret"] * 3


def test_a_fixed_address_is_continued_without_an_etag(server: FileServer, tmp_path: Path) -> None:
    server.etag, server.cut_after = "", {"cells": 1_000_000}
    remote = RemoteFile("cells", (server.url("cells"),), len(CONTENT), SHA256, fixed=True)
    module.download(remote, tmp_path, settings(tmp_path))
    assert (tmp_path / "cells").read_bytes() == CONTENT
    assert server.asked[1][1].startswith("bytes=") and server.asked[1][2] == ""
