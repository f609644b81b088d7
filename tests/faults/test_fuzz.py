"""Whatever a TIFF's tags and metadata say, a slide opens or is refused by an error that names it; within a minute."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from painted_slides import smear, write_ome, write_pyramid

from hemax_batch.errors import SlideError
from hemax_batch.slides.formats import spacing
from hemax_batch.slides.reader import open_slide

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EXTREMES = st.sampled_from([0, 1, 2, 3, 5, 7, 16, 255, 256, 65535, 2**31 - 1, 2**32 - 1])
NUMBERS = st.one_of(EXTREMES, st.integers(0, 2**32 - 1))
XML = st.one_of(
    st.text(max_size=200),
    st.builds("ImageJ=1.11a\nimages={}\nslices={}\nhyperstack=true\n".format, NUMBERS, NUMBERS),
    st.builds(
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'.format,
        st.lists(
            st.builds(
                '<Image ID="Image:{}" Name="{}"><Pixels DimensionOrder="{}" Type="{}" SizeX="{}" SizeY="{}" '
                'SizeZ="{}" SizeC="{}" SizeT="{}" PhysicalSizeX="{}" PhysicalSizeXUnit="{}">'
                '<Channel SamplesPerPixel="{}"/><TiffData IFD="{}" PlaneCount="{}"/></Pixels></Image>'.format,
                NUMBERS,
                st.sampled_from(["", "macro", "slide"]),
                st.sampled_from(["XYCZT", "XYZCT", "", "XXXXX"]),
                st.sampled_from(["uint8", "uint16", "float", "x"]),
                *[NUMBERS] * 5,
                st.one_of(NUMBERS, st.floats(), st.text(max_size=5)),
                st.sampled_from(["µm", "nm", "", "parsec"]),
                *[NUMBERS] * 3,
            ),
            max_size=4,
        ).map("".join),
    ),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> list[bytes]:
    folder, rgb = tmp_path_factory.mktemp("sound"), smear(400, 300, 11)
    return [
        write_pyramid(folder / "a.tif", rgb, mpp=0.25, levels=2).read_bytes(),
        write_pyramid(folder / "b.tif", rgb, mpp=0.25, levels=2, compression="lzw").read_bytes(),
        write_ome(folder / "c.ome.tif", rgb, size=0.25).read_bytes(),
    ]


def examine(path: Path) -> None:
    try:
        with open_slide(path, "fuzzed", 0.25) as reader:
            assert reader.read(0, -8, -8, 200, 150).shape == (150, 200, 3)
    except SlideError as error:
        assert str(path) in str(error)


def entries(raw: bytes) -> list[int]:
    """Where the entries of the first directory of a little-endian classic TIFF lie."""
    (at,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, at)
    return [at + 2 + 12 * i for i in range(count)]


@FUZZ
@given(st.data())
def test_any_tag_of_any_type_count_and_value(sound, tmp_path, data):
    raw = bytearray(data.draw(st.sampled_from(sound)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(entries(bytes(raw))))
        what = data.draw(st.sampled_from(["tag", "type", "count", "value"]))
        if what == "tag":
            code = data.draw(st.one_of(st.integers(254, 350), st.sampled_from([34675, 33005, 700])))
            struct.pack_into("<H", raw, at, code)
        elif what == "type":
            struct.pack_into("<H", raw, at + 2, data.draw(st.integers(0, 19)))
        else:
            struct.pack_into("<I", raw, at + (4 if what == "count" else 8), data.draw(NUMBERS))
    path = tmp_path / "fuzzed.tif"
    path.write_bytes(raw)
    examine(path)


@FUZZ
@given(XML)
def test_any_metadata_xml(tmp_path, xml):
    assert all(s is None or len(s) == 2 for s in spacing.all_from_ome_xml(xml))
    path = tmp_path / "fuzzed.ome.tif"
    description = xml.encode("utf-8", "replace").replace(b"\0", b" ")
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None}
    tifffile.imwrite(path, smear(400, 300, 11), description=description, **options)
    examine(path)


def test_xml_that_would_explode_or_nests_deeply_is_not_parsed():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><OME>&b;</OME>'
    assert spacing.all_from_ome_xml(bomb) == []
    assert spacing.all_from_ome_xml("<a>" * 100_000 + "</a>" * 100_000) == []
