"""The jobs around embeddings, called as the worker calls them: the demo's model on cells of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.analysis import projection
from state_engine.config import Settings
from state_engine.embedding.gene_attention_table import load_cls_attention
from state_engine.embedding.jobs import Embedding, EmbedJob, GenesReadJob, Pick, SimilarJob, reference_folder
from state_engine.embedding.request import EmbedRequest
from state_engine.errors import JobCancelled, LabelError, RequestError
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import ConvertEmbeddingRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks import embedding as embed_tasks
from state_engine.jobs.tasks import library as library_tasks
from state_engine.library.datasets import DEMO_PATH, get_dataset, list_datasets
from state_engine.library.models import DEMO_EMBEDDING, EMBEDDINGS
from state_engine.library.trash import forget_dataset
from state_engine.plain import from_plain, to_plain
from state_engine.progress import Progress, silent
from state_engine.search import query as search

WARM = WarmCache()


@pytest.fixture(scope="module")
def files(module_home: Path) -> Path:
    """The folder beside the home, with two files of some of the demo's cells."""
    folder = module_home.parent
    cells = anndata.read_h5ad(DEMO_PATH)
    cells[:300].write_h5ad(folder / "one.h5ad")
    cells[300:420].write_h5ad(folder / "two.h5ad")
    return folder


@pytest.fixture
def settings(module_home: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(module_home))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(module_home.parent))
    return Settings(module_home)


def job(settings: Settings, kind: str, request: object) -> RunFolder:
    run = RunFolder.create(settings, kind, to_plain(request), kind)
    run.start()
    getattr(embed_tasks, kind)(request, run, silent, WARM)
    run.finish("done")
    return run


def request(module_home: Path, name: str) -> EmbedRequest:
    return EmbedRequest(str(module_home.parent / name), str(DEMO_EMBEDDING), device="cpu")


