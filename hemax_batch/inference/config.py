"""How a run looks at regions, and one region as a task: small, picklable, complete."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Region, Slide, StainProfile


@dataclass(frozen=True)
class InferenceConfig:
    """How every region of a run is looked at. `device`: "cpu", "cuda" or "auto" (a GPU where this process sees one).

    batch_size: patches at a time; None: as suits the device. engine, precision: as RunSettings.
    timeout_s: a region that takes longer ends its worker process, which is started anew; 0: no limit.
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
    """One task: small, picklable, complete."""

    slide: Slide
    stain: StainProfile
    region: Region
    config: InferenceConfig
