"""A review onto the results: what is refused, what is counted again, what is kept, and two reviewers' agreement."""

import csv
import json
import os

import numpy as np
import painted_network
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from painted import smear, write_pyramid
from sklearn.metrics import cohen_kappa_score
from tiny_network import tiny_weights

from hemax_batch.cli import main
from hemax_batch.errors import ResultsError, UsageError
from hemax_batch.results.lock import OutputLock
from hemax_batch.review.agreement import cohen_kappa, difference_limits
from hemax_batch.review.corrections import COLUMNS, read_corrections
from hemax_batch.review.loaded import result_sha256
from hemax_batch.review.retally import retally
from hemax_batch.running import workqueue

NOW = "2026-11-23T21:30:00+01:00"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder of one painted slide."""
    folder = tmp_path_factory.mktemp("retally")
    slide = write_pyramid(folder / "smear.tif", smear(1000, 700, 3), mpp=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workqueue, "process_region", painted_network.process_region)
        given = [slide, "--out", folder / "out", "--weights", tiny_weights(folder), "--workers", 0, "--wbc", 7.5]
        assert CliRunner().invoke(main, ["run", *map(str, given)]).exit_code == 0
    return folder / "out"


@pytest.fixture
def results(made, tmp_path):
    """A copy of it that a test may change, and its cells' classes."""
    import shutil

    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def cells_of(results) -> dict[int, str]:
    with open(results / "smear" / "cells.csv", newline="") as f:
        return {int(row["cell_id"]): row["class"] for row in csv.DictReader(f)}


def decisions(results, changes: dict[int, str], reviewer="A. Weber", **other) -> list[dict]:
    """Rows of a corrections file: `changes` gives the class after (the same: approved)."""
    before, sha256 = cells_of(results), result_sha256(results / "smear")
    return [
        {"slide": "smear", "result_sha256": sha256, "cell_id": i, "class_before": before[i], "class_after": name,
         "action": "approve" if name == before[i] else "reclassify", "reviewer": reviewer, "time": NOW, **other}
        for i, name in changes.items()
    ]  # fmt: skip


def write(path, rows, newline="\n", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator=newline)
        writer.writeheader()
        writer.writerows(rows)
    return path


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_before_and_after_stand_side_by_side_and_the_run_is_untouched(results, tmp_path):
    before, untouched = cells_of(results), everything(results / "smear")
    first, second = list(before)[:2]
    path = write(tmp_path / "c.csv", decisions(results, {first: "plasma_cell", second: before[second]}))
    done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 0, done.output
    assert f"2 of {len(before)} cells reviewed by A. Weber" in done.output and "plasma cell" in done.output
    [folder] = [p for p in (results / "reviews" / "smear").iterdir() if p.is_dir()]
    record = json.loads((folder / "A._Weber.json").read_text())
    assert record["result_sha256"].startswith(folder.name) and record["reviewer"] == "A. Weber"
    assert (record["cells_reviewed"], record["cells_reclassified"], record["complete"]) == (2, 1, False)

    def counts(when):
        return {c["class"]: c["count"] for c in record[when]["classes"]}

    assert counts("after")["plasma_cell"] == 1 and "plasma_cell" not in counts("before")
    assert counts("before")[before[first]] - counts("after")[before[first]] == 1
    assert "plasma cells" not in record["not_assessed"] and "smudge cells" in record["not_assessed"]
    assert record["after"]["nucleated_red_cells"]["wbc"] == 7.5  # as the run was told
    kept = json.loads((results / "smear" / "differential.json").read_text())
    assert {k: record["before"][k] for k in ("white_cells", "classes", "flags")} == {
        k: kept[k] for k in ("white_cells", "classes", "flags")
    }
    assert everything(results / "smear") == untouched


def test_the_trail_is_only_ever_added_to(results, tmp_path):
    cells = list(cells_of(results))
    for n, name in enumerate(("blast", "monocyte"), 1):
        path = write(tmp_path / "c.csv", decisions(results, {cells[0]: name, cells[1]: name}))
        retally(results, [path], [])
        lines = (results / "reviews" / "smear" / "trail.jsonl").read_text().splitlines()
        assert len(lines) == n and json.loads(lines[-1])["decided"] == 2


def test_files_as_editors_leave_them_are_read(results, tmp_path):
    rows = decisions(results, {i: "lymphocyte" for i in list(cells_of(results))[:3]}, reviewer="=cmd|x")
    plain = read_corrections(write(tmp_path / "a.csv", [{**r, "reviewer": "'=cmd|x"} for r in rows]))
    edited = write(tmp_path / "b.csv", [*rows, rows[0]], newline="\r\n", encoding="utf-8-sig")
    edited.write_bytes(edited.read_bytes() + b"\r\n\r\n")
    again = read_corrections(edited)
    assert [c.class_after for c in again] == ["lymphocyte"] * 3 == [c.class_after for c in plain]
    assert {c.reviewer for c in (*plain, *again)} == {"=cmd|x"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slide": "another"}, "no results of slide 'another'"),
        ({"slide": "../../etc"}, r"no results of slide '\.\./\.\./etc'"),
        ({"result_sha256": "0" * 64}, "made for other results of 'smear'"),
        ({"cell_id": "99999"}, "has no cell 99999"),
        ({"cell_id": "1; drop"}, "is no cell's number"),
        ({"class_after": "martian"}, "unknown class 'martian'; known: blast"),
        ({"class_before": "martian"}, "not 'martian'"),
        ({"action": "approve", "class_after": "smudge"}, "approved, but"),
        ({"action": "delete"}, "expected reclassify or approve"),
        ({"time": "yesterday"}, "expected ISO 8601"),
    ],
)
def test_what_does_not_hold_is_refused_by_row_and_nothing_is_written(results, tmp_path, change, words):
    cells = list(cells_of(results))
    rows = decisions(results, {cells[0]: "other", cells[1]: "other"})
    rows[1] |= change
    if "slide" in change:
        rows = rows[1:]
    with pytest.raises(UsageError, match=words):
        retally(results, [write(tmp_path / "c.csv", rows)], [])
    assert not (results / "reviews").exists()


