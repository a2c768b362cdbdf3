"""The verdict of a model's card: is it better than simple baselines on what was held out, by error and by correlation, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from state_engine.checkpoints.card import TrainingSummary
from state_engine.errors import listed
from state_engine.evaluation.judgement import FEWEST
from state_engine.evaluation.verdict import TIE
from state_engine.plain import plural

BASELINES: Final = {"mean": "the mean effect of the other contexts", "none": "predicting no change"}
CLOSER: Final = "A simple baseline is closer here; Predict offers each of them beside the model."
WHICH_TELL: Final = (
    "A card holds MAE and r of effects alone. Evaluate says which metrics can tell a good prediction from an average on the "
    "held-out cells, and what comes out by those."
)
"""What the verdict of a card cannot say: it rests on its two metrics whether or not they can tell (`judgement.telling`)."""
Outcome = Literal["better", "worse", "no better", "mixed", "too few"]


@dataclass(frozen=True)
class AgainstBaseline:
    """A model beside one baseline.

    Args:
        baseline: "mean" or "none".
        outcome: what came out; with fewer than `FEWEST` conditions nothing does.
        lead: that in words, "Better than …"; `after` it by how many conditions, where they are too few; numbers: the rest of the sentence.
        closer: whether the error of the baseline is smaller.
    """

    baseline: str
    outcome: Outcome
    lead: str
    after: str
    numbers: str
    closer: bool

    @property
    def text(self) -> str:
        """Return the sentence."""
        return f"{self.lead}{self.after}: {self.numbers}"


def against_baselines(training: TrainingSummary) -> tuple[AgainstBaseline, ...]:
    """Return the model beside each baseline that was scored; empty where no cells were kept for testing."""
    scores = training.scores
    if "mae_corrected" not in scores:
        return ()
    return tuple(_against(training, name, words) for name, words in BASELINES.items() if f"mae_{name}" in scores)


def _against(training: TrainingSummary, name: str, words: str) -> AgainstBaseline:
    scores, ours, other = training.scores, training.scores["mae_corrected"], training.scores[f"mae_{name}"]
    against = [c for c in training.conditions if f"mae_{name}" in c.scores]
    worse = [c.name for c in against if c.scores.get("mae_corrected", 0.0) > c.scores[f"mae_{name}"]]
    own_r, other_r = scores.get("r_paired"), scores.get("r_mean") if name == "mean" else None
    by_error = 0 if abs(ours - other) <= TIE * other else 1 if ours < other else -1
    by_pattern = 0 if own_r is None or other_r is None else 1 if own_r > other_r else -1
    outcome, lead, after = _outcome(len(against), by_error, by_pattern, words)
    numbers = f"MAE {ours:.4f} against {other:.4f}"
    numbers += f", r {own_r:.3f} against {other_r:.3f}" if by_pattern else ""
    if len(against) > 1:
        in_each = f"worse in {len(worse)} of {len(against):,}" if worse else f"better in all {len(against):,}"
        numbers += f"; MAE {in_each} conditions"
        numbers += f" ({listed(worse, 3)})" if worse else ""
    return AgainstBaseline(name, outcome, lead, after, f"{numbers}.", by_error < 0)


def _outcome(n: int, by_error: int, by_pattern: int, words: str) -> tuple[Outcome, str, str]:
    if n < FEWEST:
        conditions = plural(n, "condition") if n else "so few conditions"
        return "too few", f"Cannot be told from {words}", f" by {conditions}"
    if by_error == 0:
        return "no better", f"No better than {words}", ""
    if by_error * by_pattern < 0:
        nearer, pattern = ("Closer", "worse") if by_error > 0 else ("Further off", "better")
        return "mixed", f"{nearer} than {words}, but the pattern is {pattern}", ""
    return ("better", f"Better than {words}", "") if by_error > 0 else ("worse", f"Worse than {words}", "")
