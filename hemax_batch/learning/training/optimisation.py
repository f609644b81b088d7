"""Optimiser, learning-rate schedule and weight average of a training."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...model.hemax import HemaX
from .recipe import Recipe


def make_optimiser(model: HemaX, recipe: Recipe, fused: bool) -> torch.optim.AdamW:
    """Make AdamW with two parameter groups, the backbone's and the rest's, with their peak rates."""
    backbone = list(model.backbone.parameters())
    rest = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
    return torch.optim.AdamW(
        [{"params": backbone, "peak": recipe.backbone_lr}, {"params": rest, "peak": recipe.lr}],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the factor on the peak rates: linear warm-up, then half a cosine to 1 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_average(average: dict[str, Tensor], state: dict[str, Tensor], decay: float) -> None:
    """Update the exponential moving average of the weights in place."""
    moving = [k for k, v in state.items() if v.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in moving], [state[k] for k in moving], 1 - decay)
    counts = [k for k, v in state.items() if not v.is_floating_point()]
    torch._foreach_copy_([average[k] for k in counts], [state[k] for k in counts])


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms keep their statistics."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()


def combine_seeds(*numbers: int) -> int:
    """Combine several numbers to one seed for torch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
