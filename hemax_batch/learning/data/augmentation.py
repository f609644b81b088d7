"""Augmentation of whole batches on their device: stain, light and focus of other laboratories.

`draw_photometry` draws the parameters on the host, so they depend on the generator only.
`apply_photometry` applies them without waiting for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.heads import optical_density

BLUR, COARSE, JPEG, NOISE, SHARPEN = range(5)
_BLUR_REACH_PX = 5

# Annex K of ITU-T T.81 (the JPEG standard): quantisation of luminance and chrominance, quality 50.
_LUMA = np.array(
    [
        16,
        11,
        10,
        16,
        24,
        40,
        51,
        61,
        12,
        12,
        14,
        19,
        26,
        58,
        60,
        55,
        14,
        13,
        16,
        24,
        40,
        57,
        69,
        56,
        14,
        17,
        22,
        29,
        51,
        87,
        80,
        62,
        18,
        22,
        37,
        56,
        68,
        109,
        103,
        77,
        24,
        35,
        55,
        64,
        81,
        104,
        113,
        92,
        49,
        64,
        78,
        87,
        103,
        121,
        120,
        101,
        72,
        92,
        95,
        98,
        112,
        100,
        103,
        99,
    ],
    np.float32,
).reshape(8, 8)
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)  # JFIF

_K = np.arange(8)  # the cosine transform of 8 values
_COSINES = (
    np.cos((2 * _K[None] + 1) * _K[:, None] * np.pi / 16)
    / 2
    * np.where(_K == 0, 0.5**0.5, 1)[:, None]
).astype(np.float32)

_constants: dict[tuple[bytes, tuple[int, ...], torch.device], Tensor] = {}


def _constant(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a small constant on the device, copied once because copying makes the host wait."""
    key = array.tobytes(), array.shape, device
    if key not in _constants:
        _constants[key] = torch.from_numpy(array).to(device)
    return _constants[key]


@dataclass(frozen=True)
class Photometry:
    """Augmentation of each of B patches.

    Attributes
    ----------
    mix : ndarray of float32 [B, 3, 3]
        Maps optical densities to optical densities.
    ground_gain, ground_shift : ndarray of float32 [B, 1], [B, 3]
        Map the background's optical density.
    slope : ndarray of float32 [B, 2]
        Relative brightness from edge to edge in x and y.
    degrading : dict of int to ndarray of int64
        Patches of each kind of degradation.
    strength : ndarray of float32 [B]
        Strength of the degradation: sigma in px, factor, JPEG quality, or sigma of the noise.
    seed : int
        Seed of the noise.
    red_cell_mix : ndarray of float32 [B, 3, 3]
        Like `mix`, outside nuclei and labelled cells.
    """

    mix: np.ndarray
    ground_gain: np.ndarray
    ground_shift: np.ndarray
    slope: np.ndarray
    degrading: dict[int, np.ndarray]
    strength: np.ndarray
    seed: int
    red_cell_mix: np.ndarray


