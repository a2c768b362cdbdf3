"""Let sessions of two owners work at the same time: is each served, sees each only what is theirs, and how does the page process grow?

    python -m benchmarks.sessions [--sessions 5 10 20] [--cells 64]

The owners have a file of the same name with the same settings, of other cells and with a label of their own inside. Each session is a
client of the page's own connection, logged in by the cookie that the server sets after a login. It opens its owner's data set and the
demo's model, chooses the same two perturbations in the same context as all others, predicts, and then looks at its run on Explore (the
map is made), Genes (the table is made) and Runs. Every message that the server sends is searched for what belongs to the other owner, and
the numbers of the tables are compared with those of the run on disk. Each number of sessions has a server of its own.

Memory is the resident one of the page process (`gc` runs after each script, by Streamlit's `runner.postScriptGC`): after one session of
each owner went the same way and left (imports, caches), then with all sessions open at their last page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import websockets
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value, generate_xsrf_token_string
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME, XSRF_COOKIE_NAME

from benchmarks.load import Client, memory_of
from state_engine.analysis import stored
from state_engine.analysis.differential import read_table
from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.datasets import DEMO_PATH, adopt_upload
from state_engine.library.models import list_models
from tests.browser.app import Server, running_app

OWNERS: Final = ("anna@lab.example", "bert@lab.example")
FILE: Final = "cells.h5ad"
PERTURBATIONS: Final = ("IFN-beta", "TNF")
CONTEXT: Final = "NK"
RENAMED: Final = "CRISPRi MYC"  # a measured label, which each owner calls by a name of their own
COOKIE_SECRET: Final = "of this measurement alone"
PATIENCE = 600.0  # seconds that one step may take: runs of all sessions wait for one worker
SILENCE: Final = 30.0  # after which a person reloads
_RUN = re.compile(rb"20\d{6}-\d{6}-[0-9a-f]{6}")


def secret_of(owner: str) -> str:
    """Return the label that only the file of an owner has."""
    return f"ONLY {owner.partition('@')[0].upper()}"


@dataclass
class Visitor(Client):
    """A session that also notes which runs and which of some words the server sent it, and keeps the widgets and tables of its page."""

    words: tuple[str, ...] = ()
    found: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    elements: dict[str, Any] = field(default_factory=dict)  # key of the widget -> what was drawn last
    tables: list[bytes] = field(default_factory=list)  # of the page, oldest first
    heard: float = 0.0  # when the server said something last
    reloads: int = 0  # of a page that said nothing for long, as a person does

    def _take(self, message: ForwardMsg) -> None:
        self.heard = time.monotonic()
        content = message.SerializeToString()
        self.found |= {word for word in self.words if word.encode() in content}
        self.runs |= {run.decode() for run in _RUN.findall(content)}
        super()._take(message)

    def _see(self, message: ForwardMsg) -> None:
        super()._see(message)
        element = message.delta.new_element
        kind = element.WhichOneof("type") or ""
        shown = getattr(element, kind, None)
        if kind == "dataframe":
            self.tables.append(bytes(shown.arrow_data.data))
        identity = getattr(shown, "id", "")
        if isinstance(identity, str) and identity.count("-") > 1:
            self.elements[identity.split("-", 2)[2]] = shown

    def table(self, column: str) -> pd.DataFrame:
        """Return the table with such a column that was drawn last."""
        read = (pa.ipc.open_stream(content).read_pandas() for content in reversed(self.tables))
        return next(table for table in read if column in table)

    async def goes_to(self, page: str, awaited: str, **address: str) -> None:
        """Open a page as a link to it does, and wait for the widget of a key."""
        self.query = urlencode({**self.address(), **address})
        for kept in (self.widgets, self.elements, self.tables):
            kept.clear()
        await self.timed(lambda: self.ask(page=page))
        await self.shows(awaited)

    async def shows(self, *keys: str) -> str:
        """Return which of some keys is drawn, once one is."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.error:
                raise AssertionError(self.error)
            there = next((key for key in keys if key in self.elements), "")
            if there and self.idle.is_set():
                return there
            if time.monotonic() - self.heard > SILENCE:
                self.reloads, self.heard = self.reloads + 1, time.monotonic()
                await self.ask()
            await asyncio.sleep(0.05)
        raise AssertionError(f"none of {keys} among {sorted(self.elements)}")

    async def sets(self, key: str, **value: object) -> None:
        """Change the widget of a key, or press it."""
        identity, fragment = self.widgets[key]
        await self.timed(lambda: self.ask(fragment=fragment, id=identity, **value))

    def address(self) -> dict[str, str]:
        """Return what the address holds."""
        return {name: values[0] for name, values in parse_qs(self.query).items()}


