"""Choose the backend that reads a file, by the file's content."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import openslide

from ...errors import UnreadableSlideError, one_line
from ...records import Slide
from . import tiff_directories
from .image_backend import ImageBackend
from .jpeg_headers import JpegHeaders
from .openslide_backend import OpenSlideBackend
from .slide_backend import SlideBackend
from .tiff_backend import TiffBackend, agrees_with, choose_levels
from .tiff_images import TiffImage, TiffLayout, choose_image, parse_tiff
from .tiff_layout import HostileTiff, TiffLevel, UnsupportedTiff
from .tiff_planes import choose_plane, join_planes

# OpenSlide's name for a TIFF of no vendor, of which it reads the first image.
_GENERIC = "generic-tiff"


def open_backend(
    path: Path,
    name: str,
    recorded: Slide | None = None,
    image: int | None = None,
    focus_plane: int | None = None,
) -> SlideBackend:
    """Open a file with the backend for its content.

    Parameters
    ----------
    name
        Name of the slide for error messages.
    recorded
        Record of the slide if it was opened before. The same backend and levels are used then.
    image, focus_plane
        Which of several in the file, from 1. None: the module `tiff_images` chooses.

    Raises
    ------
    UnreadableSlideError
        The file cannot be read. The message names the slide and a remedy.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise UnreadableSlideError("not a regular file; name the slide's main file")
        with open(path, "rb") as file:
            magic = file.read(4)
        if not magic:
            raise UnreadableSlideError(
                "the file is empty (0 bytes); copy it again from the scanner"
            )
        if magic in tiff_directories.MAGIC:
            tiff_directories.check_directories(path)
            if recorded is not None:
                return _reopen_tiff(path, recorded)
            return _open_tiff(path, image, focus_plane)
        if openslide.OpenSlide.detect_format(str(path)):
            return OpenSlideBackend(path)
        return ImageBackend(path)
    except OSError as error:
        raise UnreadableSlideError(
            f"{name}: {error.strerror or error}; "
            "check the path, its permissions, and whether its share is mounted"
        ) from error
    except openslide.OpenSlideError as error:
        raise UnreadableSlideError(
            f"{name}: OpenSlide cannot open it: {one_line(error)}; convert it to a tiled TIFF"
        ) from error
    except (UnsupportedTiff, HostileTiff, UnreadableSlideError) as error:
        raise UnreadableSlideError(f"{name}: {one_line(error)}") from error


def _open_tiff(
    path: Path, image: int | None, focus_plane: int | None
) -> TiffBackend | OpenSlideBackend:
    """Open a TIFF with the direct decoder if its pixels can be trusted, else with OpenSlide.

    Steps: parse the directories; open the file with OpenSlide too; take OpenSlide's image of a vendor's
    slide, else choose an image (see `tiff_images`). The direct decoder reads the image if a few tiles
    agree with OpenSlide's, or if OpenSlide does not read that image.
    """
    layout: TiffLayout | None = None
    refusal = ""
    try:
        layout = parse_tiff(path)
    except UnsupportedTiff as error:
        refusal = str(error)
    vendor_slide: OpenSlideBackend | None = None
    with suppress(openslide.OpenSlideError):
        vendor_slide = OpenSlideBackend(path)
    if layout is None:
        if vendor_slide is None:
            raise UnsupportedTiff(refusal)
        return vendor_slide
    if vendor_slide is not None:
        vendor_slide.check_window = JpegHeaders(path, layout).check
        vendor_slide.icc = layout.icc
        if vendor_slide.vendor != _GENERIC:
            return _vendor_image(path, layout, vendor_slide)
    try:
        chosen = choose_image(join_planes(path, layout), image)
    except UnsupportedTiff:
        if vendor_slide is None:
            raise
        return _only_image(layout, vendor_slide)
    plane, words = choose_plane(path, chosen, focus_plane)
    levels = chosen.planes[plane]
    spacing_um = chosen.spacing_um
    backend: TiffBackend | OpenSlideBackend | None = None
    if vendor_slide is not None:
        if _shows(vendor_slide, layout, levels) and layout.orientation == 1:
            spacing_um = vendor_slide.spacing_um = vendor_slide.spacing_um or chosen.spacing_um
            backend = _agreeing_fast_path(path, layout, levels, vendor_slide) or vendor_slide
        if backend is not vendor_slide:
            vendor_slide.close()
    if backend is None:
        vendor = layout.vendor if vendor_slide is None else vendor_slide.vendor
        backend = TiffBackend(path, levels, vendor, spacing_um)
    return _described(backend, layout, chosen, plane, words)


