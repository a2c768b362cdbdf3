"""Which labels look like a control, several taken as one, and combinations with a control."""

from __future__ import annotations

import pandas as pd
import pytest

from state_engine.data.controls import Renaming, as_one, candidates, looks_like_control, matching, parts_of, renamings, replaced
from state_engine.data.labels import as_labels


@pytest.mark.parametrize(
    "label",
    ["NTg1", "NT-2", "NTC", "*", "wildtype", "Wild-type", "WT", "DMSO", "Vehicle (DMSO)", "unstimulated", "Unstim", "mock_2", "scramble1",
     "safe-targeting", "INTERGENIC12", "negative control", "NegCtrl0", "neg_ctrl_1", "non-targeting_00001", "NO-TARGET", "nonperturbed"],
)  # fmt: skip
def test_words_for_controls(label: str) -> None:
    assert looks_like_control(label) and candidates(as_labels([label, "KLF1", "GATA1"])) == (label,)


@pytest.mark.parametrize("label", ["NT5E", "NTRK1", "WTAP", "NEGR1", "KLF1", "ANTXR1", "SMOCK", "CUL3g1", "Drug A", "IFN-beta"])
def test_genes_and_drugs_are_no_controls(label: str) -> None:
    assert not looks_like_control(label) and candidates(as_labels([label, "x"])) == ()


def test_a_perturbation_beside_a_control_is_no_control() -> None:
    labels = as_labels(["NegCtrl0__NegCtrl0", "NegCtrl10__NegCtrl0", "KLF1__NegCtrl0", "KLF1__GATA1", "ctrl+CEBPA"])
    assert candidates(labels) == ("NegCtrl0__NegCtrl0", "NegCtrl10__NegCtrl0")


def test_words_are_labels_or_patterns() -> None:
    names = ["*", "a[1]", "a1", "b"]
    assert matching(names, ["*"]) == ("*",) and matching(names, ["a[1]"]) == ("a[1]",)
    assert matching(names, ["a*", "b", "nobody"]) == ("a[1]", "a1", "b")


def test_several_labels_become_one_called_by_the_first() -> None:
    labels = as_labels(["g1", "g2", "g10", "A", None])
    one, taken = as_one(labels, ("g2", "g1", "absent"))
    assert one.tolist()[:4] == ["g2", "g2", "g10", "A"] and pd.isna(one.tolist()[4])
    assert (list(one.categories), taken) == (["A", "g10", "g2"], ("g2", "g1"))
    unchanged, none = as_one(labels, ("g1",))
    assert unchanged is labels and none == ()
    # the name does not depend on which of them a file has
    assert as_one(as_labels(["g2", "A"]), ("g1", "g2"))[0].tolist() == ["g1", "A"]


def test_combinations_are_read_as_what_they_perturb() -> None:
    labels = as_labels(
        ["ctrl", "KLF1+ctrl", "KLF1+ctrl", "ctrl+GATA1", "KLF1+GATA1", "GATA1+KLF1", "ctrl+ctrl", "A+B+ctrl", "TNF"]
    )
    found = renamings(labels, "ctrl")
    assert found == (
        Renaming("A+B+ctrl", "A+B", 1),
        Renaming("KLF1+GATA1", "GATA1+KLF1", 1),
        Renaming("KLF1+ctrl", "KLF1", 2),
        Renaming("ctrl+GATA1", "GATA1", 1),
    )
    renamed = replaced(labels, found)
    assert renamed.tolist() == ["ctrl", "KLF1", "KLF1", "GATA1", "GATA1+KLF1", "GATA1+KLF1", "ctrl+ctrl", "A+B", "TNF"]
    assert renamings(as_labels(["lib1+A", "lib1"]), "lib1") == (Renaming("lib1+A", "A", 1),)
    assert [parts_of(x) for x in ("A", "A + B", "A__B", "A|B;C")] == [["A"], ["A", "B"], ["A", "B"], ["A", "B", "C"]]
