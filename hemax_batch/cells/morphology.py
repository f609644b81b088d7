"""Typical morphology of each class: plausible sizes and nuclei, and contradicting attributes.

A cell outside these limits is marked for review.
"""

from __future__ import annotations

#: Least probability at which an attribute can contradict a class.
SURE_ATTRIBUTE = 0.7
#: Diameters outside this range are artefacts or two cells. Haematology texts give 7-21 µm.
SIZE_UM = (5.0, 30.0)

_LOBED = ("bilobed", "multilobed")

#: States that a typical cell of a class does not show, by class and attribute. The source is the
#: usual descriptions (blast: round or oval nucleus, no granules; eosinophil: large granules;
#: lymphocyte: round nucleus, few or no granules). WBCAtt labels the mature classes of the PBC data
#: set. There experts gave each listed state to at most 1.5 % of the class's cells. A band nucleus
#: in a segmented neutrophil (41 %) is therefore not listed. Colours are not listed, because they
#: depend on the stain.
CONTRADICTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "blast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "promyelocyte": {"granularity": ("agranular",), "nucleus_shape": ("band", *_LOBED)},
    "myelocyte": {"nucleus_shape": ("band", *_LOBED)},
    "metamyelocyte": {"nucleus_shape": ("round", "multilobed")},
    "band_neutrophil": {
        "granularity": ("agranular", "coarse"),
        "nucleus_shape": ("round", "multilobed"),
    },
    "segmented_neutrophil": {
        "granularity": ("agranular", "coarse"),
        "nucleus_shape": ("round", "indented"),
    },
    "eosinophil": {"granularity": ("agranular", "fine"), "nucleus_shape": ("round",)},
    "basophil": {"granularity": ("agranular", "fine")},
    "monocyte": {"granularity": ("coarse",), "nucleus_shape": ("multilobed",)},
    "lymphocyte": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "variant_lymphocyte": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "plasma_cell": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
    "erythroblast": {"granularity": ("coarse",), "nucleus_shape": ("band", *_LOBED)},
}

#: Plausible nucleus/cell area by class. Mature classes: the 1st to 99th percentile of Zheng's
#: expert masks, widened by at least 0.1. Immature classes: the usual N:C by volume (blast 4:1-6:1,
#: promyelocyte 2:1-4:1, myelocyte 1:1-2:1) as areas (volume fraction to the power 2/3), widened
#: in the same way.
NUCLEUS_FRACTION: dict[str, tuple[float, float]] = {
    "blast": (0.40, 0.98),
    "promyelocyte": (0.35, 0.95),
    "myelocyte": (0.30, 0.90),
    "metamyelocyte": (0.20, 0.85),
    "band_neutrophil": (0.15, 0.75),
    "segmented_neutrophil": (0.15, 0.70),
    "eosinophil": (0.12, 0.70),
    "basophil": (0.15, 0.85),
    "monocyte": (0.18, 0.80),
    "lymphocyte": (0.25, 0.95),
    "variant_lymphocyte": (0.20, 0.95),
    "plasma_cell": (0.15, 0.85),
    "erythroblast": (0.15, 0.90),
}

#: Broken cells. Their size, nucleus and attributes are not those of a cell.
WITHOUT_MORPHOLOGY = ("smudge",)

#: Plausible nucleus/cell area of an unidentified cell: the widest of the ranges above.
ANY_NUCLEUS_FRACTION = (0.12, 0.98)
