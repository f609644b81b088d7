"""The log of a training (log.csv), and its learning curves in an SVG."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

#: Rows of the log in the running mean.
SMOOTHED = 5
_NOT_LOSSES = ("step", "seconds", "lr", "loss", "check", "best_step")


def draw_curves(log: Path, out: Path) -> bool:
    """Draw loss and learning rate above the parts of the loss.

    Returns
    -------
    bool
        False if the log has fewer than two rows, or matplotlib is missing (`hemax-batch[train]`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    columns = read_log(log)
    if len(columns.get("step", ())) < 2:
        return False
    parts = [name for name in columns if name not in _NOT_LOSSES]
    figure = Figure(figsize=(9, 8), layout="constrained")
    whole, below = figure.subplots(2, 1, sharex=True)
    whole.plot(columns["step"], columns["loss"], color="#BBBBBB", linewidth=0.8)
    whole.plot(columns["step"], smooth(columns["loss"]), color="#332288", label="loss")
    whole.set_ylabel("loss")
    rate = whole.twinx()
    rate.plot(columns["step"], columns["lr"], color="#EE8866", linewidth=1)
    rate.set_ylabel("learning rate", color="#EE8866")
    for name in parts:
        below.plot(columns["step"], smooth(columns[name]), label=name, linewidth=1)
    below.set_yscale("log")
    below.set_xlabel("step")
    below.set_ylabel(f"parts of the loss (mean of {SMOOTHED} rows)")
    below.legend(ncols=3, fontsize="small")
    figure.savefig(out, format="svg", metadata={"Date": None})
    return True


def append_log_row(log: Path, row: Mapping[str, float]) -> None:
    """Append a row to the log; the first row brings the header."""
    new = not log.exists()
    with open(log, "a", newline="") as f:
        writer = csv.DictWriter(f, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_log(log: Path) -> dict[str, list[float]]:
    """Read the log's columns; if a resumed training logged a step twice, the later row counts."""
    if not log.exists():
        return {}
    with open(log, newline="") as f:
        rows = {int(row["step"]): row for row in csv.DictReader(f)}
    names = next(iter(rows.values()), {})
    return {name: [float(rows[step][name]) for step in sorted(rows)] for name in names}


def smooth(values: list[float]) -> list[float]:
    """Average each value with up to SMOOTHED - 1 values before it."""
    starts = [max(0, i + 1 - SMOOTHED) for i in range(len(values))]
    return [sum(values[a : i + 1]) / (i + 1 - a) for i, a in enumerate(starts)]
