"""Receipts of submissions: what `vcc status --json` prints, as a table, and the anchors behind its scores.

A score is scaled = (u - b) / (r - b), u the raw metric, b the mean-response baseline, r a replicate. Two submissions with other raw values
determine b and r, and with them the score of any other raw value; further receipts show how well. Scores are of one panel and set of anchors, so
receipts of others are never taken together. The scores.json of a scoring here is a receipt too: it also knows how many genes were called, and
how many at effect zero, which fidelity and the Jaccard index have to be read beside.
Boundary: text in, numbers out; files are read in a child process by the pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from state_engine.challenge.scores import CALLED, Scores
from state_engine.data.files.text import read_text_file
from state_engine.errors import ChallengeError, StateError, listed
from state_engine.metrics.profile import mean_of
from state_engine.plain import from_plain

MOST_BYTES: Final = 1 << 20
MOST_RECEIPTS: Final = 1_000
# short name -> what the raw value may be called, beside "NAME" and "raw_NAME": the scorer's own name
METRICS: Final[dict[str, str]] = {
    "pds": "pds_cosine",
    "mse": "expr_mse_unbiased_capped_norm",
    "nmae": "de_wilcoxon_lfc_nmae",
    "fid": "de_wilcoxon_direction_fidelity_yield_raw",
    "reach": "de_wilcoxon_direction_reach_raw",
    "jac": "de_wilcoxon_sig_jaccard",
}
# scores that a limit of the scorer may have set, which say nothing about the anchors
LIMITS: Final[dict[str, tuple[float, ...]]] = {"mse": (0.0, 1.0), "nmae": (-6.0,)}


@dataclass(frozen=True)
class Receipt:
    """One scored submission.

    Args:
        name: of the entry.
        raw, scaled: by short name; what the receipt does not have is left out.
        overall: as the receipt says, else the mean of the six.
        group: panel and set of anchors, "" where it does not say.
        called, called_measured: genes called in predicted and in measured cells, the mean over perturbations, where that is known.
        null_rate: share of the genes called at effect zero, the largest of its contexts, where that is known.
    """

    name: str
    raw: dict[str, float]
    scaled: dict[str, float]
    overall: float | None
    group: str = ""
    called: float | None = None
    called_measured: float | None = None
    null_rate: float | None = None

    @property
    def called_words(self) -> str:
        """Genes called, of how many, and the share at effect zero: "812 of 1,024; 0.10%"."""
        if self.called is None:
            return "-"
        of = "" if self.called_measured is None else f" of {self.called_measured:,.0f}"
        return f"{self.called:,.0f}{of}; {'not checked' if self.null_rate is None else f'{self.null_rate:.2%}'}"


@dataclass(frozen=True)
class Anchor:
    """What two receipts say about a metric.

    Args:
        metric: short name.
        baseline, replicate: b and r, raw.
        solved_from: names of the two receipts.
        checked: other receipts that they predict.
        off: the largest difference between a predicted and a given score of those; None without any.
        group: panel and set of anchors.
    """

    metric: str
    baseline: float
    replicate: float
    solved_from: tuple[str, str]
    checked: int
    off: float | None
    group: str = ""

    def score(self, raw: float) -> float:
        """Return the score of a raw value, without the limits of the scorer."""
        return (raw - self.baseline) / (self.replicate - self.baseline)


def read_receipts(path: Path) -> tuple[Receipt, ...]:
    """Return the scored entries of a file.

    Raises:
        ChallengeError: no JSON, or none of it is a receipt.
    """
    return parse_receipts(read_text_file(path, ChallengeError, MOST_BYTES))


def parse_receipts(text: str) -> tuple[Receipt, ...]:
    """Return the scored entries of text: one JSON value, or several behind one another.

    Raises:
        ChallengeError: as `read_receipts`.
    """
    found: list[Receipt] = []
    for number, entry in enumerate(e for value in _values(text) for e in _entries(value)):
        if number >= MOST_RECEIPTS:
            break
        found.append(_receipt(entry, f"receipt {number + 1}"))
    if not found:
        fields = listed([f"score_{name}" for name in METRICS])
        raise ChallengeError("There is no receipt in this.", f"A receipt has {fields}.", "Paste what `vcc status --json` prints.")
    return tuple(found)


def solve_anchors(receipts: tuple[Receipt, ...]) -> tuple[Anchor, ...]:
    """Return the anchors of each metric that two receipts of a group determine: those whose raw values are furthest apart."""
    found = []
    for group in dict.fromkeys(r.group for r in receipts):
        for metric in METRICS:
            usable = sorted((r for r in receipts if r.group == group and _tells(r, metric)), key=lambda r: r.raw[metric])
            if len(usable) < 2:
                continue
            low, high = usable[0], usable[-1]
            apart, gained = high.raw[metric] - low.raw[metric], high.scaled[metric] - low.scaled[metric]
            if not apart or not gained:
                continue
            width = apart / gained  # r - b, negative where less is better
            baseline = low.raw[metric] - low.scaled[metric] * width
            anchor = Anchor(metric, baseline, baseline + width, (low.name, high.name), len(usable) - 2, None, group)
            off = [abs(anchor.score(r.raw[metric]) - r.scaled[metric]) for r in usable[1:-1]]
            found.append(Anchor(**{**vars(anchor), "off": max(off) if off else None}))
    return tuple(found)


def receipt_lines(receipts: tuple[Receipt, ...]) -> list[str]:
    """Return the table and the anchors for a terminal."""
    lines = [f"{'':24}" + "".join(f"{name:>20}" for name in METRICS) + f"{'overall':>12}{'called; at effect 0':>28}"]
    for receipt in receipts:
        cells = "".join(f"{_pair(receipt, name):>20}" for name in METRICS)
        overall = "-" if receipt.overall is None else f"{receipt.overall:.4f}"
        lines.append(f"{receipt.name[:23]:24}{cells}{overall:>12}{receipt.called_words:>28}")
    lines += anchor_words(solve_anchors(receipts))
    return lines


def anchor_words(anchors: tuple[Anchor, ...]) -> list[str]:
    """Return the anchors, a sentence each."""
    words = []
    for a in anchors:
        checked = f"; {a.checked:,} other receipts are predicted within {a.off:.4f}" if a.off is not None else ""
        where = f" ({a.group})" if a.group else ""
        words.append(
            f"{a.metric}{where}: baseline {a.baseline:.4f}, replicate {a.replicate:.4f}, from {listed(a.solved_from)}{checked}."
        )
    return words or ["No anchors: two receipts of one panel with other raw values are needed."]


def _pair(receipt: Receipt, name: str) -> str:
    raw, scaled = receipt.raw.get(name), receipt.scaled.get(name)
    return f"{'-' if raw is None else f'{raw:.4f}'} -> {'-' if scaled is None else f'{scaled:.4f}'}"


def _tells(receipt: Receipt, metric: str) -> bool:
    there = metric in receipt.raw and metric in receipt.scaled
    return there and receipt.scaled[metric] not in LIMITS.get(metric, ())


def _values(text: str) -> Iterator[Any]:
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        if text[place].isspace() or text[place] in ",;":
            place += 1
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise ChallengeError("The receipts are not JSON.", f"{error}.", "Paste what `vcc status --json` prints.") from error
        yield value


def _entries(value: Any, deep: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the objects that have scores, wherever they lie."""
    if isinstance(value, dict) and (any(f"score_{name}" in value for name in METRICS) or _scored_here(value)):
        yield value
    elif isinstance(value, dict | list) and deep < 8:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _entries(item, deep + 1)


