"""HemaX: one network that gives each cell's class, place, masks and attributes.

Three configurations are built by name (`build`): `hemax-r50`, the paper's (ResNet-50, 6 + 6 layers, width 256, 10
learned queries at stride 32, after its authors' training code); `hemax-s`, compact, which ships:
its queries come from the image (peaks of a centre heat map), look inside their own box, and are refined layer by
layer; and `hemax-m`, the same on a backbone half as large again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .. import vocabulary
from .backbone import BACKBONES
from .heads import COLOUR_STATES, CytoplasmColourHead, RoiContext, RoiRefinement
from .transformer import DecoderLayer, EncoderLayer, grid_centres, sine_positions

BOX_UNIT_PX = 96.0  # a typical cell at the working scale: what box sizes are expressed against


@dataclass(frozen=True)
class HemaXConfig:
    """What a HemaX is built from. `queries` is "image" (heat-map peaks, refined boxes) or "learned" (as DETR)."""

    arch: str
    backbone: str
    queries: str
    n_queries: int
    d_model: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    hidden: int
    memory_stride: int  # the map that the encoder sees: 16 or 32
    box_grid: int  # points a side that a decoder layer samples inside each box; 0 = none
    mask_channels: int = 64
    cytoplasm_colour_head: bool = (
        False  # cytoplasm colour is read from the cell's own colours, and from nothing else
    )


ARCHITECTURES = {
    "hemax-s": HemaXConfig(
        "hemax-s", "lite0", "image", 12, 192, 8, 2, 3, 768, 16, 5, cytoplasm_colour_head=True
    ),
    "hemax-m": HemaXConfig(
        "hemax-m", "lite2", "image", 12, 192, 8, 2, 3, 768, 16, 5, cytoplasm_colour_head=True
    ),
    "hemax-r50": HemaXConfig("hemax-r50", "resnet50", "learned", 10, 256, 8, 6, 6, 2048, 32, 0),
}


@dataclass
class HemaXOutput:
    """What the network says of B patches with Q queries, L decoder layers (last = final), patches of H x W px.

    class_logits      [L, B, Q, K + 1]; the last class is "no cell"
    boxes_cxcywh      [L, B, Q, 4], pixels
    attribute_logits  [L, B, Q, A], concatenated as vocabulary.attribute_slices
    mask_logits       [B, Q, 2, H/4, W/4]: nucleus, whole cell; where they lie, `answers.in_masks` says
    dense_logits      [B, 2, H/4, W/4]: nucleus and cell of any nucleated cell, whichever query
    heat_logits       [B, H/8, W/8], cell centres; None with learned queries
    first_boxes       [B, Q, 4], the boxes that the queries start from; None with learned queries
    """

    class_logits: Tensor
    boxes_cxcywh: Tensor
    attribute_logits: Tensor
    mask_logits: Tensor
    dense_logits: Tensor
    heat_logits: Tensor | None
    first_boxes: Tensor | None


def _conv(c_in: int, c_out: int, k: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, k, padding=k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, momentum=0.01),
        nn.ReLU(inplace=True),
    )


class FeaturePyramid(nn.Module):
    """Feature pyramid with the transformer's encoder inside.

    Backbone maps -> (memory [B, S, D] with its positions, stride-16 map, stride-8 map [B, D, ...], embedding [B, C,
    H/4, W/4]).
    """

    def __init__(self, cfg: HemaXConfig, channels: tuple[int, ...]):
        super().__init__()
        d, c = cfg.d_model, cfg.mask_channels
        self.stride = cfg.memory_stride
        self.lateral4, self.lateral8 = nn.Conv2d(channels[0], c, 1), nn.Conv2d(channels[1], d, 1)
        self.lateral16, self.lateral32 = nn.Conv2d(channels[2], d, 1), nn.Conv2d(channels[3], d, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(d, cfg.heads, cfg.hidden) for _ in range(cfg.encoder_layers)
        )
        self.smooth8 = nn.Sequential(_conv(d, d, 3, groups=d), _conv(d, d))
        self.down = nn.Conv2d(d, c, 1)
        self.smooth4 = _conv(c, c, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A map [B, D, h, w] through the encoder: tokens [B, hw, D], their positions, and the map again."""
        h, w = x.shape[-2:]
        pos = sine_positions(grid_centres(h, w, self.stride, x.device), x.shape[1]).to(x.dtype)[
            None
        ]
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            tokens = layer(tokens, pos)
        return tokens, pos, tokens.transpose(1, 2).unflatten(2, (h, w))

    def forward(self, maps: list[Tensor]):
        f4, f8, f16, f32 = maps
        m16, m32 = self.lateral16(f16), self.lateral32(f32)
        if self.stride == 32:
            tokens, pos, m32 = self.encode(m32)
            m16 = m16 + F.interpolate(m32, size=m16.shape[-2:], mode="nearest")
        else:
            tokens, pos, m16 = self.encode(
                m16 + F.interpolate(m32, size=m16.shape[-2:], mode="nearest")
            )
        m8 = self.smooth8(
            self.lateral8(f8) + F.interpolate(m16, size=f8.shape[-2:], mode="nearest")
        )
        up = F.interpolate(self.down(m8), size=f4.shape[-2:], mode="bilinear", align_corners=False)
        return tokens, pos, m16, m8, self.smooth4(self.lateral4(f4) + up)


