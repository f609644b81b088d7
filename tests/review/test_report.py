"""report.html and index.html from results alone: whole, safe whatever a slide is called, the same twice, or a clear error."""

import base64
import hashlib
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import painted_network
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import MPP, change_record, make_results
from painted_slides import smear, write_pyramid
from tiny_network import tiny_weights

from hemax_batch.cells.differential import count_differential
from hemax_batch.cli.app import main
from hemax_batch.errors import HemaxError, OutputError, ResultsError, UsageError
from hemax_batch.outputs.differential_json import count_record
from hemax_batch.outputs.tables import read_table
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.review import report as report_module
from hemax_batch.review.class_legend import KEYS, SHAPES, class_list
from hemax_batch.review.html_pages import inline, script_json
from hemax_batch.review.index import write_index
from hemax_batch.review.load_results import load_slide, result_sha256
from hemax_batch.review.rebuild_reports import rebuild_reports
from hemax_batch.review.report import gallery_order, write_report, write_report_or_say_why
from hemax_batch.vocabulary import CLAIM, CLASS_NAMES, REVIEW_NAMES, UNIDENTIFIED

HOSTILE = (
    '/s/=HYPERLINK("x"),</script><script>alert(1)</script><!--{{7*7}}\u2028\u202e&amp;\'"\udcff '
    + "ü" * 200
    + ".svs"
)


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and text by element."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts = [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append([tag, ""])

    def handle_endtag(self, tag):
        self.texts.append(["", ""])

    def handle_data(self, data):
        if self.texts:
            self.texts[-1][1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]

    @property
    def data(self) -> dict:
        return json.loads(self.text("script")[0])

    @property
    def blocks(self) -> list:
        return [json.loads(text) for text in self.text("script")[2:]]

    @property
    def script(self) -> str:
        return self.text("script")[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_results(tmp_path_factory.mktemp("results"), "S1", n=120)
    write_report(made)
    return made


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "results" / "S1"))


def test_the_report_holds_every_cell_with_picture_and_outlines_least_certain_first(folder):
    page = Page(folder / "report.html")
    rows = {int(row["cell_id"]): row for row in read_table(folder / "cells.csv")}
    cells, looks = page.data["cells"], [look for block in page.blocks for look in block]
    assert sorted(cell["id"] for cell in cells) == sorted(rows) and len(looks) == len(cells) == 120
    for cell in cells:
        row = rows[cell["id"]]
        assert (cell["class"], cell["say"], cell["why"]) == (
            row["class"],
            row["explanation"],
            row["review_reasons"],
        )
        assert f"{cell['p']:.4f}" == row["confidence"] and len(cell["states"]) == 4
    assert all(
        base64.b64decode(jpeg)[:2] == b"\xff\xd8" and cell and nucleus
        for jpeg, cell, nucleus in looks
    )
    for name in {cell["class"] for cell in cells}:
        sure = [cell["p"] for cell in cells if cell["class"] == name]
        assert sure == sorted(sure)
    order = [c for i, c in enumerate(cells) if i == 0 or cells[i - 1]["class"] != c["class"]]
    wanted = [UNIDENTIFIED, *CLASS_NAMES]
    assert [c["class"] for c in order] == sorted({c["class"] for c in cells}, key=wanted.index)


def test_total_neutrophils_come_first_and_every_figure_of_the_differential_is_there(folder):
    text = (folder / "report.html").read_text("utf-8")
    d = json.loads((folder / "differential.json").read_text("utf-8"))
    rows = re.findall(r'data-row="(\w+)"', text)
    assert rows[:11] == ["neutrophils", *CLASS_NAMES[:10]]
    for entry in d["classes"]:
        row = text[text.index(f'data-row="{entry["class"]}"') :].split("</tr>")[0]
        assert f"<td>{entry['count']}</td>" in row and f">{entry['percent']:.1f}</td>" in row
        assert f"{entry['low95']:.1f}–{entry['high95']:.1f}" in row
        if "reference_percent" in entry:
            assert "{:g}–{:g}".format(*entry["reference_percent"]) in row
    assert CLAIM in text and all(flag["words"] in text for flag in d["flags"])
    assert "insufficient" in text and "parasites" in text and "2 regions are out of focus" in text
    record = json.loads((folder / "result.json").read_text("utf-8"))
    assert all(
        str(record[name]) in text for name in ("weights_sha256", "version", "width", "path", "mpp")
    )


