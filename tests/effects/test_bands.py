"""Bands of doubt: simulated conditions in which the chance that a direction holds is known, what is stored, and what is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from state_engine.checkpoints.card import Bands
from state_engine.effects.bands import BANDS, NOT_CALIBRATED, SENTENCES, band_of_condition, bands_of, fit_bands, words
from state_engine.effects.mixture import Condition
from state_engine.plain import from_plain, to_plain
from state_engine.train.calibration import fit_calibration


def simulated(seed: int, conditions: int, genes: int = 4000, noise: float = 0.1) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Effects of which few are large, predicted with noise, and measured with noise of their own."""
    rng = np.random.default_rng(seed)
    predicted, measured = [], []
    for _ in range(conditions):
        truth = rng.laplace(0, 0.1, genes)
        predicted.append(truth + rng.normal(0, noise, genes))
        measured.append(truth + rng.normal(0, noise, genes))
    return predicted, measured


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_band_holds_in_conditions_to_come(seed: int) -> None:
    bands = fit_bands(*simulated(seed, 6), origin="left-out conditions")
    assert bands is not None and bands.conditions == 6 and bands.genes == 4000
    predicted, measured = simulated(seed + 100, 20)
    shares = {}
    for name in BANDS:
        holds = [np.sign(d) == np.sign(o) for d, o in zip(predicted, measured, strict=True)]
        here = [bands_of(d, bands) == name for d in predicted]
        shares[name] = float(np.mean(np.concatenate([h[b] for h, b in zip(holds, here, strict=True)])))
    assert shares["very likely"] >= 0.9 and shares["very likely"] > shares["likely"] > shares["uncertain"] > shares["by chance"]
    assert 0.73 <= shares["likely"] <= 0.93 and 0.58 <= shares["uncertain"] <= 0.78
    assert [shares[name] for name in BANDS] == pytest.approx(bands.shares, abs=0.05)


def test_a_prediction_that_says_nothing_has_no_certain_gene() -> None:
    rng = np.random.default_rng(0)
    effects = [rng.normal(size=3000) for _ in range(8)]
    bands = fit_bands(effects[:4], effects[4:])
    assert bands is not None and bands.edges == (None, None, None) and bands.shares[0] is None and bands.lowest is None
    assert set(bands_of(effects[0], bands)) == {"by chance"} and band_of_condition(effects[0], bands)[0] == "by chance"
    assert "no predicted effect is large enough" in words(bands)
    assert fit_bands([np.zeros(10)], [np.ones(10)]) is None


def test_a_condition_is_judged_by_its_largest_effects() -> None:
    bands = Bands((0.5, 0.2, 0.1), (0.95, 0.8, 0.65, 0.5), 0.92, 5, 100, "left-out conditions")
    effect = np.zeros(100)
    effect[:40] = 1.0
    band, share = band_of_condition(effect, bands, top=50)
    assert band == "likely" and share == pytest.approx((40 * 0.95 + 10 * 0.5) / 50)
    assert bands_of(np.array([-0.6, 0.3, 0.15, 0.0]), bands).tolist() == list(BANDS)
    assert words(bands).startswith(
        "Calibrated on 5 left-out conditions: 95% of 'very likely' genes"
    ) and "92% where fewest did" in words(bands)


def test_without_left_out_conditions_nothing_is_claimed() -> None:
    assert set(bands_of(np.ones(3), None)) == {NOT_CALIBRATED} and band_of_condition(np.ones(3), None) == (NOT_CALIBRATED, None)
    assert words(None).startswith("Not calibrated") and set(SENTENCES) == {*BANDS, NOT_CALIBRATED}


def test_bands_are_kept_as_they_are() -> None:
    bands = fit_bands(*simulated(0, 4, 500))
    assert from_plain(Bands, json.loads(json.dumps(to_plain(bands)))) == bands


def test_a_calibration_has_the_bands_of_what_it_left_out() -> None:
    predicted, measured = simulated(3, 5, 600)
    conditions = [
        Condition(f"context {i}", "p", paired=d, mean=d * 0.8, observed=o, control=np.full(600, 2.0), cells=50)
        for i, (d, o) in enumerate(zip(predicted, measured, strict=True))
    ]
    fitted = fit_calibration(conditions, expression=True, origin="left-out contexts")
    assert fitted is not None and fitted.bands is not None
    assert (fitted.bands.conditions, fitted.bands.genes, fitted.bands.origin) == (5, 600, "conditions of left-out contexts")
    assert fitted.bands.shares[0] is None or fitted.bands.shares[0] >= 0.9
    assert fit_calibration(conditions[:1], expression=True).bands is None  # nothing was left out of that fit
    assert fit_calibration(conditions, expression=False).bands is None  # an embedding has no genes
