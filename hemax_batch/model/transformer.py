"""Transformer layers: sine positions, encoder layers, and decoder layers for object queries.

Shapes: B images, Q queries, S map positions, D = d_model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sine_positions(xy: Tensor, dim: int, unit: float = 32.0) -> Tensor:
    """Compute sine encodings [..., dim] of positions `xy` [..., 2] in pixels.

    The encoding is that of Vaswani et al. (2017) in two dimensions, as in DETR. Positions are
    pixels and not fractions of the image, so the encoding of a cell does not depend on the patch
    size. `unit` is the wavelength of the first frequency in pixels.
    """
    n = dim // 4
    freq = torch.exp(
        torch.arange(n, device=xy.device, dtype=torch.float32) * (-math.log(10_000.0) / n)
    )
    angles = xy.float()[..., None] / unit * freq * 2 * math.pi  # [..., 2, n]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2).to(xy.dtype)


def grid_centres(h: int, w: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Return the pixel coordinates [h * w, 2] (x, y) of the centres of a map's positions."""
    ys, xs = torch.meshgrid(
        torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
    )
    return (torch.stack([xs, ys], -1).reshape(-1, 2).float() + 0.5) * stride


class Attention(nn.Module):
    """Multi-head attention of queries over a memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(
        self, x: Tensor, x_pos: Tensor, memory: Tensor, memory_pos: Tensor | None
    ) -> Tensor:
        """Attend from queries x [B, N, D] to memory [B, S, D]; return [B, N, D].

        Positions are added to queries and keys only, as in DETR.
        """
        keys = memory if memory_pos is None else memory + memory_pos
        q, k, v = self.q(x + x_pos), self.k(keys), self.v(memory)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Self-attention over map positions and a feed-forward network, post-norm as in DETR."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.ffn = Attention(dim, heads), FeedForward(dim, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Encode tokens x [B, S, D] with positions pos [1, S, D]; return [B, S, D]."""
        x = self.norm1(x + self.attention(x, pos, x, pos))
        encoded: Tensor = self.norm2(x + self.ffn(x))
        return encoded


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the map, and attention inside the box.

    With `grid` > 0 each query also attends to grid x grid points in its current box, on each of two
    maps.
    """

    def __init__(self, dim: int, heads: int, hidden: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.self_attention, self.cross_attention = Attention(dim, heads), Attention(dim, heads)
        self.norm1, self.norm2, self.norm4 = (nn.LayerNorm(dim) for _ in range(3))
        if grid:
            self.box_attention, self.norm3 = Attention(dim, heads), nn.LayerNorm(dim)
            self.grid_position = nn.Parameter(torch.randn(1, 2 * grid * grid, dim) * 0.02)
        self.ffn = FeedForward(dim, hidden)

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        boxes: Tensor,
        maps: Sequence[tuple[Tensor, int]],
    ) -> Tensor:
        """Update queries x [B, Q, D]; return [B, Q, D].

        Parameters
        ----------
        pos : Tensor [B, Q, D]
            Positions of the queries.
        memory, memory_pos : Tensor [B, S, D], [1, S, D]
            Encoder output and its positions.
        boxes : Tensor [B, Q, 4]
            Current boxes, centre and size in pixels.
        maps : sequence of (Tensor [B, D, h, w], int)
            Maps that are sampled inside the boxes, and their strides.
        """
        x = self.norm1(x + self.self_attention(x, pos, x, pos))
        x = self.norm2(x + self.cross_attention(x, pos, memory, memory_pos))
        if self.grid:
            b, q, d = x.shape
            # [B, Q, 2G², D]
            box_samples = torch.cat([sample_in_boxes(m, boxes, self.grid, s) for m, s in maps], 2)
            zero = torch.zeros_like(x).reshape(b * q, 1, d)
            attended = self.box_attention(
                x.reshape(b * q, 1, d), zero, box_samples.flatten(0, 1), self.grid_position
            )
            x = self.norm3(x + attended.reshape(b, q, d))
        decoded: Tensor = self.norm4(x + self.ffn(x))
        return decoded


def sample_in_boxes(feature: Tensor, boxes_cxcywh: Tensor, grid: int, stride: int) -> Tensor:
    """Sample a map bilinearly on a grid inside each box.

    The samples lie at the centres of a grid x grid division of the box. Outside the map they are 0.

    Parameters
    ----------
    feature : Tensor [B, C, h, w]
    boxes_cxcywh : Tensor [B, Q, 4]
        Boxes in pixels.
    stride : int
        Pixels per map position.

    Returns
    -------
    Tensor [B, Q, grid², C]
    """
    b, q = boxes_cxcywh.shape[:2]
    steps = (torch.arange(grid, device=feature.device, dtype=feature.dtype) + 0.5) / grid - 0.5
    xs = boxes_cxcywh[..., 0:1] + steps * boxes_cxcywh[..., 2:3]  # [B, Q, G]
    ys = boxes_cxcywh[..., 1:2] + steps * boxes_cxcywh[..., 3:4]
    h, w = feature.shape[-2:]
    xs, ys = xs / (w * stride) * 2 - 1, ys / (h * stride) * 2 - 1
    points = torch.stack(
        [xs[:, :, None].expand(b, q, grid, grid), ys[..., None].expand(b, q, grid, grid)], -1
    )
    sampled = F.grid_sample(feature, points.reshape(b, q * grid, grid, 2), align_corners=False)
    return sampled.reshape(b, -1, q, grid * grid).permute(0, 2, 3, 1)
