"""Find places on a smear that may contain a nucleated cell, at about 0.4 µm/px.

A place is a candidate if the *nuclear stain* (see `screen_view`) is high over about 5 µm. The stain
is taken above the local ground. It is saturated, so a dark nucleus does not outweigh a pale one.
Two lobes of a nucleus give one peak, two touching cells give two, a platelet gives hardly any.

All arithmetic is on integers, on a lattice that starts at the slide's origin. The result at a point
depends on nothing farther away than `SUPPORT_UM`, so it does not depend on the regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..geometry import inside
from ..records import Rect, StainProfile
from .lattice import Lattice, WindowReader
from .patch_grid import hash_places
from .screen_view import UNIT, ScreenView, block_px, blue_weight, nuclear_stain, read_view

_DENOISE_UM = 1.0  # side of a box filter against JPEG noise and chromatin texture
# The local ground of a block is this percentile of the blocks around it (52 µm each way). A quarter
# of them is glass and red cells, also among crowded white cells.
_GROUND_BLOCKS = 13
_GROUND_PERCENTILE = 25
# The ground is at most this far above the slide's glass, for views that are full of nuclei.
_GROUND_EXCESS = 0.10
# A nucleus is fully stained this far above the threshold. Stain beyond counts with the slope, so
# that a large nucleus has its peak in its middle.
_FULL_ABOVE = 0.15
_SLOPE = 0.15
# Smoothing to the size of a nucleus: the smallest (4.5 µm) passes, a platelet (2 µm) does not.
_NUCLEUS_SIGMA_UM = 2.0
# Lowest peak, as a part of a fully stained plane. The weakest white cells measured have 0.15-0.2:
# small nuclei with distant lobes, and rapid stains.
_PEAK = 0.15
_PLATEAU_UM = 2.0  # a peak is the largest pixel of a square with twice this side
# Two peaks closer than this are one cell. Lobes are 3-4 µm apart, touching lymphocytes 7 µm.
_MIN_PEAK_DISTANCE_UM = 4.0


def propose_candidates(reader: WindowReader, window: Rect, stain: StainProfile) -> np.ndarray:
    """Read a window and return its candidates. See `candidates_in_view`."""
    return candidates_in_view(read_view(reader, window, stain), window)


def candidates_in_view(view: ScreenView, window: Rect) -> np.ndarray:
    """Find the centres of possible nucleated cells in `window` (level-0 pixels).

    The result is exact for points that are SUPPORT_UM inside the window, and for points that are
    nearer to the slide's edge than to the window's.

    Steps: nuclear stain, subtract the local ground, saturate, smooth to a nucleus, find peaks. The
    last three steps run only on stained parts, which are a few per cent of a smear.

    Returns
    -------
    ndarray
        Centres (x, y), float64 [N, 2], row-major.
    """
    lattice, stain = view.lattice, view.stain
    if view.pixels.size == 0:
        return np.zeros((0, 2))
    nuclear = _above_ground(view)
    threshold = np.int32(stain.nucleus_od_threshold * UNIT)
    places = [np.zeros((0, 2), np.int64)]
    ranks = [np.zeros(0, np.int32)]
    for part, own in _stained_parts(nuclear > threshold, _reach_px(lattice)):
        stained = _saturate(nuclear[part], threshold) * own
        # A smaller sum has no mean that reaches a peak.
        if stained.sum() > _PEAK * 65536 * _odd(_smooth_um(lattice), lattice) ** 2:
            x, y = view.rect[0] + part[1].start, view.rect[1] + part[0].start
            part_places, part_ranks = _peaks(_smooth(stained, lattice), x, y, lattice)
            places.append(part_places)
            ranks.append(part_ranks)
    peaks_ij = _suppress_close_peaks(np.concatenate(places), np.concatenate(ranks), lattice)
    centres_xy: np.ndarray = (peaks_ij + 0.5) * lattice.step_px
    inner: np.ndarray = centres_xy[inside(centres_xy, window)]
    return inner


def _above_ground(view: ScreenView) -> np.ndarray:
    """Return the view's denoised nuclear stain above its local ground: int32 [h, w]."""
    lattice, side = view.lattice, block_px(view.lattice)
    nuclear: np.ndarray = ndimage.uniform_filter(
        view.nuclear, _odd(_DENOISE_UM, lattice), output=np.int32, mode="nearest"
    )
    glass = np.array([[view.stain.background_rgb]]).astype(np.uint8)
    ceiling = int(nuclear_stain(glass, blue_weight(view.stain))[0, 0] + _GROUND_EXCESS * UNIT)
    _subtract_blocks(nuclear, np.minimum(_local_ground(nuclear, side), ceiling), side)
    return nuclear


def _odd(length_um: float, lattice: Lattice) -> int:
    """Convert a length to lattice pixels and round to the nearest odd number."""
    return 2 * round((length_um / lattice.step_um - 1) / 2) + 1


