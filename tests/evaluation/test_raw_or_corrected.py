"""Raw or corrected: who is closer, by numbers of the card or of an evaluation."""

from __future__ import annotations

from dataclasses import replace

from state_engine.checkpoints.card import TrainingSummary
from state_engine.evaluation.raw_or_corrected import PURPOSE, card_words, evaluation_words
from state_engine.evaluation.report import EvaluatedMethod, Evaluation, telling_lines
from state_engine.evaluation.verdict import SummaryRow
from state_engine.metrics.profiles import HOUSE
from state_engine.metrics.replicate import Discrimination, Skill

NUMBERS = {
    ("raw", "expr_mae"): 0.11, ("corrected", "expr_mae"): 0.12, ("raw", "delta_pearson"): 0.3, ("corrected", "delta_pearson"): 0.4,
    ("no change", "delta_pearson"): 0.35,
}  # fmt: skip
MADE = Evaluation(
    1, "minimal", "r.h5ad", 10, (), tuple(EvaluatedMethod(m, "prediction", (), 4) for m in ("corrected", "raw")),
    tuple(SummaryRow(*key, "", value, None, 4) for key, value in NUMBERS.items()),
    (), (), "measured", "training", "cell-eval2", "", "cpu", metrics=HOUSE["minimal"].metrics,
    skills=(Skill("corrected", "expr_mae", "no change", 0.4, 0.1, 0.6, 4), Skill("corrected", "delta_pearson", "no change", -0.2, -0.5, 0.1, 4)),
    discriminations=(Discrimination("expr_mae", "", 0.2, -0.1, 9), Discrimination("delta_pearson", "", 0.9, 0.5, 9)),
)  # fmt: skip


def card(**scores: float) -> TrainingSummary:
    return TrainingSummary(scores=scores)


def test_a_card_says_who_was_closer_by_which_numbers() -> None:
    told = card_words(card(mae_raw=0.1131, mae_corrected=0.1193, r_raw=0.6, r_paired=0.65))
    assert "raw is closer than corrected (MAE 0.113 against 0.119); corrected is closer than raw (r of effects 0.650" in told
    assert told.endswith(PURPOSE) and card_words(card(mae_corrected=0.1)) == ""
    assert "they are alike (MAE 0.100" in card_words(card(mae_raw=0.1, mae_corrected=0.1))


def test_an_evaluation_says_it_by_the_metrics_that_can_tell() -> None:
    told = evaluation_words(MADE)
    assert told.startswith("By what can tell on these cells, corrected is closer than raw (Pearson 0.400 against 0.300).")
    assert "MAE" not in told
    none = replace(
        MADE, discriminations=(Discrimination("expr_mae", "", 0.2, -0.1, 9), Discrimination("delta_pearson", "", 0.2, -0.1, 9))
    )
    assert "by number alone, raw is closer than corrected (MAE 0.110 against 0.120)" in evaluation_words(none)
    assert evaluation_words(replace(MADE, summary=MADE.summary[:1])) == ""


def test_metrics_that_can_tell_come_first_and_have_a_line_of_numbers() -> None:
    names = [m.name for m in MADE.ranked]
    assert names[0] == "delta_pearson" and names[-1] == "expr_mae" and set(names) == {m.name for m in MADE.scored}
    assert [s.metric for s in MADE.ranked_skills] == ["delta_pearson", "expr_mae"]
    assert telling_lines(MADE, "corrected") == [
        "Pearson ↑: 0.400 against 0.350, skill -0.20 (-0.50 to 0.10) beside no change, the best simple baseline"
    ]
    assert telling_lines(MADE, "raw") == []
    both = replace(MADE, discriminations=tuple(replace(d, bds=0.9, drf=0.5) for d in MADE.discriminations))
    assert telling_lines(both, "corrected") == [
        "Beside no change, the best simple baseline:",
        "MAE ↓: skill 0.40 (0.10 to 0.60)",
        "Pearson ↑: 0.400 against 0.350, skill -0.20 (-0.50 to 0.10)",
    ]
