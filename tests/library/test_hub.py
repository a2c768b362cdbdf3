"""Downloads against a hub on this machine: what is fetched, pinned, resumed, refused, and what is said when it does not work."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from state_engine import download as transfer
from state_engine.checkpoints.embedding_card import read_embedding_card
from state_engine.checkpoints.store import read_card
from state_engine.config import Settings
from state_engine.download import remote as http
from state_engine.errors import CheckpointError, DownloadError, JobCancelled, LicenceError
from state_engine.library import hub, hub_contents
from state_engine.progress import Progress
from tests.library.fake_hub import COMMIT, FakeHub, serving
from tests.library.test_models import a_card, write_store
from tests.small_embedding import write_embedding_model

WEIGHTS = bytes(range(256)) * 12_000  # 3 MB, three chunks
RUN = {
    "README.md": b"# A model\nGood.\n## Limitations\nNot tested for unseen cell types.\n### More\nReally.\n## Citation\nUs.\n",
    "LICENSE": b"terms",
    "config.yaml": b"model: {}\n",
    "var_dims.pkl": b"\x80\x04N.",
    "pert_onehot_map.pt": b"PK",
    "checkpoints/final.ckpt": WEIGHTS,
    "checkpoints/step=100.ckpt": b"older",
    "eval_final.ckpt/adata_pred.h5ad": b"huge",
    "eval_final.ckpt/results.csv": b"a,b",
    "data_module.torch": b"trainer",
    "version_0/metrics.csv": b"step,loss",
    ".gitattributes": b"*",
}
NEEDED = {
    "README.md", "LICENSE", "config.yaml", "var_dims.pkl", "pert_onehot_map.pt", "checkpoints/final.ckpt",
    "version_0/metrics.csv",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(http, "RETRY_SECONDS", 0.0)


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with serving(FakeHub(dict(RUN))) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, fake: FakeHub) -> Settings:
    return Settings(home=tmp_path / "home", hub_endpoint=fake.endpoint)


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_info_pins_the_revision_and_shows_licence_size_and_limits(fake: FakeHub, settings: Settings) -> None:
    facts = hub.info("owner/model", "v1", settings)
    assert facts.commit == COMMIT
    assert (facts.licence, facts.gated, facts.models) == ("mit", False, ("",))
    assert facts.licence_url == f"{fake.endpoint}/owner/model/blob/main/LICENSE"
    assert facts.limits == "Not tested for unseen cell types.\nReally."
    assert {f.path for f in facts.needed()} == NEEDED
    assert facts.size() == sum(len(RUN[name]) for name in NEEDED)
    assert not any(path.endswith(".ckpt") for path, _ in fake.asked)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "other", "license_name": "arc-nc"}, "arc-nc"),
        ({"license": "other"}, "other"),
        ({}, "unknown"),
        (None, "unknown"),
    ],
)
def test_licence_names(fake: FakeHub, settings: Settings, card: dict[str, str], licence: str) -> None:
    fake.card = card
    assert hub.info("owner/model", "main", settings).licence == licence


def test_a_known_model_has_its_licence_when_the_repository_is_silent(
    fake: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hub.catalogue.Published("Owner/Model", "transition", "genes", licence="Known Licence", licence_url="https://known")
    monkeypatch.setattr(hub.catalogue, "PUBLISHED", (known,))
    fake.card, fake.files = {}, {k: v for k, v in RUN.items() if k != "LICENSE"}
    facts = hub.info("owner/model", "main", settings)
    assert (facts.licence, facts.licence_url) == ("Known Licence", "https://known")


def test_nothing_is_fetched_before_the_licence_is_accepted(fake: FakeHub, settings: Settings) -> None:
    with pytest.raises(LicenceError, match=r"mit.*only after you accept") as caught:
        hub.download("owner/model", "main", settings, accept_licence=False)
    assert f"{fake.endpoint}/owner/model/blob/main/LICENSE" in str(caught.value)
    assert not settings.home.exists()


def test_download_fetches_what_is_needed_and_records_where_from(fake: FakeHub, settings: Settings) -> None:
    reports: list[Progress] = []
    folder = hub.download("owner/model", "main", settings, True, on_progress=reports.append)
    assert folder == settings.home / "downloads" / "owner--model" / COMMIT
    assert files_in(folder) == NEEDED | {"download.json"}
    assert (folder / "checkpoints/final.ckpt").read_bytes() == WEIGHTS
    record = hub.provenance(folder)
    assert record is not None
    assert record.source == f"hub owner/model@{COMMIT}"
    assert (record.revision, record.licence, record.limits) == ("main", "mit", "Not tested for unseen cell types.\nReally.")
    assert record.files["checkpoints/final.ckpt"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert all(f"/resolve/{COMMIT}/" in path for path, _ in fake.asked if "/resolve/" in path)
    done = [r.done for r in reports]
    assert done == sorted(done)
    assert (reports[-1].done, reports[-1].total) == (sum(len(RUN[n]) for n in NEEDED),) * 2
    assert reports[0].message == f"owner/model is at commit {COMMIT}"


def test_a_second_download_fetches_nothing_again(fake: FakeHub, settings: Settings) -> None:
    hub.download("owner/model", "main", settings, True)
    fake.asked.clear()
    hub.download("owner/model", "main", settings, True)
    assert [path for path, _ in fake.asked if path.endswith((".ckpt", ".yaml", ".pkl"))] == []


def test_a_broken_connection_is_resumed_where_it_broke(fake: FakeHub, settings: Settings) -> None:
    fake.cut_after = {"checkpoints/final.ckpt": 1_500_000}
    folder = hub.download("owner/model", "main", settings, True)
    assert (folder / "checkpoints/final.ckpt").read_bytes() == WEIGHTS
    ranges = [wanted for path, wanted in fake.asked if path.endswith("final.ckpt")]
    assert len(ranges) == 2 and ranges[0] == ""
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 1_500_000


def test_a_server_without_ranges_starts_over(fake: FakeHub, settings: Settings) -> None:
    fake.cut_after, fake.ranges = {"checkpoints/final.ckpt": 1_500_000}, False
    folder = hub.download("owner/model", "main", settings, True)
    assert (folder / "checkpoints/final.ckpt").read_bytes() == WEIGHTS


def test_cancelled_by_the_callback_then_continued(fake: FakeHub, settings: Settings) -> None:
    def stop(progress: Progress) -> None:
        if progress.done > 2_000_000:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        hub.download("owner/model", "main", settings, True, on_progress=stop)
    folder = settings.home / "downloads" / "owner--model" / COMMIT
    part = folder / "checkpoints" / "final.ckpt.part"
    assert part.stat().st_size > 2_000_000
    assert not (folder / "checkpoints" / "final.ckpt").exists()
    assert hub.provenance(folder) is None
    fake.asked.clear()
    hub.download("owner/model", "main", settings, True)
    assert (folder / "checkpoints/final.ckpt").read_bytes() == WEIGHTS
    assert not part.exists()
    assert [wanted for path, wanted in fake.asked if path.endswith("final.ckpt")] == [f"bytes={2 << 20}-"]


def test_a_connection_that_keeps_breaking_is_an_error_that_says_how_far(fake: FakeHub, settings: Settings) -> None:
    fake.cut_after, fake.always_cut = {"checkpoints/final.ckpt": 0}, True
    with pytest.raises(DownloadError, match=r"stopped after 0 of 3,072,000 bytes.*continues where it stopped"):
        hub.download("owner/model", "main", settings, True)


@pytest.mark.parametrize("name", ["checkpoints/final.ckpt", "config.yaml"])
def test_another_hash_than_declared_is_refused_and_removed(fake: FakeHub, settings: Settings, name: str) -> None:
    fake.lie_about = name
    with pytest.raises(DownloadError, match="another hash"):
        hub.download("owner/model", "main", settings, True)
    folder = settings.home / "downloads" / "owner--model" / COMMIT
    assert not (folder / name).exists() and not (folder / f"{name}.part").exists()
    assert hub.provenance(folder) is None


def test_a_damaged_file_on_disk_is_found(fake: FakeHub, settings: Settings) -> None:
    folder = hub.download("owner/model", "main", settings, True)
    path = folder / "checkpoints" / "final.ckpt"
    path.write_bytes(b"x" * len(WEIGHTS))
    with pytest.raises(DownloadError, match="another hash"):
        hub.download("owner/model", "main", settings, True)
    assert not path.exists()


def test_several_models_in_a_repository(fake: FakeHub, settings: Settings) -> None:
    fake.files = {f"{top}/{name}": content for top in ("zeroshot/a", "fewshot/b") for name, content in RUN.items()}
    facts = hub.info("owner/model", "main", settings)
    assert facts.models == ("fewshot/b", "zeroshot/a")
    with pytest.raises(DownloadError, match=r"holds 2 models. In: fewshot/b, zeroshot/a"):
        hub.download("owner/model", "main", settings, True)
    with pytest.raises(DownloadError, match="no model in 'zeroshot'"):
        hub.download("owner/model", "main", settings, True, subfolder="zeroshot")
    folder = hub.download("owner/model", "main", settings, True, subfolder="zeroshot/a")
    assert folder == settings.home / "downloads" / "owner--model" / COMMIT / "zeroshot/a"
    assert files_in(folder) == NEEDED | {"download.json"}
    record = hub.provenance(folder)
    assert record is not None and record.source == f"hub owner/model@{COMMIT} zeroshot/a"


def test_another_checkpoint_can_be_chosen(fake: FakeHub, settings: Settings) -> None:
    folder = hub.download("owner/model", "main", settings, True, checkpoint="step=100.ckpt")
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step=100.ckpt"}
    assert hub.info("owner/model", "main", settings).checkpoints() == ("checkpoints/final.ckpt", "checkpoints/step=100.ckpt")
    with pytest.raises(DownloadError, match=r"no checkpoint 'best.ckpt'. There are: checkpoints/final.ckpt"):
        hub.download("owner/model", "main", settings, True, checkpoint="best.ckpt")


def test_no_model_in_the_repository(fake: FakeHub, settings: Settings) -> None:
    fake.files = {"README.md": b"nothing", "config.yaml": b"x"}
    with pytest.raises(DownloadError, match="holds no model"):
        hub.download("owner/model", "main", settings, True)


def test_nobody_there(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hub_endpoint="http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9 cannot be reached.*import the folder"):
        hub.info("owner/model", "main", settings)
    assert time.monotonic() - start < 5


def test_no_such_repository_or_revision(settings: Settings) -> None:
    with pytest.raises(DownloadError, match="no model repository 'owner/other'"):
        hub.info("owner/other", "main", settings)
    with pytest.raises(DownloadError, match="no revision 'v9'"):
        hub.info("owner/model", "v9", settings)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "RepoNotFound", "no model repository"),
        (401, "", r"refused access.*\(401\)"),
        (403, "", r"refused access.*\(403\)"),
        (403, "GatedRepo", "is gated"),
        (429, "", r"asks to wait \(429\)"),
        (500, "", "answered with error 500"),
    ],
)
def test_answers_in_plain_words(fake: FakeHub, settings: Settings, status: int, code: str, said: str) -> None:
    fake.status, fake.error_code = status, code
    with pytest.raises(DownloadError, match=said):
        hub.info("owner/model", "main", settings)


def test_a_gated_repository_says_how_to_get_access(fake: FakeHub, settings: Settings) -> None:
    fake.gated, fake.files = "manual", {k: v for k, v in RUN.items() if k != "README.md"}
    assert hub.info("owner/model", "main", settings).gated
    with pytest.raises(DownloadError, match=r"is gated.*HF_TOKEN"):
        hub.download("owner/model", "main", settings, True)


def test_a_commit_that_is_none_cannot_be_pinned(fake: FakeHub, settings: Settings) -> None:
    fake.sha = "main"
    with pytest.raises(DownloadError, match="cannot be pinned"):
        hub.info("owner/model", "main", settings)


@pytest.mark.parametrize("path", ["../../evil.pt", "/etc/evil.pt", "a/../../evil.pt", "a\\..\\evil.pt", "C:/evil.pt"])
def test_paths_outside_the_repository_are_refused(fake: FakeHub, settings: Settings, path: str) -> None:
    fake.extra = [{"rfilename": path, "size": 1, "blobId": "0" * 40}]
    with pytest.raises(DownloadError, match="outside its own folder"):
        hub.info("owner/model", "main", settings)


@pytest.mark.parametrize("repo", ["model", "a/b/c", "../x/y", "a/..", "owner/mo del", "http://x/y", "a--b/c", ""])
def test_names_that_are_no_repository(settings: Settings, repo: str) -> None:
    with pytest.raises(DownloadError, match="not the name of a repository"):
        hub.info(repo, "main", settings)


def test_too_large(settings: Settings) -> None:
    with pytest.raises(DownloadError, match=r"accepts 1,000 bytes"):
        hub.download("owner/model", "main", replace(settings, max_file_bytes=1000), True)


def test_more_bytes_than_declared(fake: FakeHub, settings: Settings) -> None:
    facts = hub.info("owner/model", "main", settings)
    file = next(f for f in facts.files if f.path == "checkpoints/final.ckpt")
    with pytest.raises(DownloadError, match="longer than the 10 bytes"):
        remote = hub._remote("owner/model", COMMIT, replace(file, size=10), "x", settings)
        transfer.download(remote, settings.home.parent, settings)


def test_a_converted_model_is_credited(
    fake: FakeHub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_store(tmp_path / "model", a_card())
    assert hub.credit(model, tmp_path) is None and read_card(model) == a_card()
    downloaded = hub.download("owner/model", "main", settings, True)
    card = hub.credit(model, downloaded)
    assert card is not None and read_card(model) == card
    assert (card.source, card.licence) == (f"hub owner/model@{COMMIT}", "mit")
    assert card.limits == ("Not tested for unseen cell types.", "Really.")
    assert hub.provenance(model) == hub.provenance(downloaded)
    assert replace(card, source="", licence="unknown", limits=()) == a_card()
    known = hub.catalogue.Published("owner/model", "transition", "genes", limits=("Short fact.",))
    monkeypatch.setattr(hub.catalogue, "PUBLISHED", (known,))
    other = hub.credit(write_store(tmp_path / "other", a_card(licence="own")), downloaded)
    assert other is not None and (other.limits, other.licence) == (("Short fact.",), "own")


def test_a_damaged_record_says_so(tmp_path: Path) -> None:
    (tmp_path / "download.json").write_text('{"repo": "a/b"}')
    with pytest.raises(CheckpointError, match="damaged"):
        hub.provenance(tmp_path)


def test_the_hub_library_is_not_imported_before_it_is_needed() -> None:
    import subprocess
    import sys

    code = "import sys, state_engine.library.hub; assert 'huggingface_hub' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def listing(repo: str, sizes: dict[str, int]) -> hub_contents.HubInfo:
    """What `info` makes of a repository with these files."""
    files = tuple(hub_contents.HubFile(path, size) for path, size in sizes.items())
    return hub_contents.HubInfo(repo, COMMIT, "x", "", False, files, hub_contents.model_folders(files))


def test_evaluation_files_of_a_published_model_are_not_fetched() -> None:
    """As they lie in ST-HVG-Replogle: hundreds of megabytes of predicted cells beside each checkpoint."""
    fold = {
        "config.yaml": 4_000, "var_dims.pkl": 60_000, "pert_onehot_map.pt": 16_700_000, "batch_onehot_map.pkl": 20_000,
        "checkpoints/best.ckpt": 471_699_039, "checkpoints/final.ckpt": 471_700_000, "checkpoints/last.ckpt": 471_700_000,
        "eval_best.ckpt/adata_pred.h5ad": 573_000_000, "eval_best.ckpt/adata_real.h5ad": 573_000_000,
        "eval_best.ckpt/results.csv": 90_000, "data_module.torch": 1_000_000, "adata_pred.h5ad": 573_000_000,
    }  # fmt: skip
    lines = ("hepg2", "jurkat")
    facts = listing(
        "arcinstitute/ST-HVG-Replogle",
        {f"{kind}/{line}/{name}": size for kind in ("zeroshot", "fewshot") for line in lines for name, size in fold.items()},
    )
    assert facts.models == ("fewshot/hepg2", "fewshot/jurkat", "zeroshot/hepg2", "zeroshot/jurkat")
    names = {f.path.removeprefix("zeroshot/jurkat/") for f in facts.needed("zeroshot/jurkat")}
    assert names == {"config.yaml", "var_dims.pkl", "pert_onehot_map.pt", "batch_onehot_map.pkl", "checkpoints/final.ckpt"}
    assert facts.size("zeroshot/jurkat") < 500_000_000
    assert facts.unseen("zeroshot/jurkat").startswith("jurkat as a whole") and facts.unseen("fewshot/hepg2").startswith("Part of")


def test_of_a_state_embedding_repository_one_set_of_weights_is_fetched() -> None:
    facts = listing(
        "arcinstitute/SE-600M",
        {
            "README.md": 9_000, "config.yaml": 6_000, "model.safetensors": 2_860_000_000, "protein_embeddings.pt": 410_886_729,
            "se600m_epoch16.ckpt": 11_500_000_000, "se600m_epoch4.safetensors": 2_820_000_000,
        },
    )  # fmt: skip
    assert {f.path for f in facts.needed()} == {"README.md", "config.yaml", "model.safetensors", "protein_embeddings.pt"}
    assert facts.checkpoints() == ()
    assert "se600m_epoch16.ckpt" in {f.path for f in facts.needed("", "se600m_epoch16.ckpt")}  # who asks for it gets it


def test_without_a_revision_the_catalogues_commit_is_asked_for(
    fake: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.pinned("owner/model", settings) == "main"
    known = hub.catalogue.Published("owner/model", "transition", "genes", revision=COMMIT)
    monkeypatch.setattr(hub.catalogue, "PUBLISHED", (known,))
    hub.info("owner/model", "", settings)
    assert any(path.endswith(f"/revision/{COMMIT}") for path, _ in fake.asked)
    hub.info("owner/model", "v1", settings)  # who names one gets it
    assert any(path.endswith("/revision/v1") for path, _ in fake.asked)


def test_the_first_download_pins_what_no_source_names(fake: FakeHub, settings: Settings) -> None:
    hub.download("owner/model", "", settings, True)
    assert hub.pinned("owner/model", settings) == COMMIT
    fake.asked.clear()
    hub.info("owner/model", "", settings)
    assert any(path.endswith(f"/revision/{COMMIT}") for path, _ in fake.asked)


def test_a_converted_embedding_model_is_credited(fake: FakeHub, settings: Settings, tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "se")
    downloaded = hub.download("owner/model", "main", settings, True)
    card = hub.credit(tmp_path / "se", downloaded)
    assert card is not None and card == read_embedding_card(tmp_path / "se")
    assert (card.source, card.licence) == (f"hub owner/model@{COMMIT}", "mit")


def test_a_card_says_what_training_left_out(
    fake: FakeHub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = hub.catalogue.Fold("", "all of it")
    known = hub.catalogue.Published("owner/model", "transition", "genes", limits=("Short.",), folds=(fold,))
    monkeypatch.setattr(hub.catalogue, "PUBLISHED", (known,))
    card = hub.credit(write_store(tmp_path / "m", a_card()), hub.download("owner/model", "main", settings, True))
    assert card is not None and card.limits == ("Short.", "Left out of training: all of it")