def test_contradicting_rows_are_refused(results, tmp_path):
    [cell, *_] = cells_of(results)
    rows = [*decisions(results, {cell: "blast"}), *decisions(results, {cell: "monocyte"})]
    with pytest.raises(UsageError, match=f"cell {cell} of 'smear' is monocyte here and blast in row 2"):
        retally(results, [write(tmp_path / "c.csv", rows)], [])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no column slide"),
        (b"a,b\n1,2\n", "no column slide"),
        (",".join(COLUMNS).encode() + b"\n", "holds no decision"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (",".join(COLUMNS).encode() + b'\n"unclosed', "not a CSV table"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, raw, words):
    path = tmp_path / "c.csv"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=words):
        read_corrections(path)


def test_who_signs_is_never_guessed(results, tmp_path):
    [cell, *_] = cells_of(results)
    nobody = write(tmp_path / "a.csv", decisions(results, {cell: "blast"}, reviewer=""))
    weber = write(tmp_path / "b.csv", decisions(results, {cell: "blast"}))
    with pytest.raises(UsageError, match="names no reviewer; say who it was with --reviewer"):
        retally(results, [nobody], [])
    with pytest.raises(UsageError, match="reviewed by 'A. Weber', but --reviewer says 'B. Kraus'"):
        retally(results, [weber], ["B. Kraus"])
    with pytest.raises(UsageError, match="two files of reviewer 'A. Weber'"):
        retally(results, [weber, nobody], ["A. Weber", "A. Weber"])
    assert retally(results, [nobody], ["B. Kraus"])[0].reviewer == "B. Kraus"


def test_a_run_that_holds_the_folder_is_not_disturbed(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    with OutputLock(results / ".hemax"):
        done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 5 and f"process {os.getpid()}" in done.output


def test_results_that_were_edited_by_hand_give_a_clear_error(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    (results / "smear" / "differential.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"differential\.json: cannot be read as a differential"):
        retally(results, [path], [])


def test_two_reviewers(results, tmp_path):
    a, b, c, d, *_ = cells = list(cells_of(results))
    first = write(tmp_path / "1.csv", decisions(results, {a: "blast", b: "monocyte", c: "lymphocyte"}))
    second = write(tmp_path / "2.csv", decisions(results, {a: "blast", b: "lymphocyte", d: "smudge"}, "B. Kraus"))
    retally(results, [first, second], [])
    [path] = (results / "reviews" / "smear").glob("*/agreement.json")
    record = json.loads(path.read_text())
    assert record["reviewers"] == ["A. Weber", "B. Kraus"]
    assert (record["cells_reviewed_by_both"], record["agreed"]) == (2, 1)
    assert record["kappa"] == pytest.approx(
        cohen_kappa_score(["blast", "monocyte"], ["blast", "lymphocyte"]), abs=1e-4
    )
    assert [(x["cell_id"], x["first"], x["second"]) for x in record["disputed"]] == [(b, "monocyte", "lymphocyte")]
    expected = cells_of(results) | {a: "blast", b: "unidentified", c: "lymphocyte", d: "smudge"}
    merged = {x["class"]: x["count"] for x in record["merged"]["classes"]}
    assert merged["blast"] == sum(v == "blast" for v in expected.values())
    assert record["merged"]["unidentified"] == sum(v == "unidentified" for v in expected.values())
    assert record["merged"]["outside"] == {"smudge": 1} and len(cells) > 4


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_kappa_is_scikit_learns(pairs):
    first, second = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = cohen_kappa(first, second)
    if len(set(first + second)) == 1:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_limits_of_a_difference_hold_95_of_100_times():
    """Of simulated pairs of counts of the same blood, and of different blood, at least 94 % lie within."""
    rng = np.random.default_rng(0)
    for n1, n2, p1, p2 in ((100, 100, 0.05, 0.05), (200, 200, 0.3, 0.2), (200, 100, 0.01, 0.03)):
        k1, k2 = rng.binomial(n1, p1, 400), rng.binomial(n2, p2, 400)
        held = [
            low <= p2 - p1 <= high
            for low, high in (difference_limits(int(x), n1, int(y), n2) for x, y in zip(k1, k2, strict=True))
        ]
        assert np.mean(held) > 0.94
    assert difference_limits(0, 0, 1, 5) == (-1.0, 1.0)


def test_limits_of_a_difference_against_worked_ones():
    """56/70 against 48/80 is Newcombe's example (a): his method 10 with Wilson's limits gives 0.0524 to 0.3339; the
    exact limits used here are wider, by little."""
    low, high = difference_limits(48, 80, 56, 70)
    assert 0.03 < low < 0.0524 and 0.3339 < high < 0.355
