"""Which backend reads a file: chosen by its content."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import openslide

from ...errors import UnreadableSlideError, one_line
from ...records import Slide
from . import tiff_directories
from .image_backend import ImageBackend
from .jpeg_headers import JpegHeaders
from .openslide_backend import OpenSlideBackend
from .tiff_backend import TiffBackend, agrees_with, choose_levels
from .tiff_layout import HostileTiff, TiffLayout, UnsupportedTiff, parse_tiff


def open_backend(path: Path, name: str, replay_graph: Slide | None = None):
    """The backend for this file's content, or the one of its record; errors name the slide."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise UnreadableSlideError("not a regular file; name the slide's main file")
        with open(path, "rb") as file:
            magic = file.read(4)
        if not magic:
            raise UnreadableSlideError(
                "the file is empty (0 bytes); copy it again from the scanner"
            )
        if magic in tiff_directories.MAGIC:
            tiff_directories.check_directories(path)
            return _open_tiff(path) if replay_graph is None else _reopen_tiff(path, replay_graph)
        if openslide.OpenSlide.detect_format(str(path)):
            return OpenSlideBackend(path)
        return ImageBackend(path)
    except OSError as error:
        raise UnreadableSlideError(
            f"{name}: {error.strerror or error}; check the path, its permissions, and whether its share is mounted"
        ) from error
    except openslide.OpenSlideError as error:
        raise UnreadableSlideError(
            f"{name}: OpenSlide refuses it: {one_line(error)}; convert it to a tiled TIFF"
        ) from error
    except (UnsupportedTiff, HostileTiff, UnreadableSlideError) as error:
        raise UnreadableSlideError(f"{name}: {one_line(error)}") from error


def _open_tiff(path: Path):
    """The fast path where it can be trusted, else OpenSlide.

    Steps: parse; open with OpenSlide too; take the fast path with OpenSlide's levels if a few tiles agree, or with
    the file's own levels where OpenSlide does not know the format.
    """
    try:
        layout, refusal = parse_tiff(path), ""
    except UnsupportedTiff as error:
        layout, refusal = None, str(error)
    try:
        vendor_slide = OpenSlideBackend(path)
    except openslide.OpenSlideError:
        if layout is None or not layout.pyramid:
            raise UnsupportedTiff(refusal or layout.refusal) from None
        return TiffBackend(path, layout.pyramid, layout.vendor, layout.spacing_um)
    if layout is not None:
        vendor_slide.check_window = JpegHeaders(path, layout).check
        vendor_slide.spacing_um = vendor_slide.spacing_um or layout.spacing_um
        fast = _agreeing_fast_path(path, layout, vendor_slide)
        if fast is not None:
            vendor_slide.close()
            return fast
    return vendor_slide


def _agreeing_fast_path(
    path: Path, layout: TiffLayout, vendor_slide: OpenSlideBackend
) -> TiffBackend | None:
    try:
        levels = choose_levels(layout.by_size, vendor_slide.level_sizes)
    except UnsupportedTiff:
        return None
    if len(layout.pyramid) > len(levels) and layout.pyramid[0].size == levels[0].size:
        levels = layout.pyramid  # OME keeps its pyramid in SubIFDs, where OpenSlide does not look
    fast = TiffBackend(path, levels, vendor_slide.vendor, vendor_slide.spacing_um)
    if agrees_with(fast, vendor_slide):
        return fast
    fast.close()
    return None


def _guarded_openslide(path: Path) -> OpenSlideBackend:
    slide = OpenSlideBackend(path)
    with suppress(UnsupportedTiff):
        slide.check_window = JpegHeaders(path, parse_tiff(path)).check
    return slide


def _reopen_tiff(path: Path, replay_graph: Slide):
    if replay_graph.backend == "openslide":
        return _guarded_openslide(path)
    layout = parse_tiff(path)
    known = {level.size: level for level in layout.pyramid} | layout.by_size
    levels = choose_levels(known, replay_graph.level_sizes)
    return TiffBackend(path, levels, replay_graph.vendor, None)
