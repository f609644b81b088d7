"""How busy a GPU is while something runs, asked of its driver from a thread; None where nothing can be asked."""

from __future__ import annotations

import shutil
import subprocess
import threading
from statistics import fmean

_EVERY_S = 0.05


class GpuUtilisation:
    """A context whose `percent` is, after it, the mean utilisation of the current GPU.

    By torch.cuda.utilization (which needs nvidia-ml-py), else nvidia-smi. The driver averages over its own window of
    up to a second, so figures much shorter than that are blurred.
    """

    percent: float | None = None

    def __enter__(self) -> GpuUtilisation:
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_utilisation, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self._ended.set()
        self._thread.join()
        self.percent = round(fmean(self._samples), 1) if self._samples else None

    def _sample_utilisation(self) -> None:
        for query in (_torch_utilisation, nvidia_smi_utilisation):
            while not self._ended.is_set() and (busy := query()) is not None:
                self._samples.append(busy)
                self._ended.wait(_EVERY_S)


def _torch_utilisation() -> float | None:
    import torch

    try:
        return float(torch.cuda.utilization()) if torch.cuda.is_available() else None
    except (
        Exception
    ):  # whatever NVML's binding raises, or its absence: there is another way, or none
        return None


def nvidia_smi_utilisation() -> float | None:
    """Mean utilisation of the GPUs that the driver lists, in per cent; None without any."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return fmean(map(float, words)) if words and all(word.isdigit() for word in words) else None
