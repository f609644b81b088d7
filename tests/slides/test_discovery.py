"""Which slides the inputs mean, and the names of their results."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemax_batch.errors import UsageError
from hemax_batch.slides.discovery import find_slides
from hemax_batch.slides.formats import dicom_series
from hemax_batch.slides.slide_ids import MAX_ID_CHARS, assign_ids, slug, stem


def touch(folder: Path, *names: str) -> list[Path]:
    """Empty files; discovery never looks inside one that has a slide's ending."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def names(found) -> list[str]:
    return [slide.path.name for slide in found]


def ids(found) -> list[str]:
    return [slide.slide_id for slide in found]


def write_dicom(path: Path, series: str, size: int = 0, implicit: bool = False) -> Path:
    """A DICOM header: meta group, a sequence of undefined length, then the series UID."""

    def explicit(group, element, vr, value):
        return struct.pack("<HH2sH", group, element, vr, len(value)) + value

    syntax = b"1.2.840.10008.1.2\0" if implicit else b"1.2.840.10008.1.2.1\0"
    meta = explicit(2, 0x10, b"UI", syntax)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    uid = series.encode() + b"\0" * (len(series) % 2)
    if implicit:
        body = struct.pack("<HHI", 8, 0x1115, 0xFFFFFFFF) + item
        body += (
            struct.pack("<HHI", 8, 0x1155, 4)
            + b"1.2\0"
            + ends
            + struct.pack("<HHI", 0x20, 0xE, len(uid))
            + uid
        )
    else:
        body = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF) + item
        body += explicit(8, 0x1155, b"UI", b"1.2\0") + ends + explicit(0x20, 0xE, b"UI", uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + meta + body + bytes(size))
    return path


def test_a_folder_is_searched_through_in_order_for_known_endings(tmp_path):
    touch(
        tmp_path,
        "b.svs",
        "a/z.TIF",
        "a/c.ndpi",
        "a.truth.csv",
        "notes.txt",
        "r.xml",
        ".hidden.svs",
        ".h/d.svs",
    )
    found = find_slides([tmp_path])
    assert names(found) == ["c.ndpi", "z.TIF", "b.svs"]
    assert all(slide.path.is_absolute() for slide in found)


def test_results_of_ours_and_zarr_stores_are_passed_over(tmp_path):
    touch(
        tmp_path,
        "a.svs",
        "results/a/overview.png",
        "results/a/result.json",
        "results/.hemax/journal",
        "results/reviews/a.png",
        "old.zarr/c.png",
    )
    for where in (tmp_path, str(tmp_path / "[ar]*")):
        assert names(find_slides([where])) == ["a.svs"]
    with pytest.raises(UsageError, match="matches no slide"):
        find_slides([str(tmp_path / "r*" / "**")])


def test_slides_that_lie_in_a_results_folder_are_found(tmp_path):
    """`run scans/ --out scans/november`: what lies in november is somebody's."""
    touch(
        tmp_path,
        "november/.hemax/journal",
        "november/b.svs",
        "november/new/c.svs",
        "november/b/overview.jpg",
        "november/b/result.json",
    )
    for where in (tmp_path, tmp_path / "november", str(tmp_path / "**")):
        assert names(find_slides([where])) == ["b.svs", "c.svs"]


def test_files_globs_and_lists_each_slide_once(tmp_path):
    touch(tmp_path, "a.svs", "b.svs", "sub/c.tif", "readme.md")
    assert names(find_slides([str(tmp_path / "*.svs"), tmp_path / "a.svs", tmp_path])) == [
        "a.svs",
        "b.svs",
        "c.tif",
    ]
    assert names(find_slides([str(tmp_path / "**/*.tif")])) == ["c.tif"]
    assert names(find_slides([str(tmp_path / "*")])) == ["a.svs", "b.svs", "c.tif"]
    (tmp_path / "list.txt").write_bytes("\ufeff# night 1\r\nsub/c.tif\r\n\r\na.svs\r\n".encode())
    for given_list in (tmp_path / "list.txt", f"@{tmp_path / 'list.txt'}"):
        assert names(find_slides([given_list])) == ["c.tif", "a.svs"]


