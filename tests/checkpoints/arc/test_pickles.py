from __future__ import annotations

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from state_engine.checkpoints.arc.pickles import load_pickle, load_torch
from state_engine.errors import CheckpointError, UnsafePickleError


class Hostile:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_torch_archives_of_numbers_and_names_are_read(tmp_path):
    value = {
        np.str_("A"): torch.arange(3.0),
        "dim": np.int64(7),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "nested": [("x", 1.5, None), {"deep": True}],
        "ordered": collections.OrderedDict(a=torch.ones(2)),
    }
    torch.save(value, tmp_path / "map.pt")
    read = load_torch(tmp_path / "map.pt")
    assert [str(key) for key in read] == ["A", "dim", "array", "nested", "ordered"]
    assert int(read["dim"]) == 7
    assert torch.equal(read["A"], torch.arange(3.0))
    assert read["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["nested"] == [("x", 1.5, None), {"deep": True}]
    assert torch.equal(read["ordered"]["a"], torch.ones(2))


def test_loss_modules_and_omegaconf_become_plain(tmp_path):
    config = OmegaConf.create({"r": 4, "names": ["a", "b"], "deep": {"on": True, "rate": 0.5, "none": None}})
    torch.save({"loss": torch.nn.MSELoss(), "lora": config, "ids": OmegaConf.create([1, 2])}, tmp_path / "x.ckpt")
    assert load_torch(tmp_path / "x.ckpt") == {
        "loss": None,
        "lora": {"r": 4, "names": ["a", "b"], "deep": {"on": True, "rate": 0.5, "none": None}},
        "ids": [1, 2],
    }


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_read_in_every_protocol(tmp_path, protocol):
    value = {
        "dim": np.int64(7),
        "names": [np.str_("G0"), "G1"],
        "array": np.arange(4, dtype=np.float32),
        "objects": np.array(["a", "bc"], dtype=object),
        "set": {1, 2},
        "default": collections.defaultdict(list, a=[1]),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    read = load_pickle(tmp_path / "x.pkl")
    assert read["array"].tolist() == [0, 1, 2, 3]
    assert read["objects"].tolist() == ["a", "bc"]
    assert {key: read[key] for key in ("dim", "names", "set", "default")} == {
        key: value[key] for key in ("dim", "names", "set", "default")
    }


def test_tensors_in_a_plain_pickle_and_archives_named_pkl(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"b0": torch.eye(3)[1]}))
    torch.save({"b0": torch.eye(3)[1]}, tmp_path / "b.pkl")
    for name in ("a.pkl", "b.pkl"):
        assert load_pickle(tmp_path / name)["b0"].tolist() == [0, 1, 0]


HOSTILE = {
    "posix.system": lambda mark: Hostile(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Hostile(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.getattr": lambda mark: Hostile(getattr, "text", "format"),
    "subprocess.Popen": lambda mark: Hostile(__import__("subprocess").Popen, ["touch", str(mark)]),
    "torch.hub.load": lambda mark: Hostile(torch.hub.load, "a/b", "c"),
    "numpy.load": lambda mark: Hostile(__import__("numpy").load, str(mark)),
    "builtins.bytearray": lambda mark: Hostile(bytearray, 10),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name_and_not_run(tmp_path, name):
    mark = tmp_path / "ran"
    bad = {"harmless": 1, "bad": HOSTILE[name](mark)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(bad))
    torch.save(bad, tmp_path / "x.ckpt")
    last = name.rsplit(".", 1)[1]
    with pytest.raises(UnsafePickleError, match=last):
        load_pickle(tmp_path / "x.pkl")
    if last != "bytearray":  # torch itself admits bytearray, which does nothing
        with pytest.raises(UnsafePickleError, match=last):
            load_torch(tmp_path / "x.ckpt")
    assert not mark.exists()


def test_a_pickle_inside_a_tensor_storage_is_guarded_too(tmp_path):
    mark = tmp_path / "ran"
    inner = pickle.dumps(Hostile(os.system, f"touch {mark}"), protocol=2)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Hostile(torch.storage._load_from_bytes, inner)))
    with pytest.raises(UnsafePickleError, match="system"):
        load_pickle(tmp_path / "x.pkl")
    assert not mark.exists()


def test_a_class_of_the_reader_itself_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"cstate_engine.checkpoints.pickles\nload_pickle\n(S'x'\ntR.")
    with pytest.raises(UnsafePickleError, match=r"state_engine\.checkpoints\.pickles\.load_pickle"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("keep", [0, 3, 60, 300])
def test_truncated_files_are_named_as_damaged(tmp_path, keep):
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:keep])
    with pytest.raises((CheckpointError, UnsafePickleError), match=r"cut\.pt"):
        load_torch(tmp_path / "cut.pt")
    whole = pickle.dumps({"a": np.zeros(100)})
    (tmp_path / "cut.pkl").write_bytes(whole[: min(keep, 100)])
    with pytest.raises(CheckpointError, match=r"cut\.pkl"):
        load_pickle(tmp_path / "cut.pkl")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pt"):
        load_torch(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match=r"nothing\.pkl"):
        load_pickle(tmp_path / "nothing.pkl")


def test_an_archive_that_unfolds_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(CheckpointError, match="1,000,000 bytes"):
        load_torch(tmp_path / "bomb.pt")
