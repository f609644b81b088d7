"""Opening slides of every kind, reading windows, and cutting patches that depend on their centre alone."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from checkout import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from painted_slides import SlideMaker, halved, smear, write_pyramid
from PIL import Image

from hemax_batch.errors import (
    MissingMppError,
    ReadError,
    UnreadableSlideError,
    UnsuitableSlideError,
)
from hemax_batch.inference.worker_cache import cached_reader
from hemax_batch.slides.fingerprint import fingerprint, sampled_spans
from hemax_batch.slides.formats import spacing, tiff_backend
from hemax_batch.slides.formats.pixel_formats import GLASS
from hemax_batch.slides.patches import best_level, cut_patches
from hemax_batch.slides.reader import (
    COARSEST_UM,
    FINEST_UM,
    downsamples,
    open_slide,
    record_slide,
    reopen,
)


def whole(path, level: int = 0, mpp: float | None = None) -> np.ndarray:
    with open_slide(path, "s", mpp) as reader:
        return reader.read(level, 0, 0, *reader.slide.level_sizes[level])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def through_openslide(path, monkeypatch):
    """Open `path` with the fast path's probe made to fail."""
    monkeypatch.setattr(
        "hemax_batch.slides.formats.backends.agrees_with", lambda fast, reference: False
    )
    return open_slide(path, "s")


# what is in the file, and what comes out


def test_a_pyramidal_jpeg_tiff_takes_the_fast_path(slides):
    with open_slide(slides.tiff(), "smear") as reader:
        slide = reader.slide
        assert (slide.backend, slide.width, slide.height) == ("tiff", 700, 500)
        assert slide.level_sizes == ((700, 500), (350, 250), (175, 125))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert slide.mpp == pytest.approx(0.1)
        assert difference(reader.read(0, 0, 0, 700, 500), slides.rgb) < 2
        assert difference(reader.read(1, 0, 0, 350, 250), halved(slides.rgb)) < 2


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd", "packbits", "jpeg2000"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_lossless_compressions_give_the_painted_pixels(slides, compression, bigtiff):
    path = slides.tiff(compression=compression, bigtiff=bigtiff, levels=2)
    np.testing.assert_array_equal(whole(path), slides.rgb)
    np.testing.assert_array_equal(whole(path, 1), halved(slides.rgb))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("predictor", [False, True])
def test_deep_samples_are_scaled_by_their_significant_bits(slides, byteorder, predictor):
    deep = (slides.rgb.astype(np.uint16) << 4) | 15
    path = slides.folder / "deep.tif"
    slides.folder.mkdir()
    options = {
        "photometric": "rgb",
        "tile": (128, 128),
        "compression": "deflate",
        "predictor": predictor,
    }
    tifffile.imwrite(
        path, deep, byteorder=byteorder, resolution=(1e5, 1e5), resolutionunit=3, **options
    )
    np.testing.assert_array_equal(whole(path), slides.rgb)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_every_camera_depth_gives_the_same_picture(slides, bits):
    np.testing.assert_array_equal(whole(slides.deep(bits=bits)), slides.rgb)


def test_grey_is_repeated_and_transparent_is_glass(slides):
    np.testing.assert_array_equal(whole(slides.grey()), np.repeat(slides.rgb[..., 1:2], 3, axis=2))
    rgba = whole(slides.rgba())
    np.testing.assert_array_equal(rgba[:, :350], slides.rgb[:, :350])
    assert (rgba[:, 350:] == GLASS).all()


def test_palette_planar_white_is_zero_and_strips(slides):
    slides.folder.mkdir()
    known = {"resolution": (1e5, 1e5), "resolutionunit": 3}
    index = (slides.rgb[..., 1] // 2).astype(np.uint8)
    colormap = np.stack(
        [np.arange(256) * 257, 65535 - np.arange(256) * 257, np.full(256, 7 * 257)]
    ).astype(np.uint16)
    path = slides.folder / "a.tif"
    tifffile.imwrite(path, index, photometric="palette", colormap=colormap, **known)
    np.testing.assert_array_equal(
        whole(path), (colormap[:, index] >> 8).astype(np.uint8).transpose(1, 2, 0)
    )
    path = slides.folder / "b.tif"
    planes = np.ascontiguousarray(slides.rgb.transpose(2, 0, 1))
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", tile=(64, 64), **known
    )
    np.testing.assert_array_equal(whole(path), slides.rgb)
    path = slides.folder / "c.tif"
    tifffile.imwrite(
        path, 255 - index, photometric="miniswhite", rowsperstrip=33, compression="lzw", **known
    )
    np.testing.assert_array_equal(whole(path), np.repeat(index[..., None], 3, axis=2))
    path = slides.folder / "d.tif"
    tifffile.imwrite(
        path, slides.rgb, photometric="rgb", rowsperstrip=500, compression="deflate", **known
    )
    np.testing.assert_array_equal(whole(path), slides.rgb)


