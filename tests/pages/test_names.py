"""Names of files, genes, labels, models and runs are shown as they are written: never as Markdown, HTML or formulas."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Node

from pages.parts import door, session, umap
from pages.parts.attention import charts as attention
from pages.parts.evaluate import charts as evaluate
from pages.parts.format import code, drawn, md, minus, sentences
from pages.parts.genes import charts as genes
from pages.parts.train import curves
from state_engine.analysis import stored
from state_engine.checkpoints.store import save_model
from state_engine.config import Settings
from state_engine.library.datasets import receive_upload
from state_engine.models.transition import TransitionModel
from tests.pages.make_run import make_maps, make_run
from tests.pages.maps import drawings
from tests.pages.opened import ROOT, VIEWS, app_on, figures, text
from tests.small import BATCHES, GENES, PERTURBATIONS, card_of, config, write_cells, write_model

IS_OPEN = door.is_open  # as it is outside of tests: a click runs the page that is shown, through app.py
KINDS = (OverflowError, RecursionError, MemoryError, AttributeError)
PAGES = sorted(p.stem for p in VIEWS.glob("*.py") if p.stem != "__init__")
SOURCES = sorted((ROOT / "pages").rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "state_engine/analysis/export.py"], ids=lambda p: p.stem)
def test_tables_to_take_home_are_written_without_formulas(path: Path) -> None:
    assert not re.search(r"\.to_csv\(|csv\.writer", path.read_text()), "write it with csv_for_people"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("![x](http://127.0.0.2:9/a)", r"\!\[x\](http:{}//127.0.0.2:9/a)".replace("{}", "\u2060")),
        (":red[x]", r"\:red\[x\]"),
        (":smile:", ":\u2060smile\\:"),
        ("$a_b$", r"\$a_b\$"),
        ("<b>x</b>", r"\<b>x\</b>"),
        ("**x** `y` ~z~", r"\*\*x\*\* \`y\` \~z\~"),
        ("&#47;&amp;", r"\&#47;\&amp;"),
        ("_x_ __y cell_type", r"\_x\_ \_\_y cell_type"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("a\nb\x1b\u202e", r"a\\u000ab\\u001b\\u202e"),
        ("www.x.org a@b.org", "www\u2060.x.org a@\u2060b.org"),
        ("HLA-A+TNF (x:1), 5 < 6", "HLA-A+TNF (x:1), 5 < 6"),
    ],
)
def test_a_name_stays_as_it_is_written(name: str, shown: str) -> None:
    assert md(name) == shown


def test_names_are_cut_and_messages_are_not() -> None:
    assert len(md("x" * 500)) == 80 and sentences("x\n y " * 100).startswith("x y x y") and len(sentences("xy " * 300)) == 899


@pytest.mark.parametrize(("page", "kind"), list(zip(PAGES, itertools.cycle(KINDS))), ids=str)
def test_a_data_set_that_raises_anything_leaves_every_page_and_can_be_let_go(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, kind: type[Exception]
) -> None:
    def raises(*arguments: object) -> None:
        raise kind

    path = write_cells(tmp_path / "cells.h5ad")
    with path.open("rb") as stream:
        identity = receive_upload(Settings(home), path.name, stream, path.stat().st_size).id
    card = write_model(home / "models" / "tiny")
    monkeypatch.setattr(session, "open_foreign", raises)
    monkeypatch.setattr(door, "is_open", IS_OPEN)
    app = app_on(page, data=identity, model=card.id)
    assert "cannot be read" in text(app) and app.title
    app.button(key="let_go_data").click().run()
    assert not app.exception and not app.session_state["thread_data"] and "cannot be read" not in text(app)


# ---- every page with names that Markdown would obey ----

HOSTILE = (
    "![x](http://127.0.0.2:9/a)",
    ":red[x]",
    "$a_b$",
    "<b>x</b>",
    "**x**",
    "[l](http://127.0.0.2:9/b)",
    "&#47;",
    "*x*",
    "a`b",
    '<a href="http://127.0.0.2:9/c">x</a>',
    "%{evil}",  # no Markdown, but a variable to Plotly
)
NAMED = {"drugA": HOSTILE[0], "drugB": HOSTILE[1], "B": HOSTILE[2], "T": HOSTILE[4], "NK": HOSTILE[5], "TNF": HOSTILE[0]} | {
    "IFNB1": HOSTILE[1], "JUN,FOS": HOSTILE[6], "lane 1": HOSTILE[3], "lane 2": HOSTILE[7], "control": HOSTILE[8]
}  # fmt: skip
PLAIN = {"text", "code", "json", "arrow_data_frame", "plotly_chart", "html"}  # kinds whose words are never Markdown
FIELDS = {"body", "label", "help", "text", "content", "tooltip"}


def hostile(names: Sequence[str]) -> list[str]:
    return [NAMED.get(name, f"{HOSTILE[i % len(HOSTILE)]}{i}") for i, name in enumerate(names)]


def rename(path: Path) -> Path:
    """Write hostile names over all labels and genes of a file of cells."""
    cells = anndata.read_h5ad(path)
    for column in cells.obs.columns[cells.obs.dtypes == "category"]:
        cells.obs[column] = cells.obs[column].cat.rename_categories(lambda label: NAMED.get(label, label))
    cells.var_names = hostile(list(cells.var_names))
    cells.write_h5ad(path)
    return path


def markdown_of(page: AppTest) -> Iterator[str]:
    """Yield every text of a page that the browser reads as Markdown: words, labels, helps, names of tabs and options."""
    waiting: list[Node] = [page.main, page.sidebar]
    while waiting:
        node = waiting.pop()
        waiting += getattr(node, "children", {}).values()
        if node.type not in PLAIN and node.proto is not None:
            yield from _texts(node.proto)
            if node.type in ("radio", "button_group"):
                yield from map(str, getattr(node.proto, "options", ()))


def _texts(proto: Any) -> Iterator[str]:
    for field, value in proto.ListFields():
        if isinstance(value, str) and field.name in FIELDS:
            yield value
        elif hasattr(value, "ListFields"):
            yield from _texts(value)


def obeyed(markdown: str) -> list[str]:
    """Return the hostile names that stand in Markdown as they are: outside of code marks and without a backslash."""
    outside = re.sub(r"(?<!\\)`[^`]*`", "", markdown)
    return [name for name in HOSTILE[:-1] if re.search(rf"(?<!\\){re.escape(name)}", outside)]


def test_what_is_obeyed_is_found() -> None:
    assert [obeyed(f"a {name}") for name in HOSTILE[:3]] == [[HOSTILE[0]], [HOSTILE[1]], [HOSTILE[2]]]
    assert not any(obeyed(f"**{md(name)}** {sentences(name)} {code(name)}") for name in HOSTILE)


MARKDOWN = {
    "markdown", "caption", "page_link", "subheader", "title", "header", "warning", "error", "success", "info", "expander", "tabs",
}  # fmt: skip
NAMES = {
    "perturbation", "context", "control", "licence", "source", "limits", "device", "model_name", "error", "problem", "reason", "input_key",
    "words", "held_out", "dataset", "display_name", "file_name",
}  # fmt: skip


def unescaped(node: ast.expr) -> Iterator[str]:
    """Yield what an expression puts into Markdown as it is and by its word holds a name: a field such as `card.licence` or `entry.name`."""
    if isinstance(node, ast.Call):  # what a function returns is its own; md() and its kin end the search
        return
    if isinstance(node, ast.Attribute):
        owner = ast.unparse(node.value)
        named = node.attr == "name" or (node.attr == "title" and owner.endswith(("manifest", "job")))
        if (named or node.attr in NAMES) and owner not in OURS:
            yield ast.unparse(node)
        return
    for below in ast.iter_child_nodes(node):
        if isinstance(below, ast.expr):
            yield from unescaped(below)


OURS = {"metric", "rules"}  # their titles and names are written in the package


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_name_is_put_into_markdown_as_it_is(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    found = {f"{n.lineno}: {name}" for n in calls if n.func.attr in MARKDOWN for a in n.args[:1] for name in unescaped(a)}  # type: ignore[attr-defined]
    assert not found, "put it through md(), code() or sentences() of pages/parts/format.py"


def test_a_name_in_markdown_is_found_in_the_source() -> None:
    bad = ast.parse('f"**{card.licence}** " + (f"{entry.name}" if x else run.manifest.title)', mode="eval").body
    assert list(unescaped(bad)) == ["card.licence", "entry.name", "run.manifest.title"]
    assert not list(unescaped(ast.parse('f"{md(card.licence)} {metric.name} {data.n_cells:,}"', mode="eval").body))


@pytest.mark.parametrize("page", PAGES)
def test_no_page_obeys_a_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setattr(door, "is_open", IS_OPEN)
    cells = rename(write_cells(tmp_path / "cells.h5ad"))
    with cells.open("rb") as stream:
        identity = receive_upload(
            Settings(home), f"{HOSTILE[0].replace('/', '')}{HOSTILE[1]}.h5ad", stream, cells.stat().st_size
        ).id
    made = config()
    card = replace(
        card_of(made), name=HOSTILE[4], control=NAMED["control"], perturbations=tuple(hostile(PERTURBATIONS)), contexts=(HOSTILE[2],),
        batches=tuple(hostile(BATCHES)), licence=HOSTILE[5], source=HOSTILE[0], limits=HOSTILE, notes=HOSTILE,
        input_genes=tuple(hostile(GENES)), output_genes=tuple(hostile(GENES)), attention_source=HOSTILE[1],
    )  # fmt: skip
    torch.manual_seed(0)
    saved = save_model(home / "models" / "tiny", card, TransitionModel(made).state_dict())
    (home / "models" / "broken *x*").mkdir()
    (home / "models" / "broken *x*" / "model.json").write_text("{")
    run = make_run(Settings(home))
    rename(run.result)
    manifest = json.loads(run.file("manifest.json").read_bytes())
    run.file("manifest.json").write_text(json.dumps(manifest | {"title": f"{HOSTILE[0]} in {HOSTILE[1]}"}))
    make_maps(run, perturbation=NAMED["drugA"], context=NAMED["B"])
    for condition in itertools.product((NAMED["drugA"], NAMED["drugB"]), (NAMED["B"], NAMED["T"])):
        stored.answer(run.path, *condition)
    stored.effects_for(run.path)
    app = app_on(page, data=identity, model=saved.id, run=run.id)
    shown = list(markdown_of(app))
    assert any(md(HOSTILE[4]) in text for text in shown)  # the sidebar names the model
    assert not {text: names for text in shown if (names := obeyed(text))}
    assert not [word for figure in figures(app) for word in words_of(figure) if obeyed_by_plotly(word)]
    assert bool(figures(app)) == (page in ("explore", "genes", "attention")) and bool(drawings(app)) == (page == "explore")


# ---- every figure with names that Plotly would obey ----

NOT_DRAWN = {"customdata", "legendgroup", "uirevision", "template"}  # what a click gives back, and keys


def words_of(spec: Any) -> Iterator[str]:
    """Yield every text of a figure that is drawn or shown in a hover."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, list):
        for part in spec:
            yield from words_of(part)
    elif isinstance(spec, dict):
        in_hovers = "%{customdata}" in str(spec.get("hovertemplate", ""))
        for key, part in spec.items():
            if key not in NOT_DRAWN or (key == "customdata" and in_hovers):
                yield from words_of(part)


