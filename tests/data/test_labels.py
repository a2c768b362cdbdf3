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


def test_a_data_set_of_whole_contexts_is_no_batch() -> None:
    """Where each context lies in one data set, its column tells no cells of a context apart; another column is taken, or none."""
    contexts = {"cell_type": ["A172", "A172", "U87MG", "k562"]}
    whole = {"dataset": ["mcfaline23", "mcfaline23", "mcfaline23", "norman19"]}
    assert labels(contexts | {"dataset": contexts["cell_type"]}).batch_key is None
    assert labels(contexts | whole).batch_key is None
    assert [s.column for s in labels(contexts | whole).suggestions if s.role == "batch"] == ["dataset"]
    assert labels(contexts | whole, batch_key="dataset").batch_key == "dataset"
    assert labels(contexts | whole, context_key="").batch_key == "dataset"
    assert labels(contexts | whole | {"gem": ["1", "2", "1", "1"]}).batch_key == "gem"
    assert labels(contexts | {"dataset": ["d1", "d2", "d1", "d1"]}).batch_key == "dataset"
    assert labels(contexts | {"dataset": ["d1", "d1", "d1", "d1"]}).batch_key == "dataset"
    assert labels(contexts | {"dataset": ["d1", "d1", "d2", None]}).batch_key is None
    assert labels(contexts | {"dataset": ["d1", None, "d2", "d2"]}).batch_key == "dataset"


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


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "NaT", "<NA>", "None", "NA", "N/A", "n/a", "#N/A", "null", "NULL"])
def test_words_for_missing(word: str) -> None:
    assert as_labels(["A", word]).tolist()[0] == "A" and as_labels(["A", word]).codes.tolist() == [0, -1]
    assert as_labels(["A", word], [word]).codes.tolist().count(-1) == 0


def test_the_column_that_says_more_is_taken_and_the_other_named() -> None:
    genes = ["non-targeting", "A", "B", "C"]
    found = labels({"perturbation": ["control", "yes", "yes", "yes"], "gene": genes})
    assert (found.perturbation_key, found.control, found.coarser) == ("gene", "non-targeting", "perturbation")
    assert any("it tells more apart than 'perturbation'" in n for n in found.notes(("all",), (), False))
    found = labels({"gene": genes, "perturbed": ["no", "yes", "yes", "yes"]})
    assert (found.perturbation_key, found.coarser) == ("gene", "perturbed")
    # guides tell more apart than genes, which say all of it; a column that crosses the other says something else
    assert labels({"gene": genes, "guide": ["non-targeting", "A1", "A2", "B1"]}).perturbation_key == "gene"
    crossed = labels({"condition": ["ctrl", "stim"] * 2, "gene": ["non-targeting", "non-targeting", "A", "A"]})
    assert crossed.coarser == ""
    assert labels({"perturbation": ["control", "yes"], "gene": ["a", "b"]}).perturbation_key == "perturbation"
    assert labels({"perturbation": ["control", "A"], "gene": genes[:2]}, perturbation_key="perturbation").coarser == ""


def test_contexts_are_offered_where_there_is_no_cell_type() -> None:
    frame = {"condition": ["ctrl", "a"], "patient_id": ["p1", "p2"], "Batch": ["1", "2"], "replicate": ["r", "r"]}
    found = labels(frame)
    assert found.context_key is None and found.batch_key == "Batch"
    assert [s.column for s in found.suggestions if s.role == "context"] == ["patient_id", "Batch"]
    assert any("It could be: patient_id (2 labels), Batch (2 labels)." in n for n in found.notes((), (), False))
    assert not any(s.offered for s in labels(frame | {"cell_type": ["A", "B"]}).suggestions)


def test_a_column_with_a_likely_control_is_offered() -> None:
    found = labels({"genotype": ["wildtype", "mutant"]})
    assert found.perturbation_key is None
    assert any("It could be: genotype (it has the label 'wildtype')." in n for n in found.notes((), (), False))
