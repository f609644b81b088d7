"""Convert any pixel layout that a microscope writes to uint8 RGB on white glass.

16-bit samples are shifted down by their *significant* bits (8, 10, 12, 14 or 16). The number comes
from the file if it is stored there, else from the largest value in a fixed sample of the slide. One
shift applies to a whole slide, so a pixel does not depend on the window it is read in.
"""

from __future__ import annotations

import numpy as np

GLASS = 255  # value of clear glass: outside the slide, and behind transparent pixels
_DEPTHS = (8, 10, 12, 14, 16)


class UnsupportedPixels(ValueError):
    """Pixels that cannot be shown as RGB. The message says which and why."""


def significant_bits(largest: int) -> int:
    """Return the smallest camera depth that contains `largest`.

    >>> significant_bits(255), significant_bits(4000), significant_bits(40000)
    (8, 12, 16)
    """
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def to_uint8(samples: np.ndarray, bits: int) -> np.ndarray:
    """Convert unsigned samples of `bits` significant bits to uint8. Larger values are clipped."""
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype != np.uint16:
        raise UnsupportedPixels(f"{samples.dtype} samples; export the slide as 8- or 16-bit RGB")
    clipped: np.ndarray = np.minimum(samples >> (bits - 8), 255).astype(np.uint8)
    return clipped


def over_glass(rgba: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """Composite uint8 [h, w, 4] on white glass: uint8 [h, w, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour = rgba[..., :3].astype(np.uint16)
    light = colour if premultiplied else (colour * alpha + 127) // 255
    composite: np.ndarray = np.minimum(light + (GLASS - alpha), 255).astype(np.uint8)
    return composite


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    """Repeat uint8 [h, w] or [h, w, 1] to [h, w, 3]."""
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Convert uint8 [h, w, 4], where 255 is full ink, to RGB without a colour profile."""
    paper = 255 - cmyk.astype(np.uint16)
    return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)
