"""Cytoplasm colour, fitted last: what the trained network's masks part is measured, and the small layer that reads it taught.

Each labelled cell is found once, and its colours then measured as stained and as other laboratories might have stained it: many
more rows than a training could draw, in a minute or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.hemax import HemaX
from ..model.looks import Tint
from ..vocabulary import ATTRIBUTES
from .augment import draw_photometry, photometric
from .dataset import Example
from .pseudo import query_of_centre
from .recipe import Recipe
from .view import centred

COLOUR = next(a for a in ATTRIBUTES if a.name == "cytoplasm_colour")
MEASURED = 8  # times each cell, each time stained anew …
CYTOPLASM_MEAN, CYTOPLASM_SPREAD = slice(6, 9), slice(9, 12)  # in `Tint.colours`
AS_STAINED = 0.75  # … or, for this share, as it is: people called the colours that they saw
PALED = 0.15  # share of measurements whose cytoplasm is thinned, to at most …
PALE = 0.45  # … this share of its density: then it is pale, and called so, whatever it was
EPOCHS, BATCH, LR, WEIGHT_DECAY, SMOOTHING = 60, 512, 3e-3, 1e-2, 0.02


def fit_tint(model: HemaX, examples: list[Example], recipe: Recipe, say: Callable = print) -> None:
    """Fit `model.tint`, in place, to the examples' cells of known cytoplasm colour; left as it is where there is none.

    A function of model, examples and the recipe's seed and `stain`. Depth, length and the shares above were chosen once, by
    cross-validation over PBC pictures of split `train`.
    """
    device = next(model.parameters()).device
    colours, states = _measured(model, _coloured(examples), recipe)
    if len(states) == 0:
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        tint = Tint().to(device)
        optimiser = torch.optim.AdamW(tint.parameters(), LR, weight_decay=WEIGHT_DECAY)
        steps = math.ceil(EPOCHS * len(states) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            drawn = torch.randint(len(states), (BATCH,)).to(device)
            shown, called = _some_paled(colours[drawn], states[drawn])
            loss = F.cross_entropy(tint.read(shown), called, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.tint.load_state_dict(tint.state_dict())
    right = (tint.read(colours).argmax(1) == states).float().mean()
    say(
        f"cytoplasm colour: fitted to {len(states)} measurements, {float(right):.3f} of them read rightly"
    )


def _some_paled(colours: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [B, 18] and states [B], of which some have a cytoplasm paler than any picture shows, which anybody would call
    pale. Without them a cytoplasm that is paled was read as anything (`faithfulness`)."""
    paled = (torch.rand(len(states)) < PALED).to(states.device)
    left = PALE * torch.rand(len(states), 1).to(colours.device)  # of the density
    texture = left + (1 - left) * torch.rand(len(states), 1).to(colours.device)
    thin = colours.clone()
    thin[:, CYTOPLASM_MEAN] *= left
    thin[:, CYTOPLASM_SPREAD] *= texture
    return torch.where(paled[:, None], thin, colours), torch.where(
        paled, COLOUR.states.index("light_blue"), states
    )


def _coloured(examples: list[Example]) -> list[tuple[Example, int, int]]:
    """Cells of known colour: picture, which of its cells, and the state. One of several without a box could be any."""
    return [
        (e, k, COLOUR.states.index(known[COLOUR.name]))
        for e in examples
        for k, cell in enumerate(e.cells)
        if COLOUR.name in (known := dict(cell.attributes))
        and (cell.box_xyxy is not None or len(e.cells) == 1)
    ]


@torch.no_grad()
def _measured(
    model: HemaX, cells: list[tuple[Example, int, int]], recipe: Recipe, at_once: int = 16
) -> tuple[Tensor, Tensor]:
    """Colours [N, 18], as `Tint.colours`, and states [N]: each cell that is found, `MEASURED` times."""
    device = next(model.parameters()).device
    model.eval()
    colours, states = [torch.zeros(0, 18, device=device)], []
    for start in range(0, len(cells), at_once):
        chosen = cells[start : start + at_once]
        pixels = torch.from_numpy(
            np.stack([centred(e, recipe.mpp, recipe.canvas_px, k)[0] for e, k, _ in chosen])
        ).to(device)
        output = model(pixels)
        queries = [query_of_centre(output, k, recipe.canvas_px) for k in range(len(chosen))]
        found = [k for k, q in enumerate(queries) if q is not None]
        its = [queries[k] for k in found]
        masks, boxes = (
            output.mask_logits[found, its][:, None],
            output.boxes_cxcywh[-1][found, its][:, None],
        )
        for again in range(MEASURED if found else 0):
            rng = np.random.default_rng([recipe.seed, start, again])
            stained = photometric(
                pixels[found].float(), draw_photometry(rng, len(found), recipe.stain, AS_STAINED)
            )
            colours.append(model.tint.colours(stained.float(), masks, boxes)[:, 0])
            states += [chosen[k][2] for k in found]
    return torch.cat(colours), torch.tensor(states, dtype=torch.long, device=device)
