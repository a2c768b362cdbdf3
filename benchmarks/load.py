"""Measure how long pages take with several sessions at once, and how the memory of their process grows.

    python -m benchmarks.load [--sessions 10 20] [--rounds 2] [--think 5] [--run small|large|both] [--home DIR] [--tree TREE]
    python -m benchmarks.load --scripts [--further 300] [--home DIR]

Each session is a client of the page's own connection, without a browser: it opens a deep link with data set, model and run, goes through
the menu and changes choices, as a person who reads for about `--think` seconds (drawn, exponential) between two clicks; fragments that poll
do so. What is timed is from a click to the end of the script that it ran; what a browser needs to draw comes on top. `--home` keeps
the runs for the next time: one of 4 conditions and one of all perturbations and contexts of the demo.

`--scripts` prints the processor seconds of each page's script instead, children included (the middle of 5, after 2 to fill the caches),
with the large run open and `--further` other runs in the home: a number that hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.testing.v1 import AppTest

from pages.parts.navigation import names, script
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.jobs.requests import LookRequest
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.datasets import DEMO_ID, DEMO_PATH
from state_engine.library.models import list_models
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from tests.browser.app import ROOT, Server, running_app

PAGES = ("predict", "explore", "genes", "attention", "runs", "evaluate", "data", "models", "submit", "train", "embed", "home")
POLL_MOST = 2000  # looks of one fragment, in case a page never stops
PATIENCE = 600.0
Times = dict[str, list[float]]


@dataclass
class Client:
    """One session: what a browser keeps of a page, and how it asks for the next."""

    socket: websockets.ClientConnection
    pages: dict[str, str] = field(default_factory=dict)  # name in the address -> hash
    query: str = ""
    page: str = ""
    widgets: dict[str, tuple[str, str]] = field(default_factory=dict)  # key of the widget -> (its id, its fragment)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    values: dict[str, tuple[str, object]] = field(default_factory=dict)  # of widgets that were changed: id -> kind, value
    polls: list[asyncio.Task[None]] = field(default_factory=list)
    error: str = ""

    async def listen(self) -> None:
        """Take in what the server says, until it closes the connection."""
        with suppress(websockets.ConnectionClosed):
            async for data in self.socket:
                message = ForwardMsg()
                message.ParseFromString(bytes(data))
                self._take(message)

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "navigation":
            self.pages = {page.url_pathname or "home": page.page_script_hash for page in message.navigation.app_pages}
        elif kind == "new_session":
            self.page = message.new_session.page_script_hash
            self.begun.set()
            self.idle.clear()
            if not message.metadata.run.fragment_ids:
                self._forget_polls()
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "auto_rerun":
            run = message.auto_rerun
            self.polls.append(asyncio.create_task(self._poll(run.interval, run.fragment_id)))
        elif kind == "session_status_changed":
            if not message.session_status_changed.script_is_running:
                self.idle.set()
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._see(message)

    def _see(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception" or (kind == "alert" and element.alert.format == element.alert.ERROR):
            self.error = str(element)[:300]
        widget = getattr(element, kind or "", None)
        identity = getattr(widget, "id", "")
        if isinstance(identity, str) and identity.count("-") > 1:
            self.widgets[identity.split("-", 2)[2]] = identity, message.delta.fragment_id

    def _forget_polls(self) -> None:
        for poll in self.polls:
            poll.cancel()
        self.polls.clear()

    async def _poll(self, interval: float, fragment: str) -> None:
        for _ in range(POLL_MOST):
            await asyncio.sleep(interval)
            await self.ask(fragment=fragment, automatic=True)

    async def ask(self, page: str = "", fragment: str = "", automatic: bool = False, **widget: object) -> None:
        """Ask for a run of the script: of a page, of a fragment, or with one widget changed (`id` and its value)."""
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_script_hash = self.query, self.pages.get(page, self.page)
        if not self.pages and page:
            state.page_name = page
        state.fragment_id, state.is_auto_rerun = fragment, automatic
        if page:
            self.values.clear()
        if widget:
            identity = str(widget.pop("id"))
            ((name, value),) = widget.items()
            self.values[identity] = name, value
        drawn = {identity for identity, _ in self.widgets.values()}  # a browser forgets those that are not drawn any more
        self.values = {identity: kept for identity, kept in self.values.items() if identity in drawn}
        for identity, (name, value) in self.values.items():
            shown = state.widget_states.widgets.add(id=identity)
            if name == "string_array_value":
                shown.string_array_value.data.extend(value)  # type: ignore[attr-defined]
            else:
                setattr(shown, name, value)
        self.values = {identity: kept for identity, kept in self.values.items() if kept[0] != "trigger_value"}
        await self.socket.send(message.SerializeToString())

    async def timed(self, asked: Callable[[], object]) -> float:
        """Return the seconds from a question to the end of the script that answers it."""
        self.begun.clear()
        started = time.perf_counter()
        await asked()  # type: ignore[misc]
        await asyncio.wait_for(self.begun.wait(), PATIENCE)
        await asyncio.wait_for(self.idle.wait(), PATIENCE)
        return time.perf_counter() - started

    def widget(self, start: str) -> tuple[str, str] | None:
        """Return id and fragment of the widget whose key begins so, as it was drawn last."""
        return next((found for key, found in reversed(self.widgets.items()) if key.startswith(start)), None)


def changes(page: str, turn: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the choices that a person changes on a page: start of the widget's key, and its new value."""
    if page == "explore":
        yield "map_colour", {"string_array_value": [("Perturbation", "Context", "Kind")[turn % 3]]}
        yield "map_arrows", {"string_array_value": [("None", "Averaged")[turn % 2]]}
    elif page == "genes":
        yield "gene", {"string_value": ("STAT1", "ISG15", "IRF1", "CXCL10", "MX1")[turn % 5]}
        yield "fold", {"double_value": (0.5, 0.25)[turn % 2]}
    elif page == "predict":
        yield "cells", {"int_value": 200 + turn}
    elif page == "runs":
        yield "run_text", {"string_value": ("IFN", "")[turn % 2]}


