"""Check a slide's µm/px against its red cells, whose diameter is known before anything is measured.

A resolution in inches that is read as centimetres changes every size by 2.54, a wrong objective by
2. Sizes, N:C classes and the network's view of the cells all depend on µm/px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..records import Slide, StainProfile
from .lattice import Lattice, WindowReader, lattice_of, read_lattice
from .quality import rbc_diameters_um

#: Mean diameter of a normal red cell on a dried smear: 7 to 8 µm.
NORMAL_UM = 7.3
#: Medians inside are accepted. Patients with microcytes have 6 µm and with macrocytes 8.5 µm, so an
#: error of µm/px below 25 % cannot be told from a patient.
ACCEPTED_UM = (5.5, 9.1)
#: The true µm/px divided by the file's, as tried. Each finds cells of 4.5 to 11 µm, so together
#: they find every scale from a seventh to seven times the file's.
_FACTORS = (1.0, 0.4, 2.5, 0.63, 1.6, 0.25, 4.0)
_STEP_UM = 0.5  # of the view, if the factor is right
_WINDOWS, _WINDOW_PX = 4, 256  # 4 x 4 evenly spaced views of 128 µm,
_WINDOW_READ_PX = 1536  # less without a pyramid
_MIN_CELLS = 20
_MIN_PER_MM2 = 100  # smears show 400-1000 single red cells per mm², tissue 0-10


@dataclass(frozen=True)
class RedCellScale:
    """The red cells by the file's µm/px: their median diameter and number. 0 if none were found."""

    median_um: float
    measured: int


def measure_scale(reader: WindowReader, stain: StainProfile) -> RedCellScale:
    """Measure the red cells at the file's scale, or at another where none are found at the file's.

    Of several other scales the one counts at which single red cells cover most of the view.
    """
    best, most = RedCellScale(0.0, 0), 0.0
    for factor in _FACTORS:
        lattice = lattice_of(reader.slide, _STEP_UM / factor)
        views = [
            read_lattice(reader, lattice, rect, stain.background_rgb) for rect in _rects(lattice)
        ]
        spacing_um = lattice.step_um * factor
        found = [rbc_diameters_um(view, spacing_um, stain) for view in views]
        diameters_um = np.concatenate([np.zeros(0, np.float32), *found])
        area_um2 = sum(view.shape[0] * view.shape[1] for view in views) * spacing_um**2
        count = len(diameters_um)
        if count < max(_MIN_CELLS, _MIN_PER_MM2 * area_um2 / 1e6):
            continue
        median_um = float(np.median(diameters_um)) / factor
        if factor == 1.0 and ACCEPTED_UM[0] <= median_um <= ACCEPTED_UM[1]:
            return RedCellScale(median_um, count)
        cover = math.pi / 4 * float((diameters_um.astype(float) ** 2).sum()) / area_um2
        if cover > most:
            best, most = RedCellScale(median_um, count), cover
    return best


def scale_warning(slide: Slide, scale: RedCellScale) -> str:
    """Return the sentence on a µm/px that the red cells contradict, or ""."""
    if not scale.measured or ACCEPTED_UM[0] <= scale.median_um <= ACCEPTED_UM[1]:
        return ""
    suggested = slide.mpp * NORMAL_UM / scale.median_um
    return (
        f"red cells measure {scale.median_um:.1f} µm at {slide.mpp:.4g} µm/px "
        f"(median of {scale.measured}), normal ones {NORMAL_UM:g} µm: µm/px is more likely "
        f"{suggested:.3g}; check the scanner's settings and give the true figure with --mpp"
    )


def _rects(lattice: Lattice) -> list[tuple[int, int, int, int]]:
    """Return at most 4 x 4 evenly spaced windows, in lattice pixels."""
    side = min(_WINDOW_PX, max(64, _WINDOW_READ_PX // lattice.average))
    spans = []
    for size in (lattice.width, lattice.height):
        count = min(_WINDOWS, -(-size // side))
        starts = np.linspace(0, max(size - side, 0), count).round().astype(int).tolist()
        spans.append([(start, min(start + side, size)) for start in starts])
    return [(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]]
