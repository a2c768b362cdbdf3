"""The model library: what is listed, what comes in and goes out, and what is refused at the door."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from state_engine.checkpoints.card import FORMAT, ModelCard, model_id
from state_engine.checkpoints.recognise import Found, what_is
from state_engine.config import Settings, gib
from state_engine.effects.store import EFFECTS
from state_engine.errors import CheckpointError, RequestError
from state_engine.library import foreign, shelf, zips
from state_engine.library import models as library
from state_engine.library.allowed import readable
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.plain import to_plain

BACKBONE = BackboneConfig("llama", hidden=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate=16)
CONFIG = TransitionConfig(4, 4, 2, BACKBONE, "hvg", set_size=8)


def a_card(name: str = "Small model", **changes: Any) -> ModelCard:
    digest = hashlib.sha256(name.encode()).hexdigest()
    card = ModelCard(
        format=FORMAT, id=digest[:12], name=name, config=CONFIG, input_key="X_hvg", input_genes=("A", "B", "C", "D"),
        output_genes=None, scale="log1p", control="ctrl", perturbations=("ctrl", "drug"), perturbation_encoding="one-hot",
        batches=(), contexts=("T",), perturbation_key="p", context_key="c", batch_key=None, attention="full",
        attention_source="declared", weights_hash=digest,
    )  # fmt: skip
    return dataclasses.replace(card, **changes)


def write_store(folder: Path, card: ModelCard) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(to_plain(card)))
    save_file({"w": np.arange(6, dtype=np.float32)}, folder / "model.safetensors")
    if card.perturbation_encoding == "features":
        save_file({"features": np.ones((2, 2), np.float32)}, folder / "perturbations.safetensors")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(home=tmp_path / "home", data_folders=(tmp_path / "data",), demo=tmp_path / "no-demo")


def hidden(settings: Settings) -> list[str]:
    return [p.name for p in settings.models.iterdir() if p.name.startswith(".")]


def test_an_empty_library_lists_nothing(settings: Settings) -> None:
    assert library.list_models(settings) == ()
    with pytest.raises(CheckpointError, match="no model 'abc' in the library"):
        library.find(settings, "abc")


def test_listed_by_name_after_the_demo(settings: Settings, tmp_path: Path) -> None:
    for name in ("zeta", "Alpha", "beta"):
        write_store(settings.models / f"{name}-folder", a_card(name))
    (settings.models / ".incoming-1").mkdir()
    (settings.models / "notes.txt").write_text("not a model")
    write_store(tmp_path / "demo" / "model", a_card("zz demo"))
    settings = dataclasses.replace(settings, demo=tmp_path / "demo")
    entries = library.list_models(settings)
    assert [e.card.name for e in entries if e.card] == ["zz demo", "Alpha", "beta", "zeta"]
    assert [e.demo for e in entries] == [True, False, False, False]
    assert entries[1].nbytes == sum(p.stat().st_size for p in entries[1].path.iterdir())
    assert library.find(settings, a_card("beta").id).path == settings.models / "beta-folder"


def damage(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif how == "longer":
        weights.write_bytes(weights.read_bytes() + b"x")
    elif how == "stub":
        weights.write_bytes(b"abc")
    elif how == "header":
        content = bytearray(weights.read_bytes())
        content[8:10] = b"??"
        weights.write_bytes(bytes(content))
    elif how == "no weights":
        weights.unlink()
    elif how == "no features":
        (folder / "perturbations.safetensors").unlink()
    elif how == "json":
        (folder / "model.json").write_text("{")
    elif how == "id":
        (folder / "model.json").write_text(json.dumps(to_plain(a_card(id="../../etc/x"))))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "bytes instead of"),
        ("longer", "bytes instead of"),
        ("stub", "truncated or no safetensors"),
        ("header", "damaged header"),
        ("no weights", "model.safetensors is missing"),
        ("no features", "perturbations.safetensors is missing"),
        ("json", "damaged"),
        ("id", "no valid id"),
    ],
)
def test_a_damaged_model_is_listed_with_its_error(settings: Settings, how: str, said: str) -> None:
    write_store(settings.models / "good", a_card("good"))
    card = a_card("bad", perturbation_encoding="features")
    folder = write_store(settings.models / f"bad-{card.id}", card)
    damage(folder, how)
    entries = {e.path.name: e for e in library.list_models(settings)}
    assert entries["good"].card is not None and entries["good"].error == ""
    assert entries[folder.name].card is None and said in entries[folder.name].error
    with pytest.raises(CheckpointError, match="is damaged"):
        library.find(settings, card.id)
    with pytest.raises(CheckpointError, match="cannot be exported"):
        zips.export_zip(entries[folder.name], settings.home / "x.zip")
    with pytest.raises(CheckpointError):
        library.import_directory(folder.rename(settings.data_folders[0] / "bad"), settings)
    assert [p.name for p in settings.models.iterdir()] == ["good"]


def test_a_child_reads_the_cards_and_only_where_something_changed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counting(function: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(function.__name__)
        return foreign.call(function, *arguments, **more)

    monkeypatch.setattr(shelf, "call", counting)
    folder = write_store(settings.models / "one", a_card("one"))
    deep = write_store(settings.models / "deep", a_card("deep"))
    (deep / "model.json").write_text("[" * 200_000)
    for times in range(2):
        entries = {e.path.name: e for e in library.list_models(settings)}
        assert entries["one"].card == a_card("one") and "damaged" in entries["deep"].error
        assert sorted(asked) == ["check_safetensors", "read_card", "read_card"], f"look {times}"
    (folder / "model.json").write_text(json.dumps(to_plain(a_card("one", licence="MIT"))))
    found = next(e.card for e in library.list_models(settings) if e.path == folder)
    assert found is not None and found.licence == "MIT" and len(asked) == 5


def test_export_then_import_is_the_same_model(settings: Settings, tmp_path: Path) -> None:
    write_store(settings.models / "one", a_card("One!", perturbation_encoding="features"))
    entry = library.list_models(settings)[0]
    first = zips.export_zip(entry, tmp_path / "a.zip").read_bytes()
    os.utime(entry.path / "model.json", (1, 1))
    assert zips.export_zip(entry, tmp_path / "b.zip").read_bytes() == first
    other = Settings(home=tmp_path / "other", demo=tmp_path / "no-demo")
    imported = zips.import_zip(tmp_path / "a.zip", other)
    assert imported.card == entry.card
    assert imported.path == other.models / f"one-{a_card('One!').id}"
    for path in entry.path.iterdir():
        assert (imported.path / path.name).read_bytes() == path.read_bytes()
    assert zips.import_zip(tmp_path / "a.zip", other) == imported
    assert len(library.list_models(other)) == 1 and hidden(other) == []


def test_a_damaged_model_is_replaced_by_importing_it_again(settings: Settings, tmp_path: Path) -> None:
    source = write_store(settings.data_folders[0] / "m", a_card())
    entry = library.import_directory(source, settings)
    damage(entry.path, "cut")
    assert library.import_directory(source, settings) == entry
    assert library.list_models(settings) == (entry,)


def test_the_effects_of_baselines_travel_with_a_model(settings: Settings, tmp_path: Path) -> None:
    folder = write_store(settings.models / "it", a_card())
    save_file({"effects": np.ones((2, 4), np.float32)}, folder / EFFECTS)
    (entry,) = library.list_models(settings)
    other = dataclasses.replace(settings, home=tmp_path / "elsewhere")
    imported = zips.import_zip(zips.export_zip(entry, tmp_path / "a.zip"), other)
    assert (imported.path / EFFECTS).read_bytes() == (folder / EFFECTS).read_bytes()
    (folder / EFFECTS).write_bytes(b"cut")
    (damaged,) = library.list_models(settings)
    assert damaged.card is None and EFFECTS in damaged.error


def zip_of(path: Path, files: dict[str, bytes], **details: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            for key, value in details.items():
                setattr(member, key, value)
            archive.writestr(member, content)
    return path


def good_files(tmp_path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in write_store(tmp_path / "good", a_card()).iterdir()}


def test_a_zip_is_read_in_a_child_only(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "x.zip", good_files(tmp_path))

    def here(*arguments: object) -> None:
        raise AssertionError("the zip is read in this process")

    monkeypatch.setattr(zipfile, "ZipFile", here)
    assert zips.import_zip(path, settings).card == a_card()


def test_one_folder_around_the_files_is_fine(settings: Settings, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {f"my model/{n}": c for n, c in good_files(tmp_path).items()})
    assert zips.import_zip(path, settings).card == a_card()


@pytest.mark.parametrize(
    "name",
    [
        "../model.json", "/model.json", "a/../../model.json", "..\\model.json", "C:/model.json", "evil.py", "weights.pkl",
        "a/b/README.md", "other/README.md",
    ],
)  # fmt: skip
def test_a_zip_with_anything_else_is_refused_whole(settings: Settings, tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "x.zip", {**good_files(tmp_path), name: b"x"})
    with pytest.raises(CheckpointError, match=r"The zip holds .*Nothing was unpacked"):
        zips.import_zip(path, settings)
    assert list(settings.models.iterdir()) == []
    assert not any(p.name == "evil.py" for p in tmp_path.rglob("*"))


def test_links_in_a_zip_are_refused(settings: Settings, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", good_files(tmp_path), external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3)
    with pytest.raises(CheckpointError, match="link or a device"):
        zips.import_zip(path, settings)


def test_an_encrypted_zip_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", good_files(tmp_path))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="encrypted"):
        zips.import_zip(path, settings)


def test_size_and_number_limits(settings: Settings, tmp_path: Path) -> None:
    files = good_files(tmp_path)
    path = zip_of(tmp_path / "x.zip", files)
    total = sum(len(c) for c in files.values())
    small = dataclasses.replace(settings, max_file_bytes=total - 1)
    with pytest.raises(CheckpointError, match=f"The model has {total:,} bytes"):
        zips.import_zip(path, small)
    assert zips.import_zip(path, dataclasses.replace(settings, max_file_bytes=total)).card is not None
    many = zip_of(tmp_path / "many.zip", {f"d{i}/": b"" for i in range(zips.MOST_MEMBERS + 1)})
    with pytest.raises(CheckpointError, match="has 33 members"):
        zips.import_zip(many, settings)


def test_a_name_that_comes_twice(settings: Settings, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", good_files(tmp_path))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model.json", b"{}")
    with pytest.raises(CheckpointError, match=r"holds model.json twice"):
        zips.import_zip(path, settings)


def test_not_a_zip_cut_or_incomplete(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="not a readable zip"):
        zips.import_zip(tmp_path / "x.zip", settings)
    path = zip_of(tmp_path / "y.zip", {"model.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"lacks model.safetensors"):
        zips.import_zip(path, settings)
    content = bytearray(zip_of(tmp_path / "z.zip", good_files(tmp_path)).read_bytes())
    content[60] ^= 255  # a byte of the first member: its checksum no longer fits
    (tmp_path / "z.zip").write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        zips.import_zip(tmp_path / "z.zip", settings)
    assert list(settings.models.iterdir()) == []


def test_a_directory_comes_only_from_where_it_may(settings: Settings, tmp_path: Path) -> None:
    inside = write_store(settings.data_folders[0] / "sub" / "m", a_card())
    outside = write_store(tmp_path / "elsewhere", a_card("two"))
    assert library.import_directory(inside, settings).card == a_card()
    (settings.data_folders[0] / "link").symlink_to(outside)
    for path in (outside, settings.data_folders[0] / ".." / "elsewhere", settings.data_folders[0] / "link", Path("/etc")):
        with pytest.raises(RequestError, match="not in a folder that may be read"):
            library.import_directory(path, settings)
    with pytest.raises(RequestError, match="There is no"):
        readable(settings.data_folders[0] / "nothing", settings)
    with pytest.raises(RequestError, match="none is set"):
        readable(inside, dataclasses.replace(settings, data_folders=()))


def test_a_link_inside_a_folder_cannot_lead_out(settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = write_store(settings.data_folders[0] / "m", a_card())
    (folder / "README.md").symlink_to(secret)
    with pytest.raises(RequestError, match="not in a folder that may be read"):
        library.import_directory(folder, settings)
    assert list(settings.models.iterdir()) == []


def test_downloads_may_be_imported(settings: Settings) -> None:
    folder = write_store(settings.home / "downloads" / "o--m" / "abc", a_card())
    (folder / "download.json").write_text("{}")
    entry = library.import_directory(folder, settings)
    assert (entry.path / "download.json").is_file()


def test_what_a_folder_is(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", a_card())
    assert what_is(store).kind == "store"
    (store / "model.safetensors").unlink()
    assert what_is(store) == Found("unknown", "It has model.json, but not model.safetensors.")
    run = tmp_path / "repo" / "zeroshot" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    assert "no .ckpt file" in what_is(run).reason
    for name in ("step=5.ckpt", "final.ckpt", "step=50.ckpt"):
        (run / "checkpoints" / name).touch()
    found = what_is(run)
    assert found.kind == "arc"
    assert found.checkpoints == ("checkpoints/final.ckpt", "checkpoints/step=50.ckpt", "checkpoints/step=5.ckpt")
    assert what_is(tmp_path / "repo") == Found("hub snapshot", "It holds 1 models in folders: zeroshot/run.", ("zeroshot/run",))
    assert "choose the folder above" in what_is(run / "checkpoints").reason
    (tmp_path / "plain").mkdir()
    assert what_is(tmp_path / "plain").reason.startswith("Neither model.json")
    assert what_is(tmp_path / "nothing").reason == "nothing is not a folder."


def test_an_arc_directory_is_not_imported_but_converted(settings: Settings) -> None:
    run = settings.data_folders[0] / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    (run / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"arc-state with 1 checkpoint.*Convert it"):
        library.import_directory(run, settings)


def test_remove(settings: Settings, tmp_path: Path) -> None:
    write_store(settings.models / "a", a_card("a"))
    write_store(settings.models / "b", a_card("b"))
    library.remove(library.find(settings, a_card("a").id), settings)
    assert [p.name for p in settings.models.iterdir()] == ["b"]
    with pytest.raises(RequestError, match="not a folder of the model library"):
        library.remove(library.Entry(tmp_path / "data", None), settings)
    assert (tmp_path / "data").is_dir()
    write_store(tmp_path / "demo" / "model", a_card("demo"))
    settings = dataclasses.replace(settings, demo=tmp_path / "demo")
    with pytest.raises(RequestError, match="belongs to the program"):
        library.remove(library.list_models(settings)[0], settings)
    assert (tmp_path / "demo" / "model" / "model.json").is_file()


def test_torch_is_not_imported() -> None:
    code = "import sys, state_engine.library.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def spoilt(raw: bytes) -> bytes:
    at = len(raw) // 3
    return raw[:at] + bytes(b ^ 0x5A for b in raw[at : at + 100]) + raw[at + 100 :]


@pytest.mark.parametrize(
    "weights",
    [
        header(b"[" * 200_000),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}'),
        header(b'{"a": [[], 1]}'),
        header(b"\xff\xfe{}"),
        b"\xff" * 8,
    ],
    ids=["nested", "endless", "a list", "no text", "length"],
)
def test_headers_of_weights_from_strangers_are_sentences(settings: Settings, tmp_path: Path, weights: bytes) -> None:
    path = zip_of(tmp_path / "upload.zip", {**good_files(tmp_path), "model.safetensors": weights})
    with pytest.raises(CheckpointError, match=r"model\.safetensors (has a damaged header|is truncated)") as caught:
        zips.import_zip(path, settings, "my model.zip")
    assert ".incoming" not in str(caught.value) and not list(settings.models.iterdir())


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_a_sentence_with_its_name(settings: Settings, tmp_path: Path, how: int) -> None:
    path = tmp_path / "upload.zip"
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in good_files(tmp_path).items():
            archive.writestr(name, content)
    path.write_bytes(spoilt(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"my model\.zip"):
        zips.import_zip(path, settings, "my model.zip")
    assert not list(settings.models.iterdir())


def test_a_zip_of_zeros_is_refused_unwritten(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b"{}")
        archive.writestr("model.safetensors", bytes(1 << 25))
    with pytest.raises(CheckpointError, match=r"bomb\.zip is not unpacked.*times as large as the archive"):
        zips.import_zip(path, settings)
    assert not list(settings.models.iterdir())


RENAMED = [
    {"perturbations": ("ctrl", "other drug")},
    {"perturbations": ("drug", "ctrl")},
    {"contexts": ("B",)},
    {"input_genes": ("A", "B", "D", "C")},
    {"output_genes": ("A", "B", "C", "D")},
    {"attention": "causal"},
]


@pytest.mark.parametrize("changes", RENAMED, ids=lambda changes: "-".join(changes))
def test_the_same_weights_by_other_names_are_another_model(settings: Settings, tmp_path: Path, changes: dict[str, Any]) -> None:
    first = library.import_directory(write_store(tmp_path / "data" / "one", a_card("One")), settings)
    renamed = dataclasses.replace(a_card("One"), **changes)
    second = library.import_directory(write_store(tmp_path / "data" / "two", renamed), settings)
    assert first.card is not None and first.card.id == a_card("One").id, "what is there keeps its id"
    assert second.card == dataclasses.replace(renamed, id=model_id(renamed)) and second.card.id != first.card.id
    assert library.find(settings, second.card.id).path == second.path
    assert library.find(settings, first.card.id).card == first.card
    for folder, entry in (("one", first), ("two", second)):  # each is known again, by its own names
        assert library.import_directory(tmp_path / "data" / folder, settings) == entry
    assert len(library.list_models(settings)) == 2
    zips.export_zip(second, tmp_path / "second.zip")
    library.remove(second, settings)
    assert zips.import_zip(tmp_path / "second.zip", settings).card == second.card


def test_the_demos_weights_by_other_names_are_another_model(settings: Settings, tmp_path: Path) -> None:
    write_store(tmp_path / "demo" / "model", a_card("One"))
    settings = dataclasses.replace(settings, demo=tmp_path / "demo")
    renamed = a_card("One", perturbations=("ctrl", "other drug"))
    entry = library.import_directory(write_store(tmp_path / "data" / "two", renamed), settings)
    assert entry.card is not None and entry.card.perturbations == ("ctrl", "other drug") and not entry.demo
    assert [e.demo for e in library.list_models(settings)] == [True, False]


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(50 * 1024**3, "50 GiB"), (1.5 * 1024**3, "1.5 GiB"), (3 * 1024**2, "3 MiB"), (1560, "1,560 bytes")]
)
def test_sizes_are_said_as_the_settings_count_them(n_bytes: float, words: str) -> None:
    assert gib(n_bytes) == words
