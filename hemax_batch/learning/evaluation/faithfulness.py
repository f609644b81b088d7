"""Faithfulness tests of explanations on real cells, each with a control that must fail.

interventions   an image is changed in one attribute (`interventions`): the share of cells where
that attribute moves
                in the right direction, and where the others keep their state. Control: the same
                network with random weights in the attribute head, new for each cell
occlusion       pixels of nucleus, cytoplasm or background are removed or restored in steps
(`occlusion`).
                Control: as many pixels anywhere
concept path    the class predicted from the explanation alone (`concept_path`), fitted on other
cells. Control: shuffled
                labels

Regions are the network's own masks. Intervals: 95 %, bootstrap over cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ...model.predictor import Predictor
from ..data.examples import Example
from .concept_path import concept_path
from .interventions import INTERVENTIONS, Intervention
from .metrics import bootstrap_interval
from .occlusion import occlude
from .probe_cells import CellPrediction, ProbeCell, predict_cell, select_probe_cells

#: A probability above this cannot rise, and below 1 - this cannot fall, by much.
SATURATED = 0.9
CONTROL = "interventions, random explanation heads (control)"


def intervene(
    predictor: Predictor, cells: list[ProbeCell], control: Predictor | None = None, seed: int = 0
) -> dict[str, Any]:
    """Compute each intervention's rates.

    With `control` (`random_head_control`) that network predicts the same images.
    """
    out = {}
    for intervention in INTERVENTIONS:
        if control and intervention.attribute == "nucleus_fraction":
            continue  # The control's masks are those of the real network.
        rises, unchanged = [], []
        for k, cell in enumerate(cells):
            if control:
                randomise_heads(control, k)
            result = intervene_on_cell(
                control or predictor,
                predictor,
                cell,
                intervention,
                np.random.default_rng([seed, k]),
            )
            if result is not None:
                before, after, _ = result
                rises.append(signed_change(before, after, intervention))
                kept, now = before.states(), after.states()
                unchanged.append(
                    np.mean(
                        [kept[name] == now[name] for name in kept if name != intervention.attribute]
                    )
                )
        if rises:
            out[intervention.name] = {
                "attribute": intervention.attribute,
                "moves the right way": bootstrap_interval((np.array(rises) > 0).astype(float)),
                "mean change": bootstrap_interval(np.array(rises)),
                "others stay": bootstrap_interval(np.array(unchanged)),
            }
    return out


def intervene_on_cell(
    network: Predictor,
    predictor: Predictor,
    cell: ProbeCell,
    intervention: Intervention,
    rng: np.random.Generator,
) -> tuple[CellPrediction, CellPrediction, np.ndarray] | None:
    """Return a network's predictions before and after, and the changed image uint8 [S, S, 3].

    The result is None if the cell is not suitable or no longer found.
    """
    before = cell.prediction if network is predictor else predict_cell(network, cell.pixels)
    if before is None:
        return None
    probability_before = before.probability(intervention.attribute, intervention.states)
    if (intervention.up and probability_before > SATURATED) or (
        not intervention.up and probability_before < 1 - SATURATED
    ):
        return None
    changed = intervention.change(cell.pixels, cell.prediction.label, predictor.card.mpp, rng)
    if changed is None:
        return None
    after = predict_cell(network, changed)
    return None if after is None else (before, after, changed)


def signed_change(
    before: CellPrediction, after: CellPrediction, intervention: Intervention
) -> float:
    """Return the change of the intervention's attribute in the right direction."""
    attribute, states = intervention.attribute, intervention.states
    change = after.probability(attribute, states) - before.probability(attribute, states)
    return change if intervention.up else -change


def random_head_control(predictor: Predictor) -> Predictor:
    """Copy the predictor for `randomise_heads`; class, box and masks stay those of the network."""
    own = copy.deepcopy(predictor.model)
    return Predictor(
        own,
        predictor.card,
        predictor.device,
        predictor.batch_size,
        predictor.platelets,
        predictor.ood_detector,
        predictor.test_time_augmentation,
    )


def randomise_heads(control: Predictor, seed: int) -> None:
    """Give the last layers of the attribute heads random weights.

    A random head reacts to an image change in the same direction for nearly every cell, so one head
    would pass or fail by luck. A new head for each cell is right half of the time.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model = control.model
        for p in (
            *model.attribute_head.parameters(),
            *(
                model.cytoplasm_colour_head.out.parameters()
                if model.cytoplasm_colour_head is not None
                else ()
            ),
        ):
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)


def faithfulness(
    predictor: Predictor,
    train_examples: list[Example],
    held_out: list[Example],
    limit: int,
    echo: Callable[[str], None] = print,
) -> tuple[dict[str, Any], list[ProbeCell]]:
    """Run all tests; return the report and the tested cells.

    `train_examples` only fit the concept path, on cells with exactly one allowed class.

    Raises
    ------
    DataError
        There are no cells to test, or not two classes to fit on.
    """
    cells = select_probe_cells(predictor, held_out, limit)
    exact = select_probe_cells(
        predictor,
        [e for e in train_examples if all(len(c.allowed) == 1 for c in e.cells)],
        3 * limit,
        seed=1,
    )
    if not cells or len({c.allowed for c in exact}) < 2:
        raise DataError(
            f"{len(cells)} held-out white cells of known type to test, {len(exact)} of {len({c.allowed for c in exact})} classes to "
            "fit the way from explanation to class on: both are needed, of two classes at least, in pictures of one cell each"
        )
    echo(f"{len(cells)} held-out cells")
    report = {"cells": len(cells), "interventions": intervene(predictor, cells)}
    echo("interventions done")
    report[CONTROL] = intervene(predictor, cells, random_head_control(predictor))
    echo("control done")
    report |= occlude(predictor, cells[: limit // 2])
    echo("deletion and insertion done")
    report["concept path"] = concept_path(exact, cells)
    return report, cells
