"""Makes a corpus of broken slides from small sound ones: python broken_slides.py FOLDER [SOUND_SLIDE …].

Truncation at every tenth, flipped bits in headers, directories and pixels, sizes that lie, levels that are swapped,
noise and hostile claims; of TIFF, SVS-like TIFF and plain images painted here, and of the slides that are named.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import tifffile
from painted_slides import halved, smear, write_field, write_pyramid

_FLIPS = 8
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_OFFSETS, _TILE_BYTES = 256, 257, 322, 324, 325
_LIES = {  # tag: what it is made to say
    _WIDTH: (0, 1, 65535), _HEIGHT: (0, 1, 65535), 258: (0, 1, 64), 259: (0, 1, 5, 33003), 262: (0, 3, 32803),
    277: (0, 1, 4), _TILE_WIDTH: (0, 16, 65535), 323: (0, 16, 65535), 284: (2, 9),
}  # fmt: skip


def sound_slides(folder: Path) -> list[Path]:
    """Small slides in which nothing is wrong yet: one in each of the layouts that differ in the reader."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb = smear(400, 300, 11)
    aperio = "Aperio Image Library v12.0.15\n400x300 [0,0 400x300] (128x128) JPEG/RGB Q=90|AppMag = 40|MPP = 0.25"
    return [
        write_pyramid(folder / "jpeg.tif", rgb, mpp=0.25),
        write_pyramid(folder / "deflate.tif", rgb, mpp=0.25, compression="deflate", levels=2),
        write_pyramid(folder / "big.tif", rgb, mpp=0.25, bigtiff=True, compression="lzw", levels=2),
        write_pyramid(folder / "aperio.svs", rgb, mpp=None, description=aperio, levels=2),
        write_field(folder / "field.png", rgb, dpi=(101600, 101600)),
        write_field(folder / "field.jpg", rgb, dpi=(101600, 101600)),
    ]


def broken(sound: Path, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every broken slide made from one sound one."""
    raw, chance = sound.read_bytes(), random.Random(f"{seed} {sound.name}")
    name, ending = sound.stem.replace(" ", "_"), sound.suffix
    variants = [(f"cut{tenth}", raw[: len(raw) * tenth // 10]) for tenth in range(10)]
    for place, start, stop in (
        ("head", 0, 64),
        ("tail", len(raw) - 2048, len(raw)),
        ("body", 0, len(raw)),
    ):
        for i in range(_FLIPS):
            variants.append((f"{place}{i}", _flipped(raw, max(0, start), stop, chance, 1 + i)))
    middle = len(raw) // 2
    variants += [
        (
            "zeroed",
            raw[:middle] + bytes(len(raw) - middle),
        ),  # a copy that set the size first and then stopped
        ("doubled", raw + raw),
        ("hole", raw[:middle] + raw[middle + 1000 :]),
        ("text", b"<html>404 Not Found</html>" * 50),
        ("noise", raw[:8] + chance.randbytes(5000)),
    ]
    if raw[:2] in (b"II", b"MM"):
        variants += _lying_tiffs(sound, raw)
    return ((f"{name}-{what}{ending}", content) for what, content in variants)


def write_corpus(folder: Path, sound: list[Path]) -> list[Path]:
    """All broken slides made from `sound`, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for source in sound:
        for name, content in broken(source):
            path = folder / f"{source.suffix[1:]}_{name}"
            path.write_bytes(content)
            made.append(path)
    path = folder / "swapped-levels.tif"
    made.append(_write_swapped(path))
    return made


def _flipped(raw: bytes, start: int, stop: int, chance: random.Random, count: int) -> bytes:
    changed = bytearray(raw)
    for _ in range(count):
        changed[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _lying_tiffs(path: Path, raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Tags of the first directory that claim what is not so."""
    with tifffile.TiffFile(path) as tiff:
        order, page = tiff.byteorder, tiff.pages[0]
        tags = {tag.code: (tag.valueoffset, tag.dtype.value) for tag in page.tags.values()}
    for code, values in _LIES.items():
        if code not in tags:
            continue
        offset, kind = tags[code]
        for value in values:
            changed = bytearray(raw)
            struct.pack_into(order + {3: "H", 4: "I", 16: "Q"}[kind], changed, offset, value)
            yield f"tag{code}is{value}", bytes(changed)
    for code, words in ((_TILE_OFFSETS, "offsets"), (_TILE_BYTES, "lengths")):
        if code in tags:
            offset, kind = tags[code]
            size = {3: 2, 4: 4, 16: 8}[kind]
            for what, filling in (("zero", b"\0"), ("huge", b"\xff")):
                changed = bytearray(raw)
                changed[offset : offset + 2 * size] = filling * (2 * size)
                yield f"{words}{what}", bytes(changed)


def _write_swapped(path: Path) -> Path:
    """The smallest level first."""
    levels = [smear(400, 300, 11)]
    levels.append(halved(levels[0]))
    with tifffile.TiffWriter(path) as tiff:
        for i, pixels in enumerate(reversed(levels)):
            tiff.write(
                pixels,
                subfiletype=int(i > 0),
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                resolution=(4e4, 4e4),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    corpus = write_corpus(
        target / "broken", [*sound_slides(target / "sound"), *map(Path, sys.argv[2:])]
    )
    print(f"{len(corpus)} broken slides in {target / 'broken'}")
