"""The command line: what it prints, where errors go, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import pytest

from state_engine.cli.main import main
from tests.small import write_cells, write_model

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "fixtures"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "cells.h5ad")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


def test_inspect_says_what_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data)]) == 0
    text = capsys.readouterr().out
    assert "160 cells x 24 genes" in text and "counts" in text and "control: control" in text


def test_inspect_as_json_with_a_model(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data), "--model", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cells"] == 160 and facts["table"]["control"]["B"] > 0
    assert {f["severity"] for f in facts["compatibility"]} <= {"ok", "warning"}


def test_inspect_fails_when_the_model_does_not_fit(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = anndata.read_h5ad(write_cells(tmp_path / "other.h5ad"))
    cells.var_names = [f"OTHER{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "other.h5ad")
    assert main(["inspect", str(tmp_path / "other.h5ad"), "--model", str(model)]) == 1
    assert "blocking" in capsys.readouterr().out


def test_errors_are_sentences_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.h5ad").write_text("gene,cell\n")
    assert main(["inspect", str(tmp_path / "not.h5ad")]) == 1
    captured = capsys.readouterr()
    assert "not.h5ad" in captured.err and "Traceback" not in captured.err and not captured.out


def test_no_name_is_a_code_of_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("NK", "N\x1b[2J\u202eK")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["inspect", str(tmp_path / "cells.h5ad")]) == 0
    assert main(["inspect", str(tmp_path / "n\x1b[31m.h5ad")]) == 1
    captured = capsys.readouterr()
    assert r"N\u001b[2J\u202eK" in captured.out and r"n\u001b[31m.h5ad" in captured.err
    assert not {"\x1b", "\u202e"} & set(captured.out + captured.err)


def test_predict_all_from_a_file_of_names_and_replay(data: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("TNF\n\nJUN,FOS\n")
    common = ["predict", "--model", str(model), "--data", str(data), "--device", "cpu"]
    out = tmp_path / "out.h5ad"
    assert main([*common, "--perturbations-file", str(tmp_path / "names.txt"), "--cells", "8", "--output", str(out)]) == 0
    kinds = anndata.read_h5ad(out).obs.groupby("kind", observed=True)["perturbation"].unique()
    assert set(kinds["predicted"]) == {"TNF", "JUN,FOS"}
    assert main([*common, "--all", "--context", "B", "--cells", "8", "--output", str(out)]) == 0
    found = anndata.read_h5ad(out).obs
    assert set(found["perturbation"]) == {"IFNB1", "TNF", "JUN,FOS", "control"} and set(found["context"]) == {"B"}
    assert main([*common, "--replay", "--embedding-key", "X", "--output", str(out)]) == 0
    assert anndata.read_h5ad(out).n_obs == 160


def test_unknown_perturbation_exits_with_1_and_writes_nothing(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5ad"
    words = ["predict", "--model", str(model), "--data", str(data), "--perturbation", "MYC", "--output", str(out)]
    assert main(words) == 1
    assert "MYC" in capsys.readouterr().err and not out.exists()


def test_a_checkpoint_of_several_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "state_sm", run)
    (run / "checkpoints" / "final.ckpt").rename(run / "checkpoints" / "step=9.ckpt")
    shutil.copy(run / "checkpoints" / "step=9.ckpt", run / "checkpoints" / "step=10.ckpt")
    named = ["--model", str(run), "--checkpoint", "step=9.ckpt"]
    assert main(["convert", *named, "--output", str(tmp_path / "ours")]) == 0
    assert "Read from step=9.ckpt." in capsys.readouterr().out
    main(["inspect", str(data), *named])
    assert "With the model" in capsys.readouterr().out
    for command in (["convert"], ["inspect", str(data)], ["predict", "--data", str(data), "--all"]):
        there = ["--model", str(run), "--checkpoint", "step=8.ckpt"]
        assert main([*command, *there, *([] if command[0] == "inspect" else ["--output", str(tmp_path / "x")])]) == 1
        assert "no checkpoint step=8.ckpt" in capsys.readouterr().err


def test_convert_of_something_else_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--model", str(tmp_path), "--output", str(tmp_path / "to")]) == 1
    assert capsys.readouterr().err


def test_as_a_module(data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "state_engine", "inspect", str(data)], capture_output=True, text=True, check=True
    )
    assert "160 cells" in done.stdout


def test_only_the_command_that_is_given_is_imported() -> None:
    """Help of all commands needs no torch; the list of commands and one command need no other command."""
    script = (
        "import sys; from state_engine.cli.main import build_parser; build_parser([])\n"
        "assert not {'numpy', 'pandas'} & set(sys.modules)\n"
        "build_parser(['predict']); names = {m for m in sys.modules if m.startswith('state_engine.cli.')}\n"
        "assert names == {'state_engine.cli.' + n for n in ('main', 'options', 'predict')}, names\n"
        "build_parser(); assert not {'torch', 'lightning', 'lancedb', 'anndata', 'scanpy', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_messages_name_the_model_and_what_it_knows(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, ours = FIXTURES / "state_sm", tmp_path / "ours"
    assert main(["convert", "--model", str(run), "--output", str(ours), "--name", "My model"]) == 0
    assert main(["convert", "--model", str(ours), "--output", str(tmp_path / "again")]) == 1
    assert "already" in capsys.readouterr().err and not (tmp_path / "again").exists()
    main(["inspect", str(data), "--model", str(ours)])
    lines = capsys.readouterr().out.splitlines()
    assert "With the model My model:" in lines and not [line for line in lines if line.startswith("  [") and line.endswith(":")]
    wanted = ["--data", str(data), "--model", str(ours), "--perturbation", "nobody", "--output", str(tmp_path / "x.h5ad")]
    assert main(["predict", *wanted]) == 1
    assert "Choose among" in capsys.readouterr().err