def test_ycbcr_jpeg_tiles_are_not_magenta(slides):
    """Pillow writes true YCbCr JPEG tiles, with tables and chroma at half size."""
    slides.folder.mkdir()
    path = slides.folder / "ycbcr.tif"
    Image.fromarray(slides.rgb).save(path, compression="jpeg", quality=90, dpi=(254000, 254000))
    assert difference(whole(path), slides.rgb) < 3


@pytest.mark.parametrize("unit, size", [("µm", 0.1), ("nm", 100.0), ("mm", 1e-4)])
def test_ome_tiff_with_its_pyramid_in_subifds(slides, unit, size):
    with open_slide(slides.ome(size=size, unit=unit), "ome") as reader:
        assert reader.slide.mpp == pytest.approx(0.1)
        assert reader.slide.level_sizes == ((700, 500), (350, 250))
        np.testing.assert_array_equal(reader.read(1, 0, 0, 350, 250), halved(slides.rgb))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg", "a.webp"])
def test_single_fields_from_a_camera(slides, name):
    slides.folder.mkdir()
    path = slides.folder / name
    Image.fromarray(slides.rgb).save(path, quality=95)
    with open_slide(path, "field", mpp=0.2) as reader:
        assert (reader.slide.backend, reader.slide.mpp) == ("image", 0.2)
        assert difference(reader.read(0, 0, 0, 700, 500), slides.rgb) < 3


def test_fields_in_other_modes_become_rgb(slides):
    slides.folder.mkdir()
    grey = slides.rgb[..., 1]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    path = slides.folder / "a.png"
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(whole(path, mpp=0.1), as_rgb)
    Image.fromarray(grey.astype(np.uint16) << 4).save(path)
    np.testing.assert_array_equal(whole(path, mpp=0.1), as_rgb)
    path.write_bytes(imagecodecs.png_encode(slides.rgb.astype(np.uint16) << 8))
    np.testing.assert_array_equal(whole(path, mpp=0.1), slides.rgb)
    alpha = np.where(np.arange(700) < 350, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([slides.rgb, np.broadcast_to(alpha, (500, 700))])).save(path)
    assert (whole(path, mpp=0.1)[:, 350:] == GLASS).all()
    Image.fromarray(slides.rgb).quantize(64).save(path)
    assert difference(whole(path, mpp=0.1), slides.rgb) < 8
    Image.fromarray(slides.rgb).convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
    assert difference(whole(path.with_suffix(".jpg"), mpp=0.1), slides.rgb) < 4


# windows


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-60, 720),
    st.integers(-60, 520),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 1),
)
def test_a_window_is_a_slice_of_the_slide_on_glass(tmp_path_factory, x, y, w, h, level):
    path = tmp_path_factory.getbasetemp() / "window.tif"
    if not path.exists():
        write_pyramid(path, smear(), 0.1, levels=2, tile=64, compression="deflate")
    canvas = np.full((1400, 1600, 3), GLASS, np.uint8)
    plane = smear() if level == 0 else halved(smear())
    canvas[100 : 100 + plane.shape[0], 100 : 100 + plane.shape[1]] = plane
    with open_slide(path, "s") as reader:
        np.testing.assert_array_equal(
            reader.read(level, x, y, w, h), canvas[100 + y :, 100 + x :][:h, :w]
        )


