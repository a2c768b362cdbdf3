"""On target: simulated screens with known truth, the real screen where it is, predictions, and the command."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine.analysis.on_target import (
    COLUMNS,
    NO_GENE,
    Target,
    dead,
    on_target_of_data,
    on_target_of_result,
    targets_of,
    words,
)
from state_engine.cli.main import main
from state_engine.data.dataset import open_dataset
from state_engine.errors import RequestError
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result

NORMAN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "norman_mcfaline.h5ad"
GENES = [f"GENE{i}" for i in range(60)]


@pytest.mark.parametrize(
    ("label", "kind", "found"),
    [
        ("STAT1", "", (Target("STAT1", "STAT1", "either"),)),
        ("CRISPRi STAT1", "", (Target("CRISPRi STAT1", "STAT1", "down"),)),
        ("STAT1_KO", "", (Target("STAT1_KO", "STAT1", "down"),)),
        ("STAT1", "CRISPRa", (Target("STAT1", "STAT1", "up"),)),
        ("STAT1+JUN", "OE", (Target("STAT1+JUN", "STAT1", "up"), Target("STAT1+JUN", "JUN", "up"))),
        ("STAT1+other", "", (Target("STAT1+other", "STAT1", "either"),)),
        ("HLA-A", "", (Target("HLA-A", "HLA-A", "either"),)),
        ("jun", "", ()),
        ("drug", "CRISPRi", ()),
    ],
)
def test_the_genes_that_a_label_names(label: str, kind: str, found: tuple[Target, ...]) -> None:
    assert targets_of([label], {"STAT1", "JUN", "HLA-A"}, {label: kind}) == found


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts: GENE0 knocked down to a quarter, GENE1 not at all, GENE2 up instead of down, GENE3 in 5 cells, GENE4 not expressed."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("screen") / "x.h5ad"
    rate = rng.uniform(4, 12, len(GENES))
    rate[4] = 0
    blocks, labels = [], []
    factors = {
        "control": (0, 1.0),
        "GENE0_KO": (0, 0.25),
        "GENE1_KO": (1, 1.0),
        "GENE2_KO": (2, 4.0),
        "GENE3_KO": (3, 0.1),
        "GENE4_KO": (4, 0.1),
    }
    for name, (gene, factor) in factors.items():
        n, mine = (5 if name == "GENE3_KO" else 400), rate.copy()
        mine[gene] *= factor
        blocks.append(rng.poisson(mine, (n, len(GENES))))
        labels += [name] * n
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "A"}, index=[f"c{i}" for i in range(len(labels))]).astype("category")
    anndata.AnnData(np.vstack(blocks).astype(np.float32), obs, pd.DataFrame(index=GENES)).write_h5ad(path)
    return path


def test_a_simulated_screen(screen: Path) -> None:
    table = on_target_of_data(open_dataset(screen))
    assert tuple(table.columns) == COLUMNS and (table["expected"] == "down").all()
    found = dict(zip(table["gene"], table["verdict"], strict=True))
    assert found == {
        "GENE0": "on target",
        "GENE1": "no change",
        "GENE2": "wrong way",
        "GENE3": "too few cells",
        "GENE4": "not detected",
    }
    assert dead(table) == ("GENE1_KO", "GENE2_KO")
    assert words(table).startswith("1 of 3 perturbations moves the gene it names as expected. Of 2 more it cannot be told")
    assert "name no gene" not in words(table)
    table.attrs[NO_GENE] = 8
    assert words(table).endswith(" 8 others name no gene of this file.")
    row = table.set_index("gene").loc["GENE0"]
    assert -2.3 < row["log2_fold_change"] < -1.7 and row["n_perturbed"] == row["n_reference"] == 400
    table.attrs.clear()
    protein = table.assign(perturbation="protein", expected="either")
    both = pd.concat([table, protein[protein["gene"] == "GENE0"]], ignore_index=True)
    assert words(both) == f"{words(table)} Of 1 more that does not say which way, 1 changes its gene, up or down."
    turned = on_target_of_data(open_dataset(screen), expected="up").set_index("gene")["verdict"]
    assert turned["GENE2"] == "on target" and turned["GENE0"] == "wrong way"


def test_the_command_names_the_dead(screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "t.csv"
    assert main(["targets", "--data", str(screen), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 perturbations" in said and "GENE1_KO does not move its gene" in said and "GENE0_KO" not in said
    assert list(pd.read_csv(output).columns) == list(COLUMNS)
    with pytest.raises(RequestError, match="no column 'how'"):
        on_target_of_data(open_dataset(screen), type_key="how")


def test_a_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_result(tmp_path / "result.h5ad", perturbations=("G0", "G7"))  # the first raises G0 and G1, the second G2 and G3
    table = on_target_of_result(open_result(path)).set_index(["perturbation", "context"])
    assert table.loc[("G0", "B"), "verdict"] == "on target" and table.loc[("G0", "B"), "log2_fold_change"] > 1
    assert table.loc[("G7", "B"), "verdict"] == "no change"
    assert set(on_target_of_result(open_result(path), "observed")["n_reference"]) == {50}
    assert words(on_target_of_result(open_result(path))) == (
        "No perturbation here says which way its gene should go. 1 of 2 perturbations changes its gene, up or down."
    )
    assert main(["targets", "--data", str(path), "--output", str(tmp_path / "t.csv")]) == 0
    assert "G7 does not move its gene" in capsys.readouterr().out
    assert (
        words(on_target_of_result(open_result(make_result(tmp_path / "no.h5ad")))) == "No perturbation names a gene of the data."
    )


@pytest.mark.skipif(not NORMAN.exists(), reason="../shared/data is not here")
def test_a_real_screen() -> None:
    table = on_target_of_data(open_dataset(NORMAN))
    row = table.iloc[0]
    # overexpressed, as its column perturbation_type says
    assert (row["perturbation"], row["expected"], row["verdict"]) == ("TMSB4X", "up", "on target") and row["log2_fold_change"] > 3
