"""A challenge as data: its rules (a TOML file) and the lists that came with it (genes, perturbations, contexts).

Problems of the lists are findings, kept in the spec and reported with those of the data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from state_engine.challenge.findings import Finding, found
from state_engine.config import load_settings
from state_engine.data.files.text import parse_toml, read_rows, read_text_file
from state_engine.errors import ChallengeError
from state_engine.metrics.profile import Profile
from state_engine.plain import from_plain, plural

_PRESETS = Path(__file__).with_name("presets")
PRESETS = tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))
GENE_HEADERS = ("gene", "genes", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "feature_name")


@dataclass(frozen=True)
class Phase:
    """A phase of a challenge and the labels of its contexts."""

    name: str
    contexts: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What a challenge asks for. The fields of a TOML file, of the same names.

    Args:
        name, title: short name and name for people.
        values: log1p of depth-normalised expression, or raw whole counts.
        controls: whether control cells must be, must not be, or may be in the file.
        control: their label.
        perturbation_key, context_key: obs columns in the archive; no context_key, no contexts.
        phases: contexts by phase.
        n_genes: length of the official gene list, 0 when not known.
        gene_list_header: first line of the official list, "" when it has none.
        gene_list, target_list: paths beside the TOML file, for custom challenges.
        n_perturbations: how many (in each context), 0 when not fixed.
        cells_per_perturbation: cells each (in each context), 0 when a list says it or nobody does.
        cells_rule: whether another number of cells is an error or a warning.
        max_cells, max_entries, max_counts_per_cell, max_value: caps, 0 for none. Values must be below max_value.
        usual_cells: more cells than this is a warning, 0 for none.
        layout: members of the archive: prediction and watermark.txt, or meta.json and prediction.
        upload: what to do with the file; {archive} is its path.
        scoring: metrics and how they become a score; None when the file has none.
        scored_as: another challenge whose scoring holds, "" for none.
    """

    name: str
    title: str
    values: Literal["log1p", "counts"]
    controls: Literal["required", "forbidden", "optional"]
    layout: Literal["watermark", "meta"]
    control: str = "non-targeting"
    perturbation_key: str = "target_gene"
    context_key: str = ""
    phases: tuple[Phase, ...] = ()
    n_genes: int = 0
    gene_list_header: str = ""
    gene_list: str = ""
    target_list: str = ""
    n_perturbations: int = 0
    cells_per_perturbation: int = 0
    cells_rule: Literal["exact", "advised"] = "advised"
    max_cells: int = 0
    usual_cells: int = 0
    max_entries: int = 0
    max_counts_per_cell: int = 0
    max_value: float = 0.0
    upload: str = ""
    scoring: Profile | None = None
    scored_as: str = ""

    @property
    def profile(self) -> Profile:
        """The metrics of the challenge.

        Raises:
            ChallengeError: its file has none.
        """
        if self.scoring is None:
            raise ChallengeError(
                f"{self.title} has no metrics.",
                "Its file has no table [scoring].",
                f'Add one, or name a challenge that is scored alike: scored_as = "{PRESETS[-1]}".',
            )
        return self.scoring


@dataclass(frozen=True)
class Targets:
    """The perturbations asked for: cells by label, by context ("" for every context); None cells, any number.

    `names` are the labels as listed, control included when it is listed: what the fingerprint is made of.
    """

    by_context: dict[str, dict[str, int | None]]
    names: tuple[str, ...]

    def of(self, context: str) -> dict[str, int | None] | None:
        """Cells by label in a context, or None when the list does not have that context."""
        return self.by_context.get(context, self.by_context.get(""))


