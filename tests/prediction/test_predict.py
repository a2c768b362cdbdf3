"""A prediction: paired, complete, the same twice, and refused with reasons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from state_engine import keys
from state_engine.analysis.projection import basal_rows
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import save_model
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.embedding_record import EMBEDDINGS
from state_engine.errors import (
    ConfigError,
    DeviceError,
    IncompatibleError,
    JobCancelled,
    LabelError,
    ModelError,
    UnknownLabelError,
)
from state_engine.models.transition import TransitionModel
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.compatibility import check_compatibility
from state_engine.prediction.forward import SetRunner, SetTask
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest, contexts_of, estimate, parameters
from state_engine.prediction.result import open_result
from state_engine.progress import Progress
from tests.small import GENES, card_of, config, embedding_changes, write_cells, write_model


@pytest.fixture
def request_(tmp_path: Path) -> PredictionRequest:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad")
    return PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=20, observed=16, device="cpu")


def run(request: PredictionRequest, name: str = "result.h5ad") -> anndata.AnnData:
    output = Path(request.data).with_name(name)
    predict(request, output)
    return anndata.read_h5ad(output)


def of(result: anndata.AnnData, kind: str, perturbation: str | None = None, context: str | None = None) -> anndata.AnnData:
    chosen = result.obs[keys.KIND] == kind
    for column, label in ((keys.PERTURBATION, perturbation), (keys.CONTEXT, context)):
        chosen &= (result.obs[column] == label) if label else True
    return result[chosen.to_numpy()]


def test_rows_are_what_was_asked(request_: PredictionRequest) -> None:
    result = run(request_)
    counts = result.obs.groupby([keys.KIND, keys.PERTURBATION, keys.CONTEXT], observed=True).size()
    for perturbation in ("IFNB1", "TNF"):
        for context in ("B", "NK"):
            assert counts[keys.PREDICTED, perturbation, context] == 20
    assert counts[keys.PREDICTED_CONTROL, "control", "B"] == 20
    assert (keys.OBSERVED, "TNF", "NK") not in counts.index  # was not measured
    assert counts[keys.OBSERVED, "TNF", "B"] <= 16
    assert list(result.var_names) == list(GENES)


def test_corrected_is_basal_plus_own_effect_clipped(request_: PredictionRequest) -> None:
    result = run(request_)
    cells = anndata.read_h5ad(request_.data)
    counts = cells.X.toarray()
    log1p = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    predicted, control = of(result, keys.PREDICTED, "IFNB1", "B"), of(result, keys.PREDICTED_CONTROL, context="B")
    basal = log1p[cells.obs_names.get_indexer(predicted.obs[keys.BASAL_CELL])]
    assert list(predicted.obs[keys.BASAL_CELL]) == list(control.obs[keys.BASAL_CELL])
    effect = predicted.layers["raw"] - control.layers["raw"]
    np.testing.assert_allclose(predicted.X, np.maximum(basal + effect, 0), atol=1e-5)
    np.testing.assert_allclose(control.X, basal, atol=1e-5)
    assert np.abs(effect).max() > 1e-3


def test_raw_equals_the_model_called_by_hand(request_: PredictionRequest) -> None:
    result = run(request_)
    predicted = of(result, keys.PREDICTED, "TNF", "B")[:8]  # the first set
    loaded = load_model(Path(request_.model))
    basal = of(result, keys.PREDICTED_CONTROL, context="B").X[:8]
    row = loaded.card.perturbations.index("TNF")
    with torch.inference_mode():
        expected = loaded.module(torch.tensor(basal)[None], loaded.perturbation_features[row][None], attention="full").predicted[
            0
        ]
    np.testing.assert_allclose(predicted.layers["raw"], expected.numpy(), atol=1e-5)


def test_the_same_request_gives_the_same_numbers_and_another_seed_other_cells(request_: PredictionRequest) -> None:
    one, two = run(request_, "one.h5ad"), run(request_, "two.h5ad")
    assert np.array_equal(one.X, two.X) and one.obs.equals(two.obs)
    other = run(replace(request_, seed=7), "other.h5ad")
    assert list(other.obs[keys.BASAL_CELL]) != list(one.obs[keys.BASAL_CELL])


def test_what_else_is_asked_does_not_change_a_condition(request_: PredictionRequest) -> None:
    together = of(run(request_), keys.PREDICTED, "TNF", "NK")
    alone = of(run(replace(request_, perturbations=("TNF",), contexts=("NK",)), "alone.h5ad"), keys.PREDICTED, "TNF", "NK")
    np.testing.assert_allclose(alone.X, together.X, atol=1e-5)


def test_a_last_set_is_as_large_as_the_others(request_: PredictionRequest) -> None:
    """20 cells in sets of 8: the cells of a longer prediction begin with those of a shorter one, numbers included."""
    short, long = run(request_), run(replace(request_, cells=24), "long.h5ad")
    a, b = of(short, keys.PREDICTED, "IFNB1", "B"), of(long, keys.PREDICTED, "IFNB1", "B")
    np.testing.assert_allclose(a.X, b.X[:20], atol=1e-5)
    assert a.obs[keys.CELL_SET].tolist() == [0] * 8 + [1] * 8 + [2] * 4


def test_more_cells_than_controls_are_drawn_again(request_: PredictionRequest) -> None:
    result = run(replace(request_, cells=200))
    barcodes = of(result, keys.PREDICTED, "TNF", "B").obs[keys.BASAL_CELL]
    assert len(barcodes) == 200 and barcodes.nunique() < 200


def test_manifest_says_how(request_: PredictionRequest) -> None:
    manifest = json.loads(run(request_).uns[keys.MANIFEST])
    assert from_plain(PredictionRequest, manifest["request"]) == request_
    assert manifest["attention"] == "full" and manifest["device"].startswith("CPU")
    assert len(manifest["data_hash"]) == 64 and manifest["versions"]["torch"]


def test_several_control_guides_are_one_control_and_recorded(request_: PredictionRequest) -> None:
    alone = run(request_)
    cells = anndata.read_h5ad(request_.data)
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    guides = np.char.add("NT", (np.arange(len(labels)) % 3).astype(str))
    cells.obs["perturbation"] = np.where(labels == "control", guides, labels)
    cells.write_h5ad(request_.data)
    together = run(replace(request_, choices=replace(request_.choices, control=("NT1", "NT*"))), "together.h5ad")
    assert np.array_equal(together.X, alone.X)
    manifest = json.loads(together.uns[keys.MANIFEST])
    assert manifest["control"]["labels"] == ["NT1", "NT0", "NT2"] and manifest["control"]["data"] == "NT1"
    assert manifest["request"]["choices"]["control"] == ["NT1", "NT*"] and manifest["renamed"] == {}
    assert from_plain(PredictionRequest, manifest["request"]).choices.control == ("NT1", "NT*")


def test_confidence_is_kept_where_the_model_has_it(request_: PredictionRequest, tmp_path: Path) -> None:
    assert run(request_).obs[keys.CONFIDENCE].isna().all()
    write_model(tmp_path / "sure", confidence_token=True)
    result = run(replace(request_, model=str(tmp_path / "sure")), "sure.h5ad")
    assert of(result, keys.PREDICTED).obs[keys.CONFIDENCE].notna().all()
    assert of(result, keys.OBSERVED).obs[keys.CONFIDENCE].isna().all()


def test_an_embedding_is_predicted_and_decoded(request_: PredictionRequest, tmp_path: Path) -> None:
    write_model(tmp_path / "embedding", **embedding_changes())
    data = write_cells(tmp_path / "embedded.h5ad", embedding=6)
    result = run(replace(request_, data=str(data), model=str(tmp_path / "embedding")))
    cells = anndata.read_h5ad(data)
    predicted, control = of(result, keys.PREDICTED, "TNF", "B"), of(result, keys.PREDICTED_CONTROL, context="B")
    basal = cells.obsm["X_state"][cells.obs_names.get_indexer(predicted.obs[keys.BASAL_CELL])]
    effect = predicted.obsm["X_state_raw"] - control.obsm["X_state_raw"]
    np.testing.assert_allclose(predicted.obsm["X_state"], basal + effect, atol=1e-5)
    counts = cells[predicted.obs[keys.BASAL_CELL]].X.toarray()
    measured = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    decoded = predicted.layers["raw"] - control.layers["raw"]
    np.testing.assert_allclose(predicted.X, np.maximum(measured + decoded, 0), atol=1e-4)


def test_an_embedding_of_another_model_is_refused_or_recorded(request_: PredictionRequest, tmp_path: Path) -> None:
    write_model(tmp_path / "embedding", **embedding_changes())
    card = tmp_path / "embedding" / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"embedding_model": "a" * 64}))
    data = write_cells(tmp_path / "embedded.h5ad", embedding=6)
    cells = anndata.read_h5ad(data)
    cells.uns[EMBEDDINGS] = json.dumps({"X_state": {"model": "b" * 64}})
    cells.write_h5ad(data)
    asked = replace(request_, data=str(data), model=str(tmp_path / "embedding"))
    with pytest.raises(IncompatibleError, match="Another embedding model"):
        run(asked)
    asked = replace(asked, allow_other_embedding=True)
    recorded = json.loads(run(asked).uns[keys.MANIFEST])
    assert recorded["embedding_models"] == {"made": "b" * 64, "trained_on": "a" * 64, "other_allowed": True}
    assert recorded["request"]["allow_other_embedding"] and "--allow-other-embedding" in command(asked)


def test_unknown_perturbations_are_refused_and_named(request_: PredictionRequest) -> None:
    with pytest.raises(UnknownLabelError, match="MYC"):
        run(replace(request_, perturbations=("TNF", "MYC")))
    result = run(replace(request_, perturbations=("TNF", "MYC"), allow_unknown=True))
    assert of(result, keys.PREDICTED, "MYC").obs[keys.FALLBACK].all()
    assert not of(result, keys.PREDICTED, "TNF").obs[keys.FALLBACK].any()


def test_unknown_batches_are_refused_unless_allowed(request_: PredictionRequest, tmp_path: Path) -> None:
    write_model(tmp_path / "batched", batch_encoder=True, batch_dim=2)
    batched = replace(request_, model=str(tmp_path / "batched"))
    assert not run(batched).obs[keys.FALLBACK].any()
    elsewhere = replace(batched, choices=Choices(batch_key="cell_type"))
    with pytest.raises((UnknownLabelError, IncompatibleError), match="NK"):
        run(elsewhere)
    result = run(replace(elsewhere, allow_unknown=True))
    assert of(result, keys.PREDICTED).obs[keys.FALLBACK].all()


def test_wrong_requests_say_what_is_wrong(request_: PredictionRequest) -> None:
    with pytest.raises(UnknownLabelError, match="Monocyte"):
        run(replace(request_, contexts=("Monocyte",)))
    with pytest.raises(ConfigError, match="at least 1"):
        replace(request_, cells=0)
    with pytest.raises(ConfigError, match="twice"):
        replace(request_, perturbations=("TNF", "TNF"))
    with pytest.raises(ConfigError, match="No perturbation"):
        run(replace(request_, perturbations=("control",)))
    with pytest.raises(LabelError):
        run(replace(request_, choices=Choices(control="nothing")))


def test_cancelled_leaves_nothing(request_: PredictionRequest, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "Predicting cells" and progress.done > 2:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        predict(request_, tmp_path / "never.h5ad", stop)
    assert not list(tmp_path.glob("*never*"))


def test_batching_sets_gives_the_numbers_of_one_by_one(request_: PredictionRequest) -> None:
    loaded = load_model(Path(request_.model))
    rng = np.random.default_rng(0)
    basal = rng.random((40, len(GENES)), dtype=np.float32)
    tasks = [SetTask(rng.integers(0, 40, size), i % 4, None, i) for i, size in enumerate((8, 8, 5, 8, 1, 8, 5))]
    found = []
    for cells_a_pass in (1, 16, 1000):
        runner = SetRunner(loaded.module, loaded.perturbation_features, "full", cells_a_pass)
        runner.load_cells([basal])
        found.append({r.tag: r.predicted for r in runner.run(tasks)})
    for tag, one in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(one, other[tag], atol=1e-5)


def test_out_of_memory_halves_the_pass_and_says_so(request_: PredictionRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(Path(request_.model))
    remarks: list[str] = []
    runner = SetRunner(loaded.module, loaded.perturbation_features, "full", 64, remarks.append)
    runner.load_cells([np.ones((8, len(GENES)), np.float32)])
    whole, most = runner._forward, 3

    def limited(batch: list[SetTask]) -> list:
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(batch)

    monkeypatch.setattr(runner, "_forward", limited)
    tasks = [SetTask(np.arange(8), 1, None, i) for i in range(10)]
    assert [r.tag for r in runner.run(tasks)] == list(range(10))
    assert remarks and "32 cells a pass, half" in remarks[0]
    most = 0
    with pytest.raises(DeviceError, match="does not fit"):
        list(runner.run(tasks[:1]))


def test_estimate_counts_and_grows(request_: PredictionRequest, tmp_path: Path) -> None:
    from state_engine.data.dataset import open_dataset

    dataset, card = open_dataset(request_.data), load_model(Path(request_.model)).card
    small = estimate(request_, dataset, card)
    large = estimate(replace(request_, cells=200), dataset, card)
    assert small.conditions == 4 and small.cells == 80
    assert large.seconds > small.seconds and large.disk_bytes > small.disk_bytes
    counted = sum(p.numel() for n, p in load_model(Path(request_.model)).module.named_parameters() if p.ndim == 2)
    feature_encoder = 4 * 8 + 3 * 8 * 8  # perturbations are encoded once, so they do not count
    assert parameters(card.config) == counted - feature_encoder
    assert contexts_of(request_, dataset) == ("B", "NK")


def test_command_repeats_the_request(request_: PredictionRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from state_engine.cli.main import main

    asked = replace(request_, choices=Choices(control="control"), set_size=4)
    words = shlex.split(command(asked, output=str(tmp_path / "again.h5ad")))
    assert main(words[3:]) == 0
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    first = run(asked, "first.h5ad")
    assert np.array_equal(first.X, again.X)
    plain = to_plain(asked)
    assert json.loads(again.uns[keys.MANIFEST])["request"] | {"contexts": []} == plain | {"contexts": []}


def test_a_label_never_trained_is_predicted_from_its_vector(tmp_path: Path) -> None:
    made = config(perturbation_dim=5)
    labels = ("control", "IFNB1", "TNF", "NEW", "COPY")
    card = replace(card_of(made), perturbations=labels, perturbation_encoding="features", unseen=("NEW", "COPY"))
    torch.manual_seed(0)
    model = TransitionModel(made)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    vectors = 3 * torch.randn(5, 5)
    vectors[4] = vectors[1]
    save_model(tmp_path / "model", card, model.state_dict(), vectors)
    data = write_cells(tmp_path / "cells.h5ad")
    request = PredictionRequest(str(data), str(tmp_path / "model"), labels[1:], ("B",), cells=16, device="cpu")
    summary = predict(request, tmp_path / "result.h5ad")
    assert "NEW, COPY: never trained, predicted from feature vectors alone." in summary.remarks
    result = anndata.read_h5ad(tmp_path / "result.h5ad")
    ifnb, new, copy = (of(result, keys.PREDICTED, label).to_df().to_numpy() for label in ("IFNB1", "NEW", "COPY"))
    assert np.array_equal(ifnb, copy)  # it is its vector
    assert np.abs(ifnb - new).max() > 0.01
    assert not of(result, keys.PREDICTED, "NEW").obs[keys.FALLBACK].any()


def test_a_pass_that_is_filled_up_gives_the_same_numbers(request_: PredictionRequest) -> None:
    loaded = load_model(Path(request_.model))
    rng = np.random.default_rng(1)
    basal = rng.random((40, len(GENES)), dtype=np.float32)
    tasks = [SetTask(rng.integers(0, 40, 5 + i % 4), i % 4, None, i) for i in range(60)]
    found = []
    for cells_a_pass in (1, 300):  # one set per pass, which is never filled; passes of almost 300 cells, filled to 320
        runner = SetRunner(loaded.module, loaded.perturbation_features, "full", cells_a_pass)
        runner.load_cells([basal])
        found.append({r.tag: r.predicted for r in runner.run(tasks)})
    assert sorted(found[1]) == list(range(60))
    for tag, one in found[0].items():
        np.testing.assert_allclose(one, found[1][tag], atol=1e-5)


def test_warnings_of_the_report_belong_to_the_result(request_: PredictionRequest, tmp_path: Path) -> None:
    write_model(tmp_path / "wide", set_size=64)  # sets of more cells than a context has controls
    request = replace(request_, model=str(tmp_path / "wide"))
    dataset, card = open_dataset(request.data), load_model(tmp_path / "wide").card
    report = check_compatibility(dataset, card, request.perturbations, contexts_of(request, dataset))
    assert report.warnings
    done = predict(request, tmp_path / "p.h5ad")
    for finding in report.warnings:
        assert any(finding.title in remark for remark in done.remarks)
    assert list(done.remarks) == open_result(tmp_path / "p.h5ad").manifest["remarks"]


def test_cells_are_found_by_their_row_where_names_repeat(request_: PredictionRequest) -> None:
    cells = anndata.read_h5ad(request_.data)
    cells.obs_names = [f"AAAC{i // 8}-1" for i in range(cells.n_obs)]
    cells.write_h5ad(request_.data)
    output = Path(request_.data).with_name("result.h5ad")
    summary = predict(request_, output)
    assert any(r.startswith("Names of cells repeat") for r in summary.remarks)
    assert any(
        n == "Names of cells repeat: 160 cells have 20 names. Cells are found by their row."
        for n in open_dataset(Path(request_.data)).notes
    )
    result = open_result(output)
    predicted = result.rows(keys.PREDICTED)
    # in corrected expression the predicted control is the basal cell
    basal = basal_rows(result)[predicted]
    assert (basal >= 0).all()
    np.testing.assert_allclose(result.read(result.paired_controls(predicted)), result.read(basal), atol=1e-5)


def test_a_table_in_obsm_is_read_by_the_names_of_its_columns(request_: PredictionRequest, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(write_cells(tmp_path / "log.h5ad", counts=False))
    cells.write_h5ad(tmp_path / "log.h5ad")
    order = list(reversed(GENES))
    table = pd.DataFrame(cells[:, order].X.toarray(), index=cells.obs_names, columns=order)
    bare = anndata.AnnData(obs=cells.obs, obsm={"X_hvg": table}, var=pd.DataFrame(index=["none"]))
    bare.write_h5ad(tmp_path / "table.h5ad")
    a = run(replace(request_, data=str(tmp_path / "log.h5ad")), "a.h5ad")
    b = run(replace(request_, data=str(tmp_path / "table.h5ad")), "b.h5ad")
    np.testing.assert_array_equal(a.X, b.X)


def with_depth(folder: Path, depth: float | None) -> None:
    """Give a model's card a depth."""
    loaded = load_model(folder)
    save_model(folder, replace(loaded.card, depth=depth), loaded.module.state_dict(), replace=True)