@dataclass(frozen=True)
class Seen:
    """What one session saw: its owner, its run, all run ids and words that it was sent, and the numbers of its tables."""

    owner: str
    run: str
    runs: frozenset[str]
    words: frozenset[str]
    effects: pd.DataFrame
    genes: pd.DataFrame
    reloads: int


@asynccontextmanager
async def visitor(server: Server, owner: str, words: Sequence[str]) -> AsyncIterator[Visitor]:
    """A session of an owner, logged in, until the block ends."""
    token = generate_xsrf_token_string()
    claims = {"is_logged_in": True, "email": owner, "email_verified": True, "sub": owner, "name": owner, "origin": server.address}
    user = create_signed_value(COOKIE_SECRET, USER_COOKIE_NAME, json.dumps(claims)).decode()
    async with websockets.connect(
        server.address.replace("http", "ws") + "/_stcore/stream", max_size=None, origin=server.address,  # type: ignore[arg-type]
        subprotocols=["streamlit", token], additional_headers={"Cookie": f"{XSRF_COOKIE_NAME}={token}; {USER_COOKIE_NAME}={user}"},  # type: ignore[list-item]
    ) as socket:  # fmt: skip
        client = Visitor(socket, words=tuple(words))
        listener = asyncio.create_task(client.listen())
        try:
            yield client
        finally:
            client._forget_polls()
            listener.cancel()


async def visit(client: Visitor, owner: str, data: str, model: str, cells: int) -> Seen:
    """Do what the module says, as one person; return what was seen."""
    await client.goes_to("data", "choice_Perturbation column", data=data, model=model)
    await client.goes_to("predict", f"perturbations_{model}")
    for key, wanted in ((f"contexts_{data}", (CONTEXT,)), (f"perturbations_{model}", PERTURBATIONS)):
        options = client.elements[key].options
        chosen = [next(option for option in options if option.split(" · ")[0] == name) for name in wanted]
        await client.sets(key, string_array_value=chosen)
    await client.sets("cells", int_value=cells)
    await client.shows("predict")
    client.query = urlencode(client.address() | {"run": ""})
    await client.sets("predict", trigger_value=True)
    await client.shows("go_explore", "to_genes")  # a short prediction opens its result by itself
    run = client.address()["run"]
    await client.goes_to("explore", "to_genes", run=run)
    if await client.shows("make_map", "look_map_cancel", "map_colour") == "make_map":
        await client.sets("make_map", trigger_value=True)
    await client.shows("map_colour")
    effects = client.table("effect_size")
    await client.goes_to("genes", "gene_search")
    genes = client.table("log2_fold_change")
    await client.goes_to("runs", f"open_{run}")
    return Seen(owner, run, frozenset(client.runs), frozenset(client.found), effects, genes, client.reloads)


def give_files(home: Path, scratch: Path) -> Mapping[str, str]:
    """Give each owner a file of the same name, of other cells of the demo and with one label of their own; return its id of each."""
    ids = {}
    cells = anndata.read_h5ad(DEMO_PATH)
    for number, owner in enumerate(OWNERS):
        mine = cells[np.arange(cells.n_obs) % 5 != number].copy()  # four fifths
        mine.obs["perturbation"] = mine.obs["perturbation"].cat.rename_categories({RENAMED: secret_of(owner)})
        mine.write_h5ad(scratch / FILE)
        ids[owner] = adopt_upload(Settings(home).of(owner), FILE, scratch / FILE).id
    return ids


