"""Adapting a model: labels and genes are matched by name whatever their order, and only what shall change does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import read_card, save_model
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.effects.store import load_effects
from state_engine.effects.table import EffectTable
from state_engine.errors import CheckpointError, ConfigError, GeneError, JobCancelled, RepresentationError, RequestError
from state_engine.files import alone_in
from state_engine.models.transition import TransitionModel
from state_engine.progress import Progress
from state_engine.train.adapt import adapting, fit_of, from_scratch, genes_there, with_effects
from state_engine.train.fit import train_transition
from state_engine.train.request import Optimiser, TrainRequest
from state_engine.train.run_folder import LOCK, RECORD, read_record, write_record
from state_engine.train.start_weights import FIRST_LINEAR
from state_engine.train.tune import NewRows, new_rows, tune
from tests.small import card_of, config, write_cells, write_model
from tests.train.small import SMALL, make_data, opened

SCREEN = "mine"
NEW, TYPE = "my drug", "my cells"
KNOWN = ("IFN-beta", "TNF", "Dexamethasone")


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model of four cell types and all perturbations."""
    folder = tmp_path_factory.mktemp("start")
    data = make_data(folder, 800)
    plan = SplitPlan((("pbmc", str(data)),), ("pbmc",), (ZeroShot("pbmc", "NK", "test"),))
    train_transition(opened(data, plan=plan), SMALL.with_settings(steps=20, validate_every=0), folder / "run")
    return folder / "run" / "model"


def write_screen(folder: Path, start: Path, lacking: int = 3) -> Path:
    """NK cells under another name, three perturbations that the model knows and one that it does not, genes in another order, some lacking."""
    cells = anndata.read_h5ad(start.parents[1] / "pbmc.h5ad")
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    labels = np.where(labels == "LPS", NEW, labels)
    kept = (cells.obs["cell_type"] == "NK").to_numpy() & np.isin(labels, ["control", *KNOWN, NEW])
    genes = [*read_card(start).input_genes]
    others = [g for g in cells.var_names if g not in genes]
    order = [*reversed(genes[lacking:]), *others]
    mine = cells[kept, order].copy()
    mine.obs["perturbation"], mine.obs["cell_type"] = labels[kept], TYPE
    mine.write_h5ad(folder / "mine.h5ad")
    return folder / "mine.h5ad"


def split_of_screen(data: Path, test: tuple[str, ...] = ("TNF",)) -> Split:
    plan = SplitPlan(((SCREEN, str(data)),), (SCREEN,), (), (FewShot(SCREEN, TYPE, (), test),) if test else ())
    return apply_plan(plan, [(SCREEN, open_dataset(data))])


@pytest.fixture(scope="module")
def data(start: Path, tmp_path_factory) -> Path:
    return write_screen(tmp_path_factory.mktemp("mine"), start)