def _local_ground(nuclear: np.ndarray, side: int) -> np.ndarray:
    """Return the nuclear stain around each block of `side` pixels: int32 [h / side, w / side]."""
    h, w = nuclear.shape
    blocks = nuclear.reshape(h // side, side, w // side, side).sum(axis=(1, 3)) // side**2
    return _percentile(blocks.astype(np.int32), _GROUND_PERCENTILE, _GROUND_BLOCKS)


def _percentile(image: np.ndarray, percentile: int, size: int) -> np.ndarray:
    """Do what `ndimage.percentile_filter` does for an odd `size`, in a quarter of its time."""
    rank = size**2 * percentile // 100
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(image, size // 2, mode="edge"), (size, size)
    )
    rows = [np.partition(row.reshape(len(row), -1), rank)[:, rank] for row in windows]
    return np.stack(rows)


def _subtract_blocks(nuclear: np.ndarray, ground: np.ndarray, side: int) -> None:
    """Subtract a value per block of `side` pixels, in place."""
    h, w = nuclear.shape
    blocks = nuclear.reshape(h // side, side, w // side, side)
    blocks[...] -= ground[:, None, :, None]


def _stained_parts(
    stained: np.ndarray, reach_px: int
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield rectangles around stained pixels, each with a mask of the pixels it owns.

    Together the rectangles contain every stained pixel and `reach_px` around it. A peak found in a
    rectangle is the peak that would be found in the whole view.

    Steps: divide into blocks of `reach_px`, keep stained blocks and their neighbours, and group the
    blocks that touch.
    """
    h, w = stained.shape
    rows, columns = np.arange(0, h, reach_px), np.arange(0, w, reach_px)
    blocks = np.logical_or.reduceat(np.logical_or.reduceat(stained, rows, axis=0), columns, axis=1)
    all_round = np.ones((3, 3), bool)
    groups, _ = ndimage.label(ndimage.binary_dilation(blocks, all_round), all_round)
    for number, place in enumerate(ndimage.find_objects(groups), 1):
        row_slice, column_slice = (
            slice(along.start * reach_px, min(along.stop * reach_px, size))
            for along, size in zip(place, (h, w), strict=True)
        )
        own = (groups[place] == number).repeat(reach_px, 0).repeat(reach_px, 1)
        height, width = row_slice.stop - row_slice.start, column_slice.stop - column_slice.start
        yield (row_slice, column_slice), own[:height, :width]


def _saturate(nuclear: np.ndarray, threshold: np.int32) -> np.ndarray:
    """Saturate the stain above the threshold: int32, where 1 is 65536.

    The result is 0 below the threshold, rises to 1 - _SLOPE within _FULL_ABOVE, then rises slowly.
    """
    over = nuclear - threshold
    full = round(_FULL_ABOVE * UNIT)
    rise, slow = round((1 - _SLOPE) * 65536 / full), round(_SLOPE * 65536 / UNIT)
    return np.clip(over, 0, full) * rise + np.clip(over - full, 0, UNIT) * slow


def _smooth(image: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Smooth with about a Gaussian of _NUCLEUS_SIGMA_UM, in integers.

    Three box filters replace the Gaussian. Their variance is 3 (width^2 - 1) / 12.
    """
    for _ in range(3):
        image = ndimage.uniform_filter(
            image, _odd(_smooth_um(lattice), lattice), output=np.int32, mode="nearest"
        )
    return image


def _smooth_um(lattice: Lattice) -> float:
    """Return the width of the box filters of `_smooth` in µm."""
    return math.sqrt(4 * _NUCLEUS_SIGMA_UM**2 + lattice.step_um**2)


def _plateau_px(lattice: Lattice) -> int:
    """Return half the side of a peak's square, in lattice pixels."""
    return max(1, round(_PLATEAU_UM / lattice.step_um))


def _reach_px(lattice: Lattice) -> int:
    """Return how far a stained pixel has an effect: three box filters and a peak's square."""
    return 3 * (_odd(_smooth_um(lattice), lattice) // 2) + _plateau_px(lattice)


def _peaks(height: np.ndarray, x: int, y: int, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Find the peaks of a plane whose first pixel is lattice pixel (x, y).

    A peak is the largest pixel of its square and is above _PEAK. Among equal pixels (a saturated
    plateau) a hash of the place decides, so the choice does not depend on the window.

    Returns
    -------
    tuple of ndarray
        Lattice pixels (i, j), int64 [N, 2], and their ranks, int32 [N].
    """
    if height.max() <= _PEAK * 65536:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int32)
    rows, columns = (np.arange(size, dtype=np.uint32) for size in height.shape)
    i = columns[None, :] + np.uint32(x & 0xFFFFFFFF)
    j = rows[:, None] + np.uint32(y & 0xFFFFFFFF)
    hashes = (hash_places(i, j) & np.uint32(1023)).astype(np.int32)
    ranked = height * np.int32(1024) + hashes
    largest = ranked == ndimage.maximum_filter(ranked, 2 * _plateau_px(lattice) + 1, mode="nearest")
    peak_rows, peak_columns = np.nonzero(largest & (height > _PEAK * 65536))
    return np.stack([peak_columns + x, peak_rows + y], 1), ranked[peak_rows, peak_columns]


def _suppress_close_peaks(places: np.ndarray, ranks: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Drop peaks near a higher one (_MIN_PEAK_DISTANCE_UM): int64 [N, 2], row-major."""
    order = np.lexsort(places.T)
    places, ranks = places[order], ranks[order]
    pairs = cKDTree(places).query_pairs(
        _MIN_PEAK_DISTANCE_UM / lattice.step_um, output_type="ndarray"
    )
    first_loses = ranks[pairs[:, 0]] < ranks[pairs[:, 1]]
    keep = np.ones(len(places), bool)
    keep[np.where(first_loses, pairs[:, 0], pairs[:, 1])] = False
    remaining: np.ndarray = places[keep]
    return remaining
