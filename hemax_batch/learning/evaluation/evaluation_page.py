"""The offline page `evaluation.html`: metrics, confusion, reliability and the worst mistakes.

It shows the user's own images, so it is not for publishing.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ...model.checkpoint import WeightsCard
from ...vocabulary import CLAIM, CLASS_NAMES
from ..data.examples import load_rgb
from .metrics import EvaluatedCell, flatten_report, is_fitting_half, reliability_bins

MAX_MISTAKES = 48
_SIDE_PX = 132


@dataclass(frozen=True)
class Mistake:
    """A wrong class: image as a data URI, true and predicted class, confidence.

    `asked` says whether the cell is marked for review.
    """

    picture: str
    truth: str
    said: str
    confidence: float
    file: str
    asked: bool


def write_evaluation_page(
    path: Path, card: WeightsCard, report: dict[str, Any], cells: list[EvaluatedCell]
) -> None:
    """Write the page of an evaluation."""
    environment = Environment(
        loader=PackageLoader("hemax_batch.learning.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    confusion = report["all"].get("classes", {}).get("confusion", {})
    said = [n for n in (*CLASS_NAMES, "not found") if any(n in row for row in confusion.values())]
    pairs = np.array(
        [
            (s.confidence, s.predicted in s.allowed)
            for s in cells
            if s.found and not is_fitting_half(s.path)
        ],
        float,
    )
    page = environment.get_template("evaluation.html.j2").render(
        claim=CLAIM,
        card=card,
        rows=flatten_report(report),
        confusion=confusion,
        said=said,
        bins=reliability_bins(pairs.reshape(-1, 2)),
        mistakes=_mistakes(cells, card.min_confidence),
    )
    path.write_text(page, encoding="utf-8")


def _mistakes(cells: list[EvaluatedCell], min_confidence: float) -> list[Mistake]:
    """List the wrong classes, those of highest confidence first."""
    wrong = sorted(
        (s for s in cells if s.found and s.predicted not in s.allowed),
        key=lambda s: (-s.confidence, s.path),
    )
    return [
        Mistake(
            _picture(s.path),
            " or ".join(s.allowed),
            s.predicted,
            s.confidence,
            Path(s.path).name,
            s.confidence < min_confidence or s.contradicted,
        )
        for s in wrong[:MAX_MISTAKES]
    ]


def _picture(path: str) -> str:
    """Return a thumbnail as a data URI."""
    image = Image.fromarray(load_rgb(path))
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