def test_each_tile_is_decoded_once_within_the_cache(slides, monkeypatch):
    decoded = []
    original = tiff_backend.decode_samples
    monkeypatch.setattr(
        tiff_backend, "decode_samples", lambda *args: decoded.append(args) or original(*args)
    )
    with open_slide(slides.tiff(levels=1), "s") as reader:
        decoded.clear()
        reader._source._cache.clear()
        for x in range(0, 700, 50):
            reader.read(0, x, 0, 90, 500)
        assert len(decoded) == 6 * 4


def test_the_cache_keeps_to_its_bytes_and_always_the_newest():
    cache = tiff_backend._TileCache(100)
    for i in range(5):
        cache.put((0, 0, i), np.zeros(40, np.uint8))
    assert [cache.get((0, 0, i)) is not None for i in range(5)] == [False, False, False, True, True]
    cache.put((9, 9, 9), np.zeros(1000, np.uint8))
    assert cache.get((9, 9, 9)) is not None
    assert cache.get((0, 0, 4)) is None


def test_openslide_and_the_fast_path_agree(slides, monkeypatch):
    path = slides.tiff()
    fast = [whole(path, level) for level in range(3)]
    with through_openslide(path, monkeypatch) as reader:
        assert reader.slide.backend == "openslide"
        for level, pixels in enumerate(fast):
            assert (
                difference(reader.read(level, 0, 0, *reader.slide.level_sizes[level]), pixels) < 1
            )


def test_tiles_that_differ_from_openslide_are_left_to_openslide(slides, monkeypatch):
    original = tiff_backend.samples_to_rgb
    monkeypatch.setattr(tiff_backend, "samples_to_rgb", lambda *args: original(*args)[..., ::-1])
    with open_slide(slides.tiff(), "s") as reader:
        assert reader.slide.backend == "openslide"


def test_openslide_windows_do_not_depend_on_where_they_start(slides, monkeypatch):
    """At a downsample that is no whole number OpenSlide shifts each window by another fraction of a pixel."""
    with through_openslide(slides.tiff(pixels=smear(701, 503)), monkeypatch) as reader:
        full = reader.read(1, 0, 0, 350, 251)
        for x in (1, 37, 200):
            np.testing.assert_array_equal(
                reader.read(1, x, x, 100, 40), full[x : x + 40, x : x + 100]
            )


def test_downsamples_are_the_whole_numbers_that_rounding_allows():
    assert downsamples(((4443, 3567), (2221, 1783), (69, 55))) == (1.0, 2.0, 64.0)
    assert downsamples(((1000, 1000), (333, 333))) == (1.0, 3.0)
    assert downsamples(((1000, 500), (400, 200))) == (1.0, 2.5)


# µm per pixel


def test_missing_spacing_is_an_error_that_names_the_slide_and_the_option(slides):
    path = slides.tiff(mpp=None)
    with pytest.raises(MissingMppError, match=r"night-7.*smear\.tif.*--mpp"):
        open_slide(path, "night-7")
    assert open_slide(path, "night-7", mpp=0.25).slide.mpp == 0.25


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_printers_resolutions_are_no_spacing(slides, dpi):
    path = slides.tiff(mpp=25400 / dpi)
    with pytest.raises(MissingMppError):
        open_slide(path, "s")
    field = slides.png(mpp=25400 / dpi)
    with pytest.raises(MissingMppError):
        open_slide(field, "s")


def test_the_given_spacing_overrides_the_files_own(slides):
    assert open_slide(slides.tiff(mpp=0.1), "s", mpp=0.2).slide.mpp == 0.2


@pytest.mark.parametrize("mpp, word", [(0.9, "0.5"), (0.03, "0.04")])
def test_too_coarse_and_too_fine_quote_both_figures(slides, mpp, word):
    with pytest.raises(UnsuitableSlideError, match=rf"slide 'x'.*{mpp}.*{word}.*--mpp"):
        open_slide(slides.tiff(mpp=mpp), "x")


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), 0.0, -0.2])
def test_a_nonsense_spacing_is_refused(slides, mpp):
    with pytest.raises(UnsuitableSlideError):
        open_slide(slides.tiff(), "x", mpp=mpp)


def test_pixels_that_are_not_square_are_refused(slides):
    slides.folder.mkdir()
    path = slides.folder / "a.tif"
    tifffile.imwrite(path, slides.rgb, photometric="rgb", resolution=(1e5, 5e4), resolutionunit=3)
    with pytest.raises(UnsuitableSlideError, match=r"not square.*0\.1 x 0\.2"):
        open_slide(path, "s")