def mixed_up(settings: Settings, seen: Sequence[Seen], ids: Mapping[str, str]) -> list[str]:
    """Return everything that a session saw and should not have seen, or the reverse; empty where all is well.

    Sessions of one owner that ask for the same at the same time have one run, as two clicks have (`pages.parts.jobs.start_job`).
    """
    wrong = []
    of = {owner: {info.id for info in list_runs(settings.of(owner))} for owner in OWNERS}
    for number, one in enumerate(seen):
        (other,) = set(OWNERS) - {one.owner}
        facts = {
            "has no run of its own": one.run in of[one.owner] and one.run in one.runs,
            "shares its run with the other owner": all(each.run != one.run for each in seen if each.owner != one.owner),
            "saw runs of the other owner": not one.runs & of[other],
            "saw runs of nobody": one.runs <= of[one.owner],
            "did not see its file": {secret_of(one.owner), FILE} <= one.words,
            "saw what is the other's": not {secret_of(other), ids[other], other, settings.of(other).home.name} & one.words,
            "saw other effects than its run has": _effects(settings.of(one.owner), one.run).equals(_rounded(one.effects)),
            "saw other genes than its run has": _same_genes(settings.of(one.owner), one),
        }
        wrong += [f"session {number} of {one.owner} {words}" for words, well in facts.items() if not well]
    if seen and len({_rounded(one.effects).to_csv() for one in seen}) != len({one.owner for one in seen}):
        wrong.append("the owners' numbers cannot be told apart")
    return wrong


def _effects(settings: Settings, run: str) -> pd.DataFrame:
    return _rounded(read_table(stored.effects_path(RunFolder.open(settings, run).path)))


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    names = ["perturbation", "context", "n_cells", "effect_size"]
    return table[names].astype({"perturbation": str, "context": str, "effect_size": float}).round(6).reset_index(drop=True)


def _same_genes(settings: Settings, one: Seen) -> bool:
    """Return whether the gene table that a session saw is one of its run's."""
    shown = one.genes.set_index("gene")["log2_fold_change"].astype(float)
    here = map(read_table, (RunFolder.open(settings, one.run).path / "differential").glob("*.parquet"))
    changes = (table.set_index("gene")["log2_fold_change"] for table in here if {"gene", "log2_fold_change"} <= {*table.columns})
    return any(np.allclose(change[shown.index], shown) for change in changes)


async def together(server: Server, n: int, ids: Mapping[str, str], model: str, cells: int) -> tuple[list[Seen], float]:
    """Let `n` sessions of both owners go at the same time; return what they saw, and the memory of the page process while all are open (MB)."""
    words = [*OWNERS, *ids.values(), *map(secret_of, OWNERS), FILE, *(server.settings.of(o).home.name for o in OWNERS)]
    arrived = asyncio.Barrier(n + 1)

    async def one(number: int) -> Seen:
        owner = OWNERS[number % 2]
        async with visitor(server, owner, words) as client:
            try:
                return await visit(client, owner, ids[owner], model, cells)
            finally:
                await arrived.wait()
                await arrived.wait()

    async def weighed() -> float:
        await arrived.wait()
        megabytes = memory_of(server.process)
        await arrived.wait()
        return megabytes

    *seen, memory = await asyncio.gather(*(one(number) for number in range(n)), weighed())
    return seen, memory


def measure(n: int, cells: int, say: Callable[[str], None] = print, warm: bool = True) -> tuple[list[str], float]:
    """Let `n` sessions work on a server of their own; return what was mixed up, and by how much the page process grew for each (MB)."""
    with tempfile.TemporaryDirectory() as scratch:
        home, secrets = Path(scratch) / "home", Path(scratch) / "secrets.toml"
        home.mkdir()
        secrets.write_text(
            f'[auth]\nredirect_uri = "http://127.0.0.1/oauth2callback"\ncookie_secret = "{COOKIE_SECRET}"\nclient_id = "x"\n'
            'client_secret = "x"\nserver_metadata_url = "http://127.0.0.1/.well-known/openid-configuration"\n'
        )
        ids = give_files(home, Path(scratch))
        model = next(entry.card.id for entry in list_models(Settings(home)) if entry.demo and entry.card)
        with running_app(home, flags=("--secrets.files", str(secrets))) as server:
            if warm:
                asyncio.run(together(server, len(OWNERS), ids, model, cells))
            before, started = memory_of(server.process), time.monotonic()
            seen, after = asyncio.run(together(server, n, ids, model, cells))
            grown = (after - before) / n
            wrong = mixed_up(server.settings, seen, ids)
            say(
                f"{n} sessions, {time.monotonic() - started:.0f} s: memory {before:.0f} -> {after:.0f} MB, {grown:.1f} MB a session; "
                f"mixed up: {'; '.join(wrong) or 'nothing'}; reloads {sum(one.reloads for one in seen)}; load of the machine {os.getloadavg()[0]:.1f}"
            )
            return wrong, grown


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--cells", type=int, default=64, help="of each condition")
    given = parser.parse_args()
    for n in given.sessions:
        measure(n, given.cells, lambda words: print(words, flush=True))


if __name__ == "__main__":
    main()
