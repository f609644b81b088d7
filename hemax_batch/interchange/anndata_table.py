"""Write `cells.h5ad`: the cells as AnnData, for scanpy, squidpy and SpatialData.

X           float32 [N, 6]: the measured figures (NaN where there is none), named in var
obs         cell_id, region, class, confidence, the attributes, zone, left_out, in_differential, review and its reasons, the explanation
obsm        spatial, float64 [N, 2]: the middle of the box in level-0 pixels; class_probabilities, float32 [N, K]
uns         slide, mpp, classes, claim, spatialdata_attrs
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from ..outputs.tables import read_table
from ..review.load_results import load_record
from ..vocabulary import ATTRIBUTE_NAMES, ATTRIBUTES, CLAIM, CLASS_NAMES, UNIDENTIFIED

FIGURES = (
    "diameter_um",
    "diameter_vs_rbc",
    "nucleus_area_um2",
    "cell_area_um2",
    "nc_ratio",
    "nucleus_fraction",
)
_REGION = "cells"  # the name of the labels or shapes in SpatialData that the rows describe
_CATEGORIES = ("class", *ATTRIBUTE_NAMES, "zone", "left_out")


def write(path: Path, folder: Path) -> None:
    """Write the table of the slide's results in `folder`. Unreadable results raise ResultsError."""
    # With pandas 3, AnnData makes categories of repeated texts. Categories of Arrow strings cannot be written.
    with pd.option_context("future.infer_string", False):
        _write(path, folder)


def _write(path: Path, folder: Path) -> None:
    record, rows = load_record(folder), list(read_table(folder / "cells.csv"))
    obs = {
        name: pd.Categorical(_texts(rows, name), categories=_plain(_states(rows, name)))
        for name in _CATEGORIES
    }
    obs |= {
        name: _figures(rows, name)
        for name in ("confidence", *(f"{a}_confidence" for a in ATTRIBUTE_NAMES))
    }
    obs |= {name: _texts(rows, name) == "true" for name in ("in_differential", "review")}
    obs |= {
        name: pd.Series(_texts(rows, name), _plain(_texts(rows, "cell_id")), object)
        for name in ("review_reasons", "explanation")
    }
    obs["cell_id"] = _figures(rows, "cell_id").astype(np.int64)
    obs["region"] = pd.Categorical([_REGION] * len(rows), categories=_plain([_REGION]))
    x0, y0, x1, y1 = (_figures(rows, name) for name in ("x0", "y0", "x1", "y1"))
    anndata.AnnData(
        X=_matrix(rows, FIGURES),
        obs=pd.DataFrame(obs, _plain(_texts(rows, "cell_id"))),
        var=pd.DataFrame(index=_plain(FIGURES)),
        obsm={
            "spatial": np.stack([(x0 + x1) / 2, (y0 + y1) / 2], 1),
            "class_probabilities": _matrix(rows, [f"p_{name}" for name in CLASS_NAMES]),
        },
        uns={
            "slide": record.slide_id,
            "mpp": record.mpp,
            "classes": np.array(CLASS_NAMES, object),
            "claim": CLAIM,
            "spatialdata_attrs": {
                "region": _REGION,
                "region_key": "region",
                "instance_key": "cell_id",
            },
        },
    ).write_h5ad(path, compression="gzip")


def _texts(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], object)


def _figures(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name] or "nan") for row in rows], float)


def _matrix(rows: list[dict[str, str]], names: Iterable[str]) -> np.ndarray:
    return np.stack([_figures(rows, name) for name in names], 1).astype(np.float32)


def _states(rows: list[dict[str, str]], name: str) -> list[str]:
    """Return all values of a category. They are fixed for classes and attributes, so that slides can be joined."""
    fixed = {"class": [*CLASS_NAMES, UNIDENTIFIED], **{a.name: list(a.states) for a in ATTRIBUTES}}
    return fixed.get(name) or sorted(set(_texts(rows, name)))


def _plain(texts: Iterable[str]) -> pd.Index:
    """Return an index of Python strings. h5ad stores these with every version of pandas."""
    return pd.Index(np.array(list(texts), object), dtype=object)
