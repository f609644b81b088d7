"""What the pages of the laboratory share: templates, one style sheet inside the page, numbers as
text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..vocabulary import CLAIM
from .statistics import Estimate

TEMPLATES = Path(__file__).parent / "templates"
_MINUS = "\u2212"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals and a true minus sign; a dash where there is none.

    Examples
    --------
    >>> number(-1.234), number(None), number(-0.001)
    ('−1.23', '–', '0.00')
    """
    if value is None or not math.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", _MINUS)


def interval(estimate: Estimate, digits: int = 2) -> str:
    """The limits of an interval in brackets; "" where there are none.

    Examples
    --------
    >>> interval(Estimate(1.0, 0.5, 1.25))
    '(0.50 to 1.25)'
    """
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"({number(estimate.low, digits)} to {number(estimate.high, digits)})"


def render(template: str, **values: Any) -> bytes:
    """A page that needs no network and no script, as UTF-8. Its policy allows its own style and
    nothing else.

    Text that is no valid Unicode, as file names may be, is shown escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval)
    style = (TEMPLATES / "laboratory.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template(template).render(
        claim=CLAIM, style=Markup(style), style_hash=f"'sha256-{digest}'", **values
    )
    return page.encode("utf-8", "backslashreplace")
