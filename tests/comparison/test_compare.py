"""Two sides beside each other: every number against written-out numpy, every kind of file, and how conditions are matched."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zstandard
from scipy.stats import false_discovery_control, mannwhitneyu

from state_engine import keys
from state_engine.cli.main import main
from state_engine.comparison.compare import _exposure, compare, fisher_interval
from state_engine.comparison.report import Comparison, pairs_table, read_comparison, read_map, read_pair
from state_engine.comparison.request import ComparedSide, CompareRequest
from state_engine.comparison.selection import selection_table
from state_engine.data.dataset import Choices
from state_engine.errors import GeneError, RequestError
from state_engine.metrics.population import Cloud, Components, energy_distance, energy_draws
from state_engine.metrics.rank_tests import FLOOR, PSEUDOCOUNT
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result
from tests.small import write_cells, write_model

COLUMNS = Choices(perturbation_key="target_gene", control="non-targeting", context_key="context")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two results that are two seeds of one prediction, and cells of another program that differ from them."""
    folder = tmp_path_factory.mktemp("sides")
    found = {name: str(make_result(folder / f"{name}.h5ad", seed=seed)) for name, seed in (("one", 0), ("two", 1))}
    cells = anndata.read_h5ad(found["two"])
    measured = cells[cells.obs["kind"].isin([keys.OBSERVED, keys.OBSERVED_CONTROL])].copy()
    obs = pd.DataFrame({"target_gene": measured.obs["perturbation"].astype(str), "context": measured.obs["context"].astype(str)})
    obs["target_gene"] = obs["target_gene"].replace("control", "non-targeting")
    other = anndata.AnnData(np.asarray(measured.X), obs=obs.set_index(measured.obs_names), var=measured.var[[]])
    other.write_h5ad(folder / "foreign.h5ad")
    return {**found, "foreign": str(folder / "foreign.h5ad")}


def side(*paths: str, **more: object) -> ComparedSide:
    return ComparedSide(tuple(paths), **more)  # type: ignore[arg-type]


def ran(folder: Path, first: ComparedSide, second: ComparedSide, **more: object) -> Comparison:
    return compare(CompareRequest(first, second, **{"map": False, "draws": 50, "top": 5, **more}), folder)  # type: ignore[arg-type]


def groups(path: str, kind: str, p: str, c: str) -> np.ndarray:
    result = open_result(Path(path))
    return result.read(result.rows(kind, c, p)).astype(np.float64)