def test_outlines_lie_on_the_picture_and_enclose_the_area_that_the_table_gives(folder):
    page, rows = (
        Page(folder / "report.html"),
        {int(r["cell_id"]): r for r in read_table(folder / "cells.csv")},
    )
    looks = [look for block in page.blocks for look in block]
    for cell, (_, cell_path, nucleus_path) in zip(page.data["cells"], looks, strict=True):
        outline, nucleus = drawn(cell_path), drawn(nucleus_path)
        x0, y0, x1, y1 = outline.bounds
        assert (
            abs((x0 + x1) / 2 - 12) < MPP and abs((y0 + y1) / 2 - 12) < MPP
        )  # the box's middle is the picture's
        assert outline.area == pytest.approx(float(rows[cell["id"]]["cell_area_um2"]), rel=0.04)
        assert nucleus.area == pytest.approx(float(rows[cell["id"]]["nucleus_area_um2"]), rel=0.12)
        assert nucleus.difference(outline).area < 0.02 * nucleus.area


def drawn(path: str) -> shapely.Geometry:
    rings = [ring.replace("L", " ").split() for ring in path.strip("MZ").split("ZM")]
    polygons = [
        shapely.Polygon([(float(x), float(y)) for x, y in zip(r[::2], r[1::2], strict=True)])
        for r in rings
    ]
    return shapely.union_all(polygons)


def test_the_same_results_give_the_same_bytes(folder, own):
    before = (own / "report.html").read_bytes()
    (own / "report.html").unlink()
    assert write_report(own).read_bytes() == before
    assert not list(own.glob(".*"))


@pytest.mark.parametrize(
    "path", [HOSTILE, "/s/a,b;c.svs", "=1+1", "/s/日本語 \u0085 \x1b[31m.tif", "/s/" + "x" * 200]
)
def test_a_slides_name_is_text_and_nothing_else(tmp_path, path):
    page = Page(write_report(make_results(tmp_path, "S1", n=3, path=path)))
    scripts = page.of("script")
    assert [s.get("type") for s in scripts] == ["application/json", None, "application/json"]
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    plain = path.encode("utf-8", "backslashreplace").decode()
    assert any(text.strip() == plain for text in page.text("bdi"))
    assert "49" not in page.text("bdi")[1].split("{{")[0][-3:]
    index = Page(write_index(ResultsFolder(tmp_path)))
    assert len(index.of("script")) == 1 and any(text.strip() == plain for text in index.text("bdi"))


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_json_in_a_script_element_comes_back_and_cannot_end_it(value):
    text = str(script_json(value))
    assert json.loads(text) == value and text.isascii() and not set("<>&") & set(text)


