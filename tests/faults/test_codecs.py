"""Whatever imagecodecs decodes is read; a header that claims another size is refused before anything is decoded."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from damaged_tiles import damage_tiles
from painted_slides import halved, smear, write_pyramid

from hemax_batch.errors import ReadError
from hemax_batch.slides.reader import open_slide


@pytest.mark.parametrize(
    "compression", ["webp", "jpegxl", 52546, "lzma", "lerc", "png", "jpegxr", 22610, "pixtiff"]
)
def test_a_slide_in_any_codec_is_read(tmp_path, compression):
    rgb = smear(400, 300, 3)
    path = write_pyramid(tmp_path / "a.tif", rgb, compression=compression, levels=2)
    with open_slide(path, "s") as reader:
        assert reader.slide.backend == "tiff"
        np.testing.assert_array_equal(reader.read(0, 0, 0, 400, 300), rgb)
        np.testing.assert_array_equal(reader.read(1, 0, 0, 200, 150), halved(rgb))


@pytest.mark.parametrize("compression", ["jpegxl", "lzma", "lerc", "png", "jpegxr"])
def test_deep_samples_in_any_codec(tmp_path, compression):
    rgb = smear(400, 300, 3)
    path, deep = tmp_path / "a.tif", rgb.astype(np.uint16) * 16 + 15
    write_pyramid(path, deep, compression=compression, levels=1)
    with open_slide(path, "s") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, 400, 300), rgb)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "webp", "jpegxl", "png", "jpegxr"])
def test_a_tile_of_another_size_than_the_file_says_is_refused(tmp_path, codec):
    name = {"jpeg": "jpeg8", "jpeg2000": "jpeg2k"}.get(codec, codec)
    other = getattr(imagecodecs, f"{name}_encode")(np.ascontiguousarray(smear(256, 256, 5)))
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    write_pyramid(path, noise, levels=1, compression=codec)
    with tifffile.TiffFile(path) as tiff:
        assert len(other) <= tiff.pages[0].databytecounts[1], "room for it"
    damage_tiles(path, [1], lambda data: other)
    with open_slide(path, "s") as reader:
        assert reader.read(0, 0, 0, 128, 128).shape == (128, 128, 3)
        with pytest.raises(ReadError):
            reader.read(0, 128, 0, 128, 128)
