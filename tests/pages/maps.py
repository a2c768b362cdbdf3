"""The maps of cells that a page sent, read as the browser reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streamlit.testing.v1 import AppTest

KINDS = {"u1": np.uint8, "u2": np.uint16, "i4": np.int32}


@dataclass(frozen=True, eq=False)
class Packet:
    """A header with its arrays."""

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def unpacked(data: bytes) -> Packet:
    """Return what `pages.parts.cellmap.packet.packed` made bytes of."""
    long = int.from_bytes(data[:4], "little")
    header, at, arrays = json.loads(data[4 : 4 + long]), 4 + long, {}
    for one in header.pop("arrays"):
        at = -(-at // 4) * 4
        arrays[one["name"]] = np.frombuffer(data, KINDS[one["kind"]], one["length"], at)
        at += arrays[one["name"]].nbytes
    assert at == len(data)
    return Packet(header, arrays)


def sent(page: AppTest, component: str) -> list[Packet]:
    """Return the packets of a page's components of one name: "map_points" (places, sent once) or "map_view" (drawings)."""
    protos = [element.proto for element in page.get("bidi_component")]
    return [unpacked(proto.bytes) for proto in protos if proto.component_name == component]


def drawings(page: AppTest) -> list[Packet]:
    """Return the drawings of a page."""
    return sent(page, "map_view")


def legend(packet: Packet) -> dict[str, int]:
    """Return the names of a legend of categories that have cells, with how many."""
    return {name: n for name, n in zip(packet.header["names"], packet.header["counts"], strict=True) if n}
