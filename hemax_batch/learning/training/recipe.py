"""Recipe of a training: everything that decides the weights besides the data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...model.checkpoint import read_card


def short_hash(*values: object) -> str:
    """Return 12 hex digits of recipes, examples or sources; order matters."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data. Lengths are optimiser steps.

    Attributes
    ----------
    first_stage : float
        Share of the steps before pseudo-masks.
    batch : int
        Patches per step over all processes.
    freeze_norm : float
        Share of the steps after which batch norm keeps its statistics.
    canvas_px, large_canvas_px, large_share
        Side of a canvas, of a large canvas, and the share of large canvases. A canvas shows a cell
        with its surroundings; the tool's patches have the size of a large canvas.
    hard : float
        Factor on the frequency of the stages of maturation.
    stain, as_stained : float
        Strength of the stain augmentation, and share of patches that keep their stain and light
        (see `augmentation.draw_photometry`).
    synthetic, synthetic_from
        Number of synthetic fields, and the share of the steps before they join.
    attributes : bool
        False trains without attribute losses, for comparisons.
    style_mixing : float
        Probability of MixStyle for each patch.
    drop_path : float
        Share of the backbone's residual blocks that is skipped at random, per patch.
    compiled : bool
        Whether torch.compile compiles the backbone: a minute at the start, faster afterwards.
    pretrained : bool
        Whether the backbone starts from ImageNet weights.
    start, teacher : str
        SHA-256 of the start weights, and of weights that predict missing masks and types.
    """

    arch: str = "hemax-s"
    steps: int = 1900
    first_stage: float = 0.2
    batch: int = 16
    lr: float = 5e-4
    backbone_lr: float = 2.5e-4
    weight_decay: float = 1e-4
    clip: float = 3.0
    warmup: int = 100
    freeze_norm: float = 0.5
    ema: float = 0.997
    seed: int = 0
    mpp: float = 0.12
    canvas_px: int = 224
    large_canvas_px: int = 320
    large_share: float = 0.2
    hard: float = 1.0
    stain: float = 1.5
    as_stained: float = 0.0
    synthetic: int = 800
    synthetic_from: float = 0.5
    attributes: bool = True
    style_mixing: float = 0.0
    drop_path: float = 0.0
    compiled: bool = False
    pretrained: bool = True
    start: str = ""
    teacher: str = ""

    @classmethod
    def coarse(cls, **given: Any) -> Recipe:
        """Make a recipe at half the resolution, for comparisons without a GPU.

        Canvases have a fifth of the pixels.
        """
        return cls(**{"mpp": 0.24, "canvas_px": 96, "large_canvas_px": 160, **given})

    @classmethod
    def fine_tuning(cls, start: Path, close: bool = False, **given: Any) -> Recipe:
        """Make a short recipe with low learning rates that continues from trained weights.

        It uses the weights' pseudo-masks from the first step. With another architecture, `arch`,
        matching tensors are loaded and its own backbone starts from ImageNet weights.

        Parameters
        ----------
        start
            Weights to continue from.
        close
            Train mostly on small canvases that one cell fills, and draw the stages of maturation
            more often. This separates classes once positions and outlines are learnt.
        """
        card = read_card(start)
        gentle: dict[str, Any] = {
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
            # The new backbone's statistics are those of photographs.
            gentle["freeze_norm"] = cls.freeze_norm
        if close:
            gentle |= {"canvas_px": 192, "hard": 1.5, "ema": 0.998, "style_mixing": 0.3}
        return cls(**{**gentle, **given})