def draw_photometry(
    rng: np.random.Generator, count: int, stain: float = 1.0, as_stained: float = 0.0
) -> Photometry:
    """Draw the augmentation of `count` patches.

    Stain: a random near-identity mixing of optical densities and another background colour, strong
    for one patch in four. Light: a lamp off its centre for half of the patches, with up to a fifth
    of brightness across the patch. Degradation for 45 %: defocus, a coarser scan (up to 0.30
    µm/px), JPEG, sensor noise or sharpening.

    Parameters
    ----------
    stain
        Factor on the distance from the patch's own stain. The background's density, which is that
        of glass and lamp, is separate.
    as_stained
        Share of patches that keep their own stain and light. Attributes that only colour shows,
        such as the cytoplasm's, are learnt from them.
    """
    f = np.float32
    strong = np.where(rng.random(count) < 0.25, 2.0, 1.0)[:, None]
    gains, gain = rng.normal(0, 0.16, (count, 3)), rng.normal(0, 0.15, (count, 1))
    mix = rng.normal(0, 0.07, (count, 3, 3))
    slope = rng.normal(0, 0.08, (count, 2)) * (rng.random((count, 1)) < 0.5)
    kind = np.where(rng.random(count) < 0.45, rng.integers(5, size=count), -1)
    span = np.array([(0.4, 1.6), (1.3, 2.5), (35, 85), (1, 6), (0.3, 1.5)])[kind.clip(0)]
    ground_gain, ground_shift = rng.uniform(0.4, 1.6, (count, 1)), rng.normal(0, 0.03, (count, 3))
    ground_shift[:, 2] += rng.uniform(0, 0.12, count) * (rng.random(count) < 0.15)  # yellow glass
    strength, seed = rng.uniform(span[:, 0], span[:, 1]), int(rng.integers(2**62))
    own = rng.random((count, 1)) < as_stained
    wide = np.where(own, 0.0, stain * strong)
    mix = (np.eye(3) + mix * wide[..., None]) * np.exp((gains + gain) * wide)[:, None]
    red_cell_mix = np.where(own[..., None], np.eye(3), _draw_red_cell_mix(rng, count))
    return Photometry(
        mix.astype(f),
        np.where(own, 1.0, ground_gain).astype(f),
        (ground_shift * wide).astype(f),
        np.where(own, 0.0, slope).astype(f),
        {k: np.flatnonzero(kind == k) for k in range(5) if (kind == k).any()},
        strength.astype(f),
        seed,
        red_cell_mix.astype(f),
    )


