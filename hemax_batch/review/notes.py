"""What a reviewer wrote besides decisions: comments on cells and on the slide, and the sign-off.

They stand in corrections.csv too: a column `comment` that the old form lacks, and rows whose action is one of ACTIONS.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from ..outputs.tables import plain_text

ACTIONS = ("comment", "slide_comment", "sign_off")  # of rows that decide on no cell
MAX_CHARS = 2000


@dataclass(frozen=True)
class Notes:
    """The notes on one slide. `signed_off`: the time of the sign-off, "" without one."""

    comments: dict[int, str] = field(default_factory=dict)  # by cell id
    slide_comment: str = ""
    signed_off: str = ""

    def record(self) -> dict[str, Any]:
        """The entries of a review's JSON record."""
        return {
            "signed_off": self.signed_off or None,
            "slide_comment": self.slide_comment,
            "comments": [
                {"cell_id": i, "comment": text} for i, text in sorted(self.comments.items())
            ],
        }


def read_notes(text: str, slide_id: str, sha256: str) -> Notes:
    """The notes on one slide's results in the text of a corrections.csv, which `read_corrections` has accepted."""
    comments: dict[int, str] = {}
    slide_comment = signed_off = ""
    for raw in csv.DictReader(io.StringIO(text, newline="")):
        row = {name: plain_text(value or "") for name, value in raw.items() if name}
        if row["slide"] != slide_id or row["result_sha256"] != sha256:
            continue
        comment = row.get("comment", "").strip()[:MAX_CHARS]
        if row["action"] == "slide_comment":
            slide_comment = comment
        elif row["action"] == "sign_off":
            signed_off = row["time"]
        elif comment and row["cell_id"].isdigit():
            comments[int(row["cell_id"])] = comment
    return Notes(comments, slide_comment, signed_off)
