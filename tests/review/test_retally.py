"""A review onto the results: what is refused, what is counted again, what is kept, and two reviewers' agreement."""

import csv
import json
import os
import shutil
from pathlib import Path

import painted_network
import pytest
from click.testing import CliRunner
from painted_slides import smear, write_pyramid
from sklearn.metrics import cohen_kappa_score
from tiny_network import tiny_weights

from hemax_batch.cli.app import main
from hemax_batch.errors import HemaxError, ResultsError, UsageError
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.results.lock import OutputLock
from hemax_batch.review.apply_corrections import apply_corrections
from hemax_batch.review.corrections import COLUMNS, read_corrections
from hemax_batch.review.load_results import result_sha256
from hemax_batch.review.retally import retally
from hemax_batch.scheduling import work_queue
from hemax_batch.slides.slide_ids import assign_ids
from hemax_batch.vocabulary import WHITE_NAMES

NOW = "2026-11-23T21:30:00+01:00"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder of one painted slide."""
    folder = tmp_path_factory.mktemp("retally")
    slide = write_pyramid(folder / "smear.tif", smear(1000, 700, 3), mpp=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_queue, "process_region", painted_network.process_region)
        given = [
            slide,
            "--out",
            folder / "out",
            "--weights",
            tiny_weights(folder),
            "--workers",
            0,
            "--wbc",
            7.5,
        ]
        assert CliRunner().invoke(main, ["run", *map(str, given)]).exit_code == 0
    return folder / "out"


@pytest.fixture
def results(made, tmp_path):
    """A copy of it that a test may change, and its cells' classes."""
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def cells_of(results) -> dict[int, str]:
    with open(results / "smear" / "cells.csv", newline="") as f:
        return {int(row["cell_id"]): row["class"] for row in csv.DictReader(f)}


def decisions(results, changes: dict[int, str], reviewer="A. Weber", **other) -> list[dict]:
    """Rows of a corrections file: `changes` gives the class after (the same: approved)."""
    before, sha256 = cells_of(results), result_sha256(results / "smear")
    return [
        {
            "slide": "smear",
            "result_sha256": sha256,
            "cell_id": i,
            "class_before": before[i],
            "class_after": name,
            "action": "approve" if name == before[i] else "reclassify",
            "reviewer": reviewer,
            "time": NOW,
            **other,
        }
        for i, name in changes.items()
    ]


def write(path, rows, newline="\n", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator=newline)
        writer.writeheader()
        writer.writerows(rows)
    return path


