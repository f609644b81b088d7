"""Which of a TIFF's images is the slide: macro and label pictures, scenes, fields and focus planes lie in files too.

The slide is the finest, largest bright-field image. Where several are equal, one is asked for by its number, or the file
is refused; of focus planes the sharpest is taken, or the one asked for. What was left is said.
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
_MAX_PLANES = 4096
#: What OME-XML and ImageJ say of the number of planes, and of the first.
_PLANE_COUNTS = re.compile(
    r"""(?:Size[ZCT]|IFD|PlaneCount|First[ZCT]|SamplesPerPixel)\s*=\s*["']\s*\+?(\d+)"""
    r"""|^(?:images|slices|frames|channels)\s*=\s*(\d+)""",
    re.MULTILINE,
)

_SECONDARY = re.compile(r"macro|label|thumb|overview|preview", re.IGNORECASE)
_SAME_SPACING = 1.05  # µm/px of one image over another's, below which neither is the finer
_SMALL = 0.05  # of the largest image's area: a smaller one of the same µm/px is no scene,
_SMALL_UNKNOWN = 0.5  # nor is one of unknown µm/px
_COLOURS = (2, 3, 5, 6)  # photometric kinds: RGB, palette, CMYK, YCbCr


@dataclass(frozen=True)
class TiffImage:
    """One image of a file: its focus planes (usually one), each with its levels, or why it cannot be read."""

    number: int  # in the file, from 1
    name: str
    size: tuple[int, int]
    spacing_um: spacing.Spacing | None
    planes: tuple[tuple[TiffLevel, ...], ...]  # each finest first; empty where it cannot be read
    refusal: str = ""
    plane_numbers: tuple[int, ...] = ()  # of pages that were found to be planes of one image

    @property
    def words(self) -> str:
        """How messages call it."""
        name = f" {self.name!r}" if self.name else ""
        um = f", {self.spacing_um[0]:.4g} µm/px" if self.spacing_um else ""
        planes = f", {len(self.planes)} focus planes" if len(self.planes) > 1 else ""
        return f"image {self.number}{name} ({self.size[0]}x{self.size[1]} px{um}{planes})"

    @property
    def is_colour(self) -> bool:
        return bool(self.planes) and self.planes[0][0].photometric in _COLOURS


