"""Choose the image of a TIFF that is the slide.

Files also contain macro and label pictures, scenes, fields and focus planes. The slide is the finest,
largest bright-field image. If several are equal, one is chosen by its number, or the file is refused.
Of focus planes the sharpest is read, or the one that is chosen. A note says what was not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tifffile

from . import spacing
from .tiff_layout import HostileTiff, TiffLevel, UnsupportedTiff, page_level, page_spacing

_MAX_PAGES = 64
_MAX_NAME = 60

_SECONDARY = re.compile(r"macro|label|thumb|overview|preview", re.IGNORECASE)
_SAME_SPACING = 1.05  # ratio of µm/px up to which two images are equally fine
_SMALL = 0.05  # of the largest image's area; a smaller image of the same µm/px is no scene
_SMALL_UNKNOWN = 0.5  # the same for images of unknown µm/px
_COLOURS = (2, 3, 5, 6)  # photometric kinds: RGB, palette, CMYK, YCbCr


@dataclass(frozen=True)
class TiffImage:
    """One image of a file: its focus planes (usually one) with their levels, or why it is unreadable."""

    number: int  # in the file, from 1
    name: str
    size: tuple[int, int]
    spacing_um: spacing.Spacing | None
    planes: tuple[tuple[TiffLevel, ...], ...]  # each finest first; empty where it cannot be read
    refusal: str = ""
    plane_numbers: tuple[int, ...] = ()  # of pages that were found to be planes of one image

    @property
    def words(self) -> str:
        """The image in words, for messages."""
        name = f" {self.name!r}" if self.name else ""
        um = f", {self.spacing_um[0]:.4g} µm/px" if self.spacing_um else ""
        planes = f", {len(self.planes)} focus planes" if len(self.planes) > 1 else ""
        return f"image {self.number}{name} ({self.size[0]}x{self.size[1]} px{um}{planes})"

    @property
    def is_colour(self) -> bool:
        """Whether the image has colours, as far as the file says."""
        return bool(self.planes) and self.planes[0][0].photometric in _COLOURS


def choose_image(images: tuple[TiffImage, ...], wanted: int | None = None) -> TiffImage:
    """Return the image that is the slide, or the `wanted` one (from 1).

    Raises
    ------
    UnsupportedTiff
        No image can be read.
    HostileTiff
        Several images are equal, or the wanted one does not exist.
    """
    if wanted is not None:
        if not 1 <= wanted <= len(images):
            raise HostileTiff(f"holds {len(images)} images, --image {wanted} is none of them")
        chosen = images[wanted - 1]
        if not chosen.planes:
            raise HostileTiff(f"--image {wanted}: {chosen.refusal}")
        return chosen
    readable = [i for i in images if i.planes]
    if not readable:
        raise UnsupportedTiff(images[0].refusal if images else "no image in it")
    ranked = _prefer(readable, lambda i: not _SECONDARY.search(i.name))
    ranked = _prefer(ranked, lambda i: i.is_colour)
    spacings_um = [i.spacing_um[0] for i in ranked if i.spacing_um]
    known = len(spacings_um) == len(ranked)
    if known:
        limit_um = _SAME_SPACING * min(spacings_um)
        ranked = [i for i, um in zip(ranked, spacings_um, strict=True) if um <= limit_um]
    largest = max(i.size[0] * i.size[1] for i in ranked)
    small = (_SMALL if known else _SMALL_UNKNOWN) * largest
    equal = [i for i in ranked if i.size[0] * i.size[1] >= small]
    if len(equal) > 1:
        raise HostileTiff(
            f"holds {len(equal)} images that may each be the slide: "
            f"{', '.join(i.words for i in equal)}; "
            f"choose one with --image {equal[0].number}, or write each into a file of its own"
        )
    return equal[0]


def _prefer(images: list[TiffImage], condition: Callable[[TiffImage], bool]) -> list[TiffImage]:
    """Return the images that meet the condition, or all if none does."""
    return [i for i in images if condition(i)] or images


@dataclass(frozen=True)
class TiffLayout:
    """The contents of a TIFF, as tifffile parses it.

    Attributes
    ----------
    images
        Each image with its planes and levels.
    by_size
        Every readable image. Of two images of one size it is the tiled one. OpenSlide identifies levels
        by their sizes.
    pages_of
        The number of full pages of each size. Several of the slide's size are planes, scenes or fields.
    labelled
        Whether the file says which of its pages are planes (OME, ImageJ, vendors).
    orientation
        The TIFF tag. 1 means as stored.
    icc
        The embedded colour profile.
    """

    images: tuple[TiffImage, ...]
    by_size: dict[tuple[int, int], TiffLevel]
    pages_of: dict[tuple[int, int], int]
    labelled: bool
    vendor: str
    spacing_um: spacing.Spacing | None
    orientation: int
    icc: bytes


def parse_tiff(path: Path) -> TiffLayout:
    """Read the directories of a TIFF. Raise UnsupportedTiff if tifffile cannot parse them."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return _layout(tiff, path.stat().st_size)
    except (UnsupportedTiff, HostileTiff):
        raise
    except Exception as error:  # tifffile raises many types on damage (KeyError, struct.error, …)
        raise UnsupportedTiff(
            f"damaged TIFF directories ({type(error).__name__}: {error})"
        ) from error


