from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from state_engine.checkpoints.arc.pickles import load_pickle, load_torch
from state_engine.errors import CheckpointError, UnsafePickleError

ROOT = Path(__file__).resolve().parents[3]


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


# ---- files that lie about what they hold ----

LIMIT = 4 << 30  # bytes of memory for a child that reads a hostile file


def read_in_child(path, reader):
    """What a child of 4 GB and 60 s says: "read", or the name of the error."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({LIMIT}, {LIMIT}))\n"
        "import sys; from pathlib import Path; from state_engine.errors import StateError\n"
        f"from state_engine.checkpoints.arc.pickles import {reader} as read\n"
        "try: read(Path(sys.argv[1])); print('read')\n"
        "except StateError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def void_with_hidden_objects(n):
    """An array whose dtype says void, while a field of its pickled state holds pointers to objects."""
    dtype = (
        b"cnumpy\ndtype\nX\x02\x00\x00\x00V8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a"
        b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87RK\x00\x86sK\x08K\x01K\x00tb"
    )
    latin = b"X\x06\x00\x00\x00latin1\x86R"
    bytes_of = b"c_codecs\nencode\nX" + (8 * n).to_bytes(4, "little") + b"A" * (8 * n) + latin
    first = b"c_codecs\nencode\nX\x01\x00\x00\x00b" + latin
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + first + b"\x87R(K\x01K"
        + bytes([n]) + b"\x85" + dtype + b"\x89" + bytes_of + b"tb"
    )  # fmt: skip


@pytest.mark.parametrize("reader", ["load_pickle", "load_torch"])
def test_a_dtype_cannot_hide_pointers(tmp_path, reader):
    body = b"\x80\x02}X\x05\x00\x00\x00names" + void_with_hidden_objects(20) + b"s."
    path = tmp_path / "x.pkl"
    path.write_bytes(body)
    if reader == "load_torch":
        path = tmp_path / "x.pt"
        torch.save({"a": torch.zeros(1)}, tmp_path / "good.pt")
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
            for entry in good.infolist():
                bad.writestr(entry.filename, body if entry.filename.endswith("data.pkl") else good.read(entry))
    assert read_in_child(path, reader).startswith("CheckpointError")


def test_shared_lists_are_rebuilt_once(tmp_path):
    shared = [0]
    for _ in range(12):
        shared = [shared, shared]
    torch.save({"x": shared}, tmp_path / "x.ckpt")
    found = load_torch(tmp_path / "x.ckpt")["x"]
    assert found[0] is found[1]
    for _ in range(16):
        shared = [shared, shared]
    torch.save({"x": shared}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="would unfold"):
        load_torch(tmp_path / "x.ckpt")


def test_a_list_in_itself_is_refused(tmp_path):
    inner: list = []
    inner.append(inner)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(inner))
    with pytest.raises(CheckpointError, match="lies in itself"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("as_key", [True, False])
def test_nested_tuples_are_not_hashed(tmp_path, as_key):
    nested = ("x",)
    for _ in range(40):
        nested = (nested, nested)
    raw = pickle.dumps(nested, 2)[:-1]
    (tmp_path / "x.pkl").write_bytes(raw[:2] + b"}" + raw[2:] + b"K\x01s." if as_key else raw + b".")
    said = read_in_child(tmp_path / "x.pkl", "load_pickle")
    assert said.startswith("CheckpointError") and ("used as a key" if as_key else "would unfold") in said


def test_one_number_repeated_is_no_tensor(tmp_path):
    torch.save({"w": torch.zeros(1).expand(2_000_000, 1_000)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="in a storage of 1"):
        load_torch(tmp_path / "x.ckpt")


def test_views_of_one_storage_do_not_add_up_without_end(tmp_path):
    base = torch.zeros(1_000_000)
    torch.save([base[: 1_000_000 - i] for i in range(30)], tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="bytes in a file of"):
        load_torch(tmp_path / "x.ckpt")
    torch.save({"a": base, "tied": base, "row": base[:10]}, tmp_path / "tied.ckpt")
    assert load_torch(tmp_path / "tied.ckpt")["row"].shape == (10,)


@pytest.mark.parametrize(
    "kind", [lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)]
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_are_refused(tmp_path, kind):
    torch.save({"w": kind(torch.ones(3, 3))}, tmp_path / "x.ckpt")
    with pytest.raises((CheckpointError, UnsafePickleError)):
        load_torch(tmp_path / "x.ckpt")


def test_every_number_type_and_layout_comes_back(tmp_path):
    dtypes = (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    value = {str(dtype): torch.arange(12).reshape(3, 4).to(dtype) for dtype in dtypes}
    value |= {"transposed": torch.arange(6.0).reshape(2, 3).T, "bool": torch.tensor([True, False]), "scalar": torch.tensor(2.5)}
    value |= {"none": torch.empty(0), "part": torch.arange(10.0)[3:7], "parameter": torch.nn.Parameter(torch.ones(2))}
    for new in (True, False):
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        read = load_torch(tmp_path / "x.pt")
        assert read.keys() == value.keys()
        for name, tensor in value.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor.detach()), name


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    load_torch(tmp_path / "x.pt")["a"].fill_(7)
    assert (tmp_path / "x.pt").read_bytes() == before


def test_text_beyond_unicode_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(
        pickle.dumps({"names": np.array(["abc"])}, protocol=4).replace(b"a\0\0\0b", b"a\xff\xff\xffb")
    )
    with pytest.raises(CheckpointError, match="do not exist"):
        load_pickle(tmp_path / "x.pkl")
