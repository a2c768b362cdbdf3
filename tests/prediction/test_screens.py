"""Effects of simulated screens, transferred to perturbations that a model does not know: which effect, which genes, and the marks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine import keys
from state_engine.checkpoints.store import set_calibration
from state_engine.data.dataset import Choices, open_dataset
from state_engine.effects.apply import within_total
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import Likeness, shrink
from state_engine.errors import ConfigError, GeneError, UnknownLabelError
from state_engine.options import command
from state_engine.prediction.predict import predict
from state_engine.prediction.request import MeasuredScreen, PredictionRequest
from state_engine.prediction.screens import measured_in, transfer_effects
from tests.prediction.test_calibrated import of
from tests.prediction.test_possible_cells import NEW, effects_of, save_effects
from tests.small import GENES, write_cells, write_model

CELLS = 60
# label -> factor of each gene's rate; GENE0 goes down, GENE1 up
FACTORS = {"NEW": {"GENE0": 0.2, "GENE1": 4.0}, "OTHER": {"GENE5": 3.0}}


def write_screen(
    path: Path, genes: tuple[str, ...] = GENES, contexts: tuple[str, ...] = ("K562", "HepG2", "B"), labels: tuple[str, ...] = ("NEW", "OTHER"),
    seed: int = 1,
) -> Path:  # fmt: skip
    """Counts of control cells ('NT') and perturbed cells of each context, whose genes have other rates in each context."""
    rng = np.random.default_rng(seed)
    blocks, rows = [], []
    for context in contexts:
        base = dict(zip(GENES, rng.gamma(3, 4, len(GENES)), strict=True))
        for label in ("NT", *labels):
            rate = np.array([base[g] * FACTORS.get(label, {}).get(g, 1.0) for g in GENES])
            blocks.append(rng.poisson(rate, (CELLS, len(GENES))))
            rows += [(label, context)] * CELLS
    obs = pd.DataFrame(rows, columns=["gene", "cell_line"], index=[f"s{i}" for i in range(len(rows))]).astype("category")
    cells = anndata.AnnData(
        sp.csr_matrix(np.concatenate(blocks).astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(GENES))
    )
    cells[:, list(genes)].copy().write_h5ad(path)
    return path


def a_screen(path: Path, **changes: object) -> MeasuredScreen:
    return MeasuredScreen(str(write_screen(path, **changes)), "gene", "cell_line", "NT")  # type: ignore[arg-type]


def ask(tmp_path: Path, *screens: MeasuredScreen, labels: tuple[str, ...] = ("IFNB1", "NEW")) -> PredictionRequest:
    if not (tmp_path / "model").exists():
        write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad")
    return PredictionRequest(
        str(data), str(tmp_path / "model"), labels, cells=20, observed=16, device="cpu", allow_unknown=True, unknown_effect="transfer",
        measured=screens,
    )  # fmt: skip


def log1p_means(screen: MeasuredScreen) -> pd.DataFrame:
    """Mean log1p cells of depth 10,000 by (label, context), and their squared standard errors, by plain pandas."""
    cells = anndata.read_h5ad(screen.data)
    x = cells.X.toarray().astype(float)
    values = pd.DataFrame(np.log1p(x / x.sum(1, keepdims=True) * 1e4), columns=cells.var_names)
    groups = values.groupby([cells.obs["gene"].astype(str).to_numpy(), cells.obs["cell_line"].astype(str).to_numpy()])
    return groups.mean(), groups.var(ddof=1) / CELLS  # type: ignore[return-value]


def written_out(screen: MeasuredScreen, controls: dict[str, np.ndarray], label: str, context: str) -> np.ndarray:
    """The effect by the formula: weights exp(h x likeness), the mean, and the shrinkage."""
    mean, error = log1p_means(screen)
    contexts = sorted({c for _, c in mean.index})
    pairs = [(p, c) for p in ("NEW", "OTHER") for c in contexts]
    effects = [(mean.loc[p, c] - mean.loc["NT", c]).to_numpy() for p, c in pairs]
    own = {c: mean.loc["NT", c].to_numpy() for c in contexts}
    table = EffectTable.of_pairs(pairs, [CELLS] * len(pairs), effects, own, GENES, len(GENES))
    middle = np.mean(list(own.values()), axis=0)
    r = [np.corrcoef(own[c] - middle, controls[context] - middle)[0, 1] for c in contexts]
    weights = np.exp(Likeness(table).h * np.array(r))
    weights /= weights.sum()
    effect = weights @ np.array([effects[pairs.index((label, c))] for c in contexts])
    noise = np.square(weights) @ np.array([(error.loc[label, c] + error.loc["NT", c]).to_numpy() for c in contexts])
    return shrink(effect, noise)


def test_the_effect_is_the_measured_ones_transfer(tmp_path: Path) -> None:
    screen = a_screen(tmp_path / "screen.h5ad")
    controls = {"mine": np.random.default_rng(0).gamma(3, 1, len(GENES))}
    found = transfer_effects((screen,), ("NEW", "OTHER", "NOWHERE"), controls, GENES, 1e4, tmp_path / "cells.h5ad")
    assert set(found.effects) == {("NEW", "mine"), ("OTHER", "mine")} and found.lacking == ("NOWHERE",)
    for label in ("NEW", "OTHER"):
        np.testing.assert_allclose(
            found.effects[label, "mine"], written_out(screen, controls, label, "mine"), rtol=1e-4, atol=1e-5
        )
    new = found.effects["NEW", "mine"]
    assert new[0] < -1 and new[1] > 0.8 and np.abs(new[2:]).max() < 0.3  # what was simulated: log(0.2), log(4), and nothing
    assert found.behind == {"NEW": 3, "OTHER": 3} and found.genes == found.of == len(GENES)


def test_genes_that_a_screen_lacks_do_not_change_the_others(tmp_path: Path) -> None:
    controls = {"mine": np.random.default_rng(0).gamma(3, 1, len(GENES))}
    whole, part = (
        a_screen(tmp_path / "whole.h5ad", contexts=("K562",)),
        a_screen(tmp_path / "part.h5ad", genes=GENES[:12], seed=2),
    )
    data = tmp_path / "cells.h5ad"
    both = transfer_effects((whole, part), ("NEW",), controls, GENES, None, data).effects["NEW", "mine"]
    alone = transfer_effects((whole,), ("NEW",), controls, GENES, None, data).effects["NEW", "mine"]
    lacking = transfer_effects((part,), ("NEW",), controls, GENES, None, data)
    assert not lacking.effects["NEW", "mine"][12:].any() and lacking.genes == 12
    # genes that only one screen has: its effect there, not half of it; the shrinkage of all genes is another
    np.testing.assert_allclose(both[12:] / alone[12:], (both[12:] / alone[12:]).mean(), rtol=1e-4)
    assert 0.8 < (both[12:] / alone[12:]).mean() < 1.3
    with pytest.raises(GeneError, match=r"part\.h5ad has no expression of the predicted genes"):
        transfer_effects((part,), ("NEW",), {"mine": np.ones(2)}, ("FAM1", "FAM2"), None, data)


def test_the_predicted_cells_move_by_it_and_are_marked(tmp_path: Path) -> None:
    screen = a_screen(tmp_path / "screen.h5ad", genes=GENES[:12])
    request = ask(tmp_path, screen, labels=("IFNB1", "NEW", "NOWHERE"))
    made = predict(request, tmp_path / "result.h5ad")
    result = anndata.read_h5ad(tmp_path / "result.h5ad")
    plain = replace(request, unknown_effect="control", measured=())
    predict(plain, tmp_path / "control.h5ad")
    same = (result.obs[keys.PERTURBATION] != "NEW").to_numpy()
    other = anndata.read_h5ad(tmp_path / "control.h5ad")
    assert np.array_equal(result.X[same], other.X[same])  # labels that it knows, and one that nobody measured
    for context in ("B", "NK"):
        new, control = of(result, keys.PREDICTED, "NEW", context), of(result, keys.PREDICTED_CONTROL, "control", context)
        dataset = open_dataset(Path(request.data))
        values = anndata.read_h5ad(request.data)[dataset.control_rows(context)].X.toarray().astype(float)
        mean = np.log1p(values / values.sum(1, keepdims=True) * 1e4).mean(0)
        found = transfer_effects((screen,), ("NEW",), {context: mean}, GENES, 1e4, dataset.path).effects["NEW", context]
        start = result.X[control].mean(0)
        np.testing.assert_allclose(result.X[new].mean(0), np.maximum(start + found, 0), atol=1e-4)
        assert np.array_equal(result.X[new][:, 12:], result.X[control][:, 12:])  # genes that are not shared
        assert result.obs[keys.FALLBACK][new].all() and result.obs[keys.CONFIDENCE][new].isna().all()
    manifest = json.loads(result.uns[keys.MANIFEST])
    assert manifest[keys.UNKNOWN] == {
        "labels": ["NEW", "NOWHERE"], "instead": "transfer", "screens": ["screen.h5ad"], "lacking": ["NOWHERE"], "behind": {"NEW": 3},
        "genes": 12, "of": 24, "sharpness": manifest[keys.UNKNOWN]["sharpness"],
    }  # fmt: skip
    # the screen measured NEW in B itself: agreement there is no test
    assert {tuple(e[:2]): e[2] for e in manifest["exposure"]}["NEW", "B"] == "in training"
    assert {tuple(e[:2]): e[2] for e in manifest["exposure"]}["NEW", "NK"] != "in training"
    assert any("transfer of their effects measured in screen.h5ad" in words for words in made.remarks)
    assert "--unknown-effect transfer" in command(request) and "screen.h5ad gene cell_line NT" in command(request)


def test_what_the_data_set_itself_measured_of_a_condition_is_not_in_its_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Likeness, "h", 2.0)  # which all contexts choose together
    data = write_screen(tmp_path / "cells.h5ad")
    screen = MeasuredScreen(str(data), "gene", "cell_line", "NT")
    controls = {c: np.ones(len(GENES)) for c in ("K562", "B")}
    before = transfer_effects((screen,), ("NEW",), controls, GENES, 1e4, data)
    assert not before.same
    cells = anndata.read_h5ad(data)
    own = ((cells.obs["gene"] == "NEW") & (cells.obs["cell_line"] == "B")).to_numpy()
    x = cells.X.toarray()
    x[own] = x[own][:, ::-1]
    cells.X = sp.csr_matrix(x)
    cells.write_h5ad(data)
    after = transfer_effects((screen,), ("NEW",), controls, GENES, 1e4, data)
    np.testing.assert_array_equal(after.effects["NEW", "B"], before.effects["NEW", "B"])
    assert np.abs(after.effects["NEW", "K562"] - before.effects["NEW", "K562"]).max() > 0.1


def test_a_recommended_mixture_leaves_what_was_written_instead(tmp_path: Path) -> None:
    """Its common part belongs to labels that the model knows: "no change" is no change, a transfer is the transfer."""
    request = ask(tmp_path, a_screen(tmp_path / "screen.h5ad"))
    set_calibration(tmp_path / "model", replace(NEW, paired=0.2, common=0.9))
    rows = tuple((p, c) for p in ("IFNB1", "TNF", "JUN,FOS", "more") for c in ("B", "NK"))
    save_effects(tmp_path / "model", effects_of(rows=rows))
    predict(request, tmp_path / "a.h5ad")
    predict(replace(request, unknown_effect="control", measured=()), tmp_path / "b.h5ad")
    a, b = anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_h5ad(tmp_path / "b.h5ad")
    new, control = of(a, keys.PREDICTED, "NEW", "NK"), of(a, keys.PREDICTED_CONTROL, "control", "NK")
    np.testing.assert_allclose(b.X[new], b.X[control], atol=1e-6)
    np.testing.assert_allclose(a.X[new], within_total(a.layers["corrected"][new], 1e4), rtol=1e-5)
    assert (a.X[new] - a.X[control]).mean(0)[0] < -0.5


def test_what_cannot_be_transferred_is_refused(tmp_path: Path) -> None:
    screen = a_screen(tmp_path / "screen.h5ad", labels=("OTHER",))
    with pytest.raises(UnknownLabelError, match="No measured screen has any of the perturbations: NEW"):
        predict(ask(tmp_path, screen), tmp_path / "result.h5ad")
    assert not (tmp_path / "result.h5ad").exists()
    with pytest.raises(ConfigError, match="Effects are transferred from measured screens"):
        ask(tmp_path)
    with pytest.raises(ConfigError, match="Measured screens are named, but not used"):
        replace(ask(tmp_path, screen), unknown_effect="mean")
    with pytest.raises(ConfigError, match="scale of a measured screen"):
        MeasuredScreen("x", scale="logs")


def test_a_screen_of_the_library_is_opened_with_its_users_choices(tmp_path: Path) -> None:
    choices = Choices("gene", ("NT", "a,b"), "cell_line", scale="counts", depth=5e3)
    screen = MeasuredScreen.of("x.h5ad", choices, "Mine")
    assert screen.choices() == choices and screen.title == "Mine"
    path = write_screen(tmp_path / "screen.h5ad")
    dataset = open_dataset(path, Choices("gene", "NT", "cell_line"))
    assert measured_in([dataset], ("NEW", "NT", "NOWHERE")) == ("NEW",)