def called(own: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which genes are called, and their log2 fold changes."""
    x, y = (np.where(values < FLOOR, 0, values) for values in (own, control))
    p = np.array([mannwhitneyu(x[:, i], y[:, i]).pvalue if np.ptp(np.r_[x[:, i], y[:, i]]) else 1.0 for i in range(x.shape[1])])
    fold = np.log2((np.expm1(own).mean(0) + PSEUDOCOUNT) / (np.expm1(control).mean(0) + PSEUDOCOUNT))
    return false_discovery_control(p) < 0.05, fold


def test_prediction_and_measurement_of_one_run(files: dict[str, str], tmp_path: Path) -> None:
    found = ran(tmp_path, side(files["one"]), side(files["one"], cells="observed"))
    assert [p.first for p in found.pairs] == [p.second for p in found.pairs] and len(found.pairs) == 4
    assert found.interval == "cells" and found.first.kind == "predicted" and found.second.kind == "measured"
    for place, pair in enumerate(found.pairs):
        p, c = pair.first
        own, control = groups(files["one"], keys.PREDICTED, p, c), groups(files["one"], keys.PREDICTED_CONTROL, "control", c)
        real, base = groups(files["one"], keys.OBSERVED, p, c), groups(files["one"], keys.OBSERVED_CONTROL, "control", c)
        a, b = own.mean(0) - control.mean(0), real.mean(0) - base.mean(0)
        stored = read_pair(tmp_path / "effects.npz", place)
        np.testing.assert_allclose([stored.first, stored.second], [a, b], atol=1e-5)
        r = np.corrcoef(a, b)[0, 1]
        assert pair.pearson.value == pytest.approx(r, abs=1e-5) and pair.slope == pytest.approx(a @ b / (a @ a), abs=1e-5)
        tops = [set(np.argsort(-np.abs(e), kind="stable")[:5].tolist()) for e in (a, b)]
        assert pair.overlap == len(tops[0] & tops[1]) / 5
        assert pair.pearson.low is not None and pair.pearson.high is not None and pair.pearson.low < r < pair.pearson.high
        assert (pair.n_first, pair.n_second, pair.exposure) == (30, 30, "not known")


def test_energy_distance_and_genes_called(files: dict[str, str], tmp_path: Path) -> None:
    (pair,) = ran(
        tmp_path, side(files["one"], perturbation="drugA", context="B"), side(files["two"], perturbation="drugB", context="B")
    ).pairs
    assert pair.first == ("drugA", "B") and pair.second == ("drugB", "B") and pair.name == "drugA and drugB in B"
    x, y = groups(files["one"], keys.PREDICTED, "drugA", "B"), groups(files["two"], keys.PREDICTED, "drugB", "B")
    bases = [groups(files[name], keys.PREDICTED_CONTROL, "control", "B") for name in ("one", "two")]

    # as many components as genes: distances are those of the genes themselves
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        gaps = [np.linalg.norm(s[:, None] - t[None], axis=2) for s, t in ((a, b), (a, a), (b, b))]
        n, m = len(a), len(b)
        return float(2 * gaps[0].mean() - gaps[1].sum() / (n * (n - 1)) - gaps[2].sum() / (m * (m - 1)))

    assert pair.energy.value == pytest.approx(distance(x, y), rel=1e-3)
    assert pair.energy_control == pytest.approx(distance(*bases), rel=1e-3)
    (one, fold_one), (two, fold_two) = called(x, bases[0]), called(y, bases[1])
    assert (pair.called_first, pair.called_second) == (one.sum(), two.sum()) and two.sum() >= 2
    leading = [
        set(np.flatnonzero(c)[np.argsort(-np.abs(f[c]), kind="stable")[: two.sum()]].tolist())
        for c, f in ((one, fold_one), (two, fold_two))
    ]
    assert pair.de_overlap == pytest.approx(len(leading[0] & leading[1]) / two.sum())
    assert pair.same_direction == pytest.approx((np.sign(fold_one[two]) == np.sign(fold_two[two])).mean())


def test_bootstrap_of_cells_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 3)), rng.normal(0.5, 1, (15, 3))
    clouds = [Cloud(x, float(np.linalg.norm(x[:, None] - x[None], axis=2).sum() / (len(x) * (len(x) - 1)))) for x in (a, b)]
    found = energy_draws(clouds[0], clouds[1], 3, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    counts = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=3) for x in (a, b)]
    for draw in range(3):
        rows = [np.repeat(np.arange(len(n[draw])), n[draw]) for n in counts]
        i, j = rows
        within = []
        for x, r in ((a, i), (b, j)):
            different = r[:, None] != r[None]
            within.append(np.linalg.norm(x[r][:, None] - x[r][None], axis=2)[different].mean())
        across = np.linalg.norm(a[i][:, None] - b[j][None], axis=2).mean()
        assert found[draw] == pytest.approx(2 * across - sum(within))
    many = energy_draws(clouds[0], clouds[1], 400, np.random.default_rng(1))
    assert abs(many.mean() - energy_distance(clouds[0], clouds[1])) < 3 * many.std()


def test_the_interval_of_r_stays_within_1() -> None:
    z = np.random.default_rng(0).normal(np.arctanh(0.9), 0.2, 4000)
    low, high = fisher_interval(0.95, np.tanh(z))
    half = 1.96 * z.std(ddof=1)
    assert (
        low == pytest.approx(np.tanh(np.arctanh(0.95) - half))
        and high == pytest.approx(np.tanh(np.arctanh(0.95) + half))
        and high < 1
    )
    assert np.isnan(fisher_interval(0.5, np.array([0.5]))).all()


def test_seeds_give_the_interval(files: dict[str, str], tmp_path: Path) -> None:
    found = ran(tmp_path / "a", side(files["one"], files["two"]), side(files["foreign"], choices=COLUMNS))
    each = [ran(tmp_path / name, side(files[name]), side(files["foreign"], choices=COLUMNS)) for name in ("one", "two")]
    assert found.interval == "seeds" and found.seeds == 2 and found.draws == 0
    for pair, *single in zip(found.pairs, *(e.pairs for e in each), strict=True):
        values = [s.pearson.value for s in single]
        assert pair.pearson.value == pytest.approx(np.mean(values)) and (pair.pearson.low, pair.pearson.high) == (
            min(values),
            max(values),
        )


def test_contexts_and_perturbations_are_matched_by_name_or_as_named(files: dict[str, str], tmp_path: Path) -> None:
    by_context = ran(tmp_path / "c", side(files["one"], context="B"), side(files["one"], context="T"))
    assert [(p.first, p.second) for p in by_context.pairs] == [((d, "B"), (d, "T")) for d in ("drugA", "drugB")]
    by_drug = ran(tmp_path / "p", side(files["one"], perturbation="drugA"), side(files["one"], perturbation="drugB"))
    assert Counter(p.first[1] for p in by_drug.pairs) == {"B": 1, "T": 1} and all(
        p.first[1] == p.second[1] for p in by_drug.pairs
    )
    with pytest.raises(RequestError, match="no drugC"):
        ran(tmp_path / "x", side(files["one"], perturbation="drugC"), side(files["one"]))


def test_a_table_of_effects_and_an_archive(files: dict[str, str], tmp_path: Path) -> None:
    result = open_result(Path(files["one"]))
    rows = []
    for p, c in result.conditions():
        effect = groups(files["one"], keys.PREDICTED, p, c).mean(0) - groups(
            files["one"], keys.PREDICTED_CONTROL, "control", c
        ).mean(0)
        rows += [(p, c, g, 2 * e, float(abs(e) > 0.5)) for g, e in zip(result.genes, effect, strict=True)]
    pd.DataFrame(rows, columns=["perturbation", "context", "gene", "effect", "p_de"]).to_parquet(tmp_path / "effects.parquet")
    found = ran(tmp_path / "t", side(files["one"]), side(str(tmp_path / "effects.parquet")))
    assert found.interval == "" and found.second.kind == "effects"
    for pair in found.pairs:
        assert pair.pearson.value == pytest.approx(1, abs=1e-6) and pair.slope == pytest.approx(2, abs=1e-5) and pair.overlap == 1
        assert pair.energy.value is None and pair.called_second == 3

    packed = zstandard.compress(Path(files["foreign"]).read_bytes())
    with tarfile.open(tmp_path / "mine.vcc", "w") as tar:
        member = tarfile.TarInfo("pred.h5ad.zst")
        member.size = len(packed)
        tar.addfile(member, BytesIO(packed))
    archive = ran(tmp_path / "v", side(files["one"]), side(str(tmp_path / "mine.vcc"), choices=COLUMNS))
    same = ran(tmp_path / "f", side(files["one"]), side(files["foreign"], choices=COLUMNS))
    assert archive.pairs == same.pairs and archive.second.files == ("mine.vcc",)
    assert (archive.second.kind, same.second.kind) == ("predicted", "measured"), "an archive of a challenge is a prediction"


class File:
    """A file of a side, as far as its exposure goes."""

    def __init__(self, kind: str, exposure: str = "not known") -> None:
        self.kind, self.told = kind, exposure

    def exposure(self, pair: tuple[str, str]) -> str:
        return self.told


def test_only_a_measurement_makes_agreement_recall_or_a_test() -> None:
    """A table of effects, or another prediction, is none."""
    pair, model = (("drugA", "B"), ("drugA", "B")), File("predicted", "in training")
    for other in ("effects", "predicted"):
        assert _exposure(model, File(other), pair) == _exposure(File(other), model, pair) == "not known"  # type: ignore[arg-type]
    assert _exposure(model, File("measured"), pair) == _exposure(File("measured"), model, pair) == "in training"  # type: ignore[arg-type]


def test_the_map_and_the_genes_of_a_selection(files: dict[str, str], tmp_path: Path) -> None:
    one = {"perturbation": "drugA", "context": "B"}
    ran(tmp_path, side(files["one"], **one), side(files["one"], cells="observed", **one), map=True)
    place = read_map(tmp_path / "map.npz")
    cells = np.load(tmp_path / "cells.npy")
    assert len(place.xy) == len(cells) == len(place.side) and np.isfinite(place.xy).all()
    assert Counter(zip(place.side.tolist(), place.control.tolist(), strict=True)) == {
        (0, False): 30,
        (0, True): 30,
        (1, False): 30,
        (1, True): 50,
    }
    rows = [np.flatnonzero((place.side == s) & ~place.control) for s in (0, 1)]
    table = pd.read_parquet(selection_table(tmp_path, rows[0].tolist(), rows[1].tolist()))
    x, y = cells[rows[1]].astype(np.float64), cells[rows[0]].astype(np.float64)
    calls, fold = called(x, y)
    np.testing.assert_allclose(table["log2_fold_change"], fold, atol=1e-4)
    assert ((table["fdr"] < 0.05) == calls).all()
    for wrong in (([0, 1], [40, 41, 42]), ([0, 1, 2], [10**6, 1, 2]), ([], [1, 2, 3])):
        with pytest.raises(RequestError):
            selection_table(tmp_path, *wrong)


def test_what_predict_writes_is_a_result(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad", 200)
    for seed in (1, 2):
        request = PredictionRequest(str(data), str(tmp_path / "model"), ("TNF",), ("B",), cells=40, seed=seed, device="cpu")
        predict(request, tmp_path / f"p{seed}.h5ad")
    found = ran(tmp_path / "c", side(str(tmp_path / "p1.h5ad")), side(str(tmp_path / "p2.h5ad")))
    assert (
        found.first.cells == "corrected" and found.second.kind == "predicted" and [p.first for p in found.pairs] == [("TNF", "B")]
    )
    assert (found.first.name, found.second.name) == ("corrected prediction (p1.h5ad)", "corrected prediction (p2.h5ad)")


def test_what_cannot_be_compared(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no calibrated"):
        ran(tmp_path, side(files["one"], cells="calibrated"), side(files["one"]))
    with pytest.raises(RequestError, match="no result"):
        ran(tmp_path, side(files["foreign"], cells="raw", choices=COLUMNS), side(files["one"]))
    with pytest.raises(RequestError, match="Name each once"):
        side(files["one"], files["one"])
    pd.DataFrame(
        [("drugA", "B", "other", 1.0), ("drugA", "B", "more", 1.0)], columns=["perturbation", "context", "gene", "effect"]
    ).to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(GeneError, match="share no genes"):
        ran(tmp_path, side(files["one"]), side(str(tmp_path / "e.csv")))


def test_the_command(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "compare",
        "--first",
        files["one"],
        "--second",
        files["one"],
        "--second-cells",
        "observed",
        "--no-map",
        "--draws",
        "20",
    ]
    assert main([*words, "--output", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    found = read_comparison(tmp_path / "c")
    assert (
        found is not None
        and all(p.pearson.words in out and p.name in out for p in found.pairs)
        and "bootstrap draws of cells" in out
    )
    table = pd.read_csv(tmp_path / "c" / "pairs.csv")
    assert list(table.columns) == list(pairs_table(found).columns) and len(table) == 4
    assert main([*words, "--json", "--output", str(tmp_path / "c")]) == 0
    assert json.loads(capsys.readouterr().out)["genes"] == 40
    assert main([*words, "--output", str(Path(files["one"]).parent)]) == 0


def test_components_are_of_both_sides() -> None:
    # the energy distance of a cloud to itself is 0 on average whatever the components
    cells = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    fitted = Components.of(cells)
    assert abs(energy_distance(fitted.cloud(cells[:100]), fitted.cloud(cells[100:]))) < 0.2
