"""A screen of a tiny model: its numbers are those of Predict, it goes on where it was stopped, and each goal ranks it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis.effects import effect_sizes
from state_engine.checkpoints.card import ModelCard
from state_engine.effects.exposure import TrainedOn
from state_engine.errors import GeneError, JobCancelled, RequestError, StateError, UnknownLabelError
from state_engine.files import read_json, sha256_of, write_json
from state_engine.heads.finetune import finetune
from state_engine.heads.request import FinetuneRequest
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.result import open_result
from state_engine.progress import Progress
from state_engine.screening import cost, predict_blocks, run
from state_engine.screening.report import COLUMNS, load_similarity, read_changes, read_condition, read_ranking, read_screen
from state_engine.screening.request import GeneChange, ScreenRequest
from state_engine.screening.run import screen
from state_engine.screening.shards import CONTROL, key_in, number_of
from tests.shards.test_shards import done
from tests.small import CONTEXTS, GENES, PERTURBATIONS, write_cells, write_model

UP = GENES[:6]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells.h5ad, a model, and a screen of all its perturbations."""
    folder = tmp_path_factory.mktemp("screen")
    write_cells(folder / "cells.h5ad", 400)
    write_model(folder / "model")
    screen(asked(folder), folder / "screen")
    return folder


def asked(folder: Path, **changes: object) -> ScreenRequest:
    fields: dict = {"up_genes": UP, "cells": 24, "sample": 12, "splits": 300, "seed": 3, "device": "cpu"}
    return ScreenRequest(str(folder / "cells.h5ad"), str(folder / "model"), **(fields | changes))


def test_the_numbers_are_those_of_predict(made: Path, tmp_path: Path) -> None:
    request = asked(made).prediction(PERTURBATIONS[1:], "NK", 24)
    predict(request, tmp_path / "p.h5ad")
    result = open_result(tmp_path / "p.h5ad")
    sizes = effect_sizes(result).set_index("perturbation")
    ranking = read_ranking(made / "screen" / "ranking.csv")
    here = ranking[ranking["context"] == "NK"].set_index("perturbation")
    for name in PERTURBATIONS[1:]:
        assert here.loc[name, "effect_size"] == pytest.approx(sizes.loc[name, "effect_size"], rel=1e-6)
        assert (here.loc[name, "genes_up"], here.loc[name, "genes_down"]) == tuple(sizes.loc[name, ["n_up", "n_down"]])
        rows = result.rows(keys.PREDICTED, "NK", name)
        effect = result.mean(rows) - result.mean(result.paired_controls(rows))
        genes = read_condition(made / "screen" / "effects.h5ad", name, "NK").set_index("gene")["effect"]
        np.testing.assert_allclose(genes[list(result.genes)], effect, rtol=1e-5, atol=1e-7)
        # the score is the correlation of the effect with the signature
        weights = np.isin(result.genes, UP).astype(float)
        assert here.loc[name, "score"] == pytest.approx(np.corrcoef(effect, weights)[0, 1], abs=1e-6)


def test_changes_of_the_genes_of_a_goal_come_in_the_order_asked_for(made: Path) -> None:
    path = made / "screen" / "effects.h5ad"
    pairs = [(PERTURBATIONS[2], "NK"), (PERTURBATIONS[1], "B"), ("none", "NK")]
    found = read_changes(path, pairs, [GENES[3], GENES[0].lower(), "NOT THERE"])
    assert list(found.columns) == ["perturbation", "context", GENES[3], GENES[0].lower()] and len(found) == 2
    for place, pair in enumerate(pairs[:2]):
        whole = read_condition(path, *pair).set_index("gene")["log2_fold_change"]
        assert tuple(found.iloc[place, :2]) == pair
        np.testing.assert_array_equal(found.iloc[place, 2:].to_numpy(np.float32), whole[[GENES[3], GENES[0]]].to_numpy())


