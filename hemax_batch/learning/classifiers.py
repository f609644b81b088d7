"""Plain classifiers of single-cell crops, in plain torch, to hold HemaX against: ResNet-50, EfficientNet-Lite0 and
ConvNeXt-T (Liu et al. 2022).

Only Lite0 has ImageNet weights in a package here; the others start from nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.backbone import EfficientNetLite0, ResNet50
from ..vocabulary import N_CLASSES
from .dataset import Example
from .sampler import PatchSampler

CROP_UM = 19.0  # around a cell's middle: the largest white cells with a little of their surroundings
_PIXEL_MIDDLE = 127.5


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
            layers += [*before, nn.Conv2d(c_in, width, patch, patch), *(ConvNeXtBlock(width) for _ in range(blocks))]
            c_in = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


CLASSIFIERS = {"resnet50": ResNet50, "efficientnet-lite0": EfficientNetLite0, "convnext-tiny": ConvNeXtTiny}


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


def crop(patch: np.ndarray, middle, side: int) -> np.ndarray:
    """A square [3, side, side] of a patch [3, S, S] about `middle` (x, y), mirrored where it reaches outside."""
    pad = side // 2
    x, y = (int(round(float(v))) for v in middle)
    return np.pad(patch, ((0, 0), (pad, pad), (pad, pad)), "symmetric")[:, y : y + side, x : x + side]


def train_classifier(name: str, examples: list[Example], recipe, device: str) -> Classifier:
    """Train on as many steps of as many cells as the `recipe` has of patches, from the same augmented patches."""
    torch.manual_seed(recipe.seed)
    model = Classifier(name, recipe.pretrained).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=recipe.steps + 1)
    sampler = PatchSampler(examples, recipe.mpp)
    for step in range(recipe.steps):
        crops, allowed = _draw(sampler, np.random.default_rng([recipe.seed, step]), recipe)
        log_p = model(crops.to(device))
        loss = -log_p.masked_fill(~allowed.to(device), -torch.inf).logsumexp(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        schedule.step()
    return model.eval()


def _draw(sampler: PatchSampler, rng: np.random.Generator, recipe) -> tuple[Tensor, Tensor]:
    side, crops, allowed = round(CROP_UM / recipe.mpp), [], []
    while len(crops) < recipe.batch:
        patch, targets = sampler.sample(rng, recipe.canvas_px)
        for box, names in zip(targets.boxes_cxcywh[:1], targets.allowed[:1], strict=True):
            crops.append(crop(patch, box[:2].clamp(0, recipe.canvas_px - 1), side))
            allowed.append(names)
    return torch.from_numpy(np.stack(crops)), torch.stack(allowed)


@torch.inference_mode()
def classify(model: Classifier, examples: list[Example], mpp: float, canvas_px: int, device: str) -> np.ndarray:
    """The class index of each labelled cell, in the order of `evaluate.look`, int [N]."""
    sampler, found = PatchSampler(examples, mpp), []
    for i, example in enumerate(examples):
        for k in range(len(example.cells)):
            patch, _, _ = sampler.centred(i, canvas_px, k)
            middle = crop(patch, (canvas_px / 2, canvas_px / 2), round(CROP_UM / mpp))
            found.append(int(model(torch.from_numpy(middle)[None].to(device)).argmax()))
    return np.array(found, int)
