"""The list of published models is data: well-formed, without repeats, found by name."""

from __future__ import annotations

import re

from state_engine.checkpoints.recognise import ordered_checkpoints, preferred_checkpoint
from state_engine.library.published import ARC_LICENCE, LIMITS, PUBLISHED, by_repo


def test_names_are_repositories_and_differ() -> None:
    names = [p.repo for p in PUBLISHED]
    assert len({n.lower() for n in names}) == len(names)
    assert all(re.fullmatch(r"arcinstitute/(S[TE]|st)-[\w-]+", n) for n in names)
    assert {p.kind for p in PUBLISHED} == {"transition", "embedding"}


def test_every_entry_says_licence_and_limits() -> None:
    for published in PUBLISHED:
        assert published.licence == ARC_LICENCE and published.licence_url.startswith("https://")
        assert published.limits and all(sentence.endswith(".") for sentence in published.limits)
    transitions = [p for p in PUBLISHED if p.kind == "transition"]
    assert all(set(LIMITS) < set(p.limits) for p in transitions)
    assert all(("X_state" in p.reads) == ("-SE-" in p.repo.upper()) for p in transitions)


def test_found_by_name_case_aside() -> None:
    found = by_repo("ArcInstitute/st-hvg-tahoe")
    assert found is not None and found.repo == "arcinstitute/ST-HVG-Tahoe"
    assert by_repo("arcinstitute/evo2_7b") is None


def test_which_checkpoint_is_meant() -> None:
    names = ["c/step=500.ckpt", "c/step=2000.ckpt", "c/best.ckpt", "c/last.ckpt", "c/final.ckpt", "c/readme.md"]
    assert ordered_checkpoints(names) == ["c/final.ckpt", "c/best.ckpt", "c/last.ckpt", "c/step=2000.ckpt", "c/step=500.ckpt"]
    assert preferred_checkpoint(["a.txt"]) is None
    assert preferred_checkpoint(["epoch=9-step=10.ckpt", "epoch=1-step=100.ckpt"]) == "epoch=1-step=100.ckpt"


def test_commits_are_pinned_where_a_public_source_names_one() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{40}", p.revision) for p in PUBLISHED if p.revision)
    assert [p.repo for p in PUBLISHED if not p.revision] == ["arcinstitute/ST-SE-Parse"]
    assert len({p.revision for p in PUBLISHED}) == len(PUBLISHED)


def test_the_models_of_the_challenge_are_there() -> None:
    for name in ("SE-600M", "SE-100M", "ST-HVG-Replogle", "ST-HVG-Tahoe", "st-x-replogle-full", "st-se-replogle-full"):
        assert by_repo(f"arcinstitute/{name}") is not None, name
    full = by_repo("arcinstitute/ST-X-Replogle-full")
    assert full is not None and "6,546" in full.reads and "output space all" in full.writes


def test_each_fold_says_what_its_training_left_out() -> None:
    replogle = by_repo("arcinstitute/ST-HVG-Replogle")
    assert replogle is not None
    assert replogle.unseen("zeroshot/hepg2").startswith("hepg2 as a whole")
    assert replogle.unseen("fewshot/k562").startswith("Part of the perturbations of k562")
    assert replogle.unseen("elsewhere") == ""
    tahoe = by_repo("arcinstitute/ST-HVG-Tahoe")
    assert tahoe is not None and "PANC-1" in tahoe.unseen("zeroshot/state_generalization_X_hvg")
    full = by_repo("arcinstitute/st-x-replogle-full")
    # a share of counts, which reads like a share of cells held out
    assert full is not None and full.unseen("jurkat_0.99").startswith("Not known. 0.99 is the share of counts")


def test_contexts_are_compared_spelling_aside_and_unknown_where_they_are_not_listed() -> None:
    replogle, tahoe = by_repo("arcinstitute/ST-HVG-Replogle"), by_repo("arcinstitute/ST-HVG-Tahoe")
    assert replogle is not None and tahoe is not None
    assert replogle.seen(["hepg2", "K-562", "A549"]) == ("hepg2", "K-562") and replogle.seen(["NK"]) == ()
    assert tahoe.seen(["A549"]) is None
    assert (replogle.genes, replogle.gene_names, replogle.perturbations) == (2000, False, 2023)
    assert {fold.left_out for fold in replogle.folds} == {"context", "perturbations"}
