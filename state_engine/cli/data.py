"""The command `fetch`: the list of public data sets, and one of them brought here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.config import load_settings
from state_engine.errors import RequestError
from state_engine.progress import OnProgress, silent
from state_engine.public_data.catalogue import PublicData, catalogue, find
from state_engine.public_data.fetch import fetch, home_of

Write = Callable[[str], None]
Subparsers = Any  # argparse has no public name for what add_subparsers returns


def add_fetch_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `fetch`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fetch",
        help="download a public data set",
        description="Download a public data set, check it, unpack it, and point its split plan to the files. Continues where it stopped.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="see --list")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: a folder of its own in STATE_EXPLORER_HOME")
    parser.add_argument("--list", action="store_true", help="say what there is, with sizes and licences, and download nothing")
    return parser


def run_fetch(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Lists or downloads. Returns 0.

    Raises:
        RequestError: no name, or no such data set.
        DownloadError, DataError: what each says.
    """
    if options.list:
        for data in catalogue():
            write(f"{data.name}: {data.title} ({size_words(data.size)}, licence {data.licence})")
            write(f"  {data.what}. {data.source}".replace("  . ", "  "))
        return 0
    if not options.name:
        raise RequestError("Which data set?", "No name was given.", "See fetch --list.")
    data, settings = find(options.name), load_settings()
    for line in terms(data):
        write(line)
    folder = options.output or home_of(data.name, settings)
    made = fetch(data, folder, on_progress, settings)
    for arrived in made.arrived:
        write(f"{arrived.name}: {arrived.size:,} bytes, sha256 {arrived.sha256}")
        write(f"  {arrived.checked}")
    for name in made.data:
        write(f"  cells: {folder / name}")
    for name in made.plans:
        write(f"  split plan: {folder / name}")
    return 0


def terms(data: PublicData) -> list[str]:
    """Licence and citation of a data set, for people, before it is downloaded."""
    where = f" ({data.licence_url})" if data.licence_url else ""
    lines = [f"{data.title}: {size_words(data.size)}. Licence: {data.licence}{where}."]
    if data.licence == "not stated":
        lines.append(f"  Its publisher states no licence with the file: read {data.source or 'its source'} before you use it.")
    return [*lines, f"  Please cite: {data.citation}."] if data.citation else lines


def size_words(n: int | None) -> str:
    """Bytes as people say them."""
    if n is None:
        return "size not stated"
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