def test_the_folder_of_a_screen(made: Path) -> None:
    report, ranking = read_screen(made / "screen"), read_ranking(made / "screen" / "ranking.csv")
    assert report is not None and report.goal == "signature" and (report.matched, report.missing) == (6, ())
    assert tuple(ranking.columns) == COLUMNS and len(ranking) == 6 and ranking["score"].is_monotonic_decreasing
    assert ranking["p"].between(0, 1).all() and (ranking["q"] >= ranking["p"]).all()
    assert set(ranking["seen"]) == {"not known"}
    effects = ad.read_h5ad(made / "screen" / "effects.h5ad")
    assert effects.shape == (6, len(GENES)) and effects.X.dtype == np.float32
    similarity = load_similarity(made / "screen" / "similarity.npz")
    assert set(similarity.perturbations) == set(PERTURBATIONS[1:])
    mean = {p: effects.X[(effects.obs["perturbation"] == p).to_numpy()].mean(0) for p in similarity.perturbations}
    np.testing.assert_allclose(similarity.r, np.corrcoef([mean[p] for p in similarity.perturbations]), atol=1e-5)
    assert not list((made / "screen" / "shards").glob(".part-*"))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.shard"))}


def test_a_screen_that_was_stopped_goes_on_and_ends_bit_for_bit_the_same(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "MOST_BLOCK", 1)
    request, predicted = asked(made), list[str]()
    screen(request, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.stage == predict_blocks.STAGE and progress.done == 4:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        screen(request, tmp_path / "two", stop)
    first = files(tmp_path / "two" / "shards")
    assert read_screen(tmp_path / "two") is None and len(first) == 4 + 2
    next((tmp_path / "two" / "shards").glob("00004-*.shard")).write_bytes(b"cut off")
    (tmp_path / "two" / "shards" / ".part-of-a-killed-process").touch()

    def counted(request: object, *arguments: object, **more: object) -> object:
        predicted.extend(request.perturbations)  # type: ignore[attr-defined]
        return predict(request, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(predict_blocks, "predict", counted)
    report = screen(request, tmp_path / "two")
    assert report.done_before == 3 and len(predicted) == 3, "three were done, one is damaged, two are missing; controls are kept"
    assert files(tmp_path / "two" / "shards") == files(tmp_path / "whole" / "shards")
    assert (tmp_path / "two" / "ranking.csv").read_bytes() == (tmp_path / "whole" / "ranking.csv").read_bytes()
    assert done(tmp_path / "two" / "shards") == Counter([*range(8), 4]), "no shard twice but the damaged one"
    # the same again predicts nothing
    predicted.clear()
    assert screen(request, tmp_path / "two").done_before == 6 and not predicted


def written_before(screened: Path, output: Path, sample: bool = True) -> None:
    """Write a screen as versions before the common ledger did: files and a note for each shard."""
    key = key_in(screened)
    assert key is not None
    folder = output / "shards"
    folder.mkdir(parents=True)
    write_json(folder / "screen.json", to_plain(replace(key, format=1, sample=key.sample if sample else 0)))
    for at, context in enumerate(key.contexts):
        for block in (CONTROL, *range(len(key.labels))):
            path = next((screened / "shards").glob(f"{number_of(key, context, block):05d}-*.shard"))
            cells, stem = ad.read_h5ad(path), f"{at}-{'control' if block == CONTROL else f'{block:04d}'}"
            found, _ = cells.uns.pop("block", None), cells.uns.pop("remarks", None)
            if sample or found is None:
                cells.write_h5ad(folder / f"{stem}.h5ad")
            if found is not None:
                np.savez(folder / f"{stem}.npz", **(found | {"perturbations": np.array(found["perturbations"], str)}))
            made = [folder / f"{stem}{end}" for end in (".npz", ".h5ad") if (folder / f"{stem}{end}").exists()]
            write_json(folder / f"{stem}.json", {"files": {p.suffix: [p.stat().st_size, sha256_of(p)] for p in made}})


@pytest.mark.parametrize("sample", [True, False], ids=["with cells", "means alone"])
def test_a_screen_of_an_earlier_version_is_taken_over(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: bool
) -> None:
    written_before(made / "screen", tmp_path / "old", sample)
    shutil.copytree(tmp_path / "old", tmp_path / "again")
    monkeypatch.setattr(predict_blocks, "predict", None)
    request = asked(made, **({} if sample else {"sample": 0}))
    for output, asked_here in (("new", replace(request, earlier=str(tmp_path / "old"))), ("again", request)):
        assert screen(asked_here, tmp_path / output).done_before == 2
        assert (tmp_path / output / "ranking.csv").read_bytes() == (made / "screen" / "ranking.csv").read_bytes()
        assert {p.suffix for p in (tmp_path / output / "shards").iterdir()} == {".shard", ".json"}
    assert (tmp_path / "old" / "shards" / "screen.json").exists() and not (tmp_path / "again" / "shards" / "screen.json").exists()
    with pytest.raises(RequestError, match="differs by seed"):
        screen(replace(request, earlier=str(tmp_path / "old"), seed=4), tmp_path / "third")
    damaged = next((tmp_path / "old" / "shards").glob("1-0000.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(TypeError):  # that block is predicted, by what stands in for the verb here
        screen(replace(request, earlier=str(tmp_path / "old")), tmp_path / "fourth")


def test_predictions_of_the_same_weights_by_other_names_are_not_taken_over(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    card = read_json(tmp_path / "model" / "model.json")
    card["perturbations"][1:3] = card["perturbations"][2:0:-1]
    write_json(tmp_path / "model" / "model.json", card)
    request = asked(made, earlier=str(made / "screen"))
    with pytest.raises(RequestError, match=r"differs by .*names"):
        screen(replace(request, model=str(tmp_path / "model"), perturbations=PERTURBATIONS[1:]), tmp_path / "renamed")
    shutil.copytree(made / "screen", tmp_path / "old")  # a screen of before such names were noted
    plan = read_json(tmp_path / "old" / "shards" / "plan.json")
    assert plan["plan"]["facts"].pop("names")
    write_json(tmp_path / "old" / "shards" / "plan.json", plan)
    again = screen(replace(request, earlier=str(tmp_path / "old")), tmp_path / "again")
    assert again.done_before == again.blocks


def test_another_goal_ranks_the_same_predictions(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = asked(made, up_genes=(), changes=tuple(GeneChange(g, float(i) - 3) for i, g in enumerate(GENES[4:12])))
    whole = screen(other, tmp_path / "whole")
    monkeypatch.setattr(predict_blocks, "predict", None)
    again = screen(replace(other, earlier=str(made / "screen")), tmp_path / "again")
    assert again.goal == "explanation" and again.done_before == again.blocks and again.matched == whole.matched == 8
    assert (tmp_path / "again" / "ranking.csv").read_bytes() == (tmp_path / "whole" / "ranking.csv").read_bytes()
    opposite = screen(replace(other, earlier=str(made / "screen"), opposite=True), tmp_path / "opposite")
    first, last = (read_ranking(tmp_path / name / "ranking.csv") for name in ("again", "opposite"))
    assert opposite.goal_words.startswith("the opposite of") and last["score"].tolist() == (-first["score"]).tolist()[::-1]
    with pytest.raises(RequestError, match="differs by seed"):
        screen(replace(other, earlier=str(made / "screen"), seed=4), tmp_path / "third")
    with pytest.raises(RequestError, match="holds another screen"):
        screen(replace(other, seed=4), tmp_path / "whole")
    with pytest.raises(RequestError, match="holds no screen"):
        screen(replace(other, earlier=str(tmp_path)), tmp_path / "fourth")


def test_target_cells_and_combinations(made: Path, tmp_path: Path) -> None:
    request = asked(made, up_genes=(), target_cells="perturbation=IFNB1", earlier=str(made / "screen"), combinations=2)
    report = screen(request, tmp_path / "out")
    ranking = read_ranking(tmp_path / "out" / "ranking.csv")
    added = ranking[ranking["made"] == "additive assumption"]
    assert (
        len(added) == 2 and added["perturbation"].str.contains("+", regex=False).all() and set(added["context"]) == set(CONTEXTS)
    )
    assert added["q"].isna().all() and ranking.loc[ranking["made"] == "predicted", "q"].notna().all()
    assert ((ranking["before"] > ranking["after"]) == (ranking["score"] > 0)).all()
    assert any("additive assumption" in remark for remark in report.remarks)


def test_a_head(made: Path, tmp_path: Path) -> None:
    labels = FinetuneRequest(
        str(made / "cells.h5ad"),
        ("cell_type",),
        features="expression",
        variable_genes=len(GENES),
        max_epochs=3,
        seed=0,
        device="cpu",
    )
    finetune(labels, tmp_path / "head")
    request = asked(made, up_genes=(), head=str(tmp_path / "head"), label="NK", earlier=str(made / "screen"), combinations=2)
    screen(request, tmp_path / "out")
    ranking = read_ranking(tmp_path / "out" / "ranking.csv")
    np.testing.assert_allclose(ranking["score"], ranking["after"] - ranking["before"], atol=1e-12)
    assert ranking["after"].between(0, 1).all() and (ranking["made"] == "additive assumption").sum() == 2
    with pytest.raises(RequestError, match="no label 'T cell'"):
        screen(replace(request, label="T cell"), tmp_path / "other")


def test_bad_input_is_a_sentence_before_any_prediction(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_blocks, "predict", None)
    near = asked(made, up_genes=("GENE1x", "GENE2x", "NOPE", "GENE3"))
    with pytest.raises(GeneError, match=r"1 of the 4 genes") as told:
        screen(near, tmp_path / "out")
    assert "GENE1" in told.value.fix and "NOPE" in told.value.why
    for changes, error, words in (
        ({"contexts": ("T",)}, UnknownLabelError, "no context T"),
        ({"perturbations": ("TFN",)}, UnknownLabelError, "1 of 1"),
        ({"up_genes": (), "target_cells": "perturbation=IFNB"}, RequestError, "0 cells with perturbation = IFNB"),
        ({"up_genes": (), "target_cells": "donor=1"}, RequestError, "no column 'donor'"),
        ({"up_genes": GENES}, GeneError, "same weight"),
        ({"up_genes": GENES[:1]}, GeneError, r"At least 3 are needed\. It predicts"),
    ):
        with pytest.raises(error, match=words):
            screen(asked(made, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(cost, "free_bytes", lambda folder: 1000)
    with pytest.raises(RequestError, match="disk is too small") as told:
        screen(asked(made), tmp_path / "out")
    assert "--sample" in told.value.fix


def test_a_head_of_other_vectors_is_refused_before_the_work(made: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4)).astype(np.float32)
    cells.write_h5ad(tmp_path / "pca.h5ad")
    finetune(FinetuneRequest(str(tmp_path / "pca.h5ad"), ("cell_type",), "X_pca", max_epochs=1, device="cpu"), tmp_path / "head")
    seen = list[str]()
    with pytest.raises(StateError, match="X_pca"):
        screen(
            asked(made, up_genes=(), head=str(tmp_path / "head")), tmp_path / "out", lambda progress: seen.append(progress.stage)
        )
    assert predict_blocks.STAGE not in seen


def test_what_does_not_belong_together() -> None:
    for changes, words in (
        ({"up_genes": ("A",), "target_cells": "a=b"}, "Several goals"),
        ({"up_genes": ("A",), "down_genes": ("A",)}, "up and down: A"),
        ({"target_cells": "a"}, "names no target"),
        ({"opposite": True}, "opposite is of genes"),
        ({"label": "x"}, "no head"),
        ({"target_cells": "a=b", "sample": 0}, "scored on cells"),
        ({"sample": 64, "cells": 32}, "64 cells of each condition"),
    ):
        with pytest.raises(RequestError, match=words):
            ScreenRequest("d", "m", **changes)  # type: ignore[arg-type]


def test_without_a_goal_effects_are_ranked_by_size(made: Path, tmp_path: Path) -> None:
    report = screen(asked(made, up_genes=(), earlier=str(made / "screen")), tmp_path / "out")
    ranking = read_ranking(tmp_path / "out" / "ranking.csv")
    pd.testing.assert_series_equal(ranking["score"], ranking["effect_size"], check_names=False)
    assert report.goal == "effect size" and report.best == (ranking["perturbation"][0], ranking["context"][0])


def test_added_effects_are_known_as_far_as_the_less_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = {("a", "B"): TrainedOn(True, True, True), ("b", "B"): TrainedOn(True, False, False), ("c", "B"): None}
    monkeypatch.setattr(run, "trained_parts", lambda *rest: trained)
    monkeypatch.setattr(run, "exposures", lambda card, model, pairs: dict.fromkeys(pairs, "not known"))
    names = ["a", "b", "c", "a+b", "b+c", "a+a"]
    table = pd.DataFrame({"perturbation": names, "context": "B", "made": ["predicted"] * 3 + ["additive assumption"] * 3})
    found = run._with_training(table, cast(ModelCard, None), Path())
    assert found["seen"].tolist() == ["both", "context only", "not known", "context only", "not known", "both"]
    assert found["in_training"].tolist() == [""] * 6
