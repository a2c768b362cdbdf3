"""Measure how easily one finds one's way in the code: the numbers that a newcomer feels, for any number of trees.

    python benchmarks/house.py [TREE ...]      TREE is a folder or a revision of git; this folder without one
    python benchmarks/house.py --words [TREE]  words that are not plain English, for each package
    python benchmarks/house.py --write         measure BEFORE and this folder, and write the table into RESULTS.md

What is counted: the Python files of state_engine/, pages/ and app.py. Complexity is McCabe's as radon counts it. Each function below says how
it counts. Needs the packages of requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from radon.complexity import cc_visit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BEFORE = "4396fd3"  # the last state before the packages were rearranged
BEGIN, END = "<!-- house: begin -->", "<!-- house: end -->"
Function = ast.FunctionDef | ast.AsyncFunctionDef

# a library counts as dense in a file where at least one line of code in eight uses it
DENSE = re.compile(r"\b(np|numpy|torch|F|nn|sparse)\.\w|\.(sum|mean|reshape|view|float|unsqueeze|transpose|astype)\(")
DENSE_SHARE = 1 / 8
# files that hold the command line, by their names today and before
COMMAND_FILE = re.compile(r"state_engine/(cli(/.*)?\.py|cli/.*|options(/.*)?\.py|__main__\.py|(.*/)?(\w+_)?commands?\.py)$")
COMMAND_FUNCTIONS = {"command_of", "words"}


@dataclass(frozen=True)
class Source:
    """One Python file, parsed. `place` is its path from the root of the tree."""

    place: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """Line and text of each comment that is meant for a reader, not for a tool."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        found = [(token.start[0], token.string.lstrip("# ")) for token in tokens if token.type == tokenize.COMMENT]
        return [(line, words) for line, words in found if not re.match(r"(noqa|type:|fmt:|pragma|!)", words)]

    @cached_property
    def docstrings(self) -> set[int]:
        """Every line that belongs to a docstring."""
        lines: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False) is not None:
                words = node.body[0]
                lines |= set(range(words.lineno, (words.end_lineno or words.lineno) + 1))
        return lines

    @cached_property
    def code(self) -> list[str]:
        """The lines that are neither blank, nor a comment alone, nor part of a docstring."""
        numbered = enumerate(self.text.splitlines(), 1)
        return [line for n, line in numbered if line.strip() and not line.strip().startswith("#") and n not in self.docstrings]

    @property
    def dense(self) -> bool:
        uses = sum(1 for line in self.code if DENSE.search(line))
        return uses > 4 and uses >= DENSE_SHARE * len(self.code)

    @property
    def room(self) -> str:
        """A file at the root of state_engine, or a package; pages/ and the parts that pages share are one room each."""
        parts = Path(self.place).with_suffix("").parts
        if parts[0] == "pages":
            return "/".join(parts[:2]) if len(parts) > 2 else "pages"
        return "/".join(parts[:2])


def sources(root: Path) -> list[Source]:
    """Return the files that are measured, in order."""
    paths = [*(root / "state_engine").rglob("*.py"), *(root / "pages").rglob("*.py"), root / "app.py"]
    return [Source(str(path.relative_to(root)), path.read_text()) for path in sorted(paths) if path.exists()]


