"""Shuffled labels: a control on which every test of explanations must fail.

This is the data randomisation test of Adebayo et al. (2018), "Sanity checks for saliency maps".
Boxes, masks and nuclear:cytoplasmic ratios stay, so the network finds cells and nuclei as usual.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .examples import Example


def shuffle_labels(examples: list[Example], seed: int) -> list[Example]:
    """Permute classes among the cells of each source, and attributes among cells that have any.

    The two permutations differ, so a cell's attributes and class do not match either. The
    frequencies in a source stay.
    """
    out = list(examples)
    for number, source in enumerate(sorted({e.source for e in examples})):
        rng = np.random.default_rng([seed, number])
        places = [
            (i, k)
            for i, e in enumerate(examples)
            if e.source == source
            for k in range(len(e.cells))
        ]
        described = [(i, k) for i, k in places if examples[i].cells[k].attributes]
        _permute(out, examples, places, "allowed", rng)
        _permute(out, examples, described, "attributes", rng)
    return out


def _permute(
    out: list[Example],
    examples: list[Example],
    places: list[tuple[int, int]],
    name: str,
    rng: np.random.Generator,
) -> None:
    """Give each cell of `places` the field `name` of another cell."""
    for (i, k), j in zip(places, rng.permutation(len(places)), strict=True):
        other, other_k = places[j]
        cells = list(out[i].cells)
        value: Any = getattr(examples[other].cells[other_k], name)
        cells[k] = replace(cells[k], **{name: value})
        out[i] = replace(out[i], cells=tuple(cells))
