"""Lists, tables and TOML as people save them: UTF-8 is read with or without its mark, UTF-16 with it, all else is a sentence with the file's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from state_engine.challenge.spec import load_rules, read_genes
from state_engine.checkpoints.arc.pickles import load_pickle, load_torch
from state_engine.checkpoints.store import read_card
from state_engine.data.files.text import decode_text, names_among, read_names, read_rows
from state_engine.data.perturbation_features import read_features_csv
from state_engine.data.splits.plan import parse_plan, read_plan
from state_engine.errors import ChallengeError, RequestError, SplitError, StateError, UnreadableFileError, door
from state_engine.library.shelf import check_safetensors
from state_engine.prediction.cell_counts import read_cell_counts
from state_engine.public_data.catalogue import read_catalogue

NAMES = ("TNF", "IFN-beta")
GOOD = {
    "plain": b"TNF\nIFN-beta",
    "mark of Windows": b"\xef\xbb\xbfTNF\r\nIFN-beta",
    "UTF-16 of Windows": "TNF\r\nIFN-beta\r\n".encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + "TNF\nIFN-beta".encode("utf-16-be"),
    "quotes": b'"TNF"\r\n"IFN-beta"\r\n',
    "commas behind": b"TNF,,\nIFN-beta,,\n",
    "twice and empty lines": b"TNF\n\n  \nIFN-beta\nTNF\n",
}
BAD = {
    "UTF-16 cut off": ("TNF\r\n".encode("utf-16")[:-1], "it begins like text in UTF-16.*Save it as UTF-8"),
    "UTF-32": ("TNF\r\n".encode("utf-32"), "bytes that are zero"),
    "UTF-16 without its mark": ("TNF\r\n".encode("utf-16-le"), "bytes that are zero"),
    "Latin-1": ("TNF\nIFN-\u00df\n".encode("latin-1"), "Line 2 has another encoding"),
    "zeros": (b"TNF\0", "is not text"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_list_is_read_however_it_was_saved(tmp_path: Path, kind: str) -> None:
    (tmp_path / "list.txt").write_bytes(GOOD[kind])
    assert read_names(tmp_path / "list.txt") == NAMES


def test_a_name_may_hold_commas(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('IFN-beta, 6 h\n"TNF, 2 h"\n')
    assert read_names(tmp_path / "list.txt") == ("IFN-beta, 6 h", "TNF, 2 h")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("reader", [read_names, read_rows, read_plan, read_catalogue, load_rules, read_features_csv])
def test_another_encoding_is_a_sentence_at_every_door(tmp_path: Path, reader: Callable[[Path], object], kind: str) -> None:
    raw, words = BAD[kind]
    (tmp_path / "my list.txt").write_bytes(raw)
    with pytest.raises(StateError, match=f"my list.txt cannot be read: .*{words}"):
        reader(tmp_path / "my list.txt")


@pytest.mark.parametrize("reader", [read_names, read_rows, read_plan, read_catalogue, load_rules, read_features_csv])
@pytest.mark.parametrize("name", ["not there.txt", "x" * 300, "zero\0.txt", "."])
def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path, reader: Callable[[Path], object], name: str) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        reader(tmp_path / name)


READERS = [
    read_names,
    read_rows,
    read_plan,
    read_catalogue,
    load_rules,
    read_features_csv,
    read_cell_counts,
    load_pickle,
    load_torch,
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_read(tmp_path: Path, reader: Callable[[Path], object], kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(StateError, match="is a pipe or a device, no regular file"):
        reader(tmp_path / kind)


def test_a_text_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(UnreadableFileError, match="too large for a text"):
        read_names(tmp_path / "list.txt")


DEEP = {
    "lists": "a = " + "[" * 5000,
    "closed lists": "a = " + "[" * 200 + "]" * 200,
    "number of 5,000 digits": "a = " + "9" * 5000,
    "5,000 dotted keys": "[training]\n" + "a." * 5000 + "b = 1",
    "inline tables": "a = " + "{a=" * 3000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_or_endless_toml_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(DEEP[kind])
    with pytest.raises(SplitError, match="The split"):
        parse_plan(DEEP[kind])
    with pytest.raises(ChallengeError, match=r"rules\.toml"):
        load_rules(path)
    with pytest.raises(StateError, match=r"rules\.toml"):
        read_catalogue(path)


def test_a_field_without_end_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("A," + "1" * 200_000)
    with pytest.raises(UnreadableFileError, match=r"long\.csv cannot be read.*field"):
        read_features_csv(path)
    names, problems = read_genes(path, load_rules("vcc2025"))
    assert names == () and problems[0].code == "gene-list-unreadable" and "long.csv" in problems[0].title


def test_bytes_of_an_upload_are_read_alike() -> None:
    assert decode_text(GOOD["mark of Windows"], "list.txt") == "TNF\r\nIFN-beta"
    with pytest.raises(RequestError, match=r"list\.txt cannot be read: it begins like text in UTF-16"):
        decode_text(BAD["UTF-16 cut off"][0], "list.txt", RequestError)


KNOWN = ("STAT1", "JAK2", "IFN-beta, 6 h")


@pytest.mark.parametrize(
    ("text", "names", "words"),
    [
        ("perturbation\nSTAT1\nJAK2", ("STAT1", "JAK2"), ["heading 'perturbation'"]),
        ("target_gene\nSTAT1", ("STAT1",), ["heading 'target_gene'"]),
        ("Gene\tlogFC\nSTAT1\t1.5\nJAK2\t-2", ("STAT1", "JAK2"), ["heading 'Gene'", "2 columns: the first"]),
        ("gene,n\nSTAT1,3", ("STAT1",), ["heading 'gene'", "2 columns: the first"]),
        ("STAT1\t1.5\tup\nJAK2\t-2\tdown", ("STAT1", "JAK2"), ["3 columns: the first"]),
        ('"IFN-beta, 6 h",3\nSTAT1,4', ("IFN-beta, 6 h", "STAT1"), ["2 columns: the first"]),
        ("STAT1, JAK2\nIFN-beta, 6 h", ("STAT1", "JAK2", "IFN-beta, 6 h"), []),
        ("STAT1,JAK2", ("STAT1", "JAK2"), []),
        ("IL6, 2 h\nSTAT1", ("IL6, 2 h", "STAT1"), []),
    ],
)
def test_headings_and_further_columns_are_told_and_left_out(text: str, names: tuple[str, ...], words: list[str]) -> None:
    for pasted, raw in ((text, b""), ("", text.encode())):
        found = names_among(pasted, raw, "list.txt", KNOWN)
        assert found.names == names and len(found.remarks) == len(words)
        assert all(word in remark for word, remark in zip(words, found.remarks, strict=True))


def test_a_list_of_which_nothing_is_known_is_split_and_says_what_may_be_meant() -> None:
    known = ("CRISPRi STAT1", "CRISPRi IRF8", "CRISPRi MYC", "IFN-beta", "TNF")
    found = names_among("STAT1, irf8, ifn_beta, foo", b"", "", known)
    assert found.names == ("STAT1", "irf8", "ifn_beta", "foo") == found.unknown
    assert dict(found.near) == {"STAT1": ("CRISPRi STAT1",), "irf8": ("CRISPRi IRF8",), "ifn_beta": ("IFN-beta",)}
    assert names_among("CRISPRi", b"", "", known).near == (("CRISPRi", ("CRISPRi STAT1", "CRISPRi IRF8", "CRISPRi MYC")),)


def test_a_heading_that_is_a_known_name_is_a_name() -> None:
    assert names_among("gene\nSTAT1", b"", "", ("gene", "STAT1")).names == ("gene", "STAT1")


OPEN = {
    "at the end": 'set,gene\nA,G1\nB,"G2',
    "closed by a later line": 'set,gene\nA,"G1\nA,G2\nA,G3"\nB,G4',
    "in the first line": '"set,gene\nA,G1\nB,G2',
}


@pytest.mark.parametrize("kind", OPEN)
def test_a_quote_that_stays_open_takes_in_no_lines(tmp_path: Path, kind: str) -> None:
    (tmp_path / "sets.csv").write_text(OPEN[kind])
    with pytest.raises(UnreadableFileError, match=r"of sets\.csv opens a quote"):
        read_rows(tmp_path / "sets.csv", "")
    (tmp_path / "sets.csv").write_text('set,gene\n"A, or B","G ""1"""\n')
    assert read_rows(tmp_path / "sets.csv", "") == [["set", "gene"], ["A, or B", 'G "1"']]


DIGITS = "9" * 100_000


def test_a_number_without_end_is_a_sentence_for_people(tmp_path: Path) -> None:
    """Python's own words are advice on a setting of the interpreter."""
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "model.json").write_text(f'{{"format": {DIGITS}}}')
    header = f'{{"a": {{"data_offsets": [0, {DIGITS}]}}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "rules.toml").write_text(f"a = {DIGITS}")
    (tmp_path / "cells.csv").write_text(f"perturbation,num_cells\nA,{DIGITS}\n")

    def through_a_door() -> None:
        with door("list.txt"):
            int(DIGITS)

    readers: tuple[Callable[[], object], ...] = (
        lambda: read_card(tmp_path / "card"), lambda: check_safetensors(tmp_path / "a.safetensors"),
        lambda: load_rules(tmp_path / "rules.toml"), lambda: read_cell_counts(tmp_path / "cells.csv"), through_a_door,
    )  # fmt: skip
    for read in readers:
        with pytest.raises(StateError, match=r"thousands of digits|The number of cells of A is '9+'") as told:
            read()
        assert "sys." not in str(told.value) and len(str(told.value)) < 500
