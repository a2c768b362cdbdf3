"""Imports point down only, the UI process never needs torch, and importing the package is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "state_engine"

# layer of each module or package of the engine, from the bottom; imports go to the same package or to a lower layer
LAYERS = (
    {"errors", "progress", "keys", "values", "files", "npy", "processes"},
    {"config", "device"},
    {"data", "models"},
    {"checkpoints", "runs", "datasets", "public_data"},
    {
        "inputs",
        "compatibility",
        "forward",
        "results",
        "mean_effect",
        "baseline_effects",
        "outputs",
        "prediction_plan",
        "calibrated",
        "replaced",
        "request",
        "attention_maps",
        "attention_modes",
        "search_tables",
        "embed_request",
        "embed_forward",
    },
    {
        "embed",
        "embed_commands",
        "decode",
        "cls_attention",
        "predict",
        "prepare",
        "attention_check",
        "replay",
        "attention",
        "measured",
        "search",
        "search_commands",
        "analysis",
        "evaluate",
        "challenge",
        "train",
    },
    {"jobs", "cli", "__main__"},
)
HEAVY = {"lancedb", "torch", "umap", "scanpy", "pdex", "numba", "sklearn", "anndata"}


def imports_of(path: Path, top_only: bool = False) -> set[str]:
    """Dotted names a file imports; `top_only` leaves out those inside functions."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part_of(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "state_engine" and len(pieces) > 1 else None


def layer_of(part: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    part = path.relative_to(ENGINE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for name in imports_of(path):
        other = part_of(name)
        if other is None or other == part or not any(other in names for names in LAYERS):
            continue
        assert layer_of(other) <= layer_of(part), f"{path.relative_to(ROOT)} imports {name}, which is above it"


def test_data_and_models_do_not_know_each_other() -> None:
    for path in (ENGINE / "data").rglob("*.py"):
        assert not {n.split(".")[0] for n in imports_of(path)} & {"torch"}, path
        assert not any(part_of(n) == "models" for n in imports_of(path)), path
    for path in (ENGINE / "models").rglob("*.py"):
        assert not {n.split(".")[0] for n in imports_of(path)} & {"anndata", "h5py", "pandas", "scanpy"}, path
        assert not any(part_of(n) == "data" for n in imports_of(path)), path


def test_the_engine_knows_no_user_interface() -> None:
    for path in ENGINE.rglob("*.py"):
        names = {n.split(".")[0] for n in imports_of(path)}
        assert not names & {"streamlit", "plotly", "pages"}, path


def test_views_are_thin() -> None:
    for path in (ROOT / "pages" / "views").glob("*.py"):
        names = {n.split(".")[0] for n in imports_of(path)}
        assert not names & {"numpy", "torch", "plotly", "anndata", "h5py"}, path


def test_pages_import_nothing_heavy_themselves() -> None:
    for path in (ROOT / "pages").rglob("*.py"):
        assert not {n.split(".")[0] for n in imports_of(path)} & HEAVY, path


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_the_package_loads_little() -> None:
    loaded = loaded_after("import state_engine")
    assert not loaded & {*HEAVY, "numpy", "pandas", "streamlit"}


def test_the_modules_that_pages_use_load_no_torch() -> None:
    wanted = set()
    for path in [*(ROOT / "pages").rglob("*.py"), ROOT / "app.py"]:
        wanted |= {
            n for n in imports_of(path) if n.startswith("state_engine.") and (ROOT / (n.replace(".", "/") + ".py")).exists()
        }
    assert "state_engine.compatibility" in wanted  # the list is not empty by mistake
    loaded = loaded_after("\n".join(f"import {name}" for name in sorted(wanted)))
    assert not loaded & {"lancedb", "torch", "umap", "scanpy", "pdex", "numba", "sklearn"}


def test_a_verb_is_a_verb_whatever_was_imported_before() -> None:
    code = (
        "import state_engine.predict, state_engine.embed, state_engine.decode, state_engine.cli\n"
        "from state_engine import decode, embed, evaluate, fetch, predict\n"
        "assert all(map(callable, (decode, embed, evaluate, fetch, predict)))\n"
        "from state_engine.evaluate import evaluation; import state_engine.evaluate.scores"
    )
    loaded_after(code)


def test_public_names_are_a_list_that_resolves() -> None:
    import state_engine

    assert sorted(state_engine.__all__) == state_engine.__all__
    for name in state_engine.__all__:
        assert getattr(state_engine, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = state_engine.nothing_of_the_kind
