"""Effects of other contexts weighted by likeness, by hand; noise that is taken out; and h where likeness says something or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from state_engine.effects.baselines import likeness_weighted_mean, mean_of_other_contexts
from state_engine.effects.store import load_effects, save_effects
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import SHARPNESS, Likeness, shrink
from state_engine.errors import CheckpointError

G = 80


def screen(seed: int = 0, *, follows: bool, noise: float = 0.05) -> tuple[EffectTable, dict[str, np.ndarray]]:
    """Six contexts on a circle, whose effects follow their place on it, or do not; and the sixth's own effects."""
    rng = np.random.default_rng(seed)
    places = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    a, b, shared = rng.normal(size=(3, G))
    controls = {f"c{i}": 2 + a * np.cos(t) + b * np.sin(t) for i, t in enumerate(places)}
    x, y = rng.normal(size=(2, 4, G))
    pairs, effects = [], []
    for i, t in enumerate(places):
        for p in range(4):
            own = x[p] * np.cos(t) + y[p] * np.sin(t) if follows else shared
            pairs.append((f"p{p}", f"c{i}"))
            effects.append(own + noise * rng.normal(size=G))
    kept = [i for i, (_, c) in enumerate(pairs) if c != "c5"]
    table = EffectTable.of_pairs(
        [pairs[i] for i in kept], [50] * len(kept), [effects[i] for i in kept], controls, (), G,
        [np.full(G, noise**2)] * len(kept),
    )  # fmt: skip
    return table, {p: effects[i] for i, (p, c) in enumerate(pairs) if c == "c5"}


def test_weights_are_those_of_the_written_out_formula() -> None:
    table, _ = screen(follows=True)
    likeness = Likeness(table)
    others = [f"c{i}" for i in range(5)]
    profiles = np.array([table.controls[c] for c in others], dtype=float)
    middle = profiles.mean(axis=0)
    r = [np.corrcoef(p - middle, table.controls["c5"] - middle)[0, 1] for p in profiles]
    assert [likeness.between("c5")[c] for c in others] == pytest.approx(r)
    assert likeness.h in SHARPNESS and likeness.h > 0
    weights = np.exp(likeness.h * np.array(r))
    weights /= weights.sum()
    assert list(likeness.weights("p0", "c5").values()) == pytest.approx(weights.tolist())
    found = likeness.likeness_weighted("p0", "c5")
    assert found is not None and found.behind == 5
    np.testing.assert_allclose(found.effect, weights @ np.array([table.effect("p0", c) for c in others]), rtol=1e-9)
    np.testing.assert_allclose(found.errors, (weights**2).sum() * 0.05**2, rtol=1e-5)


def test_alike_contexts_tell_more_where_effects_follow_the_cells() -> None:
    table, truth = screen(follows=True)
    conditions = [(p, "c5") for p in truth]
    weighted = likeness_weighted_mean(Likeness(table), conditions)
    plain = mean_of_other_contexts(table, conditions)
    errors = [[np.abs(found[p, "c5"].effect - truth[p]).mean() for p in truth] for found in (weighted, plain)]
    assert np.mean(errors[0]) < 0.7 * np.mean(errors[1])


def test_where_likeness_says_nothing_each_context_counts_alike() -> None:
    chosen = [Likeness(screen(seed, follows=False, noise=1.0)[0]).h for seed in range(5)]
    assert max(chosen) <= 1 and 0 in chosen


def test_a_context_that_the_table_lacks_is_placed_by_the_control_cells_given() -> None:
    table, _ = screen(follows=True)
    lacking = EffectTable(
        table.perturbations, table.contexts, table.cells, table.effects, {c: v for c, v in table.controls.items() if c != "c5"}
    )
    assert set(Likeness(lacking).between("c5").values()) == {0.0}  # nothing is known of it
    given = Likeness(lacking, {"c5": table.controls["c5"]})
    assert given.weights("p1", "c5") == pytest.approx(Likeness(table).weights("p1", "c5"))


def test_the_asked_condition_itself_plays_no_part() -> None:
    table, _ = screen(follows=True)
    changed = table.effects.copy()
    rows = [i for i, c in enumerate(table.contexts) if c == "c0"]
    changed[rows] = 1e6
    other = EffectTable(table.perturbations, table.contexts, table.cells, changed, table.controls)
    for h in SHARPNESS:  # h itself is chosen on all contexts that teach
        one, two = Likeness(table), Likeness(other)
        one.__dict__["h"] = two.__dict__["h"] = h
        np.testing.assert_array_equal(one.likeness_weighted("p0", "c0").effect, two.likeness_weighted("p0", "c0").effect)


def test_noise_is_shrunk_and_what_is_far_above_it_stays() -> None:
    rng = np.random.default_rng(0)
    errors = np.full(500, 0.1**2)
    nothing = 0.1 * rng.normal(size=500)
    assert np.abs(shrink(nothing, errors)).mean() < 0.1 * np.abs(nothing).mean()
    seen = 2.0 + 0.1 * rng.normal(size=500)
    found = shrink(seen, errors)
    np.testing.assert_allclose(found, seen * (1 - 500 * 0.01 / (seen**2).sum()))
    assert (found > 0.99 * seen).all()
    # in the mean over many perturbations the shrunk effect is nearer to the truth
    truth = 0.1 * rng.normal(size=(200, 50))
    noisy = truth + 0.1 * rng.normal(size=truth.shape)
    shrunk = np.array([shrink(row, np.full(50, 0.01)) for row in noisy])
    assert np.square(shrunk - truth).mean() < 0.7 * np.square(noisy - truth).mean()
    assert shrink(seen, None) is seen and not shrink(np.zeros(3), np.ones(3)).any()


