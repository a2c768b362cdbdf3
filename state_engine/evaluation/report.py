"""What an evaluation found, as plain values: what was compared with what, means, comparisons, and the words for a person.

Read by pages; made by `state_engine.evaluation.evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from state_engine.effects.exposure import Exposure
from state_engine.errors import RunError, listed
from state_engine.evaluation.judgement import ABOVE_1, Judgement, SeenCell, ability_words, part_words, telling, the_baseline
from state_engine.evaluation.profiles import find_profile
from state_engine.evaluation.verdict import Comparison, Statement, SummaryRow, apart
from state_engine.metrics.profile import Metric
from state_engine.metrics.replicate import Discrimination, Skill
from state_engine.plain import plural, read_json_as

EVALUATION: Final = "evaluation.json"
METRICS: Final = "metrics.csv"
SUMMARY: Final = "summary.csv"
EFFECTS: Final = "effects.npz"
FORMAT: Final = 1
WORTH_SAYING: Final = 0.02  # gain of PDS by another size of effects


@dataclass(frozen=True)
class EvaluatedCondition:
    """A condition and its cells.

    Args:
        n_predicted, n_measured, n_control: cells, predicted (of one seed), measured, and measured control.
        exposure: whether agreement is a test of the model, or recall of what it was trained on.
        noise_floor: MAE that a perfect prediction would have, as the measured mean is of so many cells; None where it is not known.
    """

    perturbation: str
    context: str
    n_predicted: int
    n_measured: int
    n_control: int
    noise_floor: float | None = None
    exposure: Exposure = "not known"


@dataclass(frozen=True)
class EvaluatedMethod:
    """A prediction or a baseline, or the measured cells where a number is of them.

    Args:
        name: as in the tables.
        kind: which of these.
        files: of a prediction, a seed each.
        n_conditions: conditions that it says something about.
        reason: why it lacks some or all, a sentence.
    """

    name: str
    kind: Literal["prediction", "baseline", "measured"]
    files: tuple[str, ...]
    n_conditions: int
    reason: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What was compared with what, and what came out.

    Args:
        format: version of this file's layout.
        profile: whose metrics.
        real: the measured file.
        n_genes: genes compared.
        conditions: what was scored.
        methods: predictions, then baselines.
        summary: means by method and metric, over all conditions (context "") and by context.
        comparisons: each prediction against each baseline, on the conditions that both have.
        verdict: the same in words, first where the prediction is worse. The texts of `statements`.
        control_source: whose control cells effects start from, words.
        effects_source: what the baselines are made of, words.
        engine, de_engine, device: who made the metrics, the test for differential expression ("" when there is none), and where.
        versions: of the packages that shape the numbers.
        seed: of the control cells that baselines start from, and of rounding.
        remarks: sentences that belong beside the numbers.
        held_out: what the conditions are to the model, words; "" when not known.
        seconds: time it took.
        flatters: the model may have seen some conditions, so that the numbers are too good; None when not known.
        metrics: of the profile; empty in files of before 29 November 2026.
        statements: the verdict, a statement for each prediction and baseline; empty in these files.
        judgements: one verdict for each prediction, from all metrics that can tell; empty in files of before 30 November 2026.
        discriminations: how well each metric tells a replicate from an average here.
        skills: of each prediction by each metric, between the best simple baseline (0) and a replicate (1).
        seen: the same by what of the conditions was in the training, where that is known; what was trained on as a pair first.
    """

    format: int
    profile: str
    real: str
    n_genes: int
    conditions: tuple[EvaluatedCondition, ...]
    methods: tuple[EvaluatedMethod, ...]
    summary: tuple[SummaryRow, ...]
    comparisons: tuple[Comparison, ...]
    verdict: tuple[str, ...]
    control_source: str
    effects_source: str
    engine: str
    de_engine: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    remarks: tuple[str, ...] = ()
    held_out: str = ""
    seconds: float = 0.0
    flatters: bool | None = None
    metrics: tuple[Metric, ...] = ()
    statements: tuple[Statement, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    discriminations: tuple[Discrimination, ...] = ()
    skills: tuple[Skill, ...] = ()
    seen: tuple[SeenCell, ...] = ()

    @property
    def scored(self) -> tuple[Metric, ...]:
        """The metrics that were computed; of old files, those of the profile."""
        return self.metrics or find_profile(self.profile).metrics

    @property
    def ranked(self) -> tuple[Metric, ...]:
        """The metrics that were computed: those that can tell here first, those that cannot last; main ones before details."""
        places = {True: 0, None: 1, False: 2}
        return tuple(sorted(self.scored, key=lambda m: (places[self.tells(m.name)], m.detail)))

    @property
    def ranked_skills(self) -> tuple[Skill, ...]:
        """The skills in the order of `ranked`."""
        places = {m.name: place for place, m in enumerate(self.ranked)}
        return tuple(sorted(self.skills, key=lambda s: places.get(s.metric, len(places))))

    @property
    def doubtful(self) -> bool:
        """The model may have seen what is scored. Old files say so in their words only."""
        return "flatter" in self.held_out if self.flatters is None else self.flatters

    def tells(self, metric: str) -> bool | None:
        """Whether a metric can tell a replicate from an average on these cells; None where that was not looked at."""
        return metric in telling(self.discriminations) if any(d.metric == metric for d in self.discriminations) else None

    @property
    def noise_floor(self) -> float | None:
        """The mean of the conditions' noise floors; None when none is known."""
        known = [c.noise_floor for c in self.conditions if c.noise_floor is not None]
        return sum(known) / len(known) if known else None

    def exposed(self, exposure: Exposure) -> int:
        """How many conditions are of this kind."""
        return sum(c.exposure == exposure for c in self.conditions)

    def said_of(self, method: str) -> tuple[Statement, ...]:
        """The statements about one prediction. Old files have them as sentences only."""
        if self.statements:
            return tuple(s for s in self.statements if s.method == method)
        start = f"{method[:1].upper()}{method[1:]}. "
        texts = [s.removeprefix(start) for s in self.verdict if s.startswith(start)]
        return tuple(Statement(method, "", text.startswith("Worse than "), text) for text in texts)

    def value(self, method: str, metric: str, context: str = "") -> float | None:
        """A mean over conditions; None when there is none."""
        found = (r.value for r in self.summary if (r.method, r.metric, r.context) == (method, metric, context))
        return next(found, None)


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return a stored evaluation; None when there is none yet.

    Raises:
        RunError: it is damaged, or of another version.
    """
    return read_json_as(Evaluation, folder / EVALUATION, "evaluation", "Evaluate again.")


def read_metrics(path: Path) -> pd.DataFrame:
    """Return the table of an evaluation's metrics; a value that was not computed is NaN.

    Raises:
        RunError: it is damaged.
    """
    try:
        return pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read.", str(error), "Evaluate again.") from error


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """An evaluation for a terminal."""
    contexts = tuple(dict.fromkeys(c.context for c in evaluation.conditions))
    where = f" in {len(contexts):,} contexts" if len(contexts) > 1 else ""
    lines = [f"{plural(len(evaluation.conditions), 'condition')}{where}, {plural(evaluation.n_genes, 'gene')}", ""]
    lines += _table_lines(evaluation)
    if evaluation.noise_floor is not None:
        lines.append(f"MAE expected of a perfect prediction, from the number of measured cells: {evaluation.noise_floor:.4f}")
    lines += amplitude_words(evaluation)
    lines += ["", *(f"{j.method}: {j.text}" for j in evaluation.judgements)]
    if any(s.value > 1 and evaluation.tells(s.metric) for s in evaluation.skills):
        lines.append(ABOVE_1)
    words = ability_words(evaluation.discriminations, evaluation.scored)
    lines += [words] if words else []
    lines += seen_lines(evaluation)
    lines += ["", *evaluation.verdict, *([evaluation.held_out] if evaluation.held_out else []), "", *provenance(evaluation)]
    lines += [f"{m.name}: {m.reason}" for m in evaluation.methods if m.reason]
    return [*lines, *evaluation.remarks]


def _table_lines(evaluation: Evaluation) -> list[str]:
    """Return the metrics of all methods as a table, a line for each metric."""
    metrics = [m for m in evaluation.scored if any(r.metric == m.name for r in evaluation.summary)]
    few = {m.name: f" (n {m.n_conditions:,})" for m in evaluation.methods if 0 < m.n_conditions < len(evaluation.conditions)}
    heads = [m.name + few.get(m.name, "") for m in evaluation.methods]
    width = max(12, *map(len, heads)) + 2
    lines = [f"{'':28}" + "".join(f"{head:>{width}}" for head in heads)]
    for metric in metrics:
        rows = {r.method: r for r in evaluation.summary if (r.metric, r.context) == (metric.name, "")}
        cells = [f"{_number(rows.get(m.name), metric):>{width}}" for m in evaluation.methods]
        grey = "  (cannot tell here)" if evaluation.tells(metric.name) is False else ""
        lines.append(f"{f'{metric.title} {arrow(metric)}':28}" + "".join(cells) + grey)
    return lines


def seen_lines(evaluation: Evaluation) -> list[str]:
    """Return the skill of each prediction by what of the conditions was in the training, by the first metric that can tell; lines."""
    metric = next((s.metric for s in evaluation.skills if evaluation.tells(s.metric)), "")
    title = next((m.title for m in evaluation.scored if m.name == metric), "")
    lines = []
    for cell in evaluation.seen:
        skills = [f"{s.method} {skill_words(s)}" for s in cell.skills if s.metric == metric]
        words = f": skill by {title} {', '.join(skills)}" if skills else ""
        lines.append(f"  {part_words(cell.trained)}, {plural(cell.n, 'condition')}{words}")
    return ["By what the model was trained on:", *lines] if lines else []


def skill_words(one: Skill) -> str:
    """Return a skill with its interval."""
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def telling_lines(evaluation: Evaluation, method: str) -> list[str]:
    """Return a line for each metric that can tell here: the mean of a prediction beside that of the best simple baseline, and the skill."""
    by_name = {m.name: m for m in evaluation.scored}
    told = [s for s in evaluation.ranked_skills if s.method == method and evaluation.tells(s.metric)]
    one_baseline = len({s.baseline for s in told}) == 1
    lines = [f"Beside {the_baseline(told[0].baseline)}, the best simple baseline:"] if len(told) > 1 and one_baseline else []
    for one in told:
        metric, where = by_name[one.metric], f" in {listed(one.contexts, 3)}" if one.contexts else ""
        own, other = (evaluation.value(name, one.metric) for name in (method, one.baseline))
        # a skill of some contexts alone is of other conditions than the means
        means = "" if where or own is None or other is None else " {} against {},".format(*apart(own, other))
        beside = "" if lines and one_baseline else f" beside {the_baseline(one.baseline)}, the best simple baseline"
        lines.append(f"{metric.title} {arrow(metric)}{where}:{means} skill {skill_words(one)}{beside}")
    return lines


def _number(row: SummaryRow | None, metric: Metric) -> str:
    """A mean with the spread of its seeds; a dash where there is none."""
    return "–" if row is None else number_words(row, metric)


def number_words(row: SummaryRow, metric: Metric) -> str:
    """Return a mean as it is written, with the spread of its seeds."""
    if row.value is None:
        return "–"
    form = {"number": ".4f" if abs(row.value) < 10 else ",.1f", "count": ",.1f", "percent": ".1%"}[metric.shown]
    return f"{row.value:{form}}" + (f" ±{row.spread:{form}}" if row.spread is not None else "")


def amplitude_words(evaluation: Evaluation) -> list[str]:
    """Return for each prediction what its PDS by L1 would be with effects of another size, where that is more; sentences."""
    found = []
    for method in evaluation.methods:
        if method.kind != "prediction":
            continue
        factor, gain = evaluation.value(method.name, "best_amplitude"), evaluation.value(method.name, "amplitude_gain")
        if factor is not None and gain is not None and gain >= WORTH_SAYING:
            found.append(
                f"PDS depends on the size of effects (L1): with effects {factor:.3g} times as large, {method.name} would gain {gain:.3f}."
            )
    return found


def arrow(metric: Metric) -> str:
    """Which way is better; "" for a number that only describes."""
    if metric.describes:
        return ""
    return "↑" if metric.more_is_better else "↓"


def provenance(evaluation: Evaluation) -> list[str]:
    """What made the numbers, sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())
    return [
        f"Metrics: {evaluation.engine} on the {evaluation.device.upper()}.",
        f"Control cells: {evaluation.control_source}.",
        *([f"Differential expression: {evaluation.de_engine}."] if evaluation.de_engine else []),
        f"Baselines: {evaluation.effects_source}.",
        f"Versions: {versions}.",
    ]
