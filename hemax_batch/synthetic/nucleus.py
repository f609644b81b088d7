"""Shapes of nuclei on the coarse grid, as signed distance fields in µm, positive inside.

Each shape is drawn for a nucleus of `radius_um` (radius of the circle of its area) in a cell of
radius `cell_um`. The painter then shifts the field until the area is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class NucleusField:
    """Signed distance field of a nucleus.

    Attributes
    ----------
    body : ndarray
        Shifted to the wanted area.
    strands : ndarray, optional
        Threads between lobes, joined to the body after the shift.
    """

    body: np.ndarray
    strands: np.ndarray | None = None


def nucleus_field(
    shape: str,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    cell_um: float,
    radius_um: float,
) -> NucleusField:
    """Draw a nucleus of a vocabulary shape around the origin in a random orientation.

    x and y are in µm and of any broadcastable shapes.
    """
    turn = rng.uniform(0, 2 * np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return _SHAPES[shape](rng, u, v, cell_um, radius_um)


def _ellipse(
    u: np.ndarray, v: np.ndarray, cx: float, cy: float, a: float, b: float, turn: float = 0.0
) -> np.ndarray:
    """Return the approximate signed distance to an ellipse."""
    du, dv = u - cx, v - cy
    p, q = du * np.cos(turn) + dv * np.sin(turn), dv * np.cos(turn) - du * np.sin(turn)
    distance: np.ndarray = (1 - np.sqrt((p / a) ** 2 + (q / b) ** 2)) * np.sqrt(a * b)
    return distance


def _smooth_max(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Unite two fields with a fillet of about k µm."""
    h = np.clip(0.5 + 0.5 * (a - b) / k, 0, 1)
    united: np.ndarray = b + (a - b) * h + k * h * (1 - h)
    return united