def obeyed_by_plotly(text: str) -> list[str]:
    return [name for name in HOSTILE if re.search(r"[<&]|%{", name) and name in text]


def spec_of(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


def test_what_plotly_obeys_is_found() -> None:
    bad = go.Figure(go.Scatter(x=[1], y=[1], customdata=[HOSTILE[3]], hovertemplate="%{customdata}"))
    assert [obeyed_by_plotly(word) for word in words_of(spec_of(bad)) if "<" in word] == [[HOSTILE[3]]]
    assert not any(obeyed_by_plotly(drawn(name)) for name in HOSTILE)
    assert (
        drawn("HLA-A · 5") == "HLA-A · 5"
        and drawn('<a b="c">&') == '&lt;a b="c"&gt;&amp;'
        and drawn("%{x}\n") == "%&#123;x}\\u000a"
    )


def test_no_figure_obeys_a_name() -> None:
    names = [name for name in HOSTILE if re.search(r"[<&]|%{", name)]
    n = len(names)
    xy, values = np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.linspace(-1, 1, n, dtype=np.float32)
    conditions = pd.DataFrame({"perturbation": names, "context": names[::-1], "own": values, "other": -values})
    table = pd.DataFrame({"gene": names, "log2_fold_change": values, "p_value": 1e-6, "fdr": 1e-5})
    measured = table.assign(observed_log2_fold_change=values, observed_fdr=1e-5, corrected=values)
    ranking = conditions.assign(log2_fold_change=values, n_cells=9)
    look = umap.Look(5, 0.8, "#000000")
    drawings = [
        umap.value_map(xy, values, names[0], "log1p", look),
        genes.volcano(table, marked=names, chosen=names[0]).figure,
        genes.violins(names[0], [genes.CellGroup(name, np.ones(5, np.float32), "#000000") for name in names]),
        genes.agreement(measured, "corrected", chosen=names[0]),
        genes.ranking_bars(ranking, (names[0], names[-1])),
        evaluate.conditions(conditions, names[0], names[1], "MAE", False, (names[0], names[-1])),
        evaluate.effects(tuple(names), values, values, names[0]),
        attention.groups(np.ones((n, n), np.float32), names, False),
        attention.detail(np.ones((n, n), np.float32), attention.Strip(np.arange(n, dtype=np.float32), names[0]), False),
        curves.error_figure(pd.DataFrame({"step": [1], f"mae_{names[0]}": [1.0]}), [f"mae_{names[0]}"]),
    ]
    for figure in drawings:
        words = list(words_of(spec_of(figure)))
        assert not [word for word in words if obeyed_by_plotly(word)]
        assert any(drawn(name, None) in word for word in words for name in names), "the figure shows no name"
    assert set(names) <= {word for trace in drawings[3].data if trace.customdata is not None for word in trace.customdata}


def test_only_numbers_have_a_minus_sign() -> None:
    assert minus("skill -0.5 (-1.2 to 3) of IFN-beta in CD4-2, -3 %") == "skill −0.5 (−1.2 to 3) of IFN-beta in CD4-2, −3 %"
