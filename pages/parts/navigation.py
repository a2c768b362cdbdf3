"""The menu: every page once, with its address. Scripts lie in `pages/` and pass through `door.through_app`.

The menu is our own, not that of `st.navigation`: its links carry the thread, so that a change of page is one entry of the browser's history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st
from streamlit.navigation.page import Page

_MENU: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "Start": (
        ("home", "Home", ":material/home:"),
        ("data", "Data", ":material/table:"),
        ("models", "Models", ":material/deployed_code:"),
    ),
    "Predict": (
        ("predict", "Predict", ":material/play_circle:"),
        ("embed", "Embed", ":material/hub:"),
        ("screen", "Screen", ":material/manage_search:"),
        ("runs", "Runs", ":material/history:"),
    ),
    "Look": (
        ("explore", "Explore", ":material/scatter_plot:"),
        ("genes", "Genes", ":material/genetics:"),
        ("attention", "Attention", ":material/grid_on:"),
        ("evaluate", "Evaluate", ":material/fact_check:"),
        ("compare", "Compare", ":material/compare_arrows:"),
    ),
    "Challenge": (("submit", "Submit", ":material/package_2:"),),
    "Train": (
        ("train", "Train", ":material/model_training:"),
        ("finetune", "Fine-tune", ":material/tune:"),
        ("pretrain", "Pretrain", ":material/network_node:"),
    ),
    "Server": (("admin", "Admin", ":material/admin_panel_settings:"),),
}

SHARED = ("explore", "genes", "attention")  # pages that a link to a run shows


def names() -> list[str]:
    """Names of all pages, in the order of the menu."""
    return [name for entries in _MENU.values() for name, _, _ in entries]


def script(name: str) -> str:
    """Path of a page's script, as `st.page_link` and `st.switch_page` want it."""
    return f"pages/{name}.py"


def base() -> str:
    """Return the folder of addresses that the whole app lies in (server.baseUrlPath), such as "/cells"; "" for none."""
    path = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{path}" if path else ""


def below_base(path: str) -> str:
    """Return the path of an address without that folder."""
    inside = base() and (path == base() or path.startswith(base() + "/"))
    return path[len(base()) :] or "/" if inside else path


def pages(by_link: bool = False) -> dict[str, list[Page]]:
    """What `st.navigation` takes: sections with their pages and the default one. Their icons are in the menu alone.

    Args:
        by_link: whether the session came by a link to one run, of which only the pages of `SHARED` tell.
    """
    first = "explore" if by_link else "home"
    return {
        section: [
            st.Page(script(name), title=title, url_path=None if name == first else name, default=name == first)
            for name, title, _ in entries
        ]
        for section, entries in _entries(by_link).items()
    }


def _entries(by_link: bool) -> Mapping[str, Sequence[tuple[str, str, str]]]:
    return {"Look": [entry for entry in _MENU["Look"] if entry[0] in SHARED]} if by_link else _MENU


def menu(params: Callable[[str], Mapping[str, str]], by_link: bool = False, admin: bool = False) -> None:
    """Draw the menu in the sidebar.

    Args:
        params: returns what the address of a page, by its name, holds.
        by_link: as for `pages`.
        admin: whether the page of the server is shown.
    """
    with st.sidebar, st.container(key="menu"):
        for section, entries in _entries(by_link).items():
            if section == "Server" and not admin:
                continue
            st.caption(section)
            for name, title, icon in entries:
                st.page_link(script(name), label=title, icon=icon, query_params=params(name))