def choose_image(images: tuple[TiffImage, ...], wanted: int | None = None) -> TiffImage:
    """The image that is the slide, or the `wanted` one (from 1).

    Raises UnsupportedTiff where none can be read, HostileTiff where several are equal or the wanted one is not there.
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
    spacings = [i.spacing_um[0] for i in ranked if i.spacing_um]
    known = len(spacings) == len(ranked)
    if known:
        limit = _SAME_SPACING * min(spacings)
        ranked = [i for i, um in zip(ranked, spacings, strict=True) if um <= limit]
    largest = max(i.size[0] * i.size[1] for i in ranked)
    small = (_SMALL if known else _SMALL_UNKNOWN) * largest
    equal = [i for i in ranked if i.size[0] * i.size[1] >= small]
    if len(equal) > 1:
        raise HostileTiff(
            f"holds {len(equal)} images that may each be the slide: {', '.join(i.words for i in equal)}; "
            f"choose one with --image {equal[0].number}, or write each into a file of its own"
        )
    return equal[0]


def _prefer(images: list[TiffImage], condition: Callable[[TiffImage], bool]) -> list[TiffImage]:
    """Return the images that meet the condition, or all if none does."""
    return [i for i in images if condition(i)] or images


@dataclass(frozen=True)
class TiffLayout:
    """What a TIFF holds, as tifffile parses it.

    images       each with its planes and levels
    by_size      every readable image, the tiled one first of two of one size: OpenSlide knows levels by their sizes
    pages_of     how many full pages have each size: more than one of the slide's are planes, scenes or fields
    labelled     whether the file itself says which of its pages are planes (OME, ImageJ, vendors)
    orientation  the TIFF tag (1: as stored)
    icc          the embedded colour profile
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
    """Read the directories of a TIFF; raises UnsupportedTiff where tifffile cannot make sense of them."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return _layout(tiff, path.stat().st_size)
    except (UnsupportedTiff, HostileTiff):
        raise
    except (
        Exception
    ) as error:  # tifffile meets damage with whatever it stumbles over (KeyError, struct.error, …)
        raise UnsupportedTiff(
            f"damaged TIFF directories ({type(error).__name__}: {error})"
        ) from error


def _layout(tiff: tifffile.TiffFile, file_bytes: int) -> TiffLayout:
    by_size: dict[tuple[int, int], TiffLevel] = {}
    pages_of: dict[tuple[int, int], int] = {}
    pages = [_whole_page(tiff.pages[i]) for i in range(min(len(tiff.pages), _MAX_PAGES))]
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
    _check_metadata(pages[0].description)
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


def _whole_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """Return the page with all its tags. tifffile reads later pages as frames, with few."""
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _check_metadata(description: str) -> None:
    """Raise HostileTiff for metadata of more planes than any slide has: tifffile makes a list of them."""
    for groups in _PLANE_COUNTS.findall(description):
        number = "".join(groups)
        if len(number) > 6 or int(number) > _MAX_PLANES:
            raise HostileTiff(
                f"its metadata claims {number[:20]} planes, the limit is {_MAX_PLANES}; write it anew"
            )


def _from_series(
    tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], file_bytes: int
) -> tuple[TiffImage, ...]:
    """The images of a file that says itself how its pages belong together."""
    spacings = spacing.all_from_ome_xml(tiff.ome_metadata or "") if tiff.is_ome else []
    images = []
    for i, series in enumerate(tiff.series):
        page, refusal = series.keyframe, ""
        planes: tuple[tuple[TiffLevel, ...], ...] = ()
        try:
            planes = _series_planes(series, file_bytes)
        except UnsupportedTiff as error:
            refusal = str(error)
        if tiff.is_svs:  # its resolution tags are of no use
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
    """Each focus plane's levels, without those that are no smaller image of the same shape."""
    count = len(series.levels[0].pages)
    beside = series.axes.replace("Y", "").replace("X", "").replace("S", "")
    planes: list[list[TiffLevel]] = [[] for _ in range(count)]
    for level in series.levels:
        page = level.keyframe
        whole = level.size == page.size * len(level.pages)
        if not whole or (count > 1 and beside != "Z") or len(level.pages) != count:
            raise UnsupportedTiff(
                f"a stack of {len(level.pages)} images (axes {level.axes}), not one RGB image; export a single plane"
            )
        for plane, one in zip(planes, level.pages, strict=True):
            if one is None:
                raise UnsupportedTiff(f"a stack (axes {level.axes}) that lacks some of its images")
            plane.append(page_level(_whole_page(one), file_bytes))
    return tuple(_pyramid(plane) for plane in planes)


def _pyramid(levels: list[TiffLevel]) -> tuple[TiffLevel, ...]:
    kept = levels[:1]
    for level in levels[1:]:
        if level.width < kept[-1].width and _is_reduced(level.size, kept[0].size):
            kept.append(level)
    return tuple(kept)


def _is_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether an image may be a smaller one of the same shape."""
    ratio = full[0] / size[0]
    return size[0] < full[0] and abs(full[1] / ratio - size[1]) <= max(2.0, 0.01 * size[1])


def _from_pages(
    tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], file_bytes: int
) -> tuple[TiffImage, ...]:
    """The images of a plain TIFF: each full page, the next largest first, and the smaller ones of its shape after it."""
    groups: list[list[int]] = []
    sizes = [(page.imagewidth, page.imagelength) for page in pages]
    for i in sorted(range(len(pages)), key=lambda i: (-sizes[i][0] * sizes[i][1], i)):
        if min(sizes[i]) < 1:
            continue
        home = next((g for g in groups if _is_reduced(sizes[i], sizes[g[0]])), None)
        if home is None:
            if pages[i].is_reduced and groups:
                continue  # a thumbnail of another shape
            groups.append([i])
        elif all(sizes[i] != sizes[j] for j in home):
            home.append(i)
    images = []
    for number, group in enumerate(sorted(groups), start=1):
        page, refusal = pages[group[0]], ""
        planes: tuple[tuple[TiffLevel, ...], ...] = ()
        try:
            levels = [page_level(page, file_bytes)]
            for other in [*(page.pages or ()), *(pages[i] for i in group[1:])]:
                try:
                    levels.append(page_level(other, file_bytes))
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
    """PageName, or a description short enough to be one."""
    name = page.tags.valueof(285, "") or page.description
    return name if isinstance(name, str) and len(name) <= _MAX_NAME and name.isprintable() else ""
