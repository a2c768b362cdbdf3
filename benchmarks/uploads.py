"""Measure what an upload costs the server: its memory before, at most during, and after an upload of a data set, and of a model's zip.

    python benchmarks/uploads.py [--mb 600] [--bytes-alone] [--tree DIR]     DIR is another checkout whose app is run instead

`--bytes-alone` uploads one file of that size that is no data set, so that nothing but the upload is measured (4 GB: `--mb 4096`). It is driven
by chromedriver, since Playwright takes a copy of everything that a page sends.

The app runs as users have it, with Chromium; memory is what `/proc/PID/status` says of the server's process alone (VmRSS), looked at 50
times a second. The machine keeps files that were uploaded in its page cache, which is no
part of it. Linux only; needs the packages of requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from playwright.sync_api import Browser

from tests.browser.app import CHROMIUM, FLAGS, chromium, running_app, settle

ROOT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 0.02
BOX = "input.pick-files"
# components lie in shadow trees
FIND = """
function find(root) {
  const hit = root.querySelector(arguments[1]);
  return hit || [...root.querySelectorAll("*")].filter(e => e.shadowRoot).map(e => find(e.shadowRoot, arguments[1])).find(Boolean) || null;
}
return find(document, arguments[0]);
"""


@dataclass
class Memory:
    """The resident memory of a process, looked at until it is stopped, in MB."""

    process: int
    most: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

    def watch(self) -> None:
        while not self.stop.wait(LOOK_SECONDS):
            self.most = max(self.most, self.now())


def write_cells(path: Path, mb: int) -> Path:
    """Write a data set of this size: dense log1p of 2,000 genes."""
    genes, rng = 2000, np.random.default_rng(0)
    cells = mb * 1_000_000 // (4 * genes)
    values = np.log1p(rng.poisson(0.5, (cells, genes)).astype(np.float32))
    obs = pd.DataFrame(
        {"perturbation": rng.choice(["control", "TNF", "IFNB1"], cells), "cell_type": rng.choice(["B", "T"], cells)},
        index=[f"c{i}" for i in range(cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(genes)])
    anndata.AnnData(values, obs=obs, var=var).write_h5ad(path)
    return path


def write_zip(path: Path, mb: int) -> Path:
    """Write a zip of this size whose content is no model, so that it is refused once it was read."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive, archive.open("model.safetensors", "w") as out:
        for _ in range(mb):
            out.write(os.urandom(1_000_000))
    return path


def write_bytes(path: Path, mb: int) -> Path:
    """Write a file of this size that is no data set."""
    with path.open("wb") as out:
        for _ in range(mb):
            out.write(os.urandom(1_000_000))
    return path


def around(process: int, send: Callable[[], object], leave: Callable[[], object]) -> dict[str, float]:
    """Return MB of a process before, at most, when `send` had its answer, 5 s later, and with the page left; and the seconds of `send`."""
    time.sleep(5)  # until imports behind the page are over
    memory, found = Memory(process), {}
    found["before"] = memory.now()
    watch = threading.Thread(target=memory.watch, daemon=True)
    watch.start()
    started = time.monotonic()
    send()
    found["seconds"], found["answered"] = time.monotonic() - started, memory.now()
    time.sleep(5)
    found["5 s later"] = memory.now()
    leave()
    time.sleep(5)
    found["closed"] = memory.now()
    memory.stop.set()
    watch.join()
    return found | {"most": memory.most}


def upload(browser: Browser, tree: Path, page_name: str, file: Path, done: str) -> dict[str, float]:
    """Upload a file on a page of a new server until the page says `done`; return what `around` does."""
    with tempfile.TemporaryDirectory() as home, running_app(Path(home), tree) as server:
        page = browser.new_context().new_page()
        page.set_default_timeout(3_600_000)
        page.goto(f"{server.address}/{page_name}")
        settle(page)
        if page_name == "models":
            page.get_by_role("tab", name="Zip").click()

        def send() -> None:
            page.set_input_files(BOX, file)
            page.locator("[data-testid=stMain]").get_by_text(done).first.wait_for()

        return around(server.process, send, page.context.close)


@contextmanager
def chromedriver() -> Iterator[str]:
    """Chromium under chromedriver (W3C WebDriver); the address of its session."""
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    port = next(found[1] for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
    options = {"binary": CHROMIUM, "args": [*FLAGS, "--headless=new"]}
    capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "timeouts": {"script": 3_600_000}}}}
    try:
        address = f"http://127.0.0.1:{port}/session"
        yield f"{address}/{asked(address, capabilities)['sessionId']}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def asked(address: str, body: dict[str, object]) -> Any:
    """Return what the driver answers."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3_600) as answer:
        return json.load(answer)["value"]


def upload_bytes(file: Path, tree: Path) -> dict[str, float]:
    """Upload a file that is no data set until it is refused; return what `around` does."""
    with tempfile.TemporaryDirectory() as home, running_app(Path(home), tree) as server, chromedriver() as driver:
        asked(f"{driver}/url", {"url": f"{server.address}/data"})

        def awaited(selector: str) -> dict[str, str]:
            """Return the element's handle, once it is there."""
            while not (found := asked(f"{driver}/execute/sync", {"script": FIND, "args": [selector]})):
                time.sleep(0.5)
            return dict(found)

        (box,) = awaited(BOX).values()

        def send() -> None:
            asked(f"{driver}/element/{box}/value", {"text": str(file)})
            awaited("[data-testid=stAlertContentError]")

        return around(server.process, send, lambda: asked(f"{driver}/url", {"url": "about:blank"}))


def main() -> None:
    """Measure both kinds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=600)
    parser.add_argument("--bytes-alone", action="store_true")
    parser.add_argument("--tree", type=Path, default=ROOT)
    given = parser.parse_args()
    print("| upload | MB | seconds | before | at most | answered | 5 s later | page closed | at most - before |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        if given.bytes_alone:
            file = write_bytes(Path(folder) / "bytes.h5ad", given.mb)
            row(file, upload_bytes(file, given.tree))
            return
        cells = write_cells(Path(folder) / "cells.h5ad", given.mb)
        archive = write_zip(Path(folder) / "model.zip", given.mb)
        with chromium() as browser:
            row(cells, upload(browser, given.tree, "data", cells, "Representations: X"))
            row(archive, upload(browser, given.tree, "models", archive, "The zip lacks"))


def row(file: Path, m: dict[str, float]) -> None:
    """Print one row of the table."""
    size = file.stat().st_size / 1e6
    numbers = [size, m["seconds"], m["before"], m["most"], m["answered"], m["5 s later"], m["closed"], m["most"] - m["before"]]
    print(f"| {file.name} | {' | '.join(f'{number:,.0f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