def everything(folder):
    """Every file but report.html, which shows the state of review."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "report.html")
    return {p.relative_to(folder): p.read_bytes() for p in files}


@pytest.mark.slow
def test_before_and_after_stand_side_by_side_and_the_run_is_untouched(results, tmp_path):
    before, untouched = cells_of(results), everything(results / "smear")
    first, second = list(before)[:2]
    path = write(
        tmp_path / "c.csv", decisions(results, {first: "plasma_cell", second: before[second]})
    )
    done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 0, done.output
    assert (
        f"2 of {len(before)} cells reviewed by A. Weber" in done.output
        and "plasma cell" in done.output
    )
    [folder] = [p for p in (results / "reviews" / "smear").iterdir() if p.is_dir()]
    record = json.loads((folder / "A._Weber.json").read_text())
    assert record["result_sha256"].startswith(folder.name) and record["reviewer"] == "A. Weber"
    assert (record["cells_reviewed"], record["cells_reclassified"], record["complete"]) == (
        2,
        1,
        False,
    )

    def counts(when):
        return {c["class"]: c["count"] for c in record[when]["classes"]}

    assert counts("after")["plasma_cell"] == 1 and not counts("before").get("plasma_cell")
    assert counts("before")[before[first]] - counts("after")[before[first]] == 1
    kept = json.loads((results / "smear" / "differential.json").read_text())
    assert record["not_assessed"] == kept["not_assessed"]
    assert record["after"]["nucleated_red_cells"]["wbc"] == 7.5  # as the run was told
    kept = json.loads((results / "smear" / "differential.json").read_text())
    assert {k: record["before"][k] for k in ("white_cells", "classes", "flags")} == {
        k: kept[k] for k in ("white_cells", "classes", "flags")
    }
    assert everything(results / "smear") == untouched
    report = (results / "smear" / "report.html").read_text("utf-8")
    assert f"2 of {len(before)} cells by <bdi>A. Weber</bdi>, 1 reclassified" in report
    assert "in review" in (results / "index.html").read_text("utf-8")


def test_the_trail_is_only_ever_added_to(results, tmp_path):
    cells = list(cells_of(results))
    for n, name in enumerate(("blast", "monocyte"), 1):
        path = write(tmp_path / "c.csv", decisions(results, {cells[0]: name, cells[1]: name}))
        retally(results, [path], [])
        lines = (results / "reviews" / "smear" / "trail.jsonl").read_text().splitlines()
        assert len(lines) == n and json.loads(lines[-1])["decided"] == 2


def test_files_as_editors_leave_them_are_read(results, tmp_path):
    rows = decisions(
        results, {i: "lymphocyte" for i in list(cells_of(results))[:3]}, reviewer="=cmd|x"
    )
    plain = read_corrections(
        write(tmp_path / "a.csv", [{**r, "reviewer": "'=cmd|x"} for r in rows])
    )
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
        ({"time": "2026-11-23T21:30:00"}, "with its offset"),
    ],
)
def test_what_does_not_hold_is_refused_by_row_and_nothing_is_written(
    results, tmp_path, change, words
):
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
    with pytest.raises(
        UsageError, match=f"cell {cell} of 'smear' is monocyte here and blast in row 2"
    ):
        retally(results, [write(tmp_path / "c.csv", rows)], [])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_corrections_are_read_as_excel_saves_them(results, tmp_path, encoding, separator):
    rows = decisions(
        results, {i: "lymphocyte" for i in list(cells_of(results))[:2]}, reviewer="J. Müller; Ulm"
    )
    path = tmp_path / "c.csv"
    with open(path, "w", newline="", encoding=encoding) as f:
        writer = csv.DictWriter(f, COLUMNS, delimiter=separator, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    assert {c.reviewer for c in read_corrections(path)} == {"J. Müller; Ulm"}
    assert retally(results, [path], []).reviews[0].reclassified > 0


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no column slide"),
        (b"a,b\n1,2\n", "no column slide"),
        (";".join(COLUMNS).encode(), "holds no decision"),
        (",".join(COLUMNS).encode() + b"\n", "holds no decision"),
        (b"\xff\xfe\x00", "is no text"),
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
    assert retally(results, [nobody], ["B. Kraus"]).reviews[0].reviewer == "B. Kraus"


def test_a_run_that_holds_the_folder_is_not_disturbed(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    with OutputLock(results / ".hemax"):
        done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 5 and f"process {os.getpid()}" in done.output


def test_results_that_were_edited_by_hand_give_a_clear_error(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    (results / "smear" / "differential.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"differential\.json: is damaged or was edited by hand"):
        retally(results, [path], [])


def test_two_reviewers(results, tmp_path):
    a, b, c, d, *_ = cells = list(cells_of(results))
    first = write(
        tmp_path / "1.csv", decisions(results, {a: "blast", b: "monocyte", c: "lymphocyte"})
    )
    second = write(
        tmp_path / "2.csv",
        decisions(results, {a: "blast", b: "lymphocyte", d: "smudge"}, "B. Kraus"),
    )
    done = CliRunner().invoke(
        main, ["retally", str(results), "--corrections", str(first), "--corrections", str(second)]
    )
    assert (
        done.exit_code == 0
        and "A. Weber and B. Kraus agree on 1 of the 2 cells that both reviewed" in done.output
    )
    assert f"for a third look: cells {b}" in done.output
    [path] = (results / "reviews" / "smear").glob("*/*.agreement.json")
    record = json.loads(path.read_text())
    assert record["reviewers"] == ["A. Weber", "B. Kraus"]
    assert (record["cells_reviewed_by_both"], record["agreed"], record["agreed_percent"]) == (
        2,
        1,
        50.0,
    )
    assert record["kappa"] == pytest.approx(
        cohen_kappa_score(["blast", "monocyte"], ["blast", "lymphocyte"]), abs=1e-4
    )
    assert [(x["cell_id"], x["first"], x["second"]) for x in record["disputed"]] == [
        (b, "monocyte", "lymphocyte")
    ]
    expected = cells_of(results) | {a: "blast", b: "unidentified", c: "lymphocyte", d: "smudge"}
    merged = {x["class"]: x["count"] for x in record["merged"]["classes"]}
    assert merged["blast"] == sum(v == "blast" for v in expected.values())
    assert record["merged"]["unidentified"] == sum(v == "unidentified" for v in expected.values())
    assert record["merged"]["outside"] == {"smudge": 1} and len(cells) > 4
    for d in record["differences"]:
        assert d["mean_percent"] == pytest.approx(
            (d["first_percent"] + d["second_percent"]) / 2, abs=0.011
        )


def test_another_pairs_agreement_is_kept(results, tmp_path):
    [cell, *_] = cells_of(results)
    files = {
        who: write(tmp_path / f"{who}.csv", decisions(results, {cell: "blast"}, who))
        for who in "ABC"
    }
    for one, two in ("AB", "CA", "AC"):
        retally(results, [files[one], files[two]], [])
    found = sorted(p.name for p in (results / "reviews" / "smear").glob("*/*.agreement.json"))
    assert found == ["A+B.agreement.json", "A+C.agreement.json"]


def test_everything_wrong_with_a_file_is_told_at_once(results, tmp_path):
    cells = list(cells_of(results))
    rows = decisions(results, {cell: "blast" for cell in cells[:3]})
    rows[1] |= {"slide": "ghost"}
    rows[2] |= {"class_before": "martian" * 40}
    path = write(tmp_path / "c.csv", rows)
    with pytest.raises(UsageError) as caught:
        retally(results, [path], [])
    words = str(caught.value)
    assert (
        str(path) in words
        and "row 3: no results of slide 'ghost'" in words
        and f"row 4: cell {cells[2]} is" in words
    )
    assert words.count("martian") < 9
    with pytest.raises(UsageError) as caught:
        read_corrections(write(path, [{**rows[0], "cell_id": f"x{i}"} for i in range(30)]))
    assert str(caught.value).count("is no cell's number") == 12 and "and 18 more" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "change", [{"reviewer": "B. Kraus"}, {"result_sha256": "0" * 64}, {"class_before": "martian"}]
)
def test_a_second_row_of_a_cell_may_only_repeat_the_first(results, tmp_path, change):
    [cell, *_] = cells_of(results)
    [row] = decisions(results, {cell: "other"})
    later = {**row, "time": "2026-11-23T22:00:00+01:00"}
    assert len(read_corrections(write(tmp_path / "c.csv", [row, later]))) == 1
    with pytest.raises(
        UsageError, match=f"cell {cell} of 'smear' is there twice, and not as in row 2"
    ):
        read_corrections(write(tmp_path / "c.csv", [row, later | change]))


def test_a_row_that_is_too_long_and_a_file_without_end_are_refused(results, tmp_path):
    [row] = decisions(results, {next(iter(cells_of(results))): "other"})
    path = write(tmp_path / "c.csv", [row])
    path.write_bytes(path.read_bytes().rstrip() + b",more\n")
    with pytest.raises(UsageError, match="row 2: more entries than columns"):
        read_corrections(path)
    with pytest.raises(UsageError, match="no review is that large"):
        read_corrections(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["\x1b[2Jtidy", "x" * 101, "two\nlines"])
def test_a_reviewers_name_is_a_name(results, tmp_path, name):
    path = write(
        tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "other"}, "")
    )
    with pytest.raises(UsageError, match="expected a name on one line of at most 100 characters"):
        retally(results, [path], [name])


@pytest.mark.parametrize("name", ["山田\u3000太郎", "Anna\u00a0Weber", "محمد\u200cرضا"])
def test_names_are_written_as_people_write_them(results, tmp_path, name):
    path = write(
        tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "other"}, name)
    )
    retally(results, [path], [])
    [record] = (results / "reviews" / "smear").glob("*/*.json")
    assert json.loads(record.read_text("utf-8"))["reviewer"] == name


def test_a_cell_that_is_called_a_platelet_is_still_accounted_for(results, tmp_path):
    cell = next(i for i, name in cells_of(results).items() if name in WHITE_NAMES)
    path = write(tmp_path / "c.csv", decisions(results, {cell: "platelet"}))
    done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 0 and ["platelet", "0", "1"] in [
        line.split() for line in done.output.splitlines()
    ]
    [table] = (results / "reviews" / "smear").glob("*/*.differential.csv")
    rows = {row["class"]: row for row in csv.DictReader(table.open(newline="", encoding="utf-8"))}
    assert (rows["platelet"]["count_before"], rows["platelet"]["count_after"]) == ("0", "1")
    assert int(rows["white_cells"]["count_before"]) - int(rows["white_cells"]["count_after"]) == 1


def test_reviewers_that_are_spelled_alike_keep_their_own_files(results, tmp_path):
    [cell, *_] = cells_of(results)
    names = ["J. Muller", "J. Müller", "J_Muller", "J._Muller", "../../x", "=cmd"]
    for name in names:
        path = write(
            tmp_path / "c.csv", decisions(results, {cell: "other"}, "" if name == "=cmd" else name)
        )
        retally(results, [path], [name])
    [folder] = [p for p in (results / "reviews" / "smear").iterdir() if p.is_dir()]
    kept = [json.loads(p.read_text())["reviewer"] for p in folder.glob("*.json")]
    assert sorted(kept) == sorted(names)
    assert {p.name for p in results.iterdir()} & {"x", "x.json"} == set()
    [signed] = [p for p in folder.glob("cmd*.corrections.csv")]
    assert read_corrections(signed)[0].reviewer == "=cmd" and "'=cmd" in signed.read_text()


def test_a_reviewer_counts_what_older_weights_do_not_know(results, tmp_path):
    path = results / "smear" / "differential.json"
    record = json.loads(path.read_text())
    record["not_assessed"] += ["plasma cells", "smudge cells"]
    path.write_text(json.dumps(record))
    first = next(iter(cells_of(results)))
    file = write(tmp_path / "c.csv", decisions(results, {first: "plasma_cell"}))
    retally(results, [file], [])
    [folder] = [p for p in (results / "reviews" / "smear").iterdir() if p.is_dir()]
    review = json.loads((folder / "A._Weber.json").read_text())
    assert review["counted_by_the_reviewer_only"] == ["plasma cell"]
    assert "smudge cells" in review["not_assessed"]
    assert "plasma cells" not in review["not_assessed"]


def test_a_table_stands_side_by_side_and_a_complete_review_leaves_only_what_no_cell_shows(
    results, tmp_path
):
    before = cells_of(results)
    first, *rest = before
    path = write(
        tmp_path / "c.csv", decisions(results, {first: "smudge", **{i: before[i] for i in rest}})
    )
    [review] = retally(results, [path], [], wbc=4.0).reviews
    [folder] = [p for p in (results / "reviews" / "smear").iterdir() if p.is_dir()]
    record = json.loads((folder / "A._Weber.json").read_text())
    assert (
        record["complete"]
        and record["every_unidentified_decided"]
        and record["share_reviewed"] == 1
    )
    assert record["not_assessed"] == [
        "platelets and platelet clumps",
        "parasites",
        "red-cell morphology",
    ]
    assert record["counted_by_the_reviewer_only"] == []  # the weights know all classes
    assert record["after"]["nucleated_red_cells"]["wbc"] == 4.0
    with open(folder / "A._Weber.differential.csv", newline="") as f:
        rows = {row["class"]: row for row in csv.DictReader(f)}
    assert list(rows)[:3] == ["white_cells", "neutrophils", "blast"]
    assert (rows["smudge"]["count_before"], rows["smudge"]["count_after"]) == ("0", "1")
    for entry in record["after"]["classes"]:
        row = rows[entry["class"]]
        assert int(row["count_after"]) == entry["count"] and float(row["percent_after"]) == round(
            entry["percent"], 2
        )
        assert (
            float(row["low95_after"]) == round(entry["low95"], 2)
            and "research use only" in row["claim"]
        )
    assert review.count_after.outside == {"smudge": 1}


@pytest.mark.parametrize("wbc", ["-5", "0", "nan", "1e9"])
def test_a_white_count_that_is_none_is_refused(results, tmp_path, wbc):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    done = CliRunner().invoke(
        main, ["retally", str(results), "--corrections", str(path), "--wbc", wbc]
    )
    assert done.exit_code == 2 and "must be above 0 and at most 10000" in done.output


def test_reviews_are_no_slide_and_no_slide_is_called_reviews(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    retally(results, [path], [])
    kept = everything(results / "reviews")
    folder = ResultsFolder(results)
    folder.prepare()
    folder.recover_interrupted()
    assert [record.slide_id for record in folder.records()] == ["smear"] and everything(
        results / "reviews"
    ) == kept
    for name in ("reviews", "Reviews"):
        [given] = assign_ids([tmp_path / f"{name}.svs"], [name], {})
        assert given.casefold() != "reviews" and given.startswith(name)


def test_where_reviews_cannot_be_written_it_is_said(results, tmp_path):
    path = write(tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"}))
    (results / "reviews").write_text("a file")
    done = CliRunner().invoke(main, ["retally", str(results), "--corrections", str(path)])
    assert done.exit_code == 6 and "cannot be written" in done.output


def test_whatever_entry_of_a_differential_was_edited_the_error_is_ours(results, tmp_path):
    """Every entry in turn becomes text, nothing, a list, not a number and a huge one."""
    corrections = write(
        tmp_path / "c.csv", decisions(results, {next(iter(cells_of(results))): "blast"})
    )
    path, folder = results / "smear" / "differential.json", ResultsFolder(results)
    whole = json.loads(path.read_text())
    refused = 0
    for keys in _entries(
        {name: whole[name] for name in ("classes", "nucleated_red_cells", "rules", "target_cells")}
    ):
        if keys[0] == "classes" and keys[1:2] not in ((0,), (5,)):
            continue
        for junk in ("x", None, [], float("nan"), 10**400):
            edited = json.loads(json.dumps(whole))
            place = edited
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = junk
            path.write_text(json.dumps(edited))
            try:
                apply_corrections(folder, corrections, "", None)
            except HemaxError as error:
                refused += "differential.json" in str(error)
    assert refused > 30


def _entries(value, keys=()):
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _entries(value[key], (*keys, key))
    else:
        yield keys
