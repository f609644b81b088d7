"""A control: a network taught labels that say nothing of the cells, on which every test of explanations must fail.

(Adebayo et al. 2018, "Sanity checks for saliency maps", the data randomisation test.) Boxes, masks, and the N:C
that masks are held to stay, so that it finds cells and nuclei as well as any other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .examples import Example


def shuffle_labels(examples: list[Example], seed: int) -> list[Example]:
    """The examples with classes dealt out anew among the cells of each source, and attributes among those that have
    any.

    By two orders, so that attributes and class of a cell do not belong together either. How often each occurs in a
    source stays as it was.
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
    out: list[Example], examples: list[Example], places, name: str, rng: np.random.Generator
) -> None:
    """Give each cell of `places` the field `name` of another."""
    for (i, k), j in zip(places, rng.permutation(len(places)), strict=True):
        other, other_k = places[j]
        cells = list(out[i].cells)
        cells[k] = replace(cells[k], **{name: getattr(examples[other].cells[other_k], name)})
        out[i] = replace(out[i], cells=tuple(cells))