async def session(address: str, query: str, rounds: int, think: float, seed: int, times: Times, errors: list[str]) -> None:
    """Go through the pages as one person does; note how long each took."""
    rng = random.Random(seed)
    await asyncio.sleep(rng.uniform(0, think))
    async with websockets.connect(
        address.replace("http", "ws") + "/_stcore/stream", max_size=None, subprotocols=["streamlit"], origin=address,  # type: ignore[arg-type]
    ) as socket:  # fmt: skip
        client = Client(socket, query=query)
        listener = asyncio.create_task(client.listen())
        first = PAGES[seed % len(PAGES)]
        times[f"open {first}"].append(await client.timed(lambda: client.ask(page=first)))
        for turn in range(rounds):
            for page in PAGES:
                await asyncio.sleep(rng.expovariate(1 / think) if think else 0)
                client.query = query
                client.widgets.clear()
                times[page].append(await client.timed(lambda page=page: client.ask(page=page)))  # type: ignore[misc]
                for start, value in changes(page, seed + turn):
                    found = client.widget(start)
                    if found is None:
                        errors.append(f"{page} has no {start}")
                        continue
                    await asyncio.sleep(rng.expovariate(1 / think) if think else 0)
                    asked = {"fragment": found[1], "id": found[0], **value}
                    times[f"{page}: {start}"].append(await client.timed(lambda asked=asked: client.ask(**asked)))  # type: ignore[misc]
                if client.error:
                    errors.append(f"{page}: {client.error}")
                    client.error = ""
        client._forget_polls()
        listener.cancel()


def runs_of(settings: Settings) -> dict[str, str]:
    """Return the ids of a run of 4 conditions and of one of all, each with its map; made where they are not there."""
    data, model = open_dataset(DEMO_PATH), next(entry for entry in list_models(settings) if entry.demo)
    assert model.card is not None
    contexts = tuple(c for c in data.contexts if len(data.control_rows(c)))
    known = tuple(p for p in model.card.perturbations if p != model.card.control)
    asked = {
        "small": (known[:2], contexts[:2]),
        "large": (known, contexts),
    }
    there = {info.manifest.title: info.id for info in list_runs(settings) if info.manifest and info.state == "done"}
    found = {}
    for name, (perturbations, of) in asked.items():
        title = f"{len(perturbations) * len(of)} conditions for load"
        if title not in there:
            request = PredictionRequest(str(DEMO_PATH), str(model.path), perturbations, of, cells=256, choices=data.choices)
            job, run = local.submit(settings, request, title)
            assert local.wait(settings, job).state == "done"
            job, _ = local.submit(settings, LookRequest(run), "map", parent=run)
            assert local.wait(settings, job).state == "done"
            there[title] = run
        found[name] = there[title]
        print(f"{name} run: {title}", flush=True)
    return found


def write_further(settings: Settings, run: str, n: int) -> None:
    """Write run folders as they are after n further runs of three kinds, half of them derived, without results."""
    first = RunFolder.open(settings, run)
    kinds = ("predict", "differential", "evaluate", "look")
    for number in range(n - sum(info.id < run[:8] for info in list_runs(settings))):
        old = f"202601{number % 28 + 1:02d}-{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}-{number:06x}"
        parent = run if number % 2 else ""
        facts = {"id": old, "kind": kinds[number % 4], "title": f"run {number}", "parent": parent, "job": ""}
        (settings.runs / old).mkdir(parents=True, exist_ok=True)
        write_json(settings.runs / old / "request.json", first.request)
        write_json(settings.runs / old / "manifest.json", to_plain(first.manifest) | facts)


