"""Plain classifiers of single-cell crops, for comparison with HemaX.

They are EfficientNet-Lite0 and -Lite2, ResNet-50 and ConvNeXt-T (Liu et al. 2022). The
EfficientNets start from ImageNet weights of their packages, the others from random weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.backbone import Backbone, EfficientNetLite0, EfficientNetLite2, ResNet50
from ...vocabulary import N_CLASSES

_PIXEL_MIDDLE = 127.5


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, layer norm, two pointwise layers, scaled and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x [B, C, h, w]."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        scaled: Tensor = self.scale * self.narrow(F.gelu(self.widen(y)))
        return x + scaled.permute(0, 3, 1, 2)


class ConvNeXtTiny(Backbone):
    """ConvNeXt-T: features [B, 768, H/32] of pixels [B, 3, H, W], as a list of one map."""

    channels = (96, 192, 384, 768)
    _blocks = (3, 3, 9, 3)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 3
        for width, blocks in zip(self.channels, self._blocks, strict=True):
            patch = 4 if c_in == 3 else 2
            before: list[nn.Module] = [] if c_in == 3 else [nn.GroupNorm(1, c_in)]
            layers += [
                *before,
                nn.Conv2d(c_in, width, patch, patch),
                *(ConvNeXtBlock(width) for _ in range(blocks)),
            ]
            c_in = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features."""
        return [self.layers(x)]


CLASSIFIERS: dict[str, type[Backbone]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "efficientnet-lite2": EfficientNetLite2,
    "resnet50": ResNet50,
    "convnext-tiny": ConvNeXtTiny,
}


class Classifier(nn.Module):
    """Log-probabilities [B, N_CLASSES] of uint8 crops [B, 3, S, S].

    A backbone, the mean over the crop, and one linear layer.
    """

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        self.backbone: Backbone = CLASSIFIERS[name]()
        if pretrained and isinstance(self.backbone, EfficientNetLite0):
            self.backbone.load_imagenet()
        self.head = nn.Linear(self.backbone.channels[-1], N_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the log-probabilities of pixels."""
        features = self.backbone(pixels.float() / _PIXEL_MIDDLE - 1)[-1]
        return F.log_softmax(self.head(features.mean((2, 3)).float()), 1)
