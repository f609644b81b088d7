"""GPU utilisation while code runs, sampled from the driver in a thread."""

from __future__ import annotations

import shutil
import subprocess
import threading
from statistics import fmean

_EVERY_S = 0.05


class GpuUtilisation:
    """Context manager that measures the current GPU's mean utilisation.

    `percent` is set on exit; it is None if nothing can be measured. The source is
    torch.cuda.utilization (which needs nvidia-ml-py), else nvidia-smi. The driver averages over a
    window of up to a second, so much shorter measurements are blurred.
    """

    percent: float | None = None

    def __enter__(self) -> GpuUtilisation:
        """Start sampling."""
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_utilisation, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop sampling and set `percent`."""
        self._ended.set()
        self._thread.join()
        self.percent = round(fmean(self._samples), 1) if self._samples else None

    def _sample_utilisation(self) -> None:
        """Sample with the first source that works."""
        for query in (_torch_utilisation, nvidia_smi_utilisation):
            while not self._ended.is_set() and (busy := query()) is not None:
                self._samples.append(busy)
                self._ended.wait(_EVERY_S)


def _torch_utilisation() -> float | None:
    """Return torch's utilisation; None if it cannot be measured."""
    import torch

    try:
        return float(torch.cuda.utilization()) if torch.cuda.is_available() else None
    # NVML's binding may be missing or raise errors of its own. nvidia-smi is tried next.
    except Exception:
        return None


def nvidia_smi_utilisation() -> float | None:
    """Return the mean utilisation of all listed GPUs in per cent; None without any."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return fmean(map(float, words)) if words and all(word.isdigit() for word in words) else None
