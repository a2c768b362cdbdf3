"""The report of a prediction: its map, the size of each effect, genes of the largest ones, and agreement with what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis import projection, stored
from state_engine.analysis.effects import CORRECTED, NO_CHANGE, EffectComparison, effect_sizes
from state_engine.analysis.recall import BASELINES, found_genes, found_words
from state_engine.analysis.resemblance import resemblance
from state_engine.analysis.standing import MARKS, mark_of
from state_engine.effects.bands import NOT_CALIBRATED
from state_engine.effects.exposure import Exposure
from state_engine.errors import RequestError, listed
from state_engine.metrics.rules import BY_CHANGE, BY_FDR, FOLD, detected, significant
from state_engine.plain import plural
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress
from state_engine.reports.colours import BAND_COLOURS, DOWN, KIND, NOT_SIGNIFICANT, UP
from state_engine.reports.document import Block, Figure, Section, Table, Words
from state_engine.reports.drawings import Axis, Series, bars, points
from state_engine.reports.provenance import Found
from state_engine.reports.tiles import categories, heat

MOST_CONDITIONS: Final = 6  # with their genes; the rest is in the table of effects
MOST_BARS: Final = 20
NAMED: Final = 8  # genes with a name, each way
EXPOSURE: Final[dict[Exposure, str]] = {
    "test": "Test: the model was trained without this condition.",
    "in training": "In training: agreement with the measurement is recall, not a test.",
    "not known": "Not known whether the model was trained on this condition.",
}


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition with its genes, and its comparison with measured cells where there are any."""

    perturbation: str
    context: str
    exposure: Exposure
    genes: pd.DataFrame
    compared: EffectComparison | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.perturbation} in {self.context}"


def found_in_prediction(folder: Path, on_progress: OnProgress) -> Found:
    """Return what the folder of a finished prediction tells.

    Raises:
        RunError: the result cannot be read.
    """
    result = open_result(folder / "result.h5ad")
    if not result.has_expression:
        return Found(
            ("This run predicts an embedding, not genes: there is no expression to test.",),
            tuple(_map(folder, result)),
            _methods(result, ()),
        )
    effects = de.read_table(stored.effects_for(folder, on_progress))
    # the largest effects, and what was measured as a test before what is recall
    chosen, compared = _conditions(folder, result, effects, on_progress)
    standing = de.read_table(stored.standing_path(folder))
    sections = [
        *_map(folder, result),
        Section("How large is each effect?", _sizes(effects, result, standing)),
        *(Section(one.name, tuple(_genes(one))) for one in chosen),
    ]
    if compared:
        sections.append(Section("Against the measurement", _agreement(compared, result)))
    verdict = (*_verdict(compared, result, standing), *_alike(result))
    statistics = ("mann-whitney", "benjamini-hochberg")
    return Found(verdict, tuple(sections), _methods(result, chosen), statistics, dict(result.manifest.get("versions") or {}))


def _conditions(
    folder: Path, result: Result, effects: pd.DataFrame, on_progress: OnProgress
) -> tuple[list[Condition], list[EffectComparison]]:
    """Return the conditions shown with their genes, and every comparison with a measurement."""
    pairs = [(str(p), str(c)) for p, c in effects[["perturbation", "context"]].itertuples(index=False)]
    measured = stored.measured_conditions(result)
    first = sorted(pairs, key=lambda pair: not (pair in measured and result.exposure(*pair) == "test"))[:MOST_CONDITIONS]
    chosen, compared = [], []
    wanted = [pair for pair in pairs if pair in first or pair in measured]
    for number, (p, c) in enumerate(wanted):
        on_progress(Progress("Comparing genes", number, len(wanted)))
        try:
            table = stored.answer(folder, p, c, result=result)
        except RequestError:  # too few cells to test: the table of effects has the condition
            continue
        found = stored.read_comparison(stored.comparison_path(folder, p, c)) if (p, c) in measured else None
        compared += [found] if found is not None else []
        if (p, c) in first:
            chosen.append(Condition(p, c, result.exposure(p, c), de.read_table(table), found))
    return chosen, compared


