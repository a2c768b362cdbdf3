"""`embed`, `decode` and `convert` on the command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.cli.main import main
from state_engine.embedding.cost import speeds_here
from state_engine.embedding.request import EmbedRequest
from state_engine.options import command
from tests.small import write_cells
from tests.small_embedding import write_embedding_model

FIXTURE = Path(__file__).resolve().parents[1] / "parity" / "fixtures" / "embedding" / "two_layers"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_embedding_model(tmp_path / "se")
    write_cells(tmp_path / "cells.h5ad", n=40)
    return tmp_path


def embed_arguments(made: Path, output: str, *more: str) -> list[str]:
    return ["embed", "--model", str(made / "se"), "--data", str(made / "cells.h5ad"), "--output", str(made / output), *more]


def test_embed_then_decode(made: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(embed_arguments(made, "out.h5ad", "--key", "X_mine", "--device", "cpu")) == 0
    said = capsys.readouterr().out
    assert "40 of 40 cells, 18 columns (8 for the cell), from counts" in said and "24 of 24 genes of the file" in said
    assert anndata.read_h5ad(made / "out.h5ad").obsm["X_mine"].shape == (40, 18)
    (made / "genes.txt").write_text("GENE1\n\nGENE5\n")
    decode = [
        "decode",
        "--model",
        str(made / "se"),
        "--data",
        str(made / "out.h5ad"),
        "--output",
        str(made / "d.npy"),
        "--key",
        "X_mine",
    ]
    assert main([*decode, "--gene", "GENE3", "--genes-file", str(made / "genes.txt")]) == 0
    assert np.load(made / "d.npy").shape == (40, 3)


def test_attention_beside(made: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["--attention", str(made / "a.csv"), "--group-key", "cell_type"]
    assert main(embed_arguments(made, "out.npy", *more)) == 0
    assert (made / "a.csv").read_text().startswith("group,layer,head,rank,gene,attention")
    assert "2 layers x 2 heads, 2 groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("out.npy", ["--lancedb", "db"], "--lancedb needs cells with their labels"),
        ("out.npy", ["--group-key", "cell_type"], "--group-key says how attention is averaged"),
        ("out.txt", [], "must end in .h5ad or .npy"),
        ("out.npy", ["--gene-column", "nothing"], "no column 'nothing'"),
    ],
)
def test_words_that_make_no_sense(output: str, more: list[str], words: str, made: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(embed_arguments(made, output, *more)) == 1
    assert words in capsys.readouterr().err


def test_a_request_says_its_own_command(made: Path) -> None:
    """The command that a run shows does what the request did."""
    from state_engine.data.dataset import Choices

    choices = Choices(scale="counts", gene_column="", expression="X")
    request = EmbedRequest(str(made / "cells.h5ad"), str(made / "se"), choices, "X_k", "cpu", "bf16", 3, 9)
    words = shlex.split(command(request, output=str(made / "y.npy")))
    assert words[:3] == ["python", "-m", "state_engine"] and main(words[3:]) == 0
    from state_engine.embedding.embed import embed

    embed(request, made / "z.npy")
    assert np.array_equal(np.load(made / "y.npy"), np.load(made / "z.npy"))


def test_convert_knows_embedding_models(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["convert", "--model", str(FIXTURE), "--output", str(tmp_path / "se"), "--name", "Mine"]) == 0
    assert "Mine, 60 genes, 26 columns" in capsys.readouterr().out
    assert (tmp_path / "se" / "embedding.json").is_file()


def test_calibrate_measures_and_remembers_and_writes_no_embedding(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    base = ["embed", "--model", str(made / "se"), "--data", str(made / "cells.h5ad")]
    before = {p.name for p in made.iterdir()}
    assert main([*base, "--calibrate"]) == 0
    said = capsys.readouterr().out
    assert "A cell takes" in said and "on this machine's CPU" in said and "s for 40 cells" in said
    assert len(speeds_here(tmp_path / "home")) == 1 and {p.name for p in made.iterdir()} == before | {"home"}
    assert main(base) == 1
    assert "--output is missing" in capsys.readouterr().err
