"""Plain classifiers of single-cell crops, in plain torch, to hold HemaX against: EfficientNet-Lite0 and
-Lite2, ResNet-50 and ConvNeXt-T (Liu et al. 2022).

The EfficientNets start from ImageNet weights, which packages bring; the others start from nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.backbone import EfficientNetLite0, EfficientNetLite2, ResNet50
from ..vocabulary import N_CLASSES
from .dataset import Example
from .sampler import PatchSampler
from .view import centred

CROP_UM = (
    19.0  # around a cell's middle: the largest white cells with a little of their surroundings
)
_PIXEL_MIDDLE = 127.5
_AT_ONCE = 64  # crops


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, two pointwise layers, scaled and added."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.widen(y)))).permute(0, 3, 1, 2)


class ConvNeXtTiny(nn.Module):
    """Features [B, 768, H/32] of pixels [B, 3, H, W], as a list of one."""

    channels = (96, 192, 384, 768)
    _blocks = (3, 3, 9, 3)

    def __init__(self):
        super().__init__()
        layers, c_in = [], 3
        for width, blocks in zip(self.channels, self._blocks, strict=True):
            patch = 4 if c_in == 3 else 2
            before = [] if c_in == 3 else [nn.GroupNorm(1, c_in)]
            layers += [
                *before,
                nn.Conv2d(c_in, width, patch, patch),
                *(ConvNeXtBlock(width) for _ in range(blocks)),
            ]
            c_in = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


CLASSIFIERS = {
    "efficientnet-lite0": EfficientNetLite0,
    "efficientnet-lite2": EfficientNetLite2,
    "resnet50": ResNet50,
    "convnext-tiny": ConvNeXtTiny,
}


class Classifier(nn.Module):
    """Log-probabilities [B, N_CLASSES] of uint8 crops [B, 3, S, S]: a backbone, the mean over the crop, one layer."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        self.backbone = CLASSIFIERS[name]()
        if pretrained and hasattr(self.backbone, "load_imagenet"):
            self.backbone.load_imagenet()
        self.head = nn.Linear(self.backbone.channels[-1], N_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.backbone(pixels.float() / _PIXEL_MIDDLE - 1)[-1]
        return F.log_softmax(self.head(features.mean((2, 3)).float()), 1)


def crops(patches: Tensor, middles: Tensor, side: int) -> Tensor:
    """Squares [B, 3, side, side] of patches [B, 3, S, S] about `middles` [B, 2] (x, y), mirrored where they reach
    outside."""
    s = patches.shape[-1]
    inside = torch.arange(side, device=patches.device) - side // 2
    columns, rows = (middles.round().long()[:, k, None] + inside for k in (0, 1))
    columns, rows = (
        torch.minimum(at % (2 * s), 2 * s - 1 - at % (2 * s)) for at in (columns, rows)
    )
    which = torch.arange(len(patches), device=patches.device)[:, None, None]
    return patches.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def train_classifier(name: str, examples: list[Example], recipe, device: str) -> Classifier:
    """Train on as many steps of as many cells as the `recipe` has of patches, from the same augmented patches."""
    torch.manual_seed(recipe.seed)
    model = (
        Classifier(name, recipe.pretrained).to(device, memory_format=torch.channels_last).train()
    )
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
        cells, allowed = _draw(sampler, np.random.default_rng([recipe.seed, step]), recipe)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            log_p = model(cells)
        loss = -log_p.masked_fill(~allowed, -torch.inf).logsumexp(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        schedule.step()
    return model.eval()


def _draw(sampler: PatchSampler, rng: np.random.Generator, recipe) -> tuple[Tensor, Tensor]:
    """Crops about the first cell of each patch; of a patch without one any class is right."""
    patches, targets = sampler.batch(rng, recipe.batch, recipe.canvas_px)
    middles = targets.boxes_cxcywh[:, 0, :2].clamp(0, recipe.canvas_px - 1)
    return crops(patches, middles, round(CROP_UM / recipe.mpp)), targets.allowed[
        :, 0
    ] | ~targets.present[:, :1]


@torch.inference_mode()
def classify(
    model: Classifier, examples: list[Example], mpp: float, canvas_px: int, device: str
) -> np.ndarray:
    """The class index of each labelled cell, in the order of `evaluate.look`, int [N]."""
    asked = [(example, k) for example in examples for k in range(len(example.cells))]
    found, middle = [], torch.full((1, 2), canvas_px / 2)
    for start in range(0, len(asked), _AT_ONCE):
        patches = [
            centred(example, mpp, canvas_px, k)[0] for example, k in asked[start : start + _AT_ONCE]
        ]
        cells = crops(
            torch.from_numpy(np.stack(patches)),
            middle.expand(len(patches), 2),
            round(CROP_UM / mpp),
        )
        found.append(model(cells.to(device)).argmax(1).cpu().numpy())
    return np.concatenate(found)
