"""Another laboratory: each source in turn is left out of a training and then measured whole, as one that the network has
never seen would be. Several may be left out of one training together: fewer trainings, and harder for each of them.

Columns of the table, a row per source (value, low, high: 95 % interval, bootstrap over cells; n: cells):

images, cells      all there are of the source, of both splits
recall             white cells with a box that were found, IoU >= 0.5
found              white cells of which only the place is known that were found, within 5 µm
accuracy           cells of known type whose class the label allows; one not found is wrong
accuracy_taught    the same, of types that another source teaches
never_taught       the other types, which nobody could know without this source
majority           what always answering the best single class would score, of all cells of known type
left_out           all that this network had not seen
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from ...model.predictor import Predictor
from ..data.examples import Example
from ..data.read_folder import read_folder
from ..data.sources import check_sources, exclude_sources
from ..evaluation.evaluate import predict_examples
from ..training.recipe import Recipe, short_hash
from ..training.training_run import TrainingSet, train_and_save
from .transfer_table import source_metrics, summary_line


def transfer(
    data: Collection[Path],
    recipe: Recipe,
    work: Path,
    device: str,
    only: Collection[tuple[str, ...]] = (),
    echo: Callable = print,
) -> dict[str, dict]:
    """The row of each source, trained without it (or of each of the groups `only`, trained without the whole group), then
    measured on all of it.

    Everything trained is kept in `work`, and a group that is done is not trained again. DataError as
    `sources.leave_out`.
    """
    examples = [e for folder in data for e in read_folder(folder)]
    check_sources(examples, [source for group in only for source in group])
    rows = {}
    for group in only or [
        (source,) for source in dict.fromkeys(e.source for e in examples if e.cells)
    ]:
        folder = work / f"without-{short_hash(group, recipe, examples)}"
        cached = folder / "rows.json"
        if not cached.exists():
            folder.mkdir(parents=True, exist_ok=True)
            rows_of_group = _measure_group(data, examples, group, recipe, folder, device, echo)
            partial = cached.with_suffix(".partial")
            partial.write_text(json.dumps(rows_of_group, indent=1), "utf-8")
            partial.replace(cached)
        for source, row in json.loads(cached.read_text("utf-8")).items():
            rows[source] = row
            echo(summary_line(source, row))
    return rows


def _measure_group(
    data,
    examples: list[Example],
    group: tuple[str, ...],
    recipe: Recipe,
    folder: Path,
    device: str,
    echo,
) -> dict:
    weights = folder / "weights.safetensors"
    train_and_save(
        data,
        weights,
        folder / "work",
        recipe,
        device,
        echo,
        training_set=TrainingSet(leave_out=group),
    )
    trained_types, predictor = (
        _trained_types(exclude_sources(examples, group)[0]),
        Predictor.load(weights, device, platelets=True),
    )
    rows = {}
    for source in group:
        source_examples = [e for e in examples if e.source == source]
        cells, _ = predict_examples(predictor, source_examples, echo)
        rows[source] = (
            {"images": len(source_examples)}
            | source_metrics(cells, trained_types)
            | {"left_out": list(group)}
        )
    return rows


def _trained_types(examples: list[Example]) -> set[str]:
    """Types that images of split `train` teach."""
    return {
        c.allowed[0] for e in examples if e.split == "train" for c in e.cells if len(c.allowed) == 1
    }