def _described(
    backend: TiffBackend | OpenSlideBackend,
    layout: TiffLayout,
    chosen: TiffImage,
    plane: int,
    words: tuple[str, ...],
) -> TiffBackend | OpenSlideBackend:
    """Add to a backend the notes on the image that it reads."""
    numbers = chosen.plane_numbers or (chosen.number,) * len(chosen.planes)
    backend.image, backend.focus_plane = numbers[plane], 1 if chosen.plane_numbers else plane + 1
    left = [i for i in layout.images if i.number not in numbers]
    if left:
        backend.notes += (f"read: {chosen.words}; left: {', '.join(i.words for i in left)}",)
    backend.warnings += words
    backend.icc, backend.orientation = layout.icc, layout.orientation
    return backend


def _shows(
    vendor_slide: OpenSlideBackend, layout: TiffLayout, levels: tuple[TiffLevel, ...]
) -> bool:
    """Return whether OpenSlide's level 0 is this image.

    OpenSlide identifies levels by size, and takes the first of several.
    """
    first = layout.by_size.get(vendor_slide.level_sizes[0])
    return first is not None and np.array_equal(first.offsets, levels[0].offsets)


def _vendor_image(
    path: Path, layout: TiffLayout, vendor_slide: OpenSlideBackend
) -> TiffBackend | OpenSlideBackend:
    """Open the image of a vendor's slide that OpenSlide reads."""
    size = vendor_slide.level_sizes[0]
    own_image = next((i for i in layout.images if i.size == size), None)
    spacing_um = own_image.spacing_um if own_image else layout.spacing_um
    vendor_slide.spacing_um = vendor_slide.spacing_um or spacing_um
    direct = _agreeing_fast_path(path, layout, (), vendor_slide)
    backend = direct or vendor_slide
    if direct is not None:
        vendor_slide.close()
    left = [i.words for i in layout.images if i is not own_image]
    if left and own_image is not None:
        backend.notes += (f"read: {own_image.words}; left: {', '.join(left)}",)
    if layout.pages_of.get(size, 0) > 1:
        backend.warnings += (
            f"the file holds {layout.pages_of[size]} images of {size[0]}x{size[1]} px "
            "(focus planes?); the first is read",
        )
    backend.icc, backend.orientation = layout.icc, layout.orientation
    return backend


def _only_image(layout: TiffLayout, vendor_slide: OpenSlideBackend) -> OpenSlideBackend:
    """Return OpenSlide's backend if its image is the largest one and the only one of its size."""
    size = vendor_slide.level_sizes[0]
    larger = [i.words for i in layout.images if i.size[0] * i.size[1] > size[0] * size[1]]
    if layout.pages_of.get(size, 0) > 1 or larger:
        vendor_slide.close()
        raise HostileTiff(
            f"holds {len(layout.images)} images, "
            f"of which OpenSlide reads the first ({size[0]}x{size[1]} px): "
            f"{', '.join(i.words for i in layout.images)}; write each into a file of its own"
        )
    vendor_slide.orientation = layout.orientation
    return vendor_slide


def _agreeing_fast_path(
    path: Path,
    layout: TiffLayout,
    own: tuple[TiffLevel, ...],
    vendor_slide: OpenSlideBackend,
) -> TiffBackend | None:
    """Open a TIFF with the direct decoder and OpenSlide's levels.

    `own` are the levels that the file names. The result is None if the pixels differ from OpenSlide's.
    """
    try:
        known = layout.by_size | {level.size: level for level in own}
        levels = choose_levels(known, vendor_slide.level_sizes)
    except UnsupportedTiff:
        return None
    if len(own) > len(levels) and own[0].size == levels[0].size:
        levels = own  # OME stores its pyramid in SubIFDs, which OpenSlide does not read
    fast = TiffBackend(path, levels, vendor_slide.vendor, vendor_slide.spacing_um)
    if agrees_with(fast, vendor_slide):
        return fast
    fast.close()
    return None


def _guarded_openslide(path: Path) -> OpenSlideBackend:
    """Open a TIFF with OpenSlide. Check the headers of JPEG tiles before they are decoded."""
    slide = OpenSlideBackend(path)
    with suppress(UnsupportedTiff):
        layout = parse_tiff(path)
        slide.check_window, slide.icc = JpegHeaders(path, layout).check, layout.icc
    return slide


def _reopen_tiff(path: Path, recorded: Slide) -> TiffBackend | OpenSlideBackend:
    """Open a TIFF with the backend and levels of its record."""
    if recorded.backend == "openslide":
        return _guarded_openslide(path)
    layout = parse_tiff(path)
    all_levels = (level for i in layout.images for plane in i.planes for level in plane)
    known = {level.size: level for level in all_levels} | layout.by_size
    if recorded.image:
        plane = layout.images[recorded.image - 1].planes[recorded.focus_plane - 1]
        known |= {level.size: level for level in plane}
    levels = choose_levels(known, recorded.level_sizes)
    backend = TiffBackend(path, levels, recorded.vendor, None)
    backend.icc = layout.icc
    return backend