@dataclass(frozen=True)
class ChallengeSpec:
    """Rules, and the lists of one panel.

    Args:
        rules: what is asked for.
        genes: names in order; empty when no list was given or none could be read.
        targets: perturbations asked for, or None when no list was given.
        contexts: labels every submission must cover; empty: taken from the phase that the data match.
        panel_id: identity of the panel, when a manifest beside the lists says so.
        problems: what is wrong with the lists.
    """

    rules: Rules
    genes: tuple[str, ...] = ()
    targets: Targets | None = None
    contexts: tuple[str, ...] = ()
    panel_id: str | None = None
    problems: tuple[Finding, ...] = field(default=())


def known_challenges() -> tuple[str, ...]:
    """Return the names of the challenges that need no path: those of the package, then `HOME/challenges/NAME.toml`."""
    own = sorted(path.stem for path in _own_challenges().glob("*.toml"))
    return (*PRESETS, *(name for name in own if name not in PRESETS))


def _own_challenges() -> Path:
    return load_settings().root / "challenges"


def _file_of(challenge: str | Path) -> Path:
    """The TOML file of a challenge, given by name or by path."""
    if str(challenge) in PRESETS:
        return _PRESETS / f"{challenge}.toml"
    own = _own_challenges() / f"{challenge}.toml"
    return own if str(challenge) in known_challenges() else Path(challenge)


def load_rules(challenge: str | Path) -> Rules:
    """Return the rules of a challenge by its name, or of a TOML file.

    Raises:
        ChallengeError: no such challenge or file, or not TOML.
        ConfigError: unknown, missing or impossible fields.
    """
    file = _file_of(challenge)
    plain = parse_toml(read_text_file(file, ChallengeError), f"The challenge file {file.name}", ChallengeError)
    rules = from_plain(Rules, plain, str(challenge))
    if rules.scored_as and rules.scoring is None and rules.scored_as != rules.name:
        return replace(rules, scoring=load_rules(rules.scored_as).profile)
    if rules.scoring is None:
        return rules
    own = replace(rules.scoring, name=rules.name, title=rules.title, values=rules.values)
    return replace(rules, scoring=own)


def load_challenge(
    challenge: str | Path,
    genes: Path | None = None,
    pert_counts: Path | None = None,
    contexts: tuple[str, ...] | None = None,
) -> ChallengeSpec:
    """The rules and the lists of a panel.

    Args:
        challenge: a name (see `known_challenges`) or a TOML file.
        genes: CSV with one gene name a line, with or without a header.
        pert_counts: CSV with target_gene and, optionally, n_cells and context.
        contexts: labels to cover. Without: `manifest.json` beside the lists, else the phase that the data match.

    Raises:
        ChallengeError, ConfigError: the rules cannot be read. Problems of the lists do not raise: see `problems`.
    """
    rules = load_rules(challenge)
    beside = _file_of(challenge).parent
    genes = genes or (beside / rules.gene_list if rules.gene_list else None)
    pert_counts = pert_counts or (beside / rules.target_list if rules.target_list else None)
    names, problems = read_genes(genes, rules)
    targets, more = read_targets(pert_counts, rules)
    covered, panel = _manifest(genes, pert_counts)
    if contexts is None:
        contexts = covered if rules.context_key else ()
    return ChallengeSpec(rules, names, targets, contexts, panel if set(covered) == set(contexts) else None, (*problems, *more))