def test_spacing_from_what_vendors_write():
    assert spacing.from_aperio("Aperio\n1x1|AppMag = 20|MPP = 0.4990|Left = 1") == (0.499, 0.499)
    assert spacing.from_aperio("Aperio|AppMag = 20") is None
    assert spacing.from_tiff_tags(10.0, 10.0, 1, "ImageJ=1.53\nunit=micron\n") == (0.1, 0.1)
    assert spacing.from_tiff_tags(10.0, 10.0, 1, "ImageJ=1.53\nunit=\\u00B5m\n") == (0.1, 0.1)
    assert spacing.from_tiff_tags(10.0, 10.0, 1, "") is None
    pixels = (
        '<OME xmlns="x"><Image><Pixels PhysicalSizeX="{}" PhysicalSizeXUnit="{}"/></Image></OME>'
    )
    assert spacing.from_ome_xml(pixels.format("0.25", "µm")) == (0.25, 0.25)
    assert spacing.from_ome_xml(pixels.format("abc", "µm")) is None
    assert spacing.from_ome_xml(pixels.format("0.25", "pixel")) is None
    assert spacing.from_ome_xml("<OME") is None


# refusals and damage


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"II*\0", b"MM\0*\0\0\0\x08", b"\x89PNG\r\n\x1a\n"]
)
def test_files_that_are_no_slides_are_refused_by_name(tmp_path, content):
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=r"slide 'b' .*bad\.tif"):
        open_slide(path, "b", mpp=0.1)


def test_missing_files_and_folders_are_refused_by_name(tmp_path):
    with pytest.raises(UnreadableSlideError, match=r"gone\.svs.*No such file"):
        open_slide(tmp_path / "gone.svs", "g")
    with pytest.raises(UnreadableSlideError, match="regular file"):
        open_slide(tmp_path, "folder")


def test_fluorescence_stacks_and_floats_are_refused(slides):
    slides.folder.mkdir()
    path = slides.folder / "a.tif"
    tifffile.imwrite(path, slides.rgb.astype(np.float32), photometric="rgb")
    with pytest.raises(UnreadableSlideError, match="float32"):
        open_slide(path, "s", mpp=0.1)
    tifffile.imwrite(
        path, np.zeros((5, 64, 64), np.uint8), photometric="minisblack", planarconfig="separate"
    )
    with pytest.raises(UnreadableSlideError, match="channels"):
        open_slide(path, "s", mpp=0.1)
    tifffile.imwrite(
        path.with_suffix(".ome.tif"), np.zeros((5, 64, 64, 3), np.uint8), metadata={"axes": "TYXS"}
    )
    with pytest.raises(UnreadableSlideError, match="stack of 5"):
        open_slide(path.with_suffix(".ome.tif"), "s", mpp=0.1)


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_slide_is_refused_or_says_where_it_cannot_be_read(slides, tenth):
    path = slides.tiff(compression="deflate")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises((UnreadableSlideError, ReadError), match=r"smear\.tif"):
        for level in range(3):
            whole(path, level, mpp=0.1)


def test_a_corrupt_tile_spoils_itself_and_no_other(slides):
    path = slides.tiff(compression="deflate", levels=1)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[8], tif.pages[0].databytecounts[8]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)
    with open_slide(path, "s") as reader:
        with pytest.raises(ReadError, match=r"slide 's' .*level 0, x 250\.\.300, y 130\.\.180"):
            reader.read(0, 250, 130, 50, 50)
        np.testing.assert_array_equal(reader.read(0, 0, 0, 256, 256), slides.rgb[:256, :256])


def test_openslide_reads_on_after_a_corrupt_tile(slides, monkeypatch):
    """Its errors latch: without a fresh handle every later window would fail too."""
    path = slides.tiff(levels=1)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[8], tif.pages[0].databytecounts[8]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\0" * length)
    with through_openslide(path, monkeypatch) as reader:
        with pytest.raises(ReadError):
            reader.read(0, 250, 130, 50, 50)
        assert difference(reader.read(0, 0, 0, 128, 128), slides.rgb[:128, :128]) < 2