def _draw_red_cell_mix(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw how red cells and plasma are stained apart from nuclei.

    Half of the patches keep their red cells. Of the others half turn blue-grey: their red cells
    absorb red light as they absorb green light.

    Returns
    -------
    np.ndarray
        float64 [count, 3, 3], which maps optical densities to optical densities.
    """
    gains = np.exp(rng.normal(0, 0.35, (count, 1, 3)) + rng.normal(0, 0.35, (count, 1, 1)))
    mix = np.eye(3) * gains
    blue = rng.uniform(0, 1.2, count) * (rng.random(count) < 0.5)
    mix[:, 1, 0] += blue
    mix[:, 2, 2] *= 1 - 0.4 * blue.clip(max=1)
    mix[rng.random(count) < 0.5] = np.eye(3)
    return mix


def apply_photometry(pixels: Tensor, drawn: Photometry, cells: Tensor | None = None) -> Tensor:
    """Show patches as another laboratory would see them.

    Parameters
    ----------
    pixels
        float [B, 3, S, S] in 0..255, S a multiple of 16.
    drawn
        What happens to each patch.
    cells
        bool [B, S, S], where labelled cells are. Red cells are recoloured apart from them.
        Without it red cells keep their colour.

    Returns
    -------
    Tensor
        uint8 [B, 3, S, S].
    """
    device = pixels.device

    def to(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    red_cell_mix = None if cells is None else to(drawn.red_cell_mix)
    x = _restain(
        pixels, to(drawn.mix), to(drawn.ground_gain), to(drawn.ground_shift), red_cell_mix, cells
    )
    x = _relight(x, to(drawn.slope))
    for kind, rows in drawn.degrading.items():
        at, strength = to(rows), drawn.strength[rows]
        part = x[at]
        if kind == BLUR:
            part = _blur(part, to(strength))
        elif kind == COARSE:
            part = _downsample(part, float(strength[0]))
        elif kind == SHARPEN:
            detail = part - _blur(part, torch.ones(len(rows), device=device))
            part = (part + to(strength)[:, None, None, None] * detail).clamp(0, 255)
        elif kind == JPEG:
            part = _jpeg(part, to(strength))
        else:
            noise = torch.Generator(device).manual_seed(drawn.seed)
            part = (
                part
                + torch.randn(part.shape, generator=noise, device=device)
                * to(strength)[:, None, None, None]
            )
        x = x.index_copy(0, at, part)
    return x.round().clamp(0, 255).to(torch.uint8)


def _restain(
    pixels: Tensor,
    mix: Tensor,
    ground_gain: Tensor,
    ground_shift: Tensor,
    red_cell_mix: Tensor | None,
    cells: Tensor | None,
) -> Tensor:
    """Change the stain, the red cells and the glass of each patch.

    The ground is the bright mode of each channel. It is removed first, so that stain and lamp vary
    apart. A pixel counts as nuclear where it absorbs red light nearly as the darkest pixels do.
    """
    od = optical_density(pixels)
    ground = torch.quantile(od[:, :, ::4, ::4].flatten(2), 0.08, dim=2)  # [B, 3]
    new_ground = (ground * ground_gain + ground_shift).clamp(0, 0.35)
    od = od - ground[..., None, None]
    if red_cell_mix is not None and cells is not None:
        darkest = torch.quantile(od[:, 0, ::4, ::4].flatten(1), 0.99, dim=1)
        threshold = (0.45 * darkest).clamp(min=0.22)[:, None, None, None]
        nuclear = ((od[:, :1] - threshold) / 0.04).sigmoid()
        kept = torch.maximum(nuclear, cells[:, None].to(od.dtype))
        od = kept * od + (1 - kept) * torch.einsum("bcyx,bcd->bdyx", od, red_cell_mix)
    od = torch.einsum("bcyx,bcd->bdyx", od, mix) + new_ground[..., None, None]
    return (256.0 * torch.exp(-math.log(10) * od) - 1.0).clamp(0, 255)


def _relight(x: Tensor, slope: Tensor) -> Tensor:
    """Apply a linear slope of brightness."""
    ramp = torch.linspace(-0.5, 0.5, x.shape[-1], device=x.device)
    across, down = slope[:, 0, None] * ramp, slope[:, 1, None] * ramp
    return (x * (1 + across[:, None, None, :] + down[:, None, :, None])).clamp(0, 255)


def _blur(x: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur each patch with its own Gaussian."""
    n, c, s, _ = x.shape
    reach = torch.arange(-_BLUR_REACH_PX, _BLUR_REACH_PX + 1, device=x.device)
    kernel = torch.exp(-(reach**2) / (2 * sigma_px[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # [nc, 11]
    flat = F.pad(x.reshape(1, n * c, s, s), [_BLUR_REACH_PX] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * c)
    return F.conv2d(flat, kernel[:, None, None], groups=n * c).reshape(n, c, s, s)


def _downsample(x: Tensor, factor: float) -> Tensor:
    """Resample to a coarser scale and back."""
    small = F.interpolate(
        x, size=int(x.shape[-1] / factor), mode="bicubic", antialias=True, align_corners=False
    )
    return F.interpolate(small, size=x.shape[-1], mode="bicubic", align_corners=False)


def _jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Simulate JPEG compression of patches [n, 3, S, S].

    `quality` [n] is on libjpeg's scale. Chrominance has half the resolution.
    """
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None] / 100
    ycc = torch.einsum("dc,ncyx->ndyx", _constant(_YCC, x.device), x)
    luma = _quantise(ycc[:, :1] - 128, _constant(_LUMA, x.device), scale) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), _constant(_CHROMA, x.device), scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.einsum(
        "dc,ncyx->ndyx", _constant(np.linalg.inv(_YCC), x.device), torch.cat([luma, chroma], 1)
    )


def _quantise(x: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Quantise the cosine transform of 8 px blocks of x [n, c, S, S].

    The steps are `table` times `scale` [n, 1, 1].
    """
    d, step = (
        _constant(_COSINES, x.device),
        (table * scale).round().clamp(1, 255)[:, None, None, :, None, :],
    )
    n, c, s, _ = x.shape
    blocks = x.reshape(n, c, s // 8, 8, s // 8, 8)
    frequencies = torch.einsum("ui,ncaibj,vj->ncaubv", d, blocks, d)
    frequencies = (frequencies / step).round() * step
    return torch.einsum("ui,ncaubv,vj->ncaibj", d, frequencies, d).reshape(n, c, s, s)
