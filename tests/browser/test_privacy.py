"""Nothing leaves the computer: not for icons and fonts, and not for names that a file's writer chose."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import anndata
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from pages.parts.navigation import names
from tests.browser.app import Server, settle

pytestmark = pytest.mark.browser


def hostile_cells(folder: Path) -> Path:
    """A data set whose every name is an image on another server."""
    n, rng = 40, np.random.default_rng(0)
    picture = "![{}](http://127.0.0.2:9/{})"
    obs = pd.DataFrame(
        {
            "perturbation": ["control"] * 20 + [picture.format("p", "perturbation")] * 20,
            "cell_type": [picture.format("c", "cell")] * n,
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[picture.format("g", f"gene{i}") for i in range(12)])
    data = anndata.AnnData(rng.poisson(3, (n, 12)).astype(np.float32), obs=obs, var=var)
    path = folder / "x ![f](http:&#47;&#47;127.0.0.2:9&#47;file) $a_b$ :red[x].h5ad"
    data.write_h5ad(path)
    return path


def test_no_request_leaves_the_computer(server: Server, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    sent: list[str] = []
    page.on("requestfinished", lambda request: sent.append(request.url))
    page.on("response", lambda response: sent.append(response.url))
    page.goto(f"{server.address}/data")
    settle(page)
    page.set_input_files("input[type=file]", hostile_cells(tmp_path))
    settle(page)
    for name in names():
        page.goto(
            f"{server.address}/{'' if name == 'home' else name}{'?' + urlsplit(page.url).query if urlsplit(page.url).query else ''}"
        )
        settle(page)
    elsewhere = {urlsplit(url).netloc for url in sent if url.startswith(("http", "ws"))} - {urlsplit(server.address).netloc}
    assert len(sent) > 20 and not elsewhere


def test_another_host_is_refused(server: Server) -> None:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(server.address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request)