@pytest.fixture(scope="module")
def embedded(module_home: Path, files: Path) -> dict[str, Embedding]:
    """Both files embedded, the second not among the reference cells."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_EXPLORER_HOME", str(module_home))
        patch.setenv("STATE_EXPLORER_DATA", str(module_home.parent))
        for name in ("one", "two"):
            asked = EmbedJob(request(module_home, f"{name}.h5ad"), f"{name} (embedded)", reference=name == "one")
            run = job(Settings(module_home), "embed", asked)
            found[name] = from_plain(Embedding, json.loads(run.file(embed_tasks.RESULT).read_text()))
            found[f"{name} run"] = run
    return found


def test_an_embedding_becomes_a_data_set_with_a_map(settings: Settings, embedded: dict) -> None:
    made: Embedding = embedded["one"]
    entry = get_dataset(settings, made.data)
    assert (entry.name, entry.origin, entry.path) == ("one (embedded)", "made", made.path)
    cells = anndata.read_h5ad(made.path)
    assert cells.obsm["X_state"].shape == (300, made.width) and (made.cells, made.empty) == (300, 0)
    assert cells.X.sum() == anndata.read_h5ad(settings.home.parent / "one.h5ad").X.sum()
    drawn = projection.load(embedded["one run"].file(embed_tasks.MAP))
    assert len(drawn.xy) == 300 and "embedding X_state" in drawn.settings.note and np.isfinite(drawn.xy).all()
    manifest = embedded["one run"].manifest
    assert manifest.model_hash == made.model and "embed --model" in manifest.command
    assert made.simulated and "283 of 1,300 genes" in made.genes


def test_the_cells_become_reference_cells_when_asked(settings: Settings, embedded: dict) -> None:
    (table,) = search.tables(reference_folder(settings))
    assert table.cells == embedded["one"].reference == 300 and embedded["two"].reference == 0
    assert [d.name for d in table.datasets] == ["one (embedded)"] and table.model == embedded["one"].model


def test_similar_cells_are_of_the_same_kind(settings: Settings, embedded: dict) -> None:
    two: Embedding = embedded["two"]
    pick = Pick("cell_type", "B", words="B cells")
    run = job(settings, "similar", SimilarJob(two.path, two.key, pick, k=5))
    found = search.load(run.file(embed_tasks.SIMILAR))
    cells = anndata.read_h5ad(two.path)
    assert list(found.asked) == cells.obs_names[cells.obs["cell_type"] == "B"].tolist()
    votes = search.transfer(found, "cell_type")
    assert (votes["label"] == "B").mean() > 0.9 and votes["support"].mean() > 0.8
    with pytest.raises(RequestError, match="No cell is picked"):
        job(settings, "similar", SimilarJob(two.path, two.key, Pick("cell_type", "Neuron", words="Neurons")))


def test_a_pick_is_rows_a_label_or_a_sample(embedded: dict) -> None:
    dataset = search.open_embedded(Path(embedded["two"].path), "X_state").dataset
    assert len(Pick().of(dataset)) == 120 and Pick(rows=(9, 4)).of(dataset).tolist() == [4, 9]
    some = Pick(most=10).of(dataset)
    assert len(some) == 10 and some.tolist() == Pick(most=10).of(dataset).tolist() == sorted(some.tolist())
    with pytest.raises(LabelError, match="colour"):
        Pick("colour", "red").of(dataset)


def test_genes_that_are_read_by_group(settings: Settings, embedded: dict, module_home: Path) -> None:
    run = job(settings, "genes_read", GenesReadJob(request(module_home, "two.h5ad"), "cell_type", 16))
    made = load_cls_attention(run.file(embed_tasks.GENES_READ))
    assert len(made.groups) == 5 and made.cells.max() <= 16
    top = made.top("B", n=10)
    assert len(top) == 10 and top["attention"].is_monotonic_decreasing


def test_a_cancelled_embedding_leaves_no_data_set(settings: Settings, module_home: Path, embedded: dict) -> None:
    before = list_datasets(settings)

    def stop(progress: Progress) -> None:
        if progress.stage == "Embedding cells" and progress.done:
            raise JobCancelled("enough")

    asked = EmbedJob(request(module_home, "two.h5ad"), "never")
    run = RunFolder.create(settings, "embed", to_plain(asked), "never")
    run.start()
    with pytest.raises(JobCancelled):
        embed_tasks.embed(asked, run, stop, WARM)
    assert list_datasets(settings) == before and not run.file("embedded.h5ad").exists()


def test_a_forgotten_embedding_is_deleted_and_the_original_stays(settings: Settings, module_home: Path) -> None:
    run = job(settings, "embed", EmbedJob(request(module_home, "two.h5ad"), "short-lived", reference=False))
    made = from_plain(Embedding, json.loads(run.file(embed_tasks.RESULT).read_text()))
    forget_dataset(settings, made.data)
    assert not Path(made.path).exists() and (module_home.parent / "two.h5ad").exists()


def test_the_library_knows_the_demo_and_keeps_what_is_added(settings: Settings, tmp_path: Path) -> None:
    demo = EMBEDDINGS.entries(settings)[0]
    assert demo.demo and demo.card is not None
    assert EMBEDDINGS.find(settings, demo.card.id) == demo


def test_a_checkpoint_of_the_reference_program_comes_into_the_library(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).resolve().parents[2] / "parity" / "fixtures" / "embedding" / "one_layer"
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(folder))
    asked = ConvertEmbeddingRequest(str(folder / "se.ckpt"), "theirs")
    run = RunFolder.create(settings, "convert_se", to_plain(asked), "convert")
    run.start()
    entry = EMBEDDINGS.find(settings, library_tasks.convert_se(asked, run, silent, WARM).model)
    assert entry.path.parent == settings.models and entry.card is not None and entry.card.name == "theirs" and not entry.demo
    assert entry in EMBEDDINGS.entries(settings)
    with pytest.raises(RequestError, match="not in a folder that may be read"):
        library_tasks.convert_se(ConvertEmbeddingRequest(__file__), run, silent, WARM)