def test_a_file_with_glob_characters_in_its_name_is_itself(tmp_path):
    touch(tmp_path, "fluo [387] (a).ndpi", "fluo 3 (a).ndpi")
    found = find_slides([tmp_path / "fluo [387] (a).ndpi"])
    assert names(found) == ["fluo [387] (a).ndpi"]
    assert ids(found) == ["fluo_387_a"]


def test_what_is_named_outright_is_kept_whatever_it_is(tmp_path):
    touch(tmp_path, "notes.md")
    assert names(find_slides([tmp_path / "notes.md"])) == ["notes.md"]


def test_a_slide_missing_from_a_list_stays_so_that_it_fails_alone(tmp_path):
    touch(tmp_path, "a.svs")
    (tmp_path / "list.txt").write_text("a.svs\ngone [1].svs\n")
    assert names(find_slides([tmp_path / "list.txt"])) == ["a.svs", "gone [1].svs"]


def test_what_does_not_exist_or_holds_nothing_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "docs/readme.md")
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "nested.txt").write_text("none.txt\n")
    for given_input in ("gone.svs", "gone/", "empty", "docs", "*.svs", "none.txt", "nested.txt"):
        with pytest.raises(UsageError, match=re.escape(given_input.rstrip("/"))):
            find_slides([str(tmp_path / given_input)])
    with pytest.raises(UsageError, match=r"gone\.txt"):
        find_slides([f"@{tmp_path / 'gone.txt'}"])
    with pytest.raises(UsageError, match="no input"):
        find_slides([])


def test_links_in_a_circle_end_and_dangling_links_are_kept(tmp_path):
    touch(tmp_path, "in/a.svs")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/again.svs").symlink_to(tmp_path / "in/a.svs")
    (tmp_path / "in/lost.svs").symlink_to(tmp_path / "unmounted/lost.svs")
    assert names(find_slides([tmp_path / "in"])) == ["a.svs", "lost.svs"]


def test_an_mrxs_slide_counts_once_with_its_folder(tmp_path):
    touch(
        tmp_path,
        "m.mrxs",
        "m/Data0000.dat",
        "m/preview.jpg",
        "v.vsi",
        "_v_/stack1/frame_t.ets",
        "_v_/x.tif",
    )
    assert names(find_slides([tmp_path])) == ["m.mrxs", "v.vsi"]
    assert names(find_slides([tmp_path / "m.mrxs", tmp_path / "m/preview.jpg"])) == ["m.mrxs"]


def test_pictures_beside_a_slide_are_no_slides_but_fields_are(tmp_path):
    touch(tmp_path, "a.svs", "a_thumbnail.jpg", "a-label.png", "field.jpg", "other_label.png")
    assert names(find_slides([tmp_path])) == ["a.svs", "field.jpg", "other_label.png"]


@pytest.mark.parametrize("implicit", [False, True])
def test_a_dicom_series_counts_once_whichever_file_is_named(tmp_path, implicit):
    write_dicom(tmp_path / "s1/level-1.dcm", "1.2.3", 10, implicit)
    level_0 = write_dicom(tmp_path / "s1/level-0.dcm", "1.2.3", 5000, implicit)
    found = find_slides([tmp_path])
    assert (names(found), ids(found)) == (["level-0.dcm"], ["s1"])
    assert find_slides([tmp_path / "s1/level-1.dcm"]) == found
    assert find_slides([str(tmp_path / "s1/*.dcm")]) == found
    assert dicom_series.series_uid(level_0) == "1.2.3"


