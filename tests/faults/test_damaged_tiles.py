"""A tile that a decoder would show as grey or garbage is unreadable: it is said where, and it costs its own area."""

from __future__ import annotations

import json

import imagecodecs
import numpy as np
import painted_network
import pytest
from click.testing import CliRunner
from damaged_tiles import KINDS, damage_tiles, noise
from painted_slides import smear, write_field, write_pyramid
from run_results import rows

from hemax_batch.cli.app import main
from hemax_batch.errors import ReadError, UnreadableSlideError
from hemax_batch.geometry import union_area
from hemax_batch.scheduling import work_queue
from hemax_batch.slides.formats.pixel_formats import GLASS
from hemax_batch.slides.reader import open_slide, reopen

BAD = 9  # column 1, row 2 of four across


@pytest.fixture
def go(monkeypatch, weights, tmp_path):
    """Runs `hemax-batch run`; returns its exit code and what run.json says of its one slide."""
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)

    def run(*args, out=tmp_path / "out"):
        given = ["--out", out, "--weights", weights, "--workers", 0, "--core-um", 64, *args]
        result = CliRunner().invoke(main, ["run", *map(str, given)])
        return result.exit_code, json.loads((out / "run.json").read_text())["slides"][0]

    return run


@pytest.fixture
def through_openslide(monkeypatch):
    monkeypatch.setattr(
        "hemax_batch.slides.formats.backends.agrees_with", lambda fast, reference: False
    )


def read_damaged(path):
    with open_slide(path, "s") as reader:
        slide = reader.slide
    with reopen(slide, glass_for_damage=True) as reader:
        return reader.read(0, 0, 0, slide.width, slide.height), reader.take_damaged(), slide


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_tile_is_an_error_and_costs_its_own_area(tmp_path, kind):
    rgb = smear(512, 512, 3)
    path = damage_tiles(write_pyramid(tmp_path / "a.tif", rgb), [BAD], KINDS[kind])
    with open_slide(path, "s") as reader, pytest.raises(ReadError, match="JPEG|truncated"):
        reader.read(0, 130, 260, 20, 20)
    pixels, damaged, slide = read_damaged(path)
    assert slide.backend == "tiff"
    assert [area.rect for area in damaged] == [(128, 256, 256, 384)]
    assert (pixels[256:384, 128:256] == GLASS).all()
    pixels[256:384, 128:256] = rgb[256:384, 128:256]
    assert np.abs(pixels.astype(int) - rgb).mean() < 2