def _scored_here(value: dict[str, Any]) -> bool:
    """Return whether it is the scores.json of a scoring here."""
    return "challenge" in value and isinstance(value.get("contexts"), list) and "de_engine" in value


def _of_scores(entry: dict[str, Any], usual: str) -> Receipt:
    """Return the receipt of a scores.json: means over its contexts."""
    try:
        scores = from_plain(Scores, entry)
    except (StateError, ValueError, TypeError, KeyError) as error:
        raise ChallengeError("A scores file is damaged.", f"{error}", "Score again.") from error
    short = {own: name for name, own in METRICS.items()}
    found = [{short[m.metric]: m for m in context.metrics if m.metric in short} for context in scores.contexts]
    raw, scaled = ({n: mean_of([getattr(c.get(n), of, None) for c in found]) for n in METRICS} for of in ("value", "scaled"))
    called = mean_of([c.called.value if c.called else None for c in scores.contexts])
    measured = mean_of([c.called_measured for c in scores.contexts])
    rates = [c.null_rate for c in scores.contexts if c.null_rate is not None]
    name, group = Path(scores.source).name or usual, f"scored here on {Path(scores.truth).name}"
    there = [{n: v for n, v in numbers.items() if v is not None} for numbers in (raw, scaled)]
    return Receipt(name[:80], there[0], there[1], scores.overall, group[:120], called, measured, max(rates, default=None))


def _receipt(entry: dict[str, Any], usual: str) -> Receipt:
    if _scored_here(entry):
        return _of_scores(entry, usual)
    nested = [item for item in entry.values() if isinstance(item, dict)]
    raw, scaled = {}, {}
    for name, own in METRICS.items():
        score = _number(entry.get(f"score_{name}"))
        values = [_number(place.get(key)) for place in (entry, *nested) for key in (f"raw_{name}", own, name)]
        if score is not None:
            scaled[name] = score
        if (value := next((v for v in values if v is not None), None)) is not None:
            raw[name] = value
    overall = _number(entry.get("score_avg"))
    if overall is None and len(scaled) == len(METRICS):
        overall = sum(scaled.values()) / len(scaled)
    name = next((str(entry[key]) for key in ("name", "model_name", "entry_id", "id") if entry.get(key)), usual)
    group = ", ".join(str(entry[key]) for key in ("panel_id", "anchor_version") if entry.get(key))
    called, measured = (next((v for p in (entry, *nested) if (v := _number(p.get(key))) is not None), None) for key in CALLED)
    return Receipt(name[:80], raw, scaled, overall, group[:120], called, measured)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
