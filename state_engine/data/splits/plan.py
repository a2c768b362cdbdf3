"""What a training may see and what it is tested on, as a text: Arc's split TOML, read, checked and written.

Source: the format of cell-load 0.10 (MIT): [datasets], [training], [zeroshot] and [fewshot."dataset.context"].
Boundary: names only; whether they are in the data is found by `splits.apply_plan`.
"""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from state_engine.data.files.text import decode_text, parse_toml, read_text_file
from state_engine.data.splits.held import HeldOut, HeldPart
from state_engine.errors import SplitError, door, listed

Part = Literal["train", "val", "test"]
HELD_PARTS: tuple[HeldPart, ...] = ("test", "val")
PARTS: tuple[Part, ...] = ("train", "val", "test")
SECTIONS = ("datasets", "training", "zeroshot", "fewshot")
SUFFIXES = (".h5", ".h5ad")
QUOTES = 'Write it in quotes, for example [zeroshot] "dataset.context" = "test".'


@dataclass(frozen=True)
class ZeroShot:
    """A context that goes whole to validation or test."""

    dataset: str
    context: str
    part: HeldPart

    def __str__(self) -> str:
        return f'[zeroshot] "{self.dataset}.{self.context}"'


@dataclass(frozen=True)
class FewShot:
    """A context of which the listed perturbations go to validation or test, and the rest to training."""

    dataset: str
    context: str
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'[fewshot."{self.dataset}.{self.context}"]'


@dataclass(frozen=True)
class SplitPlan:
    """A split by name.

    Args:
        datasets: (name, where): a folder, a file, or a pattern with *, ?, [] and {a,b}.
        training: data sets of which all that is not held out is trained on.
        zeroshot, fewshot: what is held out.

    Raises:
        SplitError: clauses that contradict each other or name a data set that is not listed.
    """

    datasets: tuple[tuple[str, str], ...]
    training: tuple[str, ...] = ()
    zeroshot: tuple[ZeroShot, ...] = ()
    fewshot: tuple[FewShot, ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.datasets]
        if not names:
            raise SplitError("The split names no data set.", "[datasets] is empty.", 'Add a line: name = "folder or file".')
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise SplitError(f"The split names {listed(doubled)} twice.", fix="Give each data set its own name.")
        for name in self.training:
            _known(name, names, f"[training] {name}")
        for clause in self.clauses:
            _known(clause.dataset, names, str(clause))
        self._check_used(names)
        self._check_clauses()

    @property
    def clauses(self) -> tuple[ZeroShot | FewShot, ...]:
        """All clauses that hold something out."""
        return (*self.zeroshot, *self.fewshot)

    def _check_used(self, names: list[str]) -> None:
        used = {*self.training, *(c.dataset for c in self.clauses)}
        idle = [n for n in names if n not in used]
        if idle:
            raise SplitError(
                f"The data set {listed(idle)} is not used.",
                "It is neither in [training] nor named by a clause of [zeroshot] or [fewshot].",
                f'Add {idle[0]} = "train" to [training], or remove it from [datasets].',
            )

    def _check_clauses(self) -> None:
        places = [(c.dataset, c.context) for c in self.clauses]
        doubled = sorted({".".join(p) for p in places if places.count(p) > 1})
        if doubled:
            raise SplitError(
                f"The context {listed(doubled)} is held out twice.",
                "A context goes whole to one part (zeroshot), or some of its perturbations do (fewshot).",
                "Remove one of the clauses.",
            )
        for clause in self.fewshot:
            both = sorted(set(clause.val) & set(clause.test))
            if both:
                raise SplitError(
                    f"{clause} has {listed(both)} in both val and test.",
                    "",
                    "A perturbation goes to one of them: remove it once.",
                )
            if not clause.val and not clause.test:
                raise SplitError(
                    f"{clause} holds nothing out.", "Its val and test are empty.", "List perturbations or remove it."
                )

    def held_out(self) -> tuple[HeldOut, ...]:
        """Return what is held out, test first; with the data set's name where there are several."""
        several, found = len(self.datasets) > 1, list[HeldOut]()
        for part in HELD_PARTS:
            for zero in self.zeroshot:
                if zero.part == part:
                    found.append(HeldOut(zero.context, "", zero.dataset * several, part))
            for few in self.fewshot:
                labels = few.test if part == "test" else few.val
                found += [HeldOut(few.context, label, few.dataset * several, part) for label in labels]
        return tuple(found)


