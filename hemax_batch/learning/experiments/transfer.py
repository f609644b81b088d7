"""Transfer to another laboratory: each source is left out of a training and then measured whole.

Several sources may be left out of one training together, which needs fewer trainings and is harder
for each source. Columns of the table, one row per source (value, low, high: 95 % interval,
bootstrap over cells; n: cells):

images, cells      all images and cells of the source, of both splits
recall             white cells with a box that were found, IoU >= 0.5
found              white cells with a known place only that were found, within 5 µm
accuracy           cells of known class whose predicted class the label allows; not found is wrong
accuracy_taught    the same, of classes in other sources
never_taught       the other classes, which cannot be learnt without this source
majority           score of always answering the best single class, over cells of known class
left_out           all sources that this network was not trained on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

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
    echo: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Train without each source (or each group in `only`) and measure the source whole.

    Results are stored in `work`, and a finished group is not trained again.

    Raises
    ------
    DataError
        As `sources.exclude_sources`.
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
    data: Collection[Path],
    examples: list[Example],
    group: tuple[str, ...],
    recipe: Recipe,
    folder: Path,
    device: str,
    echo: Callable[[str], None],
) -> dict[str, Any]:
    """Train without a group and measure its sources."""
    weights = folder / "weights.safetensors"
    train_and_save(
        tuple(data),
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
    """Return the classes of images of split `train`."""
    return {
        c.allowed[0] for e in examples if e.split == "train" for c in e.cells if len(c.allowed) == 1
    }