def _capsules(u: np.ndarray, v: np.ndarray, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Draw a thick line through points [n, 2] with a radius [n] at each."""
    out = np.full(np.broadcast_shapes(u.shape, v.shape), -99, np.float32)
    for (x0, y0), (x1, y1), r0, r1 in zip(
        points[:-1], points[1:], radii[:-1], radii[1:], strict=True
    ):
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((u - x0) * ex + (v - y0) * ey) / max(ex * ex + ey * ey, 1e-6), 0, 1)
        np.maximum(out, r0 + (r1 - r0) * t - np.hypot(u - x0 - t * ex, v - y0 - t * ey), out=out)
    return out


class _Shape(Protocol):
    """Draws a nucleus at coordinates u, v (µm)."""

    def __call__(
        self,
        rng: np.random.Generator,
        u: np.ndarray,
        v: np.ndarray,
        cell_um: float,
        radius_um: float,
        /,
    ) -> NucleusField: ...


def _round(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw a nearly round nucleus, off the cell's centre."""
    stretch = rng.uniform(1.0, 1.14)
    room = max(cell_um - radius_um * stretch, 0)
    return NucleusField(
        _ellipse(
            u, v, rng.uniform(0.2, 0.85) * room, 0, radius_um * stretch, radius_um / stretch, 1.57
        )
    )


def _notched(
    rng: np.random.Generator,
    u: np.ndarray,
    v: np.ndarray,
    cell_um: float,
    radius_um: float,
    depth: float,
    width: float,
) -> NucleusField:
    """Draw an oval with a notch in the side towards the cell's centre."""
    long = rng.uniform(1.12, 1.3)
    off = min(0.25 * radius_um + 0.3, max(cell_um - radius_um, 0.1))
    body = _ellipse(u, v, off, 0, radius_um * 1.12 / long * 1.08, radius_um * 1.1 * long, 0)
    edge = off - radius_um * 1.2 / long
    radius = width * radius_um
    bite = _ellipse(
        u,
        v,
        edge - radius + depth * radius_um,
        rng.normal(0, 0.3) * radius_um,
        radius * 1.2,
        radius * rng.uniform(0.6, 1.1),
        rng.normal(0, 0.35),
    )
    return NucleusField(-_smooth_max(-body, bite, 0.12 * radius_um + 0.4))


def _indented(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw a kidney-shaped nucleus."""
    return _notched(rng, u, v, cell_um, radius_um, rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.8))


def _irregular(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw two to four lobes that merge with one body."""
    body = _ellipse(u, v, 0, 0, radius_um * 0.85, radius_um * 0.75)
    n = rng.integers(2, 5)
    for angle in np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.normal(0, 0.5, n):
        far, size = rng.uniform(0.35, 0.8) * radius_um, rng.uniform(0.42, 0.72) * radius_um
        lobe = _ellipse(
            u,
            v,
            far * np.cos(angle),
            far * np.sin(angle),
            size * 1.25,
            size * 0.85,
            angle + rng.normal(0, 0.9),
        )
        body = _smooth_max(body, lobe, 0.5)
    return NucleusField(body)


def _band(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw a horseshoe or an S of even width with slightly swollen ends."""
    s = np.linspace(-1, 1, 15)
    width = radius_um * rng.uniform(0.42, 0.5)
    reach = cell_um - width - 0.9
    if rng.random() < 0.75:
        arc, bow = rng.uniform(1.5, 2.35), min(reach, radius_um * rng.uniform(0.75, 0.95))
        points = np.stack([bow * np.cos(s * arc) * rng.uniform(0.9, 1.2), bow * np.sin(s * arc)], 1)
    else:
        points = np.stack([0.45 * reach * np.sin(s * 2.3), 0.95 * reach * s], 1)
    points += rng.normal(0, 0.12, points.shape).cumsum(0) * 0.5
    points -= points.mean(0) * rng.uniform(0.4, 0.9)
    radii = width * (1 + rng.uniform(0.05, 0.3) * (s**2 - 0.4) + rng.normal(0, 0.05, len(s)))
    return NucleusField(_capsules(u, v, points, radii))


def _lobes(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, centres: np.ndarray, radius: float
) -> NucleusField:
    """Draw egg-shaped lobes at centres [n, 2] with threads between neighbours."""
    body = np.full(np.broadcast_shapes(u.shape, v.shape), -np.inf)
    steps = np.gradient(centres, axis=0)
    for (cx, cy), (dx, dy) in zip(centres, steps, strict=True):
        stretch, size = rng.uniform(0.95, 1.25), radius * rng.uniform(0.8, 1.2)
        turn = np.arctan2(dy, dx) + rng.normal(0, 0.5)
        lobe = _ellipse(u, v, cx, cy, size * stretch, size / stretch, turn)
        body = np.maximum(body, lobe)
    strands = _capsules(u, v, centres, np.full(len(centres), rng.uniform(0.22, 0.4)))
    return NucleusField(body, strands)


def _bilobed(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw two lobes."""
    lobe = radius_um * 0.7
    far = min(cell_um - lobe * 1.2 - 0.3, lobe * rng.uniform(1.15, 1.5))
    bend = rng.uniform(-0.2, 0.45) * far
    return _lobes(
        rng,
        u,
        v,
        np.array([[bend, -far], [-bend * rng.uniform(0, 1), 0], [bend, far]])[[0, 2]],
        lobe,
    )


def _multilobed(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, cell_um: float, radius_um: float
) -> NucleusField:
    """Draw three to five lobes along an open ring or a zigzag."""
    n = int(rng.choice([3, 4, 5], p=[0.5, 0.37, 0.13]))
    lobe = radius_um / np.sqrt(n) * 1.02
    ring = min(cell_um - lobe - 0.8, lobe * rng.uniform(1.2, 1.6) * n / 3.3)
    span = rng.uniform(1.2, 1.75) * np.pi * (n - 1) / n
    angles = np.linspace(-span / 2, span / 2, n) + rng.normal(0, 0.12, n)
    far = ring * rng.uniform(0.82, 1.1, n)
    centres = np.stack([far * np.cos(angles), far * np.sin(angles)], 1)
    return _lobes(rng, u, v, centres - centres.mean(0) * rng.uniform(0.3, 0.9), lobe)


_SHAPES: dict[str, _Shape] = {
    "round": _round, "indented": _indented, "band": _band, "bilobed": _bilobed, "multilobed": _multilobed,
    "irregular": _irregular,
}  # fmt: skip
