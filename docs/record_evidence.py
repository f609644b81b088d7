r"""Keep a command's JSON as evidence: `python docs/record_evidence.py NAME REPORT.json "COMMAND"`.

Writes docs/evidence/NAME.json with the command, this machine and the hash of the weights that ship.
Then run docs/fill_figures.py.

    hemax-batch faithfulness DATA --limit 120 --out report
    python docs/record_evidence.py faithfulness report/faithfulness.json \\
        "hemax-batch faithfulness DATA --limit 120"
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from hemax_batch.model.checkpoint import read_card


def main(name: str, report: str, command: str) -> None:
    """Write the evidence."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    record = {
        "command": command,
        "hardware": gpu or f"{len(os.sched_getaffinity(0))} CPU cores",
        "weights_sha256": read_card().sha256,
        "source": "",
        "note": "",
        "figures": json.loads(Path(report).read_text("utf-8")),
    }
    path = Path(__file__).parent / "evidence" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
