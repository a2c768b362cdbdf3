"""From a challenge's template to the prediction that it asks for: which perturbations, in which contexts, how many cells.

A template is an .h5ad with the cells to be replaced and their controls (`competition_val_template.h5ad`), or control cells and
a list of perturbations. One prediction serves a whole challenge: every perturbation is predicted with the largest number of cells
asked for, and the submission takes the first of each (the cells of a shorter prediction are the beginning of a longer one).
No torch here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.findings import Finding, found
from state_engine.challenge.spec import PRESETS, ChallengeSpec
from state_engine.challenge.submit import SubmissionRequest
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.device import DeviceName
from state_engine.errors import listed
from state_engine.options import about, check, option, option_of, part
from state_engine.plain import agreed, plural
from state_engine.prediction.request import CellCount, MeasuredScreen, PredictionRequest, UnknownEffect
from state_engine.prediction.screens import measured_in

Unknown = Literal["refuse", "transfer", "mean", "no change"]
# perturbations that a model knows and that are predicted only for their mean effect, and cells of each
MOST_KNOWN, KNOWN_CELLS = 50, 64
# cells of a perturbation when neither list nor rules say it
USUAL_CELLS = 256


@dataclass(frozen=True)
class TemplateRequest:
    """What to predict for."""

    VERB: ClassVar = "template"
    challenge: str = field(metadata=about(f"{', '.join(PRESETS)}, or a TOML file", metavar="NAME"))
    data: str = field(metadata=about("the template, or control cells (.h5ad)", metavar="T.h5ad", data=True))
    model: str = field(metadata=about("model folder", metavar="DIR"))
    genes: str = option("", "the challenge's gene list (.csv)", metavar="G.csv")
    pert_counts: str = option(
        "", "the challenge's list of perturbations (.csv); default: labels of the template", metavar="C.csv"
    )
    contexts: tuple[str, ...] = option(
        (), "predict in this context; default: those that the challenge names, else all with controls", flag="--context",
        metavar="NAME",
    )  # fmt: skip
    unknown: Unknown = option(
        "refuse",
        "perturbations that the model does not know: refuse, give them the transfer of their effects in measured screens (--measured), the mean "
        "effect of those that it knows, or no change; marked",
        label="Perturbations that the model does not know",
    )
    choices: Choices = part(Choices())
    counts: CountsOptions = part(CountsOptions(), flags={"seed": "--counts-seed"}, always=("seed",))
    seed: int = option(42, "the same seed draws the same control cells", metavar="S", least=0, offered=2**31 - 1)
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    measured: tuple[MeasuredScreen, ...] = option(
        (), option_of(PredictionRequest, "measured").about.help.replace("--unknown-effect", "--unknown"), label="Measured screens", data=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TemplatePlan:
    """What a template asks for.

    Args:
        prediction: to be run; None when a finding is an error.
        submission: what to submit of it; its `source` is the result file of the prediction.
        required: cells by perturbation, by context ("" when the challenge has no contexts).
        unknown: perturbations that the model does not know.
        measured: those of them that a chosen screen measured.
        findings: what is wrong or worth knowing, errors first.
    """

    prediction: PredictionRequest | None
    submission: SubmissionRequest
    required: dict[str, dict[str, int]]
    unknown: tuple[str, ...]
    findings: tuple[Finding, ...]
    measured: tuple[str, ...] = ()

    @property
    def perturbations(self) -> tuple[str, ...]:
        """All perturbations asked for, each once."""
        return tuple(dict.fromkeys(name for asked in self.required.values() for name in asked))

    @property
    def cells(self) -> int:
        """Cells to submit, controls not counted."""
        return sum(sum(asked.values()) for asked in self.required.values())


def plan_from_template(
    request: TemplateRequest, dataset: Dataset, card: ModelCard, spec: ChallengeSpec, screens: Sequence[Dataset] = ()
) -> TemplatePlan:
    """What to predict and what to submit of it, from labels alone.

    Args:
        request: what is asked.
        dataset: the opened `request.data`.
        card: of the model at `request.model`.
        spec: the challenge, with its lists.
        screens: the opened `request.measured`, in their order.
    """
    findings: list[Finding] = []
    contexts = _contexts(request, dataset, spec, findings)
    required = _required(dataset, card, spec, contexts)
    names = tuple(dict.fromkeys(name for asked in required.values() for name in asked))
    unknown = tuple(name for name in names if name not in card.perturbations)
    measured = measured_in(screens, unknown) if request.unknown == "transfer" else ()
    if not names:
        fix = "Give the challenge's pert_counts.csv, or a template that has the perturbations as labels."
        findings.append(found("template-empty", "error", "No perturbations are asked for.", fix))
    elif unknown:
        findings.insert(0, _unknown(unknown, names, request, measured))
    prediction = None
    if not any(f.severity == "error" for f in findings):
        prediction = _prediction(request, dataset, card, names, unknown, required, contexts)
    asked = _submission(request, dataset, card, spec, contexts)
    return TemplatePlan(prediction, asked, required, unknown, tuple(findings), measured)


def plan_lines(plan: TemplatePlan) -> list[str]:
    """Return what a template asks for, one line each."""
    lines = [f.title for f in plan.findings if f.code == "template-unknown"]
    lines.append(f"{plural(len(plan.perturbations), 'perturbation')}, {plural(plan.cells, 'cell')}")
    lines += [f"  {context}: {plural(len(asked), 'perturbation')}" for context, asked in plan.required.items() if context]
    lines += [f"{f.severity.upper():8}{f.title} {f.detail}".rstrip() for f in plan.findings]
    return lines


def _contexts(request: TemplateRequest, dataset: Dataset, spec: ChallengeSpec, findings: list[Finding]) -> tuple[str, ...]:
    """Contexts of the data set to predict in."""
    there = tuple(c for c in dataset.contexts if len(dataset.control_rows(c)))
    wanted = request.contexts or spec.contexts or _phase(spec, there) or there
    lacking = [c for c in wanted if c not in there]
    if lacking or not wanted:
        title = "Contexts that are asked for have no control cells in the data."
        fix = f"With controls: {', '.join(there) or 'none'}. A prediction starts from the controls of its context."
        findings.append(found("template-contexts", "error", title, fix, names=lacking))
    elif not spec.rules.context_key and len(wanted) > 1:
        title = "The challenge knows no contexts, and the data have several with controls."
        findings.append(found("template-context-choice", "error", title, "Choose one.", names=wanted))
    return tuple(c for c in wanted if c in there)


def _phase(spec: ChallengeSpec, there: tuple[str, ...]) -> tuple[str, ...]:
    """Contexts of the phase of which the data have any, when it is one."""
    phases = [phase for phase in spec.rules.phases if set(phase.contexts) & set(there)]
    return phases[0].contexts if len(phases) == 1 else ()


def _required(dataset: Dataset, card: ModelCard, spec: ChallengeSpec, contexts: tuple[str, ...]) -> dict[str, dict[str, int]]:
    usual = spec.rules.cells_per_perturbation or USUAL_CELLS
    controls = {dataset.labels.control, card.control, spec.rules.control}
    required: dict[str, dict[str, int]] = {}
    table = dataset.table()
    for context in contexts:
        asked: dict[str, int | None] = {}
        if spec.targets is not None:
            asked = spec.targets.of(context) or {}
        else:
            asked = {str(p): int(n) for p, n in table[context].items() if n}
        required[context if spec.rules.context_key else ""] = {p: n or usual for p, n in asked.items() if p not in controls}
    return required


def _unknown(unknown: tuple[str, ...], names: tuple[str, ...], request: TemplateRequest, measured: tuple[str, ...]) -> Finding:
    """Return how many targets the model knows, said before all else, and what would be written for the others."""
    title = f"The model knows {len(names) - len(unknown):,} of {len(names):,} targets."
    if request.unknown == "refuse":
        fix = (
            "Choose a model that knows them, or say what is written instead: the transfer of their effects in measured screens (--unknown transfer "
            "--measured FILE), the mean effect of the perturbations that it knows (--unknown mean), or no change (--unknown 'no change'). "
            "It is marked."
        )
        return found("template-unknown", "error", title, fix, names=unknown)
    marked = "their cells are marked, and the manifest and the report name them."
    if request.unknown == "transfer":
        screens = listed([screen.title for screen in request.measured])
        if not measured:
            fix = (
                f"None of the others was measured in {screens}."
                if screens
                else "Choose the screens that measured the others (--measured)."
            )
            return found("template-unknown", "error", title, fix, names=unknown)
        was, they = agreed(len(measured), "was", "were"), agreed(len(measured), "it gets", "they get")
        fix = f"{len(measured):,} of the other {len(unknown):,} {was} measured in {screens}: {they} the transfer of that effect"
        rest = len(unknown) - len(measured)
        fix = f"{fix}; {plural(rest, 'gets', 'get')} no change; {marked}" if rest else f"{fix}; {marked}"
        return found("template-unknown", "warning", title, fix, names=unknown)
    has = "the mean effect of the perturbations that it knows" if request.unknown == "mean" else "no change: control cells"
    return found("template-unknown", "warning", title, f"The others get {has}; {marked}", names=unknown)


def _prediction(
    request: TemplateRequest,
    dataset: Dataset,
    card: ModelCard,
    names: tuple[str, ...],
    unknown: tuple[str, ...],
    required: dict[str, dict[str, int]],
    contexts: tuple[str, ...],
) -> PredictionRequest:
    # counts: the run's own controls, normalised as its cells are; log1p: taken from the file when the archive is written.
    # The cells of a template that stand for perturbed ones are no measurement, so none are kept.
    # a mean needs perturbations that the model knows: where the challenge asks for none, some of its own, which the submission leaves out
    known: tuple[str, ...] = ()
    if request.unknown == "mean" and len(unknown) == len(names):
        known = tuple(p for p in card.perturbations if p != card.control)[:MOST_KNOWN]
    cells = max(n for asked in required.values() for n in asked.values())
    instead: UnknownEffect = request.unknown if request.unknown in ("mean", "transfer") else "control"
    most_controls = max(len(dataset.control_rows(c)) for c in contexts)
    return PredictionRequest(
        data=request.data,
        model=request.model,
        perturbations=(*names, *known),
        contexts=contexts,
        cells=cells,
        cells_of=tuple(CellCount(p, min(KNOWN_CELLS, cells)) for p in known),
        seed=request.seed,
        choices=request.choices,
        device=request.device,
        allow_unknown=bool(unknown),
        unknown_effect=instead if unknown else "control",
        measured=request.measured if unknown and instead == "transfer" else (),
        keep_raw=False,
        observed=most_controls if dataset.scale.scale == "counts" else 0,
    )


def _submission(
    request: TemplateRequest, dataset: Dataset, card: ModelCard, spec: ChallengeSpec, contexts: tuple[str, ...]
) -> SubmissionRequest:
    rules = spec.rules
    repairs = ["drop-extra-perturbations", "first-cells"]
    controls: tuple[str, ...] = ()
    if rules.values == "counts":
        controls = (request.data,)
    elif rules.controls == "required" and dataset.scale.scale == "log1p":
        controls = (request.data,)
        repairs.append("add-controls")
    elif rules.controls == "required" and card.control != rules.control:
        repairs.append("rename-control")
    return SubmissionRequest(
        challenge=request.challenge,
        source="",
        is_run=True,
        genes=request.genes,
        pert_counts=request.pert_counts,
        repairs=tuple(repairs),
        contexts=contexts,
        controls=controls,
        counts=request.counts if rules.values == "counts" else None,
        donors=request.data,
    )


def targets_text(plan: TemplatePlan, spec: ChallengeSpec) -> str:
    """The list of perturbations and cells that a template asks for, as a challenge gives it (CSV)."""
    key, context_key = spec.rules.perturbation_key, spec.rules.context_key
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([key, "n_cells", *([context_key] if context_key else [])])
    for context, asked in plan.required.items():
        writer.writerows([name, number, *([context] if context_key else [])] for name, number in asked.items())
    return text.getvalue()


def write_targets(path: Path, plan: TemplatePlan, spec: ChallengeSpec) -> Path:
    """`targets_text` as a file."""
    path.write_text(targets_text(plan, spec), encoding="utf-8")
    return path