def _map(folder: Path, result: Result) -> list[Section]:
    path = folder / "projection.npz"
    if not path.exists():
        return []
    found = projection.load(path)
    kinds = result.obs[keys.KIND].astype(str).to_numpy()[found.rows]
    # control below, what is predicted and measured above
    order = [k for k in (keys.OBSERVED_CONTROL, keys.PREDICTED_CONTROL, keys.OBSERVED, keys.PREDICTED) if (kinds == k).any()]
    series = [
        Series(
            f"{keys.KIND_WORDS[kind]} ({int((kinds == kind).sum()):,})",
            KIND[kind],
            found.xy[kinds == kind, 0],
            found.xy[kinds == kind, 1],
            2.5,
            0.5,
        )
        for kind in order
    ]
    svg = points(series, Axis("UMAP 1", ticks=False), Axis("UMAP 2", ticks=False), size=(640, 560), square=True)
    caption = f"{found.settings.note}. Distances on a UMAP are qualitative."
    return [Section("Cells before and after", (Figure("Map of the cells", svg, caption),))]


def _sizes(effects: pd.DataFrame, result: Result, standing: pd.DataFrame | None = None) -> tuple[Block, ...]:
    """Return the picture of all conditions and their table; `standing` (`standing.standings`) adds marks and bands."""
    names = [f"{p} in {c}" for p, c in effects[["perturbation", "context"]].itertuples(index=False)]
    size = effects["effect_size"].to_numpy(float)
    wide = effects["context"].nunique() > 1 and effects["perturbation"].nunique() > 1
    blocks: list[Block] = []
    caption = f"Euclidean length of the mean effect (corrected prediction minus its paired control) over {result.n_genes:,} genes, log1p units."
    if wide:
        grid = effects.pivot_table(index="perturbation", columns="context", values="effect_size", observed=True)
        grid = grid.loc[grid.max(axis=1).sort_values(ascending=False).index[:40]]
        rows, columns = [str(p) for p in grid.index], [str(c) for c in grid.columns]
        weighed = _weighed(standing, rows, columns)
        marks = [[mark_of(*one[:2]) for one in line] for line in weighed]
        svg = heat(
            rows,
            columns,
            grid.to_numpy(float),
            ("#f2f2f0", UP),
            "effect size (log1p)",
            marks,
            {str(mark): words for mark, words in MARKS.items()},
        )
        unmarked = " No mark: it cannot be told, or nobody measured it." if any(mark for line in marks for mark in line) else ""
        blocks.append(Figure("Effect size, perturbations by contexts", svg, f"{caption} Striped grey: not predicted.{unmarked}"))
        bands = [[one[2] for one in line] for line in weighed]
        if any(band in BAND_COLOURS for line in bands for band in line):
            svg = categories(rows, columns, bands, BAND_COLOURS)
            words = "How likely the direction of a condition's largest effects holds in a replicate, as left-out conditions let one expect."
            blocks.append(
                Figure("Where would the largest effects hold?", svg, f"{words} Striped grey: not calibrated or not predicted.")
            )
    else:
        svg = bars(names[:MOST_BARS], size[:MOST_BARS], "effect size (log1p)", [UP] * MOST_BARS)
        blocks.append(Figure("The largest effects", svg, caption))
    heads = [
        "Perturbation",
        "Context",
        "Predicted cells",
        "Effect size",
        f"Up ({BY_CHANGE})",
        f"Down ({BY_CHANGE})",
        "Largest effects",
    ]
    columns = ["perturbation", "context", "n_cells", "effect_size", "n_up", "n_down", "top_genes"]
    blocks.append(Table("", effects[columns].set_axis(heads, axis=1), "Effects are predicted, not measured."))
    return tuple(blocks)


def _weighed(standing: pd.DataFrame | None, rows: Sequence[str], columns: Sequence[str]) -> list[list[tuple[str, str, str]]]:
    """Return exposure, standing and band of each condition, rows by columns; "" where there is none."""
    known = {}
    if standing is not None:
        named = standing.astype(dict.fromkeys(("perturbation", "context", "exposure", "standing", "band"), str))
        known = {(r.perturbation, r.context): (r.exposure, r.standing, r.band) for r in named.itertuples()}
    return [[known.get((row, column), ("", "", "")) for column in columns] for row in rows]


