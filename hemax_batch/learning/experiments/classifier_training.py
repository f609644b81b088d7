"""Training of plain classifiers on crops around cells, from the same augmented patches as HemaX."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.centred_patches import centred_patch
from ..data.examples import Example
from ..data.sampler import PatchSampler
from ..training.recipe import Recipe
from .classifiers import Classifier

#: Side of a crop: the largest white cells with some of their surroundings.
CROP_UM = 19.0
#: Crops per call.
_BATCH = 64


def crops(patches: Tensor, middles: Tensor, side: int) -> Tensor:
    """Cut squares [B, 3, side, side] of patches [B, 3, S, S] around `middles` [B, 2] (x, y).

    Patches are mirrored outside.
    """
    s = patches.shape[-1]
    inside = torch.arange(side, device=patches.device) - side // 2
    columns, rows = (middles.round().long()[:, k, None] + inside for k in (0, 1))
    columns, rows = (
        torch.minimum(at % (2 * s), 2 * s - 1 - at % (2 * s)) for at in (columns, rows)
    )
    rows_of_batch = torch.arange(len(patches), device=patches.device)[:, None, None]
    return patches.permute(0, 2, 3, 1)[rows_of_batch, rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def train_classifier(name: str, examples: list[Example], recipe: Recipe, device: str) -> Classifier:
    """Train a classifier with the recipe's number of steps and patches."""
    torch.manual_seed(recipe.seed)
    channels_last: Any = {"memory_format": torch.channels_last}
    model = Classifier(name, recipe.pretrained).to(device, **channels_last).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=recipe.steps + 1
    )
    sampler = PatchSampler(
        examples, recipe.mpp, device=device, stain=recipe.stain, as_stained=recipe.as_stained
    )
    for step in range(recipe.steps):
        cells, allowed = _draw_crops(sampler, np.random.default_rng([recipe.seed, step]), recipe)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            log_p = model(cells)
        loss = -log_p.masked_fill(~allowed, -torch.inf).logsumexp(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        schedule.step()
    return model.eval()


def _draw_crops(
    sampler: PatchSampler, rng: np.random.Generator, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Draw crops around the first cell of each patch; without a cell any class is right."""
    patches, targets = sampler.batch(rng, recipe.batch, recipe.canvas_px)
    middles = targets.boxes_cxcywh[:, 0, :2].clamp(0, recipe.canvas_px - 1)
    return crops(patches, middles, round(CROP_UM / recipe.mpp)), targets.allowed[
        :, 0
    ] | ~targets.present[:, :1]


@torch.inference_mode()
def classify(
    model: Classifier, examples: list[Example], mpp: float, canvas_px: int, device: str
) -> np.ndarray:
    """Predict the class index of each labelled cell: int [N].

    The order is that of `predict_examples`.
    """
    cells_to_classify = [(example, k) for example in examples for k in range(len(example.cells))]
    classes, middle = [], torch.full((1, 2), canvas_px / 2)
    for start in range(0, len(cells_to_classify), _BATCH):
        patches = [
            centred_patch(example, mpp, canvas_px, k)[0]
            for example, k in cells_to_classify[start : start + _BATCH]
        ]
        cells = crops(
            torch.from_numpy(np.stack(patches)),
            middle.expand(len(patches), 2),
            round(CROP_UM / mpp),
        )
        classes.append(model(cells.to(device)).argmax(1).cpu().numpy())
    return np.concatenate(classes)