def test_errors_are_saved_with_the_table(tmp_path) -> None:
    table, _ = screen(follows=True)
    save_effects(tmp_path, table)
    found = load_effects(tmp_path)
    assert found is not None and found.errors is not None
    np.testing.assert_array_equal(found.errors, table.errors)
    np.testing.assert_array_equal(found.on([3, 1], ()).errors, table.errors[:, [3, 1]])
    with pytest.raises(CheckpointError, match="below 0"):
        EffectTable(table.perturbations, table.contexts, table.cells, table.effects, table.controls, (), -table.errors)


def test_control_noise_is_taken_out_by_the_written_out_formula() -> None:
    table, _ = screen(follows=False, noise=1.0)
    noise = {c: np.full(G, 0.3**2) for c in table.controls}
    likeness = Likeness(replace(table, control_errors=noise))
    likeness.__dict__["h"] = 0.0  # each context alike, so that the formula is short
    controls = {c: v.astype(float) for c, v in table.controls.items()}

    def difference(context: str) -> np.ndarray:
        return np.mean([v for c, v in controls.items() if c != context], axis=0) - controls[context]

    others = np.maximum(np.mean([difference(f"c{i}") ** 2 - 0.09 for i in range(1, 6)], axis=0), 0)
    own = np.maximum(difference("c0") ** 2 - 0.09, 0)
    spread = (5 * others + own) / 6
    found = likeness.correction("c0")
    assert found is not None
    np.testing.assert_allclose(found, np.clip(difference("c0") * 0.09 / (0.09 + spread), -0.3, 0.3), atol=1e-6)
    assert (np.abs(found) <= 0.3).all() and np.abs(found).max() > 0.1


def test_a_control_mean_without_its_noise_is_nearer_to_the_truth_and_true_differences_stay() -> None:
    rng = np.random.default_rng(0)
    truth = {f"c{i}": 2 + 0.05 * rng.normal(size=400) for i in range(6)}
    truth["c0"][:20] += 3.0  # what marks the context
    seen = {c: v + 0.3 * rng.normal(size=400) for c, v in truth.items()}
    pairs = [("p", f"c{i}") for i in range(1, 6)]
    noise = {c: np.full(400, 0.3**2) for c in seen}
    zeros = [np.zeros(400)] * 5
    table = EffectTable.of_pairs(pairs, [50] * 5, zeros, seen, (), 400, zeros, noise)
    moved = Likeness(table).correction("c0")
    assert moved is not None
    before, after = np.abs(seen["c0"] - truth["c0"]), np.abs(seen["c0"] + moved - truth["c0"])
    assert after[20:].mean() < 0.6 * before[20:].mean()
    assert np.abs(moved[:20]).max() <= 0.3 + 1e-6  # a tenth of the difference at most
    # a context that only the data set has is treated alike
    rest = EffectTable.of_pairs(pairs, [50] * 5, zeros, {c: v for c, v in seen.items() if c != "c0"}, (), 400, zeros,
                                {c: v for c, v in noise.items() if c != "c0"})  # fmt: skip
    likeness = Likeness(rest)
    assert likeness.correction("c0") is None
    likeness = Likeness(rest, {"c0": seen["c0"]}, {"c0": noise["c0"]})
    np.testing.assert_allclose(likeness.correction("c0"), moved, atol=0.05)
    # exact means are left as they are
    exact = Likeness(replace(table, control_errors={c: np.zeros(400) for c in seen})).correction("c0")
    assert exact is not None and not exact.any()


def test_errors_of_controls_are_saved_with_the_table(tmp_path) -> None:
    table, _ = screen(follows=True)
    noise = {c: np.full(G, 0.1 * i) for i, c in enumerate(table.controls)}
    full = replace(table, control_errors=noise)
    save_effects(tmp_path, full)
    found = load_effects(tmp_path)
    assert found is not None
    for context, values in noise.items():
        np.testing.assert_array_equal(found.control_errors[context], values.astype(np.float32))
        np.testing.assert_array_equal(found.on([2, 0], ()).control_errors[context], values[[2, 0]].astype(np.float32))
    save_effects(tmp_path, table)  # as tables of before were saved
    before = load_effects(tmp_path)
    assert before is not None and before.control_errors == {} and before.errors is not None
    with pytest.raises(CheckpointError, match="errors of controls"):
        replace(table, control_errors={"c0": -np.ones(G)})


def test_contexts_without_a_shared_gene_count_alike() -> None:
    nothing = np.zeros(0)
    table = EffectTable.of_pairs([("A", "x"), ("A", "y")], [5, 6], [nothing, nothing], {"x": nothing, "y": nothing}, (), 0)
    assert Likeness(table, {"z": nothing}).weights("A", "z") == {"x": 0.5, "y": 0.5}