def test_two_dicom_series_in_one_folder_are_two_slides(tmp_path):
    write_dicom(tmp_path / "a.dcm", "1.2.3")
    write_dicom(tmp_path / "b.dcm", "1.2.4")
    write_dicom(tmp_path / "1.2.840.77", "1.2.5")
    assert names(find_slides([tmp_path])) == ["1.2.840.77", "a.dcm", "b.dcm"]


@given(st.binary(max_size=300))
def test_any_bytes_after_dicm_are_survived(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "x.dcm"
    path.write_bytes(bytes(128) + b"DICM" + content)
    assert dicom_series.series_uid(path) is None or isinstance(dicom_series.series_uid(path), str)


# ids


def test_two_slides_of_one_name_never_share_an_id_in_any_order(tmp_path):
    touch(tmp_path, "a/smear.svs", "b/smear.svs", "b/Smear.tif", "c.svs")
    forwards = {s.path: s.slide_id for s in find_slides([tmp_path])}
    backwards = {s.path: s.slide_id for s in find_slides(sorted(map(str, forwards), reverse=True))}
    assert forwards == backwards
    assert len({i.casefold() for i in forwards.values()}) == 4
    assert forwards[tmp_path / "c.svs"] == "c"


def test_a_namesake_found_later_does_not_rename_the_first(tmp_path):
    first, second = touch(tmp_path, "night1/smear.svs", "night2/smear.svs")
    known = {str(s.path): s.slide_id for s in find_slides([first])}
    assert known == {str(first): "smear"}
    later = {s.path: s.slide_id for s in find_slides([tmp_path], known)}
    assert later[first] == "smear"
    assert re.fullmatch("smear-[0-9a-f]{8}", later[second])
    # and a newcomer alone does not take over results of a slide that is not looked at tonight
    assert find_slides([second], known)[0].slide_id == later[second]


def test_a_file_named_like_a_hashed_id_gets_another(tmp_path):
    a, b = touch(tmp_path, "a/smear.svs", "b/smear.svs")
    hashed = find_slides([a, b])[0].slide_id
    (trap,) = touch(tmp_path, f"{hashed}.svs")
    assert len(set(ids(find_slides([a, b, trap])))) == 3


def test_slugs_are_readable():
    assert slug("CMU-1-Small-Region") == "CMU-1-Small-Region"
    assert slug("TCGA-02-0010.8f7a") == "TCGA-02-0010.8f7a"
    assert slug("Müller é") == "Muller_e"
    assert slug("=cmd|calc") == "cmd_calc"
    assert slug('<b>"x"</b>') == "b_x_b"
    assert slug("cells.csv") == "cells_csv"
    assert re.fullmatch("slide-[0-9a-f]{8}", slug("骨髓"))
    assert slug("骨髓") != slug("血液")
    assert stem(Path("os-2.ome.tif")) == "os-2"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=8, unique=True))
def test_ids_are_safe_and_distinct_for_any_names(stems):
    paths = [Path(f"/folder{i}/x") for i in range(len(stems))]
    given_ids = assign_ids(paths, stems, {})
    assert len({i.casefold() for i in given_ids}) == len(stems)
    for slide_id in given_ids:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", slide_id)
        assert len(slide_id) <= MAX_ID_CHARS
        assert os.path.splitext(slide_id)[1] not in (".csv", ".json", ".html")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_a_list_as_windows_writes_it_is_read(slides, tmp_path, encoding):
    path = slides.png("Größe 1.png")
    (tmp_path / "slides.txt").write_bytes(f'"{path}"\r\n\r\n'.encode(encoding))
    assert [file.path for file in find_slides([f"@{tmp_path / 'slides.txt'}"])] == [path]


@pytest.mark.parametrize("name", ["CON.png", "nul.tif", "com1.2.png"])
def test_names_that_windows_cannot_open_become_safe(name):
    from hemax_batch.slides.slide_ids import slug, stem

    assert slug(stem(Path(name))).lower().startswith("slide_")
