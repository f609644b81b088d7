"""Made-up cells for the tests: discs with a nucleus, at given places."""

import numpy as np

from hemax_batch import vocabulary
from hemax_batch.mask_packing import pack_mask
from hemax_batch.records import Cells


def disc(diameter: int, nucleus: float = 0.6) -> np.ndarray:
    """uint8 [d, d]: a round cell with a round nucleus of `nucleus` of its diameter."""
    y, x = np.mgrid[:diameter, :diameter] + 0.5 - diameter / 2
    r = np.hypot(x, y)
    return (r <= diameter / 2).astype(np.uint8) + (r <= nucleus * diameter / 2)


def cells_at(
    places,
    diameters=40,
    classes="lymphocyte",
    confidence=0.9,
    off_centre=0.0,
    region=0,
    states=None,
) -> Cells:
    """Discs with their top-left corners at `places` [(x, y), …]; the other arguments are one value or one a cell.

    states: per cell {attribute: state} with probability 0.95; round, agranular, blue and small otherwise.
    """
    n = len(places)
    diameters, classes, confidence, off_centre = (
        [v] * n if np.isscalar(v) or isinstance(v, str) else list(v)
        for v in (diameters, classes, confidence, off_centre)
    )
    states = [states] * n if states is None or isinstance(states, dict) else states
    probs = np.zeros((n, vocabulary.N_CLASSES), np.float32)
    attributes = np.zeros((n, vocabulary.N_ATTRIBUTE_STATES), np.float32)
    plain = {
        "granularity": "agranular",
        "cytoplasm_colour": "blue",
        "nucleus_shape": "round",
        "size_vs_rbc": "small",
    }
    for i in range(n):
        k = vocabulary.CLASS_NAMES.index(classes[i])
        probs[i] = (1 - confidence[i]) / (vocabulary.N_CLASSES - 1)
        probs[i, k] = confidence[i]
        for a in vocabulary.ATTRIBUTES:
            part = vocabulary.attribute_slices()[a.name]
            attributes[i, part] = 0.05 / (len(a.states) - 1)
            attributes[i, part.start + a.states.index(({**plain, **(states[i] or {})})[a.name])] = (
                0.95
            )
    xy = np.array(places, np.int32).reshape(n, 2)
    d = np.array(diameters, np.int32).reshape(n)
    return Cells(
        np.concatenate([xy, xy + d[:, None]], 1).astype(np.float32),
        np.full(n, 0.9, np.float32),
        probs,
        attributes,
        xy,
        np.stack([d, d], 1).astype(np.int32),
        tuple(pack_mask(disc(int(v))) for v in d),
        np.array(off_centre, np.float32).reshape(n),
        np.full(n, region, np.int32),
        (b"",) * n,
    )
