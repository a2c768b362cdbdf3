"""Vectors of perturbations: read, matched with the labels of data, and refused with the line or label that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from state_engine.checkpoints.arc.perturbation_vectors import read_features_file
from state_engine.data.perturbation_features import from_vectors, one_hot, read_features_csv
from state_engine.errors import LabelError, UnreadableFileError, UnsafePickleError

TABLE = {"control": [0.0, 0.0, 0.0], "TNF": [1.0, 2.0, 3.0], "IFNB1": [0.5, -1.0, 2.5]}


def test_one_hot_vectors_are_in_the_order_of_the_labels():
    features = one_hot(["control", "TNF"])
    assert (features.labels, features.source, features.width) == (("control", "TNF"), "one-hot", 2)
    assert features.of(["TNF", "control"]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(LabelError, match="repeat: TNF"):
        one_hot(["TNF", "TNF"])


def test_vectors_of_a_torch_file(tmp_path):
    saved = {np.str_(label): torch.tensor(vector, dtype=torch.float64) for label, vector in TABLE.items()}
    saved["TP53"] = np.array([[1.0, 1.0, 1.0]], dtype=np.float32)
    torch.save(saved, tmp_path / "esm2.pt")
    features = read_features_file(tmp_path / "esm2.pt")
    assert features.labels == (*TABLE, "TP53")
    assert all(type(label) is str for label in features.labels)
    assert features.vectors.dtype == np.float32
    assert features.of(["IFNB1", "TP53"]).tolist() == [[0.5, -1, 2.5], [1, 1, 1]]
    assert features.source == "esm2.pt"


@pytest.mark.parametrize("header", ["", "gene,a,b,c\n"])
@pytest.mark.parametrize("comma", [",", "\t", ";"])
def test_vectors_of_a_table(tmp_path, header, comma):
    lines = "".join(f"{label},{','.join(map(str, vector))}\n" for label, vector in TABLE.items())
    path = tmp_path / "vectors.csv"
    path.write_text((header + lines + "\n").replace(",", comma))
    features = read_features_file(path)
    assert features.labels == tuple(TABLE)
    assert np.allclose(features.of(list(TABLE)), list(TABLE.values()))


def test_the_hash_is_of_the_content_not_of_its_order():
    turned = dict(reversed(TABLE.items()))
    assert from_vectors(TABLE, "a").hash == from_vectors(turned, "b").hash
    assert from_vectors(TABLE, "a").hash != from_vectors(TABLE | {"TNF": [1, 2, 4]}, "a").hash
    assert from_vectors(TABLE, "a").hash != from_vectors({"other" + k: v for k, v in TABLE.items()}, "a").hash


def test_labels_without_a_vector_are_named():
    features = from_vectors(TABLE, "esm2.pt")
    with pytest.raises(LabelError, match=r"2 of 3 perturbations have no vector: tnf, JUN.*'tnf' may be 'TNF'"):
        features.of(["tnf", "JUN", "TNF"])


def test_a_control_may_be_given_zeros_and_that_is_said():
    features = from_vectors({"TNF": [1.0, 2.0]}, "esm2.pt")
    filled = features.with_zeros(["control", "TNF"])
    assert filled.of(["control", "TNF"]).tolist() == [[0, 0], [1, 2]]
    assert filled.source == "esm2.pt; zeros for control"
    assert filled.hash != features.hash
    assert features.with_zeros(["TNF"]) is features


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,1,2\nb,1\n", r"several widths.*1 \(b\); 2 \(a\)"),
        ("a,1,2\na,3,4\n", "line 2: 'a' is there twice"),
        ("a,1,2\nb,x,4\n", "line 2"),
        ("a,1,2\n,3,4\n", "line 2: there is no label"),
        ("a,1,nan\n", "not numbers.*a"),
        ("a\nb\n", "several widths"),
        ("", "no vectors"),
        ("gene,x\n", "no vectors"),
    ],
)
def test_tables_that_are_none(tmp_path, text, words):
    path = tmp_path / "vectors.csv"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=words):
        read_features_csv(path)


class Stranger:
    """Not a number."""


def test_torch_files_that_are_no_vectors(tmp_path):
    for name, value, words in [
        ("list", [torch.zeros(2)], "dictionary"),
        ("text", {"a": "vector"}, "'a' has no vector but str"),
        ("same", {1: torch.zeros(2), "1": torch.zeros(2)}, "two labels"),
    ]:
        torch.save(value, tmp_path / f"{name}.pt")
        with pytest.raises(UnreadableFileError, match=words):
            read_features_file(tmp_path / f"{name}.pt")
    torch.save({"a": Stranger()}, tmp_path / "strange.pt")
    with pytest.raises(UnsafePickleError, match="Stranger"):
        read_features_file(tmp_path / "strange.pt")
    with pytest.raises(UnreadableFileError, match="There is no file"):
        read_features_file(tmp_path / "none.pt")
    (tmp_path / "vectors.xlsx").write_bytes(b"PK")
    with pytest.raises(UnreadableFileError, match="Known endings"):
        read_features_file(tmp_path / "vectors.xlsx")