def _genes(one: Condition) -> list[Block]:
    """Return the volcano of a condition, its leading genes, and its agreement with the measurement."""
    table = one.genes
    calls = de.directions(table)
    change = table["log2_fold_change"].to_numpy(float)
    there = detected(table["fraction_perturbed"].to_numpy(float), table["fraction_reference"].to_numpy(float))
    order = np.argsort(-np.where(there, np.abs(change), 0), kind="stable")
    with np.errstate(divide="ignore"):
        height = np.minimum(-np.log10(table["p_value"].to_numpy(float)), 308.0)
    named = {int(i) for way in (1, -1) for i in [i for i in order if calls[i] == way][:NAMED]}
    genes = table["gene"].astype(str).to_numpy()
    series = []
    for way, colour, words in ((0, NOT_SIGNIFICANT, "no change"), (-1, DOWN, "down"), (1, UP, "up")):
        rows = np.flatnonzero(calls == way)
        labels = tuple(genes[i] if i in named else "" for i in rows)
        series.append(Series(f"{words} ({len(rows):,})", colour, change[rows], height[rows], 4, 0.6, labels))
    svg = points(series, Axis("log2 fold change"), Axis("−log10 p", low=0), lines=[("x", FOLD), ("x", -FOLD)])
    a = table.attrs
    caption = (
        f"{a['n_perturbed']:,} {a['expression']} predicted cells against {a['n_reference']:,} {keys.KIND_WORDS[a['reference']]} cells; "
        f"all {len(table):,} genes. "
        f"Called: {BY_CHANGE}. p orders genes; it falls with the number of predicted cells and says nothing about being right."
    )
    banded = "band" in table and (table["band"] != NOT_CALIBRATED).any()
    columns = [
        "gene",
        "log2_fold_change",
        "mean_perturbed",
        "mean_reference",
        "fraction_perturbed",
        "fraction_reference",
        "p_value",
        "fdr",
        *(["band"] if banded else []),
    ]
    heads = [
        "Gene",
        "log2 fold change",
        "Mean, perturbed",
        "Mean, control",
        "Expressing, perturbed",
        "Expressing, control",
        "p",
        "FDR",
        *(["Would it hold?"] if banded else []),
    ]
    top = table.iloc[[i for i in order if calls[i]][:20]][columns].set_axis(heads, axis=1)
    blocks: list[Block] = [Figure(f"Genes that change: {one.name}", svg, caption), Table("Leading genes", top)]
    if one.compared is not None:
        counted = found_genes(one.compared)
        blocks += [
            Words(f"{EXPOSURE[one.exposure]} {found_words(one.compared, counted)}"),
            _scatter(one.compared),
            _scores(one.compared),
        ]
    return blocks


def _scatter(found: EffectComparison) -> Figure:
    x, y = (found.genes[f"{side}_log2_fold_change"].to_numpy(float) for side in ("observed", "corrected"))
    called = significant(found.genes["observed_fdr"].to_numpy(float))
    series = [
        Series(f"not significant ({int((~called).sum()):,})", NOT_SIGNIFICANT, x[~called], y[~called], 4, 0.5),
        Series(f"{BY_FDR}, measured ({int(called.sum()):,})", UP, x[called], y[called], 4, 0.7),
    ]
    svg = points(series, Axis("measured log2 fold change"), Axis("predicted log2 fold change"), size=(520, 460), diagonal=True)
    caption = (
        f"{found.n_predicted:,} predicted (corrected) and {found.n_observed:,} measured cells, each against its control "
        f"({found.n_control:,} measured control cells). Dashed: equal."
    )
    return Figure("Predicted against measured change of each gene", svg, caption)


def _scores(found: EffectComparison) -> Table:
    rows = pd.DataFrame([(s.method, s.pearson, s.spearman, s.mae, s.direction, s.overlap) for s in found.scores])
    heads = ["", "Pearson", "Spearman", "MAE", "Same sign", f"Top {found.top} shared"]
    note = "Pearson and Spearman of effects over all genes; MAE of the mean cell (log1p); sign of the genes significant in the measurement. "
    note += f"Top {found.top} shared: share of the {found.top} largest measured effects, significant or not, among its {found.top} largest."
    return Table("Agreement, beside simple baselines", rows.set_axis(heads, axis=1).astype(dict.fromkeys(heads[1:], float)), note)


