"""Settings of a run: `RunSettings` changes results, `RunOptions` changes only how they are made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .cells.cell_selection import COUNT_IN
from .cells.rules import Rules
from .errors import UsageError

#: Increased if the results of an earlier version could differ, so that they are made again.
FORMAT_VERSION = 13
ENGINES = ("torch", "openvino")
PRECISIONS = ("f32", "bf16")


@dataclass(frozen=True)
class RunSettings:
    """Everything besides the slide's content and the weights that changes a result.

    Attributes
    ----------
    mpp
        µm per level-0 pixel of all slides. None: as each slide says.
    image
        Which image of a file with several, from 1. None: the finest, largest one in colour.
    focus_plane
        Which focus plane of it, from 1. None: the sharpest.
    core_um
        Side of a region's core.
    engine
        What runs the network: "torch", or "openvino" (on the CPU), whose last bits differ.
    precision
        Arithmetic of the network on the CPU: "f32", or "bf16" (OpenVINO only).
    exhaustive
        The network sees everything and not only the screen's candidates.
    audit
        Share of the area without candidates that the network sees, to estimate what the screen
        misses.
    min_confidence
        A cell with a lower confidence is `unidentified`. None: as the weights' card says.
    target_cells
        White cells that make a differential sufficient.
    count_in
        "monolayer": white cells elsewhere are left out if it holds target_cells. "all": they count.
    wbc
        The analyser's white count (10^9/l), for the corrected count. None: not known.
    rules
        When a differential is flagged, and the reference ranges.
    max_unreadable
        Share of the scanned area that may be unreadable before a slide fails.
    sample_id
        The laboratory's name of the sample, from a manifest. "": not known.
    """

    mpp: float | None = None
    image: int | None = None
    focus_plane: int | None = None
    core_um: float = 400.0
    engine: str = "torch"
    precision: str = "f32"
    exhaustive: bool = False
    audit: float = 0.01
    min_confidence: float | None = None
    target_cells: int = 200
    count_in: str = "monolayer"
    wbc: float | None = None
    max_unreadable: float = 0.05
    rules: Rules = field(default_factory=Rules)
    sample_id: str = ""

    def __post_init__(self) -> None:
        _check_range("--mpp", self.mpp, 0.0, 100.0, open_low=True)
        _check_range("--image", self.image, 1, 10_000)
        _check_range("--focus-plane", self.focus_plane, 1, 10_000)
        _check_range("--core-um", self.core_um, 50.0, 5000.0)
        _check_range("--audit", self.audit, 0.0, 1.0)
        _check_range("--min-confidence", self.min_confidence, 0.0, 1.0)
        _check_range("--target-cells", self.target_cells, 1, 1_000_000)
        for name, value, known in (
            ("--count-in", self.count_in, COUNT_IN),
            ("--engine", self.engine, ENGINES),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"{name} {value}: must be one of {', '.join(known)}")
        if self.precision == "bf16" and self.engine != "openvino":
            raise UsageError("--precision bf16: only --engine openvino has it; use --precision f32")
        _check_range("--wbc", self.wbc, 0.0, 10_000.0, open_low=True)
        _check_range("--max-unreadable", self.max_unreadable, 0.0, 1.0)

    def result_fingerprint(self, slide_fingerprint: str, weights_sha256: str) -> str:
        """Return the SHA-256 (hex) that decides which results may be reused.

        It covers the slide's content, the weights, every setting of this class and the format.
        """
        text = json.dumps(
            [FORMAT_VERSION, slide_fingerprint, weights_sha256, asdict(self)], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class RunOptions:
    """How the results are made. None of these options changes a byte of them.

    Attributes
    ----------
    batch_size
        Patches at a time. None: 8 on the CPU, 64 on a GPU.
    workers
        Number of processes. None: as the machine allows. 0: this process alone.
    gpus
        Number of GPUs. None: all that are visible. 0: none.
    scheduler
        Address of a running dask scheduler, or None.
    max_minutes
        The run stops in good order after this time. None: no limit.
    wait_lock_s
        How long to wait for another run that holds the results folder.
    region_timeout_s
        A region that takes longer hangs. Its worker is ended and the region is tried again.
    open_timeout_s
        A slide that takes longer to open hangs. It fails until the next run.
    on_gpu_loss
        "cpu": workers that lost their GPU continue without it. "retire": they end.
    settle_s
        A slide that changed less than this long ago may still be copied. It waits for the next run.
    """

    weights: Path | None = None
    batch_size: int | None = None
    workers: int | None = None
    gpus: int | None = None
    scheduler: str | None = None
    scheduler_file: Path | None = None
    tls: TlsFiles | None = None
    overwrite: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    max_minutes: float | None = None
    wait_lock_s: float = 0.0
    region_timeout_s: float = 1800.0
    open_timeout_s: float = 300.0
    on_gpu_loss: str = "cpu"
    settle_s: float = 0.0
    quiet: bool = False
    log_json: Path | None = None
    command_line: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _check_range("--batch-size", self.batch_size, 1, 4096)
        _check_range("--workers", self.workers, 0, 4096)
        _check_range("--gpus", self.gpus, 0, 1024)
        _check_range("--max-minutes", self.max_minutes, 0.0, 1e6)
        _check_range("--wait-lock", self.wait_lock_s, 0.0, 1e7)
        _check_range("--settle", self.settle_s, 0.0, 1e7)
        _check_range("--open-timeout", self.open_timeout_s, 1.0, 1e6)
        _check_range("--region-timeout", self.region_timeout_s, 1.0, 1e6)
        if self.scheduler and self.scheduler_file:
            raise UsageError(
                f"--scheduler {self.scheduler} and --scheduler-file {self.scheduler_file}: "
                "give one of them"
            )


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for an encrypted cluster."""

    ca: Path
    cert: Path
    key: Path


def _check_range(
    name: str, value: float | None, low: float, high: float, open_low: bool = False
) -> None:
    """Raise UsageError unless `value` is None or lies in low..high (`open_low`: above low)."""
    if value is None:
        return
    if not low <= value <= high or (open_low and value == low):
        bound = "above" if open_low else "at least"
        raise UsageError(f"{name} {value:g}: must be {bound} {low:g} and at most {high:g}")