def test_the_page_asks_nothing_of_any_network(folder):
    text, page = (folder / "report.html").read_text("utf-8"), Page(folder / "report.html")
    policy = next(
        m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    hashed = set(re.findall(r"sha256-([\w+/=]+)", policy))
    inlined = [page.script, *re.findall(r"<style>(.*?)</style>", text, re.S)]
    assert {
        base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in inlined
    } == hashed
    addresses = [
        v
        for _, attrs in page.elements
        for k, v in attrs.items()
        if k in ("src", "href", "action", "data")
    ]
    assert all(a.startswith(("data:", "#")) for a in addresses), addresses
    assert not any(" style=" in tag for tag in re.findall(r"<[a-z][^>]*>", text))
    assert not re.search(r"https?://|@import|url\((?!#)", page.script + inlined[1])


def test_scripts_cannot_end_their_own_element():
    for name in (Path(report_module.__file__).parent / "templates").glob("*.js"):
        assert not re.search(
            r"</script|<!--|innerHTML|insertAdjacentHTML|\beval\b", name.read_text("utf-8")
        )
    assert inline(("index.js",))[1].startswith("'sha256-")


def test_every_class_has_a_key_of_its_own_a_colour_and_a_shape():
    names = [*CLASS_NAMES, *REVIEW_NAMES, UNIDENTIFIED]
    assert (
        sorted(KEYS) == sorted(SHAPES) == sorted(names) == sorted(c["name"] for c in class_list())
    )
    assert len(set(KEYS.values())) == len(names) and not set(KEYS.values()) & set("DJOQUWXZ?")
    looks = [(c["colour"], c["shape"]) for c in class_list()]
    assert len(set(looks)) == len(looks)


def test_a_slide_without_cells_and_one_without_pictures_have_reports(tmp_path):
    empty = Page(write_report(make_results(tmp_path, "empty", n=0)))
    assert empty.data["cells"] == [] and any(
        "No cell was found" in text for text in empty.text("p")
    )
    bare = make_results(tmp_path, "bare", n=2)
    with zipfile.ZipFile(bare / "pictures.zip", "w"):
        pass
    assert [look[0] for look in Page(write_report(bare)).blocks[0]] == ["", ""]


def test_zones_and_the_overview_are_drawn_where_the_run_wrote_them(own):
    (own / "overview.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    edit(own / "regions.csv", ",thick,", ",<b>thick,")
    edit(own / "regions.csv", ",read,feathered,true", ",unreadable,,false")
    text = write_report(own).read_text("utf-8")
    assert "data:image/jpeg;base64,/9j/2Q==" in text
    assert (
        "&lt;b&gt;thick, counted: 1 regions" in text and "unreadable, left out: 1 regions" in text
    )
    assert 'class="zone left-out"' in text and 'class="zone used"' in text
    for name in ("overview.jpg", "regions.csv"):  # neither need be there
        (own / name).unlink()
    assert "<image" not in write_report(own).read_text("utf-8")


def cut(path, keep):
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * keep)])


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


