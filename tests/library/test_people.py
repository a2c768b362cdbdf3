"""Who an owner is, who was here, and what each may use."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.errors import ConfigError, DataError, QuotaError, UnsafeFileError
from state_engine.library.allowed import is_readable
from state_engine.library.datasets import register_file, register_made, server_files
from state_engine.library.people import check_disk, check_quota, greet, homes, is_admin, owner_of, people, used_bytes


def test_a_verified_address_names_an_owner_and_any_other_does_not() -> None:
    claims = {"iss": "https://id.example", "sub": "42", "email": "Anna@Lab.example"}
    assert owner_of(claims | {"email_verified": True}) == "anna@lab.example"
    assert owner_of(claims) == owner_of(claims | {"email_verified": False}) == "42@https://id.example"
    assert owner_of(claims, trust_email=True) == "anna@lab.example"
    assert owner_of({"sub": "42", "iss": "a"}) != owner_of({"sub": "42", "iss": "b"})
    with pytest.raises(ConfigError):
        owner_of({"email": "anna@lab.example"})


def test_a_subject_without_an_issuer_cannot_be_an_address() -> None:
    assert owner_of({"sub": "42"}) == "42"
    with pytest.raises(ConfigError, match="does not say who you are"):
        owner_of({"sub": "anna@lab.example"})


def test_a_data_folder_that_holds_the_installation_opens_nobodys_home(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home", data_folders=(tmp_path, tmp_path / "home" / "data"))
    anna, bert = settings.of("anna"), settings.of("bert")
    place = register(anna, tmp_path)
    others = [tmp_path / "lab.h5ad", settings.home / "data" / "more.h5ad"]
    for path in (*others, settings.home / "uploads" / "local.h5ad"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for one in (bert, settings, anna):
        assert set(server_files(one)) == set(others)
    assert is_readable(place, anna) and not is_readable(place, bert) and not is_readable(place, settings)
    assert not is_readable(settings.home / "uploads" / "local.h5ad", bert)
    with pytest.raises(UnsafeFileError, match="outside the data folders"):
        register_file(bert, place)


def register(settings: Settings, scratch: Path) -> Path:
    """Give an owner a file; return its place."""
    (scratch / "new").write_bytes(b"x")
    return Path(register_made(settings, "cells", scratch / "new", Choices()).path)


def test_who_was_here_is_known(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    greet(settings)  # the local owner is nobody who logs in
    for day, owner in ((1, "bert"), (2, "anna"), (3, "bert")):
        greet(settings.of(owner), datetime(2026, 11, day, tzinfo=UTC))
    assert [(p.owner, p.first[:10], p.last[:10]) for p in people(settings)] == [
        ("anna", "2026-11-02", "2026-11-02"), ("bert", "2026-11-01", "2026-11-03"),
    ]  # fmt: skip
    assert [one.owner for one in homes(settings)] == ["", "anna", "bert"]


def test_each_pays_for_what_is_theirs(tmp_path: Path) -> None:
    settings = replace(Settings(tmp_path), quota_bytes=1000)
    for owner, size in (("anna", 900), ("", 100)):
        place = settings.of(owner).home / "uploads"
        place.mkdir(parents=True)
        (place / "cells.h5ad").write_bytes(bytes(size))
    (settings.home / "trash").mkdir()
    (settings.home / "trash" / "old").write_bytes(bytes(5000))
    assert (used_bytes(settings), used_bytes(settings.of("anna")), used_bytes(settings.of("bert"))) == (100, 900, 0)
    check_quota(settings.of("anna"), 100)
    with pytest.raises(QuotaError):
        check_quota(settings.of("anna"), 101)
    check_quota(replace(settings, quota_bytes=None).of("anna"), 10**18)
    with pytest.raises(DataError, match="of disk are free"):
        check_disk(tmp_path, 10**18, "cells.h5ad")


def test_admins_are_named_where_people_log_in(tmp_path: Path) -> None:
    settings = replace(Settings(tmp_path), admins=("anna",))
    assert is_admin(settings.of("anna"), login=True) and not is_admin(settings.of("bert"), login=True)
    assert not is_admin(settings, login=True) and is_admin(settings, login=False)
