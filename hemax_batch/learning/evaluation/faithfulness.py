"""Does the explanation say what the network sees? Tests on real cells, each with a control that must fail.

interventions   a picture is changed in one attribute (`interventions`): the share of cells where that attribute moves
                the right way, and where the others keep their state. Control: the same network with heads of random
                weights in place of the one that explains, a new one for each cell
occlusion       pixels of nucleus, cytoplasm or background are taken away, or given back, in steps (`occlusion`).
                Control: as many pixels anywhere
concept path    the class predicted from the explanation alone (`concept_path`), fitted on other cells. Control: shuffled
                labels

Regions are the network's own masks. Intervals: 95 %, bootstrap over cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

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

SATURATED = 0.9  # a probability already this high (or low) cannot be asked to rise (or fall)
CONTROL = "interventions, random explanation heads (control)"


def intervene(predictor, cells: list[ProbeCell], control=None, seed: int = 0) -> dict:
    """Each intervention's rates. `control`: a network (`random_head_control`) asked instead, on the same pictures."""
    out = {}
    for intervention in INTERVENTIONS:
        if control and intervention.attribute == "nucleus_fraction":
            continue  # it is measured from the masks, which the control has from the real network
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
    network, predictor, cell: ProbeCell, intervention: Intervention, rng
) -> tuple[CellPrediction, CellPrediction, np.ndarray] | None:
    """What `asked` says before and after, and the changed picture uint8 [S, S, 3].

    None where the cell is not fit for it, or is no longer seen.
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
    after = None if changed is None else predict_cell(network, changed)
    return None if after is None else (before, after, changed)


def signed_change(
    before: CellPrediction, after: CellPrediction, intervention: Intervention
) -> float:
    """By how much what is asked about moved in the right direction."""
    signed_change = after.probability(
        intervention.attribute, intervention.states
    ) - before.probability(intervention.attribute, intervention.states)
    return signed_change if intervention.up else -signed_change


def random_head_control(predictor):
    """A copy of the network whose head that explains is for `randomise_heads`; its class, place and masks are the real
    ones."""
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


def randomise_heads(control, seed: int) -> None:
    """Random weights for the layers that explain, the last before each answer.

    One random head moves with a change of the picture one way for nearly every cell, so a single one would pass or fail
    by luck: a new one for each cell is right half of the time.
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
    predictor,
    train_examples: list[Example],
    held_out: list[Example],
    limit: int,
    echo: Callable = print,
) -> tuple[dict, list[ProbeCell]]:
    """All tests, and the cells that they were made on; `learnt` serves only to fit the concept path, on cells whose class
    is known to the last (what is called "neutrophil" alone is no band).

    DataError where there are no cells to test, or none of different classes to fit on.
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
