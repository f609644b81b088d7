"""Training patches: cells placed on a canvas at the working scale, and the stain, light and focus of other
laboratories."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

OD_TABLE = -np.log10((np.arange(256) + 1.0) / 256.0).astype(np.float32)  # 0 for pure white


@dataclass
class Canvas:
    """A patch under construction.

    pixels uint8 [S, S, 3]; labels uint8 [S, S] (0, 1 cytoplasm, 2 nucleus) a cell; boxes [N, 4] x0 y0 x1 y1;
    `ignore` bool [S, S]; `source_cells[i]` is the label that box i came from.
    """

    pixels: np.ndarray
    ignore: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray | None]
    source_cells: list

    @classmethod
    def blank(cls, size: int) -> Canvas:
        return cls(np.full((size, size, 3), 235, np.uint8), np.zeros((size, size), bool), [], [], [])


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """-log10((v + 1) / 256) a channel: uint8 [..., 3] -> float32 [..., 3]."""
    return OD_TABLE[rgb]


def jitter_stain(rng: np.random.Generator, rgb: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Another laboratory's stain: a random near-identity mixing of optical densities and another ground colour.

    The ground (the bright mode of each channel) is taken out first, so that stain and lamp vary apart.
    """
    od = optical_density(rgb)
    ground = np.percentile(od[::4, ::4].reshape(-1, 3), 8, axis=0).astype(np.float32)
    gain = np.exp(rng.normal(0, 0.16 * strength, 3)).astype(np.float32)
    mix = np.eye(3, dtype=np.float32) + rng.normal(0, 0.07 * strength, (3, 3)).astype(np.float32)
    common = np.float32(np.exp(rng.normal(0, 0.15 * strength)))
    new_ground = np.clip(ground * rng.uniform(0.4, 1.6) + rng.normal(0, 0.03 * strength, 3), 0, 0.35).astype(np.float32)
    od = (od - ground) @ (mix * gain * common) + new_ground
    return np.clip(256.0 * np.exp(-np.float32(np.log(10)) * od) - 1.0, 0, 255).astype(np.uint8)