@pytest.mark.parametrize("embedding", [False, True])
def test_values_of_another_depth_are_brought_to_the_models(request_: PredictionRequest, tmp_path: Path, embedding: bool) -> None:
    if embedding:
        write_model(tmp_path / "model2", **embedding_changes())
        request_ = replace(request_, model=str(tmp_path / "model2"))
    with_depth(Path(request_.model), 1e4)
    write_cells(tmp_path / "cells.h5ad", embedding=6)
    from_counts = run(request_)
    deep = anndata.read_h5ad(request_.data)
    counts = deep.X.toarray()
    for depth in (1e6, 1e4):
        deep.X = np.log1p(counts / counts.sum(1, keepdims=True) * depth).astype(np.float32)
        deep.write_h5ad(tmp_path / "deep.h5ad")
        got = run(replace(request_, data=str(tmp_path / "deep.h5ad")), "deep-result.h5ad")
        np.testing.assert_allclose(got.X, from_counts.X, atol=2e-5)
        np.testing.assert_allclose(got.layers["raw"], from_counts.layers["raw"], atol=2e-4)
        manifest = json.loads(got.uns[keys.MANIFEST])
        assert manifest["depth"] == pytest.approx(1e4) and manifest["depth_of_data"] == pytest.approx(depth, rel=1e-3)
        said = [r for r in manifest["remarks"] if "normalised to 1,000,000 per cell and are brought to 10,000" in r]
        assert len(said) == (depth == 1e6)
    # the result is known to be of that depth, whatever its cells sum to
    assert open_dataset(tmp_path / "deep-result.h5ad").scale.depth == pytest.approx(1e4)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), 3e38])
def test_a_model_whose_weights_are_no_numbers_predicts_nothing(request_: PredictionRequest, spoilt: float) -> None:
    loaded = load_model(Path(request_.model))
    weights = {name: tensor.clone() for name, tensor in loaded.module.state_dict().items()}
    last = next(name for name in reversed(weights) if name.endswith("weight") and weights[name].dim() == 2)
    weights[last][0] = spoilt
    save_model(Path(request_.model), loaded.card, weights, replace=True)
    output = Path(request_.data).with_name("result.h5ad")
    with pytest.raises(ModelError, match=r"predicts values that are not finite.*cells of a pass"):
        predict(request_, output)
    assert not output.exists()
