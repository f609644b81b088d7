"""Vectors for the report's order "similarity": cells that look alike have close vectors."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ..vocabulary import ATTRIBUTES
from .load_results import LoadedCell

_ONE = 60  # what a certain attribute, or two standard deviations of a measure, is as a signed byte


def similarity_vectors(cells: list[LoadedCell]) -> dict[str, Any]:
    """The vectors of the cells in their order: {"dimensions": D, "data": int8 [N, D] in base64}.

    A vector holds each attribute's likeliest state, weighted by its probability, and the standardised measures.
    A missing measure counts as the mean.
    """
    measures = np.array(
        [[_nan(c.diameter_um), _nan(c.nc_ratio), _nan(c.nucleus_fraction)] for c in cells], float
    ).reshape(len(cells), 3)
    vectors = np.hstack([_attributes(cells), _standardised(measures) / 2])
    as_bytes = np.clip(np.rint(vectors * _ONE), -127, 127).astype(np.int8)
    return {
        "dimensions": as_bytes.shape[1],
        "data": base64.b64encode(as_bytes.tobytes()).decode(),
    }


def _attributes(cells: list[LoadedCell]) -> np.ndarray:
    """Return float [N, states of all attributes]: the probability of the likeliest state in its place."""
    columns = []
    for i, attribute in enumerate(ATTRIBUTES):
        column = np.zeros((len(cells), len(attribute.states)))
        for row, cell in enumerate(cells):
            state, probability = cell.states[i]
            column[row, state] = probability
        columns.append(column)
    return np.hstack(columns)


def _standardised(measures: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and standard deviation 1; NaN becomes 0."""
    known = ~np.isnan(measures)
    numbers = np.maximum(known.sum(0), 1)
    mean = np.where(known, measures, 0).sum(0) / numbers
    off = np.where(known, measures - mean, 0)
    deviation = np.sqrt((off**2).sum(0) / numbers)
    return off / np.where(deviation > 0, deviation, 1)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