def _known(name: str, names: list[str], where: str) -> None:
    if name not in names:
        raise SplitError(
            f"{where} names the data set '{name}', which [datasets] does not have.",
            f"It has: {listed(names, 10)}. The name of a data set has no dot: it ends at the first one.",
            "Write the name as in [datasets].",
        )


def read_plan(path: Path | str) -> SplitPlan:
    """The plan in a TOML file.

    Raises:
        SplitError: not there, not TOML, or a plan that contradicts itself.
    """
    return parse_plan(read_text_file(Path(path), SplitError))


def plan_of_bytes(raw: bytes, name: str) -> SplitPlan:
    """Return the plan in the bytes of a TOML file.

    Raises:
        SplitError: no text in UTF-8; see `parse_plan`.
    """
    return parse_plan(decode_text(raw, name, SplitError))


def parse_plan(text: str) -> SplitPlan:
    """The plan in a TOML text.

    Raises:
        SplitError: not TOML, unknown sections, wrong types, or a plan that contradicts itself.
    """
    with door("The split", SplitError, "Correct it."):
        return _plan(parse_toml(text, "The split", SplitError))


def _plan(found: dict[str, Any]) -> SplitPlan:
    unknown = sorted(set(found) - set(SECTIONS))
    if unknown:
        raise SplitError(f"The split has unknown sections: {listed(unknown)}.", f"Known: {', '.join(SECTIONS)}.")
    for section in SECTIONS:
        if not isinstance(found.get(section, {}), dict):
            raise SplitError(f"{section} is not a section.", "", f"Write it as [{section}].")
    datasets = [(name, _text(where, f"[datasets] {name}")) for name, where in found.get("datasets", {}).items()]
    training = found.get("training", {})
    odd = [f'{name} = "{part}"' for name, part in training.items() if part != "train"]
    if odd:
        raise SplitError(f"[training] has {listed(odd)}.", 'Every line of it says "train".', "Hold contexts out in [zeroshot].")
    return SplitPlan(
        datasets=tuple(datasets),
        training=tuple(training),
        zeroshot=tuple(_zeroshot(key, part) for key, part in found.get("zeroshot", {}).items()),
        fewshot=tuple(_fewshot(key, lists) for key, lists in found.get("fewshot", {}).items()),
    )


def _zeroshot(key: str, part: Any) -> ZeroShot:
    where = f'[zeroshot] "{key}"'
    dataset, context = _place(key, where)
    if part not in ("val", "test"):
        raise SplitError(
            f"{where} is {part!r}.", 'A context goes to "val" or "test".', "To train on it, leave it out of [zeroshot]."
        )
    return ZeroShot(dataset, context, part)


def _fewshot(key: str, lists: Any) -> FewShot:
    where = f'[fewshot."{key}"]'
    dataset, context = _place(key, where)
    if not isinstance(lists, dict):
        raise SplitError(f"{where} is {type(lists).__name__}.", "", "Give it lists of perturbations: val = [...], test = [...].")
    if "train" in lists or not set(lists) <= {"val", "test"}:
        nested = any(isinstance(v, dict) for v in lists.values())
        raise SplitError(
            f"{where} has {listed(sorted(lists))}.",
            "It may have val and test: what is not listed is trained on.",
            QUOTES if nested else "Remove the others.",
        )
    return FewShot(
        dataset, context, _labels(lists.get("val", []), f"{where} val"), _labels(lists.get("test", []), f"{where} test")
    )


