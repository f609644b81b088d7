"""The screen: where on a smear a nucleated cell may be, from a look at about 0.4 µm/px.

What it looks for. Azure-eosin stains a nucleus so that it absorbs red and green strongly and blue weakly; a red cell
absorbs green and blue, and little red. The *nuclear stain* of a pixel is therefore

    n = OD_red + OD_green - k * OD_blue,    k = (OD_red + OD_green) / OD_blue of this slide's red cells, within 1.5..2.5

which is near 0 for glass and for red cells, one or several on top of each other, and 0.3 to 1 for nuclei (measured on
PBC, Raabin, BCCD, Zheng and marrow fields). `StainProfile.nucleus_od_threshold` is on this scale. A cell is a place
where n, above the local ground and squashed so that a dark nucleus does not outweigh a pale one, is high over an area
of about 5 µm: two lobes of a nucleus give one peak, two touching cells two, a platelet hardly any.

Grid invariance. All of it is integer arithmetic on a lattice that starts at the slide's origin (`lattice`), and what is
found at a point depends on nothing farther away than `SUPPORT_UM`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..geometry import inside
from ..records import Rect, StainProfile
from .lattice import Lattice, lattice_of, read_lattice

#: A window finds exactly the same candidates as any other wherever both reach this far around a point.
SUPPORT_UM = 48.0
STEP_UM = 0.5  # of the lattice, at most

_UNIT = 4096  # integer steps per unit of nuclear stain
_DENOISE_UM = 1.0  # box: JPEG noise, chromatin
_BLOCK_UM = 4.0  # the local ground is measured on blocks of this size,
_GROUND_BLOCKS = 13  # over this many of them each way (52 µm),
_GROUND_PERCENTILE = (
    25  # as what a quarter of them stay below: glass and red cells, also among crowded white cells,
)
_GROUND_EXCESS = (
    0.10  # and never more than this above the slide's glass, as where nuclei fill the whole view
)
_FULL_ABOVE = 0.15  # a nucleus counts as fully stained this far above the threshold;
_SLOPE = (
    0.15  # beyond, it counts for little more, so that a large nucleus has its peak at its middle
)
_NUCLEUS_SIGMA_UM = 2.0  # smoothing to the size of a nucleus: the smallest (4.5 µm) still passes, a platelet (2 µm) not
_PEAK = 0.15  # of a fully stained plane; the weakest white cells met: 0.15-0.2 (small far-split nuclei, rapid stain)
_PLATEAU_UM = 2.0  # half the square in which a peak is the largest pixel
_MIN_PEAK_DISTANCE_UM = (
    4.0  # two peaks closer than this are one cell: lobes are 3-4 µm apart, lymphocytes that touch 7
)


@dataclass(frozen=True)
class ScreenView:
    """What the screen reads of a window, once: uint8 [h, w, 3] of the lattice, over `rect` in lattice pixels.

    It holds the window, in whole blocks, and glass beyond the slide's edges; nothing where the slide has no lattice
    pixel there.
    """

    lattice: Lattice
    rect: Rect
    pixels: np.ndarray
    stain: StainProfile

    @cached_property
    def nuclear(self) -> np.ndarray:
        """The nuclear stain of its pixels, int32 [h, w] (see `nuclear_stain`): zones are told by it too."""
        return nuclear_stain(self.pixels, blue_weight(self.stain))


def read_view(reader, window: Rect, stain: StainProfile) -> ScreenView:
    """The view of a window (level-0 pixels)."""
    lattice = lattice_of(reader.slide, STEP_UM)
    rect = _lattice_rect(window, lattice, _block_px(lattice))
    if rect is None:
        return ScreenView(lattice, (0, 0, 0, 0), np.zeros((0, 0, 3), np.uint8), stain)
    return ScreenView(
        lattice, rect, read_lattice(reader, lattice, rect, stain.background_rgb), stain
    )


def propose_candidates(reader, window: Rect, stain: StainProfile) -> np.ndarray:
    """`candidates_in_view` a view of the window, read here."""
    return candidates_in_view(read_view(reader, window, stain), window)


def candidates_in_view(view: ScreenView, window: Rect) -> np.ndarray:
    """Centres of what may be nucleated cells in `window` (level-0 pixels): float64 [N, 2] (x, y), row-major.

    Exact for every point that is SUPPORT_UM inside the window or nearer to the slide's own edge than to the window's.

    Steps: nuclear stain, subtract the local ground, squash, smooth to a nucleus, peaks; the last three only where there
    is anything, which on a smear is a few per cent of it.
    """
    lattice, stain = view.lattice, view.stain
    if view.pixels.size == 0:
        return np.zeros((0, 2))
    block_px, k = _block_px(lattice), blue_weight(stain)
    nuclear = ndimage.uniform_filter(
        view.nuclear, _odd(_DENOISE_UM, lattice), output=np.int32, mode="nearest"
    )
    ceiling = int(
        nuclear_stain(np.array([[stain.background_rgb]]).astype(np.uint8), k)[0, 0]
        + _GROUND_EXCESS * _UNIT
    )
    ground = np.minimum(_local_ground(nuclear, block_px), ceiling)
    _subtract_blocks(nuclear, ground, block_px)
    threshold = np.int32(stain.nucleus_od_threshold * _UNIT)
    places = [np.zeros((0, 2), np.int64)]
    values = [np.zeros(0, np.int32)]
    for part, own in _stained_parts(nuclear > threshold, _reach_px(lattice)):
        stained = _saturate(nuclear[part], threshold) * own
        if (
            stained.sum() > _PEAK * 65536 * _odd(_smooth_um(lattice), lattice) ** 2
        ):  # else no mean of it reaches a peak
            at, ranks = _peaks(
                _smooth(stained, lattice),
                view.rect[0] + part[1].start,
                view.rect[1] + part[0].start,
                lattice,
            )
            places.append(at)
            values.append(ranks)
    peaks_ij = _suppress_close_peaks(np.concatenate(places), np.concatenate(values), lattice)
    centres_xy = (peaks_ij + 0.5) * lattice.step_px
    return centres_xy[inside(centres_xy, window)]


def _block_px(lattice: Lattice) -> int:
    """Side of a block of the local ground, in lattice pixels."""
    return max(1, round(_BLOCK_UM / lattice.step_um))


def blue_weight(stain: StainProfile) -> float:
    """k of the nuclear stain: what cancels this slide's red cells."""
    red, green, blue = stain.rbc_od_rgb
    return min(max((red + green) / max(blue, 1e-3), 1.5), 2.5)


