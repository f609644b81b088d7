"""Appearance of each class as a table: size, shape, colour, chromatin and granules."""

from __future__ import annotations

from dataclasses import dataclass

#: Pairs of a vocabulary state and its weight.
Weighted = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class GranuleRecipe:
    """One kind of granule.

    Attributes
    ----------
    colour : str
        A field of `Stain`.
    radius_um, spacing_um : float
        Radius, and distance between granules.
    strength : tuple of float
        Range of the optical density, relative to the stain.
    patchy : float
        Threshold of the noise above which granules lie: -9 everywhere, 0 in half of the places.
    over_nucleus : float
        Strength over the nucleus, 0..1.
    solid : bool
        Whether granules hide what lies below.
    """

    colour: str
    radius_um: float
    spacing_um: float
    strength: tuple[float, float]
    patchy: float = -9.0
    over_nucleus: float = 0.0
    solid: bool = False


@dataclass(frozen=True)
class CellRecipe:
    """Appearance of one class.

    Attributes
    ----------
    diameter_um, diameter_sd : float
        Mean and standard deviation of the diameter.
    fraction, fraction_sd : float
        Mean and standard deviation of nucleus area / cell area.
    shapes, colours : tuple
        Weights of nucleus shapes and cytoplasm colours.
    granularity : str
        A vocabulary state.
    nucleus, cytoplasm : float
        Strength of the stain.
    clump_um, clump, gaps : float
        Size and contrast of chromatin clumps, and of the pale gaps between them.
    light_blueness : float
        Tint of a light cytoplasm: 0 pink, 1 light blue.
    mottle : float
        Contrast of the cytoplasm's texture.
    basophilia : float
        Strength of the deeper border and the pale zone at the nucleus.
    uneven, rough_um : float
        Irregularity of the outline, coarse (relative) and fine.
    vacuoles, nucleoli : float
        Mean number.
    haemoglobin : float
        Largest share of a red cell's colour.
    """

    diameter_um: float
    diameter_sd: float
    fraction: float
    fraction_sd: float
    shapes: Weighted
    colours: Weighted
    granularity: str
    nucleus: float
    clump_um: float
    clump: float
    gaps: float = 0.2
    granules: tuple[GranuleRecipe, ...] = ()
    light_blueness: float = 0.15
    mottle: float = 0.08
    basophilia: float = 0.0
    uneven: float = 0.055
    rough_um: float = 0.05
    vacuoles: float = 0.0
    nucleoli: float = 0.0
    haemoglobin: float = 0.0
    cytoplasm: float = 1.0


_FINE = (
    GranuleRecipe("fine", 0.16, 0.42, (0.1, 0.8), -0.4),
    GranuleRecipe("azurophil", 0.15, 0.9, (0.1, 0.6), 0.7),
)
_LIGHT = (("light_blue", 1.0),)

RECIPES: dict[str, CellRecipe] = {
    "blast": CellRecipe(
        15.8, 1.7, 0.76, 0.06, (("round", 0.72), ("indented", 0.18), ("irregular", 0.10)),
        (("blue", 0.85), ("purple_blue", 0.15)),
        "agranular", 0.84, 0.55, 0.13, 0.2, basophilia=0.6, nucleoli=2.0, uneven=0.08, vacuoles=0.2,
    ),
    "promyelocyte": CellRecipe(
        16.4, 1.8, 0.57, 0.07, (("round", 0.88), ("indented", 0.12)), (("blue", 0.45), ("purple_blue", 0.55)),
        "fine", 0.86, 0.6, 0.15, 0.25, (GranuleRecipe("azurophil", 0.24, 0.62, (0.35, 1.0), -0.9, 0.22),),
        basophilia=0.35, nucleoli=1.0, cytoplasm=0.75,
    ),
    "myelocyte": CellRecipe(
        14.6, 1.5, 0.48, 0.06, (("round", 0.9), ("indented", 0.1)), (("light_blue", 0.7), ("purple_blue", 0.3)),
        "fine", 0.88, 0.65, 0.18, 0.35, (*_FINE, GranuleRecipe("azurophil", 0.20, 0.75, (0.2, 0.9), 0.2, 0.1)),
        light_blueness=0.75,
    ),
    "metamyelocyte": CellRecipe(
        14.3, 1.3, 0.42, 0.05, (("indented", 1.0),), _LIGHT, "fine", 0.92, 0.65, 0.19, 0.4,
        (*_FINE, GranuleRecipe("azurophil", 0.18, 0.8, (0.2, 0.8), 0.8)), light_blueness=0.65,
    ),
    "band_neutrophil": CellRecipe(
        14.6, 1.2, 0.35, 0.035, (("band", 1.0),), _LIGHT, "fine", 0.96, 0.7, 0.20, 0.45, _FINE, rough_um=0.06,
    ),
    "segmented_neutrophil": CellRecipe(
        14.9, 1.2, 0.32, 0.035, (("multilobed", 0.85), ("bilobed", 0.15)), _LIGHT, "fine", 0.98, 0.7, 0.20, 0.45, _FINE,
        rough_um=0.06,
    ),
    "eosinophil": CellRecipe(
        14.4, 1.1, 0.34, 0.04, (("bilobed", 0.78), ("multilobed", 0.17), ("band", 0.05)), _LIGHT,
        "coarse", 0.90, 0.7, 0.20, 0.4,
        (GranuleRecipe("eosinophil", 0.38, 0.60, (0.7, 1.1), -1.7, solid=True),), light_blueness=0.6, rough_um=0.08,
    ),
    "basophil": CellRecipe(
        13.4, 1.1, 0.46, 0.05, (("irregular", 0.45), ("bilobed", 0.3), ("multilobed", 0.25)), _LIGHT,
        "coarse", 0.66, 0.8, 0.18, 0.3,
        (GranuleRecipe("basophil", 0.40, 0.78, (0.6, 1.1), -1.3, 0.45),), light_blueness=0.3, rough_um=0.12,
    ),
    "monocyte": CellRecipe(
        16.8, 1.9, 0.50, 0.07, (("indented", 0.72), ("irregular", 0.22), ("round", 0.06)),
        (("blue", 0.45), ("purple_blue", 0.45), ("light_blue", 0.1)), "agranular", 0.80, 0.6, 0.20, 0.3,
        light_blueness=0.9, mottle=0.20, uneven=0.12, vacuoles=0.9, cytoplasm=0.78,
    ),
    "lymphocyte": CellRecipe(
        11.2, 1.1, 0.71, 0.09, (("round", 0.80), ("indented", 0.18), ("irregular", 0.02)),
        (("blue", 0.60), ("purple_blue", 0.36), ("light_blue", 0.04)), "agranular", 0.94, 0.75, 0.13, 0.15,
        basophilia=0.4, light_blueness=1.0, rough_um=0.08, mottle=0.14,
    ),
    "erythroblast": CellRecipe(
        10.8, 1.0, 0.38, 0.08, (("round", 1.0),), (("blue", 0.5), ("purple_blue", 0.5)),
        "agranular", 1.0, 0.8, 0.14, 0.1,
        mottle=0.09, uneven=0.08, haemoglobin=0.75,
    ),
}  # fmt: skip
