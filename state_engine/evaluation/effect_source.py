"""Where the baselines' effects and the perturbations' features come from: a run or model, a file, or the measured cells themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from state_engine.checkpoints.store import is_store, read_card
from state_engine.effects.baselines import perturbation_features as features_of_model
from state_engine.effects.means import FILE_NAME, Means, load_means
from state_engine.effects.store import load_effects
from state_engine.errors import RunError
from state_engine.evaluation.baselines import EffectSource, on_genes
from state_engine.evaluation.compared import ComparedFiles
from state_engine.evaluation.request import EvaluationRequest
from state_engine.plain import plural

OWN_WORDS: Final = (
    "the measured cells themselves, each scored condition left out: they see other held-out cells, which flatters them"
)
FEWEST_CELLS: Final = 3  # of a condition that a prediction measured; as on the Genes page
NO_FEATURES: Final = "No features of the perturbations were given."


def effect_source(request: EvaluationRequest, files: ComparedFiles, real: Means) -> EffectSource:
    """The effects of a run or model when the request names one, else those of the measured file.

    Raises:
        RunError: the run or model has none. GeneError: it lacks compared genes.
    """
    if not request.effects:
        return EffectSource(real.effects(), OWN_WORDS, own=True)
    folder = Path(request.effects)
    if (folder / FILE_NAME).exists():
        # a prediction has the means of everything that its data set measured
        own = load_means(folder / FILE_NAME).on(files.genes).effects(FEWEST_CELLS)
        words = f"{plural(len(own.perturbations), 'measured condition')} of the data set, each scored one left out for itself"
        return EffectSource(own, words, own=True)
    table = next((t for t in map(load_effects, (folder, folder / "model")) if t is not None), None)
    if table is None:
        raise RunError(
            f"{folder.name} has no effects of training cells.",
            "There is no baselines.safetensors in it or in its folder 'model'.",
            "Leave it out (--effects): the baselines are then made of the measured cells themselves.",
        )
    model = next((f for f in (folder, folder / "model") if is_store(f)), None)
    n, name = len(table.perturbations), f" of {read_card(model).name}" if model else ""
    seen = len(set(zip(table.perturbations, table.contexts, strict=True)) & set(files.conditions))
    words = f"{plural(n, 'condition')} in the training cells{name}; no cell scored here is among them"
    if seen:
        words = f"{plural(n, 'condition')} in the training cells{name}, {seen:,} of the scored ones among them, each left out for itself"
    return EffectSource(on_genes(table, files.genes, folder.name), words, own=False)


def _features_of_model(folder: Path) -> dict[str, np.ndarray]:
    """Return label -> features of a model that reads feature vectors, the control left out; empty for any other folder."""
    model = next((f for f in (folder, folder / "model") if is_store(f)), None)
    card = None if model is None else read_card(model)
    if model is None or card is None or card.perturbation_encoding != "features":
        return {}
    return {label: v for label, v in features_of_model(model, card).items() if label != card.control}


def perturbation_features(request: EvaluationRequest) -> tuple[tuple[tuple[str, ...], np.ndarray] | None, str]:
    """Labels (k,) and features (k, p) of the file that the request names, else of the model whose effects are used; or None and why."""
    if not request.features:
        own = _features_of_model(Path(request.effects)) if request.effects else {}
        return ((tuple(own), np.array(list(own.values()))), "") if own else (None, NO_FEATURES)
    from state_engine.checkpoints.arc.perturbation_vectors import read_features_file

    found = read_features_file(Path(request.features))
    return (found.labels, found.vectors), ""