DAMAGE = {
    "result.json gone": lambda f: (f / "result.json").unlink(),
    "result.json cut": lambda f: cut(f / "result.json", 0.5),
    "result.json of format 1": lambda f: change_record(f, format=1),
    "result.json of another slide": lambda f: change_record(f, slide_id="S2"),
    "result.json says other cells": lambda f: change_record(f, cells=7),
    "result.json is a list": lambda f: (f / "result.json").write_text("[]"),
    "cells.csv gone": lambda f: (f / "cells.csv").unlink(),
    "cells.csv cut": lambda f: cut(f / "cells.csv", 0.6),
    "cells.csv with an unknown class": lambda f: edit(f / "cells.csv", ",lymphocyte,", ",lymphozyt,"),
    "cells.csv with no figure": lambda f: edit(f / "cells.csv", "S1,1,", "S1,one,"),
    "cells.csv with a cell twice": lambda f: edit(f / "cells.csv", "\nS1,2,", "\nS1,1,"),
    "cells.csv of another slide": lambda f: edit(f / "cells.csv", "\nS1,5,", "\nS9,5,"),
    "cells.csv without a column": lambda f: edit(f / "cells.csv", ",nc_ratio,", ",n_c,"),
    "cells.csv in Latin-1": lambda f: (f / "cells.csv").write_bytes(b"slide,\xe4\n"),
    "cells.csv is a folder": lambda f: ((f / "cells.csv").unlink(), (f / "cells.csv").mkdir()),
    "differential.json gone": lambda f: (f / "differential.json").unlink(),
    "differential.json is {}": lambda f: (f / "differential.json").write_text("{}"),
    "differential.json edited": lambda f: edit(f / "differential.json", '"sufficient": false', '"sufficient": "<b>"'),
    "differential.json: a percent is text": lambda f: edit(f / "differential.json", '"percent": ', '"percent": "" , "x": '),
    "cells.geojson gone": lambda f: (f / "cells.geojson").unlink(),
    "cells.geojson cut": lambda f: cut(f / "cells.geojson", 0.9),
    "cells.geojson of other cells": lambda f: edit(f / "cells.geojson", '"name": "1"', '"name": "4711"'),
    "cells.geojson nested without end": lambda f: (f / "cells.geojson").write_text("[" * 100000),
    "pictures.zip gone": lambda f: (f / "pictures.zip").unlink(),
    "pictures.zip cut": lambda f: cut(f / "pictures.zip", 0.5),
    "overview.jpg is no JPEG": lambda f: (f / "overview.jpg").write_bytes(b"<svg onload=alert(1)>"),
    "regions.csv without columns": lambda f: (f / "regions.csv").write_text("a,b\n1,2\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_an_error_that_names_the_file_and_the_remedy(own, what):
    before = (own / "report.html").read_bytes()
    DAMAGE[what](own)
    with pytest.raises(ResultsError) as caught:
        write_report(own)
    assert str(own) in str(caught.value) and what.split()[0].strip(":") in str(caught.value)
    assert "hemax-batch run" in str(caught.value) or "its name back" in str(caught.value)
    assert (own / "report.html").read_bytes() == before  # what was there stays


def test_counts_that_do_not_agree_with_the_cells_are_refused(own):
    edit(own / "cells.csv", ",lymphocyte,", ",monocyte,")
    with pytest.raises(ResultsError, match="edited by hand or comes from another run"):
        write_report(own)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.sampled_from(
        ["result.json", "cells.csv", "differential.json", "cells.geojson", "pictures.zip"]
    ),
    st.data(),
)
def test_any_damaged_byte_is_read_or_refused_in_words(small, name, data):
    path = small / name
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.binary(max_size=6))
    try:
        path.write_bytes(whole[:at] + new + whole[at + data.draw(st.integers(0, 8)) :])
        write_report(small)
    except HemaxError as error:
        assert name in str(error) or "cells.csv" in str(error)
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("small"), "S1", n=6)


def test_what_is_reviewed_has_a_hash_that_any_change_changes(own):
    before = result_sha256(own)
    assert (
        before
        == hashlib.sha256(
            (own / "cells.csv").read_bytes() + (own / "result.json").read_bytes()
        ).hexdigest()
    )
    edit(own / "cells.csv", "0.9", "0.8")
    assert result_sha256(own) != before


def test_the_gallery_puts_what_is_unidentified_first(folder):
    names = [cell.class_name for cell in gallery_order(load_slide(folder).cells)]
    assert names[0] == UNIDENTIFIED and names[-1] == "erythroblast"


def test_a_report_that_cannot_be_made_costs_no_results(own, monkeypatch):
    def broken(*_):
        raise RuntimeError("no <template>")

    monkeypatch.setattr(report_module, "write_report", broken)
    text = write_report_or_say_why(own).read_text("utf-8")
    assert (
        "RuntimeError: no &lt;template&gt;" in text
        and "hemax-batch report" in text
        and CLAIM in text
    )

    def full(*_):
        raise OutputError("no space left")

    monkeypatch.setattr(report_module, "write_report", full)
    with pytest.raises(OutputError):
        write_report_or_say_why(own)


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """A real run of two painted slides, with a painted network, and one file that is no slide."""
    root = tmp_path_factory.mktemp("run")
    (root / "in").mkdir()
    for name in ("a", "b"):
        write_pyramid(root / "in" / f"{name}.tif", smear(700, 600), mpp=0.25)
    (root / "in" / "broken.tif").write_bytes(b"II*\0")
    with pytest.MonkeyPatch.context() as patch:
        from hemax_batch.inference import region_task
        from hemax_batch.scheduling import work_queue

        patch.setattr(work_queue, "process_region", painted_network.process_region)
        patch.setattr(region_task, "load_predictor", region_task.load_predictor)
        weights = tiny_weights(root)
        args = [
            "run",
            root / "in",
            "--out",
            root / "out",
            "--weights",
            weights,
            "--workers",
            0,
            "--quiet",
        ]
        result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == 3, result.output
    return root / "out"


