"""Receipts as a table, and the anchors that two of them determine. The two public ones are of November 2026."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from state_engine.challenge.receipts import METRICS, parse_receipts, read_receipts, receipt_lines, solve_anchors
from state_engine.cli.main import main
from state_engine.errors import ChallengeError

NAMES = ("pds", "nmae", "fid", "reach", "jac", "mse")
DIRECT = {
    "raw": (0.49737, 1.01769, 0.498298, 0.146826, 0.019307, 4.7389),
    "scaled": (-0.005514, -0.029426, -0.046735, 0.076186, -0.030120, 0.0),
}
ANOTHER = {
    "raw": (0.513831, 1.180021, 0.499219, 0.081847, 0.031367, 30.18),
    "scaled": (0.030952, -0.293315, -0.044168, 0.002747, 0.002840, 0.0),
}


def entry(name: str, numbers: dict[str, tuple[float, ...]], **more: object) -> dict[str, object]:
    raw = {f"raw_{n}": v for n, v in zip(NAMES, numbers["raw"], strict=True)}
    return {"entry_id": name, **raw, **{f"score_{n}": v for n, v in zip(NAMES, numbers["scaled"], strict=True)}, **more}


def test_the_public_receipts_are_read_and_their_overall_is_the_mean_of_six() -> None:
    one, other = parse_receipts(json.dumps([entry("direct", DIRECT), entry("another", ANOTHER)]))
    assert one.name == "direct" and one.raw["mse"] == 4.7389 and one.scaled["reach"] == 0.076186
    assert one.overall == pytest.approx(-0.0059349, abs=1e-6)
    assert other.overall == pytest.approx(-0.0501571, abs=1e-6)


def test_two_public_receipts_determine_the_anchors() -> None:
    both = parse_receipts(json.dumps(entry("direct", DIRECT)) + "\n" + json.dumps(entry("another", ANOTHER)))
    anchors = {a.metric: a for a in solve_anchors(both)}
    assert set(anchors) == {"pds", "nmae", "fid", "reach", "jac"}  # both mse are at the limit, which tells nothing
    # chance is half for pds, and predicting no change has an nmae of 1
    assert anchors["pds"].baseline == pytest.approx(0.5, abs=0.001)
    assert anchors["nmae"].baseline == pytest.approx(1.0, abs=0.005)
    for receipt in both:
        for metric, anchor in anchors.items():
            assert anchor.score(receipt.raw[metric]) == pytest.approx(receipt.scaled[metric], abs=1e-9)


def test_a_third_receipt_is_predicted_within_a_thousandth() -> None:
    """A third entry at the anchors of the public two, its numbers rounded as a receipt rounds them."""
    both = (entry("direct", DIRECT), entry("another", ANOTHER))
    known = {a.metric: a for a in solve_anchors(parse_receipts(json.dumps(both)))}
    middle = {n: (DIRECT["raw"][i] + ANOTHER["raw"][i]) / 2 for i, n in enumerate(NAMES)}
    scores = {n: round((middle[n] - known[n].baseline) / (known[n].replicate - known[n].baseline), 6) for n in known}
    third = {
        "id": "third",
        **{f"raw_{n}": round(v, 6) for n, v in middle.items()},
        **{f"score_{n}": s for n, s in scores.items()},
    }
    found = solve_anchors(parse_receipts(json.dumps([*both, third])))
    assert len(found) == 5 and all(a.checked == 1 and a.off is not None and a.off < 1e-3 for a in found)
    wrong = third | {"score_pds": third["score_pds"] + 0.1}
    off = {a.metric: a.off for a in solve_anchors(parse_receipts(json.dumps([*both, wrong])))}
    assert off["pds"] == pytest.approx(0.1, abs=1e-3)


def test_receipts_of_other_anchors_are_not_taken_together() -> None:
    both = [entry("a", DIRECT, anchor_version="r3"), entry("b", ANOTHER, anchor_version="r4")]
    assert solve_anchors(parse_receipts(json.dumps({"entries": both}))) == ()
    assert "No anchors" in receipt_lines(parse_receipts(json.dumps(both)))[-1]


def test_raw_values_under_the_names_of_the_scorer() -> None:
    one = {"score_pds": 0.1, "metrics": {"pds_cosine": 0.55, "de_wilcoxon_lfc_nmae": 0.9}}
    (receipt,) = parse_receipts(json.dumps({"latest": one}))
    assert receipt.raw == {"pds": 0.55, "nmae": 0.9} and receipt.scaled == {"pds": 0.1} and receipt.overall is None


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '{"score_pds": }', "[" * 100_000, '{"a": NaN}'])
def test_what_is_no_receipt_is_told(text: str) -> None:
    with pytest.raises(ChallengeError):
        parse_receipts(text)


def test_numbers_that_are_none_are_left_out() -> None:
    text = '{"score_pds": NaN, "score_jac": true, "score_fid": "0.1", "score_nmae": 0.5, "raw_nmae": Infinity}'
    (receipt,) = parse_receipts(text)
    assert receipt.scaled == {"nmae": 0.5} and not receipt.raw


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "receipts.json"
    path.write_text(json.dumps([entry("direct", DIRECT), entry("another", ANOTHER)]))
    assert len(read_receipts(path)) == 2
    assert main(["receipts", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "0.4974 -> -0.0055" in shown and "pds: baseline 0.4999, replicate 0.95" in shown
    assert all(name in shown for name in METRICS)
    assert main(["receipts", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert np.isclose(made["anchors"][0]["baseline"], 0.4999, atol=1e-3) and len(made["receipts"]) == 2
