"""Comments, sign-off and the state of review, without a browser."""

import csv
import json

import pytest
from made_results import make_results

from hemax_batch.errors import UsageError
from hemax_batch.outputs.tables import read_table
from hemax_batch.review.corrections import COLUMNS
from hemax_batch.review.load_results import result_sha256
from hemax_batch.review.report import write_report
from hemax_batch.review.retally import retally
from hemax_batch.review.review_state import review_states
from hemax_batch.review.similarity import similarity_vectors
from hemax_batch.review.urgency import LEVELS, urgency_of

NOW = "2026-11-28T10:00:00+01:00"


@pytest.fixture
def slide(tmp_path):
    folder = make_results(tmp_path / "out", "S1", 12)
    write_report(folder)
    return folder


def write_rows(slide, path, rows) -> None:
    """Rows of (cell, class after, action, comment), with the columns of the new form."""
    before = {row["cell_id"]: row["class"] for row in read_table(slide / "cells.csv")}
    sha = result_sha256(slide)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "comment"])
        for cell, after, action, comment in rows:
            known = before.get(cell, "")
            writer.writerow(["S1", sha, cell, known, after or known, action, "A", NOW, comment])


def test_notes_reach_the_record_and_the_state(slide, tmp_path):
    rows = [("1", "other", "reclassify", "odd"), ("2", "", "comment", "folded"),
            ("", "", "slide_comment", "pale"), ("", "", "sign_off", "")]  # fmt: skip
    write_rows(slide, tmp_path / "c.csv", rows)
    retally(slide.parent, [tmp_path / "c.csv"], [])
    [path] = (slide.parent / "reviews" / "S1").glob("*/A.json")
    record = json.loads(path.read_text("utf-8"))
    assert [c["comment"] for c in record["comments"]] == ["odd", "folded"]
    assert (record["slide_comment"], record["signed_off"], record["cells_reviewed"]) == (
        "pale",
        NOW,
        1,
    )
    [state] = review_states(slide)
    assert (state.words, state.reviewed, state.complete, state.slide_comment) == (
        "signed off",
        1,
        False,
        "pale",
    )
    assert "Signed off" in (slide / "report.html").read_text("utf-8")


def test_a_file_of_comments_alone_holds_no_decision(slide, tmp_path):
    write_rows(slide, tmp_path / "c.csv", [("1", "", "comment", "odd")])
    with pytest.raises(UsageError, match="holds no decision"):
        retally(slide.parent, [tmp_path / "c.csv"], [])


def test_a_review_of_earlier_results_is_not_the_state_of_these(slide, tmp_path):
    write_rows(slide, tmp_path / "c.csv", [("1", "other", "reclassify", "")])
    retally(slide.parent, [tmp_path / "c.csv"], [])
    assert len(review_states(slide)) == 1
    text = (slide / "cells.csv").read_text("utf-8")
    (slide / "cells.csv").write_text(text.replace("0.9", "0.8", 1), "utf-8")
    assert review_states(slide) == ()


def test_a_damaged_review_is_left_out(slide, tmp_path):
    write_rows(slide, tmp_path / "c.csv", [("1", "other", "reclassify", "")])
    retally(slide.parent, [tmp_path / "c.csv"], [])
    [path] = (slide.parent / "reviews" / "S1").glob("*/A.json")
    path.write_text("[]")
    assert review_states(slide) == ()


@pytest.mark.parametrize(
    ("rules", "level"),
    [
        ([], "no flag"),
        (["sufficiency"], "uncertain"),
        (["range_monocyte", "sufficiency"], "out of range"),
        (["range_monocyte", "nrbc_count"], "abnormal cells"),
        (["nrbc_count", "blast_count"], "blasts"),
    ],
)
def test_the_most_urgent_flag_decides(rules, level):
    urgency = urgency_of({"flags": [{"rule": rule} for rule in rules]})
    assert urgency.words == level and LEVELS[urgency.level] == level


def test_no_cells_have_no_vectors():
    assert similarity_vectors([])["data"] == ""
