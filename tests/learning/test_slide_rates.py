"""Rates of flagged slides, on cells whose errors are known."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from hemax_batch.cli.app import main
from hemax_batch.learning.evaluation.evaluate import build_report
from hemax_batch.learning.evaluation.metrics import EvaluatedCell
from hemax_batch.learning.evaluation.slide_rates import (
    BLAST_SHARES,
    COLUMNS,
    NORMAL,
    Called,
    is_slide_half,
    read_called_cells,
    slide_rates,
)


def held_out(source: str, blast_rate: float, recall: float = 0.9, cells: int = 400) -> list[Called]:
    """Cells of normal classes, of which a share is called blast; blasts found with some recall."""
    random = np.random.default_rng(3)
    found = []
    for true in (*NORMAL, "blast"):
        rate = 1 - recall if true == "blast" else blast_rate
        other = "monocyte" if true == "blast" else "blast"
        for k in range(cells):
            called = other if random.random() < rate else true
            found.append(Called(source, f"{true}{k}.png", "", true, called))
    return found


def test_healthy_slides_are_not_flagged_and_leukaemias_are():
    rows = slide_rates([*held_out("a", 0.01), *held_out("b", 0.005)], slides=60)
    assert {(r["source"], r["table"]) for r in rows} == {
        (s, t) for s in "ab" for t in ("other half", "other sources")
    }
    by = {(r["source"], r["table"], r["blasts"]): r for r in rows}
    for source in "ab":
        healthy = by[source, "other half", 0.0]
        assert healthy["flagged"]["value"] <= 0.1 and healthy["any_blast"]["value"] > 0.5
        assert by[source, "other half", 0.2]["flagged"]["value"] == 1.0
        flagged = [by[source, "other half", share]["flagged"]["value"] for share in BLAST_SHARES]
        assert flagged == sorted(flagged)


def test_a_source_worse_than_the_others_shows_in_the_errors_of_other_sources():
    rows = slide_rates([*held_out("a", 0.10), *held_out("b", 0.0)], slides=40)
    by = {(r["source"], r["table"]): r for r in rows if r["blasts"] == 0.0}
    assert by["a", "other sources"]["flagged"]["value"] > 0.9  # nobody measured such a laboratory
    assert by["a", "other half"]["flagged"]["value"] < 0.2
    assert by["b", "other half"]["flagged"]["value"] == 0.0


def test_a_patient_is_in_one_half_and_sources_with_few_cells_are_left_out():
    cells = [Called("s", f"{k}.png", "p1", "lymphocyte", "lymphocyte") for k in range(50)]
    assert len({is_slide_half(c) for c in cells}) == 1
    assert slide_rates(cells) == [] == slide_rates([])


def test_the_command_reads_the_table_and_refuses_another(tmp_path):
    lines = [",".join(COLUMNS)]
    lines += [f"{c.source},{c.path},,{c.true},{c.called},0.9" for c in held_out("a", 0.01)]
    path = tmp_path / "called_cells.csv"
    path.write_text("\n".join(lines) + "\n")
    assert len(read_called_cells(path)) == 400 * 7
    out = tmp_path / "rates.json"
    given = ["slide-rates", str(path), "--slides", "5", "--out", str(out)]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rates"]
    assert [r["blasts"] for r in rows] == list(BLAST_SHARES)  # one source: no other sources
    assert rows[0]["flagged"]["n"] == 5 and rows[0]["expected"] == pytest.approx(2.0, abs=1.5)
    path.write_text("a,b\n1,2\n")
    refused = CliRunner().invoke(main, ["slide-rates", str(path)])
    assert refused.exit_code == 2 and "no column 'source'" in refused.output


def test_the_figures_of_weights_hold_what_found_and_sure_cells_were_called():
    nan = float("nan")

    def cell(true, predicted, confidence=0.9, found=True):
        figures = (nan,) * 5
        return EvaluatedCell("a", true, found, predicted, confidence, *figures, (), "x.png")

    cells = [
        cell(("lymphocyte",), "blast"),
        cell(("lymphocyte",), "lymphocyte"),
        cell(("lymphocyte",), "monocyte", 0.4),  # unidentified
        cell(("lymphocyte", "monocyte"), "monocyte"),  # of no one class
        cell(("blast",), "", 0.0, found=False),
    ]
    calls = build_report(cells, {}, 0.5)["calls"]
    assert calls == {
        "min_confidence": 0.5,
        "calls": {"a": {"lymphocyte": {"blast": 1, "lymphocyte": 1}}},
    }
