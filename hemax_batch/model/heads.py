"""Heads that read each cell's region of interest: refinement, context and cytoplasm colour.

Class and attributes are predicted from the query plus these features.
"""

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
    """Convert pixels in 0..255 to optical density, -log10((v + 1) / 256); white is 0."""
    return math.log10(256.0) - torch.log10(pixels.clamp(min=0) + 1)


class RoiRefinement(nn.Module):
    """Features of each cell in detail, from the stride-4 embedding and the query's own masks.

    Both are resampled on a 16 x 16 grid in the box, which is enlarged by 15 %. The masks are an
    input of the class and attribute heads, so they take part in the decision.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels + 2, 96, 3, 2, 1)
        self.conv2 = nn.Conv2d(96, 96, 3, 2, 1)
        self.out = nn.Linear(96 * (REFINEMENT_GRID // 4) ** 2, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, embedding: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        """Compute features [B, Q, D].

        Parameters
        ----------
        embedding : Tensor [B, C, H/4, W/4]
        mask_logits : Tensor [B, Q, 2, H/4, W/4]
        boxes : Tensor [B, Q, 4]
            Centre and size in pixels.
        """
        b, q = boxes.shape[:2]
        g = REFINEMENT_GRID
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.15], -1)
        features = sample_in_boxes(embedding, wide, g, 4).flatten(0, 1).transpose(1, 2)
        masks = mask_logits.flatten(0, 1).clamp(-8.0, 8.0) / 4
        masks = sample_in_boxes(masks, wide.reshape(b * q, 1, 4), g, 4)[:, 0].transpose(1, 2)
        features = torch.unflatten(torch.cat([features, masks], 1), 2, (g, g))  # [BQ, C + 2, G, G]
        features = F.relu(self.conv2(F.relu(self.conv1(features))))
        return torch.unflatten(self.norm(self.out(features.flatten(1))), 0, (b, q))


class RoiContext(nn.Module):
    """Features of each cell as a whole: the mean of the backbone's deepest maps over its box.

    The box is enlarged by 20 %. This is a direct path from pretrained features to class and
    attributes. The last layer starts at zero, so adding this head does not change a trained
    network.
    """

    def __init__(self, channels: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sum(channels))
        self.hidden = nn.Linear(sum(channels), 2 * dim)
        self.out = nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, f16: Tensor, f32: Tensor, boxes: Tensor) -> Tensor:
        """Compute features [B, Q, D].

        Parameters
        ----------
        f16, f32 : Tensor [B, C, h, w]
            Backbone maps at strides 16 and 32.
        boxes : Tensor [B, Q, 4]
            Centre and size in pixels.
        """
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.2], -1)
        means = [
            sample_in_boxes(f, wide, CONTEXT_GRID, stride).mean(2)
            for f, stride in ((f16, 16), (f32, 32))
        ]
        features: Tensor = self.out(F.relu(self.hidden(self.norm(torch.cat(means, -1)))))
        return features


class CytoplasmColourHead(nn.Module):
    """Cytoplasm colour from the optical densities of nucleus, cytoplasm and surroundings.

    The cell's own masks separate the three parts. The head reads the mean and standard deviation
    of each colour channel, 18 numbers, through two hidden layers. The deep maps are trained under
    changing stain colours and keep little colour information. This head reads nothing but colour.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.out = nn.Linear(64, COLOUR_STATES.stop - COLOUR_STATES.start)

    def forward(self, pixels: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        """Compute logits [B, Q, states].

        Parameters
        ----------
        pixels : Tensor [B, 3, H, W]
            Values in 0..255.
        mask_logits : Tensor [B, Q, 2, H/4, W/4]
        boxes : Tensor [B, Q, 4]
            Centre and size in pixels.
        """
        return self.classify(self.colour_features(pixels, mask_logits, boxes))

    def classify(self, colour_features: Tensor) -> Tensor:
        """Compute logits [..., states] of colour features [..., 18]."""
        parts = torch.unflatten(colour_features, -1, (3, 2, 3))
        # The scales bring means and deviations to the order of 1.
        scaled = torch.cat([8 * parts[..., :1, :] - 2, 24 * parts[..., 1:, :] - 2], -2)
        logits: Tensor = self.out(self.hidden(scaled.flatten(-3)))
        return logits

    @staticmethod
    def colour_features(pixels: Tensor, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        """Compute colour features [B, Q, 18]; arguments as for `forward`.

        The order is part (nucleus, cytoplasm, surroundings), statistic (mean, standard
        deviation), channel (red, green, blue).
        """
        b, q = boxes.shape[:2]
        wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.5], -1)
        density = F.avg_pool2d(optical_density(pixels), 4)
        # The fourth channel is 1 inside the patch and 0 outside it.
        density = torch.cat([density, torch.ones_like(density[:, :1])], 1)
        samples = sample_in_boxes(density, wide, REFINEMENT_GRID, 4)  # [B, Q, G², 4]
        masks = mask_logits.flatten(0, 1).clamp(-8.0, 8.0)
        masks = sample_in_boxes(masks, wide.reshape(b * q, 1, 4), REFINEMENT_GRID, 4)
        masks = masks.sigmoid().reshape(b, q, -1, 2)
        nucleus, cell = masks[..., 0] * masks[..., 1], masks[..., 1]
        weights = torch.stack([nucleus, cell - nucleus, 1 - cell], 2)  # [B, Q, 3, G²]
        weights = weights * samples[..., 3][:, :, None]
        weights = (weights / weights.sum(-1, keepdim=True).clamp(min=0.5))[..., None]
        values = samples[:, :, None, :, :3]
        mean = (weights * values).sum(3)  # [B, Q, 3, 3]
        variance = (weights * (values - mean[:, :, :, None]).square()).sum(3)
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], -1).flatten(2)