def _full_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """Return a page with all its tags."""
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _layout(tiff: tifffile.TiffFile, file_bytes: int) -> TiffLayout:
    """Return the layout of an open TIFF."""
    by_size: dict[tuple[int, int], TiffLevel] = {}
    pages_of: dict[tuple[int, int], int] = {}
    pages = [_full_page(tiff.pages[i]) for i in range(min(len(tiff.pages), _MAX_PAGES))]
    for page in pages:
        size = (page.imagewidth, page.imagelength)
        pages_of[size] = pages_of.get(size, 0) + (not page.is_reduced)
        try:
            level = page_level(page, file_bytes)
        except UnsupportedTiff:
            continue
        if level.size not in by_size or by_size[level.size].strips > level.strips:
            by_size[level.size] = level
    vendor = next(
        (name for name in ("svs", "ndpi", "ome", "scn", "imagej") if name in tiff.flags), "tiff"
    )
    labelled = vendor != "tiff" or any("Z" in series.axes for series in tiff.series)
    images = (_from_series if labelled else _from_pages)(tiff, pages, file_bytes)
    orientation = pages[0].tags.valueof(274, 1)
    icc = pages[0].tags.valueof(34675, b"")
    return TiffLayout(
        images,
        by_size,
        pages_of,
        labelled,
        vendor,
        images[0].spacing_um if images else None,
        orientation if isinstance(orientation, int) else 1,
        icc if isinstance(icc, bytes) else b"",
    )


def _from_series(
    tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], file_bytes: int
) -> tuple[TiffImage, ...]:
    """Return the images of a file that says how its pages belong together."""
    spacings = spacing.all_from_ome_xml(tiff.ome_metadata or "") if tiff.is_ome else []
    images = []
    for i, series in enumerate(tiff.series):
        page, refusal = series.keyframe, ""
        planes: tuple[tuple[TiffLevel, ...], ...] = ()
        try:
            planes = _series_planes(series, file_bytes)
        except UnsupportedTiff as error:
            refusal = str(error)
        if tiff.is_svs:  # its resolution tags are not valid
            found = spacing.from_aperio(page.description)
        else:
            found = (spacings[i] if i < len(spacings) else None) or page_spacing(page)
        size = (page.imagewidth, page.imagelength)
        images.append(
            TiffImage(i + 1, series.name[:_MAX_NAME], size, found, planes, refusal=refusal)
        )
    return tuple(images)


def _series_planes(
    series: tifffile.TiffPageSeries, file_bytes: int
) -> tuple[tuple[TiffLevel, ...], ...]:
    """Return each focus plane's levels, each a smaller image of the same shape."""
    count = len(series.levels[0].pages)
    beside = series.axes.replace("Y", "").replace("X", "").replace("S", "")
    planes: list[list[TiffLevel]] = [[] for _ in range(count)]
    for level in series.levels:
        page = level.keyframe
        whole = level.size == page.size * len(level.pages)
        if not whole or (count > 1 and beside != "Z") or len(level.pages) != count:
            raise UnsupportedTiff(
                f"a stack of {len(level.pages)} images (axes {level.axes}), "
                "not one RGB image; export a single plane"
            )
        for plane, one in zip(planes, level.pages, strict=True):
            if one is None:
                raise UnsupportedTiff("a stack with a missing page; export a single plane")
            plane.append(page_level(_full_page(one), file_bytes))
    return tuple(_pyramid(plane) for plane in planes)


def _pyramid(levels: list[TiffLevel]) -> tuple[TiffLevel, ...]:
    """Keep the levels that are ever smaller images of the first one."""
    kept = levels[:1]
    for level in levels[1:]:
        if level.width < kept[-1].width and _is_reduced(level.size, kept[0].size):
            kept.append(level)
    return tuple(kept)


def _is_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Return whether an image may be a smaller one of the same shape."""
    ratio = full[0] / size[0]
    return size[0] < full[0] and abs(full[1] / ratio - size[1]) <= max(2.0, 0.01 * size[1])


def _from_pages(
    tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], file_bytes: int
) -> tuple[TiffImage, ...]:
    """Return the images of a plain TIFF: each full page, and smaller pages of its shape as levels."""
    groups: list[list[int]] = []
    sizes = [(page.imagewidth, page.imagelength) for page in pages]
    for i in sorted(range(len(pages)), key=lambda i: (-sizes[i][0] * sizes[i][1], i)):
        if min(sizes[i]) < 1:
            continue
        parent = next((g for g in groups if _is_reduced(sizes[i], sizes[g[0]])), None)
        if parent is None:
            if pages[i].is_reduced and groups:
                continue  # a thumbnail of another shape
            groups.append([i])
        elif all(sizes[i] != sizes[j] for j in parent):
            parent.append(i)
    images = []
    for number, group in enumerate(sorted(groups), start=1):
        page, refusal = pages[group[0]], ""
        planes: tuple[tuple[TiffLevel, ...], ...] = ()
        try:
            levels = [page_level(page, file_bytes)]
            for other in [*(page.pages or ()), *(pages[i] for i in group[1:])]:
                try:
                    levels.append(page_level(_full_page(other), file_bytes))
                except UnsupportedTiff:
                    continue
            planes = (_pyramid(sorted(levels, key=lambda level: -level.width)),)
        except UnsupportedTiff as error:
            refusal = str(error)
        images.append(
            TiffImage(
                number,
                _page_name(page),
                sizes[group[0]],
                page_spacing(page),
                planes,
                refusal=refusal,
            )
        )
    return tuple(images)


def _page_name(page: tifffile.TiffPage) -> str:
    """Return the PageName, or a description that is short enough for a name."""
    name = page.tags.valueof(285, "") or page.description
    return name if isinstance(name, str) and len(name) <= _MAX_NAME and name.isprintable() else ""