def test_a_run_writes_reports_and_an_index_that_says_what_failed(run_of_two):
    index = Page(run_of_two / "index.html")
    assert {a["href"] for a in index.of("a")} == {"#slides", "a/report.html", "b/report.html"}
    text = (run_of_two / "index.html").read_text("utf-8")
    assert "broken" in text and "Without a result" in text and CLAIM in text
    for name in ("a", "b"):
        page = Page(run_of_two / name / "report.html")
        assert (
            len(page.data["cells"])
            == sum(1 for _ in read_table(run_of_two / name / "cells.csv"))
            > 0
        )
        assert page.data["sha"] == result_sha256(run_of_two / name)


def test_the_command_makes_the_very_same_files_without_slides(run_of_two, tmp_path):
    copy = Path(
        shutil.copytree(
            run_of_two, tmp_path / "copy", ignore=shutil.ignore_patterns(".hemax", "masks.zarr")
        )
    )
    pages = ["index.html", "a/report.html", "b/report.html"]
    before = {name: (copy / name).read_bytes() for name in pages}
    for name in pages:
        (copy / name).unlink()
    result = CliRunner().invoke(main, ["report", str(copy)])
    assert result.exit_code == 0, result.output
    assert {name: (copy / name).read_bytes() for name in pages} == before


def test_the_command_goes_on_past_a_damaged_slide_and_says_so(run_of_two, tmp_path):
    copy = Path(shutil.copytree(run_of_two, tmp_path / "copy"))
    (copy / "a" / "cells.csv").unlink()
    (copy / "b" / "report.html").unlink()
    result = CliRunner().invoke(main, ["report", str(copy)])
    assert result.exit_code == 3 and "cells.csv: is missing" in result.output
    assert (copy / "b" / "report.html").exists()
    assert CliRunner().invoke(main, ["report", str(copy), "--slide", "a"]).exit_code == 4
    (copy / "a" / "result.json").write_text("{}")
    assert CliRunner().invoke(main, ["report", str(copy), "--slide", "b"]).exit_code == 0
    assert "no entry" in (copy / "index.html").read_text(
        "utf-8"
    )  # the index names what it cannot read


def test_a_folder_without_results_or_a_slide_that_is_not_there_is_wrong_usage(run_of_two, tmp_path):
    with pytest.raises(UsageError, match="holds no results"):
        rebuild_reports(tmp_path, (), print)
    with pytest.raises(UsageError, match="there are a, b"):
        rebuild_reports(run_of_two, ("c",), print)


def test_a_slide_of_too_many_cells_says_so_in_its_page_and_is_made_on_request(
    tmp_path, monkeypatch
):
    folder = make_results(tmp_path / "out", "S1", 12)
    monkeypatch.setattr("hemax_batch.review.report.MAX_CELLS", 10)
    text = write_report_or_say_why(folder).read_text("utf-8")
    assert "12 cells are more than the 10" in text and "report RESULTS --slide S1" in text
    assert len(Page(write_report(folder)).data["cells"]) == 12


def test_a_per_cent_is_the_same_in_the_table_and_in_the_flags():
    """5 of 68 are 7.353 %: 7.4, also for a reader of differential.json."""
    d = count_differential(["metamyelocyte"] * 5 + ["lymphocyte"] * 63 + ["erythroblast"] * 5)
    record = count_record(d)
    [entry] = [c for c in record["classes"] if c["class"] == "metamyelocyte"]
    words = " ".join(flag["words"] for flag in record["flags"])
    assert f"{entry['percent']:.1f}" == "7.4" and "metamyelocytes 7.4 %" in words
    assert (
        f"{record['nucleated_red_cells']['per_100_white']:.1f}" == "7.4"
        and "7.4 nucleated red cells per 100" in words
    )