def patch_tag(path: Path, code: int, value: int) -> None:
    """Overwrite an inline tag of the first directory of a little-endian classic TIFF."""
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[code].valueoffset
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", value))


@pytest.mark.parametrize("tile", [128, 2**20])
def test_a_tiff_that_claims_a_million_pixels_squared_is_refused_without_allocating(slides, tile):
    path = slides.tiff(levels=1)
    for code in (256, 257):
        patch_tag(path, code, 10**6)
    for code in (322, 323):
        patch_tag(path, code, tile)
    with pytest.raises(UnreadableSlideError, match="1000000x1000000"):
        open_slide(path, "bomb", mpp=0.1)


def test_a_tile_that_unpacks_to_more_than_its_size_is_an_error(slides):
    """A decompression bomb: the directory says 128 x 128, the stream holds 16 MiB."""
    path = slides.tiff(compression="deflate", levels=1)
    bomb = imagecodecs.zlib_encode(bytes(16 * 2**20), level=6)
    with tifffile.TiffFile(path) as tif:
        offsets, counts = tif.pages[0].tags[324].valueoffset, tif.pages[0].tags[325].valueoffset
    end = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(offsets)
        file.write(struct.pack("<I", end))
        file.seek(counts)
        file.write(struct.pack("<I", len(bomb)))
        file.seek(end)
        file.write(bomb)
    with open_slide(path, "s", mpp=0.1) as reader:
        if reader.slide.backend == "tiff":
            with pytest.raises(ReadError):
                reader.read(0, 0, 0, 128, 128)


@pytest.mark.parametrize("pages", [1, 3, 150])
def test_directories_in_a_loop_do_not_hang(tmp_path, pages):
    path = tmp_path / "loop.tif"
    with tifffile.TiffWriter(path) as tif:
        for _ in range(pages):
            tif.write(np.zeros((16, 16, 3), np.uint8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].offset, tif.pages[-1]
        link = last.offset + 2 + 12 * len(last.tags)
    with open(path, "r+b") as file:
        file.seek(link)
        file.write(struct.pack("<I", first))
    with pytest.raises(UnreadableSlideError, match="loop"):
        open_slide(path, "s", mpp=0.1)


def test_an_oversize_field_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("hemax_batch.slides.formats.image_backend.MAX_IMAGE_PX", 9000)
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableSlideError, match=r"100x100 px.*tiled TIFF"):
        open_slide(tmp_path / "a.png", "s", mpp=0.1)


def test_the_documentation_says_from_which_spacing_to_which():
    told = f"The tool accepts {FINEST_UM:g} to {COARSEST_UM:g} µm/px."
    assert told in (ROOT / "docs" / "usage.md").read_text("utf-8")


@pytest.mark.parametrize("size", ["25000 20000", "60000 60000"])
def test_whatever_the_size_of_a_field_the_limit_that_is_told_is_ours(tmp_path, size):
    (tmp_path / "a.ppm").write_bytes(f"P6 {size} 255\n".encode())
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UnreadableSlideError, match=r"100 Mpx.*tiled TIFF"),
    ):
        open_slide(tmp_path / "a.ppm", "s", mpp=0.1)


def test_a_field_too_large_for_pillow_alone_is_read_and_pillows_limit_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", "s", mpp=0.1) as reader:
        assert reader.read(0, 0, 0, 100, 100).shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(tmp_path_factory, data):
    """Every damaged file opens, or is refused by an error of ours."""
    path = tmp_path_factory.getbasetemp() / "flipped.tif"
    source = tmp_path_factory.getbasetemp() / "sound.tif"
    if not source.exists():
        write_pyramid(source, smear(200, 150), 0.1, levels=2, tile=64)
    content = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as tif:
        start = tif.pages[0].offset
    spots = st.integers(0, 15) | st.integers(start, start + 400) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(spots)] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with open_slide(path, "s", mpp=0.1) as reader:
            reader.read(0, 0, 0, *(min(side, 300) for side in reader.slide.level_sizes[0]))
    except (UnreadableSlideError, UnsuitableSlideError, ReadError):
        pass


# the record, and opening again


