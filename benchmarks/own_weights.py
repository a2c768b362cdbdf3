"""Weights of a context's own (`train.own_weights`) against common ones, on screens with known truth; no network, seconds.

    python -m benchmarks.own_weights [--seeds 4] [--perturbations 12] [--contexts 5] [--worth 0.5]

alike        a perturbation does the same in all contexts
turning      its effect changes with the place of the context, as its control cells do
apart        the last context has effects of its own
alone        the last context has effects of its own, in the others nothing happens
response     the last context has effects of its own, each of the others one response to every perturbation
noise        no perturbation does anything

Three tenths of each context's perturbations are tested, three tenths of the rest weighed. `blind`: the network knows nothing; `half`: half of what it
says is right. Printed: how much smaller the mean MAE of tested conditions is than that of the best part alone (the best on average, known
afterwards), in per cent, with common weights and with the contexts' own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Final

import numpy as np

from state_engine.checkpoints.card import Calibration
from state_engine.effects.apply import applied_mean
from state_engine.effects.mixture import Condition, Mixture, mixed_effect
from state_engine.effects.scores import scores
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import Likeness, shared_effects
from state_engine.train import own_weights
from state_engine.train.calibration import fit_calibration

SCREENS: Final = ("alike", "turning", "apart", "alone", "response", "noise")
CELLS, GENES, DEPTH, SHARE = 80, 400, 2000, 0.3
ALONE: Final = {"none": Mixture(0, 0), "paired": Mixture(1, 0), "transfer": Mixture(0, 1), "common": Mixture(0, 0, 1)}
Places = list[tuple[int, int]]


def main() -> None:
    options = _options()
    own_weights.WORTH = options.worth  # type: ignore[misc]
    print("| screen | network | contexts | common weights | own weights |\n|---|---|---|--:|--:|")
    for kind in SCREENS:
        for network in ("blind", "half"):
            found = [errors for seed in range(options.seeds) for errors in _screen(kind, network, seed, options)]
            for words, last in (("the last", True), ("the others", False)):
                rows = np.array([e for is_last, e in found if is_last == last])
                common, own, *alone = rows.mean(axis=0)
                gains = [f"{100 * (1 - value / min(alone)):.1f}" for value in (common, own)]
                print(f"| {kind} | {network} | {words} | {' | '.join(gains)} |", flush=True)


def _screen(kind: str, network: str, seed: int, options: argparse.Namespace) -> list[tuple[bool, list[float]]]:
    """Return for each tested condition whether it is of the last context, and errors: common weights, own ones, each part alone."""
    c, p = options.contexts, options.perturbations
    rng = np.random.default_rng([seed, SCREENS.index(kind)])
    means = _means(_effects(kind, rng, c, p), rng)
    tested, weighed = Places(), Places()
    for context in range(c):
        order = (1 + rng.permutation(p)).tolist()
        n = int(SHARE * p)
        tested += [(context, i) for i in order[:n]]
        weighed += [(context, i) for i in order[n : n + int(SHARE * (p - n))]]
    fitted = fit_calibration(_conditions(means, weighed, {*tested, *weighed}, network), expression=True)
    assert fitted is not None
    found = []
    for condition in _conditions(means, tested, set(tested), network):
        of_context = fitted.of_context(condition.context)
        errors = [_error(condition, _used(condition, calibration)) for calibration in (fitted, of_context)]
        errors += [_error(condition, mixed_effect(condition, mixture)) for mixture in ALONE.values()]
        found.append((condition.context == f"c{c - 1}", errors))
    return found


def _used(condition: Condition, fitted: Calibration) -> np.ndarray:
    way = {"mean of other contexts": "mean", "likeness-weighted mean": "likeness"}.get(fitted.transfer, "")
    condition = replace(condition, mean=condition.baselines.get(way, condition.mean))
    return mixed_effect(condition, Mixture(fitted.paired, fitted.mean, fitted.common, fitted.features, fitted.correction))


def _error(condition: Condition, effect: np.ndarray) -> float:
    mean = applied_mean(condition.control, effect, nonnegative=True)
    return scores(mean, condition.control + condition.observed, condition.control).mae


def _effects(kind: str, rng: np.random.Generator, c: int, p: int) -> np.ndarray:
    """Effects on log rates, (contexts, perturbations + 1, genes); row 0 is the control."""
    angles = np.linspace(0, 2 * np.pi, c, endpoint=False)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    touched = rng.random((p + 1, GENES)) < 0.15
    touched[0] = False
    alike = np.repeat((touched * rng.normal(0, 0.8, (p + 1, GENES)))[None], c, axis=0)
    turning = np.einsum("cd,dpg->cpg", places, touched * rng.normal(0, 0.8, (2, p + 1, GENES)))
    own = touched * rng.normal(0, 0.8, (p + 1, GENES))
    response = np.repeat(rng.normal(0, 0.3, (c, 1, GENES)), p + 1, axis=1)
    response[:, 0] = 0
    nothing = np.zeros_like(alike)
    effects = {
        "alike": alike,
        "turning": alike + turning,
        "apart": alike,
        "alone": nothing,
        "response": response,
        "noise": nothing,
    }[kind]
    if kind in ("apart", "alone", "response"):
        effects = np.concatenate([effects[:-1], own[None]])
    base = rng.normal(-1, 1.2, GENES) + places @ rng.normal(0, 0.6, (2, GENES))
    return np.asarray(base[:, None] + effects)


def _means(rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of log1p cells and their squared standard errors, (2, contexts, perturbations + 1, genes)."""
    means = np.zeros((2, *rates.shape))
    for place in np.ndindex(rates.shape[:2]):
        share = np.exp(rates[place])
        counts = rng.poisson(rng.lognormal(np.log(DEPTH), 0.3, CELLS)[:, None] * share / share.sum())
        cells = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
        means[0][place], means[1][place] = cells.mean(axis=0), cells.var(axis=0, ddof=1) / CELLS
    return means


def _conditions(means: np.ndarray, wanted: Places, left: set[tuple[int, int]], network: str) -> list[Condition]:
    """Return conditions beside what a table says that lacks the left ones."""
    (mean, noise), (c, p) = means, means.shape[1:3]
    there = [(context, i) for context in range(c) for i in range(1, p) if (context, i) not in left]
    controls = [{f"c{context}": values[context, 0] for context in range(c)} for values in means]
    table = EffectTable.of_pairs(
        [(f"p{i}", f"c{context}") for context, i in there], [CELLS] * len(there), [mean[at] - mean[at[0], 0] for at in there],
        controls[0], (), GENES, [noise[at] + noise[at[0], 0] for at in there], controls[1],
    )  # fmt: skip
    likeness, found = Likeness(table), []
    for context, i in wanted:
        shared = shared_effects(likeness, f"p{i}", f"c{context}")
        if shared.transfer is None or shared.common is None or shared.plain is None or shared.likeness is None:
            continue
        observed = mean[context, i] - mean[context, 0]
        paired = np.zeros(GENES) if network == "blind" else 0.5 * shared.transfer + 0.3 * shared.common + 0.2 * observed
        baselines = {"mean": shared.plain, "likeness": shared.likeness}
        found.append(
            Condition(
                f"c{context}", f"p{i}", paired, shared.transfer, observed, mean[context, 0], CELLS, shared.common, baselines, shared.correction
            )
        )  # fmt: skip
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--perturbations", type=int, default=12)
    parser.add_argument("--contexts", type=int, default=5)
    parser.add_argument("--worth", type=float, default=own_weights.WORTH, help="conditions that the common weights count as")
    return parser.parse_args()


if __name__ == "__main__":
    main()
