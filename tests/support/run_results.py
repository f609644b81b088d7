"""What tests look at in the results folder of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a slide's results."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def states(out: Path) -> dict[str, str]:
    return {s["slide"]: s["state"] for s in json.loads((out / "run.json").read_text())["slides"]}


def reason(out: Path, slide_id: str) -> str:
    return next(
        s["reason"]
        for s in json.loads((out / "run.json").read_text())["slides"]
        if s["slide"] == slide_id
    )


def left_behind(out: Path) -> list[str]:
    """What lies in the state folder besides the lock and the ids: unfinished work."""
    names = (str(p.relative_to(out / ".hemax")) for p in (out / ".hemax").rglob("*") if p.is_file())
    return sorted(n for n in names if not n.startswith("lock.") and n != "ids.json")
