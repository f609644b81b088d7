"""Open any slide and read uint8 RGB windows from it.

    with open_slide(path, "smear-1") as reader:
        window = reader.read(level=1, x=-16, y=0, w=512, h=512)   # pixels of level 1

The file's content decides which of three backends reads it: `tiff` (decodes tiles directly),
`openslide`, or `image` (one field in memory). A reader cannot be pickled. Send its `slide` record
and call `reopen` in the other process.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Self

import numpy as np

from ..errors import (
    MissingMppError,
    ReadError,
    UnreadableSlideError,
    UnsuitableSlideError,
    one_line,
)
from ..records import DamagedArea, Rect, Slide
from .fingerprint import fingerprint
from .formats.backends import open_backend
from .formats.colour_profile import read_profile
from .formats.companion_files import slide_files
from .formats.pixel_formats import GLASS
from .formats.slide_backend import SlideBackend

COARSEST_UM = 0.5  # a lymphocyte's nucleus is then 14 px wide; chromatin is not visible beyond this
FINEST_UM = 0.04  # no objective resolves this; such a figure is an error of units
_MAX_ASPECT = 1.01  # µm/px along x divided by µm/px along y


class SlideReader:
    """An open slide. Use as a context manager, or call `close`."""

    def __init__(self, slide: Slide, source: SlideBackend, glass_for_damage: bool = False) -> None:
        self.slide = slide
        self._on_damage = self._note_damage if glass_for_damage else None
        self.damaged: dict[Rect, str] = {}  # level-0 pixels: why they could not be decoded
        self._source = source
        self._profile = read_profile(source.icc)

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Read pixels x..x+w, y..y+h of `level`: uint8 [h, w, 3].

        Coordinates are pixels of that level. Pixels outside the slide are white (255). If the
        reader was opened with `glass_for_damage`, places that cannot be decoded are white too, and
        `damaged` lists them.

        Raises
        ------
        ReadError
            The file cannot be decoded there. The message names the slide and the place.
        """
        width, height = self.slide.level_sizes[level]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if left >= right or top >= bottom:
            return np.full((h, w, 3), GLASS, np.uint8)
        try:
            inside = self._source.read(
                level, left, top, right - left, bottom - top, self._on_damage
            )
        except MemoryError:  # most likely the machine's: the region is tried again in small batches
            raise
        except Exception as error:  # codecs raise many types; none may stop the other regions
            place = f"level {level}, x {left}..{right}, y {top}..{bottom}"
            raise ReadError(
                f"slide {self.slide.slide_id!r} ({self.slide.path}): cannot read {place}: "
                f"{one_line(error)}; "
                "copy the file again from the scanner if this persists"
            ) from error
        inside = self._profile.apply(inside)
        if inside.shape == (h, w, 3):
            return inside
        out = np.full((h, w, 3), GLASS, np.uint8)
        out[top - y : bottom - y, left - x : right - x] = inside
        return out

    def _note_damage(self, level: int, rect: Rect, reason: str) -> None:
        """Record a damaged place of a level in level-0 pixels."""
        factor = self.slide.level_downsamples[level]
        x0, y0, x1, y1 = rect
        at_level_0 = (
            math.floor(x0 * factor),
            math.floor(y0 * factor),
            min(math.ceil(x1 * factor), self.slide.width),
            min(math.ceil(y1 * factor), self.slide.height),
        )
        place = f"level {level}, x {x0}..{x1}, y {y0}..{y1}"
        self.damaged[at_level_0] = f"{place}: {reason}"

    def take_damaged(self) -> tuple[DamagedArea, ...]:
        """What could not be decoded since the last call, by place."""
        taken, self.damaged = self.damaged, {}
        return tuple(DamagedArea(rect, reason) for rect, reason in sorted(taken.items()))

    def close(self) -> None:
        """Close the file and release its cached tiles."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_slide(
    path: str | os.PathLike[str],
    slide_id: str,
    mpp: float | None = None,
    image: int | None = None,
    focus_plane: int | None = None,
) -> SlideReader:
    """Open the slide at `path`.

    Steps: choose a backend by content, determine µm/px, refuse a scale that is too coarse or too
    fine, compute the fingerprint, make the record.

    Parameters
    ----------
    mpp
        µm per level-0 pixel. It overrides what the file says.
    image, focus_plane
        Which of several in the file, from 1.

    Raises
    ------
    UnreadableSlideError, MissingMppError, UnsuitableSlideError
        Each message names the slide and a remedy.
    """
    path = Path(os.path.abspath(path))
    name = f"slide {slide_id!r} ({path})"
    source = open_backend(path, name, None, image, focus_plane)
    try:
        profile = read_profile(source.icc)
        spacing_um = _determine_mpp(name, source.spacing_um, mpp)
        slide = Slide(
            path=str(path),
            slide_id=slide_id,
            fingerprint=fingerprint(slide_files(path)),
            width=source.level_sizes[0][0],
            height=source.level_sizes[0][1],
            mpp=spacing_um,
            level_sizes=source.level_sizes,
            level_downsamples=downsamples(source.level_sizes),
            vendor=source.vendor,
            backend=source.backend,
            image=source.image,
            focus_plane=source.focus_plane,
            orientation=source.orientation,
            notes=source.notes + _nonempty(profile.note),
            warnings=(
                *source.warnings,
                *_nonempty(profile.warning),
                *_orientation_warning(source.orientation),
                *_mpp_warnings(source.spacing_um, mpp),
            ),
        )
    except BaseException:
        source.close()
        raise
    return SlideReader(slide, source)


def record_slide(
    path: str | os.PathLike[str],
    slide_id: str,
    mpp: float | None = None,
    image: int | None = None,
    focus_plane: int | None = None,
) -> Slide:
    """Return the record of the slide at `path`. It raises the errors of `open_slide`."""
    with open_slide(path, slide_id, mpp, image, focus_plane) as reader:
        return reader.slide


def check_unchanged(slide: Slide) -> None:
    """Raise the errors of `reopen` if a recorded slide cannot be opened or has changed."""
    reopen(slide).close()


def reopen(slide: Slide, glass_for_damage: bool = False) -> SlideReader:
    """Open a recorded slide again with the same backend, in this or another process.

    With `glass_for_damage` the reader returns glass for damaged places (see `SlideReader.read`).

    Raises
    ------
    UnreadableSlideError
        The file no longer exists, or its content has changed since it was recorded.
    """
    path, name = Path(slide.path), f"slide {slide.slide_id!r} ({slide.path})"
    try:
        now = fingerprint(slide_files(path))
    except OSError as error:
        raise UnreadableSlideError(
            f"{name}: {error.strerror}; is its share still mounted?"
        ) from error
    if now != slide.fingerprint:
        raise UnreadableSlideError(
            f"{name}: changed since the run began "
            f"(fingerprint {now[:12]}, was {slide.fingerprint[:12]}); "
            "run again once it is no longer being written"
        )
    source = open_backend(path, name, slide)
    if source.level_sizes != slide.level_sizes:
        source.close()
        raise UnreadableSlideError(
            f"{name}: has levels {source.level_sizes}, had {slide.level_sizes}; run again"
        )
    return SlideReader(slide, source, glass_for_damage)


def _nonempty(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _orientation_warning(tag: int) -> tuple[str, ...]:
    if tag == 1:
        return ()
    return (
        f"the file's orientation tag is {tag}: pixels are taken as stored, as QuPath and napari show them, and so are "
        "masks and outlines",
    )


def _mpp_warnings(spacing_um: tuple[float, float] | None, given: float | None) -> tuple[str, ...]:
    """Where --mpp contradicts the file by more than 1 %."""
    if given is None or spacing_um is None:
        return ()
    if all(abs(um / given - 1) <= 0.01 for um in spacing_um):
        return ()
    told = " x ".join(f"{um:.4g}" for um in dict.fromkeys(spacing_um))
    return (f"--mpp {given:g} is taken, the file says {told} µm/px",)


def downsamples(level_sizes: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    """Return the number of level-0 pixels per pixel of each level.

    It is the whole number that agrees with the level's rounded size, else the mean ratio of the
    sides. A slide 4443 px wide has a half of 2221 px: the factor is 2, not 2.0005.

    >>> downsamples(((4443, 3567), (2221, 1783)))
    (1.0, 2.0)
    """
    return tuple(_downsample(level_sizes[0], size) for size in level_sizes)


def _downsample(full: tuple[int, int], part: tuple[int, int]) -> float:
    """Return the factor between two levels from their (width, height)."""
    ratio = (full[0] / part[0] + full[1] / part[1]) / 2
    # A power of two comes first, because the size of a tiny level agrees with many whole numbers.
    candidates = [2 ** round(math.log2(ratio))]
    if min(part) >= 256:
        candidates.append(round(ratio))
    for whole in candidates:
        if whole >= 1 and all(
            f // whole <= p <= -(-f // whole) for f, p in zip(full, part, strict=True)
        ):
            return float(whole)
    return ratio


def _determine_mpp(name: str, spacing_um: tuple[float, float] | None, given: float | None) -> float:
    """Return µm per level-0 pixel, from `given` or else from the file, and check it."""
    if given is not None:
        mpp = float(given)
    elif spacing_um is None:
        raise MissingMppError(
            f"{name}: the file does not say its µm/px; give it with --mpp (for example --mpp 0.25)"
        )
    elif not 1 / _MAX_ASPECT <= spacing_um[0] / spacing_um[1] <= _MAX_ASPECT:
        raise UnsuitableSlideError(
            f"{name}: pixels are not square ({spacing_um[0]:g} x {spacing_um[1]:g} µm); "
            "if that is wrong, give --mpp"
        )
    else:
        mpp = math.sqrt(spacing_um[0] * spacing_um[1])
    if not mpp <= COARSEST_UM:
        raise UnsuitableSlideError(
            f"{name}: {mpp:g} µm/px is too coarse to tell cells apart, "
            f"the limit is {COARSEST_UM:g} µm/px; "
            "scan at 20x or finer, or give the true figure with --mpp"
        )
    if mpp < FINEST_UM:
        raise UnsuitableSlideError(
            f"{name}: {mpp:g} µm/px is finer than any objective gives, "
            f"the limit is {FINEST_UM:g} µm/px; "
            "give the true figure with --mpp"
        )
    return mpp
