"""HemaX: one network that predicts each cell's class, box, masks and attributes.

`build` makes one of three architectures by name.

hemax-r50
    The published network: ResNet-50, 6 encoder and 6 decoder layers, width 256, 10 learned
    queries on the stride-32 map, after its authors' training code.
hemax-s
    The shipped network. Queries are the peaks of a centre heat map. Each decoder layer samples
    the maps inside the query's box and refines the box.
hemax-m
    The same as hemax-s on a backbone half as large again.
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
from .backbone import BACKBONES, Backbone
from .feature_pyramid import FeaturePyramid, conv_block
from .heads import COLOUR_STATES, CytoplasmColourHead, RoiContext, RoiRefinement
from .transformer import DecoderLayer, grid_centres, sine_positions

#: Side of a typical cell at the working scale. Box sizes are expressed in this unit.
BOX_UNIT_PX = 96.0


@dataclass(frozen=True)
class HemaXConfig:
    """Architecture of a HemaX network.

    Attributes
    ----------
    queries : str
        "image" for heat-map peaks with refined boxes, "learned" for DETR's learned queries.
    memory_stride : int
        Stride of the map that the encoder reads: 16 or 32.
    box_grid : int
        Points per side that a decoder layer samples inside each box; 0 for none.
    cytoplasm_colour_head : bool
        Whether cytoplasm colour is read from the cell's own pixels only.
    """

    arch: str
    backbone: str
    queries: str
    n_queries: int
    d_model: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    hidden: int
    memory_stride: int
    box_grid: int
    mask_channels: int = 64
    cytoplasm_colour_head: bool = False


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
    """Output for B patches of H x W px, Q queries and L decoder layers; the last layer is final.

    Attributes
    ----------
    class_logits : Tensor [L, B, Q, K + 1]
        The last class is "no cell".
    boxes_cxcywh : Tensor [L, B, Q, 4]
        Boxes in pixels.
    attribute_logits : Tensor [L, B, Q, A]
        Concatenated as `vocabulary.attribute_slices` says.
    mask_logits : Tensor [B, Q, 2, H/4, W/4]
        Nucleus and whole cell. `network_output.mask_coordinates` gives their positions.
    dense_logits : Tensor [B, 2, H/4, W/4]
        Nucleus and whole cell of any nucleated cell.
    heat_logits : Tensor [B, H/8, W/8], optional
        Heat map of cell centres; None with learned queries.
    first_boxes : Tensor [B, Q, 4], optional
        Boxes that the queries start from, in pixels; None with learned queries.
    """

    class_logits: Tensor
    boxes_cxcywh: Tensor
    attribute_logits: Tensor
    mask_logits: Tensor
    dense_logits: Tensor
    heat_logits: Tensor | None
    first_boxes: Tensor | None


class HemaX(nn.Module):
    """DETR-style network for cells (Carion et al. 2020) with masks and attributes."""

    def __init__(self, cfg: HemaXConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d, c = cfg.d_model, cfg.mask_channels
        self.backbone: Backbone = BACKBONES[cfg.backbone]()
        channels = self.backbone.channels
        encoder = (cfg.encoder_layers, cfg.heads, cfg.hidden)
        self.pyramid = FeaturePyramid(channels, d, c, cfg.memory_stride, *encoder)
        self.decoder = nn.ModuleList(
            DecoderLayer(d, cfg.heads, cfg.hidden, cfg.box_grid) for _ in range(cfg.decoder_layers)
        )
        if cfg.queries == "image":
            self.heat = nn.Sequential(
                conv_block(d, d, 3, groups=d), conv_block(d, 64), nn.Conv2d(64, 1, 1)
            )
            # Focal loss needs a prior of 1 % (Lin et al. 2017): sigmoid(-4.6) = 0.01.
            nn.init.constant_(self.heat.get_parameter("2.bias"), -4.6)
            self.first_box = _mlp(d, d, 4)
            self.query_content = nn.Linear(d, d)
        else:
            self.query_embedding = nn.Parameter(torch.randn(cfg.n_queries, d) * 0.02)
        self.query_position = _mlp(2 * d, d, d)
        self.class_head = nn.Linear(d, vocabulary.N_CLASSES + 1)
        self.attribute_head = nn.Linear(d, vocabulary.N_ATTRIBUTE_STATES)
        self.box_head = _mlp(d, d, d, 4)
        self.mask_head = _mlp(d, d, 2 * (c + 2))
        self.dense_head = nn.Conv2d(c, 2, 1)
        self.roi_refinement = RoiRefinement(c, d)
        self.roi_context = RoiContext(channels[2:], d) if cfg.box_grid else None
        self.cytoplasm_colour_head = CytoplasmColourHead() if cfg.cytoplasm_colour_head else None

    def forward(self, pixels: Tensor) -> HemaXOutput:
        """Predict the cells of patches.

        Steps: backbone, pyramid with encoder, queries, decoder layers, masks, ROI features, final
        class and attribute heads.

        Parameters
        ----------
        pixels : Tensor [B, 3, H, W]
            uint8 or float in 0..255. H and W are multiples of 32.
        """
        x = (pixels.float() - 127.0) / 128.0
        x = x.contiguous(memory_format=torch.channels_last)
        backbone_maps = self.backbone(x)
        maps = self.pyramid(backbone_maps)
        # `new_full` makes the canvas on the device: the host does not wait for it.
        canvas = torch.stack([x.new_full((), side) for side in (x.shape[-1], x.shape[-2])])
        q, boxes, heat = self._queries(maps.stride8, len(x))
        first_boxes = boxes if heat is not None else None
        classes, attributes, all_boxes = [], [], []
        for i, layer in enumerate(self.decoder):
            reference = boxes.detach()
            box_maps = ((maps.stride8, 8), (maps.stride16, 16))
            position = self._position(reference, q)
            q = layer(q, position, maps.tokens, maps.positions, reference, box_maps)
            boxes = self._refine(self.box_head(q), reference, canvas)
            all_boxes.append(boxes)
            if i + 1 < len(self.decoder):
                classes.append(self.class_head(q))
                attributes.append(self.attribute_head(q))
        dense = self.dense_head(maps.stride4)
        masks = self._masks(q, boxes.detach(), maps.stride4, dense)
        q = q + self.roi_refinement(maps.stride4, masks, boxes.detach())
        if self.roi_context is not None:
            q = q + self.roi_context(*backbone_maps[2:], boxes.detach())
        classes.append(self.class_head(q))
        attributes.append(self._final_attributes(q, pixels, masks, boxes))
        all_layers = (torch.stack(classes), torch.stack(all_boxes), torch.stack(attributes))
        return HemaXOutput(*all_layers, masks, dense, heat, first_boxes)

    def _final_attributes(self, q: Tensor, pixels: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
        """Compute the last layer's attribute logits [B, Q, A].

        The cytoplasm colour head replaces its states outside training. It is trained separately,
        after the rest of the network.
        """
        logits: Tensor = self.attribute_head(q)
        if self.cytoplasm_colour_head is None or self.training:
            return logits
        colour = self.cytoplasm_colour_head(pixels.float(), masks.detach(), boxes.detach())
        before, after = logits[..., : COLOUR_STATES.start], logits[..., COLOUR_STATES.stop :]
        return torch.cat([before, colour.to(logits.dtype), after], -1)

    def _queries(self, m8: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Make the queries from the stride-8 map [B, D, H/8, W/8].

        Returns
        -------
        tuple
            Query content [B, Q, D], first boxes [B, Q, 4] in pixels, heat logits or None.
        """
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
        """Encode the queries' positions [B, Q, D] from their boxes [B, Q, 4]."""
        if self.cfg.queries == "learned":
            return self.query_embedding[None].expand_as(q)
        parts = [sine_positions(part, q.shape[-1]) for part in (boxes[..., :2], boxes[..., 2:])]
        position: Tensor = self.query_position(torch.cat(parts, -1))
        return position

    def _refine(self, raw: Tensor, boxes: Tensor, canvas: Tensor) -> Tensor:
        """Apply the box head's output [B, Q, 4] to the boxes of the layer before."""
        if self.cfg.queries == "learned":
            return raw.sigmoid() * torch.cat([canvas, canvas])
        centre = boxes[..., :2] + raw[..., :2] * boxes[..., 2:]
        return torch.cat([centre, boxes[..., 2:] * raw[..., 2:].clamp(-1.5, 1.5).exp()], -1)

    def _masks(self, q: Tensor, boxes: Tensor, embedding: Tensor, dense: Tensor) -> Tensor:
        """Compute mask logits [B, Q, 2, h, w].

        A logit is the query's kernel applied to the embedding, plus the dense logit, minus a
        learned multiple of the squared distance from the box's centre.
        """
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
        penalty = reach[..., None, None] * distance[:, :, None]
        masks: Tensor = logits + dense[:, None] + bias[..., None, None] - penalty
        return masks


def _mlp(*sizes: int) -> nn.Sequential:
    """Build linear layers of these sizes with a ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def fold_batch_norms(model: HemaX) -> HemaX:
    """Fold each batch norm into the convolution before it, in place; for inference only."""
    for module in model.modules():
        children = dict(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children.items()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def build(arch: str) -> HemaX:
    """Build a network with random weights.

    Parameters
    ----------
    arch
        A name in `ARCHITECTURES`.

    Raises
    ------
    ValueError
        The name is unknown.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; there are: {', '.join(ARCHITECTURES)}")
    return HemaX(ARCHITECTURES[arch])
