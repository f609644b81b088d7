"""Hold what `verify` and `monitor` found against what the simulated laboratory knows.

    python compare_with_truth.py truth.json verification.json monitor.json

Exit code 1 where they do not fit: fewer than nine tenths of the 95 % intervals hold the true bias,
or the drift is not found within two nights of its beginning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

LEAST_HELD = 0.9
MOST_NIGHTS_OFF = 2


def biases(truth: dict[str, Any], record: dict[str, Any]) -> Iterator[tuple[str, float, Any]]:
    """Name, true and estimated bias of each class that the simulated blood holds."""
    for key, classes, who in (
        ("bias", record["classes"], "tool"),
        ("examiners", record["between_examiners"], "second examiner"),
    ):
        for name, true in truth["study"][key].items():
            if name in classes and classes[name]["mean_x"] > 0.05:
                yield f"{who}, {name.replace('_', ' ')}", true, classes[name]["bias"]


def check_biases(truth: dict[str, Any], record: dict[str, Any]) -> bool:
    """Print each bias; whether nearly all intervals hold the truth."""
    held = []
    print(f"{'bias, percentage points':44}{'true':>8}{'found':>8}   95 % interval")
    for name, true, found in biases(truth, record):
        held.append(found["low95"] <= true <= found["high95"])
        limits = f"{found['low95']:6.2f} to {found['high95']:.2f}{'' if held[-1] else '   outside'}"
        print(f"{name:44}{true:8.2f}{found['value']:8.2f}   {limits}")
    print(f"{sum(held)} of {len(held)} intervals hold the truth")
    return bool(sum(held) >= LEAST_HELD * len(held))


def check_drift(truth: dict[str, Any], record: dict[str, Any]) -> bool:
    """Print the drift; whether it is found on its scanner, at its time."""
    drift = truth["nights"]["drift"]
    begun = date.fromisoformat(drift["from"])
    for chart in record["charts"]:
        if (chart["measure"], chart["scanner"]) != (drift["measure"], drift["scanner"]):
            continue
        print(f"drift from {begun} on; {chart['words']}: {chart['state']} since {chart['since']}")
        if not chart["since"]:
            return False
        if abs((date.fromisoformat(chart["since"]) - begun).days) > MOST_NIGHTS_OFF:
            return False
    return True


def main() -> None:
    """The command line."""
    truth, verification, monitor = (
        json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:4]
    )
    fits = [check_biases(truth, verification), check_drift(truth, monitor)]
    sys.exit(0 if all(fits) else 1)


if __name__ == "__main__":
    main()
