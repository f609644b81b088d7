"""The interface of a slide backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ...records import Rect

#: Reports a place that cannot be decoded: the level, the place in its pixels, and the reason.
OnDamage = Callable[[int, Rect, str], None]


class SlideBackend(Protocol):
    """An open file from which windows of pyramid levels can be read.

    Attributes
    ----------
    backend
        Name of the backend: "tiff", "openslide" or "image".
    vendor
        Name of the format or of the scanner's vendor.
    level_sizes
        (width, height) of each level in pixels, the finest level first.
    spacing_um
        µm per level-0 pixel along x and y, or None if the file does not say.
    image, focus_plane
        Which of several in the file is read, from 1. 0: the only one, or as the reader chooses.
    orientation
        The file's orientation tag. Pixels are given as stored.
    icc
        The embedded colour profile, or b"".
    notes, warnings
        What was read of the file and what was left, and what may spoil the results.
    """

    backend: str
    vendor: str
    level_sizes: tuple[tuple[int, int], ...]
    spacing_um: tuple[float, float] | None
    image: int
    focus_plane: int
    orientation: int
    icc: bytes
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def read(
        self, level: int, x: int, y: int, w: int, h: int, on_damage: OnDamage | None = None
    ) -> np.ndarray:
        """Return the pixels of a window that lies inside `level`: uint8 [h, w, 3].

        With `on_damage`, places that cannot be decoded are glass and are reported. Without it the
        error is raised.
        """

    def close(self) -> None:
        """Release the file."""