class HemaX(nn.Module):
    """The network. `forward` takes pixels uint8 or float [B, 3, H, W] in 0..255; H and W multiples of 32."""

    def __init__(self, cfg: HemaXConfig):
        super().__init__()
        self.cfg = cfg
        d, c = cfg.d_model, cfg.mask_channels
        self.backbone = BACKBONES[cfg.backbone]()
        self.pyramid = FeaturePyramid(cfg, self.backbone.channels)
        self.decoder = nn.ModuleList(
            DecoderLayer(d, cfg.heads, cfg.hidden, cfg.box_grid) for _ in range(cfg.decoder_layers)
        )
        if cfg.queries == "image":
            self.heat = nn.Sequential(_conv(d, d, 3, groups=d), _conv(d, 64), nn.Conv2d(64, 1, 1))
            nn.init.constant_(self.heat[-1].bias, -4.6)  # a prior of 1 %, as focal loss wants
            self.first_box = nn.Sequential(nn.Linear(d, d), nn.ReLU(inplace=True), nn.Linear(d, 4))
            self.query_content = nn.Linear(d, d)
        else:
            self.query_embedding = nn.Parameter(torch.randn(cfg.n_queries, d) * 0.02)
        self.query_position = nn.Sequential(
            nn.Linear(2 * d, d), nn.ReLU(inplace=True), nn.Linear(d, d)
        )
        self.class_head = nn.Linear(d, vocabulary.N_CLASSES + 1)
        self.attribute_head = nn.Linear(d, vocabulary.N_ATTRIBUTE_STATES)
        self.box_head = nn.Sequential(
            nn.Linear(d, d),
            nn.ReLU(inplace=True),
            nn.Linear(d, d),
            nn.ReLU(inplace=True),
            nn.Linear(d, 4),
        )
        self.mask_head = nn.Sequential(
            nn.Linear(d, d), nn.ReLU(inplace=True), nn.Linear(d, 2 * (c + 2))
        )
        self.dense_head = nn.Conv2d(c, 2, 1)
        self.roi_refinement = RoiRefinement(c, d)
        self.roi_context = RoiContext(self.backbone.channels[2:], d) if cfg.box_grid else None
        self.cytoplasm_colour_head = CytoplasmColourHead() if cfg.cytoplasm_colour_head else None

    def forward(self, pixels: Tensor) -> HemaXOutput:
        """Backbone -> pyramid and encoder -> queries -> decoder layers -> masks -> ROI refinement and roi_context -> heads, and the colours' own."""
        x = (pixels.float() - 127.0) / 128.0
        x = x.contiguous(memory_format=torch.channels_last)
        maps = self.backbone(x)
        tokens, pos, m16, m8, embedding = self.pyramid(maps)
        canvas = torch.stack(
            [x.new_full((), side) for side in (x.shape[-1], x.shape[-2])]
        )  # no word to the host
        q, boxes, heat = self._queries(m8, len(x))
        first_boxes = boxes if heat is not None else None
        classes, attributes, all_boxes = [], [], []
        for i, layer in enumerate(self.decoder):
            reference_boxes = boxes.detach()
            q_pos = self._position(reference_boxes, q)
            q = layer(q, q_pos, tokens, pos, reference_boxes, ((m8, 8), (m16, 16)))
            boxes = self._refine(self.box_head(q), reference_boxes, canvas)
            all_boxes.append(boxes)
            if i + 1 < len(self.decoder):
                classes.append(self.class_head(q))
                attributes.append(self.attribute_head(q))
        dense = self.dense_head(embedding)
        masks = self._masks(q, boxes.detach(), embedding, dense)
        q = q + self.roi_refinement(embedding, masks, boxes.detach())
        if self.roi_context is not None:
            q = q + self.roi_context(*maps[2:], boxes.detach())
        classes.append(self.class_head(q))
        attributes.append(self.attribute_head(q))
        if (
            self.cytoplasm_colour_head is not None and not self.training
        ):  # it is fitted apart, when all else is learnt
            attribute_logits, cytoplasm_colour_head = (
                attributes[-1],
                self.cytoplasm_colour_head(pixels.float(), masks.detach(), boxes.detach()),
            )
            attributes[-1] = torch.cat(
                [
                    attribute_logits[..., : COLOUR_STATES.start],
                    cytoplasm_colour_head.to(attribute_logits.dtype),
                    attribute_logits[..., COLOUR_STATES.stop :],
                ],
                -1,
            )
        return HemaXOutput(
            torch.stack(classes),
            torch.stack(all_boxes),
            torch.stack(attributes),
            masks,
            dense,
            heat,
            first_boxes,
        )

    def _queries(self, m8: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Each query's content [B, Q, D] and first box [B, Q, 4] (pixels), and the heat map if there is one."""
        n, h, w = self.cfg.n_queries, *m8.shape[-2:]
        if self.cfg.queries == "learned":
            content = self.query_embedding[None].expand(batch, n, -1)
            middle = m8.new_tensor([w * 4.0, h * 4.0, BOX_UNIT_PX, BOX_UNIT_PX])
            return content, middle.expand(batch, n, 4), None
        heat = self.heat(m8)[:, 0]
        with torch.no_grad():
            peaks = heat.masked_fill(heat < F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0], -1e4)
            at = peaks.flatten(1).topk(n, 1).indices  # [B, Q]
        feature = m8.flatten(2).transpose(1, 2).gather(1, at[..., None].expand(-1, -1, m8.shape[1]))
        raw = self.first_box(feature)
        centre = grid_centres(h, w, 8, m8.device)[at] + raw[..., :2] * 8
        size = BOX_UNIT_PX * raw[..., 2:].clamp(-3.0, 1.5).exp()
        return self.query_content(feature), torch.cat([centre, size], -1), heat

    def _position(self, boxes: Tensor, q: Tensor) -> Tensor:
        d = q.shape[-1]
        if self.cfg.queries == "learned":
            return self.query_embedding[None].expand_as(q)
        return self.query_position(
            torch.cat([sine_positions(boxes[..., :2], d), sine_positions(boxes[..., 2:], d)], -1)
        )

    def _refine(self, raw: Tensor, boxes: Tensor, canvas: Tensor) -> Tensor:
        if self.cfg.queries == "learned":
            return raw.sigmoid() * torch.cat([canvas, canvas])
        centre = boxes[..., :2] + raw[..., :2] * boxes[..., 2:]
        return torch.cat([centre, boxes[..., 2:] * raw[..., 2:].clamp(-1.5, 1.5).exp()], -1)

    def _masks(self, q: Tensor, boxes: Tensor, embedding: Tensor, dense: Tensor) -> Tensor:
        """Mask logits [B, Q, 2, h, w]: the query's kernel on the embedding, the dense logits, less the distance from
        its box."""
        b, n = q.shape[:2]
        h, w = embedding.shape[-2:]
        raw = self.mask_head(q).reshape(b, n, 2, -1)
        kernel, bias, reach = raw[..., :-2], raw[..., -2], F.softplus(raw[..., -1] + 1.0)
        logits = torch.einsum("bqkc,bchw->bqkhw", kernel / math.sqrt(kernel.shape[-1]), embedding)
        xs = (torch.arange(w, device=q.device) + 0.5) * 4
        ys = (torch.arange(h, device=q.device) + 0.5) * 4
        half = boxes[..., 2:].clamp(min=8) / 2
        dx = ((xs - boxes[..., 0:1]) / half[..., 0:1]) ** 2
        dy = ((ys - boxes[..., 1:2]) / half[..., 1:2]) ** 2
        distance = (dx[:, :, None, :] + dy[..., None]).clamp(max=16.0)  # 1 on the box's ellipse
        return (
            logits
            + dense[:, None]
            + bias[..., None, None]
            - reach[..., None, None] * distance[:, :, None]
        )


def fold_batch_norms(model: HemaX) -> HemaX:
    """The same network with each batch norm folded into the convolution before it (for inference only; eval mode)."""
    for module in model.modules():
        names = [n for n, _ in module.named_children()]
        for conv, norm in pairwise(names):
            first_boxes, second = getattr(module, conv), getattr(module, norm)
            if isinstance(first_boxes, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(first_boxes, second))
                setattr(module, norm, nn.Identity())
    return model


def build(arch: str) -> HemaX:
    """A HemaX with random weights, by name; ValueError names the architectures there are."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; there are: {', '.join(ARCHITECTURES)}")
    return HemaX(ARCHITECTURES[arch])
