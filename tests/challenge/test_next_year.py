"""A challenge of a year that nobody has seen yet, from its TOML file alone: other labels, other metrics, weights, published anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from state_engine.challenge.score import score
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.scores import overall_words, read_scores
from state_engine.challenge.spec import known_challenges, load_challenge, load_rules
from state_engine.challenge.submit import ARCHIVE, SubmissionRequest, read_report, submit
from state_engine.challenge.template import TemplateRequest, plan_from_template
from state_engine.challenge.verify import verify
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import ChallengeError
from state_engine.evaluation.profiles import profiles
from tests.challenge.next_year import NEXT
from tests.evaluation.screens import CONTROL, GENES, PERTURBATIONS, log1p, screen, write
from tests.small import write_model

COLUMNS = Choices(perturbation_key="knockdown", control="ctrl", context_key="line")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that has the challenge: one TOML file, with the lists that it names beside it."""
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path))
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    folder = tmp_path / "challenges"
    folder.mkdir()
    (folder / "next.toml").write_text(NEXT)
    (folder / "genes.csv").write_text("".join(f"{line}\n" for line in ("symbol", *GENES)))
    (folder / "targets.csv").write_text("".join(f"{line}\n" for line in ("knockdown", *PERTURBATIONS)))
    return tmp_path


def cells(seed: int, share: float = 1.0) -> ad.AnnData:
    """Counts under the labels of that challenge."""
    made = screen(seed, share, contexts=("A", "B"))
    labels = made.obs["target_gene"].astype(str).replace(CONTROL, "ctrl")
    made.obs = pd.DataFrame({"knockdown": labels, "line": made.obs["context"].astype(str)}).astype("category")
    return made


def test_it_is_known_by_name_with_its_metrics(home: Path) -> None:
    assert known_challenges() == ("vcc2025", "vcc2026", "next")
    profile = load_rules("next").profile
    assert (profile.name, profile.title, profile.values) == ("next", "Challenge of the next year", "counts")
    assert [m.title for m in profile.metrics] == ["Recall", "Discrimination"] and profiles()["next"] == profile
    assert profile.overall([0.5, -3.0]) == pytest.approx(10 * (3 * 0.5 - 1) / 4)


def test_check_submit_verify_and_score(home: Path) -> None:
    request = SubmissionRequest("next", write(cells(2, 0.6), home / "p.h5ad"), write=True)
    report = submit(request, home / "job")
    assert report.ok and report.archive is not None and report.cells == {"A": 360, "B": 360}
    archive = home / "job" / ARCHIVE
    again = verify(archive, load_challenge("next"))
    assert again.ok and again.challenge == "next" and read_report(home / "job" / "verified.json") is not None
    scored = ScoreRequest(SubmissionRequest("next", str(archive)), write(cells(1), home / "t.h5ad"), COLUMNS)
    made = score(scored, home / "job")
    assert made == read_scores(home / "job" / "scores.json") and made.challenge == "next"
    assert "of the submission" in made.control_source and "mean response" in made.baseline
    for context in made.contexts:
        recall, pds = context.metrics
        assert recall.replicate is not None and recall.scaled == pytest.approx(
            (recall.value - recall.baseline) / (recall.replicate - recall.baseline)  # type: ignore[operator]
        )
        assert (pds.baseline, pds.replicate) == (0.5, 0.9) and pds.scaled == pytest.approx((pds.value - 0.5) / 0.4)  # type: ignore[operator]
        expected = 10 * (3 * max(-1, recall.scaled) + max(-1, pds.scaled)) / 4  # type: ignore[type-var]
        assert context.overall == pytest.approx(expected)
    assert "10: a replicate" in overall_words(made)


def test_the_problems_of_a_file_are_found(home: Path) -> None:
    spoilt = cells(2)
    keep = np.ones(spoilt.n_obs, bool)
    keep[np.flatnonzero((spoilt.obs["knockdown"] == "G3").to_numpy())[0]] = False
    keep &= (spoilt.obs["knockdown"] != "ctrl").to_numpy()
    report = submit(SubmissionRequest("next", write(spoilt[keep].copy(), home / "p.h5ad")), home / "job")
    assert report.codes("error") == {"control-missing", "cells-per-perturbation"}
    logs = submit(SubmissionRequest("next", write(log1p(cells(2)), home / "p.h5ad")), home / "job")
    assert "values-fractional" in logs.codes("error")


def test_its_template_says_what_to_predict(home: Path) -> None:
    card = replace(write_model(home / "model"), perturbations=("ctrl", *PERTURBATIONS), control="ctrl")
    data = write(cells(1), home / "d.h5ad")
    request = TemplateRequest("next", data, str(home / "model"), choices=COLUMNS)
    plan = plan_from_template(request, open_dataset(Path(data), COLUMNS), card, load_challenge("next"))
    assert set(plan.perturbations) == set(PERTURBATIONS) and plan.cells == 2 * 6 * 40
    assert plan.prediction is not None and plan.submission.challenge == "next" and plan.submission.counts is not None


def test_a_challenge_without_metrics_says_how_to_give_it_some(home: Path) -> None:
    bare = home / "bare.toml"
    bare.write_text(NEXT.split("[scoring]")[0].replace("next", "bare"))
    request = ScoreRequest(SubmissionRequest(str(bare), write(cells(2), home / "p.h5ad")), write(cells(1), home / "t.h5ad"))
    with pytest.raises(ChallengeError, match="scored_as"):
        score(request, home)
    bare.write_text('scored_as = "vcc2026"\n' + bare.read_text())
    assert load_rules(bare).profile == load_rules("vcc2026").profile