def measure_scripts(settings: Settings, thread: dict[str, str]) -> None:
    """Print the processor seconds of each page's script."""
    os.environ["STATE_EXPLORER_HOME"] = str(settings.home)
    logging.disable(logging.ERROR)
    total = 0.0
    for name in names():
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        app.query_params.update(thread)
        if name != "home":
            app.switch_page(script(name))
        used = []
        for _ in range(7):
            before = _used_here()
            app.run()
            used.append(_used_here() - before)
        assert not app.exception, app.exception
        total += statistics.median(used[2:])
        print(f"  {name:10s} {statistics.median(used[2:]):.3f} s", flush=True)
    print(f"  {'all':10s} {total:.3f} s, load of the machine {os.getloadavg()[0]:.1f}")


def _used_here() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def processor_of(pid: int) -> float:
    """Return the seconds of a core that a process and all its children have used, those that ended included; not its worker."""
    page = psutil.Process(pid)
    family = [page, *(child for child in page.children(recursive=True) if "state_engine.jobs.worker" not in child.cmdline())]
    return sum(sum(process.cpu_times()[:4]) for process in family)


def memory_of(pid: int) -> float:
    """Return the resident memory of a process, MB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def report(times: Times, every: bool) -> None:
    """Print medians and 95th percentiles, seconds."""

    def row(name: str, values: list[float]) -> None:
        ordered = sorted(values)
        print(f"  {name:26s} n {len(values):4d}  median {statistics.median(values):6.2f}  "
              f"p95 {ordered[int(0.95 * (len(ordered) - 1))]:6.2f}  worst {ordered[-1]:6.2f}", flush=True)  # fmt: skip

    groups: Times = defaultdict(list)
    for name, values in times.items():
        groups["first page" if name.startswith("open ") else "change" if ":" in name else "page switch"] += values
    for name in ("first page", "page switch", "change"):
        row(name, groups[name])
    if every:
        for name in sorted(times, key=lambda n: -statistics.median(times[n])):
            row(name, times[name])


async def measure(server: Server, query: str, sessions: int, given: argparse.Namespace) -> None:
    """Let some sessions work at the same time and print how it went."""
    times: Times = defaultdict(list)
    errors: list[str] = []
    before, processor = memory_of(server.process), processor_of(server.process)
    started = time.monotonic()
    await asyncio.gather(
        *(session(server.address, query, given.rounds, given.think, seed, times, errors) for seed in range(sessions))
    )
    wall = time.monotonic() - started
    used, steps = processor_of(server.process) - processor, sum(map(len, times.values()))
    after = memory_of(server.process)
    cost = f"page process and its children {used / wall:.0%} of a core, {used / steps:.2f} s a step"
    grown = f"memory {before:.0f} -> {after:.0f} MB, {(after - before) / sessions:.1f} MB a session"
    print(f"{sessions} sessions, {wall:.0f} s, {cost}; {grown}; load of the machine {os.getloadavg()[0]:.1f}")
    report(times, given.every)
    for error in sorted(set(errors)):
        print(f"  error ({errors.count(error)}): {error}")


@contextmanager
def profiled(server: Server, out: Path | None) -> Iterator[None]:
    """Record where the page process spends its time with py-spy, where that is wanted."""
    if out is None:
        yield
        return
    command = ["py-spy", "record", "--pid", str(server.process), "--format", "raw", "--output", str(out), "--gil", "--rate", "50"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    process.send_signal(2)
    process.wait(timeout=60)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--think", type=float, default=5.0)
    parser.add_argument("--run", choices=("small", "large", "both"), default="both")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--every", action="store_true", help="a line for each page")
    parser.add_argument("--profile", type=Path, help="file for py-spy's raw samples of the page process")
    parser.add_argument("--scripts", action="store_true", help="processor seconds of each page's script")
    parser.add_argument("--further", type=int, default=300, help="further runs in the home, for --scripts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        settings = Settings(home)
        runs = runs_of(settings)
        model = next(entry.card.id for entry in list_models(settings) if entry.demo and entry.card)
        if given.scripts:
            write_further(settings, runs["small"], given.further)
            measure_scripts(settings, {"data": DEMO_ID, "model": model, "run": runs["large"]})
            return
        for name in ("small", "large") if given.run == "both" else (given.run,):
            for sessions in given.sessions:
                with running_app(home, given.tree) as server, profiled(server, given.profile):
                    print(f"\n{name} run", end=", ")
                    query = urlencode({"data": DEMO_ID, "model": model, "run": runs[name]})
                    asyncio.run(measure(server, query, sessions, given))


if __name__ == "__main__":
    sys.exit(main())