@pytest.mark.parametrize("kind", ["tiff", "ome", "png", "deep", "rgba", "grey", "bigtiff"])
def test_a_pickled_record_opens_the_same_slide_again(slides, kind):
    with open_slide(getattr(slides, kind)(), "s") as reader:
        record = pickle.loads(pickle.dumps(reader.slide))
        before = reader.read(0, 100, 100, 300, 300)
    with reopen(record) as again:
        assert again.slide == record
        assert again._source.backend == record.backend
        np.testing.assert_array_equal(again.read(0, 100, 100, 300, 300), before)


def test_a_slide_read_by_openslide_is_reopened_by_openslide(slides, monkeypatch):
    with through_openslide(slides.tiff(), monkeypatch) as reader:
        record = reader.slide
    with reopen(record) as again:
        assert again._source.backend == "openslide"


def test_a_slide_that_changed_or_vanished_is_not_reopened(slides):
    path = slides.tiff()
    with open_slide(path, "s") as reader:
        record = reader.slide
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UnreadableSlideError, match="changed since the run began"):
        reopen(record)
    path.unlink()
    with pytest.raises(UnreadableSlideError, match="share"):
        reopen(record)


def test_the_fingerprint_sees_both_ends_the_size_and_not_the_name(tmp_path):
    path = tmp_path / "a"
    content = np.random.default_rng(0).integers(0, 256, 8 * 2**20, np.uint8)
    path.write_bytes(content.tobytes())
    first = fingerprint([path])
    path.rename(tmp_path / "b")
    path = tmp_path / "b"
    assert fingerprint([path]) == first
    for changed in (
        content[:-1],
        np.r_[content[:-1], content[-1] ^ 1],
        np.r_[content[0] ^ 1, content[1:]],
    ):
        path.write_bytes(changed.astype(np.uint8).tobytes())
        assert fingerprint([path]) != first


@given(st.integers(0, 10**13))
@example(3 * 2**20 + 1)
@example(3 * 2**20 + 2**16 + 1)
def test_sampled_spans_lie_in_the_file_in_order_and_read_little(size):
    spans = sampled_spans(size)
    assert all(start >= 0 and start + length <= size for start, length in spans)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(spans))
    assert spans[0][0] == 0
    assert sum(spans[-1]) == size
    assert sum(length for _, length in spans) <= 3 * 2**20 + 2**16


# patches


@pytest.fixture
def patch_reader(slides):
    with open_slide(slides.tiff(compression="deflate", mpp=0.08, levels=3), "s") as reader:
        yield reader


def test_the_best_level_is_the_coarsest_that_is_fine_enough(patch_reader):
    slide = patch_reader.slide  # 0.08, 0.16, 0.32 µm/px
    assert [best_level(slide, mpp) for mpp in (0.05, 0.08, 0.12, 0.159, 0.2, 0.5)] == [
        0,
        0,
        0,
        1,
        1,
        2,
    ]


def test_a_patch_at_the_slides_own_scale_is_a_slice(patch_reader, slides):
    batch = cut_patches(patch_reader, np.array([[300.0, 200.0]]), 0.08, 64)
    assert batch.scale == 1.0
    np.testing.assert_array_equal(batch.origins, [[268.0, 168.0]])
    np.testing.assert_array_equal(batch.pixels[0].transpose(1, 2, 0), slides.rgb[168:232, 268:332])


@pytest.mark.parametrize("mpp", [0.05, 0.08, 0.12, 0.3])
def test_a_patch_equals_the_whole_level_resampled_at_once(patch_reader, mpp):
    """The slow oracle: resize with the box out of the whole level, no window at all."""
    centres = np.array([[301.3, 222.7], [350.0, 250.0], [280.9, 260.1]])
    batch = cut_patches(patch_reader, centres, mpp, 48)
    slide = patch_reader.slide
    level = best_level(slide, mpp)
    factor = slide.level_downsamples[level]
    plane = Image.fromarray(patch_reader.read(level, 0, 0, *slide.level_sizes[level]))
    for pixels, (x, y) in zip(batch.pixels, centres, strict=True):
        half = mpp / slide.mpp / factor * 24
        box = (x / factor - half, y / factor - half, x / factor + half, y / factor + half)
        oracle = np.asarray(plane.resize((48, 48), Image.Resampling.BICUBIC, box=box))
        assert np.abs(pixels.transpose(1, 2, 0).astype(int) - oracle).max() <= 1


