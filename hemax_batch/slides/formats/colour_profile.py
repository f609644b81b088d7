"""An embedded ICC profile, applied: the same smear looks alike from every scanner once its colours are sRGB."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

_MAX_BYTES = 16 * 2**20
_ALIKE = 3  # grey levels: a profile that changes no colour by more is sRGB, or as good as


@dataclass(frozen=True)
class ColourProfile:
    """An embedded colour profile. `note` and `warning` describe it, and may be ""."""

    transform: ImageCms.ImageCmsTransform | None = None  # None: pixels stay as stored
    note: str = ""
    warning: str = ""

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """Convert uint8 [h, w, 3] to sRGB."""
        if self.transform is None or rgb.size == 0:
            return rgb
        image = Image.fromarray(np.ascontiguousarray(rgb))
        return np.asarray(ImageCms.applyTransform(image, self.transform))


def read_profile(icc: bytes) -> ColourProfile:
    """Read the profile in `icc` (b"" means none).

    It is applied unless it is sRGB, cannot be read, or is not of RGB.
    """
    if not icc:
        return ColourProfile()
    if len(icc) > _MAX_BYTES:
        return _ignored(f"of {len(icc) // 2**20} MB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space != "RGB":
            return _ignored(f"of colour space {space}")
        name = " ".join(ImageCms.getProfileName(profile).split())[:80]
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return _ignored(f"that cannot be read ({' '.join(str(error).split())})")
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 27, 3)
    applied = ColourProfile(transform)
    change = np.abs(applied.apply(colours).astype(int) - colours)
    if change.max() <= _ALIKE:
        return ColourProfile()
    return ColourProfile(
        transform,
        f"colour profile {name!r} applied (it changes colours by {change.mean():.0f} of 255)",
    )


def _ignored(why: str) -> ColourProfile:
    return ColourProfile(
        warning=f"a colour profile {why} is not applied: colours may differ from other slides'"
    )
