"""Which columns are taken for what, and why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from state_engine.data.labels import Labels, as_labels, decide_labels
from state_engine.errors import LabelError


def labels(frame: dict[str, list], **choices: str) -> Labels:
    return decide_labels({n: as_labels(v) for n, v in frame.items()}, **choices)


def test_aliases_ignore_case_and_come_in_order() -> None:
    found = labels({"Cell_Type": ["B", "T"], "leiden": ["0", "1"], "Treatment": ["a", "DMSO"], "Plate": ["p", "p"]})
    assert (found.perturbation_key, found.context_key, found.batch_key) == ("Treatment", "Cell_Type", "Plate")
    assert found.control == "DMSO"
    assert [s.column for s in found.suggestions if s.role == "context"] == ["Cell_Type", "leiden"]


def test_a_control_label_outweighs_a_name() -> None:
    found = labels({"condition": ["healthy", "sick"], "guides_used": ["non-targeting", "TP53"]})
    assert found.perturbation_key == "guides_used"
    first = found.suggestions[0]
    assert (first.n_labels, first.reason) == (2, "the name 'guides_used' suggests it and it has the label 'non-targeting'")


def test_a_column_found_by_its_control_alone() -> None:
    assert labels({"x": ["ctrl", "STAT1"], "y": ["1", "2"]}).perturbation_key == "x"


def test_a_context_is_not_taken_for_a_perturbation_because_of_a_label() -> None:
    assert labels({"cell_type": ["B", "control"]}).perturbation_key is None
    assert labels({"genotype": ["WT", "mutant"]}).perturbation_key is None
    assert labels({"condition": ["WT", "mutant"]}).control == "WT"
    assert labels({"sample": ["ctrl", "stim"]}).perturbation_key == "sample"


def test_one_column_is_not_taken_twice() -> None:
    found = labels({"donor": ["d1", "d2"]})
    assert (found.context_key, found.batch_key) == ("donor", None)
    assert labels({"donor": ["d1", "d2"]}, batch_key="donor").context_key is None
    assert labels({"donor": ["d1", "d2"]}, context_key="").batch_key == "donor"


@pytest.mark.parametrize(
    "control", ["Control", "CTRL", "DMSO_TF", "[('DMSO_TF', 0.0, 'uM')]", "non-targeting", "Untreated", "WT"]
)
def test_controls_in_use_are_known(control: str) -> None:
    assert labels({"condition": ["A", control, "B"]}).control == control


def test_telling_names_are_only_suggested() -> None:
    found = labels({"condition": ["A", "scramble_guide_2", "B"]})
    assert found.control is None
    assert found.control_suggestions == ("scramble_guide_2",)
    assert labels({"condition": ["A", "B"]}).control_suggestions == ()


def test_several_controls_keep_the_order_of_trust() -> None:
    found = labels({"condition": ["untreated", "non-targeting", "A"]})
    assert (found.control, found.control_suggestions) == ("non-targeting", ("non-targeting", "untreated"))


def test_example_is_the_most_frequent_label() -> None:
    facts = labels({"gene": ["A", "B", "B", None]}).columns[0]
    assert (facts.example, facts.n_labels, facts.n_missing) == ("B", 2, 1)


def test_all_unperturbed_on_purpose() -> None:
    found = labels({"gene": ["A", "control"]}, perturbation_key="", control="non-targeting")
    assert (found.perturbation_key, found.control) == ("", "non-targeting")


def test_a_wrong_control_lists_the_labels() -> None:
    with pytest.raises(LabelError, match=r"It has 2 labels: control, A\."):
        labels({"gene": ["A", "control"]}, control="ctl")


def test_as_labels_merges_what_reads_alike_and_drops_what_is_unused() -> None:
    mixed = as_labels(pd.Categorical([1, "1", "b", None], categories=[1, "1", "b", "unused"]))
    assert list(mixed.categories) == ["1", "b"]
    assert np.asarray(mixed.codes).tolist() == [0, 0, 1, -1]
    assert as_labels(np.array([1.0, np.nan, 2.5])).tolist()[0] == "1.0"