@contextmanager
def opened(tree: str) -> Iterator[Path]:
    """The folder itself, or a revision of git unpacked for as long as it is measured."""
    if (Path(tree) / "state_engine").is_dir():
        yield Path(tree)
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", tree], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def imports(source: Source) -> set[str]:
    """Return dotted names of what a file imports, wherever in the file; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_and_arrows(files: list[Source]) -> tuple[int, int]:
    """Count the rooms, and the pairs of rooms of which one imports the other (several imports are one arrow)."""
    rooms = {source.room for source in files}
    arrows = set()
    for source in files:
        for name in imports(source):
            parts = name.split(".")
            target = next((r for n in (3, 2, 1) if (r := "/".join(parts[:n])) in rooms), None)
            if target and target != source.room:
                arrows.add((source.room, target))
    return len(rooms - {"state_engine/__init__", "state_engine/__main__"}), len(arrows)


def used_once(files: list[Source]) -> tuple[int, int]:
    """Count private functions and methods that the tree names exactly once beside their definition, and all functions."""
    names: Counter[tuple[str, str]] = Counter()
    for source in files:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                names[source.place, node.id] += 1
            elif isinstance(node, ast.Attribute):
                names[source.place, node.attr] += 1
    private = [(s.place, f.name) for s in files for f in s.functions if f.name.startswith("_") and not f.name.endswith("__")]
    return sum(names[each] == 1 for each in private), sum(len(s.functions) for s in files)


def complexities(files: list[Source]) -> list[int]:
    """Return the complexity of each function and method."""
    blocks = [block for source in files for block in cc_visit(source.text)]
    return [block.complexity for block in blocks if block.letter != "C"]


def comments_in_100(files: list[Source]) -> str:
    """Return comments per 100 lines of code: on lines of their own, and all. Docstrings are neither comment nor code."""
    code = max(1, sum(len(s.code) for s in files))
    own = sum(1 for s in files for line, _ in s.comments if s.text.splitlines()[line - 1].lstrip().startswith("#"))
    return f"{100 * own / code:.1f} ({100 * sum(len(s.comments) for s in files) / code:.1f})"


def uses_of_any(files: list[Source]) -> int:
    """Count how often `Any` is written as a type, imports left out."""
    return sum(1 for s in files for node in ast.walk(s.tree) if isinstance(node, ast.Name) and node.id == "Any")


def command_lines(files: list[Source]) -> int:
    """Count the lines of the files that hold the command line, and of functions elsewhere that write a command."""
    total = 0
    for source in files:
        if COMMAND_FILE.match(source.place):
            total += len(source.text.splitlines())
        else:
            writers = [f for f in source.functions if f.name in COMMAND_FUNCTIONS or f.name.endswith("_command")]
            total += sum((f.end_lineno or f.lineno) - f.lineno + 1 for f in writers)
    return total


def path_deciders(files: list[Source]) -> list[str]:
    """Name the functions that compare a path with the folders of an installation and refuse it."""
    found = []
    for source in files:
        for function in source.functions:
            nodes = list(ast.walk(function))
            named = {n.attr for n in nodes if isinstance(n, ast.Attribute)} | {n.id for n in nodes if isinstance(n, ast.Name)}
            contains = named & {"is_relative_to", "parents"} and named & {"settings", "data_folders"}
            if contains and any(isinstance(n, ast.Raise) for n in nodes):
                found.append(f"{source.place}:{function.name}")
    return found


def lengths(files: list[Source]) -> list[int]:
    """Return the lines of each function from `def` to its end, its docstring left out."""
    counts = []
    for source in files:
        for f in source.functions:
            lines = range(f.lineno, (f.end_lineno or f.lineno) + 1)
            counts.append(sum(1 for line in lines if line not in source.docstrings))
    return counts


def measure(root: Path) -> dict[str, str]:
    """Return the table of one tree: what is measured -> the number as text."""
    files = sources(root)
    engine = [s for s in files if s.place.startswith("state_engine/")]
    rooms, arrows = rooms_and_arrows(files)
    once, functions = used_once(files)
    blocks, length = complexities(files), lengths(files)
    dense = [s for s in files if s.dense]
    hard = sum(c > 10 for c in blocks)
    return {
        "files at the root of state_engine": str(sum(s.place.count("/") == 1 for s in engine)),
        "rooms / arrows of the import graph": f"{rooms} / {arrows}",
        "files / lines of code": f"{len(files)} / {sum(len(s.code) for s in files):,}",
        "private functions named once, of all functions": f"{100 * once / functions:.1f} % ({once} of {functions})",
        "comments per 100 lines of code: on lines of their own (all)": comments_in_100(files),
        "the same where numpy or torch is dense": f"{comments_in_100(dense)}, {len(dense)} files",
        "functions with complexity > 10": f"{100 * hard / len(blocks):.1f} % ({hard}), max {max(blocks)}",
        "`Any`": str(uses_of_any(files)),
        "command-line and `command_of` code": f"{command_lines(files):,} lines",
        "functions that decide which path may be read": str(len(path_deciders(files))),
        "median lines of a function": f"{statistics.median(length):.0f}",
        "functions over 60 lines": str(sum(n > 60 for n in length)),
        "files over 400 lines": str(sum(len(s.text.splitlines()) > 400 for s in files)),
        "words that are not plain English": str(sum(sum(c.values()) for c in words_by_package(files).values())),
    }


# What a reader stumbles over -> the plain word. Searched in docstrings, comments and other strings of more than one word.
AMOUNTS = "one|two|three|once|twice|each|bytes|cells|sets|steps|seconds|minutes|lines|files|values|entries|tokens|genes|rows|times|MB|GB"
UNITS = "step|second|minute|line|file|cell|set|page|run|row|perturbation|context|condition|gene|block|fold|layer|head|worker|token|pass"
WORDS = {
    "anew (again)": r"\banew\b",
    "said (reported)": r"\b(is|are|was|were|be|been) said\b|\bsaid (so|on|in|by|at|as)\b",
    "what was made / done": r"\bwhat was (made|asked|said|done|kept)\b",
    "believed (trusted)": r"\bbelieve[ds]?\b",
    "of ours (our)": r"\bof ours\b",
    "came to (were)": r"\b(came|come|comes) to (be|lie|hold)\b|\blie beside\b",
    "a step (per step)": rf"\b({AMOUNTS}|\d[\d,]*|\{{[^}}]*\}}) an? ({UNITS})\b(?! (of|that|from|is|has|in|which|sees)\b)",
    "guess (baseline)": r"\bguess(es)?\b",
}
PARTICIPLES = {
    "measured",
    "replaced",
    "kept",
    "made",
    "said",
    "believed",
    "evaluated",
    "compared",
    "calibrated",
    "added",
    "came",
    "arrived",
    "asked",
    "shown",
}


def texts(source: Source) -> Iterator[tuple[int, str]]:
    """Line and words of each docstring, comment and string with a space in it."""
    yield from source.comments
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def findings(source: Source) -> Iterator[tuple[int, str, str]]:
    """Line, kind and excerpt of what is not plain English in a file: words, and names that are participles."""
    for line, text in texts(source):
        flat = " ".join(text.split())
        for kind, pattern in WORDS.items():
            for match in re.finditer(pattern, flat, re.IGNORECASE):
                yield line, kind, flat[max(0, match.start() - 30) : match.end() + 30]
    for name in Path(source.place).with_suffix("").parts:
        if name in PARTICIPLES:
            yield 1, "participle as a name", name
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and node.name.lstrip("_") in PARTICIPLES:
            yield node.lineno, "participle as a name", node.name


def words_by_package(files: list[Source]) -> dict[str, Counter[str]]:
    """Return how often each kind is found, for each room."""
    counts: dict[str, Counter[str]] = {}
    for source in files:
        for _, kind, _ in findings(source):
            counts.setdefault(source.room, Counter())[kind] += 1
    return counts


def print_words(root: Path, room: str | None) -> None:
    """Print the counts for each package, and every place of one package."""
    files = sources(root)
    if room:
        for source in files:
            if source.place.startswith(room):
                for line, kind, excerpt in findings(source):
                    print(f"{source.place}:{line}: {kind}: {excerpt}")
        return
    for name, kinds in sorted(words_by_package(files).items()):
        print(f"{sum(kinds.values()):4d}  {name:28s}", ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
    print("Places of one package: python benchmarks/house.py --words --room state_engine/train")


def table(columns: dict[str, dict[str, str]]) -> str:
    """Return a Markdown table with one column for each tree."""
    names = list(columns)
    rows = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    rows += [f"| {key} | {' | '.join(columns[n][key] for n in names)} |" for key in columns[names[0]]]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure the code: files, arrows, functions, comments, words.")
    parser.add_argument(
        "trees", nargs="*", default=[str(ROOT)], metavar="TREE", help="folders or revisions of git; default: this folder"
    )
    parser.add_argument("--at", action="append", default=[], metavar="TREE", help="the same, one for each --at")
    parser.add_argument("--words", action="store_true", help="list words that are not plain English instead")
    parser.add_argument("--room", help="with --words: every place below this path, e.g. state_engine/train")
    parser.add_argument("--paths", action="store_true", help="name the functions that decide which path may be read")
    parser.add_argument("--write", action="store_true", help=f"write the table of {BEFORE} and this folder into RESULTS.md")
    chosen = parser.parse_args(arguments)
    trees = [BEFORE, str(ROOT)] if chosen.write else [*chosen.at] or chosen.trees
    columns: dict[str, dict[str, str]] = {}
    for tree in trees:
        with opened(tree) as root:
            if chosen.words:
                print_words(root, chosen.room)
            elif chosen.paths:
                print("\n".join(path_deciders(sources(root))))
            else:
                columns["this tree" if tree == str(ROOT) else tree] = measure(root)
    if chosen.write:
        before, rest = RESULTS.read_text().split(BEGIN)
        RESULTS.write_text(f"{before}{BEGIN}\n{table(columns)}\n{END}{rest.split(END)[1]}")
    elif columns:
        print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
