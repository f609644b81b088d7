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
    """

    backend: str
    vendor: str
    level_sizes: tuple[tuple[int, int], ...]
    spacing_um: tuple[float, float] | None

    def read(
        self, level: int, x: int, y: int, w: int, h: int, on_damage: OnDamage | None = None
    ) -> np.ndarray:
        """Return the pixels of a window that lies inside `level`: uint8 [h, w, 3].

        With `on_damage`, places that cannot be decoded are glass and are reported. Without it the
        error is raised.
        """

    def close(self) -> None:
        """Release the file."""
