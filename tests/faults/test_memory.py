"""No file makes a process much larger than its pixels: what it claims is checked before it is believed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tifffile
from checkout import ROOT
from damaged_tiles import damage_tiles
from painted_slides import smear, write_field, write_pyramid

from hemax_batch.errors import ReadError, UnreadableSlideError
from hemax_batch.slides.reader import open_slide

PEAK = """
import resource, sys
from hemax_batch.errors import SlideError
from hemax_batch.slides.reader import open_slide
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open_slide(sys.argv[1], "s", 0.25) as reader:
        reader.read(0, 0, 0, 200, 200)
except SlideError as error:
    print(str(error)[:200], file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak_mb(path) -> int:
    """Memory that opening and reading a corner of a slide takes, in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return int(ran.stdout)


def huge_progressive(_: bytes) -> bytes:
    """A progressive JPEG's header of 30,000 x 30,000 px, for whose coefficients a decoder makes room at once."""
    import io

    from PIL import Image

    held = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 150, 160)).save(held, "JPEG", progressive=True)
    data = bytearray(held.getvalue())
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = (30000).to_bytes(2, "big") * 2
    return bytes(data)


def test_a_tile_whose_header_claims_a_huge_picture(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", smear(512, 512, 3), levels=1)
    damage_tiles(path, range(16), huge_progressive)
    assert peak_mb(path) < 300


def test_openslide_is_not_given_such_a_tile(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", smear(512, 512, 3), levels=1)
    damage_tiles(path, [0], huge_progressive)
    monkeypatch.setattr("hemax_batch.slides.formats.backends.agrees_with", lambda *_: False)
    with open_slide(path, "s") as reader:
        assert reader.slide.backend == "openslide"
        with pytest.raises(ReadError, match="header says 30000x30000 px, the file says 128x128"):
            reader.read(0, 0, 0, 200, 200)
        assert reader.read(0, 128, 128, 200, 200).shape == (200, 200, 3)


def test_a_png_with_a_sparse_tail(tmp_path):
    path = write_field(tmp_path / "a.png", smear(400, 300, 3))
    os.truncate(path, 6 * 2**30)
    assert peak_mb(path) < 300


@pytest.mark.parametrize("big", [False, True])
def test_a_huge_description_is_refused_unread(tmp_path, big):
    path = tmp_path / "a.tif"
    options = {"tile": (128, 128), "photometric": "rgb", "bigtiff": big, "metadata": None}
    tifffile.imwrite(path, smear(400, 300, 3), description="x" * (17 * 2**20), **options)
    with pytest.raises(UnreadableSlideError, match=r"270 \(ImageDescription\) holds 17 MB"):
        open_slide(path, "s", mpp=0.25)
    assert peak_mb(path) < 50


def test_sub_directories_that_loop_are_refused(tmp_path):
    from painted_slides import write_ome

    path = write_ome(tmp_path / "a.ome.tif", smear(400, 300, 3))
    with tifffile.TiffFile(path) as tiff:
        tag, first = tiff.pages[0].tags[330], tiff.pages[0].offset
        width = {4: 4, 13: 4, 16: 8, 18: 8}[int(tag.dtype)]
        order = {"<": "little", ">": "big"}[tiff.byteorder]
    with open(path, "r+b") as file:
        file.seek(tag.valueoffset)
        file.write(first.to_bytes(width, order))
    with pytest.raises(UnreadableSlideError, match="loop"):
        open_slide(path, "s")