def test_patches_do_not_depend_on_their_company_or_order(patch_reader):
    rng = np.random.default_rng(1)
    centres = rng.uniform(-30, 730, (9, 2))
    together = cut_patches(patch_reader, centres, 0.12, 32)
    backwards = cut_patches(patch_reader, centres[::-1], 0.12, 32)
    np.testing.assert_array_equal(together.pixels, backwards.pixels[::-1])
    for i in range(0, 9, 4):
        part = cut_patches(patch_reader, centres[i : i + 4], 0.12, 32)
        np.testing.assert_array_equal(together.pixels[i : i + 4], part.pixels)
        np.testing.assert_array_equal(together.origins[i : i + 4], part.origins)


def test_patches_beyond_the_edge_are_glass(patch_reader):
    batch = cut_patches(patch_reader, np.array([[-500.0, -500.0]]), 0.12, 32)
    assert (batch.pixels == GLASS).all()


def test_no_centres_give_an_empty_batch(patch_reader):
    assert cut_patches(patch_reader, np.zeros((0, 2)), 0.12, 32).pixels.shape == (0, 3, 32, 32)


@pytest.mark.parametrize("mpp", [0.05, 0.12, 0.25, 0.5])
def test_a_painted_cell_lies_where_its_patch_says(tmp_path, mpp):
    """One dark square at a known place, found again through origins and scale at every slide µm/px."""
    rgb = np.full((600, 600, 3), 240, np.uint8)
    rgb[300:340, 200:240] = 30
    path = write_pyramid(tmp_path / "a.tif", rgb, mpp, levels=3, compression="deflate")
    with open_slide(path, "s") as reader:
        batch = cut_patches(reader, np.array([[210.0, 330.0]]), 0.12, 320)
    dark = np.argwhere(batch.pixels[0, 0] < 135)
    (top, left), (bottom, right) = dark.min(0), dark.max(0) + 1
    x0, y0 = batch.origins[0] + np.array([left, top]) * batch.scale
    x1, y1 = batch.origins[0] + np.array([right, bottom]) * batch.scale
    np.testing.assert_allclose([x0, y0, x1, y1], [200, 300, 240, 340], atol=batch.scale + 1)


def test_the_record_is_complete(slides):
    with open_slide(slides.tiff("a b.tif"), "a_b") as reader:
        record = reader.slide
    assert dataclasses.asdict(record).keys() >= {"path", "fingerprint", "vendor"}
    assert record.path == str(slides.folder / "a b.tif")
    assert record.vendor == openslide.OpenSlide(record.path).properties["openslide.vendor"]


def test_the_maker_paints_what_it_says(tmp_path):
    maker = SlideMaker(tmp_path)
    with tifffile.TiffFile(maker.bigtiff()) as tif:
        assert tif.is_bigtiff
        assert tif.pages[0].is_tiled


def test_a_librarys_error_of_several_lines_is_told_on_one(slides):
    class Broken:
        def read(self, *_):
            raise ValueError("Improper JPEG sampling factors 2,2\nApparently should be 1,1.")

        def close(self):
            pass

    with open_slide(slides.tiff(), "smear") as reader:
        reader._source.close()
        reader._source = Broken()
        with pytest.raises(
            ReadError, match="factors 2,2 Apparently should be 1,1.; copy the file again"
        ) as caught:
            reader.read(0, 0, 0, 10, 10)
    assert "\n" not in str(caught.value)


def test_a_worker_with_several_threads_closes_no_reader_that_another_reads_from(tmp_path):
    """A cluster's worker may be one process with a thread per core, each at another slide."""
    slides = [
        record_slide(
            write_pyramid(
                tmp_path / f"{k}.tif",
                np.full((64, 64, 3), 20 + 25 * k, np.uint8),
                mpp=0.25,
                levels=1,
            ),
            str(k),
        )
        for k in range(8)
    ]

    def read(k: int) -> bool:
        together.wait()
        return all(
            (cached_reader(slide).read(0, 0, 0, 64, 64) == 20 + 25 * int(slide.slide_id)).all()
            for slide in (slides[k:] + slides[:k]) * 8
        )

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