def jitter_light(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """A lamp that is off centre: a linear gradient of up to a fifth across the patch."""
    s = rgb.shape[0]
    ramp = np.linspace(-0.5, 0.5, s, dtype=np.float32)
    gx, gy = rng.normal(0, 0.08, 2)
    field = 1.0 + gx * ramp[None, :, None] + gy * ramp[:, None, None]
    return np.clip(rgb * field, 0, 255).astype(np.uint8)


def degrade(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """One of: defocus, a coarser scan (up to 0.30 µm/px), JPEG, sensor noise."""
    kind, s = rng.integers(4), rgb.shape[0]
    if kind == 0:
        sigma = rng.uniform(0.4, 1.6)
        return np.stack([ndimage.gaussian_filter(rgb[..., c], sigma) for c in range(3)], -1)
    im = Image.fromarray(rgb)
    if kind == 1:
        small = int(s / rng.uniform(1.3, 2.5))
        return np.asarray(im.resize((small, small), Image.BICUBIC).resize((s, s), Image.BICUBIC))
    if kind == 2:
        buffer = io.BytesIO()
        im.save(buffer, "JPEG", quality=int(rng.integers(35, 85)))
        return np.asarray(Image.open(buffer).convert("RGB"))
    noise = rng.normal(0, rng.uniform(1, 6), rgb.shape).astype(np.float32)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def photometric(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Stain always (strongly one time in four), light half the time, one degradation four times in ten."""
    rgb = jitter_stain(rng, rgb, 2.0 if rng.random() < 0.25 else 1.0)
    if rng.random() < 0.5:
        rgb = jitter_light(rng, rgb)
    return degrade(rng, rgb) if rng.random() < 0.4 else rgb


def dihedral(rng: np.random.Generator, canvas: Canvas) -> Canvas:
    """One of the eight turns and flips; boxes stay tight."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def turn(a):
        a = np.rot90(a, turns)
        return np.ascontiguousarray(a[:, ::-1] if flip else a)

    s = canvas.pixels.shape[0]
    boxes = []
    for x0, y0, x1, y1 in canvas.boxes:
        for _ in range(turns):  # a quarter turn anticlockwise: (x, y) -> (y, s - x)
            x0, y0, x1, y1 = y0, s - x1, y1, s - x0
        if flip:
            x0, x1 = s - x1, s - x0
        boxes.append(np.array([x0, y0, x1, y1]))
    labels = [None if m is None else turn(m) for m in canvas.labels]
    return Canvas(turn(canvas.pixels), turn(canvas.ignore), boxes, labels, canvas.source_cells)


def possible_nuclei(rgb: np.ndarray, boxes_xyxy: list, factor: float = 0.55) -> np.ndarray:
    """Where the picture is stained nearly as a nucleus: bool [H, W], taken from the labelled cells' own darkness.

    Red light is what nuclei absorb and red cells hardly do. A little blurred, so that granular dirt does not count.
    """
    od = ndimage.uniform_filter(optical_density(rgb)[..., 0], 5)
    ground = np.percentile(od, 8)
    inside = [od[int(max(y0, 0)) : int(y1) + 1, int(max(x0, 0)) : int(x1) + 1].ravel() for x0, y0, x1, y1 in boxes_xyxy]
    dark = np.percentile(np.concatenate(inside), 85) if inside and sum(map(len, inside)) else ground + 0.5
    return od > ground + factor * (dark - ground)


def place(
    canvas: Canvas,
    rect: tuple[int, int, int, int],
    rgb: np.ndarray,
    ignore: np.ndarray,
    boxes,
    label,
    cells,
    offset,
    constant: bool,
) -> None:
    """Lay a picture into a rectangle of the canvas.

    `offset` (dx, dy): the picture's origin in canvas coordinates. What the picture does not cover is reflected, or of
    the ground's colour when `constant`. Cells less than two fifths visible become ignored; those that remain are
    clipped.
    """
    x0, y0, x1, y1 = rect
    h, w = rgb.shape[:2]
    xs, ys = np.arange(x0, x1) - offset[0], np.arange(y0, y1) - offset[1]
    out_x, out_y = (xs < 0) | (xs >= w), (ys < 0) | (ys >= h)
    mx, my = _mirror(xs, w), _mirror(ys, h)
    patch, hidden = rgb[my][:, mx], ignore[my][:, mx]
    outside = out_y[:, None] | out_x[None]
    if constant:
        ground = np.percentile(rgb[::4, ::4].reshape(-1, 3), 92, axis=0)
        patch = np.where(outside[..., None], ground.astype(np.uint8), patch)
        hidden = hidden & ~outside
    canvas.pixels[y0:y1, x0:x1] = patch
    canvas.ignore[y0:y1, x0:x1] = hidden
    for i, box in enumerate(boxes):
        moved = np.asarray(box, float) + np.array([*offset, *offset])
        clipped = np.array([max(moved[0], x0), max(moved[1], y0), min(moved[2], x1), min(moved[3], y1)])
        wh, full = np.clip(clipped[2:] - clipped[:2], 0, None), moved[2:] - moved[:2]
        visible = wh.prod() / max(full.prod(), 1e-6)
        if visible < 0.4:
            if visible > 0:
                a = clipped.astype(int)
                canvas.ignore[a[1] : a[3] + 1, a[0] : a[2] + 1] = True
            continue
        mask = None
        if label is not None:
            mask = np.zeros(canvas.ignore.shape, np.uint8)
            mask[y0:y1, x0:x1] = np.where(outside, 0, label[my][:, mx])
        canvas.boxes.append(clipped)
        canvas.labels.append(mask)
        canvas.source_cells.append(cells[i])


def _mirror(index: np.ndarray, n: int) -> np.ndarray:
    """Indices reflected into 0..n-1, as often as needed: -1 -> 0, n -> n - 1."""
    index = np.mod(index, 2 * n)
    return np.where(index < n, index, 2 * n - 1 - index)
