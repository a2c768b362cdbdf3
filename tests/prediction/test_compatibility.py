"""Every finding of `check_compatibility`, at its boundaries, and how the model's input is made."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.checkpoints.card import FORMAT, ConditionScores, ModelCard, TrainingSummary
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.embedding_record import EmbeddingFacts
from state_engine.data.expression import FeatureSource, read_features
from state_engine.data.files.matrices import MatrixFacts
from state_engine.data.files.safety import FileFacts
from state_engine.data.genes import gene_names
from state_engine.data.labels import decide_labels
from state_engine.data.scale import ScaleDecision
from state_engine.errors import IncompatibleError
from state_engine.models.config import BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.prediction.compatibility import Compatibility, Finding, check_compatibility, control_pools, require_compatible

GENES = tuple(f"GENE{i}" for i in range(100))
BACKBONE = BackboneConfig("llama", hidden=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate=16)


def a_card(width: int = 100, batch_dim: int = 0, **changes: Any) -> ModelCard:
    config = TransitionConfig(width, width, 3, BACKBONE, "hvg", set_size=8, batch_dim=batch_dim, batch_encoder=batch_dim > 0)
    card = ModelCard(
        format=FORMAT, id="0" * 12, name="small", config=config, input_key="X_hvg", input_genes=GENES[:width],
        output_genes=GENES[:width], scale="log1p", control="ctrl", perturbations=("ctrl", "STAT1", "IFNB"),
        perturbation_encoding="one-hot", batches=("b1", "b2")[:batch_dim], contexts=("B", "T"), perturbation_key="p",
        context_key="c", batch_key=None, attention="full", attention_source="Declared by the checkpoint.", weights_hash="0" * 64,
    )  # fmt: skip
    return dataclasses.replace(card, **changes)


def cells(*groups: tuple[str, str, str, int]) -> pd.DataFrame:
    """Cells of (perturbation, context, batch, how many); "" is a missing label."""
    rows = [(p or None, c or None, b or None) for p, c, b, n in groups for _ in range(n)]
    return pd.DataFrame(rows, columns=["pert", "cell_type", "batch"])


USUAL = (("ctrl", "B", "b1", 10), ("ctrl", "T", "b2", 8), ("STAT1", "B", "b1", 5), ("IFNB", "T", "b2", 5))


def a_dataset(
    obs: pd.DataFrame | None = None,
    genes: tuple[str, ...] = GENES,
    obsm: dict[str, int] | None = None,
    scale: ScaleDecision | None = None,
    expression: str | None = "X",
    choices: Choices | None = None,
    **labels: str | None,
) -> Dataset:
    obs = cells(*USUAL) if obs is None else obs
    n = len(obs)
    columns = {name: pd.Categorical(obs[name]) for name in obs}
    named = {"perturbation_key": "pert", "control": "ctrl", "context_key": "cell_type", "batch_key": "batch", **labels}
    named = {k: v for k, v in named.items() if v is None or v == "" or k == "control" or v in columns}
    widths = {**({expression: len(genes)} if expression else {}), **{f"obsm/{k}": w for k, w in (obsm or {}).items()}}
    matrices = tuple(MatrixFacts(name, "dense", n, w, "float32", n * w, 4 * n * w) for name, w in widths.items())
    facts = FileFacts(Path("x.h5ad"), 1, 1, n, len(genes), 1, matrices)
    decided = scale or ScaleDecision("log1p", ("Evidence.",), depth=1e4)
    return Dataset(
        Path("x.h5ad"), choices or Choices(), facts, decide_labels(columns, **named), gene_names({"": genes}), expression, decided, columns
    )  # fmt: skip


def the(report: Compatibility, code: str) -> Finding:
    found = [f for f in report.findings if f.code == code]
    assert len(found) == 1, f"{code}: {[f.code for f in report.findings]}"
    return found[0]


def codes(report: Compatibility, severity: str) -> list[str]:
    return [f.code for f in report.findings if f.severity == severity]


def test_all_is_well() -> None:
    report = check_compatibility(a_dataset(), a_card(), ("STAT1",), ("B",))
    assert codes(report, "warning") == codes(report, "blocking") == []
    assert codes(report, "ok") == ["genes", "scale", "control", "perturbations", "request", "contexts"]
    assert report.source == FeatureSource("X", tuple(range(100)), False, 0)
    assert require_compatible(report) is report.source


# Input


@pytest.mark.parametrize(
    ("n_there", "severity"),
    [(100, "ok"), (99, "ok"), (60, "ok"), (59, "warning"), (20, "warning"), (19, "blocking"), (0, "blocking")],
)
def test_genes_are_matched_by_name_wherever_they_are(n_there: int, severity: str) -> None:
    genes = tuple(reversed(GENES[:n_there])) + tuple(f"OTHER{i}" for i in range(100 - n_there))
    report = check_compatibility(a_dataset(genes=genes), a_card())
    finding = the(report, "genes")
    assert (finding.severity, finding.title) == (severity, f"{n_there} of 100 genes matched")
    if severity == "blocking":
        assert report.source is None and "column of gene names" in finding.fix and "GENE0, GENE1, GENE2" in finding.fix
        return
    assert report.source is not None
    assert report.source.columns == tuple(n_there - 1 - i for i in range(n_there)) + (-1,) * (100 - n_there)
    assert report.source.n_missing == 100 - n_there
    assert ("filled with zero" in finding.detail) == (n_there < 100)
    assert ("unreliable" in finding.detail) == (severity == "warning")


def test_an_x_hvg_without_names_is_used_only_where_names_lead_nowhere() -> None:
    assert check_compatibility(a_dataset(obsm={"X_hvg": 100}), a_card()).source == FeatureSource("X", tuple(range(100)))
    foreign = tuple(f"OTHER{i}" for i in range(50))
    report = check_compatibility(a_dataset(genes=foreign, obsm={"X_hvg": 100}), a_card())
    assert report.source == FeatureSource("obsm/X_hvg")
    assert the(report, "genes").severity == "warning" and "cannot be checked" in the(report, "genes").detail
    assert not [f for f in report.findings if f.code == "scale"]
    assert check_compatibility(a_dataset(genes=foreign, obsm={"X_hvg": 99}), a_card()).source is None


def test_no_expression_in_the_file() -> None:
    nothing = ScaleDecision(None, ())
    report = check_compatibility(a_dataset(expression=None, scale=nothing, obsm={"X_pca": 50}), a_card())
    assert "representation" in codes(report, "blocking") and "obsm/X_pca (50)" in the(report, "representation").detail
    report = check_compatibility(a_dataset(expression=None, scale=nothing, obsm={"X_hvg": 100}), a_card())
    assert report.source == FeatureSource("obsm/X_hvg") and report.blocking == ()


def test_a_model_that_does_not_name_its_genes() -> None:
    unnamed = a_card(input_genes=None, output_genes=None)
    report = check_compatibility(a_dataset(genes=GENES[:40], obsm={"X_hvg": 100}), unnamed)
    assert report.source == FeatureSource("obsm/X_hvg")
    assert (the(report, "genes").severity, the(report, "names").severity) == ("warning", "warning")
    report = check_compatibility(a_dataset(), unnamed)  # the file holds just as many genes
    assert report.source == FeatureSource("X") and the(report, "genes").severity == "warning"
    assert not [f for f in report.findings if f.code == "names"]
    report = check_compatibility(a_dataset(genes=GENES[:99]), unnamed)
    assert report.source is None
    assert the(report, "representation").severity == "blocking" and "X (99)" in the(report, "representation").detail
    report = check_compatibility(a_dataset(genes=GENES[:40], obsm={"X_hvg": 99}), unnamed)
    assert the(report, "width").title == "obsm/X_hvg has 99 genes instead of 100"
    whole = dataclasses.replace(unnamed, input_key=keys.X)
    assert the(check_compatibility(a_dataset(genes=GENES[:99], obsm={"X_hvg": 100}), whole), "width").severity == "blocking"
    counts = a_dataset(scale=ScaleDecision("counts", ()))
    assert check_compatibility(counts, whole).source == FeatureSource("X", None, True)


def an_embedding_card(**changes: Any) -> ModelCard:
    config = dataclasses.replace(a_card(64).config, output_space="embedding", decoder=DecoderConfig(64, 100, (8,)))
    return a_card(64, config=config, input_key="X_state", input_genes=None, scale=None, **changes)


def test_an_embedding() -> None:
    report = check_compatibility(a_dataset(obsm={"X_state": 64}, scale=ScaleDecision(None, ())), an_embedding_card())
    assert report.source == FeatureSource("obsm/X_state") and report.blocking == ()
    assert "64 features" in the(report, "representation").title
    known = check_compatibility(a_dataset(obsm={"X_state": 64}), an_embedding_card(embedding_model="abcdef0123456789"))
    assert "abcdef012345." in the(known, "embedding-model").detail and the(known, "embedding-model").severity == "warning"


WANTED = "abcdef0123456789" * 4


@pytest.mark.parametrize(
    ("made", "wanted", "allowed", "severity"),
    [
        (WANTED, WANTED, False, "ok"),
        ("0" * 64, WANTED, False, "blocking"),
        ("0" * 64, WANTED, True, "warning"),
        ("0" * 64, None, False, "warning"),
        ("", WANTED, False, "warning"),
    ],
)
def test_the_record_of_an_embedding_decides_and_not_its_width(
    made: str, wanted: str | None, allowed: bool, severity: str
) -> None:
    dataset = dataclasses.replace(a_dataset(obsm={"X_state": 64}), embeddings={"X_state": EmbeddingFacts(made, "Demo SE")})
    report = check_compatibility(dataset, an_embedding_card(embedding_model=wanted), allow_other_embedding=allowed)
    assert the(report, "embedding-model").severity == severity
    assert (report.source is None) == (severity == "blocking")
    if made and severity != "ok":
        assert "Demo SE (000000000000) made obsm/X_state" in the(report, "embedding-model").detail


def test_an_embedding_that_is_missing_or_another() -> None:
    report = check_compatibility(a_dataset(obsm={"X_pca": 50, "X_emb": 64}), an_embedding_card())
    finding = the(report, "embedding")
    assert report.source is None and finding.severity == "blocking"
    assert "State Embedding (SE) model" in finding.fix and "If obsm/X_emb is that embedding, rename it to X_state" in finding.fix
    report = check_compatibility(a_dataset(obsm={"X_state": 63}), an_embedding_card())
    assert the(report, "width").severity == "blocking" and "64 features, obsm/X_state has 63" in the(report, "width").detail


@pytest.mark.parametrize(
    ("scale", "wanted", "severity", "normalise"),
    [
        (ScaleDecision("counts", ()), "log1p", "ok", True),
        (ScaleDecision("counts", ()), None, "ok", True),
        (ScaleDecision("counts", ()), "counts", "ok", False),
        (ScaleDecision("log1p", (), depth=None), "log1p", "ok", False),
        (ScaleDecision("log1p", (), depth=10_499), "log1p", "ok", False),
        (ScaleDecision("log1p", (), depth=10_501), "log1p", "warning", False),
        (ScaleDecision("log1p", (), depth=1_000), "log1p", "warning", False),
        (ScaleDecision("log1p", ("Sums alike.",)), "counts", "blocking", None),
        (ScaleDecision(None, ("Negative values.",), fix="Choose a layer."), "log1p", "blocking", None),
    ],
)
def test_scale(scale: ScaleDecision, wanted: Any, severity: str, normalise: bool | None) -> None:
    report = check_compatibility(a_dataset(scale=scale), a_card(scale=wanted))
    finding = the(report, "scale")
    assert finding.severity == severity
    assert all(sentence in finding.detail for sentence in scale.evidence)
    assert (report.source.normalise if report.source else None) is normalise


def test_counts_with_normalisation_switched_off() -> None:
    data = a_dataset(scale=ScaleDecision("counts", ()), choices=Choices(normalise=False))
    report = check_compatibility(data, a_card())
    assert report.source is None and the(report, "scale").fix == "Switch normalisation on."


# Labels


def test_control_under_another_name() -> None:
    data = a_dataset()
    other = a_card(control="non-targeting", perturbations=("non-targeting", "STAT1", "IFNB"))
    finding = the(check_compatibility(data, other), "control")
    assert (finding.severity, finding.title) == ("ok", "18 control cells")
    assert "'ctrl'" in finding.detail and "'non-targeting'" in finding.detail
    both = a_dataset(cells(*USUAL, ("non-targeting", "B", "b1", 3)))
    finding = the(check_compatibility(both, other), "control")
    assert finding.severity == "warning" and "3 cells are labelled 'non-targeting'" in finding.detail


def test_control_that_nobody_knows() -> None:
    report = check_compatibility(a_dataset(cells(("A", "B", "", 5), ("C", "B", "", 5)), control=None), a_card())
    finding = the(report, "control")
    assert finding.severity == "blocking" and "A, C" in finding.detail and "Choose the label" in finding.fix
    assert not [f for f in report.findings if f.code in ("pool", "no-controls")]
    report = check_compatibility(a_dataset(pd.DataFrame({"x": ["1", "2"]}), perturbation_key=None, control=None), a_card())
    assert the(report, "control").severity == "blocking"


def test_a_model_without_its_control() -> None:
    report = check_compatibility(a_dataset(), a_card(perturbations=("STAT1", "IFNB", "TNF")))
    assert [f.title for f in report.blocking] == ["The model does not know its own control"]


def test_controls_without_a_context() -> None:
    report = check_compatibility(a_dataset(cells(("ctrl", "", "b1", 5), ("STAT1", "B", "b1", 5))), a_card())
    assert the(report, "control").title == "There are no control cells to start from"


def test_all_cells_declared_controls() -> None:
    data = a_dataset(pd.DataFrame({"cell_type": ["B"] * 9}), perturbation_key="", control=None, batch_key=None)
    report = check_compatibility(data, a_card())
    assert the(report, "control").title == "9 control cells"
    assert "control cells only" in the(report, "perturbations").detail


def test_perturbations_of_the_data() -> None:
    data = a_dataset(cells(*USUAL, ("stat-1", "B", "b1", 2), ("TP53", "B", "b1", 2)))
    finding = the(check_compatibility(data, a_card()), "perturbations")
    assert (finding.severity, finding.title) == ("ok", "The model knows 2 of 4 perturbations of your data")
    assert finding.detail.startswith("It knows 2 in all.") and finding.detail.endswith("Not known: TP53, stat-1.")
    assert finding.fix == "'stat-1' may be 'STAT1'."


def test_a_model_that_knows_none_of_the_perturbations_is_no_green_tick() -> None:
    data = a_dataset(cells(("ctrl", "B", "b1", 5), ("stim", "B", "b1", 5)))
    finding = the(check_compatibility(data, a_card()), "perturbations")
    assert (finding.severity, finding.title) == ("warning", "The model knows 0 of 1 perturbation of your data")
    assert "Nothing measured tells how good a prediction is." in finding.detail and "Not known: stim." in finding.detail


@pytest.mark.parametrize(("allow", "severity"), [(False, "blocking"), (True, "warning")])
def test_perturbations_asked_for(allow: bool, severity: str) -> None:
    report = check_compatibility(a_dataset(), a_card(), ("STAT1", "stat1", "TP53"), allow_unknown=allow)
    finding = the(report, "request")
    assert (finding.severity, finding.title) == (severity, "2 of 3 chosen perturbations are not known")
    assert "stat1, TP53" in finding.detail and finding.fix == "'stat1' may be 'STAT1'."
    assert ("effect is zero" in finding.detail) is allow
    assert not [f for f in check_compatibility(a_dataset(), a_card()).findings if f.code == "request"]
    alone = the(check_compatibility(a_dataset(), a_card(), ("TP53",)), "request")
    assert alone.title == "1 of 1 chosen perturbation is not known"


def test_perturbations_never_trained_but_known_by_their_vectors() -> None:
    known = ("ctrl", "STAT1", "IFNB", "TNF")
    card = a_card(perturbations=known, perturbation_encoding="features", unseen=("TNF",))
    never = the(check_compatibility(a_dataset(), card, ("IFNB", "TNF")), "unseen")
    assert (never.severity, never.title) == ("warning", "1 of 2 chosen perturbations was never trained")
    assert "feature vectors alone: TNF." in never.detail
    beside_unknown = check_compatibility(a_dataset(), card, ("TNF", "NOBODY"), allow_unknown=True)
    assert the(beside_unknown, "unseen").severity == the(beside_unknown, "request").severity == "warning"
    assert "unseen" not in [f.code for f in check_compatibility(a_dataset(), card, ("IFNB",)).findings]
    assert (
        "1 of the model's labels was never trained and has a"
        in the(check_compatibility(a_dataset(), card), "perturbations").detail
    )


@pytest.mark.parametrize(("allow", "severity"), [(False, "blocking"), (True, "warning")])
def test_batches(allow: bool, severity: str) -> None:
    card = a_card(batch_dim=2)
    assert the(check_compatibility(a_dataset(), card, allow_unknown=allow), "batches").severity == "ok"
    strange = a_dataset(cells(*USUAL, ("ctrl", "B", "b3", 1), ("ctrl", "B", "", 1)))
    finding = the(check_compatibility(strange, card, allow_unknown=allow), "batches")
    assert (finding.severity, finding.title) == (severity, "2 of 4 batches are not known")
    assert "b3, (no label)" in finding.detail and ("treated as batch 'b1'" in finding.detail) is allow
    none = check_compatibility(a_dataset(batch_key=""), card, allow_unknown=allow)
    assert (the(none, "batches").severity, the(none, "batches").title) == (severity, "No batch column")
    assert not [f for f in check_compatibility(strange, a_card()).findings if f.code == "batches"]


def test_contexts() -> None:
    data = a_dataset(cells(*USUAL, ("ctrl", "NK", "b1", 9)))
    finding = the(check_compatibility(data, a_card()), "contexts")
    assert (finding.severity, finding.title) == ("warning", "1 of 3 contexts was not in training")
    assert "not tested for unseen cell types: NK" in finding.detail
    held = replace(a_card(), training=TrainingSummary(conditions=(ConditionScores("NK", "x", {"mae_corrected": 0.1}),)))
    detail = the(check_compatibility(data, held), "contexts").detail
    assert "NK: held out in its training and tested" in detail and "not tested" not in detail
    assert the(check_compatibility(data, a_card(), None, ("B", "T")), "contexts").severity == "ok"
    assert the(check_compatibility(data, a_card(contexts=())), "contexts").title == "Trained contexts are not known"
    report = check_compatibility(data, a_card(), None, ("B", "Mono"))
    assert the(report, "contexts").severity == "blocking" and "Mono" in the(report, "contexts").detail
    nothing = check_compatibility(a_dataset(context_key=""), a_card())
    assert the(nothing, "contexts").title == "No context column"
    assert not [f for f in nothing.findings if f.code == "one-context"]
    one = check_compatibility(a_dataset(cells(("ctrl", "B", "b1", 9))), a_card())
    assert the(one, "one-context").severity == "ok"


# Cells


def test_pools_smaller_than_a_set() -> None:
    data = a_dataset(cells(("ctrl", "B", "b1", 8), ("ctrl", "T", "b1", 7), ("STAT1", "B", "b1", 3)))
    assert control_pools(data) == {"B": 8, "T": 7}
    finding = the(check_compatibility(data, a_card()), "pool")
    assert finding.severity == "warning" and "sets of 8 cells" in finding.detail and "T (7)" in finding.detail
    assert "B (" not in finding.detail
    assert not [f for f in check_compatibility(data, a_card(), None, ("B",)).findings if f.code == "pool"]


def test_contexts_without_controls() -> None:
    data = a_dataset(cells(*USUAL, ("STAT1", "NK", "b1", 3)))
    assert the(check_compatibility(data, a_card()), "no-controls").severity == "warning"
    finding = the(check_compatibility(data, a_card(), None, ("B", "NK")), "no-controls")
    assert (finding.severity, finding.title) == ("blocking", "1 of 2 contexts has no control cells")
    alone = the(check_compatibility(data, a_card(), None, ("NK",)), "no-controls")
    assert alone.severity == "blocking" and "In NK." in alone.detail


# The model


def test_what_the_model_itself_is() -> None:
    assumed = check_compatibility(
        a_dataset(), a_card(attention_source="Assumed: the checkpoint does not say.", attention_origin="assumed")
    )
    assert the(assumed, "attention").severity == "warning" and "Mode 'full'" in the(assumed, "attention").detail
    foreign = a_dataset(cells(*USUAL, ("TP53", "B", "b1", 2)))
    assert the(check_compatibility(foreign, a_card(simulated=True)), "simulated").severity == "warning"
    assert the(check_compatibility(a_dataset(), a_card(simulated=True)), "simulated").severity == "ok"
    assert the(check_compatibility(a_dataset(context_key=""), a_card(simulated=True)), "simulated").severity == "warning"


# All together


def test_real_cells(real_data: Path) -> None:
    data = open_dataset(real_data / "kang_ifnb.h5ad")
    genes = (*data.genes.names[:80:2], "NOT-A-GENE")
    card = a_card(len(genes), input_genes=genes, output_genes=genes, control="resting", perturbations=("resting", "IFNB", "TNF"))
    report = check_compatibility(data, card, ("IFNB",), data.contexts[:2])
    assert (the(report, "genes").title, the(report, "scale").title) == ("40 of 41 genes matched", "Values are counts")
    assert the(report, "control").severity == "ok" and the(report, "contexts").severity == "warning"
    features = read_features(data, require_compatible(report), np.arange(3))
    assert features.shape == (3, 41) and (features[:, -1] == 0).all() and features.max() < np.log1p(1e4)
    assert list(control_pools(data).values()) == [len(data.control_rows(c)) for c in data.contexts]


def test_everything_wrong_is_said_at_once() -> None:
    data = a_dataset(genes=("A", "B"), scale=ScaleDecision(None, ()), batch_key="")
    report = check_compatibility(data, a_card(batch_dim=2), ("X",), ("Z",))
    assert codes(report, "blocking") == ["genes", "request", "batches", "contexts"]
    assert all(f.title and f.fix for f in report.blocking)
    with pytest.raises(IncompatibleError) as caught:
        require_compatible(report)
    assert all(f.title in str(caught.value) and f.fix in str(caught.value) for f in report.blocking)


def test_the_order_of_severity_properties() -> None:
    report = check_compatibility(a_dataset(), a_card(simulated=True, contexts=()), ("nothing",))
    assert [f.code for f in report.blocking] == ["request"]
    assert [f.code for f in report.warnings] == ["contexts", "simulated"]


def test_fast_on_many_cells_and_genes() -> None:
    n, g = 1_000_000, 18_000
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "pert": pd.Categorical.from_codes(rng.integers(0, 2_000, n), [f"p{i:04d}" for i in range(1_999)] + ["ctrl"]),
            "cell_type": pd.Categorical.from_codes(rng.integers(0, 50, n), [f"c{i:02d}" for i in range(50)]),
        }
    )
    genes = tuple(f"GENE{i}" for i in range(g))
    card = a_card(input_genes=genes[:2000], output_genes=genes[:2000], perturbations=("ctrl", *(f"q{i}" for i in range(5000))))
    data = a_dataset(obs, genes=genes, batch_key=None)
    data = dataclasses.replace(data, file=dataclasses.replace(data.file, n_cells=n))
    asked = tuple(f"p{i:04d}" for i in range(1_000))
    start = time.process_time()
    report = check_compatibility(data, card, asked)
    assert time.process_time() - start < 5, (
        "it looks at each label of each cell"
    )  # 0.1 s; of the processor, as other programs may be busy
    assert the(report, "genes").title == "2,000 of 2,000 genes matched"


def test_torch_is_not_imported() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, state_engine.prediction.compatibility; assert 'torch' not in sys.modules"], check=True
    )


@pytest.mark.parametrize(
    ("scale", "severity", "words", "factor", "depth"),
    [
        (ScaleDecision("counts", ()), "ok", "normalised to 1,000,000 per cell", 1, 1e6),
        (ScaleDecision("log1p", (), depth=1.02e6), "ok", "As the model reads them", 1, 1e4),
        (ScaleDecision("log1p", (), depth=1e4), "ok", "to 10,000 per cell and are brought to 1,000,000", 100, 1e4),
        (ScaleDecision("log1p", (), cell_sum=3e3), "warning", "trained at 1,000,000 per cell", 1, 1e4),
        (ScaleDecision("log1p", (), cell_sum=2e6), "blocking", "sum to 2,000,000 (median)", None, None),
    ],
)
def test_the_depth_of_the_data_is_compared_with_the_models(
    scale: ScaleDecision, severity: str, words: str, factor: float | None, depth: float | None
) -> None:
    report = check_compatibility(a_dataset(scale=scale), a_card(depth=1e6))
    finding = the(report, "scale")
    assert finding.severity == severity and words in finding.detail
    assert (report.source and report.source.factor) == factor and (report.source and report.source.depth) == depth