@pytest.mark.parametrize("kind", KINDS)
def test_openslide_too_loses_only_the_block_with_the_damaged_tile(
    tmp_path, kind, through_openslide
):
    rgb = smear(1024, 768, 3)
    path = damage_tiles(
        write_pyramid(tmp_path / "a.tif", rgb), [17], KINDS[kind]
    )  # row 2, column 1
    pixels, damaged, slide = read_damaged(path)
    assert slide.backend == "openslide"
    assert [area.rect for area in damaged] == [(0, 256, 256, 512)]
    pixels[256:512, :256] = rgb[256:512, :256]
    assert np.abs(pixels.astype(int) - rgb).mean() < 2
    with reopen(slide, glass_for_damage=True) as reader:  # whatever the window
        reader.read(0, 130, 260, 700, 300)
        assert [area.rect for area in reader.take_damaged()] == [(0, 256, 256, 512)]
        reader.read(0, 255, 500, 2, 2)
        assert [area.rect for area in reader.take_damaged()] == [(0, 256, 256, 512)]


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw", "packbits", "jpeg2000", "jpeg"])
def test_a_tile_cut_short_is_an_error_for_every_codec(tmp_path, compression):
    path = write_pyramid(tmp_path / "a.tif", smear(512, 512, 3), compression=compression)
    damage_tiles(path, [BAD], lambda data: data[: len(data) // 2])
    _, damaged, _ = read_damaged(path)
    assert [area.rect for area in damaged] == [(128, 256, 256, 384)]


def test_a_damaged_camera_field_is_refused(tmp_path):
    path = write_field(tmp_path / "field.jpg", smear(400, 300, 3), quality=90)
    sound = path.read_bytes()
    for kind, change in KINDS.items():
        path.write_bytes(change(sound))
        with pytest.raises(UnreadableSlideError, match=r"field\.jpg.*JPEG"):
            open_slide(path, kind, mpp=0.25)


def test_sound_jpegs_of_every_kind_are_decoded_as_before(tmp_path):
    from hemax_batch.slides.formats.jpeg import decode_jpeg

    rgb = np.ascontiguousarray(smear(96, 64, 1))
    for options in ({}, {"subsampling": "420"}, {"outcolorspace": "rgb"}, {"optimize": True}):
        data = imagecodecs.jpeg8_encode(rgb, level=90, **options)
        stored = options.get("outcolorspace")
        expected = imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace="rgb")
        np.testing.assert_array_equal(decode_jpeg(data, rgb.shape), expected)


@pytest.mark.slow
def test_cells_at_damaged_tiles_are_left_out_and_the_place_is_said(go, tmp_path):
    rgb = smear(1000, 700, 3)
    sound = write_pyramid(tmp_path / "sound.tif", rgb, mpp=0.25, levels=1)
    torn = write_pyramid(tmp_path / "torn.tif", rgb, mpp=0.25, levels=1)
    damage_tiles(torn, [10, 19], noise)
    places = [(256, 128, 384, 256), (384, 256, 512, 384)]
    assert go(sound, out=tmp_path / "sound")[0] == 0
    code, entry = go(torn)
    assert code == 0 and entry["unreadable_regions"] == []
    assert [tuple(place["rect"]) for place in entry["unreadable_places"]] == places

    def boxes(out, slide):
        return {
            tuple(float(row[k]) for k in ("x0", "y0", "x1", "y1"))
            for row in rows(out / slide / "cells.csv")
        }

    def touches(box):
        return any(
            box[0] < x1 and box[2] > x0 and box[1] < y1 and box[3] > y0 for x0, y0, x1, y1 in places
        )

    expected = {box for box in boxes(tmp_path / "sound", "sound") if not touches(box)}
    assert len(expected) < len(boxes(tmp_path / "sound", "sound"))
    assert boxes(tmp_path / "out", "torn") == expected
    assert "2 damaged places" in (tmp_path / "out" / "torn" / "report.html").read_text("utf-8")
    record = json.loads((tmp_path / "out" / "torn" / "result.json").read_text())
    mm2 = 128 * 128 * 0.25**2 / 1e6
    assert [place["mm2"] for place in record["unreadable_places"]] == [round(mm2, 6)] * 2
    assert record["unreadable_share"] == pytest.approx(2 * 128 * 128 / (1000 * 700), abs=1e-5)
    assert record["smear"]["unreadable_mm2"] == pytest.approx(2 * mm2, abs=1e-5)
    [warning] = [text for text in record["warnings"] if "could not be read" in text]
    assert "2 damaged places" in warning and "x 256..384, y 128..256" in warning


@pytest.mark.slow
def test_damaged_tiles_count_towards_max_unreadable_and_can_be_tried_again(go, tmp_path):
    torn = write_pyramid(tmp_path / "torn.tif", smear(1000, 700, 3), mpp=0.25, levels=1)
    damage_tiles(torn, range(0, 36, 6), noise)
    code, entry = go(torn, "--max-unreadable", 0.1)
    assert code == 4 and "--max-unreadable" in entry["reason"] and "JPEG" in entry["reason"]
    code, entry = go(torn, "--max-unreadable", 0.5)
    assert code == 0 and entry["state"] == "done"
    assert go(torn, "--max-unreadable", 0.5)[1]["state"] == "skipped"
    assert go(torn, "--max-unreadable", 0.5, "--retry-failed")[1]["state"] == "done"


def test_a_core_whose_coarse_tile_is_damaged_is_not_taken_for_blank(go, tmp_path):
    rgb = smear(1024, 1024, 3)
    path = write_pyramid(tmp_path / "a.tif", rgb, mpp=0.25, levels=5)
    damage_tiles(path, [0], noise, level=4)  # all of the slide at 4 µm/px
    code, entry = go(path)
    assert code == 0 and entry["cells"] > 10


def test_area_of_overlapping_places():
    rects = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [0, 0, 1, 1], [9, 9, 8, 12]])
    assert union_area(rects) == 28
    assert union_area(rects[:0]) == 0