@pytest.fixture(scope="module")
def adapted(start: Path, data: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapted") / "run"
    train_transition(split_of_screen(data), small(start), folder, init_from=start)
    return folder


def small(start: Path, **changes: object) -> TrainRequest:
    return adapting(SMALL, read_card(start)).with_settings({"steps": 8, "learning_rate": 1e-2, "validate_every": 0, **changes})


def place(card: ModelCard, label: str) -> int:
    return card.perturbations.index(label)


def test_what_the_model_knows_is_counted_by_name(start: Path, data: Path) -> None:
    fit = fit_of(split_of_screen(data), read_card(start))
    assert set(fit.perturbations.known) == {*KNOWN} and fit.perturbations.new == (NEW,)
    assert fit.contexts.new == (TYPE,) and fit.batches is None
    assert fit.missing == read_card(start).input_genes[:3] and len(fit.genes) == 57 and len(fit.kept) == 11
    said = fit.sentences()
    assert said[0] == f"3 of 4 perturbations known to the model; new: {NEW}."
    assert said[1] == f"0 of 1 context known to the model; new: {TYPE}."
    assert said[2].startswith("57 of the 60 genes of the model are in the data; missing and left out of the network: ")


def test_an_adapted_model_knows_its_own_labels_and_those_of_its_start(start: Path, adapted: Path) -> None:
    card, before = read_card(adapted / "model"), read_card(start)
    assert set(card.perturbations) == {*before.perturbations, NEW} and card.perturbations[0] == "control"
    assert card.contexts == (TYPE, *before.contexts) and card.unseen == ()
    assert card.input_genes == card.output_genes == before.input_genes[3:]
    assert card.config.backbone == before.config.backbone and card.config.final_relu == before.config.final_relu
    record = read_record(adapted)
    assert record.init_from == str(start) and f"3 of 4 perturbations known to the model; new: {NEW}." in record.notes
    # what its start measured serves as baselines beside what is measured here
    effects = load_effects(adapted)
    assert effects is not None and effects.features == card.output_genes
    assert TYPE not in effects.contexts_of("TNF") and set(before.contexts) & set(effects.contexts_of("TNF"))
    assert (NEW, TYPE) in set(zip(effects.perturbations, effects.contexts, strict=True))


def test_with_adapters_only_they_and_new_labels_change(start: Path, adapted: Path) -> None:
    """The adapters are merged into the linears; all that has none is as it was, bit for bit."""
    old, new = load_model(start), load_model(adapted / "model")
    before, after = old.module.state_dict(), new.module.state_dict()
    for label in old.card.perturbations:
        assert torch.equal(after[FIRST_LINEAR][:, place(new.card, label)], before[FIRST_LINEAR][:, place(old.card, label)]), label
    for name in before:
        if (name.endswith("bias") and not name.startswith("project_out")) or "norm" in name:
            assert torch.equal(after[name], before[name]), name
    qkv = "backbone.layers.0.attention.qkv.weight"
    assert not torch.equal(after[qkv], before[qkv])
    change = (after[qkv] - before[qkv]).double()
    # three adapters (queries, keys, values) of rank 8 at most; hidden 16, so each part's change has at most rank 8
    assert int(torch.linalg.matrix_rank(change[: len(change) // 3], atol=1e-6)) <= 8


def test_without_a_step_the_adapted_model_predicts_as_before(start: Path, data: Path, tmp_path: Path) -> None:
    """Genes that the data lack go in as zeros before, and not at all after: the same numbers for the others."""
    request = small(start).with_settings(steps=1, learning_rate=1e-30)
    train_transition(split_of_screen(data), request, tmp_path / "run", init_from=start)
    old, new = load_model(start), load_model(tmp_path / "run" / "model")
    basal = torch.rand(1, 8, 57, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([torch.zeros(1, 8, 3), basal], dim=-1)
    for label in KNOWN:
        one, other = place(old.card, label), place(new.card, label)
        expected = old.module(whole, old.perturbation_features[[one]], attention="full").predicted[..., 3:]
        given = new.module(basal, new.perturbation_features[[other]], attention="full").predicted
        assert torch.allclose(given, expected, atol=1e-6), label


@pytest.mark.parametrize("how", ["last-1", "full"])
def test_last_layers_and_all_weights_can_be_trained(how: str, start: Path, data: Path, tmp_path: Path) -> None:
    request = small(start, tune=how, lora_rank=0, lora_feed=False)
    train_transition(split_of_screen(data), request, tmp_path / "run", init_from=start)
    old, new = load_model(start), load_model(tmp_path / "run" / "model")
    before, after = old.module.state_dict(), new.module.state_dict()
    same = torch.equal(after["basal_encoder.3.weight"], before["basal_encoder.3.weight"])
    assert same == (how == "last-1")
    assert not torch.equal(after["backbone.layers.0.feed.down.weight"], before["backbone.layers.0.feed.down.weight"])
    column = after[FIRST_LINEAR][:, place(new.card, "IFN-beta")]
    assert torch.equal(column, before[FIRST_LINEAR][:, place(old.card, "IFN-beta")]) == (how == "last-1")


def test_an_interrupted_adaptation_goes_on_to_the_same_model(start: Path, data: Path, adapted: Path, tmp_path: Path) -> None:
    def stop(progress) -> None:
        if progress.stage == "Training" and progress.done == 4:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        train_transition(split_of_screen(data), small(start), tmp_path / "run", stop, init_from=start)
    card = train_transition(split_of_screen(data), small(start), tmp_path / "run", resume=True, init_from=start)
    assert card.weights_hash == read_card(adapted / "model").weights_hash


def test_of_two_at_once_in_a_folder_the_second_is_refused(start: Path, data: Path, adapted: Path, tmp_path: Path) -> None:
    before = (adapted / RECORD).read_bytes()
    with (
        alone_in(adapted, LOCK, "trains in"),
        pytest.raises(RequestError, match=r"Another process trains in .*run. Two would do"),
    ):
        train_transition(split_of_screen(data), small(start), adapted, resume=True, init_from=start)
    assert (adapted / RECORD).read_bytes() == before

    def stop(progress: Progress) -> None:
        if progress.stage == "Choosing features":
            raise JobCancelled("stopped")

    folder = tmp_path / "run"
    with pytest.raises(JobCancelled):
        train_transition(split_of_screen(data), small(start), folder, stop, init_from=start)
    write_record(folder, replace(read_record(folder), state="running"))  # as after kill -9 before the first step
    with alone_in(folder, LOCK, "trains in"), pytest.raises(RequestError, match="Another process trains"):
        train_transition(split_of_screen(data), small(start), folder, init_from=start)
    with pytest.raises(JobCancelled):  # once the other is dead it begins again
        train_transition(split_of_screen(data), small(start), folder, stop, init_from=start)
    assert read_record(folder).state == "cancelled"


def test_what_does_not_fit_is_refused_in_a_sentence(start: Path, data: Path, tmp_path: Path) -> None:
    card, split = read_card(start), split_of_screen(data)
    with pytest.raises(GeneError, match=r"is a model of other genes than those of mine.h5ad.*3 of its 60 genes are there \(5%\)"):
        genes_there(split, replace(card, input_genes=(*card.input_genes[3:6], *(f"ENSG{i}" for i in range(57)))))
    narrow = replace(card, config=replace(card.config, output_space="genes"))
    with pytest.raises(GeneError, match=r"needs all of its 60 genes.*narrow layer.*lack 3: .*output space hvg"):
        fit_of(split, narrow)  # before anything is read or trained
    assert len(genes_there(split, replace(narrow, config=replace(narrow.config, predict_residual=False)))) == 57
    write_model(tmp_path / "embedded", input_dim=6, output_dim=6, output_space="embedding", final_relu=False)
    asked = adapting(SMALL, read_card(tmp_path / "embedded"))
    with pytest.raises(RepresentationError, match="X_state"):
        train_transition(split, asked, tmp_path / "run", init_from=tmp_path / "embedded")
    with pytest.raises(ConfigError, match=r"There is no model to adapt"):
        train_transition(split, small(start), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"network of the start is another one"):
        train_transition(split, small(start, hidden=24), tmp_path / "wide", init_from=start)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tune": "some"}, "'some' is nothing to train. Known: lora, last-N or full"),
        ({"tune": "last-0"}, "nothing to train"),
        ({"tune": "lora"}, "Adapters need a rank"),
        ({"tune": "last-2", "weight_decay": 0.1}, "Weight decay would move"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        Optimiser(**settings)


def test_with_adapters_nothing_else_is_trained_but_new_labels() -> None:
    network = TransitionModel(config())
    tune(network, Optimiser(tune="lora", lora_rank=2, lora_feed=True), NewRows((3,), True, (), ()))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert FIRST_LINEAR in trained and all(".a." in name or ".b." in name for name in trained - {FIRST_LINEAR})
    assert {name.split(".")[0] for name in trained} == {"perturbation_encoder", "basal_encoder", "backbone", "project_out"}
    network(torch.rand(1, 4, 24), torch.eye(4)[[2]], attention="full").predicted.sum().backward()
    gradient = dict(network.named_parameters())[FIRST_LINEAR].grad
    assert gradient is not None and not gradient[:, :3].any()


def test_more_last_layers_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no 3 last layers. The transformer has 2"):
        tune(TransitionModel(config()), Optimiser(tune="last-3"), NewRows((), True, (), ()))


def test_batches_are_matched_by_name(tmp_path: Path) -> None:
    """The model has lanes 1 and 2, the data lanes 2 and 3: the row of lane 2 stays, that of lane 3 is trained."""
    write_model(tmp_path / "model", batch_encoder=True, batch_dim=2)
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad", counts=False))
    cells.obs["batch"] = cells.obs["batch"].astype(str).map({"lane 1": "lane 3", "lane 2": "lane 2"}).to_numpy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    dataset = open_dataset(tmp_path / "cells.h5ad", Choices(scale="log1p"))
    split = apply_plan(SplitPlan((("d", str(dataset.path)),), ("d",)), [("d", dataset)])
    assert fit_of(split, read_card(tmp_path / "model")).batches.sentence == "1 of 2 batches known to the model; new: lane 3."
    asked = adapting(SMALL, read_card(tmp_path / "model")).with_settings(steps=5, learning_rate=1e-2)
    card = train_transition(split, asked, tmp_path / "run", init_from=tmp_path / "model")
    assert card.batches == ("lane 2", "lane 3")
    old, new = (load_model(tmp_path / place).module.state_dict()["batch_encoder.weight"] for place in ("model", "run"))
    assert torch.equal(new[0], old[1]) and not torch.equal(new[1], old[0])


def test_a_control_of_another_name_is_not_a_new_label(start: Path) -> None:
    card = read_card(start)
    renamed = replace(card, control="NT", perturbations=("NT", *card.perturbations[1:], NEW))
    assert new_rows(renamed, card).perturbations == (len(card.perturbations),)


def test_a_model_that_knows_features_needs_vectors_of_new_labels(tmp_path: Path) -> None:

    made = config(perturbation_dim=3)
    card = replace(card_of(made), perturbation_encoding="features")
    torch.manual_seed(0)
    save_model(tmp_path / "model", card, TransitionModel(made).state_dict(), torch.rand(4, 3))
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad", counts=False))
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace("IFNB1", "IL2").to_numpy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    dataset = open_dataset(tmp_path / "cells.h5ad", Choices(scale="log1p"))
    split = apply_plan(SplitPlan((("d", str(dataset.path)),), ("d",)), [("d", dataset)])
    asked = adapting(SMALL, card).with_settings(steps=2)
    with pytest.raises(CheckpointError, match=r"knows perturbations by vectors of 3 numbers.*need vectors too: IL2"):
        train_transition(split, asked, tmp_path / "run", init_from=tmp_path / "model")
    (tmp_path / "f.csv").write_text("label,a,b,c\nIL2,0.1,0.2,0.3\n")
    done = train_transition(
        split, asked.with_settings(features=str(tmp_path / "f.csv")), tmp_path / "run", init_from=tmp_path / "model"
    )
    assert {"IL2", "IFNB1"} <= {*done.perturbations} and done.unseen == ()
    assert done.config.perturbation_dim == 3


def test_the_training_from_scratch_has_the_same_network_and_steps(start: Path) -> None:
    asked, genes = small(start), ("A", "B")
    scratch = from_scratch(asked, genes)
    assert (scratch.optimiser.tune, scratch.optimiser.lora_rank, scratch.network.genes) == ("", 0, genes)
    assert scratch.optimiser.steps == asked.optimiser.steps and scratch.network.hidden == asked.network.hidden
    assert scratch.sets == asked.sets


def test_own_effects_count_before_those_of_the_start() -> None:
    def table(pairs, value, features=("a", "b")):
        contexts = {c for _, c in pairs}
        rows = [np.full(len(features), value, np.float32)] * len(pairs)
        controls = {c: np.full(len(features), value, np.float32) for c in contexts}
        return EffectTable.of_pairs(pairs, [1] * len(pairs), rows, controls, features, len(features))

    both = with_effects(table([("p", "x")], 1.0), table([("p", "x"), ("p", "y")], 2.0, ("b", "c", "a")))
    assert both.features == ("a", "b") and len(both.perturbations) == 2
    assert both.effect("p", "x").tolist() == [1, 1] and both.effect("p", "y").tolist() == [2, 2] and both.controls["x"][0] == 1
    own = table([("p", "x")], 1.0)
    assert with_effects(own, None) is own and with_effects(own, table([("p", "y")], 2.0, ("c",))) is own
