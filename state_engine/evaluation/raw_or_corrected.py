"""Which output of a model is closer to measured cells, raw or corrected, by measured numbers, and what corrected is for."""

from __future__ import annotations

from typing import Final

from state_engine.checkpoints.card import TrainingSummary
from state_engine.errors import listed
from state_engine.evaluation.report import Evaluation
from state_engine.evaluation.verdict import apart
from state_engine.plain import plural

PURPOSE: Final = (
    "Corrected adds only the predicted difference to each measured control cell: what the network rebuilds badly cancels out, and cells keep "
    "their own spread. It is the default because that also holds for cells unlike those of the training."
)
"""Why corrected is what a prediction shows, even of a model whose raw output was closer on its held-out conditions."""
_SCORES: Final = (("mae_raw", "mae_corrected", "MAE", False), ("r_raw", "r_paired", "r of effects", True))


def card_words(training: TrainingSummary) -> str:
    """Return which output was closer on the held-out conditions of a model's card, with its purpose; "" where they were not scored."""
    scores = training.scores
    found = [
        (title, scores[raw], scores[corrected], more)
        for raw, corrected, title, more in _SCORES
        if raw in scores and corrected in scores
    ]
    where = f"On {plural(len(training.conditions), 'condition')} held out of the training of this model"
    return f"{_sentence(where, found)} {PURPOSE}" if found else ""


def evaluation_words(found: Evaluation) -> str:
    """Return which output is closer by the metrics that can tell here, or by MAE where none can; "" without both outputs."""
    shown = [m for m in found.ranked if found.tells(m.name) and not m.describes] or [
        m for m in found.scored if m.name == "expr_mae"
    ]
    rows = []
    for metric in shown:
        raw, corrected = (found.value(method, metric.name) for method in ("raw", "corrected"))
        if raw is not None and corrected is not None:
            rows.append((metric.title, raw, corrected, metric.more_is_better))
    if not rows:
        return ""
    tells = any(found.tells(m.name) for m in shown)
    where = "By what can tell on these cells" if tells else "No metric can tell on these cells; by number alone"
    return f"{_sentence(where, rows)} {PURPOSE}"


def _sentence(where: str, found: list[tuple[str, float, float, bool]]) -> str:
    """Return who is closer by which numbers (title, raw, corrected, more is better)."""
    groups: dict[str, list[str]] = {"raw": [], "corrected": [], "neither": []}
    for title, raw, corrected, more in found:
        name = "neither" if raw == corrected else "raw" if (raw > corrected) == more else "corrected"
        ours, theirs = apart(*((raw, corrected) if name == "raw" else (corrected, raw)))
        groups[name].append(f"{title} {ours} against {theirs}")
    words = {"raw": "raw is closer than corrected", "corrected": "corrected is closer than raw", "neither": "they are alike"}
    return f"{where}, {'; '.join(f'{words[name]} ({listed(part, 4)})' for name, part in groups.items() if part)}."
