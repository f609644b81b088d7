"""Does the explanation say what the network sees? Tests on real cells, each with a control that must fail.

interventions   a picture is changed in one attribute (`interventions`): the share of cells where that attribute moves
                the right way, and where the others keep their state. Control: the same network with heads of random
                weights in place of the one that explains, a new one for each cell
occlusion       pixels of nucleus, cytoplasm or background are taken away, or given back, in steps (`occlusion`).
                Control: as many pixels anywhere
concept path    the class predicted from the explanation alone (`concepts`), fitted on other cells. Control: shuffled
                labels

Regions are the network's own masks. Intervals: 95 %, bootstrap over cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from ..errors import DataError
from ..model.predictor import Predictor
from .concepts import concept_path
from .dataset import Example
from .figures import interval
from .interventions import INTERVENTIONS, Intervention
from .occlusion import occlude
from .subjects import Said, Subject, say_of, subjects

SATURATED = 0.9  # a probability already this high (or low) cannot be asked to rise (or fall)
CONTROL = "interventions, random explanation heads (control)"


def intervene(predictor, cells: list[Subject], control=None, seed: int = 0) -> dict:
    """Each intervention's rates. `control`: a network (`control_of`) asked instead, on the same pictures."""
    out = {}
    for intervention in INTERVENTIONS:
        if control and intervention.attribute == "nucleus_fraction":
            continue  # it is measured from the masks, which the control has from the real network
        rises, stayed = [], []
        for k, cell in enumerate(cells):
            if control:
                draw_head(control, k)
            told = tell(
                control or predictor,
                predictor,
                cell,
                intervention,
                np.random.default_rng([seed, k]),
            )
            if told is not None:
                before, after, _ = told
                rises.append(rise(before, after, intervention))
                kept, now = before.states(), after.states()
                stayed.append(
                    np.mean(
                        [kept[name] == now[name] for name in kept if name != intervention.attribute]
                    )
                )
        if rises:
            out[intervention.name] = {
                "attribute": intervention.attribute,
                "moves the right way": interval((np.array(rises) > 0).astype(float)),
                "mean change": interval(np.array(rises)),
                "others stay": interval(np.array(stayed)),
            }
    return out


def tell(
    asked, predictor, cell: Subject, intervention: Intervention, rng
) -> tuple[Said, Said, np.ndarray] | None:
    """What `asked` says before and after, and the changed picture uint8 [S, S, 3].

    None where the cell is not fit for it, or is no longer seen.
    """
    before = cell.said if asked is predictor else say_of(asked, cell.pixels)
    if before is None:
        return None
    was = before.of(intervention.attribute, intervention.states)
    if (intervention.up and was > SATURATED) or (not intervention.up and was < 1 - SATURATED):
        return None
    changed = intervention.change(cell.pixels, cell.said.label, predictor.card.mpp, rng)
    after = None if changed is None else say_of(asked, changed)
    return None if after is None else (before, after, changed)


def rise(before: Said, after: Said, intervention: Intervention) -> float:
    """By how much what is asked about moved in the right direction."""
    rise = after.of(intervention.attribute, intervention.states) - before.of(
        intervention.attribute, intervention.states
    )
    return rise if intervention.up else -rise


def control_of(predictor):
    """A copy of the network whose head that explains is for `draw_head`; its class, place and masks are the real
    ones."""
    own = copy.deepcopy(predictor.model)
    return Predictor(
        own,
        predictor.card,
        predictor.device,
        predictor.batch_size,
        predictor.platelets,
        predictor.known,
        predictor.second_look,
    )


def draw_head(control, seed: int) -> None:
    """Random weights for the layers that explain, the last before each answer.

    One random head moves with a change of the picture one way for nearly every cell, so a single one would pass or fail
    by luck: a new one for each cell is right half of the time.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model = control.model
        for p in (
            *model.attribute_head.parameters(),
            *(model.tint.out.parameters() if model.tint is not None else ()),
        ):
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)


def faithfulness(
    predictor, learnt: list[Example], held_out: list[Example], limit: int, say: Callable = print
) -> tuple[dict, list[Subject]]:
    """All tests, and the cells that they were made on; `learnt` serves only to fit the concept path, on cells whose class
    is known to the last (what is called "neutrophil" alone is no band).

    DataError where there are no cells to test, or none of different classes to fit on.
    """
    cells = subjects(predictor, held_out, limit)
    exact = subjects(
        predictor,
        [e for e in learnt if all(len(c.allowed) == 1 for c in e.cells)],
        3 * limit,
        seed=1,
    )
    if not cells or len({c.allowed for c in exact}) < 2:
        raise DataError(
            f"{len(cells)} held-out white cells of known type to test, {len(exact)} of {len({c.allowed for c in exact})} classes to "
            "fit the way from explanation to class on: both are needed, of two classes at least, in pictures of one cell each"
        )
    say(f"{len(cells)} held-out cells")
    report = {"cells": len(cells), "interventions": intervene(predictor, cells)}
    say("interventions done")
    report[CONTROL] = intervene(predictor, cells, control_of(predictor))
    say("control done")
    report |= occlude(predictor, cells[: limit // 2])
    say("deletion and insertion done")
    report["concept path"] = concept_path(exact, cells)
    return report, cells
