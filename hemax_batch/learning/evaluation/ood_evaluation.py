"""Out-of-distribution detector: fitted on one half of the held-out images, measured on the other.

The reference cells are held-out ones, because training cells lie closer than any new cell. Measured
are the share of reference cells flagged, by source, and the share flagged of unusual images:
corrupted reference cells (`CORRUPTIONS`), and any images given as out of distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from ...model.out_of_distribution import OodDetector
from ...model.predictor import PLATELET, Predictor
from ...records import Cells, PatchBatch
from ..data.centred_patches import centred_patch
from ..data.examples import Example
from .metrics import bootstrap_interval, is_fitting_half
from .probe_cells import central_cell

#: Share of reference cells below the limit.
KNOWN_QUANTILE = 0.99
#: Least reference cells.
MIN_CELLS = 60
#: The limit is fitted to cells of folds that the Gaussian was not fitted to.
FOLDS = 5
#: Largest number of measured cells.
CORRUPTED_CELLS, KNOWN_CELLS = 60, 300

Change = Callable[[np.ndarray, float], np.ndarray]

#: Changes of a patch uint8 [3, S, S] at some µm/px.
CORRUPTIONS: dict[str, Change] = {
    "out of focus (0.8 µm)": lambda p, mpp: ndimage.gaussian_filter(p, (0, 0.8 / mpp, 0.8 / mpp)),
    "colours inverted": lambda p, mpp: 255 - p,
    "red and blue exchanged": lambda p, mpp: p[::-1],
    "without colour": lambda p, mpp: np.repeat(p.mean(0, keepdims=True), 3, 0).astype(np.uint8),
    "noise (σ 40)": lambda p, mpp: np.clip(
        p + np.random.default_rng(0).normal(0, 40, p.shape), 0, 255
    ).astype(np.uint8),
}


@dataclass
class _FeatureRecorder:
    """A stand-in for `OodDetector` that records features; its scores are their row numbers."""

    rows: list[np.ndarray] = field(default_factory=list)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Record features [N, D] and return their rows."""
        self.rows += list(features)
        return np.arange(len(self.rows) - len(features), len(self.rows), dtype=np.float32)


def fit_ood_detector(predictor: Predictor, examples: list[Example]) -> OodDetector | None:
    """Fit a detector to the labelled cells of the fitting half; None if they are too few.

    It is a Gaussian of their features with Ledoit and Wolf's covariance. The limit is the
    KNOWN_QUANTILE quantile of distances from Gaussians of the other folds.
    """
    previous, recorder = predictor.ood_detector, _FeatureRecorder()
    predictor.ood_detector = recorder
    try:
        rows = [
            int(c.ood_score[0])
            for c in _cells(predictor, [e for e in examples if is_fitting_half(e.path)])
        ]
    finally:
        predictor.ood_detector = previous
    if len(rows) < MIN_CELLS:
        return None
    features = np.stack(recorder.rows)[rows].astype(float)
    fold = np.arange(len(features)) % FOLDS
    held_out_scores = np.concatenate(
        [_gaussian(features[fold != k]).score(features[fold == k]) for k in range(FOLDS)]
    )
    whole = _gaussian(features)
    return OodDetector(
        whole.centre, whole.whitening / np.float32(np.quantile(held_out_scores, KNOWN_QUANTILE))
    )


def _gaussian(features: np.ndarray) -> OodDetector:
    """Fit the Mahalanobis distance from `features` [N, D], with a limit of 1 in its own units."""
    from sklearn.covariance import LedoitWolf

    centre, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
    precision = LedoitWolf(assume_centered=True).fit((features - centre) / spread).precision_
    whitening = np.linalg.cholesky(precision) / spread[:, None]
    return OodDetector(centre.astype(np.float32), whitening.astype(np.float32))


def measure_ood(
    predictor: Predictor, examples: list[Example], ood_examples: Sequence[Example] = ()
) -> dict[str, Any]:
    """Measure the shares of flagged cells: reference, corrupted, and all cells of `ood_examples`.

    Each share is also given for cells that are flagged or unidentified, which a person reviews. The
    result is {} without a detector.
    """
    if predictor.ood_detector is None:
        return {}
    measured = [e for e in examples if not is_fitting_half(e.path)]
    ood_detector, corrupted = (_evenly_spaced(measured, n) for n in (KNOWN_CELLS, CORRUPTED_CELLS))
    found = {
        source: list(_cells(predictor, [e for e in ood_detector if e.source == source]))
        for source in _sources(ood_detector)
    }
    out = {
        "known cells flagged": _flagged_by_source(
            predictor, [c for of in found.values() for c in of], found
        )
    }
    ood_cells = {
        name: list(_cells(predictor, corrupted, change)) for name, change in CORRUPTIONS.items()
    }
    ood_cells |= {
        f"{source} (given as strange)": list(
            _cells(predictor, [e for e in ood_examples if e.source == source], whole=True)
        )
        for source in _sources(ood_examples)
    }
    out["strange cells flagged"] = {
        name: _flagged_share(of) for name, of in ood_cells.items() if of
    }
    out["strange cells flagged or unidentified"] = {
        name: _needs_review_share(predictor, of) for name, of in ood_cells.items() if of
    }
    return out


def _flagged_by_source(
    predictor: Predictor, cells: list[Cells], by_source: dict[str, list[Cells]]
) -> dict[str, Any]:
    """Return the flagged share of all cells and of each source."""
    if not cells:
        return {}
    every = {
        "all": _flagged_share(cells),
        "all, or unidentified": _needs_review_share(predictor, cells),
    }
    return every | {source: _flagged_share(of) for source, of in by_source.items() if of}


def _flagged_share(cells: list[Cells]) -> dict[str, float]:
    """Return the share of flagged cells."""
    return bootstrap_interval(np.array([float(c.ood_score[0] > 1) for c in cells]))


def _needs_review_share(predictor: Predictor, cells: list[Cells]) -> dict[str, float]:
    """Return the share of cells that are flagged or unidentified."""
    limit = predictor.card.min_confidence
    return bootstrap_interval(
        np.array([float(c.ood_score[0] > 1 or c.class_probs.max() < limit) for c in cells])
    )


def _sources(examples: Iterable[Example]) -> list[str]:
    """List the sources."""
    return list(dict.fromkeys(e.source for e in examples))


def _evenly_spaced(examples: list[Example], count: int) -> list[Example]:
    """Return at most `count` examples, evenly over their order."""
    return (
        [examples[i] for i in np.unique(np.linspace(0, len(examples) - 1, count).astype(int))]
        if examples
        else []
    )


def _cells(
    predictor: Predictor, examples: list[Example], change: Change | None = None, whole: bool = False
) -> Iterable[Cells]:
    """Yield each labelled cell as the tool predicts it, without platelets and cells not found.

    With `whole`, all cells found in unlabelled images are yielded.
    """
    size, mpp = predictor.card.patch_px, predictor.card.mpp
    for example in examples:
        labels = [k for k, c in enumerate(example.cells) if c.allowed != ("platelet",)]
        for k in labels or ([0] if whole and not example.cells else []):
            pixels = centred_patch(example, mpp, size, k)[0]
            pixels = pixels if change is None else np.ascontiguousarray(change(pixels, mpp))
            cells = predictor(
                PatchBatch(pixels[None], np.zeros((1, 2)), 1.0), mpp, (size, size)
            ).cells
            middle = central_cell(cells, size, mpp) if labels else None
            for j in [middle] if middle is not None else range(len(cells) if not labels else 0):
                if int(cells.class_probs[j].argmax()) != PLATELET:
                    yield cells.take([j])
