"""How a training is done: all that decides the weights, besides the data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...model.checkpoint import read_card


def short_hash(*what) -> str:
    """12 hex digits of recipes, examples, sources: another of any, or another order, is another training."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data. Lengths in optimiser steps, sizes in pixels."""

    arch: str = "hemax-s"
    steps: int = 1900
    first_stage: float = 0.2  # share of the steps before pseudo-masks
    batch: int = 16  # patches a step, over all processes
    lr: float = 5e-4
    backbone_lr: float = 2.5e-4
    weight_decay: float = 1e-4
    clip: float = 3.0
    warmup: int = 100
    freeze_norm: float = 0.5  # share of the steps after which batch norm keeps its statistics
    ema: float = 0.997
    seed: int = 0
    mpp: float = 0.12
    canvas_px: int = (
        224  # a cell with its surroundings; the tool's own patches are as large as the large canvas
    )
    large_canvas_px: int = 320
    large_share: float = 0.2
    hard: float = 1.0  # how many times as often the stages of maturation are drawn
    stain: float = (
        1.5  # how far from their own stains patches are stained (`augmentation.draw_photometry`) …
    )
    as_stained: float = 0.0  # … but for this share, which keep their own stain and light
    synthetic: int = 800  # synthetic fields (hemax_batch.synthetic) …
    synthetic_from: float = 0.5  # … that join after this share of the steps
    attributes: bool = True  # False: without explanation heads' losses, for the comparison
    style_mixing: float = 0.0  # chance of MixStyle for each patch
    drop_path: float = (
        0.0  # share of the backbone's residual blocks left out at random, of each patch
    )
    compiled: bool = False  # the backbone by torch.compile: a minute at the start, faster then
    pretrained: bool = True
    start: str = (
        ""  # weights to go on from (their SHA-256 in `fine_tuning`), instead of ImageNet's backbone
    )
    teacher: str = (
        ""  # SHA-256 of the weights that missing masks and types are from, instead of its own
    )

    @classmethod
    def coarse(cls, **given) -> Recipe:
        """At half the resolution, with canvases of a fifth of the pixels: for comparisons where there is no GPU."""
        return cls(**{"mpp": 0.24, "canvas_px": 96, "large_canvas_px": 160, **given})

    @classmethod
    def fine_tuning(cls, start: Path, close: bool = False, **given) -> Recipe:
        """A short, gentle recipe that goes on from trained weights, with their pseudo-masks from the first step. Of another
        architecture, `arch`, what fits is taken; its own backbone begins as ImageNet's.

        `close`: mostly on small canvases that one cell fills, twice as many of a minute, and the stages of maturation
        twice as often: what tells classes apart, once places and outlines are learnt.
        """
        card = read_card(start)
        gentle = {
            "lr": 2e-4,
            "backbone_lr": 1e-4,
            "warmup": 20,
            "first_stage": 0.0,
            "freeze_norm": 0.0,
            "ema": 0.995,
            "synthetic_from": 0.0,
            "large_share": 0.1,
            "arch": card.arch,
            "mpp": card.mpp,
            "start": card.sha256,
        }
        if given.get("arch", card.arch) != card.arch:
            gentle["freeze_norm"] = cls.freeze_norm  # the new backbone's are of photographs
        if close:
            gentle |= {"canvas_px": 192, "hard": 1.5, "ema": 0.998, "style_mixing": 0.3}
        return cls(**{**gentle, **given})