def _place(key: str, where: str) -> tuple[str, str]:
    dataset, dot, context = key.partition(".")
    if not (dataset and dot and context):
        raise SplitError(f"{where} names no context.", "It must read dataset.context.", QUOTES)
    return dataset, context


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise SplitError(f"{where} is {value!r}.", "", "Give a folder, a file or a pattern in quotes.")
    return value


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise SplitError(f"{where} is not a list of labels.", f"It is {value!r}.", 'Write ["A", "B"].')
    return tuple(dict.fromkeys(value))


def plan_text(plan: SplitPlan) -> str:
    """The plan as TOML; `parse_plan` gives it back."""
    lines = ["[datasets]", *(f"{_key(name)} = {_quoted(where)}" for name, where in plan.datasets)]
    lines += ["", "[training]", *(f'{_key(name)} = "train"' for name in plan.training)]
    lines += ["", "[zeroshot]", *(f'{_quoted(f"{c.dataset}.{c.context}")} = "{c.part}"' for c in plan.zeroshot)]
    lines += ["", "[fewshot]"]
    for clause in plan.fewshot:
        lines += ["", f"[fewshot.{_quoted(f'{clause.dataset}.{clause.context}')}]"]
        lines += [
            f"{name} = [{', '.join(map(_quoted, labels))}]" for name, labels in (("val", clause.val), ("test", clause.test))
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON strings are TOML strings but for DEL


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _quoted(text)


def plan_files(plan: SplitPlan, base: Path) -> tuple[tuple[str, Path], ...]:
    """The files of each data set: pairs (its name, file), in the order of the plan and then by name.

    Relative places are looked for in `base`, the folder of the TOML file; where nothing is there, in the working directory,
    which is where cell-load looks.

    Raises:
        SplitError: a place without files, a file of a list in braces that is missing, or one file in two data sets.
    """
    found: list[tuple[str, Path]] = []
    for name, where in plan.datasets:
        files, absent = _files(where, base)
        if absent:
            elsewhere, absent_there = _files(where, Path.cwd())
            if len(absent_there) < len(absent):
                files, absent = elsewhere, absent_there
        if not files:
            raise SplitError(
                f"The data set '{name}' has no files.",
                f"'{where}' matches no .h5ad or .h5 file in {base} or {Path.cwd()}.",
                "Correct its place in [datasets].",
            )
        if absent:
            raise SplitError(
                f"The data set '{name}' lists {listed(absent)}, which {'is' if len(absent) == 1 else 'are'} not there.",
                f"'{where}' was found in part: {len(files):,} files are in {files[0].parent}.",
                "Put the missing files there, or take them off the list.",
            )
        found += [(name, file) for file in files]
    for file in {f for _, f in found}:
        names = [n for n, f in found if f == file]
        if len(names) > 1:
            raise SplitError(
                f"{file.name} is in the data sets {listed(names)}.",
                "What one of them holds out would be trained on in the other.",
                "Give each file to one data set.",
            )
    return tuple(found)


def _files(where: str, base: Path) -> tuple[list[Path], list[str]]:
    """Return the files that a place in [datasets] stands for in a folder, and which of its alternatives have none."""
    literal = base / Path(where).expanduser()
    found: list[Path] = []
    absent: list[str] = []
    for pattern in [where] if literal.exists() else expand_braces(where):
        place = base / Path(pattern).expanduser()
        matched = [place]
        if not literal.exists() and re.search(r"[*?\[]", pattern):
            matched = [Path(p) for p in sorted(glob.glob(str(place)))]  # noqa: PTH207 - Path.glob knows no absolute patterns
        files = [file for path in matched for file in _files_at(path)]
        found += files
        if not files:
            absent.append(pattern)
    return list(dict.fromkeys(p.resolve() for p in found)), absent


def _files_at(path: Path) -> list[Path]:
    """Return a file itself, or the files of a folder by name."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file() and not p.name.startswith("."))
    return [path] if path.is_file() else []


def expand_braces(pattern: str) -> list[str]:
    """Return the names that braces stand for: 'a/{b,c}.h5' -> 'a/b.h5', 'a/c.h5'; braces side by side multiply, and they may be nested."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [full for option in match[1].split(",") for full in expand_braces(before + option.strip() + after)]
