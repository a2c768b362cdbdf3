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

# kind of run -> pages that a link to one shows, the first one first. They show what lies in the run's own folder alone
SHARED: Mapping[str, tuple[str, ...]] = {
    "predict": ("explore", "genes", "attention"),
    "screen": ("screen",),
    "evaluate": ("evaluate",),
    "test": ("evaluate",),
    "compare": ("compare",),
}


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


def titles(pages_: Sequence[str]) -> list[str]:
    """Return how the menu calls some pages."""
    return [title for entries in _MENU.values() for name, title, _ in entries if name in pages_]


def pages(only: Sequence[str] = ()) -> dict[str, list[Page]]:
    """What `st.navigation` takes: sections with their pages and the default one. Their icons are in the menu alone.

    Args:
        only: pages that a session which came by a link to one run sees, the first one first; () for all.
    """
    first = only[0] if only else "home"
    return {
        section: [
            st.Page(script(name), title=title, url_path=None if name == first else name, default=name == first)
            for name, title, _ in entries
        ]
        for section, entries in _entries(only).items()
    }


def _entries(only: Sequence[str]) -> Mapping[str, Sequence[tuple[str, str, str]]]:
    if not only:
        return _MENU
    found = {section: [entry for entry in entries if entry[0] in only] for section, entries in _MENU.items()}
    return {section: entries for section, entries in found.items() if entries}


def menu(params: Callable[[str], Mapping[str, str]], only: Sequence[str] = (), admin: bool = False) -> None:
    """Draw the menu in the sidebar.

    Args:
        params: returns what the address of a page, by its name, holds.
        only: as for `pages`.
        admin: whether the page of the server is shown.
    """
    with st.sidebar, st.container(key="menu"):
        for section, entries in _entries(only).items():
            if section == "Server" and not admin:
                continue
            st.caption(section)
            for name, title, icon in entries:
                st.page_link(script(name), label=title, icon=icon, query_params=params(name))
