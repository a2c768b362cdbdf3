"""The command `download`: the list, the licence, a model that is converted and says where it comes from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.library.published import PUBLISHED
from tests.library.fake_hub import COMMIT, FakeHub, serving

RUN = Path(__file__).resolve().parents[1] / "parity" / "fixtures" / "state_sm"


def test_the_list_names_commits_licences_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--list"]) == 0
    said = capsys.readouterr().out
    for model in PUBLISHED:
        assert f"{model.repo}: " in said and model.revision in said
    assert "zeroshot/*: left out of training: <line> as a whole" in said and "commit that of the first download" in said


def test_a_model_is_downloaded_and_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"zeroshot/k562/{path.relative_to(RUN)}": path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with serving(FakeHub(files)) as hub:
        for name, value in (("STATE_EXPLORER_HOME", str(tmp_path / "home")), ("HF_ENDPOINT", hub.endpoint), ("HF_TOKEN", "")):
            monkeypatch.setenv(name, value)
        words = ["download", "owner/model", "--output", str(tmp_path / "model")]
        assert main(words) == 1
        assert "only after you accept" in capsys.readouterr().err and not (tmp_path / "home" / "downloads").exists()
        assert main([*words, "--accept-licence", "--folder", "zeroshot/none"]) == 1
        assert "zeroshot/k562" in capsys.readouterr().err
        assert main([*words, "--accept-licence", "--folder", "zeroshot/k562"]) == 0
    said = capsys.readouterr().out
    card = read_card(tmp_path / "model")
    assert card.source == f"hub owner/model@{COMMIT} zeroshot/k562" and card.source in said and "Licence: mit" in said
    assert card.perturbations == ("non-targeting", "GENE0", "GENE1", "GENE2")
    shutil.rmtree(tmp_path / "home")


def test_what_is_missing_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "owner/model"]) == 1
    assert "See download --list" in capsys.readouterr().err
