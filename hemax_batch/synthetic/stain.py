"""Stain colours: optical density (log10) of each part of a cell in red, green and blue light."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

OD = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """Optical densities of the parts of a smear, with the background light.

    The default is a Wright-Giemsa stain on a CellaVision DM96: medians measured on the PBC images
    (Acevedo 2020). `background` is clear glass in 0..255. `red` is a red cell's rim, `pale` the
    cytoplasm of a mature granulocyte, `fine` neutrophil granules above the cytoplasm. `noise` is
    the standard deviation of the sensor's noise in grey levels.
    """

    background: tuple[float, float, float] = (254, 229, 203)  # clear glass, 0..255
    red: OD = (0.107, 0.160, 0.094)  # a red cell's rim
    nucleus: OD = (0.60, 1.00, 0.205)
    pale: OD = (0.070, 0.125, 0.060)  # cytoplasm of a mature granulocyte
    light_blue: OD = (0.15, 0.17, 0.055)
    blue: OD = (0.28, 0.26, 0.07)
    purple_blue: OD = (0.22, 0.27, 0.075)
    fine: OD = (0.12, 0.22, 0.06)  # neutrophil granules, above the cytoplasm
    azurophil: OD = (0.30, 0.66, 0.10)
    eosinophil: OD = (0.11, 0.33, 0.165)
    basophil: OD = (0.46, 0.82, 0.15)
    noise: float = 1.9  # standard deviation of the sensor's noise, grey levels


STAINS: dict[str, Stain] = {
    "wright-giemsa": Stain(),
    "may-grunwald": Stain(  # cooler, on a bluish grey ground, as in the Munich marrow pictures
        background=(222, 216, 232), red=(0.10, 0.14, 0.17), nucleus=(0.56, 1.0, 0.16), blue=(0.36, 0.30, 0.05)
    ),
    "pale": Stain(  # thin stain in grey light, as in BCCD
        background=(216, 214, 206), red=(0.07, 0.17, 0.13), nucleus=(0.36, 0.66, 0.05), pale=(0.06, 0.12, 0.02),
        blue=(0.22, 0.26, 0.02), purple_blue=(0.18, 0.28, 0.02), eosinophil=(0.06, 0.30, 0.12), noise=2.5,
    ),
    "rapid": Stain(  # strong eosin in greenish light, as in BCDD
        background=(186, 234, 218), red=(0.03, 0.42, 0.26), nucleus=(0.62, 0.72, 0.24),
        pale=(0.06, 0.14, 0.07), noise=2.0,
    ),
}  # fmt: skip


def random_stain(rng: np.random.Generator) -> Stain:
    """Draw a training stain with random strength, tint and light; most are Wright-Giemsa."""
    stain = STAINS[
        rng.choice(["wright-giemsa", "may-grunwald", "pale", "rapid"], p=[0.6, 0.16, 0.14, 0.1])
    ]
    tint = np.exp(rng.normal(0, 0.07, 3))  # The camera's colours: one factor for all dyes.
    changed: dict[str, Any] = {}
    for f in fields(Stain):
        if f.name not in ("background", "noise"):
            own = np.exp(rng.normal(0, 0.10)) * np.exp(rng.normal(0, 0.04, 3))
            changed[f.name] = tuple(float(v) for v in np.array(getattr(stain, f.name)) * tint * own)
    light = np.array(stain.background) * np.exp(rng.normal(0, 0.03, 3)) * rng.uniform(0.9, 1.03)
    noise = stain.noise * rng.uniform(0.5, 2.0)
    return replace(
        stain, background=tuple(np.clip(light, 60, 255).tolist()), noise=float(noise), **changed
    )