def nuclear_stain(pixels: np.ndarray, k: float) -> np.ndarray:
    """OD_red + OD_green - k OD_blue of uint8 [..., 3], in 1/4096, against black glass: int32 [...].

    The background is only a constant here, and goes with the local ground.
    """
    log = np.log10(np.arange(256) + 1.0) * _UNIT
    plus, minus = np.rint(-log).astype(np.int32), np.rint(k * log).astype(np.int32)
    stain = plus.take(pixels[..., 0])
    stain += plus.take(pixels[..., 1])
    stain += minus.take(pixels[..., 2])
    return stain


def _lattice_rect(window: Rect, lattice: Lattice, block_px: int) -> Rect | None:
    """Lattice pixels to look at: the window in whole blocks, and on beyond the slide's edges, where all is glass.

    None for a slide (or window) without a lattice pixel.
    """
    support = math.ceil(SUPPORT_UM / lattice.step_um)
    bounds = []
    for low, high, size in (
        (window[0], window[2], lattice.width),
        (window[1], window[3], lattice.height),
    ):
        start, stop = math.floor(low / lattice.step_px), math.ceil(high / lattice.step_px)
        if min(stop, size) <= max(start, 0):
            return None
        start = -support if start <= 0 else start
        stop = size + support if stop >= size else stop
        bounds.append((start // block_px * block_px, -(-stop // block_px) * block_px))
    return bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1]


def _odd(length_um: float, lattice: Lattice) -> int:
    """A length in lattice pixels, as the nearest odd number."""
    return 2 * round((length_um / lattice.step_um - 1) / 2) + 1


def _local_ground(nuclear: np.ndarray, block_px: int) -> np.ndarray:
    """Nuclear stain of what lies around, per block: int32 [h / block, w / block]."""
    h, w = nuclear.shape
    blocks = (
        nuclear.reshape(h // block_px, block_px, w // block_px, block_px).sum(axis=(1, 3))
        // block_px**2
    )
    return _percentile(blocks.astype(np.int32), _GROUND_PERCENTILE, _GROUND_BLOCKS)


def _percentile(image: np.ndarray, percentile: int, size: int) -> np.ndarray:
    """`ndimage.percentile_filter` of [h, w], an odd `size` wide, in a quarter of its time."""
    rank = size**2 * percentile // 100
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(image, size // 2, mode="edge"), (size, size)
    )
    rows = [np.partition(row.reshape(len(row), -1), rank)[:, rank] for row in windows]
    return np.stack(rows)


def _subtract_blocks(nuclear: np.ndarray, ground: np.ndarray, block_px: int) -> None:
    h, w = nuclear.shape
    nuclear.reshape(h // block_px, block_px, w // block_px, block_px)[...] -= ground[
        :, None, :, None
    ]


def _stained_parts(
    stained: np.ndarray, reach_px: int
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Rectangles round what is stained, each with which of its pixels are its own, bool: together they hold every stained
    pixel with `reach_px` round it, and what is found in one is what would be found in the whole.

    Steps: blocks of `reach_px`, those that hold anything and their neighbours, each group of them that touch.
    """
    h, w = stained.shape
    rows, columns = np.arange(0, h, reach_px), np.arange(0, w, reach_px)
    blocks = np.logical_or.reduceat(np.logical_or.reduceat(stained, rows, axis=0), columns, axis=1)
    all_round = np.ones((3, 3), bool)
    groups, _ = ndimage.label(ndimage.binary_dilation(blocks, all_round), all_round)
    for number, place in enumerate(ndimage.find_objects(groups), 1):
        part = tuple(
            slice(along.start * reach_px, min(along.stop * reach_px, size))
            for along, size in zip(place, (h, w), strict=True)
        )
        own = (groups[place] == number).repeat(reach_px, 0).repeat(reach_px, 1)
        yield part, own[: part[0].stop - part[0].start, : part[1].stop - part[1].start]


def _saturate(nuclear: np.ndarray, threshold: np.int32) -> np.ndarray:
    """0 below the threshold, rising to 1 - _SLOPE within _FULL_ABOVE and slowly on; int32, 1 being 65536."""
    over = nuclear - threshold
    full = round(_FULL_ABOVE * _UNIT)
    rise, slow = round((1 - _SLOPE) * 65536 / full), round(_SLOPE * 65536 / _UNIT)
    return np.clip(over, 0, full) * rise + np.clip(over - full, 0, _UNIT) * slow


def _smooth(image: np.ndarray, lattice: Lattice) -> np.ndarray:
    """A Gaussian of _NUCLEUS_SIGMA_UM as three box filters (whose variance is 3 (width^2 - 1) / 12), in integers."""
    for _ in range(3):
        image = ndimage.uniform_filter(
            image, _odd(_smooth_um(lattice), lattice), output=np.int32, mode="nearest"
        )
    return image


def _smooth_um(lattice: Lattice) -> float:
    """Width of the box filters of `_smooth`."""
    return math.sqrt(4 * _NUCLEUS_SIGMA_UM**2 + lattice.step_um**2)


def _plateau_px(lattice: Lattice) -> int:
    return max(1, round(_PLATEAU_UM / lattice.step_um))


def _reach_px(lattice: Lattice) -> int:
    """How far from a stained pixel it counts: three box filters, and a peak's square."""
    return 3 * (_odd(_smooth_um(lattice), lattice) // 2) + _plateau_px(lattice)


def _peaks(height: np.ndarray, x: int, y: int, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of a plane whose first pixel is lattice pixel (x, y): lattice pixels (i, j) int64 [N, 2], ranks int32 [N].

    A peak is the largest pixel of its square, above _PEAK. Of equals (a saturated plateau) a hash of the place decides, so
    that the choice depends on no window.
    """
    if height.max() <= _PEAK * 65536:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int32)
    j, i = np.indices(height.shape, np.uint32, sparse=True)
    i, j = i + np.uint32(x & 0xFFFFFFFF), j + np.uint32(y & 0xFFFFFFFF)
    ranked = height * np.int32(1024) + (_hash(i, j) & np.uint32(1023)).astype(np.int32)
    largest = ranked == ndimage.maximum_filter(ranked, 2 * _plateau_px(lattice) + 1, mode="nearest")
    rows, columns = np.nonzero(largest & (height > _PEAK * 65536))
    return np.stack([columns + x, rows + y], 1), ranked[rows, columns]


def _suppress_close_peaks(places: np.ndarray, ranks: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Of peaks int64 [N, 2] those with no higher one within _MIN_PEAK_DISTANCE_UM, row-major."""
    order = np.lexsort(places.T)
    places, ranks = places[order], ranks[order]
    pairs = cKDTree(places).query_pairs(
        _MIN_PEAK_DISTANCE_UM / lattice.step_um, output_type="ndarray"
    )
    first_loses = ranks[pairs[:, 0]] < ranks[pairs[:, 1]]
    keep = np.ones(len(places), bool)
    keep[np.where(first_loses, pairs[:, 0], pairs[:, 1])] = False
    return places[keep]


def lattice_centres(rect: Rect, step_um: float, mpp: float) -> np.ndarray:
    """Places of the slide-wide lattice of patches in `rect` (half-open, level-0 px), for a look at everything.

    float64 [N, 2] (x, y), row-major. Lattice place (i, j) is ((i + 0.5), (j + 0.5)) * step, whatever the rect, so each
    belongs to exactly one core. A cell of 22 µm is whole in some patch of 38.4 µm when step_um <= 16.
    """
    i, j = _lattice_places(rect, step_um / mpp)
    return np.stack([i + 0.5, j + 0.5], 1) * (step_um / mpp)


def audit_sample(
    core: Rect,
    proposals_xy: np.ndarray,
    fraction: float,
    seed: int,
    mpp: float,
    patch_um: float,
    size_wh: tuple[float, float] = (math.inf, math.inf),
) -> tuple[np.ndarray, float, float]:
    """A random sample of the patches that the screen passed over: centres float64 [N, 2], their area in µm², and the
    area of all that it passed over, both without what reaches beyond a slide of `size_wh`.

    The slide is paved with squares of patch_um; those centred in `core` without a proposal in them are passed over, and
    a hash of place and seed draws `fraction` of these, so that the draw does not depend on the grid of cores.
    `proposals_xy` [M, 2] must reach patch_um / 2 beyond the core: give those of the region's window.
    """
    step_px = patch_um / mpp
    i, j = _lattice_places(core, step_px)
    drawn = _hash(i.astype(np.uint32), j.astype(np.uint32), seed) < fraction * 2.0**32
    proposed = {(x, y) for x, y in np.floor(proposals_xy / step_px).astype(int).tolist()}
    passed_over = np.array(
        [place not in proposed for place in zip(i.tolist(), j.tolist(), strict=True)], bool
    )
    places = np.stack([i, j], 1)
    areas_um2 = (np.minimum(size_wh - places * step_px, step_px) * mpp).prod(1)
    sample = drawn & passed_over
    return (
        (places[sample] + 0.5) * step_px,
        float(areas_um2[sample].sum()),
        float(areas_um2[passed_over].sum()),
    )


def _lattice_places(rect: Rect, step_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j), row-major, of the lattice places whose centres lie in the half-open rect."""
    spans = []
    for low, high in ((rect[0], rect[2]), (rect[1], rect[3])):
        k = np.arange(math.floor(low / step_px) - 1, math.ceil(high / step_px) + 1)
        at = (k + 0.5) * step_px
        spans.append(k[(at >= low) & (at < high)])
    j, i = np.meshgrid(spans[1], spans[0], indexing="ij")
    return i.ravel(), j.ravel()


def _hash(i: np.ndarray, j: np.ndarray, seed: int = 0) -> np.ndarray:
    """32 well-mixed bits of a lattice place (uint32 arrays, which wrap): uint32."""
    h = i * np.uint32(0x9E3779B1) ^ (j * np.uint32(0x85EBCA77) + np.uint32(seed & 0xFFFFFFFF))
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE3D)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0x27D4EB2F)
    return h ^ (h >> np.uint32(16))
