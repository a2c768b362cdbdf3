"""The demo: what is committed is what the code makes, it fits into the repository, and its model is worth showing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from state_engine.checkpoints.embedding_card import read_embedding_card
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.held import HeldOut
from state_engine.demo.cells import HELD_OUT, TABLES, Design, write_simulated
from state_engine.demo.embedding import LOSSES, SCHEDULE, SIZES, demo_genes, demo_request, demo_vectors, write_vectors
from state_engine.demo.transition import TRAINING, Demo, demo_split, readme, rebuild
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.errors import JobCancelled
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.request import Schedule
from state_engine.progress import Progress
from state_engine.train.curves import read_curve
from state_engine.train.fit import train_transition

TINY = TRAINING.with_settings(steps=3, sets_a_step=2, set_size=8, hidden=16, layers=1, heads=2)
SHORT = TINY.with_settings(steps=60)
FEW = Schedule(steps=3)
COMPARED = 25  # steps of the pretraining: later ones drift with the rounding of the machine
SMALL_DATA = Design(n_cells=500)


def test_the_demo_fits_into_the_repository():
    size = sum(f.stat().st_size for f in TABLES.rglob("*") if f.is_file())
    assert 1e6 < size < 12e6


def test_the_demo_data_open_without_a_question():
    dataset = open_dataset(TABLES / "demo.h5ad")
    assert (dataset.n_cells, dataset.n_genes, dataset.scale.scale) == (6000, 1300, "counts")
    labels = dataset.labels
    assert (labels.perturbation_key, labels.control) == ("perturbation", "control")
    assert (labels.context_key, labels.batch_key) == ("cell_type", "batch")
    assert dataset.table().shape == (15, 5) and int(dataset.table().to_numpy().min()) >= 40


def test_the_demo_model_beats_no_change_on_what_it_never_saw():
    card = read_card(TABLES / "model")
    scores = card.training.scores
    assert card.simulated and card.training.held_out == tuple(HeldOut(c, p) for c, p in HELD_OUT)
    assert scores["mae_corrected"] < scores["mae_none"]
    assert {"mae_mean", "r_paired", "r_mean"} <= set(scores)  # the other baseline is shown, whatever came out
    assert card.input_genes == open_dataset(TABLES / "demo.h5ad").genes.names


def test_the_demo_model_loads_and_its_readme_has_its_numbers():
    loaded = load_model(TABLES / "model")
    assert loaded.card.id == loaded.card.weights_hash[:12]
    assert (TABLES / "README.md").read_text() == readme(6000, 1300, loaded.card)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Demo, list[str]]:
    """A small demo and the stages that its rebuild told."""
    stages: list[str] = []
    folder = tmp_path_factory.mktemp("demo")
    return rebuild(folder, lambda p: stages.append(p.stage), SMALL_DATA, SHORT, FEW), stages


def test_rebuilding_makes_data_model_and_readme(small: tuple[Demo, list[str]]):
    demo, stages = small
    folder = demo.data.parent
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "demo.h5ad", "embedding", "model"]
    assert demo.card == read_card(demo.model) and "NK x IFN-beta" in (folder / "README.md").read_text()
    assert stages[0] == "Simulating cells" and "Training" in stages and "Pretraining" in stages


def test_a_rebuild_repeats_itself(small: tuple[Demo, list[str]], tmp_path: Path):
    first, again = small[0], rebuild(tmp_path, design=SMALL_DATA, training=SHORT, pretraining=FEW)
    assert first.data.read_bytes() == again.data.read_bytes()
    assert again.card.training.flat() == pytest.approx(first.card.training.flat(), abs=1e-3)
    one, other = (load_file(d.data.parent / "embedding" / "model.safetensors") for d in (first, again))
    assert one.keys() == other.keys() and all(np.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_a_cancelled_rebuild_leaves_the_demo_as_it_was(small: tuple[Demo, list[str]], tmp_path: Path):
    shutil.copytree(small[0].data.parent, tmp_path, dirs_exist_ok=True)
    before = read_card(tmp_path / "model")

    def cancel(progress):
        if progress.stage == "Training":
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        rebuild(tmp_path, cancel, SMALL_DATA, TINY.with_settings(seed=1))
    assert read_card(tmp_path / "model") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "demo.h5ad", "embedding", "model"]


@pytest.mark.slow
def test_the_committed_data_are_what_the_code_makes(tmp_path: Path):
    import anndata

    made = anndata.read_h5ad(write_simulated(tmp_path / "demo.h5ad"))
    committed = anndata.read_h5ad(TABLES / "demo.h5ad")
    assert (made.X != committed.X).nnz == 0 and made.obs.equals(committed.obs)


@pytest.mark.slow
def test_half_the_training_already_beats_no_change(tmp_path: Path):
    """On the committed data, which are what the code makes (above)."""
    split = demo_split(open_dataset(TABLES / "demo.h5ad"))
    scores = train_transition(split, TRAINING.with_settings(steps=1000), tmp_path / "run").training.scores
    assert scores["mae_corrected"] < scores["mae_none"]


def test_the_demo_embedding_is_what_the_code_pretrains_and_says_that_its_cells_are_simulated():
    card = read_embedding_card(TABLES / "embedding")
    sizes = (card.config.hidden, card.config.layers, card.config.output_dim, card.config.tokens, card.config.token_dim)
    assert sizes == (SIZES.hidden, SIZES.layers, SIZES.output_dim, SIZES.tokens, SIZES.gene_width)
    assert card.vocabulary == demo_genes(open_dataset(TABLES / "demo.h5ad")) and card.training.steps == SCHEDULE.steps
    assert "simulated" in card.name and card.simulated and "simulated cells" in card.limits[0]
    assert sum(f.stat().st_size for f in (TABLES / "embedding").iterdir()) < 2e6


@pytest.mark.slow
def test_the_demo_embedding_is_pretrained_to_the_committed_numbers(tmp_path: Path):
    """The gene vectors are learnt to the committed ones, and from these the first steps have the committed losses."""
    data = open_dataset(TABLES / "demo.h5ad")
    genes, committed = demo_genes(data), load_file(TABLES / "embedding" / "genes.safetensors")["vectors"]
    made = demo_vectors(data, genes)
    assert np.allclose(made @ made.T, committed @ committed.T, atol=1e-3)

    def enough(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.done == COMPARED:
            raise JobCancelled("Enough.")

    with pytest.raises(JobCancelled):
        pretrain_embedding(demo_request(data.path, write_vectors(tmp_path, genes, committed)), tmp_path / "run", enough)
    losses, steps = (read_curve(path)["loss"] for path in (tmp_path / "run" / "log.csv", TABLES / "embedding" / LOSSES))
    assert len(losses) == COMPARED and len(steps) == SCHEDULE.steps
    assert losses == pytest.approx(steps[:COMPARED], rel=0.01)
    assert np.mean(steps[-50:]) < 0.9 * np.mean(steps[:COMPARED])


@pytest.mark.slow
def test_the_committed_weights_are_those_behind_the_last_step(tmp_path: Path):
    """A step more from them has a loss like the last ones, and not that of a new network."""
    committed = TABLES / "embedding"
    request = replace(demo_request(TABLES / "demo.h5ad", Path()), genes="", init_from=str(committed), schedule=Schedule(steps=10))
    pretrain_embedding(request, tmp_path / "run")
    steps, more = read_curve(committed / LOSSES)["loss"], read_curve(tmp_path / "run" / "log.csv")["loss"]
    assert more[0] < max(steps[-100:]) < min(steps[:3])


@pytest.mark.slow
def test_the_demo_embedding_keeps_cell_types_apart(tmp_path: Path):
    request = EmbedRequest(str(TABLES / "demo.h5ad"), str(TABLES / "embedding"), device="cpu")
    embed(request, tmp_path / "x.npy")
    values = np.load(tmp_path / "x.npy")[::12]
    cells, types = values[:, :64], open_dataset(TABLES / "demo.h5ad").context_labels()[::12]
    similar = cells @ cells.T
    np.fill_diagonal(similar, -2)
    assert (types[similar.argmax(1)] == types).mean() > 0.9
