"""Choose the backend that reads a file, by the file's content."""

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
from .slide_backend import SlideBackend
from .tiff_backend import TiffBackend, agrees_with, choose_levels
from .tiff_checks import HostileTiff, UnsupportedTiff
from .tiff_layout import TiffLayout, parse_tiff


def open_backend(path: Path, name: str, recorded: Slide | None = None) -> SlideBackend:
    """Open a file with the backend for its content.

    Parameters
    ----------
    name
        Name of the slide for error messages.
    recorded
        Record of the slide if it was opened before. The same backend and levels are used then.

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
            return _open_tiff(path) if recorded is None else _reopen_tiff(path, recorded)
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


def _open_tiff(path: Path) -> SlideBackend:
    """Open a TIFF with the direct decoder if its result can be trusted, else with OpenSlide.

    Steps: parse the directories; open the file with OpenSlide too; compare a few tiles. If they
    agree, the direct decoder reads OpenSlide's levels. If OpenSlide does not know the format, the
    direct decoder reads the file's own levels.
    """
    layout: TiffLayout | None = None
    refusal = ""
    try:
        layout = parse_tiff(path)
    except UnsupportedTiff as error:
        refusal = str(error)
    try:
        vendor_slide = OpenSlideBackend(path)
    except openslide.OpenSlideError:
        if layout is None or not layout.pyramid:
            raise UnsupportedTiff(layout.refusal if layout else refusal) from None
        return TiffBackend(path, layout.pyramid, layout.vendor, layout.spacing_um)
    if layout is not None:
        vendor_slide.check_window = JpegHeaders(path, layout).check
        vendor_slide.spacing_um = vendor_slide.spacing_um or layout.spacing_um
        direct = _agreeing_tiff_backend(path, layout, vendor_slide)
        if direct is not None:
            vendor_slide.close()
            return direct
    return vendor_slide


def _agreeing_tiff_backend(
    path: Path, layout: TiffLayout, vendor_slide: OpenSlideBackend
) -> TiffBackend | None:
    """Open a TIFF with the direct decoder. Return None if its pixels differ from OpenSlide's."""
    try:
        levels = choose_levels(layout.by_size, vendor_slide.level_sizes)
    except UnsupportedTiff:
        return None
    if len(layout.pyramid) > len(levels) and layout.pyramid[0].size == levels[0].size:
        levels = layout.pyramid  # OME stores its pyramid in SubIFDs, which OpenSlide does not read
    direct = TiffBackend(path, levels, vendor_slide.vendor, vendor_slide.spacing_um)
    if agrees_with(direct, vendor_slide):
        return direct
    direct.close()
    return None


<<<<<<< HEAD
def _reopen_tiff(path: Path, recorded: Slide) -> SlideBackend:
    """Open a TIFF with the backend and levels of its record."""
    if recorded.backend == "openslide":
        return OpenSlideBackend(path)
=======
def _guarded_openslide(path: Path) -> OpenSlideBackend:
    slide = OpenSlideBackend(path)
    with suppress(UnsupportedTiff):
        slide.check_window = JpegHeaders(path, parse_tiff(path)).check
    return slide


def _reopen_tiff(path: Path, replay_graph: Slide):
    if replay_graph.backend == "openslide":
        return _guarded_openslide(path)
>>>>>>> main
    layout = parse_tiff(path)
    known = {level.size: level for level in layout.pyramid} | layout.by_size
    levels = choose_levels(known, recorded.level_sizes)
    return TiffBackend(path, levels, recorded.vendor, None)
