"""Looks at each found cell by itself, on which class and attributes are decided besides the query: in detail, as a whole, and
at its colours."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import vocabulary
from .transformer import sample_in_boxes

REFINEMENT_GRID = 16
CONTEXT_GRID = 5
COLOUR_STATES = vocabulary.attribute_slices()["cytoplasm_colour"]


def optical_density(pixels: Tensor) -> Tensor:
    """-log10((v + 1) / 256) of pixels in 0..255: 0 for pure white."""
    return math.log10(256.0) - torch.log10(pixels.clamp(min=0) + 1)


class RoiRefinement(nn.Module):
    """A last look at each cell in detail: the stride-4 embedding and the query's own masks, resampled inside its box.

    It is what class and attributes are decided on besides the query, so the masks are part of the decision.
    """

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels + 2, 96, 3, 2, 1)
        self.conv2 = nn.Conv2d(96, 96, 3, 2, 1)
        self.out = nn.Linear(96 * (REFINEMENT_GRID // 4) ** 2, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, embedding: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        b, q = boxes.shape[:2]
        g = REFINEMENT_GRID
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.15], -1)
        features = (
            sample_in_boxes(embedding, wide, g, 4).flatten(0, 1).transpose(1, 2)
        )  # [BQ, C, G²]
        masks = sample_in_boxes(
            mask_logits.flatten(0, 1).clamp(-8.0, 8.0) / 4, wide.reshape(b * q, 1, 4), g, 4
        )
        features = torch.cat([features, masks[:, 0].transpose(1, 2)], 1).unflatten(2, (g, g))
        features = F.relu(self.conv2(F.relu(self.conv1(features))))
        return self.norm(self.out(features.flatten(1))).unflatten(0, (b, q))


class RoiContext(nn.Module):
    """What the backbone's deepest maps say of each cell as a whole: their mean over its box, a fifth wider.

    The straight way from pretrained features to class and attributes, beside the query's and the ROI refinement's. The last
    layer begins at zero, so a network trained without one says the same until it has learnt.
    """

    def __init__(self, channels: tuple[int, int], dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(sum(channels))
        self.hidden = nn.Linear(sum(channels), 2 * dim)
        self.out = nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, f16: Tensor, f32: Tensor, boxes: Tensor) -> Tensor:
        """Maps [B, C, h, w] at strides 16 and 32, boxes [B, Q, 4] (pixels) -> [B, Q, D]."""
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.2], -1)
        means = [
            sample_in_boxes(f, wide, CONTEXT_GRID, stride).mean(2)
            for f, stride in ((f16, 16), (f32, 32))
        ]
        return self.out(F.relu(self.hidden(self.norm(torch.cat(means, -1)))))


class CytoplasmColourHead(nn.Module):
    """Cytoplasm colour by the colours of each cell's nucleus, cytoplasm and surroundings, as its own masks part them: mean
    and spread of the optical density, 18 numbers, through two hidden layers.

    Colour is what the deep maps, taught under ever other stains, forget first; and said of these numbers alone it is of
    nothing else.
    """

    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.out = nn.Linear(64, COLOUR_STATES.stop - COLOUR_STATES.start)

    def forward(self, pixels: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in 0..255, masks [B, Q, 2, H/4, W/4], boxes [B, Q, 4] (pixels) -> logits [B, Q, states]."""
        return self.classify(self.colour_features(pixels, mask_logits, boxes))

    def classify(self, colour_features: Tensor) -> Tensor:
        """Colours [..., 18] -> logits [..., states]."""
        parts = colour_features.unflatten(-1, (3, 2, 3))
        scaled = torch.cat(
            [8 * parts[..., :1, :] - 2, 24 * parts[..., 1:, :] - 2], -2
        )  # of the order of 1
        return self.out(self.hidden(scaled.flatten(-3)))

    @staticmethod
    def colour_features(pixels: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        """Optical densities [B, Q, 18]: of nucleus, cytoplasm and surroundings each mean and spread of red, green and blue."""
        b, q = boxes.shape[:2]
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.5], -1)
        density = F.avg_pool2d(optical_density(pixels), 4)
        samples = sample_in_boxes(
            torch.cat([density, torch.ones_like(density[:, :1])], 1), wide, REFINEMENT_GRID, 4
        )  # [B, Q, G², 4]
        cell_masks = mask_logits.flatten(0, 1).clamp(-8.0, 8.0)
        cell_masks = (
            sample_in_boxes(cell_masks, wide.reshape(b * q, 1, 4), REFINEMENT_GRID, 4)
            .sigmoid()
            .reshape(b, q, -1, 2)
        )
        nucleus, cell = cell_masks[..., 0] * cell_masks[..., 1], cell_masks[..., 1]
        parts = (
            torch.stack([nucleus, cell - nucleus, 1 - cell], 2) * samples[..., 3][:, :, None]
        )  # [B, Q, 3, G²]
        parts = (parts / parts.sum(-1, keepdim=True).clamp(min=0.5))[..., None]
        density = samples[:, :, None, :, :3]
        mean = (parts * density).sum(3)  # [B, Q, 3, 3]
        spread = (parts * (density - mean[:, :, :, None]).square()).sum(3).clamp(min=1e-6).sqrt()
        return torch.cat([mean, spread], -1).flatten(2)
