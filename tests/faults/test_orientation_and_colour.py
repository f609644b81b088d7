"""Orientation tags and colour profiles: one rule whatever the codec and the reader, and what was done is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
from painted_slides import smear, write_field, write_pyramid
from PIL import Image, ImageCms

from hemax_batch.slides.reader import open_slide, reopen


def read(path, **options):
    with open_slide(path, "s", **options) as reader:
        slide = reader.slide
    with reopen(slide) as reader:
        return reader.read(0, 0, 0, slide.width, slide.height), slide


def difference(a, b):
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("tag", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "jpeg", "jpeg2000", "webp"])
def test_pixels_are_as_stored_whatever_the_orientation(tmp_path, tag, compression):
    rgb = smear(700, 500)
    extra = [(274, "H", 1, tag, True)]
    path = write_pyramid(tmp_path / "a.tif", rgb, compression=compression, extratags=extra)
    pixels, slide = read(path)
    assert difference(pixels, rgb) < 2
    assert slide.orientation == tag
    assert any(f"orientation tag is {tag}" in text for text in slide.warnings)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_pixels_of_a_camera_field_are_as_stored(tmp_path, name):
    rgb, exif = smear(700, 500), Image.Exif()
    exif[274] = 6
    path = write_field(tmp_path / name, rgb, exif=exif, quality=95)
    pixels, slide = read(path, mpp=0.1)
    assert difference(pixels, rgb) < 3 and slide.orientation == 6
    assert any("orientation tag is 6" in text for text in slide.warnings)


def gamma_profile(gamma: float) -> bytes:
    """sRGB's colours with another curve: as scanners embed."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        entry = raw.index(name, 128)
        at = int.from_bytes(raw[entry + 4 : entry + 8], "big")
        length = int.from_bytes(raw[entry + 8 : entry + 12], "big")
        curve = b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big")
        raw[at : at + length] = curve.ljust(length, b"\0")
    return bytes(raw)


def in_gamma(rgb, gamma):
    """sRGB pixels as a device of that gamma stores them."""
    v = rgb / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * linear ** (1 / gamma)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["tiff", "openslide", "png"])
def test_a_colour_profile_is_applied_for_every_reader(tmp_path, kind, monkeypatch):
    rgb, icc = smear(700, 500), gamma_profile(1.4)
    stored = in_gamma(rgb, 1.4)
    assert difference(stored, rgb) > 5
    if kind == "png":
        path = write_field(tmp_path / "a.png", stored, icc_profile=icc)
    else:
        extra = [(34675, 7, len(icc), icc, True)]
        path = write_pyramid(tmp_path / "a.tif", stored, compression="deflate", extratags=extra)
    if kind == "openslide":
        monkeypatch.setattr(
            "hemax_batch.slides.formats.backends.agrees_with", lambda fast, reference: False
        )
    pixels, slide = read(path, mpp=0.1)
    assert slide.backend == kind.replace("png", "image")
    assert difference(pixels, rgb) < 1.5
    assert any("colour profile" in text and "applied" in text for text in slide.notes)


def test_srgb_changes_nothing_and_a_damaged_profile_is_named(tmp_path):
    rgb = smear(700, 500)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc, warned in ((srgb, False), (b"no profile" * 40, True), (srgb[:200], True)):
        extra = [(34675, 7, len(icc), icc, True)]
        path = write_pyramid(tmp_path / "a.tif", rgb, compression="deflate", extratags=extra)
        pixels, slide = read(path)
        np.testing.assert_array_equal(pixels, rgb)
        assert any("colour profile" in text for text in slide.warnings) == warned
        assert not any("applied" in text for text in slide.notes)
    held = io.BytesIO()
    Image.fromarray(rgb[..., 1]).save(held, "PNG", icc_profile=srgb)  # of RGB, on a grey picture
    (tmp_path / "grey.png").write_bytes(held.getvalue())
    pixels, _ = read(tmp_path / "grey.png", mpp=0.1)
    assert difference(pixels, np.repeat(rgb[..., 1:2], 3, axis=2)) == 0
