"""Fit of the cytoplasm colour head, after the rest of the network.

Each labelled cell is found once by the trained network. Its colours are then measured as stained,
and under the stains of other laboratories. This gives far more rows than a training draws, in a
minute or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.heads import CytoplasmColourHead
from ...model.hemax import HemaX
from ...vocabulary import ATTRIBUTES
from ..data.augmentation import apply_photometry, draw_photometry
from ..data.centred_patches import centred_patch
from ..data.examples import Example
from .pseudo_labels import central_query
from .recipe import Recipe

COLOUR = next(a for a in ATTRIBUTES if a.name == "cytoplasm_colour")
#: Measurements of each cell, each with another stain.
REPEATS = 8
#: Columns of `CytoplasmColourHead.colour_features`.
CYTOPLASM_MEAN, CYTOPLASM_SPREAD = slice(6, 9), slice(9, 12)
#: Share of measurements that keep their stain, because experts named the colours they saw.
AS_STAINED = 0.75
#: Share of measurements whose cytoplasm is made pale, with the label "light_blue".
PALE_SHARE = 0.15
#: Largest remaining share of a pale cytoplasm's density.
PALE_LIMIT = 0.45
EPOCHS, BATCH, LR, WEIGHT_DECAY, SMOOTHING = 60, 512, 3e-3, 1e-2, 0.02


def fit_cytoplasm_colour(
    model: HemaX,
    examples: list[Example],
    recipe: Recipe,
    echo: Callable[[str], None] = print,
) -> None:
    """Fit `model.cytoplasm_colour_head` in place to cells of known cytoplasm colour.

    The head stays as it is without such cells. The result depends on model, examples, and the
    recipe's seed and `stain`. Depth, length and the shares above were chosen once, by
    cross-validation over PBC images of split `train`.
    """
    device = next(model.parameters()).device
    colour_features, states = _measure_colours(model, _cells_with_colour(examples), recipe)
    if len(states) == 0:
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        head = CytoplasmColourHead().to(device)
        optimiser = torch.optim.AdamW(head.parameters(), LR, weight_decay=WEIGHT_DECAY)
        steps = math.ceil(EPOCHS * len(states) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            drawn = torch.randint(len(states), (BATCH,)).to(device)
            inputs, labels = _pale_some(colour_features[drawn], states[drawn])
            loss = F.cross_entropy(head.classify(inputs), labels, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    if model.cytoplasm_colour_head is not None:
        model.cytoplasm_colour_head.load_state_dict(head.state_dict())
    right = (head.classify(colour_features).argmax(1) == states).float().mean()
    echo(
        f"cytoplasm colour: fitted to {len(states)} measurements, {float(right):.3f} of them read rightly"
    )


def _pale_some(colour_features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Make the cytoplasm of some colour features [B, 18] paler than in any image.

    Their states [B] become "light_blue". Without such rows the head read a pale cytoplasm as any
    colour (`faithfulness`).
    """
    paled = (torch.rand(len(states)) < PALE_SHARE).to(states.device)
    remaining = PALE_LIMIT * torch.rand(len(states), 1).to(colour_features.device)  # of the density
    texture = remaining + (1 - remaining) * torch.rand(len(states), 1).to(colour_features.device)
    paled_features = colour_features.clone()
    paled_features[:, CYTOPLASM_MEAN] *= remaining
    paled_features[:, CYTOPLASM_SPREAD] *= texture
    return torch.where(paled[:, None], paled_features, colour_features), torch.where(
        paled, COLOUR.states.index("light_blue"), states
    )


def _cells_with_colour(examples: list[Example]) -> list[tuple[Example, int, int]]:
    """List cells of known colour: example, cell index and state.

    A cell without a box is listed only if it is its image's only cell.
    """
    return [
        (e, k, COLOUR.states.index(known[COLOUR.name]))
        for e in examples
        for k, cell in enumerate(e.cells)
        if COLOUR.name in (known := dict(cell.attributes))
        and (cell.box_xyxy is not None or len(e.cells) == 1)
    ]


@torch.no_grad()
def _measure_colours(
    model: HemaX, cells: list[tuple[Example, int, int]], recipe: Recipe, at_once: int = 16
) -> tuple[Tensor, Tensor]:
    """Measure colour features [N, 18] and states [N] of each found cell, `REPEATS` times."""
    device = next(model.parameters()).device
    model.eval()
    colour_features, states = [torch.zeros(0, 18, device=device)], []
    for start in range(0, len(cells), at_once):
        chosen = cells[start : start + at_once]
        pixels = torch.from_numpy(
            np.stack([centred_patch(e, recipe.mpp, recipe.canvas_px, k)[0] for e, k, _ in chosen])
        ).to(device)
        output = model(pixels)
        queries = [central_query(output, k, recipe.canvas_px) for k in range(len(chosen))]
        found = [k for k, q in enumerate(queries) if q is not None]
        found_queries = [queries[k] for k in found]
        masks, boxes = (
            output.mask_logits[found, found_queries][:, None],
            output.boxes_cxcywh[-1][found, found_queries][:, None],
        )
        for repeat in range(REPEATS if found else 0):
            rng = np.random.default_rng([recipe.seed, start, repeat])
            stained = apply_photometry(
                pixels[found].float(), draw_photometry(rng, len(found), recipe.stain, AS_STAINED)
            )
            colour_features.append(
                CytoplasmColourHead.colour_features(stained.float(), masks, boxes)[:, 0]
            )
            states += [chosen[k][2] for k in found]
    return torch.cat(colour_features), torch.tensor(states, dtype=torch.long, device=device)
