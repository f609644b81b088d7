"""Focus planes of a TIFF: which pages are planes of one field, and which of them is the sharpest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from .tiff_backend import TiffBackend
from .tiff_images import TiffImage, TiffLayout
from .tiff_layout import HostileTiff, TiffLevel
from .tiff_tiles import DECODE_ERRORS

_SAMPLES = 9  # tiles, evenly spaced, of which at most
_SAMPLE_PX = 512  # each way are looked at
_BLOCK_PX = 16  # means of so many pixels do not change with focus
_SAME_FIELD = 0.8  # correlation of two planes' blocks; of two fields of a smear: below 0.2


def join_planes(path: Path, layout: TiffLayout) -> tuple[TiffImage, ...]:
    """The images of a file, where pages of one size that show the same field are planes of one image.

    Only where the file does not say itself what its pages are.
    """
    images = layout.images
    largest = max((i.size for i in images if i.planes), default=(0, 0), key=lambda s: s[0] * s[1])
    alike = [i for i in images if i.planes and i.size == largest]
    if layout.labelled or len(alike) < 2:
        return images
    blocks = [_blocks(views) for views in (_views(path, i.planes[0]) for i in alike)]
    if any(_correlation(blocks[0], other) < _SAME_FIELD for other in blocks[1:]):
        return images
    planes = tuple(i.planes[0] for i in alike)
    joined = replace(alike[0], planes=planes, plane_numbers=tuple(i.number for i in alike))
    return tuple(joined if i is alike[0] else i for i in images if i is alike[0] or i not in alike)


def choose_plane(path: Path, image: TiffImage, wanted: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the index of the sharpest focus plane, or of the `wanted` one (from 1), with a sentence."""
    count = len(image.planes)
    if count == 1:
        return 0, ()
    if wanted is not None:
        if wanted > count:
            raise HostileTiff(f"holds {count} focus planes, --focus-plane {wanted} is none of them")
        return wanted - 1, (f"focus plane {wanted} of {count} is read, as --focus-plane says",)
    sharpest = int(np.argmax([_sharpness(_views(path, plane)) for plane in image.planes]))
    return sharpest, (
        f"focus plane {sharpest + 1} of {count} is read, the sharpest (--focus-plane chooses another)",
    )


def _views(path: Path, levels: tuple[TiffLevel, ...]) -> list[np.ndarray]:
    """Return the green channel of a few tiles of the finest level.

    A tile that cannot be decoded is black.
    """
    level, views = levels[0], []
    backend = TiffBackend(path, levels[:1], "", None)
    try:
        for tile in np.unique(
            np.linspace(0, level.across * level.down - 1, _SAMPLES).round().astype(int)
        ):
            row, column = divmod(int(tile), level.across)
            x, y = column * level.tile_width, row * level.tile_height
            w, h = min(_SAMPLE_PX, level.width - x), min(_SAMPLE_PX, level.height - y)
            try:
                views.append(backend.read(0, x, y, w, h)[..., 1].astype(np.float32))
            except DECODE_ERRORS:
                views.append(np.zeros((h, w), np.float32))
    finally:
        backend.close()
    return views


def _sharpness(views: list[np.ndarray]) -> float:
    """Return the summed variance of the Laplacian."""
    return float(sum(ndimage.laplace(view).var() * view.size for view in views))


def _blocks(views: list[np.ndarray]) -> np.ndarray:
    """Average over blocks of all views together."""
    means = []
    for view in views:
        h, w = (side // _BLOCK_PX * _BLOCK_PX for side in view.shape)
        tiles = view[:h, :w].reshape(h // _BLOCK_PX, _BLOCK_PX, w // _BLOCK_PX, _BLOCK_PX)
        means.append(tiles.mean((1, 3)).ravel())
    return np.concatenate(means)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread else 0.0
