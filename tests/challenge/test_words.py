"""Sentences of a submission about one of something: the noun and the verb go with the number."""

from __future__ import annotations

import re

from state_engine.challenge.checks import instead_words
from state_engine.challenge.findings import ContextFit, NullCheck, Replacement, Report
from state_engine.challenge.null import _findings as null_findings
from state_engine.challenge.report import null_words, report_lines
from state_engine.challenge.spec import ChallengeSpec, load_rules
from state_engine.challenge.swaps import _findings as swap_findings

ONE_OF_MANY = re.compile(
    r"\b1 (\w+ )?(genes|cells|values|perturbations|others|controls|contexts|errors|targets)\b|\b1 (have|were|are)\b"
)


def test_one_of_each() -> None:
    check = NullCheck("", 12, 1, 1, 1, "control cells")
    fit = ContextFit("A", "B", 0.1, 0.9)
    one = Replacement(0, 1, "transfer", ("screen.h5ad",), moved=1, lacking=("G1",), genes=1, genes_predicted=1)
    report = Report("vcc2026", "p.h5ad", 1, 1, 1, 1, {"A": 1}, null=(check,))
    spec = ChallengeSpec(load_rules("vcc2026"))
    said = [
        instead_words(one), *null_words(report), *report_lines(report, spec), *(f.title for f in swap_findings([fit])),
        *(f"{f.title} {f.detail}" for f in null_findings([check])),
    ]  # fmt: skip
    assert not [line for line in said if ONE_OF_MANY.search(line)]
    assert said[0].startswith("1 has the transfer of its effects measured in screen.h5ad; 1 of 1 predicted gene is shared")
    assert "1 cell x 1 gene, 1 value, 1 perturbation" in " ".join(said)
    assert "1 context is more like" in " ".join(said) and "calls 1 of 1 gene (12 control cells against 1 other)" in " ".join(said)


def test_two_of_each() -> None:
    two = Replacement(0, 2, "transfer", ("screen.h5ad",), moved=2, lacking=("G1", "G2"), genes=2, genes_predicted=3)
    assert instead_words(two) == (
        "2 have the transfer of their effects measured in screen.h5ad; 2 of 3 predicted genes are shared, the others do not change. "
        "2 were measured in none of these: no change (G1, G2)."
    )
