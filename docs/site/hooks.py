"""What MkDocs does for this site besides building it: tables that the code describes already, and no address outside.

`<!-- metrics -->` in a page becomes the metrics with their meanings. The theme loads one script from elsewhere, iframe-worker 1.0.4, without which
pages opened from a folder have no search; it is beside this file (MIT, its licence too), and the theme's address is changed to it.
"""

from __future__ import annotations

from typing import Any

from state_engine.metrics.profile import Metric
from state_engine.metrics.profiles import HOUSE

WORKER = "https://unpkg.com/iframe-worker/shim"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's text with its tables."""
    return markdown.replace("<!-- metrics -->", metrics_table())


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return a finished page that asks for nothing from elsewhere."""
    return output.replace(WORKER, f"{'../' * page.url.count('/')}site/iframe-worker.js")


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """Return a page that is made of the theme alone, such as the one for an address that is not there, likewise."""
    return output_content.replace(WORKER, "site/iframe-worker.js")


def metrics_table() -> str:
    """Return all metrics of Evaluate: name, direction, what it says."""
    rows = (f"| {metric.title} | `{metric.name}` | {_direction(metric)} | {metric.meaning} |" for metric in HOUSE["full"].metrics)
    return "\n".join(("| Metric | Column | Better | What it says |", "|---|---|---|---|", *rows))


def _direction(metric: Metric) -> str:
    if metric.describes:
        return "describes"
    return "higher" if metric.more_is_better else "lower"
