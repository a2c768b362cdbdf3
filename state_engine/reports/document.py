"""A report as one HTML file that opens offline: no script, no request, and every text of a file shown as it is written.

The file's own policy forbids everything but its one style sheet (by its hash), so that no text in it could load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from state_engine.plain import visible

STYLE: Final = """
:root { color-scheme: light dark; --line: #d9dcde; --soft: #f4f5f5; --quiet: #565b5e; --accent: #0b6b55; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4245; --soft: #1c2224; --quiet: #a9b1b5; --accent: #5fc7ac; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1040px; padding: 24px 20px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 8px 0; overflow-wrap: anywhere; } h2 { font-size: 21px; margin: 40px 0 8px; }
h2 { border-top: 1px solid var(--line); padding-top: 20px; } h3 { font-size: 16px; margin: 20px 0 4px; }
p, li { max-width: 76ch; overflow-wrap: anywhere; } .quiet, figcaption { color: var(--quiet); font-size: 14px; }
.verdict { background: var(--soft); border-left: 4px solid var(--accent); padding: 8px 16px; }
figure { margin: 12px 0 20px; } svg { max-width: 100%; height: auto; display: block; }
svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; margin: 6px 0; } th, td { padding: 3px 12px 3px 0; }
th { text-align: left; border-bottom: 1px solid var(--line); vertical-align: bottom; } td { border-bottom: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--soft); padding: 12px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
nav a, .take { color: var(--accent); margin-right: 14px; } @media print { nav, .take { display: none; } body { max-width: none; } }
"""
MOST_ROWS: Final = 200  # of a table; the rest is counted below it


@dataclass(frozen=True)
class Words:
    """A paragraph; `quiet` for what stands beside the matter."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Points:
    """Sentences, one below the other."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A drawing of `state_engine.reports.drawings`, with its title and a caption that has method and n."""

    title: str
    svg: str
    caption: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table; its columns are the headings. Numbers are written with `digits` digits, p-values and the like in short form.

    Args:
        rows: of all its rows, the first `MOST_ROWS` are shown.
        note: below it.
    """

    title: str
    rows: pd.DataFrame
    note: str = ""
    digits: int = 3


@dataclass(frozen=True)
class Lines:
    """Text to copy: a command, or a paragraph of methods."""

    title: str
    text: str


@dataclass(frozen=True)
class Attachment:
    """A file inside the report, to save."""

    name: str
    content: bytes
    label: str
    mime: str = "application/json"


Block = Words | Points | Figure | Table | Lines | Attachment


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """What the file shows.

    Args:
        title: of the run, for people. line: what it is and when it was made.
        verdict: the first sentences to read.
        sections: in order.
    """

    title: str
    line: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]


def render(report: Report) -> str:
    """Return the file."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    links = "".join(f'<a href="#part-{i}">{text(s.title)}</a>' for i, s in enumerate(report.sections))
    verdict = "".join(f"<p>{text(sentence)}</p>" for sentence in report.verdict)
    body = "".join(_section(i, section) for i, section in enumerate(report.sections))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{text(report.title)}</title><style>{STYLE}</style></head>\n<body><header><h1>{text(report.title)}</h1>"
        f'<p class="quiet">{text(report.line)}</p></header>\n'
        + (f'<div class="verdict">{verdict}</div>\n' if verdict else "")
        + f"<nav>{links}</nav>\n<main>{body}</main></body></html>\n"
    )


def text(given: object, most: int | None = None) -> str:
    """Return any text as HTML shows it: as it is written, unseen characters as escapes."""
    return html.escape(visible(given, most, keep="\n"), quote=True)


def _section(number: int, section: Section) -> str:
    return f'<section id="part-{number}"><h2>{text(section.title)}</h2>{"".join(_block(b) for b in section.blocks)}</section>\n'


def _block(block: Block) -> str:
    match block:
        case Words():
            return f'<p class="quiet">{text(block.text)}</p>' if block.quiet else f"<p>{text(block.text)}</p>"
        case Points():
            return f"<ul>{''.join(f'<li>{text(one)}</li>' for one in block.texts)}</ul>" if block.texts else ""
        case Figure():
            return f"<figure><h3>{text(block.title)}</h3>{block.svg}<figcaption>{text(block.caption)}</figcaption></figure>"
        case Table():
            return _table(block)
        case Lines():
            return f"<h3>{text(block.title)}</h3><pre>{text(block.text)}</pre>"
        case Attachment():
            data = base64.b64encode(block.content).decode()
            return f'<p><a class="take" download="{text(block.name)}" href="data:{block.mime};base64,{data}">{text(block.label)}</a></p>'


def _table(table: Table) -> str:
    shown = table.rows.head(MOST_ROWS)
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in shown.dtypes]
    heads = "".join(_cell("th", name, right) for name, right in zip(shown.columns, numeric, strict=True))
    rows = "".join(
        f"<tr>{''.join(_cell('td', number(v, table.digits), right) for v, right in zip(row, numeric, strict=True))}</tr>"
        for row in shown.itertuples(index=False, name=None)
    )
    more = f"The first {MOST_ROWS} of {len(table.rows):,} rows. " if len(table.rows) > MOST_ROWS else ""
    note = f'<p class="quiet">{text(more + table.note)}</p>' if more or table.note else ""
    head = f"<h3>{text(table.title)}</h3>" if table.title else ""
    return f'{head}<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def _cell(tag: str, value: object, right: bool) -> str:
    look = ' class="n"' if right else ""
    return f"<{tag}{look}>{text(value, 200)}</{tag}>"


def number(value: object, digits: int = 3) -> str:
    """Return a value of a table: a whole number with commas, another with some digits and a short exponent, a dash where there is none."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return str(value)
    size = float(value)
    if size == int(size) and abs(size) < 1e15 and not isinstance(value, float):
        return f"{int(size):,}".replace("-", "−")
    shown = f"{size:.{digits}f}" if 1e-3 <= abs(size) < 1e6 or size == 0 else f"{size:.1e}"
    return shown.replace("-", "−") if abs(size) >= 1e-3 or size == 0 else shown.replace("-", "−", int(size < 0))


def as_json(value: object) -> bytes:
    """Return plain values as a JSON file for people."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def named_rows(pairs: Sequence[tuple[str, object]]) -> pd.DataFrame:
    """Return a table of facts, a row each; those without a value are left out."""
    return pd.DataFrame(list(_filled(pairs)), columns=["", "value"])


def _filled(pairs: Sequence[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    for name, value in pairs:
        if value not in (None, "", {}, ()):
            yield name, str(value)
