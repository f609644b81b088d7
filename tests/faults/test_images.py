"""Which image of a file is the slide: never silently a macro picture, the first of several scenes, or a blurred plane."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from painted_slides import halved, smear
from scipy import ndimage

from hemax_batch.cli.app import main
from hemax_batch.errors import UnreadableSlideError
from hemax_batch.slides.reader import open_slide, reopen

OPTIONS = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate"}


def write_scenes(path, scenes, ome=True):
    """Images of (name, pixels, µm/px), each with a level of half its size in a SubIFD."""
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for name, pixels, um in scenes:
            metadata = {"axes": "YXS", "Name": name, "PhysicalSizeX": um, "PhysicalSizeY": um}
            tiff.write(pixels, subifds=1, metadata=metadata, **OPTIONS)
            tiff.write(halved(pixels), subfiletype=1, **OPTIONS)
    return path


def write_pages(path, pages, um=0.1, **more):
    with tifffile.TiffWriter(path) as tiff:
        for pixels in pages:
            tiff.write(
                pixels,
                resolution=(1e4 / um,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **OPTIONS | more,
            )
    return path


def blurred(rgb, sigma):
    return rgb if not sigma else ndimage.gaussian_filter(rgb, (sigma, sigma, 0))


def whole(reader):
    return reader.read(0, 0, 0, reader.slide.width, reader.slide.height)


def assert_reads(path, rgb, **choice):
    with open_slide(path, "s", **choice) as reader:
        slide = reader.slide
        np.testing.assert_array_equal(whole(reader), rgb)
    with reopen(slide) as again:
        np.testing.assert_array_equal(whole(again), rgb)
    return slide


@pytest.mark.parametrize("name", ["macro", "label image", "", "Image 0"])
def test_the_slide_is_the_finest_image_and_not_the_first(tmp_path, name):
    slide_rgb, macro = smear(700, 500, 0), smear(800, 600, 5)
    scenes = [(name, macro, 0.5), ("slide", slide_rgb, 0.1)]
    slide = assert_reads(write_scenes(tmp_path / "a.ome.tif", scenes), slide_rgb)
    assert slide.mpp == pytest.approx(0.1)
    assert slide.level_sizes == ((700, 500), (350, 250))
    [note] = slide.notes
    assert "read: image 2" in note and "left: image 1" in note and "800x600 px, 0.5 µm/px" in note


def test_a_label_as_large_as_the_slide_is_left(tmp_path):
    scenes = [("label", smear(800, 600, 5), 0.1), ("slide", smear(700, 500), 0.1)]
    assert_reads(write_scenes(tmp_path / "a.ome.tif", scenes), smear(700, 500))


def test_a_grey_image_is_left_where_there_is_one_in_colour(tmp_path):
    path, rgb = tmp_path / "a.ome.tif", smear(700, 500)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for pixels, kind in ((smear(800, 600)[..., 1], "minisblack"), (rgb, "rgb")):
            metadata = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
            tiff.write(pixels, metadata=metadata, photometric=kind, tile=(128, 128))
    assert_reads(path, rgb)


def test_equal_scenes_are_refused_by_name_and_one_can_be_chosen(tmp_path):
    first, second = smear(700, 500, 1), smear(640, 480, 2)
    path = write_scenes(tmp_path / "a.ome.tif", [("left", first, 0.1), ("right", second, 0.1)])
    with pytest.raises(
        UnreadableSlideError, match=r"a\.ome\.tif.*2 images.*'left'.*'right'.*--image 1"
    ):
        open_slide(path, "s")
    assert_reads(path, first, image=1)
    assert_reads(path, second, image=2)
    with pytest.raises(UnreadableSlideError, match="holds 2 images, --image 3"):
        open_slide(path, "s", image=3)


def test_fields_as_pages_are_refused_and_one_can_be_chosen(tmp_path):
    pages = [smear(700, 500, seed) for seed in (1, 2, 3)]
    path = write_pages(tmp_path / "fields.tif", pages)
    with pytest.raises(UnreadableSlideError, match=r"3 images that may each be the slide"):
        open_slide(path, "s")
    assert_reads(path, pages[1], image=2)


@pytest.mark.parametrize("kind", ["pages", "ome", "shaped"])
def test_of_focus_planes_the_sharpest_is_read_or_the_one_asked_for(tmp_path, kind):
    planes = [blurred(smear(700, 500), sigma) for sigma in (3, 2, 0, 2)]
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    if kind == "pages":
        write_pages(path, planes)
    else:
        known = {"resolution": (1e5, 1e5), "resolutionunit": "CENTIMETER"}
        metadata = {"axes": "ZYXS"}
        tifffile.imwrite(path, np.stack(planes), metadata=metadata, **known, **OPTIONS)
    slide = assert_reads(path, planes[2], mpp=0.1)
    assert any("focus plane 3 of 4 is read, the sharpest" in text for text in slide.warnings)
    slide = assert_reads(path, planes[0], mpp=0.1, focus_plane=1)
    assert any("focus plane 1 of 4" in text for text in slide.warnings)
    with pytest.raises(UnreadableSlideError, match="holds 4 focus planes, --focus-plane 5"):
        open_slide(path, "s", mpp=0.1, focus_plane=5)


def test_a_thumbnail_before_the_slide(tmp_path):
    rgb = smear(1024, 512)
    path = write_pages(tmp_path / "a.tif", [halved(halved(rgb)), smear(120, 150), rgb, halved(rgb)])
    slide = assert_reads(path, rgb)
    assert slide.level_sizes == ((1024, 512), (512, 256), (256, 128))


def test_info_and_the_record_say_what_was_read_and_left(tmp_path):
    scenes = [("macro", smear(800, 600, 5), 0.5), ("slide", smear(700, 500), 0.1)]
    path = write_scenes(tmp_path / "a.ome.tif", scenes)
    result = CliRunner().invoke(main, ["info", str(path)])
    assert "read: image 2 'slide'" in result.output and "left: image 1 'macro'" in result.output
    result = CliRunner().invoke(main, ["info", "--json", str(path)])
    assert "left: image 1 'macro'" in json.loads(result.output)["notes"][0]
