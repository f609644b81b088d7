"""Configuration of a run's inference, and one region as a task: small, picklable, complete."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Region, Slide, StainProfile


@dataclass(frozen=True)
class InferenceConfig:
    """How every region of a run is processed.

    Attributes
    ----------
    batch_size
        Patches at a time. None: as suits the device.
    device
        "cpu", "cuda" or "auto" (a GPU if this process has one).
    timeout_s
        A region that takes longer ends its worker process, which is restarted. 0: no limit.
    engine, precision
        As in RunSettings.
    """

    weights: str | None
    weights_sha256: str
    exhaustive: bool = False
    audit: float = 0.0
    batch_size: int | None = None
    device: str = "auto"
    timeout_s: float = 0.0
    engine: str = "torch"
    precision: str = "f32"


@dataclass(frozen=True)
class RegionTask:
    """One region with all that a worker needs to process it."""

    slide: Slide
    stain: StainProfile
    region: Region
    config: InferenceConfig
