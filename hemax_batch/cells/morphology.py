"""What a typical cell of each class shows, and which figures are plausible for it: what a person must look at is told
by these.
"""

from __future__ import annotations

SURE_ATTRIBUTE = 0.7  # an attribute contradicts a class only when it is at least this sure
SIZE_UM = (
    5.0,
    30.0,
)  # a nucleated cell outside this is an artefact or two cells (haematology texts: 7-21 µm)

_LOBED = ("bilobed", "multilobed")

#: class -> attribute -> states that a typical cell of it does not show. From the usual descriptions (blast: round or
#: oval nucleus, no granules; eosinophil: large granules; lymphocyte: round, few or no granules …). Where WBCAtt labels a
#: class (mature white cells of the PBC), experts gave each state listed here to at most 1.5 % of its cells; a band
#: nucleus in a segmented neutrophil (41 %) is therefore not listed, nor any colour, which follows the stain.
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

#: Nucleus/cell area that is plausible for a class. Mature classes: the 1st to 99th percentile of Zheng's expert masks,
#: widened by 0.1 or more; immature ones: the usual N:C by volume (blast 4:1-6:1, promyelocyte 2:1-4:1, myelocyte
#: 1:1-2:1) as areas (volume fraction to the power 2/3), widened likewise.
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

#: Broken cells: neither size nor nucleus nor attributes of theirs are a cell's.
WITHOUT_MORPHOLOGY = ("smudge",)

ANY_NUCLEUS_FRACTION = (0.12, 0.98)  # of an unidentified cell: the widest of the above
