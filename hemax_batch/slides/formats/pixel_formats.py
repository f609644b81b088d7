"""Any pixel layout a microscope writes, brought to uint8 RGB on white glass.

The rule for deep samples: 16-bit data is shifted down by its *significant* bits (8, 10, 12, 14 or 16), which are taken
from the file where it says so and otherwise from the largest value seen in a fixed sample of the slide. One shift
serves a whole slide, so that a pixel never depends on the window it is read in.
"""

from __future__ import annotations

import numpy as np

GLASS = 255  # the value of clear glass: outside the slide, and behind transparent pixels
_DEPTHS = (8, 10, 12, 14, 16)


class UnsupportedPixels(ValueError):
    """Pixels that cannot honestly be shown as RGB; the message says which and why."""


def significant_bits(largest: int) -> int:
    """The smallest camera depth that holds `largest`.

    >>> significant_bits(255), significant_bits(4000), significant_bits(40000)
    (8, 12, 16)
    """
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def to_uint8(samples: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned samples of `bits` significant bits as uint8; brighter ones are clipped."""
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype != np.uint16:
        raise UnsupportedPixels(f"{samples.dtype} samples; export the slide as 8- or 16-bit RGB")
    return np.minimum(samples >> (bits - 8), 255).astype(np.uint8)


def over_glass(rgba: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """uint8 [h, w, 4] composited on white glass: uint8 [h, w, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour = rgba[..., :3].astype(np.uint16)
    light = colour if premultiplied else (colour * alpha + 127) // 255
    return np.minimum(light + (GLASS - alpha), 255).astype(np.uint8)


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    """uint8 [h, w] or [h, w, 1] repeated to [h, w, 3]."""
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4], ink as 255 = full, to RGB by the plain formula (no colour profile)."""
    paper = 255 - cmyk.astype(np.uint16)
    return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)