def _agreement(compared: Sequence[EffectComparison], result: Result) -> tuple[Block, ...]:
    rows = []
    for one in compared:
        by = {s.method: s for s in one.scores}
        best = _best_baseline(one)
        own = by.get(result.layers(one.perturbation, one.context)[0], by[CORRECTED])
        exposure = result.exposure(one.perturbation, one.context)
        rows.append(
            (one.perturbation, one.context, exposure, one.n_observed, own.pearson, best[1] if best else None, best[0] if best else "",
             own.mae, by[NO_CHANGE].mae)
        )  # fmt: skip
    heads = ["Perturbation", "Context", "", "Measured cells", "Pearson", "Best baseline", "which", "MAE", "MAE, no change"]
    table = pd.DataFrame(rows, columns=heads).astype(dict.fromkeys(["Pearson", "Best baseline", "MAE", "MAE, no change"], float))
    return (Table("", table, "Conditions that were in training are recall, not a test."),)


def _best_baseline(one: EffectComparison) -> tuple[str, float] | None:
    """Return the simple baseline with the highest correlation, and that; None where no mean is known."""
    found = [(s.method, s.pearson) for s in one.scores if s.method in BASELINES]
    known = [(method, r) for method, r in found if r is not None]
    return max(known, key=lambda pair: pair[1]) if known else None


def _verdict(compared: Sequence[EffectComparison], result: Result, standing: pd.DataFrame) -> list[str]:
    if not compared:
        return ["None of the predicted conditions was measured in this data set, so nothing here checks the prediction."]
    exposures = [result.exposure(one.perturbation, one.context) for one in compared]
    recall, tests = exposures.count("in training"), exposures.count("test")
    told = standing[(standing["exposure"] == "test") & (standing["standing"] != "no baseline")]["standing"].value_counts()
    lines = []
    if len(told):
        counts = [f"{name} than the mean in {told[name]:,}" for name in ("better", "worse") if name in told]
        counts += [f"not to be told from it in {told['cannot be told']:,}"] if "cannot be told" in told else []
        lines.append(
            f"Of {plural(int(told.sum()), 'held-out condition')} with a measurement, the prediction is {listed(counts)}."
        )
    elif tests:
        lines.append(
            f"{plural(tests, 'held-out condition was', 'held-out conditions were')} measured; there is no mean baseline to compare with."
        )
    if recall:
        lines.append(
            f"{plural(recall, 'measured condition was', 'measured conditions were')} in training: agreement there is recall, not a test."
        )
    unknown = len(compared) - tests - recall
    if unknown:
        lines.append(f"Of {unknown:,} measured conditions nothing says whether the model was trained on them.")
    return lines


def _alike(result: Result) -> list[str]:
    found = resemblance(result)
    return [found.words()] if found is not None and found.alike else []


def _methods(result: Result, chosen: Sequence[Condition]) -> tuple[str, ...]:
    """Return sentences from the fields of the result's manifest."""
    about: Mapping[str, Any] = result.manifest
    model, control = about.get("model") or {}, about.get("control") or {}
    predicted, contexts = result.conditions(), {c for _, c in result.conditions()}
    cells = int(result.mask(keys.PREDICTED).sum())
    lines = [
        f"{cells:,} cells of {len(predicted):,} conditions ({len({p for p, _ in predicted}):,} perturbations, {len(contexts):,} contexts) were "
        "predicted from measured control cells"
        + (f" (label '{control['data']}')" if control.get("data") else "")
        + (f" by the State Transition model {model['name']} ({model['id']})" if model.get("name") else "")
        + (f", in sets of {about['set_size']}" if about.get("set_size") else "")
        + (f" with {about['attention']} attention" if about.get("attention") else "")
        + "."
    ]
    lines.append(
        "The same cells were predicted under the control label, and the difference was added to each measured control cell."
    )
    if about.get("depth"):
        lines.append(f"Expression is log1p of counts normalised to {about['depth']:,.0f} per cell.")
    if about.get("simulated"):
        lines.append("The model was trained on simulated cells.")
    if chosen:
        lines.append(f"Differential expression: {chosen[0].genes.attrs['method']}.")
    return tuple(lines)


def found_in_file(path: Path, on_progress: OnProgress) -> Found:
    """Return what a result file without a run folder tells: the size of each effect, and nothing that is kept beside a run."""
    result = open_result(path)
    if not result.has_expression:
        return Found(("This result is an embedding, not genes.",), (), _methods(result, ()))
    effects = effect_sizes(result, on_progress=on_progress)
    verdict = tuple(_alike(result))
    versions = dict(result.manifest.get("versions") or {})
    return Found(verdict, (Section("How large is each effect?", _sizes(effects, result)),), _methods(result, ()), (), versions)
