"""Tables that people write: read however a spreadsheet saves them, refused by row where they do not
hold.
"""

from __future__ import annotations

import pytest

from hemax_batch.errors import UsageError
from hemax_batch.laboratory.counts import QUANTITY
from hemax_batch.laboratory.manual_counts import COLUMNS, read_manual_counts, template
from hemax_batch.laboratory.tool_counts import read_scans

HEAD = "slide,examiner,cells,segmented_neutrophil,lymphocyte,nrbc"
GOOD = f"{HEAD}\nS1,A,100,60,40,\nS1,B,100,55,45,2\nS2,A,200,150,50,0\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "manual.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_are_read_as_spreadsheets_save_them(tmp_path, encoding, mark):
    text = GOOD.replace("A,", "Müller,").replace(",", mark).replace("\n", "\r\n")
    counts = read_manual_counts(write(tmp_path, text, encoding))
    assert [(c.slide, c.counter, c.cells) for c in counts] == [
        ("S1", "Müller", 100),
        ("S1", "B", 100),
        ("S2", "Müller", 200),
    ]
    assert [c.nrbc for c in counts] == [None, 2, 0]
    assert counts[0].share(QUANTITY["neutrophils"]) == 0.6


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            "S1,A,200,60,40,0",
            "row 2: the classes sum to 100, but cells is 200; give counts, not per cents",
        ),
        ("S1,A,100,60,39,0", "row 2: the classes sum to 99, but cells is 100"),
        ("S1,A,100,sixty,40,0", "row 2: segmented_neutrophil 'sixty': expected a whole number"),
        ("S1,A,100,60.5,39.5,0", "row 2: segmented_neutrophil '60.5'"),
        (",A,100,60,40,0", "row 2: no slide"),
        ("S1,,100,60,40,0", "row 2: no examiner"),
        ("S1,A,0,0,0,0", "row 2: cells 0"),
        ("S1,A,100,60,40,0\nS1,A,100,60,40,0", "row 3: 'S1' by 'A' is in row 2 already"),
        (
            "S1,A,100,60,40,0\nS1,B,100,60,40,0\nS1,C,100,60,40,0",
            "row 4: 'S1' has a third examiner",
        ),
        ("S1,A,100,60,40,0,9", "row 2: 7 entries under 6 columns"),
    ],
)
def test_rows_that_do_not_hold_are_refused_by_number(tmp_path, rows, words):
    path = write(tmp_path, f"{HEAD}\n{rows}\n")
    with pytest.raises(UsageError) as refused:
        read_manual_counts(path)
    assert words in str(refused.value) and str(path) in str(refused.value)


def test_every_bad_row_is_told_up_to_a_dozen(tmp_path):
    with pytest.raises(UsageError) as refused:
        read_manual_counts(write(tmp_path, HEAD + "\n" + "S,A,1,0,0,0\n" * 20))
    assert str(refused.value).count("row ") == 12 and "and 8 more" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,examiner\nS,A\n", "no column cells"),
        (
            HEAD.replace("lymphocyte", "lymphocytes") + "\n",
            "unknown column 'lymphocytes'; do you mean 'lymphocyte'?",
        ),
        (HEAD + ",nrbc\n", "column nrbc is there twice"),
        (HEAD + "\n", "holds no count"),
        ("", "no column slide, examiner, cells"),
    ],
)
def test_tables_of_other_columns_are_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match="manual.csv") as refused:
        read_manual_counts(write(tmp_path, text))
    assert words in str(refused.value)


def test_neutrophils_may_be_counted_together_and_then_tell_no_bands(tmp_path):
    head = "slide,examiner,cells,neutrophils,lymphocyte"
    (count,) = read_manual_counts(write(tmp_path, f"{head}\nS1,A,100,60,40\n"))
    assert count.share(QUANTITY["neutrophils"]) == 0.6 and not count.tells(
        QUANTITY["band_neutrophil"]
    )
    both = "slide,examiner,cells,neutrophils,band_neutrophil\nS1,A,100,60,40\n"
    with pytest.raises(UsageError, match="give one or the other"):
        read_manual_counts(write(tmp_path, both))


def test_a_template_may_be_filled_in_in_part(tmp_path):
    lines = template(["S1", "a,b"]).splitlines()
    assert lines[0] == ",".join(COLUMNS) and lines[3].startswith('"a,b",first')
    lines[1] = "S1,first,100," + "," * (len(COLUMNS) - 4)
    lines[1] = ",".join(["S1", "first", "100", "100", *[""] * (len(COLUMNS) - 4)])
    (count,) = read_manual_counts(write(tmp_path, "\n".join(lines)))
    assert (count.counter, count.classes["blast"]) == ("first", 100)


def test_a_result_belongs_to_one_slide(tmp_path):
    path = write(tmp_path, "slide,result\nS1,a\nS1,b\nS2,a\n")
    with pytest.raises(UsageError, match="row 4: result 'a' is in row 2 already"):
        read_scans(path)
    assert (
        read_scans(write(tmp_path, "slide,result\nS1,a\nS1,b\n")) == {"S1": ["a", "b"]}
        and read_scans(None) == {}
    )


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "manual.csv"
    path.write_bytes(b'slide,examiner,cells\n"S1,A')
    with pytest.raises(UsageError, match="row 2: not a CSV table"):
        read_manual_counts(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_manual_counts(tmp_path / "gone.csv")
