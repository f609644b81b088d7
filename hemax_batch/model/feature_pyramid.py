"""Feature pyramid with the transformer encoder inside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .transformer import EncoderLayer, grid_centres, sine_positions


@dataclass(frozen=True)
class PyramidMaps:
    """Maps of one pass through the pyramid; B patches of H x W px, width D, C mask channels.

    Attributes
    ----------
    tokens : Tensor [B, S, D]
        Encoder output, one token per position of the encoded map.
    positions : Tensor [1, S, D]
        Sine encodings of the tokens' positions.
    stride16 : Tensor [B, D, H/16, W/16]
    stride8 : Tensor [B, D, H/8, W/8]
    stride4 : Tensor [B, C, H/4, W/4]
        Embedding that the masks are read from.
    """

    tokens: Tensor
    positions: Tensor
    stride16: Tensor
    stride8: Tensor
    stride4: Tensor


def conv_block(c_in: int, c_out: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a convolution with batch norm and ReLU that keeps the map's size."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, momentum=0.01),
        nn.ReLU(inplace=True),
    )


class FeaturePyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017) with a transformer encoder on one of its maps.

    Parameters
    ----------
    channels
        Channels of the backbone's maps at strides 4, 8, 16 and 32.
    width
        Channels D of the maps at strides 8, 16 and 32.
    mask_channels
        Channels C of the stride-4 embedding.
    memory_stride
        Stride of the map that the encoder reads: 16 or 32.
    layers, heads, hidden
        Number of encoder layers, their attention heads and the width of their hidden layer.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        width: int,
        mask_channels: int,
        memory_stride: int,
        layers: int,
        heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
        d, c = width, mask_channels
        self.stride = memory_stride
        self.lateral4, self.lateral8 = nn.Conv2d(channels[0], c, 1), nn.Conv2d(channels[1], d, 1)
        self.lateral16, self.lateral32 = nn.Conv2d(channels[2], d, 1), nn.Conv2d(channels[3], d, 1)
        self.encoder = nn.ModuleList(EncoderLayer(d, heads, hidden) for _ in range(layers))
        self.smooth8 = nn.Sequential(conv_block(d, d, 3, groups=d), conv_block(d, d))
        self.down = nn.Conv2d(d, c, 1)
        self.smooth4 = conv_block(c, c, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the encoder on a map [B, D, h, w].

        Returns
        -------
        tuple of Tensor
            Tokens [B, h w, D], their positions [1, h w, D], and the encoded map [B, D, h, w].
        """
        h, w = x.shape[-2:]
        pos = sine_positions(grid_centres(h, w, self.stride, x.device), x.shape[1])
        pos = pos.to(x.dtype)[None]
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            tokens = layer(tokens, pos)
        return tokens, pos, torch.unflatten(tokens.transpose(1, 2), 2, (h, w))

    def forward(self, maps: list[Tensor]) -> PyramidMaps:
        """Merge the backbone's maps at strides 4, 8, 16 and 32, from coarse to fine."""
        f4, f8, f16, f32 = maps
        m16, m32 = self.lateral16(f16), self.lateral32(f32)
        if self.stride == 32:
            tokens, pos, m32 = self.encode(m32)
            m16 = m16 + F.interpolate(m32, size=m16.shape[-2:], mode="nearest")
        else:
            m16 = m16 + F.interpolate(m32, size=m16.shape[-2:], mode="nearest")
            tokens, pos, m16 = self.encode(m16)
        up = F.interpolate(m16, size=f8.shape[-2:], mode="nearest")
        m8 = self.smooth8(self.lateral8(f8) + up)
        up = F.interpolate(self.down(m8), size=f4.shape[-2:], mode="bilinear", align_corners=False)
        return PyramidMaps(tokens, pos, m16, m8, self.smooth4(self.lateral4(f4) + up))
