"""Imports point down only, the UI process never needs torch, and importing the package is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "state_engine"

# the floor: modules at the root that everything stands on
FLOOR_PACKAGES = {"download", "options"}
FLOOR = {"errors", "progress", "keys", "plain", "files", "config", "device", "versions"} | FLOOR_PACKAGES
# package -> the packages it may import; the floor is open to all. An arrow that is not here is not there
ARROWS: dict[str, set[str]] = {
    "sandbox": set(),
    "shards": set(),
    "models": set(),
    "data": set(),
    "metrics": set(),
    "gene_sets": {"data"},
    "checkpoints": {"models", "data"},
    "search": {"data"},
    "effects": {"checkpoints", "data"},
    "embedding": {"shards", "checkpoints", "search", "data", "models"},
    "library": {"effects", "checkpoints", "data", "sandbox"},
    "public_data": {"library", "data"},
    "prediction": {"shards", "effects", "checkpoints", "data", "models"},
    "train": {"prediction", "effects", "checkpoints", "data", "models"},
    "challenge": {"metrics", "prediction", "effects", "checkpoints", "data"},
    "analysis": {"gene_sets", "shards", "metrics", "prediction", "effects", "data"},
    "attention": {"prediction", "effects", "checkpoints", "data", "models"},
    "evaluation": {"shards", "train", "challenge", "analysis", "prediction", "effects", "metrics", "checkpoints", "data"},
    "heads": {"train", "prediction", "embedding", "effects", "checkpoints", "data", "models"},
    "screening": {
        "gene_sets",
        "shards",
        "heads",
        "analysis",
        "prediction",
        "effects",
        "metrics",
        "checkpoints",
        "data",
        "models",
    },
    "comparison": {"screening", "evaluation", "challenge", "analysis", "prediction", "effects", "metrics", "data"},
    "reports": {
        "comparison",
        "screening",
        "evaluation",
        "train",
        "analysis",
        "prediction",
        "effects",
        "metrics",
        "checkpoints",
        "data",
    },
    "pretrain": {"train", "embedding", "checkpoints", "data", "models"},
    "demo": {"pretrain", "train", "embedding", "checkpoints", "data", "models"},
}
TOP = {"jobs", "cli"}  # may import everything; commands may ask about jobs, and no job about a command
HEAVY = {"gseapy", "lancedb", "torch", "umap", "scanpy", "illico", "pdex", "numba", "sklearn", "anndata"}


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


def packages() -> list[str]:
    return sorted(p.name for p in ENGINE.iterdir() if (p / "__init__.py").exists())


def test_every_package_and_module_has_its_layer() -> None:
    assert set(packages()) == {*ARROWS, *TOP, *FLOOR_PACKAGES}
    assert {p.stem for p in ENGINE.glob("*.py")} == {*FLOOR - FLOOR_PACKAGES, "__init__", "__main__"}
    assert len(list(ENGINE.glob("*.py"))) <= 12
    depth: dict[str, int] = {}
    while len(depth) < len(ARROWS):
        ready = [n for n, below in ARROWS.items() if n not in depth and below <= depth.keys()]
        assert ready, "the allowed arrows make a circle"
        depth |= {n: 1 + max((depth[b] for b in ARROWS[n]), default=0) for n in ready}


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    place = str(path.relative_to(ENGINE))
    part = place.split("/")[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    others = {other for name in imports_of(path) if (other := part_of(name))} - {part, "__version__"}
    if part in TOP:
        assert part == "cli" or "cli" not in others, f"{place} imports the command line"
        return
    allowed = FLOOR if part in FLOOR else FLOOR | ARROWS[part]
    wrong = others - allowed
    assert not wrong, f"{place} imports {wrong}; allowed: {sorted(allowed)}"


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that reach each other (a node that reaches itself by way of others)."""

    def reached(start: str) -> set[str]:
        seen, ahead = set[str](), set(graph[start])
        while ahead:
            seen |= ahead
            ahead = {n for here in ahead for n in graph[here]} - seen
        return seen

    ends = {name: reached(name) for name in graph}
    return {frozenset(m for m in ends[name] if name in ends[m]) for name in graph if name in ends[name]}


@pytest.mark.parametrize("package", packages())
def test_no_circle_inside_a_package(package: str) -> None:
    """Imports inside functions and those for types count too: what one needs another to understand is one module."""
    names = {".".join(p.relative_to(ENGINE).with_suffix("").parts): p for p in (ENGINE / package).rglob("*.py")}
    graph = {
        name: {other for n in imports_of(path) if (other := n.removeprefix("state_engine.")) in names and other != name}
        for name, path in names.items()
    }
    assert not circles(graph), f"modules of {package} import each other"


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


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
    for path in (ROOT / "pages").glob("*.py"):
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
    assert "state_engine.prediction.compatibility" in wanted  # the list is not empty by mistake
    loaded = loaded_after("\n".join(f"import {name}" for name in sorted(wanted)))
    assert not loaded & {"gseapy", "lancedb", "torch", "umap", "scanpy", "illico", "pdex", "numba", "sklearn"}


def test_a_verb_is_a_verb_whatever_was_imported_before() -> None:
    code = (
        "import state_engine.prediction.predict, state_engine.embedding.embed, state_engine.embedding.decode, state_engine.cli.main\n"
        "from state_engine import decode, embed, evaluate, fetch, predict, screen\n"
        "assert all(map(callable, (decode, embed, evaluate, fetch, predict, screen)))\n"
        "from state_engine.evaluation import evaluate as module; import state_engine.challenge.scores"
    )
    loaded_after(code)


# readers of foreign bytes: a page gives them to `library.foreign.call`, or asks a function of the library that does
READERS = {
    "open_dataset", "check_file", "open_h5", "open_source", "read_rows", "read_index", "read_labels", "read_var", "read_frame",
    "read_column", "read_coded", "read_strings", "parse_plan", "read_plan", "read_genes", "read_targets", "read_names", "read_arc",
    "read_arc_embedding", "read_yaml", "read_features", "read_features_csv", "read_features_file", "unpack", "verify",
    "iter_blocks", "read_stored", "read_sets", "ZipFile", "TarFile", "File", "reader",
}  # fmt: skip
PARSERS = {"h5py", "zipfile", "tarfile", "tomllib", "csv", "pickle", "zarr", "yaml"}


def calls_of(tree: ast.AST) -> set[str]:
    """Names of the functions that are called, without what they are called on."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", ""))
    return found


def test_pages_parse_no_foreign_bytes_themselves() -> None:
    for path in [*(ROOT / "pages").rglob("*.py"), ROOT / "app.py"]:
        assert not calls_of(ast.parse(path.read_text())) & READERS, path
        assert not {name.split(".")[0] for name in imports_of(path)} & PARSERS, path


def test_a_direct_call_is_found() -> None:
    assert calls_of(ast.parse("x = dataset.open_dataset(path)")) & READERS
    assert not calls_of(ast.parse("x = call(open_dataset, path)")) & READERS