def read_genes(path: Path | None, rules: Rules) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Gene names in order, and what is wrong with the list."""
    if path is None:
        return (), (found("gene-list-missing", "error", "No gene list was given.", "Give the challenge's gene_names.csv."),)
    rows, problems = _read_csv(path, "gene-list")
    names = [row[0].strip() for row in rows if row and row[0].strip()]
    if problems or not names:
        return (), tuple(problems or [found("gene-list-empty", "error", f"The gene list {path.name} has no genes.")])
    problems += _header_findings(names, path, rules)
    if names[0].lower() in GENE_HEADERS:
        names = names[1:]
    repeated = _repeated(names)
    if repeated:
        fix = "Use the list as the challenge gives it."
        problems.append(found("gene-list-duplicates", "error", "The gene list has genes more than once.", fix, names=repeated))
    if rules.n_genes and len(names) != rules.n_genes:
        title = f"The gene list has {plural(len(names), 'gene')}; {rules.title} has {rules.n_genes:,}."
        problems.append(found("gene-list-length", "warning", title, "Is it the list of this challenge?", count=len(names)))
    return tuple(names), tuple(problems)


def read_targets(path: Path | None, rules: Rules) -> tuple[Targets | None, tuple[Finding, ...]]:
    """The perturbations asked for, and what is wrong with the list."""
    if path is None:
        return None, (
            found(
                "targets-unknown",
                "warning",
                "The list of perturbations was not given, so labels and cells per perturbation are not checked.",
                "Give the challenge's pert_counts.csv.",
            ),
        )
    rows, problems = _read_csv(path, "targets")
    header = [name.strip() for name in rows[0]] if rows else []
    key = "target_gene" if "target_gene" in header else rules.perturbation_key
    if problems or key not in header:
        title = f"The list of perturbations {path.name} has no column {key}."
        return None, tuple(problems or [found("targets-column", "error", title, "Its columns follow.", names=header)])
    column = {name: header.index(name) for name in header}
    by_context: dict[str, dict[str, int | None]] = {}
    names = []
    for row in rows[1:]:
        cell = {name: row[i].strip() if i < len(row) else "" for name, i in column.items()}
        if not cell[key]:
            continue
        names.append(cell[key])
        if cell[key] != rules.control:
            context = cell.get(rules.context_key, "") if rules.context_key else ""
            number = _number(cell["n_cells"]) if "n_cells" in cell else rules.cells_per_perturbation or None
            by_context.setdefault(context, {})[cell[key]] = number
    if not by_context:
        return None, (found("targets-empty", "error", f"The list of perturbations {path.name} is empty."),)
    return Targets(by_context, tuple(names)), ()


def fingerprint(labels: tuple[str, ...] | list[str]) -> str:
    """Return what meta.json says of the perturbations: sha256 of the sorted unique labels, joined by newlines."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(set(labels))).encode()).hexdigest()


def _header_findings(names: list[str], path: Path, rules: Rules) -> list[Finding]:
    has_header = names[0].lower() in GENE_HEADERS
    if has_header and not rules.gene_list_header:
        title = f"The gene list {path.name} starts with the header '{names[0]}'; the list of {rules.title} has none."
        return [found("gene-list-header", "warning", title, "It was taken as a header, not as a gene.", count=1)]
    if rules.gene_list_header and not has_header:
        title = f"The gene list {path.name} has no header; the list of {rules.title} starts with '{rules.gene_list_header}'."
        return [found("gene-list-header", "note", title, "Its first line was taken as a gene.", count=1)]
    return []


def _read_csv(path: Path, code: str) -> tuple[list[list[str]], list[Finding]]:
    try:
        return read_rows(path, ",", ChallengeError), []
    except ChallengeError as error:
        return [], [found(f"{code}-unreadable", "error", f"The list {path.name} cannot be read.", f"{error}")]


def _manifest(*near: Path | None) -> tuple[tuple[str, ...], str | None]:
    """Contexts and panel of the `manifest.json` beside one of the lists, when it is an object with a list of contexts; else () and None."""
    for path in near:
        manifest = path.parent / "manifest.json" if path else None
        if manifest and manifest.is_file():
            try:
                plain = json.loads(read_text_file(manifest, ChallengeError))
            except (ChallengeError, ValueError, RecursionError):
                continue
            contexts = plain.get("contexts") if isinstance(plain, dict) else None
            if isinstance(contexts, list) and all(isinstance(c, str) for c in contexts):
                panel = plain.get("panel_id")
                return tuple(contexts), panel if isinstance(panel, str) else None
    return (), None


def _number(text: str) -> int | None:
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        return None
    return number if number > 0 else None


def _repeated(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
